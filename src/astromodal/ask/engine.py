"""Posteriors of scalar columns, and embeddings, of many objects at once.

What objects have in common over all questions goes through the model once (the *chain*, kept as keys and values).
Every question is a branch: the last token of its prefix, told the asked type, and before it only what other questions
do not share. Predicting ``n`` columns from spectra and cutouts costs the prefix and ``n`` positions.

In a model of the asked order everything given sees everything given, so a chain is shared by the questions that are
given the same, and each of them is one position: BOS, told the asked type.

Shapes: m objects of a batch, P longest chain, Q questions, V bins of the scalar block, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..models.decoding import KeyValueCache, branch, extend
from ..vocabulary.vocab import TYPE_SPECIAL, VocabSpec
from .prefixes import Slots, following
from .questions import Plan, Question

if TYPE_CHECKING:
    from ..models import CausalTransformerLM
    from ..training.precision import MixedPrecision

_BRANCH_CELLS = 1 << 25  # entries of the attention mask of branches: bounds their memory


@dataclass
class Answers:
    """What the model says about a window of objects; NaN where it was given nothing."""

    posterior: dict[str, np.ndarray] = field(default_factory=dict)  # column -> (n, V) float32
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)  # mean, last -> (n, D) float32


class Engine:
    """Asks a model.

    Args:
        model: in evaluation mode, on its device.
        n_bins: bins of each column of the vocabulary.
        precision: ``MixedPrecision``, whose ``autocast`` the forward pass is computed in.
        batch_size: objects at once.
    """

    def __init__(
        self,
        model: CausalTransformerLM,
        vocab: VocabSpec,
        n_bins: Sequence[int],
        precision: MixedPrecision,
        batch_size: int = 64,
    ) -> None:
        self.model, self.vocab, self.precision, self.batch_size = model.eval(), vocab, precision, batch_size
        self.n_bins = dict(zip(vocab.scalar_columns, n_bins, strict=True))
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def answer(self, slots: Slots, rows: np.ndarray, embeddings: Sequence[str] = ()) -> Answers:
        """Posteriors of all scalar questions, and the wanted embeddings (``mean``, ``last``), of rows of a window.

        Embeddings are hidden states behind everything that is given: the mean over its tokens, or that of the last,
        which is told that nothing follows. An object that has nothing of what is given gets BOS alone.
        """
        questions, answers = slots.plan.scalars, Answers()
        for q in questions:
            answers.posterior[q.name] = np.full((len(rows), self.n_bins[q.name]), np.nan, np.float32)
        for name in embeddings:
            answers.embeddings[name] = np.full((len(rows), self.model.d_model), np.nan, np.float32)
        for together in _sharing(slots.plan, questions):
            self._answer(slots, rows, together, () if slots.plan.ask else embeddings, answers)
        if embeddings and (slots.plan.ask or not questions):
            self._answer(slots, rows, (), embeddings, answers)
        return answers

    def _answer(
        self, slots: Slots, rows: np.ndarray, questions: Sequence[Question], embeddings: Sequence[str], answers: Answers
    ) -> None:
        """Fill in the answers to questions that share a chain."""
        kept = {q.name: slots.kept(q)[rows] for q in questions}
        chain = slots.kept_all()[rows] if embeddings else np.maximum.reduce(list(kept.values()))
        for batch in self.batches(slots.lengths(chain)):
            # EOS follows what is last, in training as here
            hidden, cache, chained = self.prefix(slots, rows[batch], chain[batch], TYPE_SPECIAL)
            for name in embeddings:
                answers.embeddings[name][batch] = pooled(hidden, cache.lengths, name).float().cpu().numpy()
            del hidden
            mine = {name: parts[batch] for name, parts in kept.items()}
            for group in self._groups(slots, chain[batch], mine, questions, cache.longest):
                found = self._branches(slots, rows[batch], chain[batch], chained, mine, group, cache)
                for q, posterior in zip(group, found, strict=True):
                    answers.posterior[q.name][batch] = posterior

    def batches(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Indices of objects with similar lengths, in a fixed order, ``batch_size`` at a time."""
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    # ------------------------------------------------------------------------------------ prefixes

    def prefix(
        self, slots: Slots, rows: np.ndarray, kept: np.ndarray, last: int
    ) -> tuple[Tensor, KeyValueCache, np.ndarray]:
        """Run prefixes through the model: hidden states ``(m, P, D)``, the cache, and the slots ``(m, P)``.

        Args:
            last: type that the last token of each is told to come.
        """
        chained = slots.compress(kept)
        lengths = slots.lengths(kept)
        tokens, types, _ = slots.take(rows, chained)
        cache = KeyValueCache.empty(len(rows), chained.shape[1], self.device)
        shown, of_type, told, counts = (
            self.tensor(x) for x in (tokens, types, following(types, lengths, last), lengths)
        )
        both_ways = self.tensor(lengths - 1) if slots.plan.ask else None  # all but BOS, which is the last
        with self.precision.autocast():
            errors = self._errors(slots, rows, chained)
            hidden = extend(self.model, cache, shown, of_type, told, counts, both_ways, errors)
        return hidden, cache, chained

    def _errors(self, slots: Slots, rows: np.ndarray, *of: np.ndarray) -> Tensor | None:
        """Errors of the tokens in slots ``(m, P)``, one behind the other, for a model that reads them."""
        if not getattr(self.model, "reads_errors", False):
            return None
        return torch.from_numpy(np.concatenate([slots.errors(rows, s) for s in of], 1)).to(self.device)

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(self.device, non_blocking=True)

    # ------------------------------------------------------------------------------------ branches

    def _groups(
        self, slots: Slots, chain: np.ndarray, kept: dict[str, np.ndarray], questions: Sequence[Question], longest: int
    ) -> Iterator[list[Question]]:
        """Questions whose branches fit into memory together; at least one at a time."""
        group: list[Question] = []
        positions = 0
        for question in questions:
            parts = kept[question.name]
            n = int((slots.lengths(parts) - slots.shared(chain, parts)).max(initial=0)) + 1
            total = positions + n
            if group and len(chain) * total * (longest + total) > _BRANCH_CELLS:
                yield group
                group, total = [], n
            group.append(question)
            positions = total
        if group:
            yield group

    def _branches(
        self,
        slots: Slots,
        rows: np.ndarray,
        chain: np.ndarray,
        chained: np.ndarray,
        kept: dict[str, np.ndarray],
        questions: Sequence[Question],
        cache: KeyValueCache,
    ) -> list[np.ndarray]:
        """Posteriors ``(m, V)`` of each question."""
        parts: list[tuple[np.ndarray, ...]] = []
        tails, starts, ends, at = [], [], [], 0
        branch_of: list[int] = []
        offset: list[int] = []
        for number, question in enumerate(questions):
            mine = kept[question.name]
            start = slots.shared(chain, mine) - 1  # the last shared token is told another type: computed again
            lengths = slots.lengths(mine) - start
            tail = _tail(slots, rows, mine, chained, start, lengths)
            tokens, types, index = slots.take(rows, tail)
            tails.append(tail)
            parts.append((tokens, types, following(types, lengths, question.parts[0].type), index))
            starts.append(start)
            ends.append(at + lengths - 1)
            branch_of += [number] * tail.shape[1]
            offset += range(tail.shape[1])
            at += tail.shape[1]
        shown, of_type, told, index_in_run = (self.tensor(np.concatenate(p, 1)) for p in zip(*parts, strict=True))
        with self.precision.autocast():
            hidden = branch(
                self.model,
                cache,
                shown,
                of_type,
                told,
                index_in_run,
                self.tensor(np.stack(starts, 1)),
                self.tensor(np.array(branch_of)),
                self.tensor(np.array(offset)),
                self._errors(slots, rows, *tails),
            )
        at_end = self.tensor(np.stack(ends, 1))
        states = hidden.gather(1, at_end[:, :, None].expand(-1, -1, hidden.shape[2]))
        return [self.bins(states[:, i], q.name).cpu().numpy() for i, q in enumerate(questions)]

    def bins(self, states: Tensor, column: str) -> Tensor:
        """Distribution over a column's bins ``(m, V)`` float32 of states ``(m, D)`` that were told its type."""
        start = self.vocab.block("scalar").start
        weight = self.model.head_weight[start : start + self.n_bins[column]]
        dtype = torch.float64 if states.dtype is torch.float64 else torch.float32
        return (states.to(dtype) @ weight.to(dtype).T).softmax(-1)


