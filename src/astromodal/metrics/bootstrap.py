"""How much of a figure is luck: bootstrap by object, of any figure, and of the difference between two models.

Both models are judged on the same objects, and an object that is hard for one is hard for the other, so what is
resampled are objects with both of their errors: the interval is that of the mean *difference*, which is far narrower
than the intervals of the two means (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", sections 8.3, 13.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..errors import DataError

_CHUNK_VALUES = 4_000_000  # drawn indices that exist at once: 32 MB of them, and as much of counts


class PairedDifference(NamedTuple):
    """Mean of a - b, the ends of its interval, and how many objects it is from."""

    difference: float
    low: float
    high: float
    n_objects: int  # that have a value in both
    n_dropped: int  # that have none: NaN in either

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class Interval(NamedTuple):
    """A figure, the ends of its interval, and how many objects it is from."""

    value: float
    low: float
    high: float
    n_objects: int
    n_dropped: int  # rows with NaN in one of the arrays


def bootstrap_figures(
    figures: Callable[..., Mapping[str, float]],
    *arrays: np.ndarray,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Figures of a set of objects with their percentile intervals.

    Args:
        figures: named figures of the arrays it is given, which are ``arrays`` with their rows drawn with replacement.
        arrays: ``(n,)`` or ``(n, k)`` each; row i of all of them is object i. Objects with a value that is not finite
            are left out of everything and counted.
        n_resamples: draws of n objects; 0: no interval (its ends are NaN).
        level: share of the resamples inside of the interval. A figure that is NaN in a resample is left out there.

    Raises:
        DataError: arrays of different lengths.

    >>> found = bootstrap_figures(lambda a: {"mean": a.mean()}, np.array([2.0, 2.0, np.nan]), n_resamples=20)
    >>> found["mean"]
    Interval(value=2.0, low=2.0, high=2.0, n_objects=2, n_dropped=1)
    """
    values = [np.asarray(a, np.float64) for a in arrays]
    if not values or len({len(a) for a in values}) != 1:
        raise DataError("arrays with a row per object", got=", ".join(str(a.shape) for a in values) or "none")
    usable = np.logical_and.reduce([np.isfinite(a.reshape(len(a), -1)).all(1) for a in values])
    values = [a[usable] for a in values]
    n = int(usable.sum())
    found = {name: float(value) for name, value in figures(*values).items()}
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(n_resamples if n else 0):
        rows = rng.integers(n, size=n)
        for name, value in figures(*(a[rows] for a in values)).items():
            draws[name].append(float(value))
    tail = 50.0 * (1.0 - level)
    intervals = {}
    for name, value in found.items():
        finite = np.array(draws[name])[np.isfinite(draws[name])]
        low, high = np.percentile(finite, [tail, 100.0 - tail]) if len(finite) else (np.nan, np.nan)
        intervals[name] = Interval(value, float(low), float(high), n, len(usable) - n)
    return intervals


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, n_resamples: int = 10_000, seed: int = 0, *, level: float = 0.95
) -> PairedDifference:
    """Difference of means of two measurements of the same objects, with its percentile interval.

    Args:
        a, b: one value per object ``(n,)``; or several ``(n, k)``, where NaN says that the object lacks that part:
            then the statistic is the mean over the k columns of each column's own mean, and what is resampled are
            whole objects. An object takes part in a column if both of its values are finite.
        n_resamples: draws of n objects with replacement.
        level: share of the resamples inside of the interval.

    Raises:
        DataError: shapes differ, or a column has no object with both values.

    >>> result = paired_bootstrap(np.array([1.0, 2.0, np.nan]), np.array([0.0, 1.0, 5.0]), 100)
    >>> result.difference, result.low, result.high, result.n_objects, result.n_dropped
    (1.0, 1.0, 1.0, 2, 1)
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise DataError("two arrays (n,) or (n, k) of the same shape", got=f"{a.shape} and {b.shape}")
    both = a - b if a.ndim == 2 else (a - b)[:, None]
    valid = np.isfinite(both)
    known = valid.any(1)
    both, valid = np.where(valid, both, 0.0)[known], valid[known]
    if not valid.any(0).all() or not len(both):
        raise DataError("an object with both values in every column", got="none", where="paired_bootstrap")
    difference = float((both.sum(0) / valid.sum(0)).mean())
    means = _resampled_means(both, valid, n_resamples, np.random.default_rng(seed))
    tail = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(means, [tail, 100.0 - tail])
    return PairedDifference(difference, float(low), float(high), len(both), len(known) - len(both))


def _resampled_means(values: np.ndarray, valid: np.ndarray, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The statistic of each resample ``(n_resamples,)``; NaN where a column was left without an object."""
    n, k = values.shape
    rows = max(1, _CHUNK_VALUES // n)
    terms = np.concatenate([values, valid], axis=1)  # sums and counts, in one product
    found = np.empty(n_resamples)
    for first in range(0, n_resamples, rows):
        size = min(rows, n_resamples - first)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)  # how often each object was drawn
        sums = times @ terms
        with np.errstate(invalid="ignore"):
            found[first : first + size] = (sums[:, :k] / sums[:, k:]).mean(1)
    return found
