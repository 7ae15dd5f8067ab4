"""The walk of the fused loss over chunks of positions; ``loss.py`` says what it is for and makes it differentiable.

In three lines, for R rows h of hidden states, the head's weight W, targets t, and cross-entropy alone::

    logits = h @ W.T                          # into the one buffer; all that a chunk needs
    slope  = softmax(logits); slope[t] -= 1   # the gradient at the logits, written over them
    grad_h = slope @ W;  grad_W += slope.T @ h

A chunk's logits are made once, in a buffer that is used again; cross-entropy and reconstruction read them, and their
gradient is written over them and multiplied back at once.

With p the softmax over a block, c its standardised entries, mu = sum_j p_j c_j and y the true entry, the
reconstruction error is ``|mu - y|^2`` and its gradient at logit j is ``2 p_j (c_j - mu).(mu - y)``. Other forms
of the term, with their gradients, are in ``forms.py``.

Shapes: N positions, D width, V vocabulary, R rows of a chunk, C entries of a block, E dimensions of an entry,
M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...config.schema import LossForm
from ...vocabulary.modalities import MODALITIES, Kind
from ..standardize import CodedTable, Tables
from .forms import Rows, constants, form_of, n_constants, value_and_grad

CPU_CHUNK_ROWS = 512  # the logits of a chunk then stay near the caches
GPU_CHUNK_ELEMENTS = 2**26  # of a chunk's logits: enough rows to fill the device, 256 MiB in float32


@dataclass(frozen=True)
class Head:
    """What the loss must know of the vocabulary: per block its ids, its modality and its weight in the total."""

    starts: list[int]
    sizes: list[int]
    modality: list[int]  # index in MODALITIES
    n_columns: int  # more than 1: the scalar block has a row of centres per column
    block_ce: bool  # cross-entropy over the target's block instead of the whole vocabulary
    forms: list[int]  # of the reconstruction: index among the names of LossForm
    betas: list[float]  # weight of the variance, with form expectation_spread

    @classmethod
    def of(cls, tables: Tables, block_ce: bool) -> Head:
        return cls(
            starts=[t.start for t in tables.blocks],
            sizes=[t.size for t in tables.blocks],
            modality=[MODALITIES.index(t.modality) for t in tables.blocks],
            n_columns=tables.n_columns,
            block_ce=block_ce,
            forms=[list(LossForm).index(form_of(t.form, t.modality)) for t in tables.blocks],
            betas=[t.form.beta for t in tables.blocks],
        )

    def is_ordered(self, block: int) -> bool:
        """Whether the entries of a block are ordered values, a row of them per column."""
        return MODALITIES.at(self.modality[block]).kind is Kind.values

    def form(self, block: int) -> LossForm:
        return list(LossForm)[self.forms[block]]

    def constants(self, block: int, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Those of ``tensors``, from :func:`block_tensors`, that belong to the form of a block."""
        counts = [n_constants(self.form(i)) for i in range(len(self.forms))]
        first = len(self.forms) + sum(counts[:block])
        return list(tensors[first : first + counts[block]])


def block_tensors(tables: Tables) -> tuple[list[Tensor], Tensor]:
    """Standardised entries of each block (empty: no codebook) and the bins of each scalar column (empty: all).

    After the entries of all blocks come the constants of their forms, block by block (none for ``expectation``).
    """
    n_bins = next((t.n_bins for t in tables.blocks if t.n_bins is not None), torch.zeros(0, dtype=torch.int64))
    entries = [t.entries if isinstance(t, CodedTable) else torch.zeros(0, 0) for t in tables.blocks]
    extra = [constants(form_of(t.form, t.modality), t.form, t.entries, t.n_bins) for t in tables.coded]
    return entries + [tensor for tensors in extra for tensor in tensors], n_bins


@dataclass(frozen=True)
class LossInput:
    """What the loss is told beside hidden states and the head's weight: targets, order, weights, codebooks.

    ``order`` and ``segments`` come from :func:`~astromodal.loss.sampling.lay_out`, the weights of positions from
    :func:`~astromodal.loss.sampling.weigh`, ``entries`` and ``n_bins`` from :func:`block_tensors`.
    """

    targets: Tensor  # (N,) ids
    columns: Tensor  # (N,) rows of the scalar table
    order: Tensor  # (N,)
    weights_ce: Tensor  # (N,), in the order of the positions
    weights_rec: Tensor  # (N,)
    segments: Tensor  # stays on the CPU
    term_weights: Tensor  # (M,): of each modality's reconstruction in the total, as in MODALITIES
    entries: Sequence[Tensor]  # of the blocks, then the constants of their forms
    n_bins: Tensor
    sigma: Tensor  # (N,): by which the targets of forms with soft targets are widened; empty: none is
    head: Head

    def flat(self) -> tuple[Any, ...]:
        """As the arguments of an operator, which knows tensors and numbers only; :meth:`unflatten` is its inverse."""
        values = [list(self.entries) if name == "entries" else getattr(self, name) for name in _TENSORS]
        return *values, *[getattr(self.head, name) for name in _NUMBERS]

    @classmethod
    def unflatten(cls, values: Sequence[Any]) -> LossInput:
        """From what :meth:`flat` gave."""
        numbers: list[Any] = [list(v) if isinstance(v, list | tuple) else v for v in values[len(_TENSORS) :]]
        arguments: list[Any] = [*values[: len(_TENSORS)], Head(*numbers)]
        return cls(*arguments)


