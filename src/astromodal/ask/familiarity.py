"""How surprising what is given of an object is to the model: a warning where it knows nothing, and would not say so.

A posterior's width is what the model learned about objects like those that it was trained on; asked about others, it is
as sure of itself as ever. But a generative model can also be asked for what it is *given*: part by part, in the order
in which it is shown, with what probability does it expect each token after those before it? Seen from validation
objects of its own run (Nalisnick et al. 2019 and Morningstar et al. 2021 compare with such a distribution, too, since a
bare likelihood mostly measures how complex an object is):

* a token's negative log-probability, in standard deviations of that place over the validation objects;
* a part is the mean over its tokens, in standard deviations again; ``surprise`` is their sum over the root of their
  number: about a standard normal for objects like those, whatever parts they have;
* ``surprise_percentile``: how many of a hundred validation objects lie nearer to the middle of theirs; above a limit,
  flagged. On both sides: objects far too bright have all their values in the end bins, which surprises nobody (asked of
  bright stars, a model of galaxies had surprises of -6, and 68 % intervals that held 3 %).

Looked at is all that is given for one of the asked quantities; a quantity that is only asked is not among it.
Probabilities are within the block of a part's codes; missing and undetected parts do not count. A model of the asked
order is shown everything as asked: behind an empty prefix.

Shapes: m objects, W slots of a window, S parts, P longest chain, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from ..data.splits import VAL
from ..errors import ArtifactMissingError
from ..files.ids import hash_ids
from ..machine.random import keyed_uniform
from ..sequences.layout import SequenceLayout
from ..tokens.store import FieldTokens
from ..vocabulary.vocab import TYPE_SPECIAL
from .engine import Engine
from .prefixes import Slots
from .questions import Plan

if TYPE_CHECKING:
    from .prediction import Predictor
    from .seen import TrainingRun

MIN_OBJECTS, MAX_OBJECTS = 20, 5000  # validation objects that are looked at
_KEY = 0xFA31


@dataclass
class Surprises:
    """Computes negative log-probabilities of what is given.

    Args:
        n_codes: codes of each part's block that are in use.
        window: rows of a field that are looked at together.
    """

    engine: Engine
    layout: SequenceLayout
    plan: Plan
    n_codes: dict[str, int]
    window: int

    def __post_init__(self) -> None:
        given = frozenset().union(*(q.given for q in self.plan.questions))
        self.plan = replace(self.plan, given=given or self.plan.given, ask=False)
        self.parts = [segment.name for segment in self.plan.order]

    def of(self, field: FieldTokens, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rising rows ``(m,)`` of a field: nats ``(m, W)``, NaN where nothing is; and the part of each slot."""
        start, stop = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
        slots = Slots.read(field, start, stop, self.layout, self.plan)
        rows = rows - start
        kept = slots.kept_all()[rows]
        nats = np.full((len(rows), len(slots.types)), np.nan, np.float32)
        for batch in self.engine.batches(slots.lengths(kept)):
            self._batch(slots, rows[batch], kept[batch], batch, nats)
        return nats, slots.part

    @torch.inference_mode()
    def _batch(self, slots: Slots, rows: np.ndarray, kept: np.ndarray, at: np.ndarray, nats: np.ndarray) -> None:
        hidden, _, chained = self.engine.prefix(slots, rows, kept, TYPE_SPECIAL)
        targets = slots.tokens[rows[:, None], chained]
        real = np.arange(chained.shape[1]) < slots.lengths(kept)[:, None]
        for number, name in enumerate(self.parts, start=1):
            segment = self.plan.order[number - 1]
            first = self.layout.vocab.block("scalar" if segment.modality == "scalar" else name).start
            n = self.n_codes[name]
            row, place = np.nonzero(real & (slots.part[chained] == number) & (targets >= first) & (targets < first + n))
            if not len(row):
                continue
            states = hidden[self.engine.tensor(row), self.engine.tensor(place - 1)]
            weight = self.engine.model.head_weight[first : first + n]
            logits = states.float() @ weight.float().T
            code = self.engine.tensor(targets[row, place] - first)
            found = logits.logsumexp(-1) - logits.gather(1, code[:, None])[:, 0]
            nats[at[row], chained[row, place]] = found.cpu().numpy()


