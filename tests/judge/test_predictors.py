"""Baselines as strong as the field's: colours, a small network, an optional pretrained one; and the best of them."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from astromodal.config.schema import Baseline, JudgeConfig, ScalarConfig, Transform
from astromodal.errors import ConfigError, DataError
from astromodal.judge.baselines import tabicl, tabular_network
from astromodal.judge.baselines.colours import MAX_COLOURS, colour_features, colour_pairs
from astromodal.judge.baselines.inputs import choose_inputs, features
from astromodal.judge.baselines.predictors import PREDICTORS, make_predictor, wanted_baselines
from astromodal.judge.baselines.tabular_network import Network, _place
from astromodal.judge.baselines.values import Boosting, BoostingColours
from astromodal.judge.comparison import best
from astromodal.judge.judge import judge
from astromodal.metrics.posterior import crps_of_gaussian, crps_of_quantiles
from tests.ask.toy_sky import ToyStore, write_catalogue

LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)
MAG = ScalarConfig(unit="mag")
FLUX = ScalarConfig(unit="nJy", transform=Transform.log10)


# ---------------------------------------------------------------------------------------------- colours


def test_colours_are_differences_of_columns_of_one_unit_and_space():
    configs = {
        "u": MAG,
        "g": MAG,
        "z": ScalarConfig(),
        "f1": FLUX,
        "r": MAG,
        "f2": FLUX,
        "area": ScalarConfig(unit="nJy"),
    }
    pairs = colour_pairs(list(configs), configs)
    assert set(pairs) == {("u", "g"), ("g", "r"), ("u", "r"), ("f1", "f2")}  # none without a unit, none across spaces
    columns = ["u", "f2", "r", "g", "f1", "z"]
    values = np.array([[18.0, 10.0, 16.0, 17.5, 1000.0, 0.1], [np.nan, -1.0, 20.0, 21.0, 1.0, 0.2]])
    found = dict(zip(pairs, colour_features(values, columns, pairs, configs).T, strict=True))
    assert found["u", "g"] == pytest.approx([0.5, np.nan], nan_ok=True)
    assert found["u", "r"] == pytest.approx([2.0, np.nan], nan_ok=True) and found["g", "r"].tolist() == [1.5, 1.0]
    assert found["f1", "f2"] == pytest.approx([2.0, np.nan], nan_ok=True)  # decades of flux, none below zero
    many = {f"m{i:03d}": MAG for i in range(40)}
    pairs = colour_pairs(list(many), many)
    assert len(pairs) == MAX_COLOURS and ("m000", "m001") in pairs and ("m000", "m039") not in pairs


def test_colours_stand_behind_the_other_features_in_any_unit():
    store = ToyStore(60)
    configs = {"mag_g": MAG, "mag_r": MAG, "z": ScalarConfig()}
    tokens, rows = store.open("A"), np.arange(60)
    plain = choose_inputs(store, ["scalar"]).without("z")
    coloured = choose_inputs(store, ["scalar"]).without("z", configs)
    assert coloured.colours == (("mag_g", "mag_r"),) and not plain.colours
    assert coloured.without("mag_r", configs).colours == ()  # the asked column is in none
    found = features(tokens, rows, coloured)
    np.testing.assert_array_equal(found[:, :-1], features(tokens, rows, plain))
    g, r = tokens.scalar["values"][:, :2].astype(float).T
    unit = coloured.units["mag_g"][1]
    np.testing.assert_allclose(found[:, -1] * unit, g - r, atol=1e-5)
    # values 1e30 times as large, measured in a unit 1e30 times as large: the same feature
    far = replace(coloured, units={name: (o * 1e30, u * 1e30) for name, (o, u) in coloured.units.items()})
    tokens.scalar["values"] = tokens.scalar["values"].astype(np.float64) * 1e30
    np.testing.assert_allclose(features(tokens, rows, far)[:, -1], found[:, -1], rtol=1e-4, atol=1e-6)


def test_boosting_with_colours_sees_a_diagonal_that_boosting_cannot():
    """A target that depends on a colour of two magnitudes that vary far more than it does."""
    rng = np.random.default_rng(0)
    g, colour = rng.uniform(14, 24, 900), rng.normal(0, 0.3, 900)
    x = np.stack([g, g - colour, colour], 1).astype(np.float32)
    y = np.sin(4 * colour)
    errors = {}
    for kind in (Boosting, BoostingColours):
        seen = x[:, : 3 if kind.colours else 2]
        answer = kind((), max_iter=40).fit(seen[:700], y[:700]).predict(seen[700:])
        errors[kind] = np.abs(answer.mean - y[700:]).mean()
    assert errors[BoostingColours] < 0.3 * errors[Boosting]


# ---------------------------------------------------------------------------------------------- network


def test_a_value_is_encoded_by_its_place_among_the_knots():
    """Gorishniy et al. 2022, eq. 1: intervals below are 1, the own one a share, those above 0; ends are held."""
    knots = [np.array([0.0, 1.0, 3.0, 7.0])]
    place = _place(np.array([[-5.0], [0.5], [2.0], [7.0], [99.0], [np.nan]]), knots)[:, 0]
    assert place == pytest.approx([0.0, 0.5, 1.5, 3.0, 3.0, np.nan], nan_ok=True)
    encoded = np.clip(place[:, None] - np.arange(3), 0, 1)
    assert encoded[2].tolist() == [1.0, 0.5, 0.0]


@pytest.fixture(scope="module")
def steps():
    """A broad one with missing values: y = N(|x0| + x1 [0 where missing], 0.1 + 0.2 [x0 > 0])."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 3))
    gone = rng.random(3000) < 0.2
    mean, std = np.abs(x[:, 0]) + np.where(gone, 0.0, x[:, 1]), np.where(x[:, 0] > 0, 0.3, 0.1)
    x[gone, 1] = np.nan
    y = mean + std * rng.normal(size=3000)
    return x.astype(np.float32), y, mean, std


