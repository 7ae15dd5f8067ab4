"""The two figures of a run: learning curves, and spectra painted from their visible part. PNG files, no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...plots.panels import BLUE, INK, ORANGE, curve, legend_and_grid, never_fatal, panels_in_a_row, points, save


@never_fatal
def plot_learning(records: Sequence[Mapping[str, Any]], loss: str, path: Path) -> Path | None:
    """Loss at hidden values of training and validation, and the learning rate, against the epoch.

    Args:
        records: ``training_history.json``.
        loss: ``mse`` or ``sse``, for the label.
    """
    figure, (left, right) = panels_in_a_row(2, 3.8, 3.2)
    for key, label, colour in (("train_loss", "training", INK), ("val_loss", "validation (averaged weights)", BLUE)):
        curve(left, points(records, key, over="epoch"), color=colour, label=label)
    left.set(xlabel="epoch", ylabel=f"{loss.upper()} at hidden values", yscale="log")
    curve(right, points(records, "lr", over="epoch"), color=ORANGE)
    right.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    for axis in (left, right):
        legend_and_grid(axis, 8)
    return save(figure, path)


@never_fatal
def plot_examples(x: np.ndarray, painted: np.ndarray, visible: np.ndarray, path: Path) -> Path | None:
    """Test spectra (n, L), their reconstructions, and what the encoder saw of them (grey where it did not)."""
    figure = Figure(figsize=(8.2, 1.9 * len(x) + 0.3), layout="constrained")
    places = np.arange(x.shape[1])
    for axis, spectrum, drawn, seen in zip(np.atleast_1d(figure.subplots(len(x), 1)), x, painted, visible, strict=True):
        low, high = min(spectrum.min(), drawn.min()), max(spectrum.max(), drawn.max())
        axis.fill_between(places, low, high, where=~seen, step="mid", color="#dddddd", lw=0, label="hidden")
        axis.plot(places, spectrum, color=INK, lw=1.1, label="spectrum")
        axis.plot(places, drawn, color=ORANGE, lw=1.0, ls="--", label="reconstruction")
        axis.set(ylabel="normalised", xlim=(0, len(places) - 1))
    axis.set(xlabel="position on the grid")
    figure.axes[0].legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return save(figure, path)