@dataclass(frozen=True)
class Familiarity:
    """What validation objects look like; ``slot_mean, slot_std (W,)``, ``part_mean, part_std (S,)``, sorted
    ``reference`` surprises of theirs."""

    surprises: Surprises
    slot_mean: np.ndarray
    slot_std: np.ndarray
    part_mean: np.ndarray
    part_std: np.ndarray
    reference: np.ndarray

    @classmethod
    def fit(cls, surprises: Surprises, fields: Iterable[FieldTokens], seed: int = 0) -> Self:
        """Look at validation objects of fields that can be gone through twice, at most about ``MAX_OBJECTS`` of them.

        Raises:
            ArtifactMissingError: there are too few.
        """
        total = sum(int((np.asarray(tokens.split) == VAL).sum()) for tokens in fields)
        if total < MIN_OBJECTS:
            raise ArtifactMissingError(
                f"{MIN_OBJECTS} validation objects of the model's run",
                got=total,
                where="evaluate.familiarity",
                repair="evaluate.familiarity=false",
            )
        nats, part = [], np.zeros(0, np.int64)
        for tokens in fields:
            drawn = keyed_uniform(seed, _KEY, hash_ids(np.asarray(tokens.ids)), 0) < MAX_OBJECTS / total
            rows = np.flatnonzero((np.asarray(tokens.split) == VAL) & drawn)
            for window in np.split(rows, np.searchsorted(rows, np.arange(0, len(tokens), surprises.window)[1:])):
                if len(window):
                    found, part = surprises.of(tokens, window)
                    nats.append(found)
        whole = np.concatenate(nats)
        mean, std = _moments(whole)
        by_part = _by_part((whole - mean) / std, part, len(surprises.parts))
        part_mean, part_std = _moments(by_part)
        return cls(surprises, mean, std, part_mean, part_std, np.sort(_sum((by_part - part_mean) / part_std)))

    def of(self, field: FieldTokens, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``surprise`` and ``surprise_percentile`` ``(m,)`` of rows of a field; NaN where nothing is given."""
        nats, part = self.surprises.of(field, rows)
        by_part = _by_part((nats - self.slot_mean) / self.slot_std, part, len(self.part_mean))
        surprise = _sum((by_part - self.part_mean) / self.part_std)
        return surprise, percentiles(self.reference, surprise)


def percentiles(reference: np.ndarray, surprise: np.ndarray) -> np.ndarray:
    """How many of a hundred of the sorted ``reference`` (NaN last) lie nearer to their middle than each ``surprise``.

    >>> percentiles(np.array([0.0, 1.0, 2.0, 3.0, np.nan]), np.array([-1.0, 1.5, 2.5, 9.0, np.nan])).tolist()
    [100.0, 0.0, 50.0, 100.0, nan]
    """
    known = np.isfinite(reference).sum()
    ranks = [np.searchsorted(reference[:known], surprise, side=side) for side in ("left", "right")]
    below = (ranks[0] + ranks[1]) / (2.0 * max(known, 1))
    return np.where(np.isfinite(surprise), 100.0 * np.abs(2.0 * below - 1.0), np.nan)


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column ``(m, k)`` over what is known; 0 and 1 where that is nothing."""
    known = np.isfinite(values)
    n = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0.0).sum(0, dtype=np.float64) / n
    std = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(0, dtype=np.float64) / n)
    return mean, np.where(std > 1e-6, std, 1.0)


def _by_part(z: np.ndarray, part: np.ndarray, n_parts: int) -> np.ndarray:
    """Mean over the known slots of each part ``(m, S)``, NaN without any."""
    belongs = (part[:, None] == np.arange(1, n_parts + 1)).astype(np.float64)
    known = np.isfinite(z)
    n = known.astype(np.float64) @ belongs
    return np.where(n > 0, (np.where(known, z, 0.0) @ belongs) / np.maximum(n, 1), np.nan)


def _sum(by_part: np.ndarray) -> np.ndarray:
    """Sum over the known parts over the root of their number ``(m,)``, NaN without any."""
    n = np.isfinite(by_part).sum(1)
    return np.where(n > 0, np.nansum(by_part, axis=1) / np.sqrt(np.maximum(n, 1)), np.nan)


def fit_familiarity(predictor: Predictor, run: TrainingRun | None, seed: int) -> Familiarity:
    """For a :class:`~.prediction.Predictor`, from the validation objects of its :class:`~.seen.TrainingRun`.

    Raises:
        ArtifactMissingError: these cannot be had.
    """
    if run is None or run.store is None:
        raise ArtifactMissingError(
            "the validation objects of the model's run",
            got=run.why if run else "none",
            where="evaluate.familiarity",
            repair="evaluate.familiarity=false",
        )
    surprises = Surprises(
        predictor.engine, predictor.layout, predictor.plan, predictor.drawer.n_codes, predictor.window_rows()
    )
    return Familiarity.fit(surprises, run.store, seed)
