"""Judging toy catalogues: a perfect model, a blurred one, an overconfident one, and what cannot be judged."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.ask.recalibration import Calibration
from astromodal.config.schema import Baseline, JudgeConfig
from astromodal.errors import DataError
from astromodal.files.json_files import plain
from astromodal.judge.held_out import HeldOut, Part
from astromodal.judge.judge import judge
from astromodal.judge.predicted import PredictionCatalogue
from astromodal.judge.scores import score_column
from astromodal.metrics.posterior import crps_of_gaussian
from tests.ask.toy_sky import SIGMA, ToyStore, write_catalogue

OPTIONS = JudgeConfig(
    n_resamples=120, redshifts=["z"], magnitude="mag_r", baselines=[Baseline.marginal, Baseline.boosting]
)


@pytest.fixture(scope="module")
def store():
    return ToyStore(1200)


@pytest.fixture(scope="module")
def perfect(store, tmp_path_factory):
    path = write_catalogue(tmp_path_factory.mktemp("perfect"), store)
    return judge(path, store=store, options=OPTIONS, weights="abc")


@pytest.fixture(scope="module")
def blurred(store, tmp_path_factory):
    path = write_catalogue(tmp_path_factory.mktemp("blurred"), store, blur=0.06, stated=0.02, bias=0.03)
    return judge(path, store=store, options=OPTIONS)


def test_a_perfect_model_has_the_figures_of_its_noise(perfect):
    record = perfect.result["columns"]["z"]
    rmse = record["figures"]["rmse"]
    assert rmse["low"] < SIGMA < rmse["high"]
    assert record["figures"]["scatter"]["value"] == pytest.approx(SIGMA, rel=0.15)
    assert record["calibration"]["source"] == "binned posterior" and record["calibration"]["ks"] < 0.06
    assert record["distribution"]["coverage_68"]["low"] < 0.68 < record["distribution"]["coverage_68"]["high"]
    assert record["calibration"]["pull_std"] == pytest.approx(1.0, abs=0.1)
    crps = SIGMA / np.sqrt(np.pi)  # of a Gaussian that is right: 2 sigma phi(0) / sqrt 2
    assert record["distribution"]["crps"]["low"] < crps < record["distribution"]["crps"]["high"]
    assert record["photo_z"]["outlier_fraction"]["value"] == 0.0
    assert record["photo_z"]["sigma_nmad"]["value"] < SIGMA


def test_a_perfect_model_beats_the_baselines_and_a_blurred_one_loses_to_boosting(perfect, blurred):
    assert perfect.result["loses"] == []
    verdicts = {
        b: entry["differences"]["crps"]["verdict"]
        for b, entry in perfect.result["columns"]["z"]["against"]["baselines"].items()
    }
    assert verdicts == {"marginal": "wins", "boosting": "wins"}
    lost = {(loss["against"], loss["figure"]) for loss in blurred.result["loses"]}
    assert {("boosting", "crps"), ("boosting", "absolute error"), ("boosting", "squared error")} <= lost
    assert all(loss["low"] > 0 and loss["ratio"] > 1 for loss in blurred.result["loses"])
    assert blurred.result["summary"]["n_losses"] == len(lost)


def test_baselines_see_the_given_columns_and_the_training_rows_only(perfect, store):
    against = perfect.result["columns"]["z"]["against"]
    assert against["inputs"] == ["mag_g", "mag_r"] and against["n_left_out"] == 0
    known = 0
    for tokens in store:
        given = np.isfinite(tokens.scalar["values"][:, :2]) | tokens.scalar["nondetected"][:, :2]
        known += int(((tokens.split == 0) & np.isfinite(tokens.scalar["values"][:, 2]) & given.any(1)).sum())
    assert against["n_training"] == against["n_available"] == known
    assert against["baselines"]["boosting"]["figures"]["r2"] > 0.6
    assert abs(against["baselines"]["marginal"]["figures"]["r2"]) < 0.02
    assert against["baselines"]["marginal"]["coverage_68"] == pytest.approx(0.68, abs=0.06)


def test_rows_are_those_of_the_test_split_and_what_is_left_out_is_counted(perfect, store):
    record = perfect.result["columns"]["z"]
    test = [(t.split == 2, np.isfinite(t.scalar["values"][:, 2])) for t in store]
    assert perfect.result["split"] == "test" and perfect.result["n_judged"] == sum(s.sum() for s, _ in test)
    assert record["n"] == sum((s & known).sum() for s, known in test)
    assert record["left_out"] == {"not observed": sum((s & ~known).sum() for s, known in test)}
    bins = record["by_magnitude"]["bins"]
    assert sum(row["n"] for row in bins) + record["by_magnitude"]["n_unknown"] == record["n"]
    assert len(record["by_signal_to_noise"]["bins"]) == 6


def test_a_wrong_width_is_repaired_on_other_objects(blurred):
    record = blurred.result["columns"]["z"]["recalibration"]
    before, after = record["as predicted"], record["conformal"]
    assert before["coverage_68"] < 0.4
    assert record["temperature"]["coverage_68"] > before["coverage_68"] + 0.15
    assert after["coverage_68"] == pytest.approx(0.68, abs=0.08)
    assert after["coverage_95"] == pytest.approx(0.95, abs=0.03)
    assert after["levels"]["chi2"] < 0.1 * before["levels"]["chi2"] and after["crps"] < before["crps"]
    assert record["fitted"]["temperature"] > 5
    assert blurred.result["columns"]["z"]["n"] == after["n"]  # fitted on val, shown on test


def test_what_is_right_stays_as_it_is(perfect):
    record = perfect.result["columns"]["z"]["recalibration"]
    assert record["fitted"]["temperature"] == pytest.approx(1.0, abs=0.15)
    assert np.abs(record["fitted"]["shifts"]).max() < 0.3
    assert isinstance(perfect.calibration, Calibration) and perfect.calibration.weights == "abc"
    fitted = perfect.calibration.of("z", ["mag_g", "mag_r"])
    assert fitted.fitted_on["split"] == "val" and fitted.fitted_on["half"] is None and fitted.n_conformal > 400


def test_the_result_is_json_and_flat_figures_are_numbers(perfect):
    assert json.loads(json.dumps(plain(perfect.result), allow_nan=False))["columns"]["z"]["n"] > 0
    assert {"z/r2", "z/sigma_nmad", "z/crps", "z/pit_ks", "z/crps_skill", "z/coverage_68"} <= set(
        perfect.result["summary"]
    )
    assert all(isinstance(v, int | float) for v in perfect.result["summary"].values())


def test_scores_agree_with_the_closed_form_with_and_without_a_posterior(store, tmp_path):
    with_p = write_catalogue(tmp_path / "a", store, stated=0.03)
    without = write_catalogue(tmp_path / "b", store, stated=0.03, posterior=False)
    rows = np.ones(2400, bool)
    for path, close in ((with_p, 1e-4), (without, 2e-3)):
        catalogue = PredictionCatalogue(path)
        scores = score_column(catalogue, catalogue.column("z"), rows)
        assert scores.crps == pytest.approx(crps_of_gaussian(scores.mean, 0.03, scores.observed), abs=close)
        assert (scores.log_score is None) == (path == without)
        assert np.isfinite(scores.pit).all()
    table = pq.read_table(without).drop(["z_pit"])
    pq.write_table(table, without)
    catalogue = PredictionCatalogue(without)
    bare = score_column(catalogue, catalogue.column("z"), rows)
    assert bare.source == "quantiles" and np.corrcoef(bare.pit, scores.pit)[0, 1] > 0.99


def test_a_temperature_changes_posterior_mean_and_quantiles_together(store, tmp_path):
    catalogue = PredictionCatalogue(write_catalogue(tmp_path, store, stated=0.01))
    rows = np.ones(2400, bool)
    plain_ = score_column(catalogue, catalogue.column("z"), rows)
    wide = score_column(catalogue, catalogue.column("z"), rows, temperature=4.0)
    assert wide.std == pytest.approx(2 * plain_.std, rel=0.05)
    ratio = (wide.quantiles[:, 3] - wide.quantiles[:, 1]) / (plain_.quantiles[:, 3] - plain_.quantiles[:, 1])
    assert ratio == pytest.approx(np.full(len(ratio), 2.0), rel=0.05)
    assert wide.mean == pytest.approx(plain_.mean, abs=1e-3)


def test_without_a_test_split_half_of_validation_is_fitted_on(store, tmp_path):
    path = write_catalogue(tmp_path, store)
    table = pq.read_table(path)
    kept = table.filter(np.isin(table["split"].to_numpy(zero_copy_only=False), ["train", "val"]))
    pq.write_table(kept, path)
    catalogue = PredictionCatalogue(path)
    rows = HeldOut.of(catalogue, 0)
    assert rows.split == "val" and rows.fitted_on == Part("val", half=0)
    assert (rows.judged == (catalogue.split == 1)).all()
    assert (rows.fitting <= rows.judged).all()
    assert rows.fitting.sum() / rows.judged.sum() == pytest.approx(0.5, abs=0.06)
    found = judge(path, options=OPTIONS)  # no store: no baselines
    record = found.result["columns"]["z"]
    [(_, fitted)] = found.calibration.questions.items()
    assert found.calibration.weights == "toy" and fitted.fitted_on["half"] == 0
    assert "no token files" in record["against"]["skipped"] and record["recalibration"]["conformal"]["n"] < record["n"]
    pq.write_table(table.filter(np.equal(table["split"].to_numpy(zero_copy_only=False), "train")), path)
    with pytest.raises(DataError, match="held-out"):
        judge(path)


def test_calibrations_are_fitted_on_none_of_the_objects_that_they_are_shown_on(store, tmp_path):
    """Observations of the test split are moved far away: what is fitted on validation does not notice."""
    path = write_catalogue(tmp_path, store)
    table = pq.read_table(path)
    test = np.equal(table["split"].to_numpy(zero_copy_only=False), "test")
    moved = pa.array(table["z"].to_numpy() + 0.3 * test, pa.float32(), from_pandas=True)
    at = table.column_names.index("z")
    pq.write_table(table.set_column(at, table.schema.field("z"), moved), path)
    record = judge(path, options=OPTIONS).result["columns"]["z"]["recalibration"]
    fitted = record["fitted"]
    n_val = sum(int(((t.split == 1) & np.isfinite(t.scalar["values"][:, 2])).sum()) for t in store)
    assert fitted["n_temperature"] == fitted["n_conformal"] == n_val
    assert fitted["temperature"] == pytest.approx(1.0, abs=0.15) and np.abs(fitted["shifts"]).max() < 0.3
    assert record["conformal"]["coverage_95"] < 0.1


def test_an_object_that_stands_in_two_fields_counts_once(store, tmp_path):
    path = write_catalogue(tmp_path, store)
    table = pq.read_table(path).slice(0, 1200).drop(["field"])  # of field A
    pq.write_table(table, path)
    twice = ToyStore(1200)
    twice.open("B").ids[:] = twice.open("A").ids
    options = JudgeConfig(n_resamples=20, baselines=[Baseline.marginal], calibrate=False)
    record = judge(path, store=twice, given=["mag_r"], options=options).result["columns"]["z"]
    assert record["against"]["n"] == record["n"]


def test_few_objects_and_other_lengths(store, tmp_path):
    small = ToyStore(12)
    path = write_catalogue(tmp_path, small)
    record = judge(path, store=small, options=OPTIONS).result["columns"]["z"]
    assert "skipped" in record["recalibration"] and "skipped" in record["against"]
    with pytest.raises(DataError, match="per_object"):
        judge(path, per_object={"chi2": np.zeros(3)})
    figures = judge(path, per_object={"chi2": np.full(24, 2.0)}, options=OPTIONS).result["figures"]
    assert figures["chi2"]["mean"]["value"] == figures["chi2"]["mean"]["low"] == 2.0


def test_objects_that_the_store_lacks_are_left_out_on_both_sides(store, tmp_path):
    path = write_catalogue(tmp_path, store)
    table = pq.read_table(path)
    ids = np.array(table["id"].to_pylist())
    ids[::3] = np.char.add("x", ids[::3])
    pq.write_table(table.set_column(0, table.schema.field("id"), [ids.tolist()]), path)
    options = JudgeConfig(n_resamples=20, baselines=[Baseline.marginal], calibrate=False)
    against = judge(path, store=store, options=options).result["columns"]["z"]["against"]
    assert against["n_left_out"] == pytest.approx((against["n"] + against["n_left_out"]) / 3, rel=0.2)
    assert against["baselines"]["marginal"]["differences"]["crps"]["n_objects"] == against["n"]
