"""The plots of a run directory: loss curves, cutouts, spectra, scalars. PNG files, drawn without a display.

Every function takes plain arrays and a path and returns the path; none knows where the arrays come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from ..vocabulary.modalities import MODALITIES
from .panels import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PINK,
    YELLOW,
    curve,
    legend_and_grid,
    never_fatal,
    padded,
    panel_grid,
    panels_in_a_row,
    points,
    save,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUE, MODEL, OTHER = INK, BLUE, ORANGE
WIDE = 30.0  # positive values over more than this factor are drawn on logarithmic axes
_PALETTE = (BLUE, ORANGE, GREEN, PINK, YELLOW)


def colours() -> dict[str, str]:
    """A colour for each modality."""
    return dict(zip(MODALITIES, cycle(_PALETTE), strict=False))


@never_fatal
def plot_curves(
    records: Sequence[Mapping[str, float]], path: Path, baselines: Mapping[str, float] | None = None
) -> Path | None:
    """Every train/val quantity against the optimizer step, one panel each; dashed: the marginal baseline.

    Args:
        records: lines of ``metrics.jsonl``.
        baselines: value of the marginal baseline by validation metric (without ``val/``).
    """
    panels = (
        ("loss", "train/loss", None, "training loss"),
        ("score", None, "score", "score: mean error / variance"),
        ("ce", "train/ce", "ce", "cross-entropy [nats]"),
        *((name, f"train/{name}", f"error_{name}", f"{name} error / variance") for name in MODALITIES),
    )
    shown = []
    for _, train, validation, title in panels:
        keys = ((train, "train", TRUE, ""), (validation and f"val/{validation}", "validation", MODEL, "o"))
        curves = [(label, colour, marker, points(records, key)) for key, label, colour, marker in keys]
        curves = [c for c in curves if any(value for _, value in c[3])]  # a modality that is absent stays at 0
        if curves:
            shown.append((title, curves, (baselines or {}).get(validation) if validation else None))
    if not shown:
        return None
    figure, axes = panels_in_a_row(len(shown), 3.6, 3.2)
    for axis, (title, curves, reference) in zip(axes, shown, strict=True):
        for label, colour, marker, xy in curves:
            curve(axis, xy, color=colour, marker=marker, ms=3, label=label)
        if reference is not None and np.isfinite(reference):
            axis.axhline(reference, color=OTHER, ls="--", lw=1, label="marginal")
        axis.set(title=title, xlabel="optimizer step")
        legend_and_grid(axis)
    return save(figure, path)


@never_fatal
def plot_gradient_shares(records: Sequence[Mapping[str, float]], path: Path) -> Path | None:
    """What the gradient ledger measured, against the optimizer step: shares, agreement with cross-entropy, weights.

    Args:
        records: lines of ``metrics.jsonl``.
    """
    panels = (
        ("", "share of the modality's gradient", "log"),
        ("cosine_", "cosine with cross-entropy's", "linear"),
        ("weight_", "weight of the reconstruction", "log"),
    )
    if not any(points(records, f"grad_share/{prefix}{name}") for prefix, _, _ in panels for name in MODALITIES):
        return None
    figure, axes = panels_in_a_row(len(panels), 3.6, 3.2)
    for axis, (prefix, title, scale) in zip(axes, panels, strict=True):
        for name, colour in colours().items():
            xy = points(records, f"grad_share/{prefix}{name}", positive=scale == "log")
            curve(axis, xy, color=colour, marker="o", ms=3, label=name)
        if axis.lines:
            axis.set_yscale(scale)
        axis.set(title=title, xlabel="optimizer step")
        legend_and_grid(axis)
    return save(figure, path)


@never_fatal
def plot_cutouts(
    true: np.ndarray,
    reconstruction: np.ndarray,
    bands: Sequence[str],
    path: Path,
    *,
    mask: np.ndarray | None = None,
    n_bands: int = 6,
    labels: tuple[str, str] = ("true", "decoded"),
) -> Path | None:
    """True cutouts above their reconstructions, in the normalised (arcsinh) scale they are coded in.

    Args:
        true, reconstruction: ``(n, C, S, S)``, invalid pixels NaN in ``true``.
        mask: ``(n, S, S)`` bool, drawn as a contour.
    """
    if len(true) == 0:
        return None
    chosen = np.unique(np.linspace(0, len(bands) - 1, min(n_bands, len(bands))).round().astype(int))
    n = min(len(true), 4)
    figure, axes = panel_grid(2 * n, len(chosen), (1.4, 1.4), left=0.3, top=0.55)
    for row in range(n):
        for column, band in enumerate(chosen):
            finite = true[row, band][np.isfinite(true[row, band])]
            low, high = np.percentile(finite, [1, 99.8]) if finite.size else (0.0, 1.0)
            for k, image in enumerate((true[row, band], reconstruction[row, band])):
                axis = axes[2 * row + k, column]
                axis.imshow(image, origin="lower", cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
                if mask is not None:
                    axis.contour(mask[row], [0.5], colors=[OTHER], linewidths=0.6)
                axis.set(xticks=[], yticks=[])
                if row == 0 and k == 0:
                    axis.set_title(bands[band], fontsize=9)
                if column == 0:
                    axis.set_ylabel(labels[k], fontsize=9)
    figure.suptitle(f"cutouts: {labels[0]} above {labels[1]} (arcsinh scale, 1 to 99.8 %)", fontsize=10, y=0.995)
    return save(figure, path)


@never_fatal
def plot_spectra(
    examples: Sequence[Mapping[str, object]], path: Path, *, labels: tuple[str, str] = ("true", "decoded")
) -> Path | None:
    """Spectra with their reconstruction from tokens.

    Args:
        examples: mappings with ``group``, ``wave (P,)``, ``flux (P,)``, ``reconstruction (P,)`` and optionally
            ``valid (P,)`` bool and ``unit``, ``wave_unit``.
    """
    examples = list(examples)[:8]
    if not examples:
        return None
    figure, axes = panel_grid(len(examples), 1, (9.0, 1.5), left=0.8, top=0.1, bottom=0.4, gaps=(0, 0.4))
    for axis, example in zip(axes[:, 0], examples, strict=True):
        wave, flux = np.asarray(example["wave"]), np.asarray(example["flux"], dtype=float)
        valid = np.asarray(example.get("valid", np.isfinite(flux)), dtype=bool)
        axis.plot(wave, np.where(valid, flux, np.nan), color=TRUE, lw=0.6, alpha=0.7, label=labels[0])
        axis.plot(wave, example["reconstruction"], color=MODEL, lw=1.0, label=labels[1])
        if valid.any():
            low, high = np.percentile(flux[valid], [0.5, 99.5])
            axis.set_ylim(padded(low, high, 0.25))
        axis.set_ylabel(f"{example['group']}\n[{example.get('unit', '')}]", fontsize=7)
        axis.set_xlabel(str(example.get("wave_unit", "")), fontsize=7)
        axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, frameon=False)
    return save(figure, path)


def write_title(figure: Figure, text: str, **where: float) -> None:
    """A title above all panels, in as many lines as the figure's width asks for."""
    figure.suptitle("\n".join(wrap(text, int(13 * figure.get_figwidth()))), fontsize=9, **where)


