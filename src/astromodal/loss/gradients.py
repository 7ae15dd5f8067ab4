"""The gradient of the loss taken apart: cross-entropy and reconstruction of each modality.

For ``gradient_shares.py``, which asks how large each term's gradient is at the logits and at the last
hidden states, and whether it points where the cross-entropy's does. Nothing is differentiated: gradients at the logits
are known in closed form, chunk by chunk, as in the fused loss.

Shapes: R rows of a chunk, C entries of a block, V vocabulary, D width, M modalities.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..vocabulary.modalities import MODALITIES
from .fused.chunks import Head, Work, chunk_rows, form_gradient, mask_columns
from .sampling import Targets

N_SUMS = 6  # squared norms of both terms and their product, at the logits and at the hidden states


def gradient_sums(work: Work, segments: list[list[list[int]]], chunk_elements: int | None) -> Tensor:
    """Sums over the positions of one micro-batch, ``(M + 1, 6)``: the modalities, then special.

    Columns: ``|g_ce|^2``, ``|g|^2`` and ``g_ce . g`` at the logits, the same at the hidden states; with each position's
    weights within its term, without the terms' own.
    """
    sums = work.buffer.new_zeros(len(MODALITIES) + 1, N_SUMS, dtype=torch.float64)
    for part, whole in ((segments[0], True), (segments[1], False)):
        for block, (start, stop_rec, stop) in enumerate(part):
            special = block == len(work.head.sizes)
            width = len(work.weight) if whole else 0 if special else work.head.sizes[block]
            step = chunk_rows(chunk_elements, max(width, 1))
            for first in range(start, stop, step):
                last = min(first + step, stop)
                own = (first, min(max(stop_rec, first), last), last)
                sums[-1 if special else work.head.modality[block]] += _chunk(work, block, own, whole)
    return sums


def _chunk(work: Work, block: int, rows_of: tuple[int, int, int], whole: bool) -> Tensor:
    """The six sums over rows ``first:stop`` of the order, of which those up to ``stop_rec`` are reconstructed."""
    first, stop_rec, stop = rows_of
    rows, n_rec = work.given.order[first:stop], stop_rec - first
    known = block < len(work.head.sizes)
    begin = work.head.starts[block] if known else 0
    end = begin + (work.head.sizes[block] if known else 0)
    low, high = (0, len(work.weight)) if whole else (begin, end)
    h, logits = work.logits(rows, low, high)
    own = slice(begin - low, end - low)
    g = None
    if n_rec > 0:
        _, g = form_gradient(work, block, rows[:n_rec], logits[:n_rec, own].clone())
        g.mul_(work.given.weights_rec.index_select(0, rows[:n_rec])[:, None])
    if not whole:
        mask_columns(work, block, rows, logits)
    g_ce = torch.softmax(logits, dim=1, out=logits)
    hits = work.given.targets.index_select(0, rows)[:, None] - low
    g_ce.scatter_add_(1, hits, torch.full_like(hits, -1.0, dtype=g_ce.dtype))
    weights = work.given.weights_ce.index_select(0, rows) if whole or work.head.block_ce else torch.zeros_like(rows)
    g_ce.mul_(weights.to(g_ce.dtype)[:, None])
    at_logits = _products(g_ce, g, g_ce[:n_rec, own])
    head = work.weight[low:high]
    back_ce = (g_ce.to(h.dtype) @ head).to(g_ce.dtype)
    back = None if g is None else (g.to(h.dtype) @ head[own]).to(g_ce.dtype)
    return torch.cat([at_logits, _products(back_ce, back, back_ce[:n_rec])])


def _products(g_ce: Tensor, g: Tensor | None, g_ce_there: Tensor) -> Tensor:
    """|g_ce|^2, |g|^2 and g_ce . g, where ``g_ce_there`` are the elements of g_ce at those of g; float64 ``(3,)``."""
    zero = g_ce.new_zeros(())
    both = (zero, zero) if g is None else (g.square().sum(), (g * g_ce_there).sum())
    return torch.stack([g_ce.square().sum(), *both]).double()


def drawn_counts(targets: Targets, weights_ce: np.ndarray, weights_rec: np.ndarray, head: Head) -> Tensor:
    """Positions of the modalities and of specials, ``(M + 1, 4)``: of them in the cross-entropy, that could be, in
    the reconstruction, that could be."""
    of_block = np.asarray([*head.modality, len(MODALITIES)])[targets.blocks]
    may_ce = targets.coded if head.block_ce else targets.kinds >= 0
    groups = (weights_ce > 0, may_ce, weights_rec > 0, targets.modality >= 0)
    counts = [np.bincount(of_block[chosen], minlength=len(MODALITIES) + 1) for chosen in groups]
    return torch.from_numpy(np.stack(counts, axis=1).astype(np.float64))
