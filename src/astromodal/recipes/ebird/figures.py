"""The figures of a run: learning curves, and what each latent carries. PNG files, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...codecs.variational import ACTIVE_VARIANCE
from ...plots.panels import BLUE, GREEN, INK, ORANGE, legend_and_grid, never_fatal, panels_in_a_row, save

PANELS = (("loss", "total loss"), ("recon_loss", "reconstruction"), ("kl_loss", "KL divergence"))


@never_fatal
def plot_curves(history: Mapping[str, Sequence[float]], levels: Mapping[str, float], path: Path) -> Path | None:
    """Losses of training and validation against the epoch, nats per checklist; dashed: reference levels.

    Args:
        levels: name -> nats of other models, drawn beside the total loss.
    """
    figure, axes = panels_in_a_row(len(PANELS), 4.0, 3.6)
    for axis, (part, title) in zip(axes, PANELS, strict=True):
        epochs = np.arange(1, len(history[f"train_{part}"]) + 1)
        axis.plot(epochs, history[f"train_{part}"], color=INK, lw=1.2, label="training")
        axis.plot(epochs, history[f"val_{part}"], color=BLUE, lw=1.2, label="validation")
        if part != "kl_loss":  # which begins at 0 anyway; the first epoch would flatten the others
            drawn = levels if part == "loss" else {}
            for (name, level), colour in zip(drawn.items(), (ORANGE, GREEN), strict=False):
                axis.axhline(level, color=colour, ls="--", lw=1, label=name)
            first = min(1, len(epochs) - 1)
            shown = [*history[f"val_{part}"][first:], *history[f"train_{part}"][first:], *drawn.values()]
            margin = 0.05 * (max(shown) - min(shown) + 1e-9)
            axis.set_ylim(min(shown) - margin, max(shown) + margin)
        axis.set(title=title, xlabel="epoch", ylabel="nats per checklist")
        legend_and_grid(axis)
    return save(figure, path)


@never_fatal
def plot_latents(divergence: np.ndarray, variance: np.ndarray, path: Path) -> Path | None:
    """Mean divergence of each latent in descending order; grey where the posterior mean hardly varies."""
    order = np.argsort(divergence)[::-1]
    active = variance[order] > ACTIVE_VARIANCE
    figure, (axis,) = panels_in_a_row(1, 6.2, 3.4)
    axis.bar(np.arange(len(order)), divergence[order], color=np.where(active, BLUE, "#bbbbbb"))
    axis.set(
        xlabel="latent, by divergence",
        ylabel="KL [nats per checklist]",
        title=f"{int(active.sum())} of {len(order)} latents are in use, {divergence.sum():.2f} nats",
    )
    axis.set_xticks(np.arange(len(order)), [str(i) for i in order], fontsize=7)
    axis.grid(alpha=0.25, axis="y")
    return save(figure, path)
