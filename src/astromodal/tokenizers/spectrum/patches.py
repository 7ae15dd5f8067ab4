"""From a spectrum to patches of (flux, precision) and back: what the codes of a spectrum are made of.

The whole range is covered: the last patch is padded with pixels of precision 0. Masked pixels (precision 0) weigh
nothing in the choice of a code. So that no file's leftovers stand there, they are filled by linear interpolation
between their valid neighbours in the same spectrum (at the ends: the nearest one): the start of a centroid that no
valid pixel has reached, and what a patch without any valid pixel is coded by.

Shape legend: n objects, P pixels, p pixels per patch, L = ceil(P / p) patches.
"""

from __future__ import annotations

import numpy as np

from ...data.rebin import fill_masked

SATURATION = 100.0  # signal-to-noise per pixel around which weights level off


def n_patches(n_pixels: int, patch_size: int) -> int:
    """Patches that cover all pixels.

    >>> n_patches(2751, 32)
    86
    """
    return -(-n_pixels // patch_size)


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


def pixel_weights(precision: np.ndarray, saturation: float = SATURATION) -> np.ndarray:
    """``p^2 / (1 + (p / saturation)^2)``: inverse variances that level off, 0 where masked; the shape of ``precision``.

    Faint pixels count by their noise, which else takes the codes; of bright ones a code cannot meet every digit, and
    the brightest would take them all.
    """
    return np.square(precision / np.hypot(np.float32(1), precision / np.float32(saturation)))


def join(patches: np.ndarray, n_pixels: int) -> np.ndarray:
    """Inverse of :func:`cut`: (n, L, p) to (n, P), without the padding."""
    return patches.reshape(len(patches), -1)[:, :n_pixels]
