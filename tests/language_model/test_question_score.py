"""The question's own score at a validation is what evaluate.py's answers are worth against the marginal."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from astromodal.ask.posterior import ColumnBins
from astromodal.data.scalars import inverse_transform
from astromodal.data.splits import VAL
from astromodal.language_model.question_score import QuestionScore
from tests.ask import hand_built as hand


def crps_by_sum(edges: np.ndarray, p: np.ndarray, y: float) -> float:
    """The integral of (F - step)^2 on a fine grid."""
    x = np.linspace(min(edges[0], y), max(edges[-1], y), 20_001)
    cdf = np.interp(x, edges, np.concatenate([[0.0], np.cumsum(p / p.sum())]))
    return float(np.trapezoid((cdf - (x >= y)) ** 2, x))


def loop() -> SimpleNamespace:
    engine = hand.engine()
    return SimpleNamespace(model=engine.model.train(), precision=engine.precision)


@pytest.mark.parametrize("given", [["spectrum"], ["r", "image"]])
def test_it_is_crps_over_that_of_the_marginal_of_validation_objects_that_have_column_and_something_given(given):
    asked, tokens, tokenizers = hand.plan(given=given, predict=["z", "t"]), hand.field(120), hand.tokenizers()
    running = loop()
    found = QuestionScore(asked, [tokens], hand.layout(), tokenizers).on_validation_end(running, {})
    assert running.model.training
    bins, slots = ColumnBins(tokenizers.scalar), hand.slots(asked, tokens)
    posterior = hand.engine().answer(slots, np.arange(120)).posterior
    ratios = {}
    for question in asked.scalars:
        j = list(hand.COLUMNS).index(question.name)
        n = hand.N_BINS[j]
        edges = inverse_transform(bins.edges[j, : n + 1], hand.COLUMNS[question.name])
        known = tokens.scalar["present"][:, j] & (tokens.split == VAL) & slots.has_given(question)
        assert known.sum() > 2 and not known[tokens.split == VAL].all()
        scores = [
            (crps_by_sum(edges, p[question.name][row], float(tokens.scalar["values"][row, j])))
            for p in (posterior, {question.name: np.tile(tokenizers.scalar.binners[j].counts_, (120, 1))})
            for row in np.flatnonzero(known)
        ]
        model, marginal = np.reshape(scores, (2, -1)).sum(1)
        ratios[question.name] = model / marginal
        assert found[f"question_{question.name}"] == pytest.approx(model / marginal, rel=1e-3)
    assert found["question"] == pytest.approx(np.mean(list(ratios.values())), rel=1e-3)


def test_of_many_objects_a_fixed_choice_is_asked():
    asked, tokens = hand.plan(predict=["z"]), hand.field(300)
    few = [
        QuestionScore(asked, [tokens, tokens], hand.layout(), hand.tokenizers(), max_objects=30, seed=s)
        for s in (0, 0, 1)
    ]
    sizes = [sum(len(slots.tokens) for slots, _ in score.asked) for score in few]
    assert 8 < sizes[0] < 45 and sizes[0] == sizes[1]
    assert few[0].on_validation_end(loop(), {}) == few[1].on_validation_end(loop(), {})
    assert few[0].on_validation_end(loop(), {}) != few[2].on_validation_end(loop(), {})


def test_without_objects_that_can_be_asked_there_is_no_score():
    asked, tokens = hand.plan(predict=["z"]), hand.field()
    tokens.split[:] = 0
    assert QuestionScore(asked, [tokens], hand.layout(), hand.tokenizers()).on_validation_end(loop(), {}) == {}
