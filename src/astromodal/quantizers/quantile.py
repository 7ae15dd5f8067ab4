"""Quantile bins for one column of numbers: as many values in each bin as ties allow.

The centre of a bin is the mean of the training values in it, which minimises the squared error of decoding.
Quantiles are those of ``np.quantile(method="inverted_cdf")`` (Hyndman & Fan 1996, definition 1), found without a full
sort (:mod:`.order`); bins those of ``np.searchsorted``, found in a table (:mod:`.cells`). Both are exact.

A value that would fill more than a bin gets one of its own, wherever it stands; the other bins are shared out among
the rest of the values (:mod:`.heavy`). Otherwise a value of 97 % of the rows would leave one bin for all others.

Values are what a catalogue says, in whatever unit: float64 is kept (float32 too, for numbers without a unit).
"""

from __future__ import annotations

from typing import Self

import numpy as np

from ..errors import ArtifactError, ConfigError, DataError
from ..vocabulary.codebook import Codebook
from .base import Learned, Quantizer, checked
from .cells import BLOCK_ROWS, N_CELLS, CellMap, best_map
from .heavy import edges_around_heavy
from .order import Ranked

LOOKUP_ROWS = 1 << 14  # fewer values than this are searched without a table


def exact_quantiles(ordered: np.ndarray, n_bins: int) -> np.ndarray:
    """The ``n_bins - 1`` inner quantiles of sorted values, each of them one of the values.

    >>> exact_quantiles(np.arange(8.0), 4).tolist()
    [1.0, 3.0, 5.0]
    """
    return ordered[quantile_ranks(len(ordered), n_bins)]


def quantile_ranks(n: int, n_bins: int) -> np.ndarray:
    """Ranks (n_bins - 1,), from 0, of the inner quantiles of n values."""
    return (np.arange(1, n_bins, dtype=np.int64) * n + n_bins - 1) // n_bins - 1


