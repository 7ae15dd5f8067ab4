"""Errors of every held-out object, so that two runs can be compared object by object (``metrics/bootstrap.py``).

An object's error is the mean over its own positions; how many those are is kept too, so that the means over positions
that validation reports can be had from the same file.

Shapes: n objects, B objects of a batch, N positions of a batch, P of them with a target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..files.io import save_npz
from ..parallel import distributed
from ..training.precision import MixedPrecision
from ..training.validation import evaluation_mode, to_device
from ..vocabulary.modalities import MODALITIES

if TYPE_CHECKING:
    from ..loss.language_model import LanguageModelObjective

FILE = "object_errors.npz"
_N_SUMS = 4  # of an object and a modality


def object_errors(
    objective: LanguageModelObjective, loader: Iterable[dict[str, Any]], precision: MixedPrecision, seed: int = 0
) -> dict[str, np.ndarray]:
    """One pass over ``loader``, on every rank; the result is that of all ranks, in the order of ``object_index``.

    Args:
        objective: :class:`~astromodal.loss.language_model.LanguageModelObjective`, with the weights to judge.
        loader: batches of whole sequences with ``object_index``; an object that comes twice counts once.

    Returns:
        ``object_index (n,)`` int64, ``ce (n,)`` in nats, ``error_<modality> (n,)`` as a fraction of the variance for
        each modality that has a codebook and occurs, ``crps_scalar (n,)`` where validation has it, and ``n_ce``,
        ``n_<modality>`` ``(n,)`` int64, the positions that these are means over; NaN where an object has none.
    """
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(0)
    found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros((0, *_table())))]
    with evaluation_mode(objective, seed):
        for batch in loader:
            index = np.asarray(batch["object_index"], np.int64)
            with precision.autocast():
                values, order, targets = objective.score_positions(to_device(batch, precision.device))
            found.append((index, _sums(values, order, targets.modality, len(index)).cpu().double().numpy()))
    mine = tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
    indices, sums = (np.concatenate(parts) for parts in zip(*distributed.gather(mine), strict=True))
    index, first = np.unique(indices, return_index=True)
    return {"object_index": index} | _means(sums[first], objective.scorer.has_crps)


def _table() -> tuple[int, int]:
    """Shape of the sums of an object: positions without error, then each modality."""
    return 1 + len(MODALITIES), _N_SUMS


def _sums(values: Tensor, order: np.ndarray, modality: np.ndarray, n_objects: int) -> Tensor:
    """Sums per object and modality (first: positions without error), ``(B, M + 1, 4)``: CE, error, CRPS, count.

    Args:
        values: cross-entropy, hit, error and CRPS of the scored positions ``(P, 4)``.
        order: those positions among all ``(P,)``; positions stand object by object.
        modality: of every position ``(N,)``, index in ``MODALITIES``, -1 for none.
    """
    kinds, _ = table = _table()
    if not n_objects:
        return values.new_zeros(0, *table)
    objects = order // (len(modality) // n_objects)
    cell = torch.as_tensor(objects * kinds + modality[order] + 1, device=values.device)
    ones = torch.ones_like(values[:, 0])
    sums = values.new_zeros(n_objects * kinds, _N_SUMS)
    sums.index_add_(0, cell, torch.stack([values[:, 0], values[:, 2], values[:, 3], ones], dim=1))
    return sums.view(n_objects, *table)


def _means(sums: np.ndarray, has_crps: bool) -> dict[str, np.ndarray]:
    """Named means and counts from the sums ``(n, M + 1, 4)`` of all objects."""
    ce, n_ce = sums[:, :, 0].sum(1), sums[:, :, 3].sum(1)  # positions of every kind
    with np.errstate(invalid="ignore"):
        arrays = {"ce": ce / n_ce, "n_ce": n_ce.astype(np.int64)}
        for index, modality in enumerate(MODALITIES, start=1):
            _, error, crps, n = sums[:, index].T
            if n.any():
                arrays |= {f"error_{modality}": error / n, f"n_{modality}": n.astype(np.int64)}
                if modality == "scalar" and has_crps:
                    arrays["crps_scalar"] = crps / n
    return arrays


def save_object_errors(run_dir: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write ``object_errors.npz`` of a run, atomically."""
    path = run_dir / FILE
    save_npz(path, arrays)
    return path
