"""The figures of a cohort for plotly.js, which names the run under the pointer: plain values, nothing that executes.

A figure is a list of panels; a panel has traces and axis titles. Every point may carry ``[configuration, run]`` (their
numbers; a run of -1: the mean over its seeds), by which the page filters and opens a run. Panels with ``rows`` have one
row per entry, where ``row`` of a trace says which, ``dy`` how far below its middle. Texts are plain: the page escapes
them. The drawings without scripts are in :mod:`.figures`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from ...plots.curves import colours
from ...plots.panels import BLUE, GREEN, ORANGE
from ...plots.svg import clean
from ...vocabulary.modalities import MODALITIES
from ..cohorts import Cohort, Group, pareto_front
from ..importance import Importance
from ..verdicts import BETTER, WORSE, Difference
from .figures import MAX_BARS, curves_of, difference_limit, modality_errors, rank_colours

Panel = dict[str, Any]
GREY = "#888888"


def hover(cohort: Cohort, group: Group, *lines: str) -> str:
    """What stands beside a point: the configuration with its rank, then ``lines``."""
    first = clean(f"#{cohort.groups.index(group) + 1} {group.name}", 80)
    return "\n".join((first, *(clean(line, 60) for line in lines)))


def run_numbers(cohort: Cohort) -> dict[int, int]:
    """Number of each run within its cohort, by identity."""
    return {id(run): number for number, run in enumerate(cohort.runs)}


def row_of(cohort: Cohort, group: Group) -> dict[str, Any]:
    """A row for one configuration."""
    rank = cohort.groups.index(group)
    values = re.sub(r"\S+=", "", group.name)  # without the names of the keys, which begin alike, where room is scarce
    return {"label": clean(f"#{rank + 1} {group.name}"), "short": clean(f"#{rank + 1} {values}"), "group": rank}


def live_differences(cohort: Cohort, found: Sequence[Difference], reference: Group) -> list[Panel]:
    """Intervals of the differences; circles over seeds, squares over objects."""
    shown = [d for d in found if d.mean is not None][:MAX_BARS]
    if not shown:
        return []
    tones = [{BETTER: GREEN, WORSE: ORANGE}.get(d.verdict, GREY) for d in shown]
    over_seeds = [(d.mean or 0.0, d.seeds) for d in shown]
    over_objects = [(d.objects.difference if d.objects else None, d.over_objects) for d in shown]
    traces = []
    for name, entries, dy, symbol in (
        ("over seeds", over_seeds, -0.12, "circle"),
        ("over objects", over_objects, 0.12, "square-open"),
    ):
        if not any(interval for _, interval in entries) and symbol != "circle":
            continue
        texts = [
            hover(cohort, d.group, d.verdict, f"{name}: {_signed(x)}", f"95 %: {_interval(ends)}")
            for d, (x, ends) in zip(shown, entries, strict=True)
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [x for x, _ in entries],
                "row": list(range(len(shown))),
                "dy": dy,
                "text": texts,
                "marks": [[cohort.groups.index(d.group), -1] for d in shown],
                "marker": {"color": tones, "symbol": symbol, "size": 9},
                "ends": [ends for _, ends in entries],
            }
        )
    title = clean(f"{cohort.metric}: difference from {reference.name}", 120)
    limit = difference_limit(shown)
    return [{"data": traces, "rows": [row_of(cohort, d.group) for d in shown], "title": title, "limit": limit}]


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.4g}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "unknown" if ends is None else f"{ends[0]:+.4g} to {ends[1]:+.4g}"


def live_pareto(cohort: Cohort) -> list[Panel]:
    """Cross-entropy against the error of each modality."""
    tones, found = [to_hex(c) for c in rank_colours(cohort)], []
    for modality, points in modality_errors(cohort):
        front = pareto_front(points)
        line = points[front][np.argsort(points[front][:, 0])]
        known = np.flatnonzero(np.isfinite(points).all(1)).tolist()
        dots = {
            "type": "scatter",
            "mode": "markers",
            "x": points[known, 0].tolist(),
            "y": points[known, 1].tolist(),
            "marker": {"color": [tones[i] for i in known], "size": 10, "line": {"width": 1, "color": "#fff"}},
            "text": [_pareto_hover(cohort, i, points[i], bool(front[i])) for i in known],
            "marks": [[i, -1] for i in known],
            "showlegend": False,
        }
        edge = {
            "type": "scatter",
            "mode": "lines",
            "x": line[:, 0].tolist(),
            "y": line[:, 1].tolist(),
            "name": f"Pareto front ({front.sum()} of {len(known)})",
            "line": {"color": ORANGE, "dash": "dash", "width": 1.5},
            "hoverinfo": "skip",
        }
        found.append({"data": [edge, dots], "x": f"val/error_{modality} (of the variance)", "y": "val/ce [nats]"})
    return found


def _pareto_hover(cohort: Cohort, rank: int, point: np.ndarray, on_front: bool) -> str:
    lines = [f"error {point[0]:.4g}, cross-entropy {point[1]:.4g}", *(["on the Pareto front"] if on_front else [])]
    return hover(cohort, cohort.groups[rank], *lines)


def live_curves(cohort: Cohort) -> list[Panel]:
    """Every run's curves; the best are drawn last."""
    tones, numbers = [to_hex(c) for c in rank_colours(cohort)], run_numbers(cohort)
    found = []
    for key, curves in curves_of(cohort):
        traces = []
        for rank, run, points in reversed(curves):
            steps, values = zip(*points, strict=True)
            group = cohort.groups[rank]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(points) < 12 else "lines",
                    "x": list(steps),
                    "y": list(values),
                    "text": [
                        hover(cohort, group, f"seed {run.seed}", f"step {s:g}: {v:.5g}")
                        for s, v in zip(steps, values, strict=True)
                    ],
                    "marks": [[rank, numbers[id(run)]]] * len(points),
                    "line": {"color": tones[rank], "width": 1.6},
                    "marker": {"color": tones[rank], "size": 5},
                    "showlegend": False,
                }
            )
        found.append({"data": traces, "title": clean(key), "x": "optimizer step"})
    return found


