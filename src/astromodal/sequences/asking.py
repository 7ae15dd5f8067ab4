"""Asked order: which parts of an object are given in an epoch and which are asked, and in what order they stand.

A sequence is ``given parts [BOS] asked parts [EOS]``. What is given is a set whose tokens see each other both ways;
what is asked comes after, each part predicted from everything given and from what was asked before it. So a model is
trained in the situation in which it is asked afterwards; in a random order, where every part is a target and most of
them have seen little, a question of one column from all others is one target in as many as there are columns.

*Named questions* (``sequence.questions``) have a share of the sequences: what they predict is asked first, from what
they give; what else an object has is asked behind it, so that nothing of the survey is left out. Everything else is
drawn: a rate per object and epoch, uniform in [0, 1), with which each quantity is given, so that every number of given
parts is equally likely (a scale is given whenever its spectrum is). At least one part is asked of every object. The
stages of a spectrum's code are one quantity.

The *scale* of a spectrum comes as it does when the model is asked (``evaluation/questions.py``): with a given spectrum
its scale is given, and of an asked spectrum the scale, unless it is given, is asked before everything else.

Draws are pure functions of (seed, epoch, object), like those of the random order.

Shapes: B objects, T types, Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..machine.random import splitmix64
from .layout import SequenceLayout
from .names import Known, expand, parts_of, quantities, scale_of, with_scales

# Of a part: in the prefix; the scale of an asked spectrum; asked; asked behind what a named question predicts.
GIVEN, SCALE, ASKED, AFTER = 0, 1, 2, 3
_DECISIONS = np.uint64(0x9E6C63D0676A9A99)  # sets the draws of given or asked apart from those of the order
_UNIT = 2.0**-53


@dataclass(frozen=True)
class NamedQuestion:
    """A question with a share of the sequences, as types of parts."""

    predict: tuple[int, ...]
    given: tuple[int, ...]
    share: float


def named_questions(questions: Sequence[Any], layout: SequenceLayout) -> tuple[NamedQuestion, ...]:
    """The questions of ``sequence.questions`` to this layout.

    As in ``evaluate``: the asked is never given, nor is the scale of an asked spectrum unless it is named; with a given
    spectrum comes its scale; ``given: null`` is everything else.

    Raises:
        ConfigError: an unknown name, nothing to predict, nothing left to be given, or shares that are no shares.
    """
    known, found = quantities(layout), []
    types = {segment.name: segment.type for segment in layout.segments}
    for number, question in enumerate(questions):
        where = f"sequence.questions[{number}]"
        if not 0 < question.share <= 1:
            raise ConfigError("a share above 0 and up to 1", got=question.share, where=f"{where}.share")
        predict = expand(question.predict, known, f"{where}.predict")
        given = _given(question, predict, known, where)
        if not predict or not (given or question.given == []):
            key, got = ("predict", question.predict) if not predict else ("given", question.given)
            raise ConfigError(
                "a quantity besides what is asked" if predict else "a quantity to ask", got=got, where=f"{where}.{key}"
            )
        asked, shown = (tuple(sorted(types[part] for part in parts_of(names, known))) for names in (predict, given))
        found.append(NamedQuestion(asked, shown, float(question.share)))
    total = sum(question.share for question in found)
    if total > 1 + 1e-9:
        raise ConfigError("shares of at most 1 together", got=round(total, 6), where="sequence.questions")
    return tuple(found)


def _given(question: Any, predict: Sequence[str], known: Known, where: str) -> list[str]:
    """Quantities that are given for a question."""
    named = question.given is not None
    names = expand(question.given, known, f"{where}.given") if named else list(known)
    own = set(predict)
    for name in predict:
        scale = scale_of(name, known)
        if scale is not None and not (named and scale.name in question.given):
            own.add(scale.name)
    return [name for name in with_scales(names, known) if name not in own]


class AskedOrder:
    """Decides for each object and epoch what is given and what is asked.

    Args:
        n_types: types of the vocabulary, T.
        staged: types of each group of spectra with several stages, coarse to fine.
        questions: named questions.
        scales: of the groups of spectra that have one: type of the (first stage of the) spectrum, type of the scale.
    """

    def __init__(
        self,
        n_types: int,
        staged: Sequence[Sequence[int]] = (),
        questions: Sequence[NamedQuestion] = (),
        scales: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.n_types, self.staged, self.questions = n_types, [list(types) for types in staged], tuple(questions)
        self.scales = tuple(scales)
        self._limits = np.cumsum([question.share for question in self.questions])
        self._classes = np.full((len(self.questions), n_types), AFTER, np.int8)
        for row, question in zip(self._classes, self.questions, strict=True):
            row[list(question.given)] = GIVEN
            row[list(question.predict)] = ASKED

    def classes(self, draws: np.ndarray, present: np.ndarray) -> np.ndarray:
        """What becomes of each part, ``(B, T)`` int8: GIVEN, SCALE, ASKED or AFTER.

        Args:
            draws: words of the random order ``(B, T)``; those of type 0, which is no part, choose the question.
            present: parts that each object has ``(B, T)``.
        """
        decisions = _uniform(splitmix64(draws ^ _DECISIONS))
        for types in self.staged:  # one decision for all stages
            decisions[:, types] = decisions[:, types[:1]]
        for spectrum, scale in self.scales:  # earlier than its spectrum, or with it
            own = np.where(present[:, spectrum], decisions[:, spectrum], 1.0)
            decisions[:, scale] = np.minimum(decisions[:, scale], own)
        rate = _uniform(splitmix64(draws[:, 0]))
        found = np.where(decisions < rate[:, None], GIVEN, ASKED).astype(np.int8)
        self._ask_one(found, decisions, present)
        if self.questions:
            chosen = np.searchsorted(self._limits, _uniform(draws[:, 0]), side="right")
            named = np.flatnonzero(chosen < len(self.questions))
            wanted = self._classes[chosen[named]]
            own = present[named]
            able = ((wanted == ASKED) & own).any(1)
            able &= ((wanted == GIVEN) & own).any(1) | ~(wanted == GIVEN).any(1)
            found[named[able]] = wanted[able]  # an object without what is asked, or given, has a drawn question
        for spectrum, scale in self.scales:
            found[present[:, spectrum] & (found[:, spectrum] == ASKED) & (found[:, scale] != GIVEN), scale] = SCALE
        return found

    @staticmethod
    def _ask_one(found: np.ndarray, decisions: np.ndarray, present: np.ndarray) -> None:
        """Let at least one quantity of each object be asked: of those it has, the one that was last to be given."""
        last = np.where(present, decisions, -1.0).max(1)
        found[present & (decisions == last[:, None])] = ASKED

    def arrange(self, draws: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The order of the parts, with the length of the prefix.

        Args:
            draws: words of the random order ``(B, T)``, in the order of the stages within a group.
            sizes: tokens of each part ``(B, T)``; 0 where an object lacks it, and for type 0.

        Returns:
            ``rank`` (B, T), types in their order; ``first`` (B, T), position at which the part of that rank begins;
            ``prefix`` (B,), tokens that are given. BOS stands at position ``prefix``.
        """
        classes = self.classes(draws, sizes > 0)
        key = (draws >> np.uint64(2)) | (classes.astype(np.uint64) << np.uint64(62))
        rank = np.argsort(key, axis=1)
        ordered = np.take_along_axis(sizes, rank, 1)
        behind = np.take_along_axis(classes, rank, 1) != GIVEN
        prefix = (ordered * ~behind).sum(1)
        return rank, np.cumsum(ordered, 1) - ordered + behind, prefix


def _uniform(words: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) of 64-bit words."""
    return (words >> np.uint64(11)) * _UNIT
