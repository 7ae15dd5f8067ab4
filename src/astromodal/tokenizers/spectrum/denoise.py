"""Spectra without the noise that codes would otherwise be spent on: as smooth as their known noise lets them be.

A spectrum begins as its mean under a wide Gaussian. From wide to narrow, where the mean under a narrower one is further
from what stands there than noise would put it, there is something of that width (a slope, a break, a line): around it
the mean under a Gaussian of half the width takes the place of what stood there, until at last the pixels themselves do.
So a wider mean stands where no narrower one contradicts it (the rule of Lepski 1991), a line is found at the width at
which it stands out most, and keeps its flux; nothing is learned: what noise is, the precision says. Means weigh pixels
by their inverse variances, so that masked ones count for nothing.

"Further than noise would put it" is a matter of how many places there are to look at: each width is given the threshold
at which pure noise has ``false_features`` of them in a spectrum, so that narrow features need more significance. What
is nearly as significant is kept in part (firm thresholds, Gao & Bruce 1997): weak features may tell nothing alone, but
many of them together tell a redshift.

A mean under a Gaussian lowers what is about as narrow: a line of twice its width by a twentieth. So what is looked for
is judged by means, and what is put in its place is the mean plus the mean of what it leaves (twicing, Tukey 1977),
which lowers that line by a hundredth, at 1.2 times the noise.

Shapes: n objects, P pixels.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import fft
from scipy.ndimage import maximum_filter1d
from scipy.special import ndtri

NARROWEST, WIDEST = 0.5, 64.0  # standard deviations of the Gaussians, pixels
WIDEST_SHARE = 8  # the widest is at most this part of the spectrum
REACH = 2.5  # of its own width around what was found, that is replaced
LEAST_SIGNIFICANT = 1.5  # standard errors: no width is asked for less
NOTHING = 0.6  # of the threshold: up to here nothing of a feature is kept
INDEPENDENT = 3.5  # of a Gaussian's standard deviations: this far apart, means are nearly independent
LARGEST = 30.0  # times the median precision: a pixel that claims more is not let rule those around it
SHARED = 1.5  # how much of the wider mean's variance is in the narrower one's too, about
TWICED = 1.44  # variance of a mean and the mean of what it leaves, over that of the mean: 4 - 8 / sqrt(6) + 1 / sqrt(2)
KNOWN = 1e-5  # of a spectrum's largest weight: means of less are rounding, and nothing is known there
_ROWS = 64


def denoise(flux: np.ndarray, precision: np.ndarray, false_features: float) -> tuple[np.ndarray, np.ndarray]:
    """``flux`` (n, P) with what is not significant smoothed away, and the variance (n, P) of what is left; float32.

    Far from any valid pixel the flux is 0, its variance infinite.

    Args:
        precision: ``(n, P)`` 1 / standard error, 0 where masked.
        false_features: how many there may be at each width in a spectrum of noise.
    """
    found = [
        _denoised(flux[k : k + _ROWS], precision[k : k + _ROWS], false_features) for k in range(0, len(flux), _ROWS)
    ]
    if not found:
        return np.empty(flux.shape, np.float32), np.empty(flux.shape, np.float32)
    smooth, variance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return smooth, variance


def threshold(width: float, n_pixels: int, false_features: float) -> float:
    """Standard errors from which something of this width is taken for real.

    >>> round(threshold(1.0, 2751, 1.0), 2), round(threshold(16.0, 2751, 1.0), 2)
    (3.22, 2.32)
    """
    share = false_features * INDEPENDENT * width / n_pixels
    return max(-float(ndtri(min(0.5 * share, 0.5))), LEAST_SIGNIFICANT)


def _denoised(flux: np.ndarray, precision: np.ndarray, false_features: float) -> tuple[np.ndarray, np.ndarray]:
    means, n_pixels, valid = _Means(flux, precision), flux.shape[1], precision > 0
    widths = [*_widths(n_pixels), 0.0]
    found, variance, sharp = means(widths[0])
    mean, own, _ = means(widths[1])
    left = TWICED * variance
    for width, after in pairwise(widths[1:]):
        narrower, of_narrower, sharper = means(after)
        with np.errstate(invalid="ignore", divide="ignore"):  # infinite variances
            noise = np.maximum(own - SHARED * variance, 0.2 * own)
            height = np.abs(mean - found) / (np.sqrt(noise) * threshold(width, n_pixels, false_features))
        part = np.clip(np.nan_to_num((height - NOTHING) / (1 - NOTHING)), 0, 1) * valid
        part = maximum_filter1d(part, 2 * int(REACH * width) + 1, axis=1, mode="nearest")
        part *= np.isfinite(of_narrower) & (np.isfinite(variance) | (part == 1))
        with np.errstate(invalid="ignore"):  # a wider mean shares its noise with any narrower one
            found, sharp = (old + part * (new - old) for old, new in ((found, narrower), (sharp, sharper)))
            variance = _between(variance, of_narrower, part)
            left = _between(left, of_narrower * (TWICED if after else 1.0), part)
        mean, own = narrower, of_narrower
    sharp = np.where(valid & ~np.isfinite(variance), flux, sharp / means.unit)  # of next to no weight, for a mean
    return sharp.astype(np.float32), (left / means.unit**2).astype(np.float32)


def _between(wide: np.ndarray, narrow: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Variances where a ``part`` of the narrower mean has taken the place of the wider."""
    return np.where(part == 1, narrow, np.where(part > 0, wide + part**2 * (narrow - wide), wide))