_TENSORS = tuple(field.name for field in fields(LossInput) if field.name != "head")
_NUMBERS = tuple(field.name for field in fields(Head))


@dataclass
class Work:
    """Inputs, outputs and buffers of one call."""

    given: LossInput  # in the dtype of the sums
    hidden: Tensor  # (N, D)
    weight: Tensor  # (V, D), in the dtype of the products
    buffer: Tensor  # flat room for a chunk's logits, in the dtype of the sums
    terms: Tensor  # (1 + M,): ce, then as in MODALITIES
    grad_hidden: Tensor | None
    grad_weight: Tensor | None

    @property
    def head(self) -> Head:
        return self.given.head

    def logits(self, rows: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Hidden states (R, D) of some positions and their logits (R, stop - start), the latter in the buffer."""
        h = self.hidden.index_select(0, rows).to(self.weight.dtype)
        out = self.buffer[: len(rows) * (stop - start)].view(len(rows), stop - start)
        if out.dtype == h.dtype:
            torch.mm(h, self.weight[start:stop].t(), out=out)
        else:
            out.copy_(h @ self.weight[start:stop].t())
        return h, out

    def backward(self, rows: Tensor, h: Tensor, slope: Tensor, start: int, stop: int, scale: Tensor | None) -> None:
        """Add the gradients of rows whose gradient at the logits is ``scale[:, None] * slope``."""
        slope = slope.to(h.dtype)
        if self.grad_hidden is not None:
            grad = slope @ self.weight[start:stop]
            grad = grad if scale is None else grad * scale[:, None]
            self.grad_hidden.index_copy_(0, rows, grad.to(self.grad_hidden.dtype))
        if self.grad_weight is not None:
            h = h if scale is None else (h * scale[:, None]).to(h.dtype)
            part = self.grad_weight[start:stop]
            if part.dtype == h.dtype:
                part.addmm_(slope.t(), h)
            else:
                part += slope.t() @ h


def mask_columns(work: Work, block: int, rows: Tensor, logits: Tensor) -> None:
    """Rule out the bins that a row's column does not have, in place."""
    if work.head.is_ordered(block) and work.given.n_bins.numel():
        n_bins = work.given.n_bins[work.given.columns.index_select(0, rows)]
        logits.masked_fill_(torch.arange(logits.shape[1], device=logits.device) >= n_bins[:, None], float("-inf"))


def _reconstruction(work: Work, block: int, rows: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Errors (R,) and 2 (c - mu).(mu - y), (R, C), for probabilities ``p`` (R, C) over the entries of a block."""
    codes = work.given.targets.index_select(0, rows) - work.head.starts[block]
    entries = work.given.entries[block]
    if work.head.is_ordered(block):
        if work.head.n_columns > 1:
            centers = entries.index_select(0, work.given.columns.index_select(0, rows))  # (R, C)
            true = centers.gather(1, codes[:, None])
        else:
            centers = entries
            true = entries[0].index_select(0, codes)[:, None]
        mean = (p * centers).sum(1, keepdim=True)
        residual = mean - true
        return residual.square().sum(1), (centers - mean).mul_(2.0 * residual)
    mean = p @ entries
    residual = mean - entries.index_select(0, codes)
    slope = (2.0 * residual) @ entries.t()
    return residual.square().sum(1), slope.sub_((2.0 * mean * residual).sum(1, keepdim=True))


def _other_form(work: Work, block: int, rows: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Values (R,) and gradients at the logits (R, C) of a form that is not ``expectation``."""
    columns = None
    if work.head.is_ordered(block):
        columns = work.given.columns.index_select(0, rows)
    codes = work.given.targets.index_select(0, rows) - work.head.starts[block]
    extra = work.head.constants(block, work.given.entries)
    sigma = work.given.sigma.index_select(0, rows) if work.given.sigma.numel() else None
    own = Rows(codes, work.given.entries[block], columns, extra, work.head.betas[block], sigma)
    return value_and_grad(work.head.form(block), log_p, own)


def form_gradient(work: Work, block: int, rows: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Values (R,) of a block's form and their gradients at its logits ``own`` (R, C), which are overwritten."""
    mask_columns(work, block, rows, own)
    if work.head.form(block) != LossForm.expectation:
        return _other_form(work, block, rows, torch.log_softmax(own, dim=1, out=own))
    p = torch.softmax(own, dim=1)
    error, slope = _reconstruction(work, block, rows, p)
    return error, slope.mul_(p)


def _full_chunk(work: Work, first: int, stop: int, segments: list[list[int]]) -> None:
    """Cross-entropy over the vocabulary for rows ``first:stop`` of the order, and their share of reconstruction."""
    rows = work.given.order[first:stop]
    h, logits = work.logits(rows, 0, len(work.weight))
    scale = work.given.weights_ce.index_select(0, rows)
    additions = []
    for block, (start, stop_rec, _) in enumerate(segments[:-1]):
        a, b = max(start, first), min(stop_rec, stop)
        if a >= b:
            continue
        columns = slice(work.head.starts[block], work.head.starts[block] + work.head.sizes[block])
        part, here = logits[a - first : b - first, columns], rows[a - first : b - first]
        error, gradient = form_gradient(work, block, here, part.clone())
        weight = work.given.weights_rec.index_select(0, here)
        work.terms[1 + work.head.modality[block]] += error @ weight
        share = work.given.term_weights[work.head.modality[block]] * weight / scale[a - first : b - first]
        additions.append((part, gradient.mul_(share[:, None])))
    targets = work.given.targets.index_select(0, rows)[:, None]
    torch.log_softmax(logits, dim=1, out=logits)
    work.terms[0] -= logits.gather(1, targets)[:, 0] @ scale
    if work.grad_hidden is None and work.grad_weight is None:
        return
    logits.exp_()
    logits.scatter_add_(1, targets, torch.full_like(targets, -1.0, dtype=logits.dtype))
    for part, addition in additions:
        part.add_(addition)
    work.backward(rows, h, logits, 0, len(work.weight), scale)


def _block_chunk(work: Work, block: int, first: int, stop_rec: int, stop: int) -> None:
    """Terms that need no more than a block's logits, for rows ``first:stop``, reconstruction up to ``stop_rec``."""
    start, size = work.head.starts[block], work.head.sizes[block]
    rows = work.given.order[first:stop]
    h, logits = work.logits(rows, start, start + size)
    mask_columns(work, block, rows, logits)
    torch.log_softmax(logits, dim=1, out=logits)
    codes = work.given.targets.index_select(0, rows)[:, None] - start
    weight_ce = work.given.weights_ce.index_select(0, rows) if work.head.block_ce else None
    if weight_ce is not None:
        # rows without weight may have -inf or a huge loss: they must not turn 0 * inf into NaN
        log_p = logits.gather(1, codes)[:, 0]
        work.terms[0] -= torch.where(weight_ce > 0, log_p * weight_ce, 0.0).sum()
    n_rec, other = stop_rec - first, None
    if n_rec > 0 and work.head.form(block) != LossForm.expectation:
        other = _other_form(work, block, rows[:n_rec], logits[:n_rec])
    p = logits.exp_()
    factor = p.new_zeros(p.shape) if weight_ce is None else weight_ce[:, None].expand(p.shape).clone()
    if n_rec > 0:
        error, slope = other or _reconstruction(work, block, rows[:n_rec], p[:n_rec])
        weight = work.given.weights_rec.index_select(0, rows[:n_rec])
        work.terms[1 + work.head.modality[block]] += error @ weight
        slope.mul_((work.given.term_weights[work.head.modality[block]] * weight)[:, None])
        if other is None:
            factor[:n_rec] += slope
    if work.grad_hidden is None and work.grad_weight is None:
        return
    p.mul_(factor)
    if other is not None:
        p[:n_rec] += slope
    if weight_ce is not None:
        p.scatter_add_(1, codes, -weight_ce[:, None])
    work.backward(rows, h, p, start, start + size, None)


def walk(work: Work, segments: list[list[list[int]]], chunk_elements: int | None) -> None:
    """All chunks: first the rows that need the whole vocabulary, then those that need only their block."""
    vocab_size = len(work.weight)
    n_full = segments[0][-1][2]
    step = chunk_rows(chunk_elements, vocab_size)
    for first in range(0, n_full, step):
        _full_chunk(work, first, min(first + step, n_full), segments[0])
    for block, (start, stop_rec, stop) in enumerate(segments[1][:-1]):
        step = chunk_rows(chunk_elements, work.head.sizes[block])
        for first in range(start, stop, step):
            last = min(first + step, stop)
            _block_chunk(work, block, first, min(max(stop_rec, first), last), last)


def chunk_rows(chunk_elements: int | None, width: int) -> int:
    return CPU_CHUNK_ROWS if chunk_elements is None else max(CPU_CHUNK_ROWS, chunk_elements // width)
