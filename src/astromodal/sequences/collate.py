"""Which sequences stand in which batch, and the loader that trains from them.

Batches are made of sequences of similar length, because padding to the longest of a random batch wastes a fifth of
the work. The order is a pure function of (seed, epoch): a run that is resumed asks for the same epoch and skips what
it has seen. A permutation in memory would take 8 bytes per object, so it is computed instead: a Feistel network over
the indices (Black & Rogaway 2002, "Ciphers with arbitrary finite domains"), evaluated a few thousand rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, UserError
from ..machine.random import keyed_words
from .dataset import SequenceDataset

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_POOL_BATCHES = 1024  # batches among which lengths are sorted: padding below 1 %, memory a few hundred kB
_ROUNDS = 4
_BATCH_KEY = 0xBA7C


def permuted(index: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Images of ``index`` under a pseudo-random permutation of ``0 … n - 1``.

    >>> sorted(permuted(np.arange(10), 10, 0, 3).tolist()) == list(range(10))
    True
    """
    half = max((int(n - 1).bit_length() + 1) // 2, 1)
    shift, low = np.uint64(half), np.uint64((1 << half) - 1)
    keys = [keyed_words(seed, epoch, _ROUNDS, r) for r in range(_ROUNDS)]
    result = np.asarray(index, np.uint64).copy()
    walking = np.arange(len(result))
    while len(walking):  # what lands beyond n goes through again; the domain is below 4 n
        x = result[walking]
        left, right = x >> shift, x & low
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & low)
        x = (left << shift) | right
        result[walking] = x
        walking = walking[x >= n]
    return result.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """A cheap hash of 64-bit words (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


class BucketSampler:
    """Batches of indices; every index exactly once per epoch.

    Args:
        lengths: length of each sequence, array or :class:`~.dataset.Lengths`.
        batch_size: sequences per batch (the last pool of an epoch is cut evenly: a few batches are smaller).
        seed, shuffle: batches of epoch e are drawn from (seed, e); without ``shuffle`` every epoch is the same draw.
        drop_last: full batches only, the rest of the epoch's draw is left out.
        rank, world_size: this process's share; every rank has the same number of batches, and batches of one step
            have similar lengths on all ranks.

    ``set_epoch(e)`` chooses the epoch, ``start_at(k)`` lets the next iteration begin at its k-th batch.

    Raises:
        DataError: there are fewer sequences than ranks.
    """

    def __init__(
        self,
        lengths: Any,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        pool_batches: int = _POOL_BATCHES,
    ) -> None:
        if not 0 <= rank < world_size or batch_size < 1:
            raise ValueError(f"expected rank below world_size and a batch size, got {rank}, {world_size}, {batch_size}")
        self.lengths, self.batch_size, self.seed, self.shuffle = lengths, int(batch_size), int(seed), shuffle
        self.drop_last, self.rank, self.world_size = drop_last, rank, world_size
        self.epoch, self._start = 0, 0
        self._n = len(lengths)
        if self._n < world_size or self._n < (batch_size * world_size if drop_last else 1):
            raise DataError(
                f"at least {world_size * (batch_size if drop_last else 1)} sequences",
                got=self._n,
                where="this split",
                repair="use fewer processes or a smaller training.batch_size, or add fields",
            )
        step = self.batch_size * world_size
        self._pool_steps = max(pool_batches // world_size, 1)
        self._pool_rows = self._pool_steps * step
        self._n_pools = max(self._n // self._pool_rows, 1)  # the last one takes the rest as well
        rest = self._n - (self._n_pools - 1) * self._pool_rows
        self._last_steps = rest // step if drop_last else -(-rest // step)

    def __len__(self) -> int:
        """Batches per epoch and rank."""
        return (self._n_pools - 1) * self._pool_steps + self._last_steps

    def set_epoch(self, epoch: int) -> None:
        self.epoch = int(epoch)

    def start_at(self, batch: int) -> None:
        """Skip ``batch`` batches of the next iteration (only)."""
        if not 0 <= batch <= len(self):
            raise DataError(
                f"a position from 0 to {len(self)} batches", got=batch, where="resume position of the sampler"
            )
        self._start = int(batch)

    def state_dict(self, next_batch: int) -> dict[str, int]:
        """Where an epoch stands, for a checkpoint."""
        return {"epoch": self.epoch, "next_batch": int(next_batch)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.set_epoch(state["epoch"])
        self.start_at(state["next_batch"])

    def __iter__(self) -> Iterator[np.ndarray]:
        start, self._start = self._start, 0
        epoch = self.epoch if self.shuffle else 0
        first = min(start // self._pool_steps, self._n_pools - 1)
        skip = start - first * self._pool_steps
        for pool in range(first, self._n_pools):
            yield from self._pool(pool, epoch)[skip:]
            skip = 0

    def _pool(self, pool: int, epoch: int) -> list[np.ndarray]:
        """This rank's batches of one pool: rows drawn, sorted by length, cut, and the batches shuffled."""
        last = pool == self._n_pools - 1
        stop = self._n if last else (pool + 1) * self._pool_rows
        drawn = permuted(np.arange(pool * self._pool_rows, stop), self._n, self.seed ^ _BATCH_KEY, epoch)
        n_steps = self._last_steps if last else self._pool_steps
        n_batches = n_steps * self.world_size
        if self.drop_last:
            drawn = drawn[: n_batches * self.batch_size]
        ordered = drawn[np.argsort(np.asarray(self.lengths[drawn]), kind="stable")]
        edges = np.arange(n_batches + 1) * len(ordered) // n_batches
        rng = np.random.default_rng([self.seed, epoch, pool, _BATCH_KEY])
        mine = rng.permutation(n_steps) * self.world_size + self.rank
        return [ordered[edges[k] : edges[k + 1]] for k in mine.tolist()]


class SequenceLoader:
    """Batches of a dataset in the order of a sampler; ``len(loader)`` is the batches of a whole epoch.

    Args:
        num_workers: loader processes; 0 gathers in this one, which is fastest: reading costs little.
        pin_memory: page-locked tensors, for copies to a GPU that overlap with the work (ignored without one).
    """

    def __init__(
        self,
        dataset: SequenceDataset,
        sampler: BucketSampler,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        prefetch_factor: int = 2,
    ) -> None:
        import torch

        self.dataset, self.sampler, self.num_workers = dataset, sampler, int(num_workers)
        self.pin_memory = bool(pin_memory) and torch.cuda.is_available()
        self._workers: DataLoader[Any] | None = None
        if self.num_workers:
            from .workers import in_processes

            self._workers = in_processes(
                dataset,
                sampler,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
                persistent_workers=persistent_workers,
                prefetch_factor=prefetch_factor,
            )

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def epoch(self) -> int:
        return self.sampler.epoch

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)
        self.dataset.set_epoch(epoch)

    def start_at(self, batch: int) -> None:
        """Let the next iteration begin at batch number ``batch`` of its epoch."""
        self.sampler.start_at(batch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._workers is not None:
            for batch in self._workers:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
            return
        epoch = self.dataset.epoch
        for indices in self.sampler:
            batch = self.dataset.gather(indices, epoch)
            yield {name: tensor.pin_memory() for name, tensor in batch.items()} if self.pin_memory else batch
