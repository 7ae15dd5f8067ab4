"""The contract of a quantizer: vectors in, codes out, and back to the entry that stands for the code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np

from ..core.codebook import Codebook
from ..errors import ArtifactError, DataError


def checked(X: np.ndarray, where: str, n_dims: int | None = None) -> np.ndarray:
    """``X`` as a contiguous float32 array of shape (n, D); a vector (n,) becomes (n, 1).

    Raises:
        DataError: values are not finite, or D is not ``n_dims``.
    """
    X = np.ascontiguousarray(X, dtype=np.float32)
    X = X[:, None] if X.ndim == 1 else X
    if X.ndim != 2 or (n_dims is not None and X.shape[1] != n_dims):
        raise DataError(f"vectors of shape (n, {n_dims or 'D'})", got=f"shape {X.shape}", where=where)
    # A sum is finite unless a value is not (or it overflows, which the slow check settles): no array of flags.
    if X.size and not np.isfinite(X.sum(dtype=np.float64)) and not np.isfinite(X).all():
        n_bad = int((~np.isfinite(X)).any(1).sum())
        raise DataError("finite values", got=f"NaN or infinity in {n_bad} of {len(X)} rows", where=where)
    return X


class Quantizer(ABC):
    """Fit on vectors ``(n, D)``, then encode and decode.

    After :meth:`fit` or :meth:`from_state`, codes are ``0 … n_codes - 1``. There may be fewer codes than were
    asked for: data with fewer distinct rows cannot fill more.
    """

    @abstractmethod
    def fit(self, X: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Learn the codebook from ``X`` (n, D); ``weights`` (n,) say how much each row's error counts.

        The codebook's usage is in rows, whatever they weigh: it is the distribution of the tokens.

        Raises:
            DataError: no rows, or values that are not finite.
        """

    @abstractmethod
    def encode(self, X: np.ndarray) -> np.ndarray:
        """Codes (n,) int64 of ``X`` (n, D)."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Everything :meth:`from_state` needs, as plain arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> Self:
        """A fitted quantizer from :meth:`state`.

        Raises:
            ArtifactError: arrays are missing.
        """

    @property
    @abstractmethod
    def codebook(self) -> Codebook:
        """Entries (C, D) and how often each was used in training (C,)."""

    @property
    def n_codes(self) -> int:
        return len(self.codebook.entries)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Entries (n, D) float32 of codes (n,).

        Raises:
            DataError: a code is outside of the codebook.
        """
        codes = np.asarray(codes)
        if codes.size and (codes.min() < 0 or codes.max() >= self.n_codes):
            raise DataError(f"codes in 0 … {self.n_codes - 1}", got=f"{codes.min()} … {codes.max()}")
        return self.codebook.entries[codes]

    @staticmethod
    def _not_fitted(name: str) -> ArtifactError:
        return ArtifactError(f"a fitted {name}", got="one without a codebook", repair="call fit() or from_state()")
