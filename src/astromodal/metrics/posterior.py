"""Scores of predicted distributions: of probabilities in bins, and of quantiles.

A distribution is a cumulative function that is linear between its knots: the edges of bins, between which the mass is
spread evenly, or given quantiles, between which it is as well; what lies outside of the lowest and highest quantile is
then mass at these two. With that every score here is exact, not a sum over samples.
Scores: CRPS ``∫ (F(x) - 1[x ≥ y])² dx`` (Gneiting & Raftery 2007, JASA 102, 359, eq. 20), the logarithmic score; PIT is
F(y) (Dawid 1984), randomised where F jumps (Czado et al. 2009).

Shapes: n objects, B bins, k knots, q levels. ``knots`` are ``(k,)``, shared, or ``(n, k)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..machine.random import keyed_uniform

_PIT_KEY = 0x917


def cdf_of_bins(probabilities: np.ndarray) -> np.ndarray:
    """Cumulative probability at the edges, ``(n, B + 1)``, from 0 to 1, of probabilities ``(n, B)``.

    Rows are divided by their sum; a row with a negative or non-finite value, or with no mass, becomes NaN.
    """
    p = np.asarray(probabilities, np.float64)
    with np.errstate(invalid="ignore"):
        total = p.sum(1, keepdims=True)
        bad = ~(np.isfinite(total) & (total > 0) & (p >= 0).all(1, keepdims=True))
    cdf = np.zeros((len(p), p.shape[1] + 1))
    np.cumsum(p / np.where(bad, 1.0, total), axis=1, out=cdf[:, 1:])
    np.minimum(cdf, 1.0, out=cdf)  # the running sum may end a rounding above
    cdf[:, -1] = 1.0
    cdf[bad[:, 0]] = np.nan
    return cdf


def _checked(knots: np.ndarray, cdf: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    knots, cdf, observed = (np.asarray(a, np.float64) for a in (knots, cdf, observed))
    if cdf.ndim != 2 or knots.shape[-1] != cdf.shape[1] or len(observed) != len(cdf) or cdf.shape[1] < 2:
        raise DataError(
            "knots (k,) or (n, k), a distribution (n, k) and observations (n,)",
            got=f"{knots.shape}, {cdf.shape}, {observed.shape}",
        )
    with np.errstate(invalid="ignore"):
        if (np.diff(knots, axis=-1) < 0).any():
            raise DataError("knots that do not fall", got="a knot below the one before it")
    return np.broadcast_to(knots, cdf.shape), cdf, observed


def cdf_at(knots: np.ndarray, cdf: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """F(y) of each object, ``(n,)``, interpolated within the bin; 0 below the first knot, 1 above the last.

    NaN where the observation or the distribution is.

    >>> cdf_at(np.array([0.0, 1.0, 3.0]), np.array([[0.0, 0.5, 1.0]]), np.array([2.0])).tolist()
    [0.75]
    """
    knots, cdf, observed = _checked(knots, cdf, observed)
    y = observed[:, None]
    last = knots.shape[1] - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        right = np.clip((knots <= y).sum(1), 1, last)[:, None]
        x0, x1 = (np.take_along_axis(knots, right - d, 1)[:, 0] for d in (1, 0))
        f0, f1 = (np.take_along_axis(cdf, right - d, 1)[:, 0] for d in (1, 0))
        inside = np.clip((observed - x0) / (x1 - x0), 0.0, 1.0)
        value = f0 + np.where(x1 > x0, inside, 1.0) * (f1 - f0)
        value = np.where(observed < knots[:, 0], 0.0, np.where(observed > knots[:, -1], 1.0, value))
    return np.where(np.isfinite(observed) & np.isfinite(cdf).all(1) & np.isfinite(knots).all(1), value, np.nan)


def crps(knots: np.ndarray, cdf: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """CRPS of each object, ``(n,)``, in the unit of the knots: the exact integral. NaN where something is missing.

    >>> crps(np.array([0.0, 1.0]), np.array([[0.0, 1.0]] * 2), np.array([0.0, 3.0])).round(4).tolist()
    [0.3333, 2.3333]
    """
    knots, cdf, observed = _checked(knots, cdf, observed)
    last = knots.shape[1] - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        # ∫ F² + ∫ over x > y of (1 - 2F), which needs F² once and the running integral of F
        y = np.clip(observed, knots[:, 0], knots[:, -1])
        width, a, b = np.diff(knots, axis=1), cdf[:, :-1], cdf[:, 1:]
        square = np.einsum("nb,nb->n", width, a * a + a * b + b * b) / 3.0
        running = np.cumsum(width * (a + b), axis=1)  # twice the integral of F up to the right end of each bin
        bin_ = np.clip((knots <= y[:, None]).sum(1) - 1, 0, last - 1)[:, None]
        x0, w, f0, f1, upto = (np.take_along_axis(v, bin_, 1)[:, 0] for v in (knots, width, a, b, running))
        t = np.where(w > 0, (y - x0) / np.where(w > 0, w, 1.0), 1.0)
        inside = (y - x0) * (2 * f0 + t * (f1 - f0))  # twice the integral from the left end of the bin to y
        beyond = running[:, -1] - (upto - w * (f0 + f1) + inside)
        return np.maximum(square + (knots[:, -1] - y) - beyond, 0.0) + np.abs(observed - y)


def quantiles_of_cdf(knots: np.ndarray, cdf: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Quantiles ``(n, q)``: where F first reaches each level, interpolated within the bin."""
    cdf = np.asarray(cdf, np.float64)
    knots = np.broadcast_to(np.asarray(knots, np.float64), cdf.shape)
    out = np.empty((len(cdf), len(levels)))
    for j, level in enumerate(levels):
        with np.errstate(invalid="ignore", divide="ignore"):
            right = np.clip((cdf < level).sum(1), 1, cdf.shape[1] - 1)[:, None]
            f0, f1 = (np.take_along_axis(cdf, right - d, 1)[:, 0] for d in (1, 0))
            x0, x1 = (np.take_along_axis(knots, right - d, 1)[:, 0] for d in (1, 0))
            out[:, j] = x0 + np.where(f1 > f0, np.clip((level - f0) / (f1 - f0), 0, 1), 1.0) * (x1 - x0)
    return np.where(np.isfinite(cdf).all(1, keepdims=True), out, np.nan)


