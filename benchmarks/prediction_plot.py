"""The plot of the prediction experiments: scores by question, gains by question, and the best baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from prediction_answers import Asked, compare

from astromodal.plots.curves import MODEL, OTHER, TRUE

Baselines = Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]  # (data, question) -> who -> figures

COLOURS = (
    "#d55e00",
    "#0072b2",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#444444",
    "#8c564b",
    "#bcbd22",
    "#7f3fbf",
    "#17becf",
)
TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 1.5)
MARKS = {
    "marginal": ("|", "0.6"),
    "neighbours": ("^", "#009e73"),
    "boosting": ("s", OTHER),
    "linear": ("D", OTHER),
    "mean shape": ("v", "0.5"),
    "boosting_colours": ("P", OTHER),
    "network": ("X", "#cc79a7"),
}


def draw(
    asked: Sequence[Asked],
    baselines: Baselines,
    against: str,
    reference: str,
    path: Path,
) -> Path:
    """Three panels with a line per question: score of each variant, gain over ``against``, baselines beside one."""
    rows = asked[::-1]
    figure = Figure(figsize=(14, 0.62 * len(rows) + 1.6), layout="constrained")
    scores, gains, others = figure.subplots(1, 3, sharey=True)
    variants = list(dict.fromkeys(v for a in asked for v in a.answers))
    colours = dict(zip(variants, COLOURS, strict=False))
    _draw_scores(scores, rows, colours)
    _draw_gains(gains, rows, colours, against)
    _draw_baselines(others, rows, baselines, reference)
    scores.set_yticks(range(len(rows)), [f"{a.data}\n{a.name}" for a in rows], fontsize=8)
    for axis in (scores, others):
        axis.set_xscale("log")
        axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.minorticks_off()
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, frameon=False, loc="best")
    for axis in (scores, gains, others):
        axis.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def _shifts(n: int) -> np.ndarray:
    return np.linspace(0.28, -0.28, n) if n > 1 else np.zeros(n)


def _draw_scores(axis: Axes, rows: Sequence[Asked], colours: Mapping[str, str]) -> None:
    for (variant, colour), shift in zip(colours.items(), _shifts(len(colours)), strict=True):
        found = [(i + shift, a.values(variant, "score")) for i, a in enumerate(rows) if variant in a.answers]
        y, values = zip(*found, strict=True)
        means = [v.mean() for v in values]
        spreads = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        axis.errorbar(means, y, xerr=spreads, fmt="o", ms=4, lw=1, color=colour, label=variant)
    axis.axvline(1.0, color="0.6", ls="--", lw=1)
    axis.set(title="left is better; dashed: the marginal", xlabel="score: CRPS (error) / that of the marginal")


def _draw_gains(axis: Axes, rows: Sequence[Asked], colours: Mapping[str, str], against: str) -> None:
    shown = {v: c for v, c in colours.items() if v != against}
    for (variant, colour), shift in zip(shown.items(), _shifts(len(shown)), strict=True):
        found = [(i + shift, compare(a, variant, against)) for i, a in enumerate(rows)]
        found = [(y, c) for y, c in found if c is not None]
        if found:
            y, c = zip(*found, strict=True)
            middle = np.array([x.gain for x in c])
            ends = np.array([[x.gain - x.low for x in c], [x.high - x.gain for x in c]])
            axis.errorbar(middle, y, xerr=ends, fmt="o", ms=4, lw=1, color=colour, label=variant)
    axis.axvline(0.0, color=TRUE, ls="--", lw=1)
    axis.set(title="right is better", xlabel=f"gain over {against} [%], 95 % by object")


def _draw_baselines(axis: Axes, rows: Sequence[Asked], baselines: Baselines, reference: str) -> None:
    for name, (marker, colour) in {**MARKS, f"`{reference}`": ("o", MODEL)}.items():
        found = [(baselines[a.data, a.name], i) for i, a in enumerate(rows)]
        found = [(of[name]["score"], i) for of, i in found if name in of]
        if found:
            axis.plot(
                *zip(*found, strict=True), marker, ms=7 if marker == "|" else 5, color=colour, label=name.strip("`")
            )
    axis.set(title="left is better; same objects and inputs", xlabel="score of baselines and of one model")