def test_the_network_learns_a_distribution_with_missing_inputs(steps):
    fitted = Network(LEVELS).fit(*(a[:2000] for a in steps[:2]))
    x, y, mean, std = (a[2000:] for a in steps)
    found = fitted.predict(x)
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    ideal = crps_of_gaussian(mean, std, y).mean()
    assert crps_of_quantiles(found.quantiles, LEVELS, y).mean() < 1.35 * ideal
    inside = (found.quantiles[:, 1] < y) & (y < found.quantiles[:, 3])
    for side in (x[:, 0] > 0.2, x[:, 0] < -0.2):  # three times as wide on one side
        assert inside[side].mean() == pytest.approx(0.68, abs=0.1)
    assert np.abs(found.mean - mean).mean() < 0.12
    assert ((y - found.mean) ** 2).mean() < 0.08 * y.var()
    alone = fitted.predict(x[5:6])  # what stands beside an object is without effect
    assert alone.quantiles[0] == pytest.approx(found.quantiles[5], abs=1e-5)


def test_the_network_answers_alike_again_and_in_every_unit(steps, monkeypatch):
    import torch

    monkeypatch.setattr(tabular_network, "MAX_STEPS", 60)
    x, y, *_ = steps
    expected = Network(LEVELS).fit(x[:2000], y[:2000]).predict(x[2000:2100]).quantiles
    torch.manual_seed(99)  # the seed is its own, and it leaves that of others alone
    state = torch.random.get_rng_state()
    again = Network(LEVELS).fit(x[:2000], y[:2000] * 1e-30)
    assert torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_allclose(again.predict(x[2000:2100]).quantiles * 1e30, expected, rtol=1e-4, atol=1e-4)


def test_the_network_takes_constant_empty_and_few():
    rng = np.random.default_rng(1)
    x = np.stack([np.full(30, 2.0), np.full(30, np.nan), rng.normal(size=30)], 1).astype(np.float32)
    found = Network(()).fit(x, np.full(30, 5.0)).predict(x)
    assert found.mean == pytest.approx(np.full(30, 5.0)) and found.quantiles.shape == (30, 0)


# ------------------------------------------------------------------------------------------------ TabICL


class FakeRegressor:
    """What this program uses of the package's class; no download is allowed, ever."""

    def __init__(self, **given) -> None:
        assert given["allow_auto_download"] is False
        self.checkpoint_version = "weights.ckpt"

    def fit(self, x: np.ndarray, y: np.ndarray) -> FakeRegressor:
        self.y = y
        return self

    def predict(self, x: np.ndarray, output_type: list[str], alphas: list[float] | None):
        mean = np.full(len(x), self.y.mean())
        return {"mean": mean, "quantiles": np.tile(np.quantile(self.y, alphas), (len(x), 1))} if alphas else mean


