"""How far predicted spectra are from observed ones, in units of the noise.

χ² per pixel is the mean of ``ivar (flux - model)²`` over the pixels with ``ivar > 0``: 1 means off by the noise alone,
and a value far below 1 that the noise itself was copied, or that ivar is too small. With the model's own variance the
weight is ``1 / (1 / ivar + variance)``.

Shapes: n objects, P pixels.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError


def pull(
    flux: np.ndarray, model: np.ndarray, ivar: np.ndarray, variance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """``(flux - model) / sigma`` of each pixel ``(n, P)``, 0 where it does not count, and whether it counts.

    A pixel counts if ``ivar > 0`` and all of its values are finite.

    Args:
        ivar: inverse variance of the flux; a single one ``(P,)`` serves all objects.
        variance: the model's own, in the squared unit of the flux; ``None``: no uncertainty of the model.
    """
    flux, model, ivar = (np.asarray(a, np.float64) for a in (flux, model, ivar))
    if flux.ndim != 2 or model.shape != flux.shape:
        raise DataError("flux and model of one shape (n, P)", got=f"{flux.shape} and {model.shape}")
    ivar = np.broadcast_to(ivar, flux.shape)
    counts = np.isfinite(flux) & np.isfinite(model) & np.isfinite(ivar) & (ivar > 0)
    weight = np.where(counts, ivar, 1.0)
    if variance is not None:
        variance = np.broadcast_to(np.asarray(variance, np.float64), flux.shape)
        counts = counts & np.isfinite(variance) & (variance >= 0)
        weight = 1.0 / (1.0 / weight + np.where(counts, variance, 0.0))
    error = np.where(counts, flux, 0.0) - np.where(counts, model, 0.0)
    return error * np.sqrt(weight), counts


def chi2_per_pixel(
    flux: np.ndarray, model: np.ndarray, ivar: np.ndarray, variance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """ivar-weighted χ² per pixel of each object ``(n,)``, NaN without pixels, and how many pixels it is from ``(n,)``.

    >>> chi2, n = chi2_per_pixel(np.array([[1.0, 2.0, np.nan]]), np.zeros((1, 3)), np.array([4.0, 1.0, 1.0]))
    >>> chi2.tolist(), n.tolist()
    ([4.0], [2])
    """
    deviation, counts = pull(flux, model, ivar, variance)
    n = counts.sum(1)
    return np.where(n > 0, (deviation**2).sum(1) / np.maximum(n, 1), np.nan), n


class PixelChi2:
    """The same by pixel instead of by object, as sums over a stream of batches: where in wavelength it goes wrong."""

    def __init__(self, n_pixels: int) -> None:
        self.n = np.zeros(n_pixels, np.int64)
        self._chi2, self._pull = np.zeros(n_pixels), np.zeros(n_pixels)

    def add(self, flux: np.ndarray, model: np.ndarray, ivar: np.ndarray, variance: np.ndarray | None = None) -> None:
        """Add a batch ``(n, P)``."""
        deviation, counts = pull(flux, model, ivar, variance)
        self.n += counts.sum(0)
        self._chi2 += (deviation**2).sum(0)
        self._pull += deviation.sum(0)

    def chi2(self) -> np.ndarray:
        """Mean χ² of each pixel, ``(P,)``; NaN where no object has it."""
        return np.where(self.n > 0, self._chi2 / np.maximum(self.n, 1), np.nan)

    def mean_pull(self) -> np.ndarray:
        """Mean of (flux - model) / sigma, ``(P,)``: a systematic error shows here, noise does not."""
        return np.where(self.n > 0, self._pull / np.maximum(self.n, 1), np.nan)

    def total(self) -> float:
        """Over all pixels of all objects; NaN without any."""
        return float(self._chi2.sum() / self.n.sum()) if self.n.any() else float("nan")
