"""Inputs of baselines read from token files, and the baselines, against loops and known answers."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.errors import ConfigError, DataError
from astromodal.judge.baselines.inputs import (
    Inputs,
    choose_inputs,
    features,
    has_given,
    places_in_store,
    training_rows,
)
from astromodal.judge.baselines.predictors import make_predictor
from astromodal.judge.baselines.values import Boosting, Marginal, Neighbours
from astromodal.vocabulary.codebook import Codebook
from tests.ask.toy_sky import SIGMA, ToyStore, expected

LEVELS = (0.16, 0.5, 0.84)


@pytest.fixture(scope="module")
def store():
    return ToyStore(300)


@pytest.fixture(scope="module")
def codebooks():
    rng = np.random.default_rng(5)
    return {"arm": Codebook(rng.normal(size=(8, 2))), "image": Codebook(rng.normal(size=(8, 3)))}


def test_names_become_inputs(store, codebooks):
    assert choose_inputs(store, ["mag_r", "arm"]) == Inputs(("mag_r",), (), ("arm",))
    assert choose_inputs(store, ["scalar", "image"], codebooks) == Inputs(("mag_g", "mag_r", "z"), ("image",), ())
    whole = choose_inputs(store, None, codebooks)
    assert whole.without("z") == Inputs(("mag_g", "mag_r"), ("arm", "image"), ())
    assert choose_inputs(store, ["spectrum"], codebooks).parts == ("arm",)
    with pytest.raises(ConfigError, match="mag_r"):
        choose_inputs(store, ["mag_rr"])


def test_features_agree_with_a_loop(store, codebooks):
    tokens, rows = store.open("A"), np.array([7, 0, 250, 31, 8, 9])
    inputs = Inputs(("mag_r", "mag_g"), ("arm", "image"), ())
    found = features(tokens, rows, inputs, codebooks)
    entries = {name: (b.entries - b.mean) / b.scale for name, b in codebooks.items()}
    for i, row in enumerate(rows):
        scalars = [tokens.scalar[kind][row, j] for kind in ("values", "nondetected") for j in (1, 0)]
        assert found[i, :4] == pytest.approx(np.array(scalars, float), nan_ok=True)
        part = tokens.spectra["arm"]
        if part.present[row]:
            codes = part.tokens[part.offsets[row] : part.offsets[row + 1]]
            assert found[i, 4:10] == pytest.approx(entries["arm"][codes].ravel())
        else:
            assert np.isnan(found[i, 4:10]).all()
        if tokens.image["present"][row]:
            code = tokens.image["tokens"][row, 0]  # the toy's cutouts have one code everywhere
            assert found[i, 10:] == pytest.approx(np.tile(entries["image"][code], 16))
        else:
            assert np.isnan(found[i, 10:]).all()
    assert (tokens.image["present"][rows]).any() and not (tokens.image["present"][rows]).all()


def test_squares_of_a_cutout_are_squares(codebooks):
    store = ToyStore(4)
    tokens = store.open("A")
    tokens.image["tokens"] = np.tile(np.arange(64) // 8 % 8, (4, 1))  # 8 x 8 codes, a row of one code
    tokens.image["present"] = np.ones(4, bool)
    found = features(tokens, np.arange(1), Inputs((), ("image",), ()), codebooks)[0].reshape(4, 4, 3)
    entries = (codebooks["image"].entries - codebooks["image"].mean) / codebooks["image"].scale
    for row in range(4):
        assert found[row] == pytest.approx(np.tile(entries[2 * row : 2 * row + 2].mean(0), (4, 1)), rel=1e-5)


def test_training_rows_are_training_rows_and_the_sample_is_capped_and_keyed(store):
    inputs = Inputs(("mag_g", "mag_r"), (), ())
    rows, available = training_rows(store, "z", inputs)
    known = [(t.split == 0) & np.isfinite(t.scalar["values"][:, 2]) & has_given(t, inputs) for t in store]
    assert len(rows.target) == available == sum(k.sum() for k in known)
    wanted = np.concatenate([t.scalar["values"][k] for t, k in zip(store, known, strict=True)])
    assert (rows.target == wanted[:, 2]).all()
    assert np.array_equal(rows.features[:, :2], wanted[:, :2], equal_nan=True)
    some, seen = training_rows(store, "z", inputs, max_rows=40, seed=3)
    assert len(some.target) == 40 and seen == available and set(some.target) <= set(rows.target)
    assert (some.target == training_rows(store, "z", inputs, max_rows=40, seed=3)[0].target).all()
    other = training_rows(store, "z", inputs, max_rows=40, seed=4)[0].target
    assert set(other) != set(some.target)


@pytest.mark.parametrize("names", [["mag_g"], ["arm"], ["image", "mag_r"], ["scalar", "spectrum"], []])
@pytest.mark.parametrize("known", [True, False])
def test_training_rows_have_something_given_as_a_loop_finds_it(store, codebooks, names, known):
    inputs = choose_inputs(store, names, codebooks if known else None).without("z")
    wanted = []
    for tokens in store:
        for row in np.flatnonzero((tokens.split == 0) & np.isfinite(tokens.scalar["values"][:, 2])):
            scalars = {
                c: np.isfinite(tokens.scalar["values"][row, j]) or tokens.scalar["nondetected"][row, j]
                for j, c in enumerate(tokens.columns)
            }
            has = scalars | {"arm": tokens.spectra["arm"].present[row], "image": tokens.image["present"][row]}
            given = {"scalar": ["mag_g", "mag_r"], "spectrum": ["arm"]}
            if not names or any(has[part] for name in names for part in given.get(name, [name])):
                wanted.append(tokens.scalar["values"][row, 2])
    rows, available = training_rows(store, "z", inputs, codebooks)
    assert available == len(wanted) and rows.target.tolist() == wanted
    everyone = sum(((t.split == 0) & np.isfinite(t.scalar["values"][:, 2])).sum() for t in store)
    assert (available == everyone) == (names in ([], ["scalar", "spectrum"]))  # all have one of these


def test_the_marginal_is_that_of_objects_with_the_same_inputs(codebooks):
    """Where only bright objects have a spectrum, the marginal knows that an object with a spectrum is bright."""
    store = ToyStore(400)
    for tokens in store:
        bright = tokens.scalar["values"][:, 1] < 17
        tokens.spectra["arm"].present[:] &= bright
    inputs = choose_inputs(store, ["arm"], None)
    target = training_rows(store, "mag_r", inputs)[0].target
    assert len(target) > 20 and target.max() < 17
    faint = training_rows(store, "mag_r", choose_inputs(store, ["mag_g"]))[0].target
    assert faint.max() > 20


def test_rows_of_a_catalogue_are_found_by_field_and_id(store):
    fields, ids = np.array(["B", "A", "A", "", "C"]), np.array(["B_00003", "A_00001", "B_00003", "A_00009", "A_00001"])
    found = {
        (t.field, int(m)): int(r)
        for t, mine, rows in places_in_store(store, fields, ids)
        for m, r in zip(mine, rows, strict=True)
    }
    assert found == {("B", 0): 3, ("A", 1): 1, ("A", 3): 9}


def world(n, seed):
    rng = np.random.default_rng(seed)
    g, r = rng.uniform(16, 22, (2, n))
    x = np.stack([g, r, np.full(n, 3.0), rng.normal(size=n)], 1).astype(np.float32)
    y = expected(g, r) + SIGMA * rng.normal(size=n)
    x[rng.random(n) < 0.05, 1] = np.nan
    return x, y


def test_the_marginal_answers_with_the_training_distribution():
    x, y = world(400, 0)
    found = Marginal(LEVELS).fit(x, y).predict(x[:3])
    assert found.mean.tolist() == [y.mean()] * 3
    assert found.quantiles[2].tolist() == np.quantile(y, LEVELS).tolist()


@pytest.mark.parametrize("kind", [Boosting, Neighbours])
def test_learners_learn_the_mean_and_the_spread(kind):
    x, y = world(2500, 1)
    held_out, truth = world(600, 2)
    found = kind(LEVELS).fit(x, y).predict(held_out)
    assert ((found.mean - truth) ** 2).mean() < 0.1 * truth.var()
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    assert ((found.quantiles[:, 0] < truth) & (truth < found.quantiles[:, 2])).mean() == pytest.approx(0.68, abs=0.17)
    again = kind(LEVELS).fit(x, y).predict(held_out)
    assert (again.quantiles == found.quantiles).all()
    assert kind(()).fit(x, y).predict(held_out).quantiles.shape == (600, 0)


def test_neighbours_agree_with_a_slow_search():
    x, y = world(200, 3)
    held_out = world(20, 4)[0]
    found = Neighbours(LEVELS, n_neighbours=7).fit(x, y).predict(held_out)
    used = np.array([0, 1, 3])
    mean, scale = np.nanmean(x[:, used].astype(float), 0), np.nanstd(x[:, used].astype(float), 0)

    def place(a):
        z = np.nan_to_num((a[:, used] - mean) / scale)
        return np.c_[z, np.isnan(a[:, 1])]

    for i, point in enumerate(place(held_out)):
        nearest = np.argsort(((place(x) - point) ** 2).sum(1))[:7]
        assert found.mean[i] == pytest.approx(y[nearest].mean())
        assert found.quantiles[i] == pytest.approx(np.quantile(y[nearest], LEVELS))


def test_baselines_without_inputs_or_of_unknown_names_are_refused():
    x, y = world(30, 5)
    with pytest.raises(DataError, match="given"):
        Boosting(LEVELS).fit(x[:, :0], y)
    with pytest.raises(ConfigError, match="forest"):
        make_predictor("forest", LEVELS)
    assert Neighbours(LEVELS).fit(x[:, 2:3], y).predict(x[:2, 2:3]).mean.shape == (2,)  # a constant says nothing
    with pytest.raises(DataError):
        Marginal(LEVELS).fit(x, np.full(30, np.nan))
