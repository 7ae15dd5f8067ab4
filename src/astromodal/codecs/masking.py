"""Masks over contiguous blocks of a spectrum, and the errors that are counted under them.

A mask is a pure function of (seed, step, row): a run that was killed draws the same ones when it goes on, a validation
the same ones every time, and neither depends on how a step is cut into micro-batches.

Shapes: B batch, L values of a spectrum, N blocks, T tokens of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..machine.random import keyed_uniform

VALIDATION_STEP = -1  # the step that masks of validations are drawn for: no step of training has it
REDUCTIONS = ("sum", "mean", "batch_mean")


def hidden_blocks(seed: int, step: int, rows: np.ndarray, n_blocks: int, n_mask: int) -> np.ndarray:
    """Which blocks are hidden, ``(B, N)`` bool, ``n_mask`` in every row.

    >>> hidden_blocks(0, 1, np.arange(3), 4, 2).sum(1).tolist()
    [2, 2, 2]
    """
    if not 0 <= n_mask <= n_blocks:
        raise ConfigError(f"n_mask from 0 to n_blocks = {n_blocks}", got=n_mask)
    order = np.argsort(keyed_uniform(seed, step, np.asarray(rows)[:, None], np.arange(n_blocks)), axis=1)
    hidden = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(hidden, order[:, :n_mask], True, axis=1)
    return hidden


def visible_tokens(hidden: Tensor, n_hidden: int, tokens_per_block: int) -> Tensor:
    """Indices (B, T_visible) of the tokens to encode, ascending; every row of ``hidden`` (B, N) has ``n_hidden``."""
    order = torch.argsort(hidden.to(torch.uint8), dim=1, stable=True)  # visible blocks first, in their order
    first = order[:, : hidden.shape[1] - n_hidden, None] * tokens_per_block
    return (first + torch.arange(tokens_per_block, device=hidden.device)).flatten(1)


def visible_mask(hidden: Tensor, block_size: int) -> Tensor:
    """What is visible, ``(B, N * block_size)`` bool, from hidden blocks (B, N)."""
    return (~hidden).repeat_interleave(block_size, dim=1)


def masked_sse(
    x_recon: Tensor, x: Tensor, mask: Tensor, *, reduction: str = "batch_mean", weight: Tensor | None = None
) -> Tensor:
    """Squared error of the positions where ``mask`` is True; the others, whatever they hold, have no part in it.

    Args:
        x_recon, x, mask: ``(B, L)``; a mask of hidden positions is ``~visible``.
        reduction: ``sum``, ``mean`` (over the masked positions) or ``batch_mean`` (the sum over B).
        weight: ``(B, L)``, inverse variances for example: errors are multiplied by it, and ``mean`` divides by its sum.

    Returns:
        A scalar; 0 with a gradient of zeros if nothing is masked.

    Raises:
        ConfigError: an unknown reduction.
        ValueError: shapes that differ.
    """
    total, denominators = error_sums(x_recon, x, mask, weight)
    if reduction not in REDUCTIONS:
        raise ConfigError(f"a reduction of {', '.join(REDUCTIONS)}", got=repr(reduction))
    return total / denominators[reduction]()


def masked_mse(
    x_recon: Tensor, x: Tensor, mask: Tensor, *, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """:func:`masked_sse` with another default: the mean over the masked positions.

    The name promises a mean, which only ``reduction="mean"`` is.
    """
    return masked_sse(x_recon, x, mask, reduction=reduction, weight=weight)


def error_sums(
    x_recon: Tensor, x: Tensor, mask: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Callable[[], Tensor | float]]]:
    """Sum of the masked squared errors, and what each reduction divides it by.

    Positions are left out by ``where`` and not by indexing, so that nothing waits for the device to count them, NaN
    beyond the mask stays there, and an empty mask still has a gradient.
    """
    if not x_recon.shape == x.shape == mask.shape:
        raise ValueError(
            f"expected x_recon, x and mask of one shape, got {tuple(x_recon.shape)}, {tuple(x.shape)} and "
            f"{tuple(mask.shape)}"
        )
    error = torch.where(mask, x_recon.float() - x, 0.0).square()
    counted = mask if weight is None else torch.where(mask, weight, 0.0)
    total = (error if weight is None else error * counted).sum()
    tiny = 1.0 if weight is None else torch.finfo(torch.float32).tiny

    def weights() -> Tensor:
        return counted.sum(dtype=torch.float32).clamp_min(tiny)

    return total, {"sum": lambda: 1.0, "mean": weights, "batch_mean": lambda: float(max(len(x), 1))}
