"""The contract of a quantizer: vectors in, codes out, and back to the entries that stand for the codes.

Shape legend: n rows, D dimensions, C codes, S stages (codes per vector).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np

from ..errors import ArtifactError, DataError
from ..vocabulary.codebook import Codebook


def checked(X: np.ndarray, where: str, n_dims: int | None = None, *, double: bool = False) -> np.ndarray:
    """``X`` as a contiguous float32 array of shape (n, D); a vector (n,) becomes (n, 1).

    With ``double``, what is not float32 becomes float64: numbers that still have a unit (:mod:`.quantile`).

    Raises:
        DataError: values are not finite, or D is not ``n_dims``.
    """
    X = np.asarray(X)
    X = np.ascontiguousarray(X, dtype=np.float64 if double and X.dtype != np.float32 else np.float32)
    X = X[:, None] if X.ndim == 1 else X
    if X.ndim != 2 or (n_dims is not None and X.shape[1] != n_dims):
        raise DataError(f"vectors of shape (n, {n_dims or 'D'})", got=f"shape {X.shape}", where=where)
    # A sum is finite unless a value is not (or it overflows, which the slow check settles): no array of flags.
    if X.size and not np.isfinite(X.sum(dtype=np.float64)) and not np.isfinite(X).all():
        n_bad = int((~np.isfinite(X)).any(1).sum())
        raise DataError("finite values", got=f"NaN or infinity in {n_bad} of {len(X)} rows", where=where)
    return X


def checked_weights(weights: np.ndarray | None, shape: tuple[int, int], where: str) -> np.ndarray:
    """Weights of rows (n,), or of their numbers (n, D), as float32; numbers that weigh the same in every row make (n,).

    Raises:
        DataError: another shape, negative or not finite, or all 0.
    """
    if weights is None:
        return np.ones(shape[0], np.float32)
    w = np.asarray(weights, dtype=np.float32)
    if w.shape not in (shape, shape[:1]) or not np.isfinite(w).all() or (w < 0).any() or (shape[0] and not w.any()):
        expected = f"weights (n,) or (n, D) = {shape}, finite, not negative, not all 0"
        raise DataError(expected, got=f"shape {w.shape}", where=where)
    if w.ndim == 2 and (w == w[:, :1]).all():
        w = w[:, 0]
    return w


def of_numbers(weights: np.ndarray | None, shape: tuple[int, int], where: str) -> np.ndarray | None:
    """Weights (n, D) float32 of the numbers that are to be encoded; None stays None.

    Raises:
        DataError: another shape, negative or not finite.
    """
    if weights is None:
        return None
    w = np.asarray(weights, dtype=np.float32)
    if w.shape != shape or not (np.isfinite(w) & (w >= 0)).all():
        raise DataError(f"weights (n, D) = {shape}, finite, not negative", got=f"shape {w.shape}", where=where)
    return w


T = TypeVar("T")


class Learned(Generic[T]):
    """An attribute of a quantizer that its fit sets; to read it before is an error, so no reader has to ask.

    Raises:
        ArtifactError: the quantizer is not fitted.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Quantizer, owner: type) -> T: ...
    def __get__(self, instance: Quantizer | None, owner: type) -> Self | T:
        if instance is None:
            return self
        if self.name not in instance.__dict__:
            raise instance._not_fitted(owner.__name__)
        return instance.__dict__[self.name]

    def __set__(self, instance: Quantizer, value: T) -> None:
        instance.__dict__[self.name] = value


class Quantizer(ABC):
    """Fit on vectors ``(n, D)``, then encode and decode.

    A vector becomes one code, or one per *stage*: the entries of the stages are added up. After :meth:`fit` or
    :meth:`from_state`, codes of stage s are ``0 … sizes[s] - 1``. There may be fewer codes than were asked for: data
    with fewer distinct rows cannot fill more.
    """

    name: ClassVar[str]  # the option quantizer=<name>, and the key of the registry

    @abstractmethod
    def fit(self, X: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Learn the codebooks from ``X`` (n, D).

        A codebook's usage is in rows, whatever they weigh: it is the distribution of the tokens. Rows that weigh
        nothing take no part.

        Args:
            weights: how much the error of each row counts (n,), or that of each number (n, D). What stands where a
                weight is 0 has to be finite, and is no more than a start.

        Raises:
            DataError: no rows, or values that are not finite.
        """

    @abstractmethod
    def encode(self, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Codes int64 of ``X`` (n, D): ``(n,)``, or ``(n, n_stages)`` where there is more than one stage.

        Args:
            weights: how much the error of each number counts (n, D); a row of zeros counts as one of ones.
        """

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
    def codebooks(self) -> tuple[Codebook, ...]:
        """Of each stage: entries (C, D) and how often each was used in training (C,)."""

    @property
    def codebook(self) -> Codebook:
        """The codebook of a quantizer with one stage.

        Raises:
            ArtifactError: there are several; no single entry stands for a vector.
        """
        books = self.codebooks
        if len(books) != 1:
            raise ArtifactError("a quantizer with one codebook", got=f"{self.name} with {len(books)} stages")
        return books[0]

    @property
    def n_stages(self) -> int:
        """Codes per vector."""
        return len(self.codebooks)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes of each stage."""
        return tuple(len(book.entries) for book in self.codebooks)

    @property
    def n_codes(self) -> int:
        """Number of codes of a quantizer with one stage."""
        return len(self.codebook.entries)

    @property
    def n_dims(self) -> int:
        """Numbers per vector, D."""
        return self.codebooks[0].entries.shape[1]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors (n, D) float32 of codes (n,), or of (n, n_stages): the sum of the stages' entries.

        Raises:
            DataError: a code is outside of its codebook, or the number of stages is wrong.
        """
        codes, books = np.asarray(codes), self.codebooks
        columns = codes[:, None] if len(books) == 1 and codes.ndim == 1 else codes
        if columns.ndim != 2 or columns.shape[1] != len(books):
            shape = "(n,)" if len(books) == 1 else f"(n, {len(books)})"
            raise DataError(f"codes of shape {shape}", got=f"shape {codes.shape}", where=f"{self.name}.decode")
        return sum_of_entries(columns, books)

    def clipped_share(self, X: np.ndarray) -> float:
        """Share of the numbers in ``X`` (n, D) beyond what the codes span; 0 where codes have no bounds."""
        return 0.0

    def fit_figures(self) -> dict[str, Any]:
        """What the fit says about itself, as plain values for reports: nothing, unless a subclass has something."""
        return {}

    @staticmethod
    def _not_fitted(name: str) -> ArtifactError:
        return ArtifactError(f"a fitted {name}", got="one without a codebook", repair="call fit() or from_state()")


def sum_of_entries(codes: np.ndarray, books: Sequence[Codebook]) -> np.ndarray:
    """Sums (n, D) float32 of the entries that codes (n, S) name in S codebooks.

    Raises:
        DataError: a code is outside of its codebook.
    """
    parts = []
    for column, book in zip(codes.T, books, strict=True):
        if column.size and (column.min() < 0 or column.max() >= len(book.entries)):
            raise DataError(f"codes in 0 … {len(book.entries) - 1}", got=f"{column.min()} … {column.max()}")
        parts.append(book.entries[column])
    return functools.reduce(np.add, parts)
