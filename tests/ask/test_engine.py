"""The engine's posteriors and embeddings are those of a plain forward pass over each object's own sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astromodal.ask import engine as engine_module
from astromodal.ask.prefixes import following

from . import hand_built as hand

CASES = [
    ("random", "absent", {}),
    ("random", "token", {}),
    ("random", "absent", {"given": ["spectrum"]}),
    ("random", "absent", {"given": ["image", "r", "z"], "predict": ["t", "z"]}),
    ("random", "token", {"given": ["xp", "scalar"], "predict": ["r"]}),
    ("random", "absent", {"given": [], "predict": ["z"]}),
    ("fixed", "absent", {"given": ["before"]}),
    ("fixed", "token", {"given": ["before"]}),
    ("fixed", "token", {"given": ["r"], "predict": ["z", "xp_scale"]}),
    ("fixed", "absent", {"any_order": True}),
    ("ask", "absent", {}),
    ("ask", "token", {}),
    ("ask", "absent", {"given": ["spectrum"]}),
    ("ask", "absent", {"given": ["image", "r", "z"], "predict": ["t", "z"]}),
    ("ask", "absent", {"given": [], "predict": ["z"]}),
]


@pytest.mark.parametrize(("order", "missing", "changes"), CASES)
def test_posteriors_are_those_of_a_whole_forward_pass(order, missing, changes):
    asked, tokens = hand.plan(order, missing, **changes), hand.field()
    network, rows = hand.model(), np.arange(len(tokens))
    answers = hand.engine(batch_size=7).answer(hand.slots(asked, tokens), rows)
    assert set(answers.posterior) == {q.name for q in asked.questions} and asked.questions
    start = hand.layout().vocab.block("scalar").start
    for question in asked.questions:
        n = hand.N_BINS[list(hand.COLUMNS).index(question.name)]
        expected = []
        for row in rows:
            state = hand.states(network, hand.prefix(tokens, row, asked, question), question.parts[0].type)[-1]
            expected.append((state @ network.head_weight[start : start + n].T).softmax(-1))
        expected = torch.stack(expected).detach().numpy()
        if not question.given:  # the first column of a fixed order has nothing before it
            np.testing.assert_allclose(expected, expected[:1].repeat(len(rows), 0), atol=1e-12)
        else:
            assert expected.std(0).max() > 1e-3  # objects differ
        np.testing.assert_allclose(answers.posterior[question.name], expected, rtol=0, atol=2e-7)  # kept as float32


@pytest.mark.parametrize("order", ["random", "ask"])
def test_the_asked_quantity_changes_nothing_in_its_own_answer(order):
    asked, tokens = hand.plan(order), hand.field()
    before = hand.engine().answer(hand.slots(asked, tokens), np.arange(23)).posterior
    j = list(hand.COLUMNS).index("z")
    tokens.scalar["tokens"][:, j] = (tokens.scalar["tokens"][:, j] + 1) % 8
    after = hand.engine().answer(hand.slots(asked, tokens), np.arange(23)).posterior
    np.testing.assert_allclose(after["z"], before["z"], rtol=0, atol=1e-7)
    assert np.abs(after["r"] - before["r"]).max() > 1e-3


@pytest.mark.parametrize("order", ["random", "ask"])
@pytest.mark.parametrize("cells", [1, 1 << 25])
def test_neither_batches_nor_the_order_of_objects_change_a_number(cells, order, monkeypatch):
    monkeypatch.setattr(engine_module, "_BRANCH_CELLS", cells)  # 1: one question at a time
    asked = hand.plan(order)
    window, everything = hand.slots(asked), np.arange(23)
    whole = hand.engine(64).answer(window, everything, ["mean"])
    shuffled = np.random.default_rng(0).permutation(23)[:15]
    for size in (1, 4):
        part = hand.engine(size).answer(window, shuffled, ["mean"])
        for name, posterior in part.posterior.items():
            np.testing.assert_allclose(posterior, whole.posterior[name][shuffled], rtol=0, atol=1e-7)
        np.testing.assert_allclose(part.embeddings["mean"], whole.embeddings["mean"][shuffled], rtol=1e-5, atol=1e-6)


def test_the_order_of_names_changes_nothing():
    one = hand.plan(given=["image", "z", "sp"], predict=["t", "r"])
    other = hand.plan(given=["sp", "image", "z"], predict=["r", "t"])
    assert one == other


def test_questions_that_are_given_the_same_share_one_pass(monkeypatch):
    """What is given goes through the model once for all of them; each question is one position more."""
    seen = []
    monkeypatch.setattr(engine_module, "extend", lambda *a, real=engine_module.extend: seen.append(a[2]) or real(*a))
    hand.engine().answer(
        hand.slots(hand.plan("ask", given=["spectrum", "image"], predict=["r", "z", "t"])), np.arange(23)
    )
    assert len(seen) == 1
    hand.engine().answer(hand.slots(hand.plan("ask")), np.arange(23))
    assert len(seen) == 1 + len(hand.COLUMNS)  # everything else: something else for each


@pytest.mark.parametrize("order", ["random", "ask"])
@pytest.mark.parametrize("given", [None, ["xp", "r"]])
def test_embeddings_are_pooled_hidden_states_of_everything_given(given, order):
    asked, tokens, network = hand.plan(order, given=given), hand.field(), hand.model()
    found = hand.engine(5).answer(hand.slots(asked, tokens), np.arange(23), ["mean", "last"]).embeddings
    for row in range(23):
        whole = hand.Prefix(*([], []) if asked.ask else ([hand.BOS], [0]))
        for segment in asked.order:
            own = hand.part_tokens(tokens, row, segment.name)
            if own is not None and segment.name in asked.given:
                whole.tokens += own
                whole.types += [segment.type] * len(own)
        states = hand.states(network, hand.with_bos(whole) if asked.ask else whole, 0)
        np.testing.assert_allclose(found["mean"][row], states.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["last"][row], states[-1], rtol=1e-5, atol=1e-6)
    assert asked.given == (frozenset(asked.places) if given is None else frozenset({"xp", "xp.1", "xp_scale", "r"}))


def test_bf16_stays_near_float32():
    from astromodal.config.schema import Precision
    from astromodal.training.precision import MixedPrecision

    window = hand.slots(hand.plan())
    exact = hand.engine(dtype=torch.float32)
    rough = hand.engine(dtype=torch.float32)
    rough.precision = MixedPrecision(Precision.bf16, torch.device("cpu"))
    a, b = (e.answer(window, np.arange(23)).posterior["z"] for e in (exact, rough))
    assert 0 < np.abs(a - b).max() < 0.1
    np.testing.assert_allclose(b.sum(1), 1, atol=1e-5)


def test_the_next_type_of_the_last_token_is_the_asked_one():
    types, lengths = np.array([[0, 3, 3, 4], [0, 5, 0, 0]]), np.array([4, 2])
    assert following(types, lengths, 7).tolist() == [[3, 3, 4, 7], [5, 7, 0, 0]]