def _widths(n_pixels: int) -> list[float]:
    """Widths from wide to narrow; at least two."""
    n_halvings = int(np.log2(np.clip(n_pixels / WIDEST_SHARE, 2 * NARROWEST, WIDEST) / NARROWEST))
    return [NARROWEST * 2.0**k for k in range(n_halvings, -1, -1)]


class _Means:
    """Means of spectra under Gaussians, weighted by inverse variances, their variances, and means and what they leave.

    All are float32, with the usual error of each spectrum as the unit: 1 / ``unit`` (n, 1) of the given one.
    """

    def __init__(self, flux: np.ndarray, precision: np.ndarray) -> None:
        ordered, n_masked = np.sort(precision, axis=1), (precision <= 0).sum(1, keepdims=True)
        middle = np.minimum((n_masked + precision.shape[1]) // 2, precision.shape[1] - 1)
        usual = np.take_along_axis(ordered, middle, axis=1).astype(np.float64)
        usual[usual <= 0] = 1.0  # nothing is known
        weight = np.square(np.minimum(precision / usual, LARGEST)).astype(np.float32)
        self.unit, self._n, self._least = usual, flux.shape[1], KNOWN * weight.max(1, keepdims=True)
        self._flux = np.where(weight > 0, flux * usual, 0.0).astype(np.float32)
        self._size = fft.next_fast_len(self._n + int(3 * _widths(self._n)[0]), real=True)
        self._frequency = np.fft.rfftfreq(self._size)
        self._variance = np.divide(1.0, weight, out=np.full(weight.shape, np.inf, np.float32), where=weight > 0)
        self._weighted, self._weight = (fft.rfft(a, self._size, axis=1) for a in (weight * self._flux, weight))
        self._own = weight

    def __call__(self, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, their variances, and means with the means of what they leave (n, P).

        The pixels themselves for a ``width`` of 0; variances are infinite where nothing is known.
        """
        if not width:
            return self._flux, self._variance, self._flux
        window = np.exp(-2 * (np.pi * width * self._frequency) ** 2).astype(np.float32)
        square = (np.exp(-((np.pi * width * self._frequency) ** 2)) / (2 * np.sqrt(np.pi) * width)).astype(np.float32)
        total, of_flux, of_square = (
            fft.irfft(a * b, self._size, axis=1)[:, : self._n]
            for a, b in ((self._weight, window), (self._weighted, window), (self._weight, square))
        )
        known = total > self._least
        mean = np.divide(of_flux, total, out=np.zeros_like(total), where=known)
        variance = np.divide(np.maximum(of_square, 0), total**2, out=np.full_like(total, np.inf), where=known)
        left = fft.rfft(self._own * (self._flux - mean), self._size, axis=1) * window
        of_left = fft.irfft(left, self._size, axis=1)[:, : self._n]
        return mean, variance, mean + np.divide(of_left, total, out=np.zeros_like(total), where=known)
