"""Redshifts by cross-correlation with templates (Tonry & Davis 1979), each pixel weighted by its inverse variance.

On a grid of even steps in ln wavelength a redshift is a shift. What is smooth is taken off spectrum and templates;
then each shift of each template lowers chi^2 by ``(sum w d t)^2 / sum w t^2``, all shifts at once by Fourier
transforms. The largest fall wins, and is the surer the less any other shift lowers chi^2 (as in Redrock, the redshift
finder of DESI: Bailey et al., in preparation).

Shapes: n objects, P pixels, K templates of P + S pixels, S shifts.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

_ROWS = 32  # spectra transformed at once


def high_pass(flux: np.ndarray, ivar: np.ndarray, width: float) -> np.ndarray:
    """``flux`` (n, P) minus its mean under a Gaussian of ``width`` pixels, weighted by ``ivar``; 0 where ivar is."""
    n_pixels = flux.shape[1]
    size = fft.next_fast_len(n_pixels + int(4 * width), real=True)
    window = np.exp(-2 * (np.pi * width * np.fft.rfftfreq(size)) ** 2)
    good = ivar > 0

    def smooth(values: np.ndarray) -> np.ndarray:
        return fft.irfft(fft.rfft(values, size, axis=1) * window, size, axis=1)[:, :n_pixels]

    known = np.where(good, flux, 0.0)
    weight = smooth(ivar)
    enough = weight > 1e-9 * weight.max(1, keepdims=True)
    mean = np.divide(smooth(ivar * known), weight, out=np.zeros_like(weight), where=enough)
    return np.where(good, known - mean, 0.0)


def cross_correlate(
    flux: np.ndarray, ivar: np.ndarray, templates: np.ndarray, width: float, apart: float = 17.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift (n,) of each spectrum in pixels, 0 to S; by how much it lowers chi^2 (n,); and how much more than others.

    Args:
        flux, ivar: ``(n, P)`` on the common grid of ln wavelength.
        templates: ``(K, P + S)`` on a grid that begins S pixels before.
        width: of the Gaussian that the continuum is, pixels.
        apart: pixels from which on a shift is another one.
    """
    n, n_pixels = flux.shape
    n_shifts, size = templates.shape[1] - n_pixels, fft.next_fast_len(templates.shape[1], real=True)
    ready = high_pass(templates.astype(np.float64), np.ones(templates.shape), width)
    lines, squares = fft.rfft(ready, size, axis=1), fft.rfft(ready**2, size, axis=1)
    shift, gain, lead = np.zeros(n), np.zeros(n), np.zeros(n)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        weight = ivar[rows].astype(np.float64)
        data = weight * high_pass(flux[rows].astype(np.float64), weight, width)
        of_data, of_weight = (fft.rfft(a, size, axis=1).conj()[:, None] for a in (data, weight))
        product, norm = (
            fft.irfft(a * b, size, axis=2)[:, :, n_shifts::-1] for a, b in ((of_data, lines), (of_weight, squares))
        )  # (rows, K, S + 1), by shift
        floor = 1e-6 * norm.max(axis=(1, 2), keepdims=True)
        score = (np.square(np.maximum(product, 0)) / np.maximum(norm, np.maximum(floor, 1e-300))).max(1)
        shift[rows], gain[rows] = _peaks(score)
        others = np.abs(np.arange(n_shifts + 1) - shift[rows, None]) > apart
        lead[rows] = gain[rows] - score.max(1, where=others, initial=0.0)
    return shift, gain, lead


def _peaks(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place (n,) of the largest score of each row, between pixels by a parabola, and its height (n,)."""
    rows, best = np.arange(len(score)), score.argmax(1)
    middle = np.clip(best, 1, score.shape[1] - 2)
    before, top, after = (score[rows, middle + k] for k in (-1, 0, 1))
    bend = before - 2 * top + after
    offset = np.where((bend < 0) & (middle == best), 0.5 * (before - after) / np.where(bend < 0, bend, -1.0), 0.0)
    return best + np.clip(offset, -0.5, 0.5), score[rows, best]
