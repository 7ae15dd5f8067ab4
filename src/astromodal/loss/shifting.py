"""Inputs and targets from whole sequences: position t predicts token t + 1.

Shapes: B batch, L length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..models.trainable import Batch
from ..vocabulary.vocab import EOS, PAD


def shift(batch: Batch) -> Batch:
    """Inputs ``tokens, types, attn_mask (, sigma)`` and ``targets, target_types (, target_sigma)``, all (B, L - 1).

    What else the batch holds is kept.

    Where nothing is to be predicted the target is PAD. With a ``prefix`` (B,) of given tokens that is in the prefix,
    and of EOS, which nobody asks for. ``shown`` (B, L), if there, takes the place of the tokens among the inputs.
    """
    tokens: Tensor = batch["tokens"]
    types, mask = batch["types"], batch["attn_mask"].bool()
    real = mask[:, 1:] & (tokens[:, 1:] != PAD)
    if "prefix" in batch:
        behind = torch.arange(real.shape[1], device=tokens.device) >= batch["prefix"][:, None]
        real = real & behind & (tokens[:, 1:] != EOS)
    shifted = {
        "tokens": batch.get("shown", tokens)[:, :-1],
        "types": types[:, :-1],
        "attn_mask": mask[:, :-1],
        "targets": torch.where(real, tokens[:, 1:], PAD),
        "target_types": types[:, 1:],
    }
    if "sigma" in batch:
        shifted |= {"sigma": batch["sigma"][:, :-1], "target_sigma": batch["sigma"][:, 1:]}
    return {name: value for name, value in batch.items() if name != "shown"} | shifted


def model_inputs(part: Batch, next_types: bool, errors: bool) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    """What a model is called with for a shifted batch: ``model(*inputs, **told)``.

    Args:
        next_types: whether it is told the type of the token that each position has to predict.
        errors: whether it reads the errors of the tokens.

    Raises:
        ConfigError: it reads errors, and the batch has none.
    """
    told = {"next_types": part["target_types"]} if next_types else {}
    if errors:
        if "sigma" not in part:
            raise ConfigError(
                "errors of the tokens, which the model reads",
                got="a batch without sigma",
                where="model.values.errors",
                repair="SequenceDataset(..., with_sigma=True)",
            )
        told["sigma"] = part["sigma"]
    if "prefix" in part:
        told["prefix"] = part["prefix"]
    return (part["tokens"], part["types"], part["attn_mask"]), told
