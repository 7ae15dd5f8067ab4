"""From a spectrum to patches of (flux, precision) and back: what the codes of a spectrum are made of.

The whole range is covered: the last patch is padded with pixels of precision 0. Masked pixels (precision 0) carry
no flux of their own; they are filled by linear interpolation between their valid neighbours in the same spectrum (at
the ends: the nearest one), so that what a file holds there cannot move an assignment and codebooks stay independent of
how masks are spread. Weighted distances would need another product per row; filling needs none.

Shape legend: n objects, P pixels, p pixels per patch, L = ceil(P / p) patches.
"""

from __future__ import annotations

import numpy as np


def n_patches(n_pixels: int, patch_size: int) -> int:
    """Patches that cover all pixels.

    >>> n_patches(2751, 32)
    86
    """
    return -(-n_pixels // patch_size)


def fill_masked(flux: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """``flux`` (n, P) with the invalid pixels interpolated from valid neighbours; 0 where a row has none.

    >>> fill_masked(np.array([[1.0, 99.0, 3.0, np.nan]]), np.array([[True, False, True, False]])).tolist()
    [[1.0, 2.0, 3.0, 3.0]]
    """
    if valid.all():
        return flux
    n_pixels = flux.shape[1]
    pixels = np.broadcast_to(np.arange(n_pixels), flux.shape)
    before = np.maximum.accumulate(np.where(valid, pixels, -1), axis=1)
    after = np.minimum.accumulate(np.where(valid, pixels, n_pixels)[:, ::-1], axis=1)[:, ::-1]
    left = np.where(before < 0, after, before)
    right = np.where(after == n_pixels, before, after)
    known = np.where(valid, flux, 0.0)
    rows_without = ~valid.any(1)
    left, right = np.clip(left, 0, n_pixels - 1), np.clip(right, 0, n_pixels - 1)
    low, high = np.take_along_axis(known, left, 1), np.take_along_axis(known, right, 1)
    share = (pixels - left) / np.maximum(right - left, 1)
    filled = np.where(valid, flux, low + (high - low) * share)
    filled[rows_without] = 0.0
    return filled.astype(flux.dtype)


def cut(values: np.ndarray, patch_size: int, pad: str | float) -> np.ndarray:
    """``values`` (n, P) as patches (n, L, p); the end is padded with a number, or with the last pixel (``"edge"``)."""
    n, n_pixels = values.shape
    length = n_patches(n_pixels, patch_size)
    patches = np.empty((n, length * patch_size), dtype=values.dtype)
    patches[:, :n_pixels] = values
    patches[:, n_pixels:] = values[:, -1:] if pad == "edge" else pad
    return patches.reshape(n, length, patch_size)


def patch_features(flux: np.ndarray, precision: np.ndarray, patch_size: int) -> np.ndarray:
    """Patches (n, L, 2 p) float32: p filled fluxes, then p precisions (0 where masked or padded)."""
    valid = (precision > 0) & np.isfinite(flux)
    filled = cut(fill_masked(flux, valid), patch_size, "edge")
    return np.concatenate([filled, cut(np.where(valid, precision, 0.0), patch_size, 0.0)], axis=2, dtype=np.float32)


def join(patches: np.ndarray, n_pixels: int) -> np.ndarray:
    """Inverse of :func:`cut`: (n, L, p) to (n, P), without the padding."""
    return patches.reshape(len(patches), -1)[:, :n_pixels]
