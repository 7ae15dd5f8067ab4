"""Wavelengths as files hold them: falling, without a value, in another unit than the grid's.

Shapes: n objects, N pixels in all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .rebin import increasing_rows

OUTSIDE = "outside_grid"  # the reason of a row that no unit explains; the others begin with it
# Reason (a key of findings.REASONS) → wavelengths of the file in the grid's unit, if they are what the reason says
UNITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "outside_grid_log10": lambda wave: 10.0**wave,
    "outside_grid_ln": np.exp,
    "outside_grid_nm": lambda wave: 10 * wave,
    "outside_grid_angstrom": lambda wave: wave / 10,
    "outside_grid_micron": lambda wave: 1e4 * wave,
    "outside_grid_micron_for_nm": lambda wave: 1e3 * wave,
    "outside_grid_angstrom_for_micron": lambda wave: wave / 1e4,
    "outside_grid_nm_for_micron": lambda wave: wave / 1e3,
    "outside_grid_metre": lambda wave: 1e10 * wave,
    "outside_grid_metre_for_nm": lambda wave: 1e9 * wave,
}


def arrange(
    wave: np.ndarray, lengths: np.ndarray, positive: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """Which pixels of ragged rows to take, and in which order, so that wavelengths rise.

    Pixels without a wavelength (not finite; not above 0, where wavelengths are ``positive``) are left out: files are
    filled up with them. Rows whose wavelengths fall throughout are turned round.

    Args:
        wave: ``(N,)``; lengths: ``(n,)`` of the rows.

    Returns:
        pixels ``(M,)`` to take; lengths ``(n,)`` of what is taken; usable ``(n,)``: rows in order, the others have no
        pixels; counts by reason.
    """
    placed = np.isfinite(wave)
    if positive:
        placed &= wave > 0
    pixels = np.flatnonzero(placed)
    if len(pixels) < len(wave):
        lengths = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[pixels], minlength=len(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rises = increasing_rows(wave[pixels], offsets)
    falls = ~rises if rises.all() else increasing_rows(-wave[pixels], offsets) & ~rises
    if falls.any():
        place = np.arange(len(pixels))
        mirrored = np.repeat(offsets[:-1] + offsets[1:] - 1, lengths) - place
        pixels = pixels[np.where(np.repeat(falls, lengths), mirrored, place)]
    usable = rises | falls
    counts = {
        "pixels_without_wavelength": len(wave) - int(placed.sum()),
        "turned_round": int(falls.sum()),
        "wave_not_increasing": int((~usable).sum()),
    }
    return pixels[np.repeat(usable, lengths)], np.where(usable, lengths, 0), usable, counts


def row_ends(wave: np.ndarray, row: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest wavelength (n,) of the pixels (N,) of each row; infinities where a row has none."""
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(low, row, wave)
    np.maximum.at(high, row, wave)
    return low, high


def why_outside(low: np.ndarray, high: np.ndarray, wave_min: float, wave_max: float) -> dict[str, int]:
    """Reasons, with counts, of rows from ``low`` to ``high`` (k,) that lie outside of the grid altogether.

    A unit explains a row if its range in that unit and the grid's share half of the shorter one.

    >>> why_outside(np.array([360.0, 3.556, 20000.0]), np.array([980.0, 3.991, 25000.0]), 3600.0, 5800.0)
    {'outside_grid_log10': 1, 'outside_grid_nm': 1, 'outside_grid': 1}
    """
    found: dict[str, int] = {}
    left = np.ones(len(low), bool)
    for reason, convert in UNITS.items():
        with np.errstate(over="ignore", invalid="ignore"):
            first, last = convert(np.asarray(low, np.float64)), convert(np.asarray(high, np.float64))
            shared = np.minimum(last, wave_max) - np.maximum(first, wave_min)
            explained = left & (shared > 0) & (shared >= 0.5 * np.minimum(last - first, wave_max - wave_min))
        if explained.any():
            found[reason] = int(explained.sum())
            left &= ~explained
    return found | ({OUTSIDE: int(left.sum())} if left.any() else {})
