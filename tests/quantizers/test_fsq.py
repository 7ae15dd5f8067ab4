"""Finite scalar quantization against a slow and obvious version, trits, bounds that outliers do not move."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from astromodal.config.schema import FSQConfig
from astromodal.errors import ArtifactError, ConfigError
from astromodal.quantizers import FSQ


def slowly(quantizer: FSQ, row: np.ndarray) -> tuple[int, list[float]]:
    """Code and entry of one row: the nearest of the level centres in each dimension, as a mixed-radix number."""
    code, step, entry = 0, 1, []
    for x, low, high, n_levels in zip(row, quantizer.low_, quantizer.high_, quantizer.levels.tolist(), strict=True):
        centres = [low + (k + 0.5) * (high - low) / n_levels for k in range(n_levels)]
        digit = min(range(n_levels), key=lambda k: abs(float(x) - centres[k]))
        code, step = code + step * digit, step * n_levels
        entry.append(centres[digit])
    return code, entry


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [2], [3, 7], [3] * 9])
def test_codes_and_entries_are_those_of_the_slow_version(levels):
    rng = np.random.default_rng(len(levels))
    X = (rng.normal(size=(3000, len(levels))) * rng.uniform(0.1, 10, len(levels)) + 5).astype(np.float32)
    quantizer = FSQ(FSQConfig(levels=levels)).fit(X)
    codes = quantizer.encode(X[:500])
    decoded = quantizer.decode(codes)
    for row, code, entry in zip(X[:500], codes.tolist(), decoded, strict=True):
        expected, centre = slowly(quantizer, row)
        assert code == expected
        np.testing.assert_allclose(entry, centre, rtol=1e-5, atol=1e-6)
    assert quantizer.n_codes == np.prod(levels)


def test_the_first_dimension_runs_fastest():
    quantizer = FSQ(FSQConfig(levels=[2, 3, 4])).fit(np.random.default_rng(0).normal(size=(500, 3)))
    digits = quantizer.digits(np.arange(24))
    assert digits.tolist() == [list(d[::-1]) for d in itertools.product(range(4), range(3), range(2))]
    entries = quantizer.codebook.entries
    for d in range(3):  # entries rise with the digit of their dimension, and depend on nothing else
        centres = [np.unique(entries[digits[:, d] == k, d]) for k in range(quantizer.levels[d])]
        assert all(len(c) == 1 for c in centres) and np.all(np.diff(np.concatenate(centres)) > 0)


def test_nine_trits_are_the_ternary_operations():
    rng = np.random.default_rng(0)
    quantizer = FSQ(FSQConfig(levels=[3] * 9)).fit(rng.uniform(-1.5, 1.5, (5000, 9)))
    assert quantizer.n_codes == 19_683
    n = rng.integers(19_683, size=300)
    trits = (n[:, None] // 3 ** np.arange(9)) % 3 - 1
    assert np.array_equal(quantizer.encode(trits.astype(np.float32)), n)
    assert np.array_equal(np.sign(np.round(quantizer.decode(n))), trits)


def test_bounds_are_near_the_best_of_a_gaussian_for_its_number_of_levels():
    X = np.random.default_rng(0).normal(size=(100_000, 3)).astype(np.float32)
    quantizer = FSQ(FSQConfig(levels=[3, 5, 8])).fit(X)
    # step sizes of the optimal uniform quantizer of a Gaussian: Max 1960, table II
    np.testing.assert_allclose(
        (quantizer.high_ - quantizer.low_) / 2, [3 * 1.224 / 2, 5 * 0.843 / 2, 8 * 0.586 / 2], rtol=0.12
    )
    error = ((X - quantizer.decode(quantizer.encode(X))) ** 2).mean(0)
    assert (error < 1.03 * np.array([0.1902, 0.0822, 0.0374])).all()  # the errors there, within three percent


def test_a_wild_value_does_not_stretch_the_bounds_and_is_counted():
    X = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    spoiled = X.copy()
    spoiled[3] = [1e7, -1e7]
    plain, robust = (FSQ(FSQConfig(levels=[8, 8])).fit(rows) for rows in (X, spoiled))
    np.testing.assert_allclose(robust.low_, plain.low_, rtol=0.02)
    np.testing.assert_allclose(robust.high_, plain.high_, rtol=0.02)
    assert robust.digits(robust.encode(spoiled[3:4])).tolist() == [[7, 0]]
    assert robust.clipped(spoiled)[3].all()
    np.testing.assert_allclose(robust.clipped_, robust.clipped(spoiled).mean(0))
    assert robust.clipped_share(spoiled) == pytest.approx(robust.clipped_.mean())


def test_weights_decide_where_the_bounds_are():
    X = np.concatenate([np.random.default_rng(0).uniform(0, 1, 5000), np.random.default_rng(1).uniform(0, 100, 5000)])
    weights = np.repeat([1.0, 1e-9], 5000)
    quantizer = FSQ(FSQConfig(levels=[16])).fit(X, weights)
    assert quantizer.high_[0] < 1.01 and quantizer.codebook.counts.sum() == len(X)


@pytest.mark.parametrize(
    "levels, message",
    [
        ([], "levels of 2 or more"),
        ([4, 1], r"got \[4, 1\]"),
        ([256, 257], "at most 65536 codes, got 65792"),
    ],
)
def test_levels_that_are_no_code_are_refused(levels, message):
    with pytest.raises(ConfigError, match=message):
        FSQ(FSQConfig(levels=levels))


def test_vectors_of_another_width_are_refused_with_both_numbers():
    with pytest.raises(ConfigError, match=r"4 numbers.*\[8, 5, 5, 5\], got vectors of 2.*latent_channels=4.*2 levels"):
        FSQ(FSQConfig()).fit(np.zeros((10, 2)))


def test_a_state_that_does_not_add_up_is_refused():
    state = FSQ(FSQConfig(levels=[3, 3])).fit(np.random.default_rng(0).normal(size=(100, 2))).state()
    with pytest.raises(ArtifactError, match="9 counts"):
        FSQ.from_state(state | {"counts": np.ones(8)})
    with pytest.raises(ArtifactError, match="bounds of 2 dimensions"):
        FSQ.from_state(state | {"low": np.zeros(3)})
