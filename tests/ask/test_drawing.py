"""Draws: from the right distribution, the same for an object whatever is asked beside it, decoded to physical units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astromodal.ask.drawing import Drawer, DrawSettings, drawn_from, invert
from astromodal.ask.posterior import ColumnBins
from astromodal.files.ids import hash_ids
from astromodal.machine.random import keyed_uniform

from . import hand_built as hand


def drawer(batch_size: int = 64, **settings) -> Drawer:
    return Drawer(
        hand.engine(batch_size), hand.tokenizers(), ColumnBins(hand.scalar_tokenizer()), DrawSettings(**settings)
    )


def draw_codes(logits, uniform, *how):
    return invert(drawn_from(logits, *how), uniform)


HASHES = hash_ids(hand.field().ids)
SCALES = np.linspace(100, 200, 23)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7)])
def test_codes_come_as_often_as_the_softmax_says(temperature, top_p):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(12, generator=generator)
    p = (logits.double() / temperature).softmax(-1)
    order = p.argsort(descending=True)
    n_kept = int((p[order].cumsum(0) - p[order] < top_p).sum())
    allowed = torch.zeros(12, dtype=torch.bool)
    allowed[order[:n_kept]] = True
    expected = (p * allowed / (p * allowed).sum()).numpy()
    n = 20_000
    uniform = torch.from_numpy(keyed_uniform(3, 0, np.arange(n), 0))
    counts = np.bincount(draw_codes(logits.expand(n, -1), uniform, temperature, top_p), minlength=12)
    assert (counts[~allowed.numpy()] == 0).all() and (top_p == 1.0 or n_kept < 12)
    kept = expected > 0
    chi2 = ((counts[kept] - n * expected[kept]) ** 2 / (n * expected[kept])).sum()
    assert chi2 < 31.3  # 0.1 % of chi2 with 11 degrees of freedom lies above


def test_edge_cases_of_the_distribution_function():
    logits = torch.tensor([[-50.0, 0.0, -50.0, 0.0]] * 3)
    assert draw_codes(logits, torch.tensor([0.0, 0.4999, 1 - 1e-16]).double()).tolist()[1:] == [1, 3]
    assert draw_codes(logits, torch.tensor([0.3, 0.9, 0.999]).double(), 1.0, 1e-9).tolist() == [
        1,
        1,
        1,
    ]  # the likeliest


def slow_draw(question, asked, tokens, row: int, seed: int, draw: int, n: int) -> tuple[dict, dict]:
    """One of ``n`` draws of one object, with a whole forward pass per token: codes, and expected codes."""
    network, sequence = hand.model(), hand.prefix(tokens, row, asked, question)
    parts = list(question.parts)
    if question.scale is not None and question.scale.name not in question.given:
        parts.insert(0, question.scale)
    found: dict[str, list[int]] = {}
    expected: dict[str, list[float]] = {}
    for part in parts:
        size = {**dict(zip(hand.COLUMNS, hand.N_BINS, strict=True)), "image": 10}.get(part.name)
        size = hand.SIZES[part.name] - 1 if size is None else size
        for place in range(part.length):
            weight = network.head_weight[part.base : part.base + size]
            p = (hand.states(network, sequence, part.type)[-1] @ weight.T).softmax(-1)
            below = p.cumsum(-1)
            u = float(keyed_uniform(seed, draw, HASHES[row], part.type * 2**32 + place))
            if part.modality == "scalar":  # one scale from each n-th of the distribution
                first = int(n * float(keyed_uniform(seed, 2**31, HASHES[row], part.type * 2**32)))
                u = ((first + draw) % n + u) / n
            code = int((below <= u * below[-1]).sum())
            found.setdefault(part.name, []).append(code)
            expected.setdefault(part.name, []).append(float(p.detach() @ torch.arange(size).to(p)))
            sequence.tokens.append(part.base + code)
            sequence.types.append(part.type)
    return found, expected


@pytest.mark.parametrize(
    ("name", "missing", "order"),
    [
        ("image", "absent", "random"),
        ("xp", "absent", "random"),
        ("sp", "token", "random"),
        ("xp", "absent", "ask"),
    ],
)
def test_draws_with_a_cache_are_draws_without_one(name, missing, order):
    tokens = hand.field()
    asked = hand.plan(order, missing, given=["r", "z", "sp", "image"], predict=[name])
    (question,) = asked.questions
    made = drawer(10, n_samples=3, seed=5)
    found = made.draw(hand.slots(asked, tokens), np.arange(6), question, HASHES[:6], SCALES[:6])
    for row in range(6):
        codes, expected = zip(*(slow_draw(question, asked, tokens, row, 5, draw, 3) for draw in range(3)), strict=True)
        if name == "image":
            values = means = np.array([[10.0 * c for c in code["image"]] for code in codes])
        elif name == "sp":
            values, means = (
                np.array([np.repeat(np.array(code["sp"]) + 1.0, 2) * [1, 0.5, 1, 0.5] for code in of])
                for of in (codes, expected)
            )
        else:
            scales = made.bins.centers[3][[code["xp_scale"][0] for code in codes]][:, None]
            values, means = (
                np.array(
                    [
                        np.repeat(np.array(code["xp"]) + np.array(code["xp.1"]) + 1.0, 2) * np.tile([1, 0.5], 3)
                        for code in of
                    ]
                )
                * scales
                for of in (codes, expected)
            )
        np.testing.assert_allclose(found.mean[row], means.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.std[row], values.std(0, ddof=1), rtol=1e-4, atol=1e-4)
    assert found.std.max() > 0 and found.scale_predicted.tolist() == [name == "xp"] * 6


def test_the_mean_of_expected_entries_is_that_of_many_drawn_ones_with_less_scatter():
    asked = hand.plan(given=["r", "xp_scale"], predict=["xp"])
    (question,), window = asked.questions, hand.slots(asked)
    rows = np.flatnonzero(hand.field().scalar["present"][:, hand.field().columns.index("xp_scale")])[:4]

    def means(linear: bool, n: int, seed: int) -> np.ndarray:
        made = drawer(512, n_samples=n, seed=seed)
        made.entries = made.entries if linear else {}
        return made.draw(window, rows, question, HASHES[rows], SCALES[rows]).mean

    truth = means(False, 2000, 0)
    few, drawn = (np.stack([means(linear, 4, seed) for seed in range(1, 40)]) for linear in (True, False))
    scatter = few.std(0) / np.sqrt(len(few)) + drawn.std(0) * np.sqrt(4 / 2000)
    assert (np.abs(few.mean(0) - truth) < 5 * scatter).all()
    assert (few.std(0) < 0.8 * drawn.std(0)).mean() > 0.95


def test_neither_batches_nor_the_order_of_objects_change_a_draw():
    asked = hand.plan(predict=["xp"])
    (question,), window = asked.questions, hand.slots(asked)
    whole = drawer(64, n_samples=4).draw(window, np.arange(23), question, HASHES, SCALES)
    rows = np.random.default_rng(0).permutation(23)[:9]
    part = drawer(5, n_samples=4).draw(window, rows, question, HASHES[rows], SCALES[rows])
    np.testing.assert_array_equal(part.mean, whole.mean[rows])
    other = drawer(64, n_samples=4, seed=1).draw(window, np.arange(23), question, HASHES, SCALES)
    assert (other.mean != whole.mean).any(1).mean() > 0.9
    more = drawer(64, n_samples=1).draw(window, np.arange(23), question, HASHES, SCALES)
    assert np.isnan(more.std).all() and np.isfinite(more.mean).all()


@pytest.mark.parametrize("missing", ["absent", "token"])
def test_a_given_scale_is_used_and_a_missing_one_is_drawn(missing):
    tokens = hand.field()
    asked = hand.plan(missing=missing, given=["r", "xp_scale"], predict=["xp"])
    (question,), made = asked.questions, drawer(n_samples=2)
    window = hand.slots(asked, tokens)
    found = made.draw(window, np.arange(23), question, HASHES, SCALES)
    j = tokens.columns.index("xp_scale")
    has = (tokens.scalar["present"] | tokens.scalar["nondetected"])[:, j]
    assert found.scale_predicted.tolist() == (~has).tolist() and 0 < has.sum() < 23
    doubled = made.draw(window, np.arange(23), question, HASHES, 2 * SCALES)
    np.testing.assert_allclose(doubled.mean[has], 2 * found.mean[has], rtol=1e-6)
    np.testing.assert_array_equal(doubled.mean[~has], found.mean[~has])
