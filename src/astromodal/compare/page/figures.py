"""The figures of a cohort: what was reached, how, at what price. Each is SVG text, or ``None`` with nothing to show.

Colours: position in the ranking (yellow is best), so that a configuration has the same colour in every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...plots.curves import colours
from ...plots.panels import BLUE, GREEN, INK, ORANGE
from ...plots.svg import clean, drawing, legend_above, panel, svg
from ...vocabulary.modalities import MODALITIES
from ..cohorts import Cohort, Group, pareto_front
from ..importance import Importance
from ..rundir import Run
from ..verdicts import BETTER, WORSE, Difference

MAX_NAMED = 12  # configurations whose names stand in a legend
MAX_BARS = 30
ACCENT = ORANGE
ROWS_WIDTH = 4.8  # inches of a drawing with a name per row; on a phone it is shrunk by a fifth


def rank_colours(cohort: Cohort) -> list[Any]:
    """A colour per configuration, in the order of the ranking."""
    n = len(cohort.groups)
    return [colormaps["viridis"](0.92 - 0.9 * i / max(n - 1, 1)) for i in range(n)]


def ranked(cohort: Cohort, group: Group, length: int = 32) -> str:
    """A configuration's place in the ranking and its name."""
    return clean(f"#{cohort.groups.index(group) + 1} {group.name}", length)


@drawing
def draw_differences(name: str, cohort: Cohort, found: Sequence[Difference], reference: Group) -> str | None:
    """Interval of every configuration's difference from the reference."""
    shown = [d for d in found if d.mean is not None][:MAX_BARS]
    if not shown:
        return None
    figure, axis = panel(ROWS_WIDTH, 1.2 + 0.34 * len(shown))
    for y, d in enumerate(shown):
        colour = {BETTER: GREEN, WORSE: ACCENT}.get(d.verdict, "#888888")
        for interval, offset, style in ((d.seeds, 0.12, "-"), (d.over_objects, -0.12, ":")):
            if interval:
                axis.plot(interval, [y + offset] * 2, style, color=colour, lw=2)
        axis.plot(d.mean or 0.0, y + 0.12, "o", color=colour, ms=5)
        if d.objects:
            axis.plot(d.objects.difference, y - 0.12, "s", color=colour, ms=4, mfc="white")
    axis.axvline(0, color=INK, lw=1)
    axis.set_yticks(range(len(shown)), [ranked(cohort, d.group) for d in shown], fontsize=7)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel(clean(f"{cohort.metric}: difference from {ranked(cohort, reference, 20)}", 60), fontsize=8)
    limit = difference_limit(shown)
    if limit > 0:
        axis.set_xlim(-limit, limit)
    title = f"Differences of {cohort.metric} from {reference.name} with intervals"
    return svg([figure], name, title)


def difference_limit(shown: Sequence[Difference]) -> float:
    """Half the width of the picture: two seeds can have an interval hundreds of times as wide as anything else."""
    means = np.abs([d.mean for d in shown if d.mean is not None])
    ends = np.abs([x for d in shown for x in (*(d.seeds or ()), *(d.over_objects or ()))])
    return float(min(max(ends.max(initial=0.0), means.max()), 4 * means.max()) * 1.1)


def modality_errors(cohort: Cohort) -> list[tuple[str, np.ndarray]]:
    """Modality, and the reconstruction error and cross-entropy of every configuration ``(n, 2)``; NaN: unknown."""
    ce, found = [group.mean_of("val/ce") for group in cohort.groups], []
    for modality in MODALITIES:
        errors = [group.mean_of(f"val/error_{modality}") for group in cohort.groups]
        points = np.array([[np.nan if v is None else v for v in pair] for pair in zip(errors, ce, strict=True)])
        if np.isfinite(points).all(1).sum() > 1:
            found.append((modality, points))
    return found


@drawing
def draw_pareto(name: str, cohort: Cohort) -> str | None:
    """Cross-entropy against the reconstruction error of each modality; configurations, means over seeds."""
    colours, shown, figures = rank_colours(cohort), modality_errors(cohort), []
    if not shown:
        return None
    for modality, points in shown:
        figure, axis = panel()
        figures.append(figure)
        front = pareto_front(points)
        axis.scatter(points[:, 0], points[:, 1], c=colours, s=26, zorder=2)
        line = points[front][np.argsort(points[front][:, 0])]
        axis.plot(
            *line.T,
            color=ACCENT,
            lw=1,
            ls="--",
            marker="o",
            ms=9,
            mfc="none",
            zorder=3,
            label=f"Pareto front ({front.sum()} of {np.isfinite(points).all(1).sum()})",
        )
        for i in np.flatnonzero(front)[:4]:
            axis.annotate(f"#{i + 1}", points[i], xytext=(5, 5), textcoords="offset points", fontsize=7)
        axis.set(xlabel=f"val/error_{modality} (of the variance)", ylabel="val/ce [nats]")
        axis.margins(0.12)
        legend_above(figure, axis)
    return svg(figures, name, "Cross-entropy against reconstruction errors, with the Pareto front")


