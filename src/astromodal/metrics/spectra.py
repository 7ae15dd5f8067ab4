"""How far predicted spectra are from observed ones, in units of the noise.

χ² per pixel is the mean of ``ivar (flux - model)²`` over the pixels with ``ivar > 0``: 1 means off by the noise alone,
and a value far below 1 that the noise itself was copied, or that ivar is too small. With the model's own variance the
weight is ``1 / (1 / ivar + variance)``.

Shapes: n objects, P pixels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import DataError

SNR_EDGES = (0.0, 1.0, 5.0, 15.0, np.inf)  # median signal-to-noise per pixel, of the bins of figures


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


def signal_to_noise(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Median of ``flux * sqrt(ivar)`` over the pixels with ``ivar > 0`` of each object ``(n,)``; at least 0."""
    with np.errstate(invalid="ignore"):
        ratio = np.where((ivar > 0) & np.isfinite(flux), flux * np.sqrt(ivar), np.nan)
    ratio[np.isnan(ratio).all(1)] = 0.0
    return np.maximum(np.nanmedian(ratio, axis=1), 0.0) if len(ratio) else np.zeros(0)


def errors_by_snr(
    snr: np.ndarray, chi2: np.ndarray, n_pixels: np.ndarray, from_truth: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """By signal-to-noise, and last over all: chi^2 per pixel, pooled over pixels and in the median over objects.

    Args:
        snr, chi2, n_pixels: ``(n,)`` of objects; chi^2 is per pixel; objects without pixels do not count.
        from_truth: ``(n,)`` the same mean square of (model - truth) / noise: adds its root, ``error_over_noise``.

    >>> rows = errors_by_snr(np.array([0.5, 20.0]), np.array([1.0, 4.0]), np.array([100, 200]))
    >>> [(row["from"], row["n"], row["chi2_pooled"]) for row in rows]
    [(0.0, 1, 1.0), (15.0, 1, 4.0), (0.0, 2, 3.0)]
    """
    rows = []
    for low, high in (*pairwise(SNR_EDGES), (0.0, np.inf)):
        mine = (snr >= low) & (snr < high) & (n_pixels > 0)
        if mine.any():
            n = n_pixels[mine]
            row: dict[str, Any] = {"from": low, "to": high, "n": int(mine.sum())}
            row["chi2_pooled"] = float((chi2[mine] * n).sum() / n.sum())
            row["chi2_median"] = float(np.median(chi2[mine]))
            if from_truth is not None:
                row["error_over_noise"] = float(np.sqrt((from_truth[mine] * n).sum() / n.sum()))
            rows.append(row)
    return rows


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