class QuantileBinner(Quantizer):
    """At most ``n_bins`` bins ``(edge[k], edge[k+1]]``; the first contains its lower edge too.

    Learned: ``edges_`` (B + 1,) from the smallest to the largest training value, ``centers_``, ``spread_``
    (standard deviation of the values in the bin) and ``counts_``, each (B,).

    Args:
        n_bins: upper limit of the number of bins.
        min_values_per_bin: with n values there are at most ``n / min_values_per_bin`` bins.

    >>> binner = QuantileBinner(n_bins=2, min_values_per_bin=1).fit([1.0, 2.0, 3.0, 8.0])
    >>> binner.edges_.tolist(), binner.centers_.tolist()
    ([1.0, 2.0, 8.0], [1.5, 5.5])
    >>> binner.encode([0.0, 2.0, 2.1, 9.0]).tolist(), binner.clipped([0.0, 2.0, 2.1, 9.0]).tolist()
    ([0, 0, 1, 1], [True, False, False, True])
    """

    name = "quantile"
    edges_ = Learned[np.ndarray]()
    centers_ = Learned[np.ndarray]()
    spread_ = Learned[np.ndarray]()
    counts_ = Learned[np.ndarray]()

    def __init__(self, n_bins: int = 1024, min_values_per_bin: int = 8) -> None:
        if n_bins < 1 or min_values_per_bin < 1:
            raise ConfigError("n_bins and min_values_per_bin of 1 or more", got=(n_bins, min_values_per_bin))
        self.n_bins, self.min_values_per_bin = n_bins, min_values_per_bin
        self._table: tuple[CellMap, np.ndarray] | None = None

    def fit(self, X: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Learn bins from ``X`` (n,) or (n, 1)."""
        values = checked(X, "QuantileBinner.fit", 1, double=True)[:, 0]
        if not len(values):
            raise DataError("at least one value", got="none", where="QuantileBinner.fit")
        n_bins = max(min(self.n_bins, len(values) // self.min_values_per_bin), 1)
        ranked = Ranked(values) if weights is None else None
        if ranked is not None and ranked.has_more_distinct_than(n_bins):
            inner = ranked.at(quantile_ranks(len(values), n_bins))
            if ranked.by_cells and not _repeats(inner, ranked.high):
                self.edges_ = np.concatenate([[ranked.low], inner, [ranked.high]])
                self._learned(*ranked.moments(inner))
                return self
        cumulative: np.ndarray | None = None
        if ranked is not None:
            ordered = ranked.ordered
        else:
            order = np.argsort(values, kind="stable")
            ordered, cumulative = values[order], np.cumsum(np.asarray(weights, dtype=np.float64)[order])
        inner = self._inner_edges(ordered, cumulative, n_bins, self.min_values_per_bin)
        starts = np.concatenate([[0], np.searchsorted(ordered, inner, side="right")])
        self.edges_ = np.concatenate([ordered[:1], inner, ordered[-1:]])
        self._describe(ordered, starts, None if cumulative is None else np.diff(cumulative, prepend=0.0))
        return self

    @staticmethod
    def _inner_edges(ordered: np.ndarray, cumulative: np.ndarray | None, n_bins: int, least: int) -> np.ndarray:
        """Inner edges without duplicates; few distinct values get one bin each."""
        is_last = np.append(ordered[1:] != ordered[:-1], True)  # of a run of equal values
        if np.count_nonzero(is_last) <= n_bins:
            return ordered[is_last][:-1]
        if cumulative is None:
            inner = exact_quantiles(ordered, n_bins)
        else:
            targets = cumulative[-1] * np.arange(1, n_bins) / n_bins
            inner = ordered[np.minimum(np.searchsorted(cumulative, targets, side="left"), len(ordered) - 1)]
        if not _repeats(inner, ordered[-1]):
            return inner
        last = np.flatnonzero(is_last)
        weights = None if cumulative is None else np.diff(cumulative[last], prepend=0.0)
        return edges_around_heavy(ordered[last], np.diff(last, prepend=-1), weights, n_bins, least)

    def _describe(self, ordered: np.ndarray, starts: np.ndarray, weights: np.ndarray | None) -> None:
        """Mean, standard deviation and count of the values in each bin; ``starts`` are the bins' first ranks."""
        sizes = np.diff(starts, append=len(ordered))
        w = None if weights is None or weights.sum() <= 0 else weights

        def mean(values: np.ndarray) -> np.ndarray:
            if w is None:
                return np.add.reduceat(values, starts, dtype=np.float64) / sizes
            total = np.add.reduceat(w, starts)
            plain = np.add.reduceat(values, starts, dtype=np.float64) / sizes
            weighted = np.add.reduceat(values * w, starts) / np.where(total > 0, total, 1.0)
            return np.where(total > 0, weighted, plain)

        one_value = ordered[starts] == ordered[starts + sizes - 1]
        centers = np.where(one_value, ordered[starts], mean(ordered))  # a mean of equal numbers may be rounded
        deviation = ordered - np.repeat(centers.astype(ordered.dtype), sizes)
        self._learned(sizes, centers, mean(np.square(deviation, out=deviation)))

    def _learned(self, sizes: np.ndarray, centers: np.ndarray, variances: np.ndarray) -> None:
        kind = self.edges_.dtype
        self.counts_, self.centers_ = sizes.astype(np.float64), centers.astype(kind)
        self.spread_ = np.sqrt(variances).astype(kind)
        self._table = None

    def encode(self, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Bins (n,) int64 of ``X`` (n,) or (n, 1); values beyond the end bins get these. Weights change nothing."""
        values = self._asked(X, "QuantileBinner.encode")
        inner = self.edges_[1:-1]
        if len(values) < LOOKUP_ROWS or len(inner) < 2:
            return np.searchsorted(inner, values, side="left").astype(np.int64)
        return self._lookup(values)

    def _lookup(self, values: np.ndarray) -> np.ndarray:
        """The search for many values: a table says the bin of a cell, only cells that hold an edge are searched."""
        inner = self.edges_[1:-1]
        if self._table is None:
            cells = best_map(inner)
            if cells is None:  # edges that span too little, or too much, for a map
                return np.searchsorted(inner, values, side="left").astype(np.int64)
            n_cuts = np.bincount(cells(inner), minlength=N_CELLS)
            code_and_edge = ((np.cumsum(n_cuts) - n_cuts) * 2 + (n_cuts > 0)).astype(np.int32)  # code * 2 + has an edge
            self._table = cells, code_and_edge
        cell_of, table = self._table
        codes = np.empty(len(values), dtype=np.int64)
        for start in range(0, len(values), BLOCK_ROWS):
            block = values[start : start + BLOCK_ROWS]
            entries = table[cell_of(block)]
            out = codes[start : start + BLOCK_ROWS]
            np.right_shift(entries, 1, out=out)
            unsure = np.flatnonzero(entries & 1)
            out[unsure] = np.searchsorted(inner, block[unsure], side="left")
        return codes

    def clipped(self, X: np.ndarray) -> np.ndarray:
        """True (n,) where a value lies outside of the range of the training values (the end points belong to it)."""
        values = self._asked(X, "QuantileBinner.clipped")
        return (values < self.edges_[0]) | (values > self.edges_[-1])

    def clipped_share(self, X: np.ndarray) -> float:
        return float(self.clipped(X).mean()) if len(X) else 0.0

    def _asked(self, X: np.ndarray, where: str) -> np.ndarray:
        """Values (n,) of the type of the edges, finite."""
        if self.edges_.dtype == np.float32:
            return checked(X, where, 1)[:, 0]
        return checked(np.asarray(X, np.float64), where, 1, double=True)[:, 0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Centres (n, 1), of the type of the values, of codes (n,).

        Raises:
            DataError: a code is outside of the bins, or the shape is wrong.
        """
        codes, centers = np.asarray(codes), self.centers_
        codes = codes[:, 0] if codes.ndim == 2 and codes.shape[1] == 1 else codes
        if codes.ndim != 1:
            raise DataError("codes of shape (n,)", got=f"shape {codes.shape}", where="QuantileBinner.decode")
        if codes.size and (codes.min() < 0 or codes.max() >= len(centers)):
            raise DataError(f"codes in 0 … {len(centers) - 1}", got=f"{codes.min()} … {codes.max()}")
        return centers[codes][:, None]

    @property
    def sizes(self) -> tuple[int, ...]:
        return (len(self.centers_),)

    @property
    def n_codes(self) -> int:
        return self.sizes[0]

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """Centres (B, 1), as float32, and counts (B,)."""
        return (Codebook(self.centers_, self.counts_),)

    def state(self) -> dict[str, np.ndarray]:
        """``edges``, ``centers``, ``spread``, ``counts``."""
        return {"edges": self.edges_, "centers": self.centers_, "spread": self.spread_, "counts": self.counts_}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> Self:
        try:
            edges = np.asarray(state["edges"])
            kind = np.float32 if edges.dtype == np.float32 else np.float64
            edges, centers, spread = (np.asarray(state[key], kind) for key in ("edges", "centers", "spread"))
            counts = np.asarray(state["counts"], np.float64)
        except KeyError as error:
            raise ArtifactError("edges, centers, spread and counts of bins", got=f"no {error}") from error
        if len(edges) != len(centers) + 1:
            raise ArtifactError(f"{len(centers) + 1} edges of {len(centers)} bins", got=len(edges))
        binner = cls(n_bins=len(centers), min_values_per_bin=1)
        binner.edges_, binner.centers_, binner.spread_, binner.counts_ = edges, centers, spread, counts
        return binner


def _repeats(inner: np.ndarray, highest: np.floating) -> bool:
    """Whether inner quantiles (K,) repeat or are the largest value, so that they do not all part two bins."""
    return bool(len(inner)) and (inner[-1] >= highest or bool((inner[1:] <= inner[:-1]).any()))
