"""Finite scalar quantization: every dimension is rounded to a few levels, and no codebook is learned.

Mentzer et al. 2023, arXiv:2309.15505. Dimension i has ``levels[i]`` equal cells between two bounds; a code is the
mixed-radix number of the cells, the first dimension running fastest: ``code = digit_0 + levels_0 (digit_1 + levels_1
(…))``, ``digit_i = code // (levels_0 … levels_{i-1}) mod levels_i`` (as in the paper's implementation). With three
levels everywhere the digits minus one are trits: code n has the trits ``(n // 3^i) mod 3 - 1``.

In the paper the network learns to put its latents between fixed bounds. Here the vectors come from a codec that knows
nothing of them, so the bounds are taken from training data: of a few quantiles, the pair with the least squared error.

Shape legend: n rows, D dimensions, C codes.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..config.checks.levels import check_levels, check_n_levels
from ..config.schema import FSQConfig
from ..errors import ArtifactError, DataError
from ..vocabulary.codebook import Codebook
from .base import Learned, Quantizer, checked, checked_weights

CORE = 5e-4  # on each side, beyond which values are outliers: they do not take part in the choice of the bounds
TAILS = (CORE, 1e-3, 2.5e-3, 5e-3, 0.01, 0.02, 0.04, 0.08, 0.16)  # shares that may be clipped, on each side


class FSQ(Quantizer):
    """All ``prod(levels)`` combinations of cells, one code each.

    Learned: ``low_`` and ``high_`` (D,), outer edges of the end cells; ``counts_`` (C,) rows per code;
    ``clipped_`` (D,) share of the training rows beyond the bounds, which get the end cells.

    >>> fsq = FSQ(FSQConfig(levels=[3, 3])).fit(np.random.default_rng(0).uniform(-1, 1, (1000, 2)))
    >>> fsq.encode([[0.0, 0.0], [-0.9, 0.0], [0.9, -0.9]]).tolist()
    [4, 3, 2]
    >>> fsq.digits(np.array([4, 3, 2])).tolist()
    [[1, 1], [0, 1], [2, 0]]
    """

    name = "fsq"
    low_ = Learned[np.ndarray]()
    high_ = Learned[np.ndarray]()
    counts_ = Learned[np.ndarray]()
    clipped_ = Learned[np.ndarray]()

    def __init__(self, config: FSQConfig | None = None, seed: int = 0) -> None:
        self.config = FSQConfig() if config is None else config
        self.levels = np.array(list(self.config.levels), dtype=np.int64)
        check_levels(self.levels.tolist())
        self._radix = np.concatenate([[1], np.cumprod(self.levels[:-1])])
        self._book: Codebook | None = None

    def fit(self, X: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Choose the bounds from ``X`` (n, D) and count the codes.

        Raises:
            ConfigError: D is not the number of levels.
        """
        X = checked(X, "FSQ.fit")
        if not len(X):
            raise DataError("at least one row", got="none", where="FSQ.fit")
        check_n_levels(self.config.levels, X.shape[1], "FSQ.fit")
        w = checked_weights(weights, X.shape, "FSQ.fit").astype(np.float64)
        columns = w.T if w.ndim == 2 else [w] * X.shape[1]
        bounds = np.array(
            [
                best_bounds(X[:, d], column if column.any() else np.ones(len(X)), int(n))
                for d, (n, column) in enumerate(zip(self.levels, columns, strict=True))
            ]
        )
        self._set(bounds[:, 0], bounds[:, 1])
        self.counts_ = np.bincount(self.encode(X), minlength=int(self.levels.prod())).astype(np.float64)
        self.clipped_ = self.clipped(X).mean(0)
        return self

    def _set(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low_, self.high_, self._book = low.astype(np.float64), high.astype(np.float64), None

    def encode(self, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Codes (n,) int64; values beyond the bounds get the end cells. Weights change nothing."""
        X = checked(X, "FSQ.encode", len(self.levels))
        codes = np.zeros(len(X), dtype=np.int64)
        for d in range(len(self.levels)):  # over dimensions, not rows
            codes += self._radix[d] * cells(X[:, d], self.low_[d], self.high_[d], int(self.levels[d]))
        return codes

    def digits(self, codes: np.ndarray) -> np.ndarray:
        """Cells (n, D) of codes (n,), 0 … levels - 1 in each dimension."""
        return np.asarray(codes)[:, None] // self._radix % self.levels

    def clipped(self, X: np.ndarray) -> np.ndarray:
        """True (n, D) where a value lies beyond the bounds."""
        X = checked(X, "FSQ.clipped", len(self.levels))
        return (self.low_ > X) | (self.high_ < X)

    def clipped_share(self, X: np.ndarray) -> float:
        return float(self.clipped(X).mean()) if len(X) else 0.0

    def fit_figures(self) -> dict[str, Any]:
        """``fit_clipped_share``: share of the training numbers beyond the bounds."""
        return {"fit_clipped_share": float(self.clipped_.mean())}

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The centres of all combinations of cells (C, D), with the usage of each in training."""
        if self._book is None:
            digits = self.digits(np.arange(int(self.levels.prod())))
            entries = self.low_ + (digits + 0.5) * ((self.high_ - self.low_) / self.levels)
            self._book = Codebook(entries.astype(np.float32), self.counts_)
        return (self._book,)

    def state(self) -> dict[str, np.ndarray]:
        """``levels``, ``low``, ``high``, ``clipped`` (D,) and ``counts`` (C,)."""
        learned = {"low": self.low_, "high": self.high_, "clipped": self.clipped_, "counts": self.counts_}
        return {"levels": self.levels, **learned}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> Self:
        try:
            levels, low, high, clipped, counts = (
                np.asarray(state[key]) for key in ("levels", "low", "high", "clipped", "counts")
            )
        except KeyError as error:
            raise ArtifactError("levels, low, high, clipped and counts", got=f"no {error}", where="fsq") from error
        quantizer = cls(FSQConfig(levels=[int(n) for n in levels]))
        if not low.shape == high.shape == levels.shape or counts.shape != (int(levels.prod()),):
            got = f"shapes {low.shape}, {high.shape}, {counts.shape}"
            raise ArtifactError(f"bounds of {len(levels)} dimensions and {levels.prod()} counts", got=got, where="fsq")
        quantizer._set(low, high)
        quantizer.clipped_, quantizer.counts_ = clipped.astype(np.float64), counts.astype(np.float64)
        return quantizer


def cells(x: np.ndarray, low: float, high: float, n_levels: int) -> np.ndarray:
    """Cell (n,) of each value, 0 … n_levels - 1; the middle one where all training values were equal."""
    if not high > low:
        return np.full(len(x), n_levels // 2, dtype=np.int64)
    return np.clip((x.astype(np.float64) - low) * (n_levels / (high - low)), 0, n_levels - 1).astype(np.int64)


def best_bounds(x: np.ndarray, weights: np.ndarray, n_levels: int) -> tuple[float, float]:
    """Of the quantile pairs ``TAILS``, the one whose cells have the least weighted squared error.

    Few levels want narrow bounds (three levels of a Gaussian: 1.8 sigma, eight: 2.3). Outliers beyond ``CORE`` count as
    if they stood there, so that one wild value cannot stretch the cells of all others. Values that already stand on
    ``n_levels`` evenly spaced points, as the trits of the codec ``ternary_vae``, get a cell around each: nothing is
    lost.
    """
    x, weights = x[weights > 0], weights[weights > 0]
    order = np.argsort(x, kind="stable")
    ordered, mass = x[order].astype(np.float64), np.cumsum(weights[order])
    mass /= mass[-1]

    def quantile(q: float) -> float:
        return float(ordered[min(int(np.searchsorted(mass, q, side="left")), len(ordered) - 1)])

    step = (ordered[-1] - ordered[0]) / max(n_levels - 1, 1)
    if step > 0 and np.abs((ordered - ordered[0]) / step - np.rint((ordered - ordered[0]) / step)).max() < 1e-6:
        return float(ordered[0] - step / 2), float(ordered[-1] + step / 2)
    core = np.clip(ordered, quantile(CORE), quantile(1.0 - CORE))
    w = weights[order]
    best, least = (float(ordered[0]), float(ordered[-1])), np.inf
    for tail in TAILS:
        low, high = quantile(tail), quantile(1.0 - tail)
        if high > low:
            centres = low + (cells(core, low, high, n_levels) + 0.5) * ((high - low) / n_levels)
            error = float(w @ np.square(core - centres))
            if error < least:
                best, least = (low, high), error
    return best
