"""All operations of n ternary digits, and how far two of them agree: the home problem of the ternary VAE.

With nine trits there are 3**9 = 19,683 operations (each of the nine inputs of a binary ternary operation gets one of
three outputs). Operation number n has the digits ``(n // 3**i) mod 3``, i = 0 … 8, and the trits digit - 1, which are
-1, 0 or 1. The 3-adic valuation ``v3(n)`` is the number of times that 3 divides n, which is the number of digits 0
before the first other one; ``v3(0)``, which would be infinite, is the number of trits by convention, the most that
any operation can have. Two operations a and b are 3-adically close where ``v3(a - b)`` is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ...errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

N_TRITS = 9
N_OPERATIONS = 3**N_TRITS
MAX_TRITS = 12  # tables of 3**12 = 531,441 rows


def count_trits(n_operations: int) -> int:
    """Number of trits whose operations are ``n_operations`` in all.

    Raises:
        ConfigError: not a power of 3, or more than 3**12.

    >>> count_trits(19683), count_trits(3)
    (9, 1)
    """
    for n_trits in range(1, MAX_TRITS + 1):
        if 3**n_trits == n_operations:
            return n_trits
    raise ConfigError(
        f"a power of 3 from 3 to {3**MAX_TRITS} as the number of operations",
        got=n_operations,
        repair=f"{N_OPERATIONS} = 3**{N_TRITS}",
    )


def operation_trits(index: ArrayLike, n_trits: int = N_TRITS) -> np.ndarray:
    """Trits ``(..., n_trits)`` (int8, each -1, 0 or 1) of the operations with numbers ``index`` ``(...)``.

    Raises:
        DataError: a number that is no operation of ``n_trits`` trits.

    >>> operation_trits([0, 5, 19682])[:, :3].tolist()
    [[-1, -1, -1], [1, 0, -1], [1, 1, 1]]
    """
    numbers = np.asarray(index)
    if numbers.dtype.kind not in "iu" or (numbers.size and (numbers.min() < 0 or numbers.max() >= 3**n_trits)):
        got = numbers.dtype if numbers.dtype.kind not in "iu" else f"{numbers.min()} to {numbers.max()}"
        raise DataError(f"whole numbers of operations from 0 to {3**n_trits - 1}", got=got)
    return ((numbers[..., None].astype(np.int64) // 3 ** np.arange(n_trits)) % 3 - 1).astype(np.int8)


def operation_index(trits: ArrayLike) -> np.ndarray:
    """Inverse of :func:`operation_trits`: numbers ``(...)``, int64, of the operations with trits ``(..., n_trits)``.

    Raises:
        DataError: something else than -1, 0 or 1.

    >>> int(operation_index([1, 0, -1]))
    5
    """
    trits = np.asarray(trits)
    if not np.isin(trits, (-1, 0, 1)).all():
        raise DataError("trits that are -1, 0 or 1", got=f"{trits.min()} to {trits.max()}")
    return ((trits.astype(np.int64) + 1) * 3 ** np.arange(trits.shape[-1])).sum(-1)


def valuation(number: ArrayLike, n_trits: int = N_TRITS) -> np.ndarray:
    """3-adic valuation of whole numbers of any sign, at most ``n_trits``; that of 0 is ``n_trits``.

    >>> valuation([0, 1, 3, 18, -54]).tolist()
    [9, 0, 1, 2, 3]
    """
    numbers = np.asarray(number)
    found = np.zeros(numbers.shape, dtype=np.int64)
    for power in range(1, n_trits + 1):
        found += numbers % 3**power == 0
    return found


class TernaryOperations:
    """The operations as a map-style dataset for a ``DataLoader``.

    Args:
        one_hot: items are vectors of 3**n_trits floats, as the public interface has them, instead of numbers.

    >>> len(TernaryOperations()), TernaryOperations()[5], TernaryOperations(2, one_hot=True)[5].tolist().index(1.0)
    (19683, 5, 5)
    """

    def __init__(self, n_trits: int = N_TRITS, *, one_hot: bool = False) -> None:
        self.n_trits, self.one_hot = n_trits, one_hot

    def __len__(self) -> int:
        return 3**self.n_trits

    def __getitem__(self, i: int) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        if not self.one_hot:
            return int(i) % len(self)
        row = np.zeros(len(self), dtype=np.float32)
        row[i] = 1.0
        return row


class OperationLoader:
    """Batches ``{"index": (B,) int64}`` that go through all operations, in an order that is one of (seed, epoch)."""

    def __init__(self, n_trits: int, batch_size: int, *, seed: int = 0, shuffle: bool = True) -> None:
        """Raises ConfigError for a batch size under 1."""
        if batch_size < 1:
            raise ConfigError("a batch size of 1 or more", got=batch_size)
        self.n_operations, self.batch_size = 3**n_trits, batch_size
        self.seed, self.shuffle, self.epoch, self._start = seed, shuffle, 0, 0

    def __len__(self) -> int:
        return -(-self.n_operations // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def start_at(self, n_batches: int) -> None:
        """Leave out the first ``n_batches`` of the next pass."""
        self._start = n_batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        import torch

        order = np.arange(self.n_operations)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch, 0x7E41]).permutation(self.n_operations)
        start, self._start = self._start, 0
        for first in range(start * self.batch_size, self.n_operations, self.batch_size):
            yield {"index": torch.from_numpy(order[first : first + self.batch_size])}
