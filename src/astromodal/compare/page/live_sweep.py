"""What was swept, for plotly.js: parallel coordinates, and accuracy and cost against ``sample_k``."""

from __future__ import annotations

from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from ...plots.panels import BLUE, GREEN, INK, ORANGE, PINK, YELLOW
from ...plots.svg import clean
from ..cohorts import Cohort
from .figures_sweep import MAX_FAMILIES, SAMPLE_K, parallel_lines, sample_k_places, sample_k_points
from .live import Panel, hover, run_numbers

PALETTE = (BLUE, ORANGE, GREEN, PINK, YELLOW, INK)
COST = "cost: perf/step_ms (median)"


def live_parallel(cohort: Cohort) -> list[Panel]:
    """A line per run; ``turn``: on a narrow window the axes lie below each other."""
    found = parallel_lines(cohort)
    if found is None:
        return []
    heights, marks, y, order = found
    labels = [*(axis.label for axis in cohort.axes[: len(marks)]), cohort.metric]
    shades = colormaps["viridis_r" if cohort.mode == "min" else "viridis"]
    low, high = float(y.min()), float(y.max())
    runs, numbers = cohort.runs, run_numbers(cohort)
    rank = {id(run): i for i, group in enumerate(cohort.groups) for run in group.runs.values()}
    traces: list[dict[str, Any]] = []
    for i in order:
        run, tone = runs[i], to_hex(shades((y[i] - low) / (high - low) if high > low else 0.5))
        text = hover(cohort, cohort.groups[rank[id(run)]], f"seed {run.seed}", f"{cohort.metric} {y[i]:.5g}")
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(heights.shape[1])),
                "y": heights[i].tolist(),
                "text": [text] * heights.shape[1],
                "marks": [[rank[id(run)], numbers[id(run)]]] * heights.shape[1],
                "line": {"color": tone, "width": 1.6},
                "marker": {"color": tone, "size": 6},
                "showlegend": False,
            }
        )
    ends = [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
    words = [(x, height, text) for x, own in enumerate([*marks, ends]) for height, text in own]
    return [
        {
            "data": traces,
            "turn": True,
            "axes": [{"long": clean(name, 44), "short": clean(name.rsplit(".", 1)[-1], 16)} for name in labels],
            "words": [[x, height, clean(text, 16)] for x, height, text in words],
        }
    ]


def live_sample_k(cohort: Cohort) -> list[Panel]:
    """The metric and the milliseconds per step; a line per setting of the other keys."""
    ks, everything = sample_k_places(cohort)
    if not ks or not any(SAMPLE_K in axis.keys for axis in cohort.axes):
        return []
    marks = [[k, f"{k:.0f}"] for k in ks]
    marks += [[everything, "all"]] if any(g.first.config.get(SAMPLE_K) is None for g in cohort.groups) else []
    families = sample_k_points(cohort)
    score: list[Panel] = []
    cost: list[Panel] = []
    for number, (values, points) in enumerate(families.items()):
        name = clean(", ".join(values) or cohort.metric, 40)
        common: dict[str, Any] = {"type": "scatter", "mode": "lines+markers", "name": name, "legendgroup": name}
        common |= {"line": {"color": PALETTE[number % len(PALETTE)]}, "x": [k for k, _ in points]}
        common |= {"marks": [[cohort.groups.index(g), -1] for _, g in points]}
        common |= {"showlegend": 1 < len(families) <= MAX_FAMILIES}
        spreads = [g.spread or 0.0 for _, g in points]
        texts = [hover(cohort, g, f"{g.mean:.5g} ± {s:.2g}") for (_, g), s in zip(points, spreads, strict=True)]
        score.append(common | {"y": [g.mean for _, g in points], "text": texts, "spread": spreads})
        times = [g.mean_median("perf/step_ms") for _, g in points]
        texts = [hover(cohort, g, f"{ms or 0:.4g} ms/step") for (_, g), ms in zip(points, times, strict=True)]
        cost.append(common | {"y": times, "text": texts, "showlegend": False})
    shared = {"x": "sample_k [positions per modality and step]", "ticks": marks}
    title = f"{cohort.metric} (bars: standard deviation over seeds)"
    return [{"data": score, "title": clean(title, 60)} | shared, {"data": cost, "title": COST, "zero": True} | shared]