@drawing
def draw_curves(name: str, cohort: Cohort) -> str | None:
    """The metric, validation and training cross-entropy of every run against the step."""
    shown, tones = curves_of(cohort), rank_colours(cohort)
    figures: list[Figure] = []
    if not shown:
        return None
    for key, curves in shown:
        figure, axis = panel()
        for rank, _, points in reversed(curves):  # the best on top
            marker = "o" if len(points) < 12 else None
            label = ranked(cohort, cohort.groups[rank], 30)
            axis.plot(*zip(*points, strict=True), color=tones[rank], lw=1.2, marker=marker, ms=3, label=label)
        axis.set(title=clean(key), xlabel="optimizer step")
        if not figures:
            _legend(figure, axis, len(cohort.groups))
        figures.append(figure)
    return svg(figures, name, "Curves of all runs, overlaid")


def curves_of(cohort: Cohort) -> list[tuple[str, list[tuple[int, Run, list[tuple[float, float]]]]]]:
    """The metric, validation and training cross-entropy, and of each the runs' rank and points, the best first."""
    shown = []
    for key in dict.fromkeys((cohort.metric, "val/ce", "train/ce")):
        curves = []
        for rank, group in enumerate(cohort.groups):
            for run in group.runs.values():
                points = [(r["step"], r[key]) for r in run.records if _number(r.get(key)) and _number(r.get("step"))]
                curves += [(rank, run, sorted(points))] if points else []
        if curves:
            shown.append((key, curves))
    return shown


def _legend(figure: Figure, axis: Axes, n_names: int) -> None:
    """One entry per configuration, the best first; none where there are too many to tell apart."""
    handles, labels = axis.get_legend_handles_labels()
    entries = dict(zip(reversed(labels), reversed(handles), strict=True))
    if 1 < n_names <= MAX_NAMED:
        figure.legend(entries.values(), entries.keys(), loc="outside upper left", fontsize=6.5, frameon=False, ncols=2)


@drawing
def draw_gradient_shares(name: str, cohort: Cohort) -> str | None:
    """Share of each reconstruction term in its modality's gradient, median over the run, per configuration."""
    rows = [(group, [group.mean_median(f"grad_share/{m}") for m in MODALITIES]) for group in cohort.groups]
    rows = [(group, shares) for group, shares in rows if any(share is not None for share in shares)][:MAX_BARS]
    if not rows:
        return None
    figure, axis = panel(ROWS_WIDTH, 1.2 + 0.42 * len(rows))
    for k, modality in enumerate(MODALITIES):
        values = [shares[k] or 0.0 for _, shares in rows]
        if any(values):
            axis.barh(np.arange(len(rows)) + 0.26 * (k - 1), values, 0.24, color=colours()[modality], label=modality)
    axis.set_yticks(range(len(rows)), [ranked(cohort, group) for group, _ in rows], fontsize=7)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel("share of the reconstruction in the modality's gradient")
    legend_above(figure, axis)
    return svg([figure], name, "Gradient shares per configuration")


@drawing
def draw_importance(name: str, found: Importance | None) -> str | None:
    """Bars of :class:`~.importance.Importance`."""
    if found is None:
        return None
    shown = min(len(found.names), 15)
    figure, axis = panel(ROWS_WIDTH, 1.0 + 0.32 * shown)
    colours = ["#888888" if label == "seed" else BLUE for label in found.names[:shown]]
    axis.barh(range(shown), found.values[:shown], 0.6, color=colours)
    axis.axvline(0, color=INK, lw=0.8)
    axis.set_yticks(range(shown), [clean(label, 36) for label in found.names[:shown]], fontsize=7)
    axis.set_ylim(shown - 0.5, -0.5)
    axis.set_xlabel("importance" if found.method == "forest" else "spread of the means per value")
    return svg([figure], name, "Importance of each swept key")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
