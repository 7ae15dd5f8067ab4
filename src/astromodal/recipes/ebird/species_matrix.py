"""Checklists as a sparse matrix of presences: choice of species, split, and batches for training.

Shapes: N checklists, S species, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ...errors import ConfigError, DataError
from ...files.ids import hash_ids
from ...machine.random import keyed_words
from .checklists import Checklists


@dataclass
class SpeciesMatrix:
    """Presences ``(N, S)``: ``csr`` is a scipy array of 0 and 1 (uint8); a row is a checklist, shared ones are one."""

    csr: Any
    species: list[str]
    ids: list[str]  # of the rows
    common_names: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        return self.csr.shape

    def __len__(self) -> int:
        return self.csr.shape[0]

    def toarray(self) -> np.ndarray:
        """``(N, S)`` float32."""
        return self.csr.toarray().astype(np.float32)

    def frequencies(self) -> np.ndarray:
        """Share of the checklists that each species is on, ``(S,)``."""
        return np.asarray(self.csr.sum(0, dtype=np.int64)).ravel() / max(len(self), 1)


def species_matrix(checklists: Checklists, min_species_observations: int = 1) -> SpeciesMatrix:
    """Presences of the species that are on at least so many checklists, species in the order of their names.

    Checklists on which none of these was seen stay: that, too, is an observation.

    Raises:
        DataError: no species is on so many checklists.
    """
    from scipy.sparse import csr_array

    shape = len(checklists), len(checklists.species)
    ones = np.ones(len(checklists.rows), dtype=np.uint8)
    csr = csr_array((ones, (checklists.rows, checklists.columns)), shape=shape)
    seen_on = np.bincount(checklists.columns, minlength=shape[1])
    order = np.argsort(np.array(checklists.species)) if shape[1] else np.empty(0, int)
    kept = order[seen_on[order] >= min_species_observations]
    if not len(kept):
        raise DataError(
            f"a species on at least {min_species_observations} checklists",
            got=f"at most {seen_on.max(initial=0)} of {shape[0]} checklists",
            where="min_species_observations",
            repair="lower it, or read more of the file",
        )
    species = [checklists.species[i] for i in kept]
    return SpeciesMatrix(csr[:, kept], species, checklists.ids, [checklists.common_names[i] for i in kept])


def split_rows(matrix: SpeciesMatrix, val_size: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for validation, decided by the checklists' ids and never by the order of the file.

    Copies of a shared checklist are one row, so that no outing is on both sides.

    Raises:
        ConfigError: ``val_size`` leaves one side empty.
    """
    n_val = round(val_size * len(matrix))
    if not 0 < n_val < len(matrix):
        raise ConfigError(
            "0 < val_size < 1, with a checklist on either side",
            where="val_size",
            got=f"{val_size} of {len(matrix)} checklists",
        )
    draws = keyed_words(seed, hash_ids(matrix.ids))
    order = np.argsort(draws, kind="stable")
    return np.sort(order[n_val:]), np.sort(order[:n_val])


class ChecklistDataset(Dataset):
    """Rows of a sparse matrix as dense float32 tensors ``(S,)``; several at once as ``(B, S)``."""

    def __init__(self, csr: Any, species: Sequence[str], ids: Sequence[str] = ()) -> None:
        self.csr, self.species, self.ids = csr, list(species), list(ids)

    def __len__(self) -> int:
        return self.csr.shape[0]

    def __getitem__(self, row: int) -> Tensor:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> Tensor:
        return torch.from_numpy(self.csr[np.asarray(rows)].toarray().astype(np.float32))


class EpochBatches(Sampler):
    """Row numbers of each batch; the shuffle is a function of (seed, epoch), and any batch can be started at."""

    def __init__(self, n_rows: int, batch_size: int, *, shuffle: bool, seed: int = 0) -> None:
        if batch_size < 1:
            raise ConfigError("a batch_size of 1 or more", got=batch_size)
        self.n_rows, self.batch_size, self.shuffle, self.seed = n_rows, batch_size, shuffle, seed
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return -(-self.n_rows // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle."""
        self.epoch = epoch

    def start_at(self, n_batches: int) -> None:
        """Leave out so many batches of the next pass."""
        self.first = n_batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch, 0xB17D])
        order = rng.permutation(self.n_rows) if self.shuffle else np.arange(self.n_rows)
        first, self.first = self.first, 0
        for start in range(first * self.batch_size, self.n_rows, self.batch_size):
            yield order[start : start + self.batch_size].tolist()
