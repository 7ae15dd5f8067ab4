"""Figures of what was swept: parallel coordinates, and accuracy and cost against ``sample_k``."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ...plots.panels import INK
from ...plots.svg import clean, drawing, legend_above, panel, svg
from ..cohorts import Axis, Cohort, Group
from ..importance import encode, swept_values
from ..runs_table import as_text

SAMPLE_K = "loss.sample_k"
MAX_AXES = 8
MAX_TICKS = 8
MAX_FAMILIES = 8  # lines with a legend


@drawing
def draw_parallel(name: str, cohort: Cohort) -> str | None:
    """A line per run through the value of every swept key, to the metric, which colours it."""
    found = parallel_lines(cohort)
    if found is None:
        return None
    heights, ticks, y, order = found
    axes, low, high = cohort.axes[: len(ticks)], float(y.min()), float(y.max())
    figure, plot = panel(max(5.0, 1.5 * heights.shape[1]), 4.0)
    plot.grid(False)
    norm = Normalize(low, high)
    colour = colormaps["viridis_r" if cohort.mode == "min" else "viridis"]
    for i in order:
        plot.plot(range(heights.shape[1]), heights[i], color=colour(norm(y[i])), lw=1.3, alpha=0.85)
    for x, marks in enumerate(ticks):
        plot.axvline(x, color=INK, lw=0.8)
        for height, text in marks:
            plot.annotate(
                text,
                (x, height),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=7,
                va="center",
                bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6},
            )
    plot.axvline(len(axes), color=INK, lw=0.8)
    labels = [clean(axis.label, 44).replace(" (", "\n(") for axis in axes]
    plot.set_xticks(range(heights.shape[1]), [*labels, clean(cohort.metric, 26)], fontsize=7.5)
    plot.tick_params(axis="x", length=0)
    plot.set_yticks([])
    plot.spines[["left", "bottom"]].set_visible(False)
    figure.colorbar(ScalarMappable(norm, colour), ax=plot, label=clean(cohort.metric, 40), fraction=0.05, pad=0.02)
    return svg([figure], name, f"Parallel coordinates of the swept keys, coloured by {cohort.metric}")


def parallel_lines(cohort: Cohort) -> tuple[np.ndarray, list[list[tuple[float, str]]], np.ndarray, np.ndarray] | None:
    """What parallel coordinates show; None with nothing to show.

    Returns:
        heights ``(runs, axes + 1)`` from 0 to 1, the last of the metric; the marks of every axis; the metric
        ``(runs,)``; the order to draw in, the best last.
    """
    axes = cohort.axes[:MAX_AXES]
    if not axes or len(cohort.groups) < 2:
        return None
    y = np.array([value for group in cohort.groups for value in group.values.values()])
    columns, ticks = zip(*(_heights(cohort.runs, axis) for axis in axes), strict=True)
    low, high = float(y.min()), float(y.max())
    heights = np.stack([*columns, (y - low) / (high - low) if high > low else np.full(len(y), 0.5)], axis=1)
    jitter = 0.012 * (np.arange(len(y)) / max(len(y) - 1, 1) - 0.5)  # runs that differ only by their seed
    heights[:, :-1] += jitter[:, None]
    return heights, list(ticks), y, np.argsort(y if cohort.mode == "max" else -y, kind="stable")


def _heights(runs: list[Any], axis: Axis) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Where each run crosses an axis (0 to 1), and the marks on it: few values are spread evenly, many by size."""
    values = swept_values(runs, axis)
    codes = encode([axis.value(run) for run in runs])
    levels = encode(values)
    if len(values) <= MAX_TICKS:
        places = np.linspace(0.0, 1.0, len(values)) if len(values) > 1 else np.array([0.5])
        marks = [(float(p), clean(_text(v), 16)) for p, v in zip(places, values, strict=True)]
        return np.interp(codes, levels, places), marks
    scale = np.log if levels.min() > 0 and levels.max() / levels.min() > 20 else np.asarray
    low, high = float(scale(levels.min())), float(scale(levels.max()))
    chosen = np.unique(np.linspace(0, len(values) - 1, 5).round().astype(int))
    marks = [(float((scale(levels[i]) - low) / (high - low)), clean(_text(values[i]), 16)) for i in chosen]
    return (scale(codes) - low) / (high - low), marks


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else as_text(value)


@drawing
def draw_sample_k(name: str, cohort: Cohort) -> str | None:
    """The metric and the milliseconds per step against ``loss.sample_k``; one line per setting of the other keys."""
    swept = next((axis for axis in cohort.axes if SAMPLE_K in axis.keys), None)
    if swept is None:
        return None
    ks, everything = sample_k_places(cohort)
    if not ks:
        return None
    (figure, left), (cost_figure, right) = panel(), panel()
    families = sample_k_points(cohort)
    for values, points in families.items():
        x = [k for k, _ in points]
        means, spreads = [g.mean for _, g in points], [g.spread or 0.0 for _, g in points]
        left.errorbar(x, means, spreads, marker="o", ms=4, lw=1.2, capsize=2, label=clean(", ".join(values), 30))
        timed = [(k, g.mean_median("perf/step_ms")) for k, g in points]
        cost = [(k, ms) for k, ms in timed if ms is not None]
        if cost:
            right.plot(*zip(*cost, strict=True), marker="s", ms=4, lw=1.2)
    has_all = any(group.first.config.get(SAMPLE_K) is None for group in cohort.groups)
    marks = [*ks, *([everything] if has_all else [])]
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(marks, [*(f"{k:.0f}" for k in ks), *(["all"] if has_all else [])])
        axis.minorticks_off()
        axis.set_xlabel("sample_k [positions per modality and step]")
    left.set(title=clean(f"{cohort.metric} (bars: standard deviation over seeds)", 60))
    if 1 < len(families) <= MAX_FAMILIES:
        keys = ", ".join(axis.key.rsplit(".", 1)[-1] for axis in cohort.axes if SAMPLE_K not in axis.keys)
        legend_above(figure, left, title=clean(keys, 40), title_fontsize=7)
    right.set(title="cost: perf/step_ms (median)", ylim=(0, None))
    return svg([figure, cost_figure], name, f"{cohort.metric} and cost against sample_k")


def sample_k_families(cohort: Cohort) -> dict[tuple[str, ...], list[Group]]:
    """Configurations that differ only by ``sample_k`` (and what varies with it)."""
    others = [axis for axis in cohort.axes if SAMPLE_K not in axis.keys]
    found: dict[tuple[str, ...], list[Group]] = {}
    for group in cohort.groups:
        found.setdefault(tuple(as_text(axis.value(group.first)) for axis in others), []).append(group)
    return found


def sample_k_places(cohort: Cohort) -> tuple[list[float], float]:
    """The numbers of positions that were tried, and where null, every position, stands."""
    ks = sorted({float(group.first.config[SAMPLE_K]) for group in cohort.groups if group.first.config.get(SAMPLE_K)})
    return ks, ks[-1] * 2 if ks else 0.0


def sample_k_points(cohort: Cohort) -> dict[tuple[str, ...], list[tuple[float, Group]]]:
    """:func:`sample_k_families` with the place of each configuration, in order."""
    _, everything = sample_k_places(cohort)
    return {
        values: sorted(((float(g.first.config.get(SAMPLE_K) or everything), g) for g in members), key=lambda p: p[0])
        for values, members in sample_k_families(cohort).items()
    }
