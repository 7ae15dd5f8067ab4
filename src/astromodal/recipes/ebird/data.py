"""From eBird's files to batches, under the public names.

Shapes: N checklists, S species, B batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .checklists import Checklists, read_checklists
from .species_matrix import ChecklistDataset, EpochBatches, SpeciesMatrix, species_matrix, split_rows

__all__ = [
    "ChecklistDataset",
    "Checklists",
    "SpeciesMatrix",
    "create_dataloaders",
    "create_species_matrix",
    "load_ebird_data",
    "split_train_val",
]


def load_ebird_data(path: str | Path, nrows: int | None = None, sampling_path: str | Path | None = None) -> Checklists:
    """Complete checklists of the standard protocols from eBird's Basic Dataset, as it is downloaded.

    Args:
        path: the file of observations, plain or ``.gz``.
        nrows: read only the first so many rows (not checklists, whose rows stand anywhere in the file).
        sampling_path: the file of sampling events that comes with it; adds the checklists without any species.

    Returns:
        Presences, and in ``counts`` what was dropped for which reason; no table of the raw rows.

    Raises:
        DataError: no such file, missing columns, or nothing to keep.
    """
    checklists = read_checklists(path, sampling_path, nrows)
    logging.getLogger("astromodal.recipes.ebird").info("%s: %s", path, checklists.describe())
    return checklists


def create_species_matrix(data: Checklists, min_species_observations: int = 1) -> tuple[SpeciesMatrix, list[str]]:
    """Sparse presences ``(N, S)`` of the species on at least so many checklists, and their scientific names.

    Raises:
        DataError: no species is on so many checklists.
    """
    matrix = species_matrix(data, min_species_observations)
    return matrix, matrix.species


def split_train_val(
    matrix: Any, species: Sequence[str], val_size: float = 0.2, seed: int = 0
) -> tuple[ChecklistDataset, ChecklistDataset]:
    """Training and validation checklists, split by the id of the checklist (of the group, for a shared one).

    Args:
        matrix: what :func:`create_species_matrix` returns, or an array or sparse matrix ``(N, S)``, whose rows then
            are their own ids.

    Raises:
        ConfigError: ``val_size`` leaves one side empty.
    """
    if not isinstance(matrix, SpeciesMatrix):
        from scipy.sparse import csr_array

        csr = csr_array(matrix)
        matrix = SpeciesMatrix(csr, list(species), [str(row) for row in range(csr.shape[0])])
    train, val = (
        ChecklistDataset(matrix.csr[rows], species, [matrix.ids[row] for row in rows])
        for rows in split_rows(matrix, val_size, seed)
    )
    return train, val


def create_dataloaders(
    train: ChecklistDataset,
    val: ChecklistDataset,
    batch_size: int = 128,
    num_workers: int = 0,
    pin_memory: bool = False,
    seed: int | None = None,
) -> tuple[DataLoader, DataLoader]:
    """Loaders of tensors ``(B, S)``: shuffled anew in every epoch, and in order.

    Args:
        num_workers: processes that load; 0 is fastest for rows of a sparse matrix.
        pin_memory: without effect where there is no GPU.
        seed: of the shuffle, which is a function of (seed, epoch); default: what ``set_seed`` was called with.

    Raises:
        ConfigError: a batch size below 1.
    """
    seed = torch.initial_seed() % (1 << 63) if seed is None else seed
    options: dict[str, Any] = {
        "num_workers": num_workers,
        "pin_memory": pin_memory and torch.cuda.is_available(),
        "persistent_workers": num_workers > 0,
        "collate_fn": _as_it_is,
    }
    batches = (
        EpochBatches(len(train), batch_size, shuffle=True, seed=seed),
        EpochBatches(len(val), batch_size, shuffle=False),
    )
    train_loader, val_loader = (
        DataLoader(data, batch_sampler=sampler, **options) for data, sampler in zip((train, val), batches, strict=True)
    )
    return train_loader, val_loader


def _as_it_is(batch: Tensor) -> Tensor:
    """The dataset returns whole batches already."""
    return batch
