"""Draws and weights of a step: uniform, without replacement, the same for every split of the step."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.config.schema import Balance, CEBalance, CEMode, LossConfig
from astromodal.errors import ArtifactError, DataError
from astromodal.loss.sampling import draw, keyed_priorities, lay_out, read_targets, weigh
from astromodal.loss.standardize import Codebooks, build_tables
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import EOS, MISS, NONDET, PAD, build_vocab_spec

VOCAB = build_vocab_spec(4, 3, {"blue": 2}, scalar_columns=("mag", "z"), n_bins=(3, 2))


def tables(**books):
    everything = {
        "image": Codebook(np.eye(4)),
        "spectrum": {"blue": Codebook(np.eye(2))},
        "scalar": ScalarCodebook(("mag", "z"), [[0, 1, 2], [5, 6, 0]], np.ones((2, 3)), (3, 2)),
    }
    return build_tables(VOCAB, Codebooks(**everything | books))


def example(n_images: int = 20, n_scalars: int = 3, n_pads: int = 5, n_specials: int = 2):
    tokens = [VOCAB.base_image] * n_images + [VOCAB.base_scalar] * n_scalars + [EOS] * n_specials + [PAD] * n_pads
    types = [1] * n_images + [VOCAB.type_of_column("mag")] * n_scalars + [0] * (n_specials + n_pads)
    return np.asarray(tokens), np.asarray(types)


def read(tokens, types, **books):
    return read_targets(tables(**books), np.asarray(tokens), np.asarray(types), np.asarray(tokens) != PAD)


def alone(values):
    return [values]


def test_targets_are_sorted_into_modalities_and_specials_never_count():
    z = VOCAB.type_of_column("z")
    found = read(
        [PAD, EOS, NONDET, MISS, VOCAB.base_image, VOCAB.base_scalar + 1, VOCAB.base_spectrum], [0, 0, z, z, 1, z, 2]
    )
    assert found.modality.tolist() == [-1, -1, -1, -1, 0, 1, 2]
    assert found.kinds.tolist() == [-1, 3, 1, 1, 0, 1, 2]  # a non-detection counts with its column
    assert found.columns.tolist() == [0, 0, 0, 0, 0, 1, 0]


def test_codes_and_types_that_do_not_belong_are_refused():
    z = VOCAB.type_of_column("z")
    with pytest.raises(ArtifactError, match="code"):
        read([VOCAB.base_scalar + 2], [z])  # z has two bins
    with pytest.raises(ArtifactError, match="code"):
        read([VOCAB.base_image + 3], [1], image=Codebook(np.eye(3)))
    with pytest.raises(DataError, match="type"):
        read([VOCAB.base_scalar], [1])
    with pytest.raises(DataError, match="ids"):
        read([VOCAB.vocab_size], [1])


@pytest.mark.parametrize(("k", "expected"), [(None, 50), (0, 0), (1, 1), (7, 7), (50, 50), (1000, 50)])
def test_exactly_k_distinct_eligible_positions_are_drawn(k, expected):
    rng = np.random.default_rng(0)
    eligible = np.zeros(200, dtype=bool)
    eligible[rng.choice(200, 50, replace=False)] = True
    drawn, n = draw(rng.random(200), eligible, k, alone)
    assert drawn.sum() == n == expected and not (drawn & ~eligible).any()


def test_every_position_is_drawn_equally_often():
    n, k, n_steps = 30, 6, 4000
    eligible = np.ones(n, dtype=bool)
    times = sum(
        draw(keyed_priorities(0, s, np.arange(3), 10), eligible, k, alone)[0].astype(int) for s in range(n_steps)
    )
    spread = np.sqrt(n_steps * k / n * (1 - k / n))
    assert np.abs(times - n_steps * k / n).max() < 4 * spread


def test_the_sampled_mean_is_unbiased_and_its_variance_is_that_of_a_draw_without_replacement():
    n, k, n_steps = 40, 8, 6000
    values = np.random.default_rng(1).gamma(1.0, size=n)
    eligible = np.ones(n, dtype=bool)
    means = np.asarray(
        [values[draw(keyed_priorities(5, s, np.arange(4), 10), eligible, k, alone)[0]].mean() for s in range(n_steps)]
    )
    variance = values.var(ddof=1) / k * (1 - k / n)
    assert abs(means.mean() - values.mean()) < 4 * np.sqrt(variance / n_steps)
    assert means.var() == pytest.approx(variance, rel=0.1)


def test_the_draw_is_the_same_whichever_ranks_the_positions_are_on():
    rng = np.random.default_rng(2)
    priorities, eligible = rng.random(90), rng.random(90) < 0.7
    whole, n_whole = draw(priorities, eligible, 20, alone)
    pieces = np.array_split(np.arange(90), [10, 10, 60])  # one rank has nothing
    parts = [(priorities[p], eligible[p]) for p in pieces]

    def gather_of(rank: int):
        """What each rank would hand in, in the order of the two exchanges of ``draw``."""
        calls = iter(
            (
                [np.asarray([e.sum()]) for _, e in parts],
                [np.sort(p[e])[:20] for p, e in parts],
            )
        )
        return lambda _values: next(calls)

    drawn = [draw(p, e, 20, gather_of(rank)) for rank, (p, e) in enumerate(parts)]
    assert np.concatenate([d for d, _ in drawn]).tolist() == whole.tolist()
    assert {n for _, n in drawn} == {n_whole}


def test_weights_of_each_term_sum_to_one():
    targets = read(*example())
    draws = np.random.default_rng(0).random(len(targets.tokens))
    weights = weigh(targets, LossConfig(sample_k=4), draws, gather=alone)
    assert weights.ce.sum() == pytest.approx(1)
    for modality, drawn in ((0, 4), (1, 3)):
        own = weights.reconstruction[targets.modality == modality]
        assert own.sum() == pytest.approx(1) and (own > 0).sum() == drawn


def test_balanced_cross_entropy_gives_every_modality_present_the_same_weight():
    targets = read(*example(n_images=576, n_scalars=1, n_specials=1))
    weights = weigh(targets, LossConfig(ce_balance=CEBalance.modality), np.zeros(len(targets.tokens)), gather=alone)
    image, scalar, special = (weights.ce[targets.kinds == kind].sum() for kind in (0, 1, 3))
    assert image == pytest.approx(scalar) and special == pytest.approx(1 / 578)
    assert weights.ce.sum() == pytest.approx(1)


def test_block_cross_entropy_skips_specials():
    targets = read(*example())
    weights = weigh(targets, LossConfig(ce=CEMode.block), np.zeros(len(targets.tokens)), gather=alone)
    assert not weights.ce[targets.kinds == 3].any() and weights.ce.sum() == pytest.approx(1)


def test_a_sampled_cross_entropy_is_unbiased_also_when_balanced():
    targets = read(*example())
    values = np.random.default_rng(3).random(len(targets.tokens))
    for balance in CEBalance:
        loss = LossConfig(ce_balance=balance, ce_sample_k=6)
        exact = weigh(targets, LossConfig(ce_balance=balance), values, gather=alone).ce @ values
        means = [
            weigh(targets, loss, values, keyed_priorities(0, s, np.arange(30), 1), gather=alone).ce @ values
            for s in range(4000)
        ]
        assert abs(np.mean(means) - exact) < 4 * np.std(means) / np.sqrt(4000)


@pytest.mark.parametrize("ce", list(CEMode))
def test_every_object_weighs_the_same_whatever_is_asked_of_it(ce):
    """Against a loop: the mean over objects of each object's mean, in every term."""
    mag, image, blue = VOCAB.type_of_column("mag"), 1, VOCAB.type_of_group("blue")
    rows = [
        ([VOCAB.base_scalar, PAD, PAD, PAD], [mag, 0, 0, 0]),
        ([VOCAB.base_image, VOCAB.base_image, VOCAB.base_scalar, EOS], [image, image, mag, 0]),
        ([VOCAB.blocks[-1].start] * 4, [blue] * 4),
    ]
    tokens, types = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    targets = read_targets(tables(), tokens, types, tokens != PAD, None, 4)
    weights = weigh(targets, LossConfig(balance=Balance.object, ce=ce, sample_k=None), np.zeros(12), gather=alone)
    own = np.array([1, 0, 0, 0, *[1 / 4] * 4, *[1 / 4] * 4])
    counted = own * (targets.coded if ce == CEMode.block else targets.kinds >= 0)
    np.testing.assert_allclose(weights.ce, counted / counted.sum(), rtol=1e-12)
    for index in range(3):
        mine = own * (targets.modality == index)
        np.testing.assert_allclose(weights.reconstruction[targets.modality == index], (mine / mine.sum())[mine > 0])
    plain = weigh(targets, LossConfig(ce=ce, sample_k=None), np.zeros(12), gather=alone)
    assert not np.allclose(plain.ce, weights.ce)


