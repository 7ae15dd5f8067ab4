"""What a model is shown of many objects, for every question: prefixes, and where those of two questions part.

All possible tokens of a window of objects stand in a matrix of slots, in the order in which they are shown; each part
has one more slot, for the MISS token. A question keeps some parts; compressing the slots that it keeps gives its
prefixes. Prefixes of several questions begin alike, so only what differs is a branch of its own.

A model of the asked order has BOS behind what it is given instead of in front of it.

Shapes: n objects, S parts and BOS, W slots, P longest prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..sequences.layout import SequenceLayout
from ..sequences.slots import segment_tokens
from ..tokens.store import FieldTokens
from ..vocabulary.vocab import BOS, MISS, TYPE_SPECIAL
from .questions import Plan, Question

NOT, CELLS, AS_MISS = 0, 1, 2  # of a part in a prefix: not there, its tokens, one MISS token


@dataclass(frozen=True)
class Slots:
    """Everything that could be shown of consecutive rows of a field."""

    plan: Plan
    tokens: np.ndarray  # (n, W) int64
    sigma: np.ndarray  # (n, W) float16: their errors, 0 for none
    types: np.ndarray  # (W,)
    index: np.ndarray  # (W,) place within the part
    part: np.ndarray  # (W,) 0: BOS, else 1 + place in plan.order
    wanted: np.ndarray  # (W,) CELLS or AS_MISS: how its part is there if this slot is
    present: np.ndarray  # (n, S) bool; BOS always

    @classmethod
    def read(cls, field: FieldTokens, start: int, stop: int, layout: SequenceLayout, plan: Plan) -> Slots:
        """Slots of rows ``start`` to ``stop``.

        Raises:
            ArtifactError: tokens belong to another codebook.
        """
        n = stop - start
        tokens, sigma, present = [np.full((n, 1), BOS)], [np.zeros((n, 1), np.float16)], [np.ones(n, bool)]
        types, index, part, wanted = [TYPE_SPECIAL], [0], [0], [CELLS]
        for number, segment in enumerate(plan.order, start=1):
            cells, errors, there = segment_tokens(field, segment, layout, start, stop)
            tokens += [np.full((n, 1), MISS), cells]
            sigma += [np.zeros((n, 1), np.float16), errors]
            present.append(there)
            types += [segment.type] * (segment.length + 1)
            index += [0, *range(segment.length)]
            part += [number] * (segment.length + 1)
            wanted += [AS_MISS] + [CELLS] * segment.length
        whole, errors = np.concatenate(tokens, 1), np.concatenate(sigma, 1)
        about = np.array([types, index, part, wanted])
        if plan.ask:
            whole, errors, about = (np.roll(x, -1, 1) for x in (whole, errors, about))
        of_type, at, of_part, as_what = about
        return cls(plan, whole, errors, of_type, at, of_part, as_what, np.stack(present, 1))

    def part_number(self, name: str) -> int:
        """Column of ``present`` of a part."""
        return 1 + [segment.name for segment in self.plan.order].index(name)

    @property
    def _lengths(self) -> np.ndarray:
        """Tokens of each part as CELLS ``(S,)``."""
        return np.bincount(self.part[self.wanted == CELLS], minlength=self.present.shape[1])

    def kept(self, question: Question) -> np.ndarray:
        """How each part appears when ``question`` is asked ``(n, S)`` int8: NOT, CELLS or AS_MISS."""
        return self._kept(question.given, question.place, question)

    def kept_all(self) -> np.ndarray:
        """The same for everything that is given at all, for embeddings ``(n, S)``."""
        return self._kept(self.plan.given, len(self.plan.order), None)

    def _kept(self, given: frozenset[str], place: int, question: Question | None) -> np.ndarray:
        plan = self.plan
        kept = np.zeros(self.present.shape, np.int8)
        kept[:, 0] = CELLS
        for number, segment in enumerate(plan.order, start=1):
            # In a fixed order, training has shown every part before the asked one, if only as missing.
            shown = segment.name in given or (plan.fixed and plan.places[segment.name] < place)
            if plan.missing_token and shown:
                kept[:, number] = AS_MISS
            if segment.name in given:
                kept[self.present[:, number], number] = CELLS
        if question is not None and question.scale is not None:  # missing, it is predicted: not said to be missing
            number = self.part_number(question.scale.name)
            kept[kept[:, number] == AS_MISS, number] = NOT
        return kept

    def has_given(self, question: Question) -> np.ndarray:
        """Objects that have something of what is given for a question ``(n,)``."""
        numbers = [self.part_number(name) for name in question.given]
        return np.asarray(self.present[:, numbers].any(1)) if numbers else np.zeros(len(self.present), bool)

    def lengths(self, kept: np.ndarray) -> np.ndarray:
        """Length of each prefix ``(n,)``."""
        return ((kept == CELLS) * self._lengths + (kept == AS_MISS)).sum(1)

    def compress(self, kept: np.ndarray, low: int = 0) -> np.ndarray:
        """Numbers of the kept slots from slot ``low`` on, right-padded ``(m, P)``; ``kept (m, S)``."""
        mask = kept[:, self.part[low:]] == self.wanted[low:]
        ends = mask.cumsum(1)
        slots = np.zeros((len(kept), int(ends[:, -1].max(initial=0))), np.int64)
        at, slot = np.nonzero(mask)
        slots[at, ends[at, slot] - 1] = slot + low
        return slots

    def shared(self, kept: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Length of the common beginning of two prefixes of each row ``(n,)``, BOS included."""
        same = np.cumprod(kept == other, axis=1, dtype=np.int8)
        return ((kept == CELLS) * self._lengths * same + (kept == AS_MISS) * same).sum(1)

    def of(self, rows: np.ndarray) -> Slots:
        """The same of some of the objects ``(m,)``, or a mask of them ``(n,)``."""
        return replace(self, tokens=self.tokens[rows], sigma=self.sigma[rows], present=self.present[rows])

    def errors(self, rows: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Errors of slots ``(m, P)`` of these rows, float32."""
        return self.sigma[rows[:, None], slots].astype(np.float32)

    def take(self, rows: np.ndarray, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, types and index within the part of slots ``(m, P)`` of these rows."""
        return self.tokens[rows[:, None], slots], self.types[slots], self.index[slots]


def following(types: np.ndarray, lengths: np.ndarray, last: np.ndarray | int) -> np.ndarray:
    """Type of the token after each one ``(m, P)``; ``last`` for the last of each row.

    >>> following(np.array([[0, 3, 4], [0, 5, 5]]), np.array([3, 2]), 9).tolist()
    [[3, 4, 9], [5, 9, 0]]
    """
    after = np.concatenate([types[:, 1:], np.zeros((len(types), 1), types.dtype)], 1)
    place = np.arange(types.shape[1])
    after = np.where(place == lengths[:, None] - 1, np.broadcast_to(last, lengths.shape)[:, None], after)
    return np.where(place < lengths[:, None], after, 0)
