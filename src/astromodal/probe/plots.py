"""Pictures of probes: predicted against observed, mean and attention pooling side by side, and R2 beside the marginal.

Every function takes plain numbers and a path, writes a PNG file and returns the path, or None with nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..judge.plots import BASELINE_COLOURS
from ..plots.curves import MODEL, OTHER, TRUE
from ..plots.panels import never_fatal, padded, save

COLOURS = {"linear": MODEL, "attention": OTHER, "marginal": BASELINE_COLOURS["marginal"]}
NAMES = {"linear": "linear (mean)", "attention": "attention", "marginal": "marginal"}
MAX_LABELS = 12
_WIDE = 30.0  # positive values over a larger factor are drawn on logarithmic axes


@never_fatal
def plot_probe_predictions(labels: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Predicted against observed values of held-out objects: a row per label, a panel per probe, equal axes.

    Args:
        labels: mappings with ``label, unit``, ``observed (n,)``, ``predicted`` (probe → ``(n,)``) and ``r2``
            (probe → value).
    """
    labels = [entry for entry in labels if len(entry["observed"])][:MAX_LABELS]
    if not labels:
        return None
    figure = Figure(figsize=(6.4, 3.5 * len(labels) + 0.4), layout="constrained")
    axes = figure.subplots(len(labels), 2, squeeze=False)
    for row, entry in zip(axes, labels, strict=True):
        observed = np.asarray(entry["observed"], float)
        predicted = {name: np.asarray(values, float) for name, values in entry["predicted"].items()}
        together = np.concatenate([observed, *predicted.values()])
        low, high = np.percentile(observed, [0.5, 99.5])
        log = together.min() > 0 and high / low > _WIDE
        for axis, (name, values) in zip(row, predicted.items(), strict=True):
            size = 5 if len(observed) < 300 else 2.5
            axis.plot(observed, values, ".", ms=size, alpha=0.5, color=COLOURS[name], rasterized=True)
            _square(axis, low, high, log)
            axis.set_title(f"{NAMES[name]}: R² {entry['r2'][name]:.3f}, n {len(observed)}", fontsize=8)
        named = f"{entry['label']} [{entry['unit']}]" if entry["unit"] else entry["label"]
        row[0].set_ylabel(f"{named}, predicted (median)", fontsize=8)
        for axis in row:
            axis.set_xlabel(f"{named}, observed", fontsize=8)
    figure.suptitle("probes of what the model was not shown, on held-out objects", fontsize=9)
    return save(figure, path)


def _square(axis: Axes, low: float, high: float, log: bool) -> None:
    """The identity line, and the same limits on both axes."""
    if log:
        margin = (high / low) ** 0.08
        ends = low / margin, high * margin
        axis.set(xscale="log", yscale="log")
    else:
        ends = padded(low, high, 0.08)
    axis.plot(ends, ends, color=TRUE, lw=0.8)
    axis.set(xlim=ends, ylim=ends, aspect="equal")
    axis.tick_params(labelsize=7)


@never_fatal
def plot_probe_r2(results: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """R2 of both probes and of the marginal with their 95 % intervals, a row per label; 1 is perfect.

    Args:
        results: mappings with ``label`` and ``probes`` (name → ``r2`` → ``value, low, high``).
    """
    results = list(results)[: 4 * MAX_LABELS]
    if not results:
        return None
    figure = Figure(figsize=(6.4, 1.4 + 0.5 * len(results)), layout="constrained")
    axis = figure.subplots()
    for y, result in enumerate(results):
        for k, (name, colour) in enumerate(COLOURS.items()):
            found, place = result["probes"][name]["r2"], y + 0.22 * (k - 1)
            label = NAMES[name] if y == 0 else None
            axis.plot([found["low"], found["high"]], [place, place], color=colour, lw=1.8)
            axis.plot(found["value"], place, "o", ms=5, color=colour, label=label)
            words = f"{round(found['value'], 3) + 0.0:.3f}"  # never -0.000
            axis.annotate(
                words,
                (found["high"], place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=6,
                color=colour,
            )
    axis.axvline(0, color=TRUE, lw=0.8)
    axis.set_yticks(range(len(results)), [result["label"] for result in results], fontsize=8)
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.set_xlabel("R² on held-out objects, with 95 % intervals; 0 is the mean of the judged objects", fontsize=8)
    axis.margins(x=0.12)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(alpha=0.25, axis="x")
    figure.legend(loc="outside upper center", ncols=3, fontsize=7, frameon=False)
    return save(figure, path)