def _sharing(plan: Plan, questions: Sequence[Question]) -> list[list[Question]]:
    """Questions that share a chain: all, or those that are given the same where the given see each other."""
    groups: dict[frozenset[str] | None, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.given if plan.ask else None, []).append(question)
    return list(groups.values())


def _tail(
    slots: Slots, rows: np.ndarray, kept: np.ndarray, chained: np.ndarray, start: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Slots of a prefix from place ``start`` of each row on, right-padded ``(m, longest tail)``."""
    width = int(lengths.max(initial=1))
    first = chained[np.arange(len(rows)), start]
    if width == 1:
        return first[:, None]
    low = int(first.min())
    slots_ = slots.compress(kept, low)
    skipped = (kept[:, slots.part[:low]] == slots.wanted[:low]).sum(1) if low else np.zeros(len(rows), np.int64)
    place = (start - skipped)[:, None] + np.arange(width)
    return np.take_along_axis(slots_, np.clip(place, 0, slots_.shape[1] - 1), 1)


def pooled(hidden: Tensor, lengths: Tensor, how: str) -> Tensor:
    """Mean over each row's tokens, or the state of its last, ``(m, D)``."""
    rows = torch.arange(len(hidden), device=hidden.device)
    if how == "last":
        return hidden[rows, lengths - 1]
    real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    return (hidden.float() * real[:, :, None]).sum(1) / lengths[:, None]
