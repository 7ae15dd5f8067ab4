"""Pictures of a judged catalogue: redshifts, PIT histograms, coverage, errors by magnitude, baselines, the matrix.

Every function takes plain numbers and a path, writes a PNG file and returns the path, or None with nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..metrics.photo_z import OUTLIER, normalised_errors
from ..plots.curves import MODEL, OTHER, TRUE, write_title
from ..plots.panels import GREEN, PINK, YELLOW, never_fatal, save

GOOD = GREEN
MAX_PANELS = 24
_SHADE = "#cccccc"
BASELINE_COLOURS = {
    "marginal": "#999999",
    "boosting": OTHER,
    "boosting_colours": YELLOW,
    "neighbours": PINK,
    "network": GREEN,
    "tabicl": MODEL,
}


def _panels(names: Sequence[str], title: str, size: float = 2.3) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A figure with a small panel for each of the first names, and the names with their axes."""
    shown = list(names)[:MAX_PANELS]
    width = min(6, len(shown))
    height = -(-len(shown) // width)
    figure = Figure(figsize=(max(size * width, 4.2), size * height + 0.5), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False).ravel()
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for name, axis in zip(shown, axes, strict=False):
        axis.set_title(name, fontsize=7)
        axis.tick_params(which="both", labelsize=6)
    more = f"; {len(shown)} of {len(names)} columns" if len(names) > len(shown) else ""
    write_title(figure, title + more)
    return figure, list(zip(shown, axes, strict=False))


@never_fatal
def plot_photo_z(name: str, example: Mapping[str, np.ndarray], figures: Mapping[str, Any], path: Path) -> Path | None:
    """Predicted against true redshift with the outlier limits, and dz below it.

    Args:
        example: ``observed (n,)`` and ``median (n,)``.
        figures: of :func:`~astromodal.metrics.photo_z.photo_z_figures`, with intervals.
    """
    z, predicted = (np.asarray(example[key], float) for key in ("observed", "median"))
    dz = normalised_errors(z, predicted)
    known = np.isfinite(dz)
    if not known.any():
        return None
    figure = Figure(figsize=(4.4, 5.4), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot(z[known], predicted[known], ".", ms=2.5, alpha=0.4, color=MODEL, rasterized=True)
    below.plot(z[known], dz[known], ".", ms=2.5, alpha=0.4, color=MODEL, rasterized=True)
    low, high = np.percentile(np.concatenate([z[known], predicted[known]]), [0.2, 99.8])
    line = np.linspace(min(low, 0.0), high + 0.08 * (high - low), 50)
    top.plot(line, line, color=TRUE, lw=0.8)
    for sign in (-1, 1):
        top.plot(line, line + sign * OUTLIER * (1 + line), "--", color=OTHER, lw=0.8)
        below.axhline(sign * OUTLIER, ls="--", color=OTHER, lw=0.8)
    below.axhline(0, color=TRUE, lw=0.8)
    top.set(xlim=(line[0], line[-1]), ylim=(line[0], line[-1]), ylabel=f"{name}, predicted (median)")
    limit = float(np.clip(np.percentile(np.abs(dz[known]), 99), 0.3, 1.5))
    below.set(ylim=(-limit, limit), xlabel=f"{name}, observed", ylabel="Δz / (1 + z)")
    words = [
        f"{label} {figures[key]['value']:.4f}" for key, label in (("bias_median", "bias"), ("sigma_nmad", "σ NMAD"))
    ]
    outliers = 100 * figures["outlier_fraction"]["value"]
    top.set_title(", ".join([*words, f"outliers {outliers:.1f} %", f"n {figures['n']}"]), fontsize=8)
    return save(figure, path)


@never_fatal
def plot_pit(columns: Mapping[str, Mapping[str, Any]], path: Path) -> Path | None:
    """PIT histogram of each column; shaded: where 95 % of the bars of a calibrated model lie.

    Args:
        columns: name → ``pit_histogram`` (counts), ``ks``.
    """
    columns = {name: record for name, record in columns.items() if sum(record["pit_histogram"])}
    if not columns:
        return None
    figure, panels = _panels(list(columns), "PIT: flat is calibrated, U too narrow, hump too wide, slope biased")
    for name, axis in panels:
        counts = np.asarray(columns[name]["pit_histogram"], float)
        n, k = counts.sum(), len(counts)
        height, spread = counts * k / n, 1.96 * np.sqrt((k - 1) / n)
        axis.axhspan(max(1 - spread, 0), 1 + spread, color=_SHADE, lw=0)
        axis.stairs(height, np.linspace(0, 1, k + 1), color=MODEL, lw=1.2)
        axis.axhline(1, color=TRUE, lw=0.6)
        axis.set(xlim=(0, 1), ylim=(0, max(2.0, height.max() * 1.08)))
        axis.set_title(f"{name}: KS {columns[name]['ks']:.3f}", fontsize=7)
    return save(figure, path)


@never_fatal
def plot_coverage(columns: Mapping[str, Mapping[str, Any]], path: Path) -> Path | None:
    """Share of objects inside of their central interval against what the interval promises.

    Args:
        columns: name → ``coverage_curve`` (pairs), ``n``.
    """
    columns = {name: record for name, record in columns.items() if record["n"]}
    if not columns:
        return None
    figure, panels = _panels(list(columns), "coverage (y) of central intervals (x): below the line is overconfident")
    for name, axis in panels:
        nominal, found = np.asarray(columns[name]["coverage_curve"], float).T
        spread = 1.96 * np.sqrt(nominal * (1 - nominal) / columns[name]["n"])
        axis.fill_between(nominal, nominal - spread, nominal + spread, color=_SHADE, lw=0)
        axis.plot([0, 1], [0, 1], color=TRUE, lw=0.6)
        axis.plot(nominal, found, color=MODEL, lw=1.4)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return save(figure, path)


@never_fatal
def plot_by_bins(
    columns: Mapping[str, Mapping[str, Any]], path: Path, *, label: str, log: bool = False, unit: str = ""
) -> Path | None:
    """MAE and robust scatter of each column by bins of a magnitude or of signal-to-noise.

    Args:
        columns: name → ``bins`` (with ``low, high, middle, mae, scatter``) and ``unit``.
        label: what the bins are of.
        log: of the x axis.
    """
    columns = {name: record for name, record in columns.items() if record["bins"]}
    if not columns:
        return None
    x_label = f"{label} [{unit}]" if unit else label
    figure, panels = _panels(list(columns), f"error by {x_label}: mean absolute error and robust scatter")
    for name, axis in panels:
        bins = columns[name]["bins"]
        middle = np.array([row["middle"] for row in bins])
        ends = np.abs(np.array([[row["low"], row["high"]] for row in bins]).T - middle)
        for key, colour, marker in (("mae", MODEL, "o"), ("scatter", OTHER, "s")):
            values = [row[key] for row in bins]
            axis.errorbar(middle, values, xerr=ends, fmt=marker, ms=3, lw=0.8, color=colour, label=key)
        highest = np.nanmax([row[key] for row in bins for key in ("mae", "scatter")])
        axis.set_ylim(0, 1.1 * highest if highest > 0 else None)
        if log:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter("")  # 2 x 10^1 and its neighbours overlap in small panels
        shown = columns[name].get("unit")
        axis.set_title(f"{name}{f' [{shown}]' if shown else ''}", fontsize=7)
    panels[0][1].legend(fontsize=6, frameon=False)
    return save(figure, path)


@never_fatal
def plot_coverage_by_surprise(columns: Mapping[str, Mapping[str, Any]], path: Path) -> Path | None:
    """Share of objects inside of their 68 % and 95 % intervals against how surprising what was given is to the model.

    Args:
        columns: name → ``bins`` (with ``low, high, middle, n, coverage_68, coverage_95``) of the surprise.
    """
    columns = {name: record for name, record in columns.items() if record["bins"]}
    if not columns:
        return None
    figure, panels = _panels(list(columns), "coverage by surprise of what was given [σ of validation objects]")
    for name, axis in panels:
        bins = columns[name]["bins"]
        middle, n = (np.array([row[key] for row in bins], float) for key in ("middle", "n"))
        ends = np.abs(np.array([[row["low"], row["high"]] for row in bins], float).T - middle)
        for level, key, colour in ((0.683, "coverage_68", MODEL), (0.954, "coverage_95", OTHER)):
            axis.axhline(level, color=colour, lw=0.6, ls="--")
            spread = np.sqrt(level * (1 - level) / np.maximum(n, 1))
            share = [row[key] for row in bins]
            axis.errorbar(middle, share, xerr=ends, yerr=spread, fmt="o", ms=3, lw=0.8, color=colour, label=key[-2:])
        axis.set(ylim=(0, 1.02))
    panels[0][1].legend(fontsize=6, frameon=False, title="% interval", title_fontsize=6)
    return save(figure, path)


@never_fatal
def plot_against(columns: Mapping[str, Mapping[str, Any]], path: Path, figure_name: str = "crps") -> Path | None:
    """Difference from every baseline with its interval, as a share of the baseline: left of 0 the model is better.

    Args:
        columns: name → ``baselines`` of :func:`~astromodal.judge.comparison.compare`.
    """
    rows = []
    for column, record in columns.items():
        for baseline, entry in record.get("baselines", {}).items():
            found = entry.get("differences", {}).get(figure_name)
            if found and found["baseline"]:
                rows.append((column, baseline, found))
    if not rows:
        return None
    names = list(dict.fromkeys(column for column, _, _ in rows))[: 2 * MAX_PANELS]
    baselines = list(dict.fromkeys(baseline for _, baseline, _ in rows))
    figure = Figure(figsize=(7.2, 1.3 + 0.2 * len(names) * len(baselines)), layout="constrained")
    axis = figure.subplots()
    for column, baseline, found in rows:
        if column not in names:
            continue
        y = names.index(column) + 0.25 * (baselines.index(baseline) - (len(baselines) - 1) / 2)
        colour = BASELINE_COLOURS.get(baseline, TRUE)
        low, middle, high = (found[key] / found["baseline"] for key in ("low", "difference", "high"))
        axis.plot([low, high], [y, y], color=colour, lw=1.6)
        axis.plot(middle, y, "o", ms=4, color=colour, mfc=colour if found["verdict"] != "undecided" else "white")
    for baseline in baselines:
        axis.plot([], [], "o-", color=BASELINE_COLOURS.get(baseline, TRUE), ms=4, label=baseline)
    axis.axvline(0, color=TRUE, lw=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel(f"({figure_name} of the model - of the baseline) / of the baseline; right of 0 the model loses")
    axis.legend(fontsize=7, frameon=False, loc="best")
    axis.grid(alpha=0.25, axis="x")
    return save(figure, path)


@never_fatal
def plot_recalibration(columns: Mapping[str, Mapping[str, Any]], path: Path) -> Path | None:
    """Density of PIT values between the quantiles before and after each correction, on objects not fitted on.

    Args:
        columns: name → record of :func:`~astromodal.judge.recalibrated.fit_and_show`.
    """
    columns = {name: record for name, record in columns.items() if "skipped" not in record}
    if not columns:
        return None
    figure, panels = _panels(
        list(columns), "PIT density between quantiles, objects that were not fitted on (1 is right)"
    )
    styles = {"as predicted": ("#999999", "-"), "temperature": (MODEL, "-"), "conformal": (GOOD, "--")}
    for name, axis in panels:
        for step, (colour, line) in styles.items():
            if step in columns[name]:
                test = columns[name][step]["levels"]
                edges = np.asarray(test["edges"])
                axis.stairs(
                    np.asarray(test["shares"]) / np.diff(edges), edges, color=colour, ls=line, lw=1.3, label=step
                )
        axis.axhline(1, color=TRUE, lw=0.6)
        axis.set(xlim=(0, 1), ylim=(0, None))
        axis.set_title(f"{name}: T = {columns[name]['fitted']['temperature']:.2f}", fontsize=7)
    panels[0][1].legend(fontsize=6, frameon=False)
    return save(figure, path)


@never_fatal
def plot_chi2_by_pixel(groups: Mapping[str, Mapping[str, Any]], path: Path) -> Path | None:
    """Where in wavelength predicted spectra are off: mean χ² (1 is the noise) and mean of (observed - predicted) / σ.

    Args:
        groups: name → ``wave, chi2, pull (P,)``, ``wave_unit``.
    """
    groups = {name: found for name, found in groups.items() if np.isfinite(found["chi2"]).any()}
    if not groups:
        return None
    figure = Figure(figsize=(10, 1.9 * len(groups) + 0.5), layout="constrained")
    for axis, (name, found) in zip(figure.subplots(len(groups), 1, squeeze=False)[:, 0], groups.items(), strict=True):
        axis.plot(found["wave"], found["chi2"], color=MODEL, lw=0.8)
        axis.axhline(1, color=MODEL, lw=0.6, ls="--")
        axis.set_yscale("log")
        axis.set_ylabel(f"{name}\nmean χ²", fontsize=7, color=MODEL)
        axis.set_xlabel(found["wave_unit"], fontsize=7)
        other = axis.twinx()
        other.plot(found["wave"], found["pull"], color=OTHER, lw=0.8)
        other.axhline(0, color=OTHER, lw=0.6, ls="--")
        other.set_ylabel("mean (obs. - pred.) / σ", fontsize=7, color=OTHER)
        for side in (axis, other):
            side.tick_params(labelsize=6)
    figure.suptitle("predicted spectra against the noise, mean over objects (dashed: 1 and 0)", fontsize=9)
    return save(figure, path)


@never_fatal
def plot_matrix(matrix: Any, path: Path) -> Path | None:
    """Heat map of an any-to-any matrix with its values; grey: not measured.

    Args:
        matrix: :class:`~astromodal.judge.any_to_any.Matrix`.
    """
    values = np.asarray(matrix.values, float)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    share = matrix.figure in ("crps_skill", "r2", "coverage_68")
    limits = (0.0, 1.0) if share else (float(finite.min()), float(finite.max()))
    figure = Figure(figsize=(2.6 + 0.95 * len(matrix.given), 1.9 + 0.32 * len(matrix.asked)), layout="constrained")
    axis = figure.subplots()
    shown = np.ma.masked_invalid(values)
    image = axis.imshow(shown, cmap="viridis" if share else "viridis_r", vmin=limits[0], vmax=limits[1], aspect="auto")
    axis.set_facecolor("#dddddd")
    for i, j in zip(*np.nonzero(np.isfinite(values)), strict=True):
        red, green, blue, _ = image.cmap(image.norm(values[i, j]))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axis.text(j, i, f"{values[i, j]:.3g}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axis.set_yticks(range(len(matrix.asked)), matrix.asked, fontsize=7)
    axis.set_xticks(range(len(matrix.given)), matrix.given, fontsize=7, rotation=30, ha="right")
    axis.set(xlabel="given", ylabel="asked")
    figure.colorbar(image, ax=axis, shrink=0.8).ax.tick_params(labelsize=6)
    figure.suptitle(f"{matrix.figure}: each quantity from each subset", fontsize=9)
    return save(figure, path)
