"""How far a reconstruction is from the truth: whole arrays at once, or as sums over a stream of batches.

``mask`` is True (or a weight above 0) where a value counts; everything is accumulated in float64.
"""

from __future__ import annotations

import numpy as np


def _valid(true: np.ndarray, predicted: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = np.broadcast_arrays(np.asarray(true, np.float64), np.asarray(predicted, np.float64))
    keep = np.ones(true.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask) > 0, true.shape)
    return true[keep], predicted[keep]


def rmse(true: np.ndarray, predicted: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Root of the mean squared error, in the unit of the values; NaN without values.

    >>> rmse(np.array([1.0, 2.0, 9.0]), np.array([1.0, 4.0, 0.0]), mask=np.array([1, 1, 0])) == 2**0.5
    True
    """
    a, b = _valid(true, predicted, mask)
    return float(np.sqrt(np.mean((a - b) ** 2))) if a.size else float("nan")


def mae(true: np.ndarray, predicted: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute error, in the unit of the values; NaN without values."""
    a, b = _valid(true, predicted, mask)
    return float(np.mean(np.abs(a - b))) if a.size else float("nan")


def fraction_of_variance(true: np.ndarray, predicted: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Squared error over that of predicting the mean: 0 is perfect, 1 is no better than the mean.

    A constant truth has no variance to explain: 0 if it is met exactly, else infinity. NaN without values.

    >>> fraction_of_variance(np.array([-1.0, 1.0]), np.array([0.0, 0.0]))
    1.0
    """
    a, b = _valid(true, predicted, mask)
    return _ratio(float(((a - b) ** 2).sum()), float(((a - a.mean()) ** 2).sum())) if a.size else float("nan")


def r2(true: np.ndarray, predicted: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Coefficient of determination, ``1 - fraction_of_variance``."""
    return 1.0 - fraction_of_variance(true, predicted, mask)


def chi2(true: np.ndarray, predicted: np.ndarray, ivar: np.ndarray) -> float:
    """Mean of ``ivar * (true - predicted)**2`` over the values with ``ivar > 0``; NaN without any.

    1 means that the reconstruction is off by as much as the noise.
    """
    ivar = np.broadcast_to(np.asarray(ivar, np.float64), np.shape(true))
    a, b = _valid(true, predicted, ivar)
    return float((ivar[ivar > 0] * (a - b) ** 2).mean()) if a.size else float("nan")


def _ratio(error: float, total: float) -> float:
    if total > 0:
        return error / total
    return 0.0 if error == 0 else float("inf")


class ErrorSums:
    """The same figures as sums over batches, one set per column of ``(n, D)`` arrays.

    The variance is taken per column about the column's own mean, so that over spectra "the mean" is the mean
    spectrum. Values are shifted by the column's first value before they are squared, because the sums of squares
    of a redshift and of a flux of 1e7 would otherwise lose the spread to rounding.
    """

    def __init__(self, n_columns: int) -> None:
        self.n = np.zeros(n_columns, dtype=np.int64)
        self._shift = np.full(n_columns, np.nan)
        self._sums = np.zeros((4, n_columns))  # x, x², error², |error|
        self._chi2, self._n_chi2 = 0.0, 0

    def add(
        self, true: np.ndarray, predicted: np.ndarray, mask: np.ndarray, precision: np.ndarray | None = None
    ) -> None:
        """Add a batch ``(n, D)``; ``precision`` is 1/sigma in the unit of the values, 0 where unknown."""
        mask = np.asarray(mask, dtype=bool)
        true = np.where(mask, true, 0.0).astype(np.float64)
        error = np.where(mask, predicted, 0.0) - true
        fresh = np.isnan(self._shift) & mask.any(0)
        self._shift[fresh] = true[mask.argmax(0), np.arange(mask.shape[1])][fresh]
        centred = np.where(mask, true - np.nan_to_num(self._shift), 0.0)
        self.n += mask.sum(0)
        self._sums += np.stack([centred.sum(0), (centred**2).sum(0), (error**2).sum(0), np.abs(error).sum(0)])
        if precision is not None:
            known = mask & (precision > 0)
            self._chi2 += float(((error * precision)[known] ** 2).sum())
            self._n_chi2 += int(known.sum())

    def merge(self, other: ErrorSums) -> None:
        """Add the sums of another part; the last bits depend on the order."""
        fresh = np.isnan(self._shift)
        self._shift[fresh] = other._shift[fresh]
        step = np.where(other.n > 0, other._shift - self._shift, 0.0)
        x, squares, *errors = other._sums
        self._sums += np.stack([x + other.n * step, squares + 2 * step * x + other.n * step**2, *errors])
        self.n += other.n
        self._chi2 += other._chi2
        self._n_chi2 += other._n_chi2

    @property
    def _total(self) -> np.ndarray:
        n = np.maximum(self.n, 1)
        return np.maximum(self._sums[1] - self._sums[0] ** 2 / n, 0.0)

    def rmse(self) -> np.ndarray:
        """Per column, (D,); NaN without values."""
        return self._mean(np.sqrt(self._sums[2] / np.maximum(self.n, 1)))

    def mae(self) -> np.ndarray:
        """Per column, (D,); NaN without values."""
        return self._mean(self._sums[3] / np.maximum(self.n, 1))

    def std(self) -> np.ndarray:
        """Standard deviation of the truth per column, (D,); NaN without values."""
        return self._mean(np.sqrt(self._total / np.maximum(self.n, 1)))

    def fractions_of_variance(self) -> np.ndarray:
        """Per column, (D,); see :func:`fraction_of_variance`."""
        pairs = zip(self._sums[2].tolist(), self._total.tolist(), strict=True)
        return self._mean(np.array([_ratio(error, total) for error, total in pairs]))

    def total_rmse(self) -> float:
        """Over all columns together."""
        return float(np.sqrt(self._sums[2].sum() / self.n.sum())) if self.n.any() else float("nan")

    def total_fraction_of_variance(self) -> float:
        """Over all columns together: squared error over that of predicting each column's mean."""
        return _ratio(float(self._sums[2].sum()), float(self._total.sum())) if self.n.any() else float("nan")

    def chi2(self) -> float:
        """Mean of ``(error * precision)**2`` where the precision is known; NaN without any."""
        return self._chi2 / self._n_chi2 if self._n_chi2 else float("nan")

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.n > 0, values, np.nan)
