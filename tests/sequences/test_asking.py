"""The asked order: what is given and what is asked, against a choice made object by object."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from astromodal.config.schema import QuestionConfig
from astromodal.errors import ConfigError
from astromodal.loss.shifting import shift
from astromodal.machine.random import splitmix64
from astromodal.sequences import SequenceDataset
from astromodal.sequences.asking import AFTER, ASKED, GIVEN, SCALE, AskedOrder, NamedQuestion, named_questions
from astromodal.sequences.dataset import part_draws
from astromodal.vocabulary.vocab import BOS, EOS, PAD
from tests.ask import hand_built as hand
from tests.sequences.conftest import fake_layout


def question(layout, share=0.5, **names):
    return named_questions([QuestionConfig(share=share, **names)], layout)


def unit(word: int) -> float:
    return (int(word) >> 11) * 2.0**-53


def by_hand(draws, present, questions, staged=(), scales=()):
    """Class of each part of one object, in plain Python."""
    first = {t: types[0] for types in staged for t in types}
    decision = {t: unit(splitmix64(np.uint64(int(draws[first.get(t, t)]) ^ 0x9E6C63D0676A9A99))) for t in present}
    for spectrum, scale in scales:
        if spectrum in present and scale in present:
            decision[scale] = min(decision[scale], decision[spectrum])
    rate = unit(splitmix64(np.uint64(draws[0])))
    classes = {t: GIVEN if decision[t] < rate else ASKED for t in present}
    last = max(decision.values())
    classes |= {t: ASKED for t in present if decision[t] == last}
    for spectrum, scale in scales:
        if classes.get(spectrum) == classes.get(scale) == ASKED:
            classes[scale] = SCALE
    share, lower = unit(draws[0]), 0.0
    for q in questions:
        if lower <= share < lower + q.share:
            named = {t: ASKED if t in q.predict else GIVEN if t in q.given else AFTER for t in present}
            found = set(named.values())
            for spectrum, scale in scales:
                if spectrum in q.predict and scale in named and named[scale] != GIVEN:
                    named[scale] = SCALE
            if ASKED in found and (GIVEN in found or not q.given):
                classes = named
        lower += q.share
    return classes


@pytest.mark.parametrize("named", [False, True])
def test_a_batch_equals_the_one_built_object_by_object(packed, named):
    sequences, layout = packed, fake_layout()
    columns = [s.name for s in layout.segments if s.modality == "scalar"]
    questions = ()
    if named:
        configs = [QuestionConfig([columns[0]], ["scalar"], 0.3), QuestionConfig(["spectrum"], None, 0.4)]
        questions = named_questions(configs, layout)
    dataset = SequenceDataset(sequences, "train", order="ask", seed=5, questions=questions)
    types = {s.name: s.type for s in layout.segments}
    scales = [(types[name], types[f"{name}_scale"]) for name in types if f"{name}_scale" in types]
    arrays, n_types = sequences.split("train"), layout.vocab.n_types
    seen = set()
    for epoch in range(3):
        dataset.set_epoch(epoch)
        batch = dataset.__getitems__(np.arange(len(dataset)))
        for b in range(len(dataset)):
            start, stop = arrays["offsets"][b : b + 2]
            parts: dict[int, list[int]] = {}
            for token, kind in zip(arrays["tokens"][start:stop], arrays["types"][start:stop], strict=True):
                parts.setdefault(int(kind), []).append(int(token))
            bos, eos = parts.pop(0)
            draws = part_draws(5, epoch, np.array([sequences.first_index("train") + b]), n_types)[0]
            classes = by_hand(draws, list(parts), questions, (), scales)
            order = sorted(parts, key=lambda t: (classes[t], int(draws[t]) >> 2))
            given = [(t, kind) for kind in order if classes[kind] == GIVEN for t in parts[kind]]
            asked = [(t, kind) for kind in order if classes[kind] != GIVEN for t in parts[kind]]
            expected = [*given, (bos, 0), *asked, (eos, 0)]
            real = batch["attn_mask"][b]
            found = zip(batch["tokens"][b][real].tolist(), batch["types"][b][real].tolist(), strict=True)
            assert list(found) == expected and bos == BOS and eos == EOS and asked
            assert int(batch["prefix"][b]) == len(given)
            seen |= set(classes.values())
    assert seen == ({GIVEN, ASKED, AFTER} if named else {GIVEN, ASKED})


def test_errors_move_with_their_tokens(packed):
    sequences = packed
    plain = SequenceDataset(sequences, "train", with_sigma=True).__getitems__(np.arange(12))
    asked = SequenceDataset(sequences, "train", order="ask", with_sigma=True).__getitems__(np.arange(12))
    assert (plain["sigma"] > 0).any()
    for b in range(12):
        pairs = [
            sorted(zip(x["types"][b].tolist(), x["tokens"][b].tolist(), x["sigma"][b].tolist(), strict=True))
            for x in (plain, asked)
        ]
        assert pairs[0] == pairs[1]


def test_draws_differ_between_epochs_and_objects_and_depend_on_nothing_else(packed):
    sequences = packed

    def batch(indices, seed=0, epoch=0):
        dataset = SequenceDataset(sequences, "train", order="ask", seed=seed)
        dataset.set_epoch(epoch)
        return pickle.loads(pickle.dumps(dataset)).__getitems__(indices)

    rows = np.arange(20)
    whole, later = batch(rows), batch(rows, epoch=1)
    assert not torch.equal(whole["types"], later["types"]) and not torch.equal(whole["prefix"], later["prefix"])
    assert not torch.equal(whole["types"], batch(rows, seed=1)["types"])
    alone = batch([7])
    length = int(alone["attn_mask"].sum())
    assert torch.equal(alone["tokens"][0, :length], whole["tokens"][7, :length])
    assert alone["prefix"][0] == whole["prefix"][7]


def test_every_number_of_given_parts_is_equally_likely():
    order, n, parts = AskedOrder(7), 40_000, 6
    draws, present = part_draws(3, 0, np.arange(n), 7), np.ones((n, 7), bool)
    present[:, 0] = False
    classes = order.classes(draws, present)[:, 1:]
    counts = np.bincount((classes == GIVEN).sum(1), minlength=parts + 1)
    # the case of all given has one part asked: 5 of 6 given comes twice
    expected = n / 7 * np.array([1, 1, 1, 1, 1, 2, 0])
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(n / 7))
    np.testing.assert_allclose((classes == ASKED).mean(0), (classes == ASKED).mean(), atol=0.01)


def test_named_questions_have_their_shares_and_the_rest_is_drawn():
    questions = (NamedQuestion((2,), (1, 3), 0.3), NamedQuestion((4,), (), 0.2))
    order, n = AskedOrder(6, (), questions), 20_000
    present = np.tile([False, True, True, True, True, False], (n, 1))
    classes = order.classes(part_draws(0, 0, np.arange(n), 6), present)[:, 1:5]
    first = (classes == [GIVEN, ASKED, GIVEN, AFTER]).all(1).mean()
    second = (classes == [AFTER, AFTER, AFTER, ASKED]).all(1).mean()
    assert abs(first - 0.3) < 0.015 and abs(second - 0.2) < 0.015
    drawn = classes[(classes != AFTER).all(1)]
    assert abs(len(drawn) / n - 0.5) < 0.015 and len(np.unique(drawn, axis=0)) == 2**4 - 1  # every subset but all given
    present[:, 2] = False  # nobody has what the first one asks: drawn
    classes = order.classes(part_draws(0, 0, np.arange(n), 6), present)
    assert abs((classes[:, [1, 3, 4]] != AFTER).all(1).mean() - 0.8) < 0.015


def test_the_stages_of_a_code_are_given_or_asked_together_coarse_before_fine():
    order = AskedOrder(6, [[2, 3]])
    draws = part_draws(1, 0, np.arange(500), 6)
    draws[:, [2, 3]] = np.sort(draws[:, [2, 3]], axis=1)
    sizes = np.tile([0, 1, 4, 4, 2, 3], (500, 1))
    classes = order.classes(draws, sizes > 0)
    assert (classes[:, 2] == classes[:, 3]).all() and len(np.unique(classes[:, 2])) == 2
    rank, first, prefix = order.arrange(draws, sizes)
    start = np.empty_like(first)
    np.put_along_axis(start, rank, first, 1)
    assert (start[:, 2] < start[:, 3]).all()
    assert (prefix == (sizes * (classes == GIVEN)).sum(1)).all()


def test_a_scale_comes_with_its_given_spectrum_and_before_its_asked_one():
    spectrum, scale, other = 2, 4, 1
    present = np.tile([False, True, True, True, True], (4000, 1))
    present[:1000, spectrum] = False
    draws = part_draws(2, 0, np.arange(4000), 5)
    classes = AskedOrder(5, [[2, 3]], (), [(spectrum, scale)]).classes(draws, present)
    with_it = classes[1000:]
    assert (with_it[with_it[:, spectrum] == GIVEN, scale] == GIVEN).all()
    asked = with_it[with_it[:, spectrum] == ASKED, scale]
    assert set(asked) == {GIVEN, SCALE}  # never among the asked ones, in any order
    assert set(classes[:1000, scale]) == {GIVEN, ASKED}  # without its spectrum a column like any other

    named = NamedQuestion((2, 3), (other,), 1.0)
    classes = AskedOrder(5, [[2, 3]], (named,), [(spectrum, scale)]).classes(draws, present)[1000:]
    assert (classes[:, 1:] == [GIVEN, ASKED, ASKED, SCALE]).all()
    rank, _, _ = AskedOrder(5, [[2, 3]], (named,), [(spectrum, scale)]).arrange(draws, 3 * present)
    assert (rank[1000:, :2] == [other, scale]).all()  # what is given, then the scale
    with_scale = NamedQuestion((2, 3), (other, scale), 1.0)
    classes = AskedOrder(5, [[2, 3]], (with_scale,), [(spectrum, scale)]).classes(draws, present)[1000:]
    assert (classes[:, scale] == GIVEN).all()


def test_the_loss_is_on_what_is_asked_and_on_nothing_else(packed):
    sequences = packed
    batch = SequenceDataset(sequences, "val", order="ask").__getitems__(np.arange(9))
    part = shift(batch)
    for b in range(9):
        prefix, length = int(batch["prefix"][b]), int(batch["attn_mask"][b].sum())
        targets = part["targets"][b].tolist()
        assert targets[:prefix] == [PAD] * prefix
        assert targets[prefix : length - 2] == batch["tokens"][b, prefix + 1 : length - 1].tolist()
        assert set(targets[length - 2 :]) <= {PAD}  # EOS and padding


def test_names_are_those_of_evaluate():
    layout = hand.layout()
    types = {segment.name: segment.type for segment in layout.segments}

    def names(ids):
        return {name for name, kind in types.items() if kind in ids}

    (found,) = question(layout, predict=["z"], given=["scalar", "image"])
    assert names(found.predict) == {"z"} and names(found.given) == {"r", "t", "xp_scale", "image"}
    (found,) = question(layout, predict=["xp"], given=None)
    assert names(found.predict) == {"xp", "xp.1"} and names(found.given) == {"r", "z", "t", "sp", "image"}
    (found,) = question(layout, predict=["r"], given=["xp"])
    assert names(found.given) == {"xp", "xp.1", "xp_scale"}
    (found,) = question(layout, predict=["r"], given=[])
    assert found.given == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict": ["zz"], "given": ["scalar"]}, "nearest|did you mean|one of"),
        ({"predict": ["z"], "given": ["scala"]}, r"sequence\.questions\[0\]\.given"),
        ({"predict": [], "given": ["scalar"]}, "a quantity to ask"),
        ({"predict": ["z"], "given": ["z"]}, "besides what is asked"),
        ({"predict": ["z"], "share": 1.5}, "share above 0 and up to 1"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        question(hand.layout(), **changes)


def test_shares_beyond_one_are_refused():
    both = [
        SimpleNamespace(predict=["r"], given=None, share=0.6),
        SimpleNamespace(predict=["z"], given=None, share=0.6),
    ]
    with pytest.raises(ConfigError, match="at most 1 together"):
        named_questions(both, hand.layout())
