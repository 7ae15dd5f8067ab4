"""Spectral lines in spectra: flux and place by least squares, and the least error that the noise allows.

Around the place where a line has to be, a spectrum is fitted as a line of known width, its derivative and a straight
continuum, pixels weighted by their inverse variances. The fit is linear in the flux, so that the same fit of a decoded
and of the true spectrum compares like with like, whatever else stands beside the line; its covariance is the
Cramér-Rao bound.

Shapes: n lines (one of each given spectrum), P pixels, w pixels of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REACH = 6.0  # standard deviations of the line on either side
MIN_GOOD = 0.7  # of the window's pixels
_TINY = 1e-12


@dataclass(frozen=True)
class LineFits:
    """Fluxes and places of n lines; NaN where the window is not inside of the spectrum, or too little of it is good."""

    flux: np.ndarray  # (n,) of the spectrum's unit times that of the wavelength
    flux_error: np.ndarray  # (n,) of any unbiased measurement, at least
    shift: np.ndarray  # (n,) found minus given place, first order: for shifts far below the line's width
    shift_error: np.ndarray  # (n,)


def fit_lines(wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray, centre: np.ndarray, sigma: np.ndarray) -> LineFits:
    """Fit one line to each spectrum.

    Args:
        wave: ``(P,)`` evenly spaced pixel centres.
        flux, ivar: ``(n, P)``.
        centre, sigma: ``(n,)`` where the line has to be and its standard deviation, in the unit of ``wave``.
    """
    step = wave[1] - wave[0]
    first = np.floor((centre - REACH * sigma - wave[0]) / step).astype(np.int64)
    width = int(np.ceil(2 * REACH * sigma.max(initial=0.0) / step)) + 1
    inside = (first >= 0) & (centre + REACH * sigma <= wave[-1])
    index = np.clip(first, 0, len(wave) - 1)[:, None] + np.arange(width)
    in_window = (index < len(wave)) & (wave[np.minimum(index, len(wave) - 1)] <= (centre + REACH * sigma)[:, None])
    index = np.minimum(index, len(wave) - 1)
    x = (wave[index] - centre[:, None]) / sigma[:, None]
    y, weight = (np.take_along_axis(a, index, 1).astype(np.float64) for a in (flux, ivar))
    weight = np.where(in_window & np.isfinite(y) & (weight > 0), weight, 0.0)
    enough = (weight > 0).sum(1) >= MIN_GOOD * in_window.sum(1)
    line = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) / sigma[:, None]
    design = np.stack([np.ones_like(x), x / REACH, line, x * line], axis=2)  # (n, w, 4); the last: d line / d centre
    unit = np.sqrt(np.einsum("nw,nwk->nk", weight, design**2)) + _TINY
    design = design / unit[:, None]
    normal = np.einsum("nw,nwj,nwk->njk", weight, design, design)
    usable = inside & enough & (np.linalg.cond(normal) < 1e10)
    normal = np.where(usable[:, None, None], normal, np.eye(4))
    inverse = np.linalg.inv(normal)
    right = np.einsum("nw,nwj->nj", weight, design * np.where(weight > 0, y, 0.0)[:, :, None])
    found = np.einsum("njk,nk->nj", inverse, right) / unit
    error = np.sqrt(np.maximum(np.einsum("njj->nj", inverse), 0.0)) / unit
    strength, slope = found[:, 2], found[:, 3]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        results = strength, error[:, 2], slope / strength * sigma, error[:, 3] / np.abs(strength) * sigma
    return LineFits(*(np.where(usable, a, np.nan) for a in results))
