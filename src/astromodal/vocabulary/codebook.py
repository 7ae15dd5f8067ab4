"""Codebooks with the statistics that make their errors comparable.

A reconstruction error is taken in units of the codebook's own spread: subtract the usage-weighted mean,
divide by *one* number, the square root of the usage-weighted total variance over the training codes, and sum
over the dimensions. An error of 1 then means "no better than the mean", for every codebook of any dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ArtifactError


def _weights(counts: np.ndarray) -> np.ndarray:
    """Usage as probabilities along the last axis; a codebook that was never used weighs uniformly."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(-1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1.0), 1.0 / max(counts.shape[-1], 1))


@dataclass(frozen=True)
class Codebook:
    """Entries ``(C, D)`` in the units of the data and how often each was used in training, ``(C,)``."""

    entries: np.ndarray
    counts: np.ndarray

    def __init__(self, entries: np.ndarray, counts: np.ndarray | None = None) -> None:
        entries = np.asarray(entries, dtype=np.float32)
        if entries.ndim == 1:
            entries = entries[:, None]
        if entries.ndim != 2 or not np.isfinite(entries).all():
            raise ArtifactError("a finite codebook of shape (C, D)", got=f"shape {entries.shape}")
        counts = np.ones(len(entries)) if counts is None else np.asarray(counts, dtype=np.float64)
        if counts.shape != (len(entries),):
            raise ArtifactError(f"usage counts of shape ({len(entries)},)", got=counts.shape)
        object.__setattr__(self, "entries", entries)
        object.__setattr__(self, "counts", counts)

    @property
    def mean(self) -> np.ndarray:
        """Usage-weighted mean, ``(D,)``."""
        return (_weights(self.counts)[:, None] * self.entries).sum(0)

    @property
    def scale(self) -> float:
        """Square root of the usage-weighted total variance; 1 for a codebook without spread."""
        variance = float((_weights(self.counts) * ((self.entries - self.mean) ** 2).sum(1)).sum())
        return float(np.sqrt(variance)) if variance > 0 else 1.0


@dataclass(frozen=True)
class ScalarCodebook:
    """Bin centres of all scalar columns, in each column's transformed space, float64: they may have a unit.

    ``centers`` and ``counts`` are ``(n_columns, V)``, padded with 0 beyond a column's ``n_bins``.
    """

    columns: Sequence[str]
    centers: np.ndarray
    counts: np.ndarray
    n_bins: np.ndarray

    def __post_init__(self) -> None:
        for name in ("centers", "counts"):
            array = np.asarray(getattr(self, name), dtype=np.float64)
            if array.ndim != 2 or len(array) != len(self.columns) or not np.isfinite(array).all():
                raise ArtifactError(f"finite {name} of shape ({len(self.columns)}, V)", got=f"shape {array.shape}")
            object.__setattr__(self, name, array)
        object.__setattr__(self, "n_bins", np.asarray(self.n_bins, dtype=np.int64))

    @property
    def mean(self) -> np.ndarray:
        """Usage-weighted mean of each column, ``(n_columns,)``."""
        return (_weights(self._used()) * self.centers).sum(1)

    @property
    def scale(self) -> np.ndarray:
        """Usage-weighted standard deviation of each column, ``(n_columns,)``; 1 where there is no spread."""
        variance = (_weights(self._used()) * (self.centers - self.mean[:, None]) ** 2).sum(1)
        return np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1.0)

    def _used(self) -> np.ndarray:
        """Counts, with the padding at exactly 0 and columns without counts uniform over their bins."""
        real = np.arange(self.centers.shape[1])[None] < self.n_bins[:, None]
        counts = np.where(real, self.counts, 0.0)
        return np.where(counts.sum(1, keepdims=True) > 0, counts, real.astype(np.float64))