def moments_of_bins(knots: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``(n,)`` of probabilities ``(n, B)``, spread evenly in the bins of ``(B + 1,)``."""
    edges, p = np.asarray(knots, np.float64), np.asarray(probabilities, np.float64)
    p = p / p.sum(1, keepdims=True)
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    mean = p @ middle
    spread = (p * ((middle - mean[:, None]) ** 2 + width**2 / 12)).sum(1)
    return mean, np.sqrt(spread)


def log_score(edges: np.ndarray, probabilities: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Negative logarithm of the predicted density at the observation ``(n,)`` [nats]; infinite outside of the bins.

    It changes by a constant with the unit: compare it within one column only.
    """
    edges, p = np.asarray(edges, np.float64), np.asarray(probabilities, np.float64)
    y = np.asarray(observed, np.float64)
    k = np.clip(np.searchsorted(edges, y, side="right") - 1, 0, len(edges) - 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.take_along_axis(p, k[:, None], 1)[:, 0] / p.sum(1) / np.diff(edges)[k]
        score = np.where((y < edges[0]) | (y > edges[-1]), np.inf, -np.log(density))
    return np.where(np.isfinite(y), score, np.nan)


# ----------------------------------------------------------------------------------------- quantiles


def _levels(quantiles: np.ndarray, levels: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles sorted along the levels (crossed ones are exchanged: Chernozhukov et al. 2010), and the levels."""
    quantiles, tau = np.asarray(quantiles, np.float64), np.asarray(levels, np.float64)
    if quantiles.ndim != 2 or quantiles.shape[1] != len(tau) or (np.diff(tau) <= 0).any():
        raise DataError("quantiles (n, q) at q rising levels", got=f"{quantiles.shape} at {tau.tolist()}")
    if len(tau) < 2 or not (tau[0] > 0 and tau[-1] < 1):
        raise DataError("at least two levels inside of (0, 1)", got=tau.tolist())
    return np.sort(quantiles, axis=1), tau


def crps_of_quantiles(quantiles: np.ndarray, levels: Sequence[float] | np.ndarray, observed: np.ndarray) -> np.ndarray:
    """CRPS ``(n,)`` of the distribution that quantiles ``(n, q)`` describe, tails cut off at the outermost two.

    Exact for that distribution; for comparisons use the same levels on both sides.
    """
    quantiles, tau = _levels(quantiles, levels)
    return crps(quantiles, np.broadcast_to(tau, quantiles.shape), observed)


def pit_of_quantiles(quantiles: np.ndarray, levels: Sequence[float], observed: np.ndarray, seed: int = 0) -> np.ndarray:
    """PIT ``(n,)`` from quantiles: interpolated inside, drawn evenly within the tail outside of the outermost two.

    The draw (keyed by the seed and the object's place) makes the PIT of calibrated quantiles exactly uniform.
    """
    quantiles, tau = _levels(quantiles, levels)
    observed = np.asarray(observed, np.float64)
    pit = cdf_at(quantiles, np.broadcast_to(tau, quantiles.shape), observed)
    draw = keyed_uniform(seed, _PIT_KEY, np.arange(len(observed)), 0)
    pit = np.where(observed < quantiles[:, 0], draw * tau[0], pit)
    pit = np.where(observed > quantiles[:, -1], tau[-1] + draw * (1 - tau[-1]), pit)
    return np.where(np.isfinite(quantiles).all(1), pit, np.nan)


def crps_of_gaussian(mean: np.ndarray, std: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """CRPS of Gaussians ``(n,)``: ``s (z (2Φ(z) - 1) + 2φ(z) - 1/√π)`` (Gneiting & Raftery 2007, eq. 21).

    >>> crps_of_gaussian(np.zeros(1), np.ones(1), np.zeros(1)).round(6).tolist()
    [0.233695]
    """
    from scipy.special import ndtr

    z = (np.asarray(observed, np.float64) - mean) / std
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
