"""From a model's distribution over the bins of a column to numbers in the column's physical unit.

The bins of a column lie in its transformed space (``identity``, ``log10``, ``asinh``) between saved edges.

* *Quantiles and median*: the probability of a bin is spread evenly between its edges, which makes the distribution
  function a polygon; a quantile is where it has its value, brought back by the inverse of the transform. Transforms
  rise, so that this is the quantile of the physical distribution.
* *Mean*: of the bins' centres in physical units (the inverse of the centre, which is the mean of the training values
  in transformed space). Not the inverse of the mean in transformed space, which for a logarithm is lower.
* *Standard deviation*: of the centres in physical units around that mean, and the spread that the training values
  have within each bin (brought to physical units to first order), by the law of total variance.
* *PIT*: the distribution function at the observed value; uniform if the posterior is calibrated.
* *CRPS*: against the observed value, in the physical unit, with the mass of a bin spread evenly between its ends there.

Shapes: N posteriors, C columns, V bins, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.scalars import inverse_transform, transform
from ..files.io import save_npz
from ..metrics.posterior import crps

if TYPE_CHECKING:
    from ..tokenizers.scalar import ScalarTokenizer


class ColumnBins:
    """Edges and centres of the columns of a ``ScalarTokenizer``.

    ``edges (C, V + 1)`` in transformed space, ``centers`` and ``spread (C, V)`` in physical units, float64; 0 beyond
    the ``n_bins (C,)`` of a column.
    """

    def __init__(self, tokenizer: ScalarTokenizer) -> None:
        self.columns: tuple[str, ...] = tuple(tokenizer.columns)
        self.configs = [tokenizer.configs[name] for name in self.columns]
        self.n_bins = np.array([len(binner.centers_) for binner in tokenizer.binners])
        width = int(self.n_bins.max(initial=1))
        self.edges = np.zeros((len(self.columns), width + 1))
        self.centers, self.spread = (np.zeros((len(self.columns), width)) for _ in range(2))
        for j, (binner, config, n) in enumerate(zip(tokenizer.binners, self.configs, self.n_bins, strict=True)):
            middle, sigma = (np.asarray(x, np.float64) for x in (binner.centers_, binner.spread_))
            self.edges[j, : n + 1] = np.maximum.accumulate(np.asarray(binner.edges_, np.float64))
            self.centers[j, :n] = inverse_transform(middle, config)
            low, high = (inverse_transform(x, config) for x in (middle - sigma, middle + sigma))
            self.spread[j, :n] = (high - low) / 2

    def column(self, name: str) -> int:
        return self.columns.index(name)

    def summary(
        self, probability: np.ndarray, column: int, quantiles: Sequence[float], observed: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """``mean median std pit crps (N,)`` and ``quantiles (N, Q)`` of posteriors of one column, float64, physical.

        Args:
            probability: over the column's bins ``(N, V')`` with at least ``n_bins`` of them; each row sums to 1.
            observed: physical values ``(N,)``, NaN where unknown, for ``pit`` and ``crps``.
        """
        n, config = int(self.n_bins[column]), self.configs[column]
        p = np.asarray(probability[:, :n], np.float64)
        centers, edges = self.centers[column, :n], self.edges[column, : n + 1]
        mean = p @ centers
        variance = p @ (self.spread[column, :n] ** 2) + (p * (centers - mean[:, None]) ** 2).sum(1)
        below = np.zeros((len(p), n + 1))
        np.cumsum(p, axis=1, out=below[:, 1:])
        below /= below[:, -1:]
        physical = inverse_transform(_quantiles(below, edges, np.array([0.5, *quantiles])), config)
        pit = score = np.full(len(p), np.nan)
        if observed is not None:
            observed = np.asarray(observed, np.float64)
            pit = _at(below, edges, transform(observed, config))
            score = crps(inverse_transform(edges, config), below, observed)
        return {
            "mean": mean,
            "median": physical[:, 0],
            "std": np.sqrt(variance),
            "quantiles": physical[:, 1:],
            "pit": pit,
            "crps": score,
        }

    def save(self, path: Path, columns: Sequence[str]) -> None:
        """Write what a posterior's entries mean: ``edges_<c> (V + 1,)`` and ``centers_<c> (V,)`` in physical units,
        ``transformed_edges_<c>`` in the space in which a bin is even."""
        arrays: dict[str, np.ndarray] = {"columns": np.array(columns, np.str_)}
        for name in columns:
            j = self.column(name)
            n = self.n_bins[j]
            edges = self.edges[j, : n + 1]
            arrays |= {
                f"edges_{name}": inverse_transform(edges, self.configs[j]),
                f"centers_{name}": self.centers[j, :n],
                f"transformed_edges_{name}": edges,
            }
        save_npz(path, arrays)


def _quantiles(below: np.ndarray, edges: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Where the polygon through ``(edges, below)`` of each row first reaches each of ``q (Q,)``: ``(N, Q)``."""
    n, width = below.shape
    rows = np.arange(n)[:, None]
    # One search for all rows: row r lies between 2 r and 2 r + 1.
    found = np.searchsorted((below + 2.0 * rows).ravel(), (q + 2.0 * rows).ravel(), side="left").reshape(n, -1)
    bin_ = np.clip(found - rows * width - 1, 0, width - 2)
    low, high = below[rows, bin_], below[rows, bin_ + 1]
    share = np.divide(q - low, high - low, out=np.zeros(bin_.shape), where=high > low)
    return edges[bin_] + np.clip(share, 0.0, 1.0) * (edges[bin_ + 1] - edges[bin_])


def _at(below: np.ndarray, edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The polygon of each row at a value of its own ``(N,)``; NaN where the value is.

    Bins without width hold one value; there it is the middle of the step.
    """
    known = np.isfinite(values)
    value = np.clip(np.where(known, values, edges[0]), edges[0], edges[-1])
    bin_ = np.clip(np.searchsorted(edges[1:-1], value, side="left"), 0, len(edges) - 2)
    width = edges[bin_ + 1] - edges[bin_]
    share = np.divide(value - edges[bin_], width, out=np.full(len(value), 0.5), where=width > 0)
    rows = np.arange(len(below))
    low, high = below[rows, bin_], below[rows, bin_ + 1]
    return np.where(known, low + np.clip(share, 0.0, 1.0) * (high - low), np.nan)
