"""The score of the question itself at every validation, for a training that is chosen and stopped by it.

The error over all parts of all objects (``val/score``) may still fall while what will be asked gets worse: a small
survey is learned by heart. So the question of ``evaluate.given`` and ``evaluate.predict`` is put to validation objects,
as ``evaluate.py`` would, and ``val/question`` is the mean over the asked columns of CRPS over the CRPS of the marginal
of the training objects: 1 knows nothing, lower is better. ``training.monitor=val/question`` chooses the best weights by
it, ``training.patience`` stops.

Shapes: n objects, V bins of a column.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..ask.engine import Engine
from ..ask.posterior import ColumnBins
from ..ask.prediction import observed
from ..ask.prefixes import Slots
from ..ask.questions import Plan, Question
from ..data.scalars import inverse_transform
from ..data.splits import VAL
from ..errors import ConfigError
from ..machine.random import keyed_uniform
from ..metrics.posterior import cdf_of_bins, crps
from ..parallel.sharded import is_sharded
from ..sequences.layout import SequenceLayout
from ..tokenizers.fitted import needed
from ..training.callbacks.hooks import Callback

if TYPE_CHECKING:
    from ..tokenizers import TokenizerSet
    from ..tokens.store import FieldTokens
    from ..training.loop import TrainingLoop

MAX_OBJECTS = 4096  # asked at every validation: as many as a mean over them needs
NAME = "question"
_CHOICE_KEY = 0xA5C


class QuestionScore(Callback):
    """Adds ``question`` and ``question_<column>`` to the metrics of every validation.

    Args:
        plan: of the questions; its scalar columns are scored.
        fields: token files (they are gone through twice); validation objects that have an asked column are asked.
        tokenizers: with the scalar tokenizer.
        seed: of the choice, where there are more than ``max_objects``.
    """

    def __init__(
        self,
        plan: Plan,
        fields: Iterable[FieldTokens],
        layout: SequenceLayout,
        tokenizers: TokenizerSet,
        *,
        batch_size: int = 64,
        max_objects: int = MAX_OBJECTS,
        seed: int = 0,
    ) -> None:
        self.plan, self.layout, self.batch_size = plan, layout, batch_size
        scalar = needed(tokenizers.scalar, "scalar")
        self.bins = ColumnBins(scalar)
        binners = dict(zip(scalar.columns, scalar.binners, strict=True))
        self.marginal = {q.name: np.asarray(binners[q.name].counts_, np.float64) for q in plan.scalars}
        self.asked = list(self._read(fields, max_objects, seed))

    def _read(
        self, fields: Iterable[FieldTokens], max_objects: int, seed: int
    ) -> Iterable[tuple[Slots, dict[str, np.ndarray]]]:
        """Slots of the chosen objects of each field, and their observed values ``(n,)``, NaN where unknown."""
        fields = list(fields)
        share = max_objects / max(sum(int((field.split == VAL).sum()) for field in fields), 1)
        before = 0
        for field in fields:
            rows = np.flatnonzero(field.split == VAL)
            rows = rows[keyed_uniform(seed, _CHOICE_KEY, before + rows, 0) < share]
            before += len(field)
            values = {q.name: observed(field, q.name, rows)[0].astype(np.float64) for q in self.plan.scalars}
            known = np.isfinite(np.stack(list(values.values()))).any(0)
            if known.any():
                low, high = int(rows[known].min()), int(rows[known].max()) + 1
                slots = Slots.read(field, low, high, self.layout, self.plan).of(rows[known] - low)
                yield replace(slots, tokens=slots.tokens.astype(np.int32)), {k: v[known] for k, v in values.items()}

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> dict[str, float]:
        if is_sharded(loop.model):
            raise ConfigError(
                "a whole model, to be asked at every validation",
                got="hardware.parallel=fsdp",
                where="objective=prediction",
                repair="hardware=ddp, or objective=score",
            )
        was_training = loop.model.training
        engine = Engine(loop.model, self.layout.vocab, self.bins.n_bins.tolist(), loop.precision, self.batch_size)
        answers = [engine.answer(slots, np.arange(len(slots.tokens))).posterior for slots, _ in self.asked]
        loop.model.train(was_training)
        scores = {q.name: self._score(q, [found[q.name] for found in answers]) for q in self.plan.scalars}
        scores = {f"{NAME}_{name}": score for name, score in scores.items() if np.isfinite(score)}
        return scores | ({NAME: float(np.mean(list(scores.values())))} if scores else {})

    def _score(self, question: Question, posteriors: list[np.ndarray]) -> float:
        """CRPS over that of the marginal, of the objects that have the column and something given; NaN without any."""
        j = self.bins.column(question.name)
        n = int(self.bins.n_bins[j])
        edges = inverse_transform(self.bins.edges[j, : n + 1], self.bins.configs[j])
        model = marginal = 0.0
        for posterior, (slots, values) in zip(posteriors, self.asked, strict=True):
            y = np.where(slots.has_given(question), values[question.name], np.nan)
            known = np.isfinite(y)
            constant = np.broadcast_to(cdf_of_bins(self.marginal[question.name][None, :n]), (int(known.sum()), n + 1))
            model += float(crps(edges, cdf_of_bins(posterior[known, :n]), y[known]).sum())
            marginal += float(crps(edges, constant, y[known]).sum())
        return model / marginal if marginal > 0 else float("nan")
