"""How far predicted cutouts are from observed ones, in units of the noise of a pixel.

Shapes: n objects, C bands, S pixels on a side.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError


def _weighed(
    image: np.ndarray, model: np.ndarray, sigma: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """``(image - model) / sigma`` ``(n, C, S, S)``, 0 where a pixel does not count, and whether it counts."""
    image, model, sigma = (np.asarray(a, np.float64) for a in (image, model, sigma))
    if image.ndim != 4 or model.shape != image.shape:
        raise DataError("images and models of one shape (n, C, S, S)", got=f"{image.shape} and {model.shape}")
    if sigma.ndim in (1, 2):  # per band, or per object and band
        sigma = sigma[..., None, None]
    sigma = np.broadcast_to(sigma, image.shape)
    counts = np.isfinite(image) & np.isfinite(model) & np.isfinite(sigma) & (sigma > 0)
    if mask is not None:
        mask = np.asarray(mask) > 0
        counts = counts & np.broadcast_to(mask[:, None] if mask.ndim == 3 else mask, image.shape)
    error = np.where(counts, image, 0.0) - np.where(counts, model, 0.0)
    return error / np.where(counts, sigma, 1.0), counts


def noise_units(
    image: np.ndarray, model: np.ndarray, sigma: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square of ``(image - model) / sigma`` of each object and band, ``(n, C)``, and the pixels it is from.

    1 means off by the noise alone. A band without a single pixel is NaN.

    Args:
        image, model: fluxes ``(n, C, S, S)``, NaN where not observed.
        sigma: noise of a pixel in the same unit: ``(C,)``, ``(n, C)`` or ``(n, C, S, S)``.
        mask: pixels that count, ``(n, S, S)`` or ``(n, C, S, S)``.

    >>> rms, n = noise_units(np.full((1, 1, 2, 2), 3.0), np.zeros((1, 1, 2, 2)), np.array([2.0]))
    >>> rms.tolist(), n.tolist()
    ([[1.5]], [[4]])
    """
    deviation, counts = _weighed(image, model, sigma, mask)
    n = counts.sum((2, 3))
    return np.where(n > 0, np.sqrt((deviation**2).sum((2, 3)) / np.maximum(n, 1)), np.nan), n


def flux_pull(image: np.ndarray, model: np.ndarray, sigma: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Error of the summed flux of each object and band over the noise of that sum, ``(n, C)``; NaN without pixels.

    Errors of single pixels average out in it, a wrong total does not. Noise is taken as independent between pixels.
    """
    deviation, counts = _weighed(image, model, sigma, mask)
    sigma = np.asarray(sigma, np.float64)
    sigma = np.broadcast_to(sigma[..., None, None] if sigma.ndim in (1, 2) else sigma, deviation.shape)
    known = np.where(counts, sigma, 0.0)
    noise = np.sqrt((known**2).sum((2, 3)))
    return np.where(noise > 0, (deviation * known).sum((2, 3)) / np.where(noise > 0, noise, 1.0), np.nan)