@never_fatal
def plot_scalars(
    columns: Sequence[Mapping[str, object]], path: Path, *, title: str = "predicted against observed"
) -> Path | None:
    """Predicted against observed values, one panel per column; positive values over more than a factor of 30 on
    logarithmic axes.

    Args:
        columns: mappings with ``name``, ``unit``, ``true (n,)``, ``predicted (n,)``.
        title: "<the y axis> against <the x axis>".
    """
    columns = [c for c in columns if len(np.asarray(c["true"])) > 1][:24]
    if not columns:
        return None
    width = min(6, len(columns))
    height = -(-len(columns) // width)
    figure, axes = panel_grid(height, width, (1.8, 1.8), left=0.4, top=0.55, bottom=0.25, gaps=(0.4, 0.4))
    axes = axes.ravel()
    for axis, column in zip(axes, columns, strict=False):
        true, predicted = np.asarray(column["true"], float), np.asarray(column["predicted"], float)
        low, high = np.percentile(true, [1, 99])
        axis.plot([low, high], [low, high], color=OTHER, lw=0.8, ls="--")
        axis.plot(true, predicted, ".", ms=2, alpha=0.5, color=MODEL, rasterized=True)
        if low > 0 and min(true.min(), predicted.min()) > 0 and high / low > WIDE:
            margin = (high / low) ** 0.08
            axis.set(xscale="log", yscale="log", xlim=(low / margin, high * margin), ylim=(low / margin, high * margin))
        else:
            axis.set(xlim=padded(low, high, 0.08), ylim=padded(low, high, 0.08))
        unit = f" [{column['unit']}]" if column.get("unit") else ""
        axis.set_title(f"{column['name']}{unit}", fontsize=7)
        axis.tick_params(labelsize=6)
    for axis in axes[len(columns) :]:
        axis.set_visible(False)
    vertical, _, horizontal = title.partition(" against ")
    write_title(figure, f"{title} (x {horizontal}, y {vertical})", y=0.995)
    return save(figure, path)
