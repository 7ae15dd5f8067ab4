"""Inputs and targets from whole sequences: position t predicts token t + 1.

Shapes: B batch, L length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.objective import Batch
from ..core.vocab import EOS, PAD


def shift(batch: Batch) -> Batch:
    """Inputs ``tokens, types, attn_mask`` and ``targets, target_types`` (B, L - 1); what else the batch holds is kept.

    Where nothing is to be predicted the target is PAD. With a ``prefix`` (B,) of given tokens that is in the prefix, and
    of EOS, which nobody asks for.
    """
    tokens, types, mask = batch["tokens"], batch["types"], batch["attn_mask"].bool()
    real = mask[:, 1:] & (tokens[:, 1:] != PAD)
    if "prefix" in batch:
        behind = torch.arange(real.shape[1], device=tokens.device) >= batch["prefix"][:, None]
        real = real & behind & (tokens[:, 1:] != EOS)
    shifted = {
        "tokens": tokens[:, :-1],
        "types": types[:, :-1],
        "attn_mask": mask[:, :-1],
        "targets": torch.where(real, tokens[:, 1:], PAD),
        "target_types": types[:, 1:],
    }
    if "sigma" in batch:
        shifted["target_sigma"] = batch["sigma"][:, 1:]
    return {name: value for name, value in batch.items() if name != "sigma"} | shifted


def model_inputs(part: Batch, next_types: bool) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    """What a model is called with for a shifted batch: ``model(*inputs, **told)``.

    Args:
        next_types: whether it is told the type of the token that each position has to predict.
    """
    told = {"next_types": part["target_types"]} if next_types else {}
    if "prefix" in part:
        told["prefix"] = part["prefix"]
    return (part["tokens"], part["types"], part["attn_mask"]), told
