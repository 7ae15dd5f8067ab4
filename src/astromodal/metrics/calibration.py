"""Whether predicted uncertainties are the true ones: PIT values, coverage, sharpness.

The PIT values of calibrated predictions are uniform (Dawid 1984; Gneiting, Balabdaoui & Raftery 2007, JRSS B 69, 243):
a U-shaped histogram means too narrow, a hump too wide, a slope biased. Calibration alone is cheap (the marginal
distribution has it), so it stands beside sharpness: how narrow the predictions are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError

SIGMA_1, SIGMA_2 = 0.68, 0.95  # the intervals of reports
COVERAGE_LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


def _finite(pit: np.ndarray) -> np.ndarray:
    pit = np.asarray(pit, np.float64).ravel()
    pit = pit[np.isfinite(pit)]
    if ((pit < 0) | (pit > 1)).any():
        raise DataError("PIT values from 0 to 1", got=f"{pit.min():.3g} to {pit.max():.3g}")
    return pit


def pit_histogram(pit: np.ndarray, n_bins: int = 20) -> np.ndarray:
    """Counts ``(n_bins,)`` of PIT values in bins of equal width; NaN is left out.

    >>> pit_histogram(np.array([0.0, 0.1, 0.9, 1.0, np.nan]), 2).tolist()
    [2, 2]
    """
    return np.histogram(_finite(pit), bins=n_bins, range=(0.0, 1.0))[0]


def uniformity(pit: np.ndarray, n_bins: int = 20) -> dict[str, float]:
    """Tests of PIT values against the uniform distribution.

    Returns:
        ``ks`` (largest distance of the cumulative functions) with its ``ks_p``, ``chi2`` (of ``n_bins`` equal bins)
        with its ``chi2_p``, ``n`` used, ``n_left_out`` (NaN). A large sample makes any p value small: ``ks`` itself
        says how large the fault is.
    """
    from scipy import stats

    values = _finite(pit)
    n, left_out = len(values), int(np.size(pit) - len(values))
    if not n:
        return dict.fromkeys(("ks", "ks_p", "chi2", "chi2_p"), float("nan")) | {"n": 0, "n_left_out": left_out}
    ks = stats.kstest(values, "uniform")
    chi2 = stats.chisquare(pit_histogram(values, n_bins))
    return {
        "ks": float(ks.statistic),
        "ks_p": float(ks.pvalue),
        "chi2": float(chi2.statistic),
        "chi2_p": float(chi2.pvalue),
        "n": n,
        "n_left_out": left_out,
    }


def level_test(pit: np.ndarray, levels: Sequence[float]) -> dict[str, object]:
    """PIT values between quantile levels against their expected shares: what quantiles alone can be tested for.

    Between two levels a distribution that is known by its quantiles is only interpolated, so a finer histogram would
    show the interpolation.

    Returns:
        ``edges`` (0, the levels, 1), ``shares`` of the objects between them, ``chi2`` with its ``chi2_p``, ``n``.

    >>> level_test(np.array([0.1, 0.2, 0.6, 0.9]), [0.5])["shares"]
    [0.5, 0.5]
    """
    from scipy import stats

    values, edges = _finite(pit), np.concatenate([[0.0], np.asarray(levels, np.float64), [1.0]])
    counts, n = np.histogram(values, bins=edges)[0], len(values)
    if not n:
        nothing = [float("nan")] * (len(edges) - 1)
        return {"edges": edges.tolist(), "shares": nothing, "chi2": float("nan"), "chi2_p": float("nan"), "n": 0}
    test = stats.chisquare(counts, np.diff(edges) * n)
    return {
        "edges": edges.tolist(),
        "shares": (counts / n).tolist(),
        "chi2": float(test.statistic),
        "chi2_p": float(test.pvalue),
        "n": n,
    }


def coverage(pit: np.ndarray, levels: Sequence[float] = (SIGMA_1, SIGMA_2)) -> np.ndarray:
    """Share of objects inside of their central interval of each level, ``(k,)``; NaN without objects.

    An object is inside of the central interval of level p if its PIT is from (1 - p) / 2 to (1 + p) / 2.

    >>> coverage(np.array([0.05, 0.4, 0.6, 0.99]), [0.5, 0.95]).tolist()
    [0.5, 0.75]
    """
    distance = np.abs(_finite(pit) - 0.5)
    if not len(distance):
        return np.full(len(levels), np.nan)
    half = np.asarray(levels, np.float64) / 2
    return (distance[:, None] <= half + 1e-12).mean(0)


def coverage_error(pit: np.ndarray, levels: Sequence[float] = COVERAGE_LEVELS) -> float:
    """Mean absolute difference between coverage and nominal level; 0 is calibrated, 0.5 the worst."""
    return float(np.abs(coverage(pit, levels) - np.asarray(levels)).mean())


def sharpness(low: np.ndarray, high: np.ndarray) -> float:
    """Median width of the intervals ``(n,)``, in the unit of the values; NaN without any."""
    width = np.asarray(high, np.float64) - np.asarray(low, np.float64)
    width = width[np.isfinite(width)]
    return float(np.median(width)) if len(width) else float("nan")


def pull_figures(observed: np.ndarray, mean: np.ndarray, std: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation of ``(observed - mean) / std``: 0 and 1 where the stated errors are right."""
    observed, mean, std = (np.asarray(a, np.float64) for a in (observed, mean, std))
    usable = np.isfinite(observed) & np.isfinite(mean) & (std > 0)
    if not usable.any():
        return {"pull_mean": float("nan"), "pull_std": float("nan")}
    pull = (observed[usable] - mean[usable]) / std[usable]
    return {"pull_mean": float(pull.mean()), "pull_std": float(pull.std())}