def live_gradient_shares(cohort: Cohort) -> list[Panel]:
    """Bars per configuration and modality; the legend stands above them."""
    shares = [(group, [group.mean_median(f"grad_share/{m}") for m in MODALITIES]) for group in cohort.groups]
    shown = [(group, values) for group, values in shares if any(v is not None for v in values)][:MAX_BARS]
    if not shown:
        return []
    traces = []
    for k, modality in enumerate(MODALITIES):
        values = [found[k] for _, found in shown]
        if any(values):
            texts = [
                hover(cohort, g, f"{modality}: {v:.3g}" if v is not None else modality)
                for (g, _), v in zip(shown, values, strict=True)
            ]
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": modality,
                    "x": values,
                    "row": list(range(len(shown))),
                    "text": texts,
                    "textposition": "none",
                    "marks": [[cohort.groups.index(g), -1] for g, _ in shown],
                    "marker": {"color": colours()[modality]},
                }
            )
    title = "share of the reconstruction in the modality's gradient"
    return [{"data": traces, "rows": [row_of(cohort, group) for group, _ in shown], "title": title}]


def live_importance(found: Importance | None) -> list[Panel]:
    """Bars of :class:`~.importance.Importance`."""
    if found is None:
        return []
    names, values = found.names[:15], [float(v) for v in found.values[:15]]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "row": list(range(len(names))),
        "text": [f"{clean(name, 100)}\n{value:.4g}" for name, value in zip(names, values, strict=True)],
        "textposition": "none",
        "marker": {"color": [GREY if name == "seed" else BLUE for name in names]},
        "showlegend": False,
    }
    title = "importance" if found.method == "forest" else "spread of the means per value"
    rows = [{"label": clean(name, 60), "short": clean(name.rsplit(".", 1)[-1]), "group": None} for name in names]
    return [{"data": [trace], "rows": rows, "x": title}]