def test_nothing_is_weighed_when_a_term_is_off():
    targets = read(*example())
    draws = np.random.default_rng(0).random(len(targets.tokens))
    assert not weigh(targets, LossConfig(enabled=False), draws, gather=alone).reconstruction.any()
    assert not weigh(targets, LossConfig(use_ce=False), draws, gather=alone).ce.any()
    assert not weigh(targets, LossConfig(), draws, use_ce=False, gather=alone).ce.any()


@pytest.mark.parametrize("ce", list(CEMode))
def test_the_layout_is_a_permutation_whose_segments_hold_what_they_say(ce):
    targets = read(*example())
    draws = np.random.default_rng(0).random((2, len(targets.tokens)))
    weights = weigh(targets, LossConfig(sample_k=2, ce=ce, ce_sample_k=9), draws[0], draws[1], gather=alone)
    layout = lay_out(targets, weights, 3, ce)
    assert sorted(layout.order.tolist()) == list(range(len(targets.tokens)))
    seen = np.zeros(len(targets.tokens), dtype=bool)
    for part in (0, 1):
        for block, (start, stop_rec, stop) in enumerate(layout.segments[part]):
            rows = layout.order[start:stop]
            seen[rows] = True
            assert (targets.blocks[rows] == block).all()
            assert (weights.reconstruction[layout.order[start:stop_rec]] > 0).all()
            assert not weights.reconstruction[layout.order[stop_rec:stop]].any()
            if part == 0:
                assert not len(rows) or (ce == CEMode.full and (weights.ce[rows] > 0).all())
    assert (seen == ((weights.ce > 0) | (weights.reconstruction > 0))).all()
