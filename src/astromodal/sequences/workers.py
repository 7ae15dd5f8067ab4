"""Batches that are gathered in other processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError

if TYPE_CHECKING:
    from .collate import BucketSampler
    from .dataset import SequenceDataset


def in_processes(dataset: SequenceDataset, sampler: BucketSampler, **options: Any) -> DataLoader[Any]:
    """The batches of a sampler, each a dict of tensors, or the error that gathering it ended with.

    Args:
        options: of ``DataLoader``.
    """
    return DataLoader(_Keyed(dataset), batch_sampler=_KeyedBatches(sampler), collate_fn=_same, **options)


class _Keyed(Dataset[Any]):
    """A dataset whose batches are asked for as [epoch, indices]: a worker's copy does not hear of ``set_epoch``."""

    def __init__(self, dataset: SequenceDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, key: list[Any]) -> dict[str, torch.Tensor] | UserError:
        epoch, indices = key
        try:
            return self.dataset.gather(indices, epoch)
        except UserError as error:
            return error  # raised here, it would reach the run as a traceback


class _KeyedBatches:
    """The sampler's batches, each with the epoch."""

    def __init__(self, sampler: BucketSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[Any]]:
        return ([self.sampler.epoch, indices] for indices in self.sampler)


def _same(batch: Any) -> Any:
    return batch
