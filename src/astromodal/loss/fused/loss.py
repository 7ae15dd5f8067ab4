"""The loss that training uses: exact, from hidden states and the head's weight, without ``(B, L, V)`` logits.

Positions are walked through in the order that ``sampling.lay_out`` gives them (by block of the vocabulary, the
reconstructed ones first), in chunks of rows (``chunks.py``). One product gives a chunk's logits; cross-entropy
and reconstruction share them; their gradient is known in closed form and is multiplied back into the gradients of
hidden states and head during the forward pass, as in Liger-Kernel (Hsu et al. 2024) and Cut Your Losses (Wijmans et
al. 2024). So nothing larger than a chunk ever exists, and three matrix products per row are all that is done.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from .chunks import GPU_CHUNK_ELEMENTS, Head, LossInput, Work, block_tensors, chunk_rows, walk

__all__ = ["Head", "LossInput", "block_tensors", "fused_loss", "open_work", "product_dtype"]


def open_work(
    hidden: Tensor, weight: Tensor, given: LossInput, dtype: torch.dtype, needs: Sequence[bool]
) -> tuple[Work, list[list[list[int]]], int | None]:
    """Buffers and inputs of one walk, its segments, and the elements of a chunk; outside of autocast.

    Sums are float32 or, for float64 input, float64. ``needs``: gradients of hidden states and head.
    """
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    chunk_elements = GPU_CHUNK_ELEMENTS if hidden.is_cuda else None
    plan = given.segments.tolist()  # lives on the CPU: no synchronisation
    room = _room(plan, len(weight), given.head, chunk_elements)
    given = replace(
        given,
        weights_ce=given.weights_ce.to(sums),
        weights_rec=given.weights_rec.to(sums),
        term_weights=given.term_weights.to(sums),
        entries=[e.to(sums) if e.is_floating_point() else e for e in given.entries],
        sigma=given.sigma.to(sums),
    )
    work = Work(
        given,
        hidden,
        weight.to(dtype),
        buffer=torch.empty(room, dtype=sums, device=hidden.device),
        terms=torch.zeros(1 + len(given.term_weights), dtype=sums, device=hidden.device),
        grad_hidden=torch.zeros_like(hidden) if needs[0] else None,
        grad_weight=torch.zeros(weight.shape, dtype=sums, device=weight.device) if needs[1] else None,
    )
    return work, plan, chunk_elements


def _compute(
    hidden: Tensor, weight: Tensor, given: LossInput, dtype: torch.dtype, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Total, the terms, and the gradients of the total."""
    with torch.autocast(hidden.device.type, enabled=False):
        work, plan, chunk_elements = open_work(hidden, weight, given, dtype, needs)
        walk(work, plan, chunk_elements)
    total = work.terms[0] + (work.given.term_weights * work.terms[1:]).sum()
    grad_weight = None if work.grad_weight is None else work.grad_weight.to(weight.dtype)
    return total, work.terms, work.grad_hidden, grad_weight


def _room(plan: list[list[list[int]]], vocab_size: int, head: Head, chunk_elements: int | None) -> int:
    """Elements of the largest chunk's logits."""
    needed = [(plan[0][-1][2], vocab_size)]
    needed += [(stop - start, size) for (start, _, stop), size in zip(plan[1], head.sizes, strict=False)]
    return max(min(n, chunk_rows(chunk_elements, width)) * width for n, width in needed if width > 0)


class _FusedLoss(torch.autograd.Function):
    """Hands out the gradients that the forward pass already has, scaled by what arrives, once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, given: LossInput, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        total, terms, *ctx.gradients = _compute(hidden, weight, given, dtype, ctx.needs_input_grad[:2])
        ctx.mark_non_differentiable(terms)
        return total, terms

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_terms: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the fused loss gives its gradient once: it does not support retain_graph")
        gradients, ctx.gradients = ctx.gradients, None  # autograd may then keep the tensors instead of copying them
        scaled = [None if g is None else g.mul_(grad_total) for g in gradients]
        return *scaled, None, None


# The same as one opaque operator, for torch.compile: the walk's loops depend on the counts, the graph must not. Its
# arguments are those of LossInput.flat().
_SCHEMA = (
    "(Tensor hidden, Tensor weight, Tensor targets, Tensor columns, Tensor order, Tensor weights_ce, "
    "Tensor weights_rec, Tensor segments, Tensor term_weights, Tensor[] entries, Tensor n_bins, Tensor sigma, "
    "int[] starts, int[] sizes, int[] modality, int n_columns, bool block_ce, int[] forms, float[] betas, "
    "ScalarType dtype, bool grads) -> (Tensor, Tensor, Tensor, Tensor)"
)
_N_OTHERS = 19  # arguments behind hidden states and head


@torch.library.custom_op("astromodal::fused_loss", mutates_args=(), schema=_SCHEMA)
def _fused_operator(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *flat, dtype, grads = rest
    total, terms, grad_hidden, grad_weight = _compute(hidden, weight, LossInput.unflatten(flat), dtype, (grads, grads))
    empty = hidden.new_empty(0)
    return (
        total,
        terms,
        empty if grad_hidden is None else grad_hidden,
        empty.clone() if grad_weight is None else grad_weight,
    )


@_fused_operator.register_fake
def _(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given, (dtype, grads) = LossInput.unflatten(rest[:-2]), rest[-2:]
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        hidden.new_empty((), dtype=sums),
        hidden.new_empty(1 + len(given.term_weights), dtype=sums),
        torch.empty_like(hidden) if grads else hidden.new_empty(0),
        torch.empty_like(weight) if grads else weight.new_empty(0),
    )


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[2], output[3])
    ctx.n_entries = len(inputs[2 + _ENTRIES])


def _operator_backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | list[None] | None, ...]:
    grad_hidden, grad_weight = ctx.saved_tensors
    nothing: list[list[None] | None] = [None] * _N_OTHERS
    nothing[_ENTRIES] = [None] * ctx.n_entries  # a list of tensors wants a list of gradients
    return grad_hidden * grad_total, grad_weight * grad_total, *nothing


_ENTRIES = [f.name for f in fields(LossInput)].index("entries")
_fused_operator.register_autograd(_operator_backward, setup_context=_keep_gradients)


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Dtype of the matrix products: autocast's where it is on, else the wider of the two."""
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return torch.promote_types(hidden.dtype, weight.dtype)


def fused_loss(hidden: Tensor, weight: Tensor, given: LossInput) -> tuple[Tensor, Tensor]:
    """Total loss and its terms (cross-entropy, then as in ``MODALITIES``), the latter without gradient and weights.

    Args:
        hidden: ``(N, D)``; weight: ``(V, D)``. Logits are ``hidden @ weight.T``.
        given: everything else.

    The products run in autocast's dtype, everything else in float32 (float64 for float64 input). In bf16 the value is
    within 1e-2 and the gradient within 3e-2 (relative, in norm) of float32.
    """
    dtype = product_dtype(hidden, weight)
    if torch.compiler.is_compiling():
        total, terms, *_ = _fused_operator(hidden, weight, *given.flat(), dtype, torch.is_grad_enabled())
        return total, terms.detach()
    return _FusedLoss.apply(hidden, weight, given, dtype)
