"""Bins of values of which some take more than their share: a probability of 1, an upper limit, a count of 0.

Quantiles of such values fall on the heavy one again and again, and nothing is left to tell the others apart. Here each
heavy value gets a bin of its own, and the rest of the bins are shared out among the stretches between them by weight.

Shape legend: d distinct values.
"""

from __future__ import annotations

import numpy as np


def edges_around_heavy(
    values: np.ndarray, counts: np.ndarray, weights: np.ndarray | None, n_bins: int, min_values: int
) -> np.ndarray:
    """Inner edges, ascending and distinct, of at most ``n_bins`` bins of ascending distinct ``values`` (d,).

    Args:
        counts: how often each value stands, (d,).
        weights: what each weighs, (d,); default: its count.
        min_values: bins of a stretch hold at least so many rows on average, unless it has only one bin.

    >>> edges_around_heavy(np.arange(6.0), np.array([1, 1, 1, 1, 96, 1]), None, n_bins=4, min_values=1)
    array([1., 3., 4.])
    """
    weights = counts.astype(np.float64) if weights is None else weights
    heavy = _heavy(weights, n_bins)
    stretch = np.where(heavy, -1, np.cumsum(heavy))  # number of the stretch between heavy values
    names = np.unique(stretch[~heavy])
    stretches = [np.flatnonzero(stretch == name) for name in names]
    spare = _shared(n_bins - int(heavy.sum()) - len(names), np.array([weights[rows].sum() for rows in stretches]))
    edges = [values[heavy]]
    for rows, more in zip(stretches, spare, strict=True):
        most = max(1, int(counts[rows].sum()) // min_values)
        edges.append(_quantiles(values[rows], weights[rows], min(1 + int(more), most)))
        edges.append(values[rows[-1:]])
    inner = np.unique(np.concatenate(edges))
    return inner[inner < values[-1]]  # an edge at the largest value would leave the last bin empty


def _heavy(weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Values (d,) bool that would fill more than one of the bins that are left for the rest.

    Every heavy value may part two stretches, which need a bin each: there are fewer than half as many as bins.
    """
    heavy, room = np.zeros(len(weights), bool), (n_bins - 1) // 2
    while (free := room - int(heavy.sum())) > 0:
        light = np.where(heavy, 0.0, weights)
        more = np.flatnonzero(light * (n_bins - heavy.sum()) > light.sum())
        if not len(more):
            break
        heavy[more[np.argsort(-light[more], kind="stable")[:free]]] = True
    return heavy


def _shared(n: int, weights: np.ndarray) -> np.ndarray:
    """``n`` bins shared out by weight, (s,) int64: whole ones first, then the largest remainders.

    >>> _shared(3, np.array([8.0, 2.0]))
    array([2, 1])
    """
    exact = n * weights / weights.sum() if weights.sum() > 0 else np.zeros(len(weights))
    whole = np.floor(exact).astype(np.int64)
    first = np.argsort(whole - exact, kind="stable")[: n - int(whole.sum())]
    whole[first] += 1
    return whole


def _quantiles(values: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Inner quantiles of distinct values (d,); of equal weights those of ``np.quantile(method="inverted_cdf")``."""
    cumulative = np.cumsum(weights)
    targets = cumulative[-1] * np.arange(1, n_bins) / n_bins
    return values[np.minimum(np.searchsorted(cumulative, targets, side="left"), len(values) - 1)]
