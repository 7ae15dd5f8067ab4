"""The two figures of a run: radius against valuation, and the learning curves. PNG files, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...plots.panels import BLUE, INK, ORANGE, curve, legend_and_grid, never_fatal, panels_in_a_row, points, save
from .measures import Geometry, best_hierarchy


@never_fatal
def plot_hierarchy(found: Geometry, inner: float, outer: float, path: Path) -> Path | None:
    """Radii of the operations of each valuation: every one as a point, the median, and what the radial term asks for.

    Args:
        inner, outer: radii that the radial term asks for at the ends.
    """
    figure, (axis,) = panels_in_a_row(1, 6.2, 4.2)
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(found.radius))
    axis.plot(found.valuation + jitter, found.radius, ".", ms=2, alpha=0.25, color=BLUE, rasterized=True)
    levels = np.unique(found.valuation)
    medians = [np.median(found.radius[found.valuation == level]) for level in levels]
    axis.plot(levels, medians, "_", ms=18, mew=2, color=INK, label="median")
    axis.plot([0, levels[-1]], [outer, inner], "--", lw=1, color=ORANGE, label="asked for by the radial term")
    for level in levels:
        n = int((found.valuation == level).sum())
        axis.annotate(
            f"{n}",
            (level, 0),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )
    best = best_hierarchy(int(levels[-1]))
    axis.set_title(f"hierarchy {found.hierarchy:.4f} (best possible {best:.4f}), coverage {found.coverage:.2%}")
    axis.set(xlabel="3-adic valuation (below: number of operations)", ylabel="hyperbolic radius of the posterior mean")
    axis.set_xticks(levels)
    axis.set_ylim(bottom=min(0.0, found.radius.min()) - 0.35)
    legend_and_grid(axis, 8)
    return save(figure, path)


@never_fatal
def plot_learning(records: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Loss terms, KL divergence with its controller, coverage and hierarchy against the optimizer step.

    Args:
        records: lines of ``metrics.jsonl``.
    """
    panels = (
        (
            "loss terms",
            "log",
            {
                "train/reconstruction": "reconstruction [nats]",
                "train/radial": "radial",
                "train/ranking": "ranking",
                "train/entropy": "entropy [nats]",
                "train/repulsion": "repulsion",
            },
        ),
        ("KL divergence [nats]", "linear", {"train/kl_nats": "KL divergence"}),
        (
            "weights that move",
            "linear",
            {"optim/registry.beta": "beta (homeostasis)", "optim/registry.difficulty": "difficulty (curriculum)"},
        ),
        ("validation", "linear", {"val/coverage": "coverage", "val/hierarchy": "hierarchy"}),
    )
    if not any("train/loss" in record for record in records):
        return None
    figure, axes = panels_in_a_row(len(panels), 4.0, 3.4)
    for axis, (title, scale, curves) in zip(axes, panels, strict=True):
        for key, label in curves.items():
            curve(axis, points(records, key, positive=scale == "log"), label=label)
        axis.set(title=title, xlabel="optimizer step", yscale=scale)
        legend_and_grid(axis)
    return save(figure, path)