@pytest.fixture
def installed(monkeypatch):
    """Put a package of that name, and a cache with or without its weights, in place."""

    def put(weights: str | None) -> None:
        package, hub = types.ModuleType("tabicl"), types.ModuleType("huggingface_hub")
        package.TabICLRegressor, hub.try_to_load_from_cache = FakeRegressor, lambda repo, name: weights
        package.__spec__ = types.SimpleNamespace(name="tabicl")
        monkeypatch.setitem(sys.modules, "tabicl", package)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)

    return put


def test_tabicl_is_used_where_package_and_weights_are_here(installed, monkeypatch):
    monkeypatch.setitem(sys.modules, "tabicl", None)
    monkeypatch.setattr(tabicl.importlib.util, "find_spec", lambda name: None)
    x, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50.0)
    assert "tabicl" not in wanted_baselines(None) and wanted_baselines([Baseline.tabicl]) == ("tabicl",)
    with pytest.raises(DataError, match="not installed"):
        make_predictor("tabicl", LEVELS).fit(x, y)
    monkeypatch.undo()
    installed(None)
    assert "weights.ckpt are not on this machine" in tabicl.missing() and "tabicl" not in wanted_baselines(None)
    installed("/cache/weights.ckpt")
    assert wanted_baselines(None) == tuple(PREDICTORS)
    found = make_predictor("tabicl", LEVELS).fit(x, y).predict(x[:7])
    assert found.quantiles[3].tolist() == np.quantile(y, LEVELS).tolist() and found.mean.tolist() == [24.5] * 7
    assert make_predictor("tabicl", ()).fit(x, y).predict(x[:7]).quantiles.shape == (7, 0)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ConfigError, match="boosting_colours"):
        make_predictor("forest", LEVELS)


# ---------------------------------------------------------------------------------------------- the best


def difference(model: float, baseline: float) -> dict:
    return {"model": model, "baseline": baseline, "verdict": "loses"}


def test_the_best_baseline_is_that_of_least_crps_else_of_least_absolute_error():
    entries = {
        "marginal": {"differences": {"crps": difference(2, 3), "absolute error": difference(2, 1)}},
        "network": {"differences": {"crps": difference(2, 1.5), "absolute error": difference(2, 4)}},
        "tabicl": {"skipped": "not installed"},
    }
    assert best(entries)["name"] == "network" and best(entries)["figure"] == "crps"
    for entry in entries.values():
        entry.get("differences", {}).pop("crps", None)
    assert best(entries)["name"] == "marginal" and best({"tabicl": entries["tabicl"]}) is None


def test_the_report_says_which_baseline_has_to_be_beaten(tmp_path):
    from astromodal.judge.tables import flat_tables, judgement_text

    store = ToyStore(300)
    data = types.SimpleNamespace(scalars={"mag_g": MAG, "mag_r": MAG}, spectra={}, synthetic=None)
    wanted = [Baseline.marginal, Baseline.boosting_colours, Baseline.tabicl]
    options = JudgeConfig(n_resamples=60, baselines=wanted, calibrate=False)
    path = write_catalogue(tmp_path, store, blur=0.2, stated=0.02)
    result = judge(path, store=store, options=options, data=data).result
    against = result["columns"]["z"]["against"]
    assert against["best"]["name"] == "boosting_colours" and against["colours"] == 1
    text = judgement_text(result)
    assert "THE MODEL LOSES to boosting with colours (z)" in text and "0 won, 0 undecided, 1 lost" in text
    assert "no TabICL: the package tabicl is not installed" in text and "neighbours" not in text
    [row] = [line for line in text.splitlines() if line.startswith("z: CRPS")]
    assert row.rstrip().endswith("* <")
    assert result["summary"]["z/crps_over_best_baseline"] == pytest.approx(
        against["best"]["model"] / against["best"]["baseline"]
    )
    marked = {row["against"]: row["best"] for row in flat_tables(result)["against"]}
    assert marked == {"marginal": False, "boosting_colours": True}
    # without units there are no colours, which is said
    result = judge(path, store=store, options=options).result
    assert "no boosting with colours: no two given columns have one unit" in judgement_text(result)
