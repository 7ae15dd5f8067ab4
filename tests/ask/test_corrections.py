"""A fitted calibration, applied: to the questions that it was fitted for, and to no others."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from astromodal.ask import catalogue as cat
from astromodal.ask.prediction import Predictor, write_predictions
from astromodal.ask.recalibration import Calibration, ColumnCalibration, temper
from astromodal.ask.trained import TrainedModel
from astromodal.config.schema import Calibrate, EvaluateConfig, HardwareConfig
from astromodal.errors import ArtifactMissingError, DataError
from astromodal.judge.judge import judge

from . import hand_built as hand
from .toy_sky import ToyStore, write_catalogue

LEVELS, SHIFTS = (0.025, 0.16, 0.5, 0.84, 0.975), (-0.5, -0.2, 0.1, 0.3, None)
ASKED, OTHER = list(hand.COLUMNS)[:2]
SEQUENCE = {"order": "random", "missing": "absent", "next_types": True}


def predictor(tmp_path, whole: Calibration | None = None, mode: Calibrate = Calibrate.off, **settings) -> Predictor:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    trained = TrainedModel(hand.model(torch.float64), hand.layout(), hand.tokenizers(), dict(SEQUENCE), weights, "run")
    asked = EvaluateConfig(**({"predict": [ASKED], "posterior": True, "batch_size": 6, "calibration": mode} | settings))
    hardware = HardwareConfig(device="cpu", n_threads=1)
    return Predictor(trained, asked, hardware, torch.device("cpu"), 0, None, whole)


def written(tmp_path, whole: Calibration | None = None, mode: Calibrate = Calibrate.off) -> dict[str, np.ndarray]:
    write_predictions(predictor(tmp_path, whole, mode), [hand.field()], tmp_path)
    table, _ = cat.read_catalogue(tmp_path)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    rows = [p is not None for p in columns[f"{ASKED}_posterior"]]  # of the others nothing is given
    columns = {name: values[rows] for name, values in columns.items()}
    return columns | {"p": np.stack(columns[f"{ASKED}_posterior"])}


def fitted(tmp_path, **changes) -> Calibration:
    """Of the question that ``predictor`` asks."""
    [question] = predictor(tmp_path).plan.questions
    whole = Calibration("model")
    whole.add(ASKED, question.given, ColumnCalibration(2.5, 300, LEVELS, SHIFTS, 300, {"split": "val", "half": None}))
    return whole


def test_a_temperature_changes_the_posterior_and_all_that_is_made_of_it(tmp_path):
    plain, hot = written(tmp_path), written(tmp_path, fitted(tmp_path), mode=Calibrate.temperature)
    assert hot["p"] == pytest.approx(temper(plain["p"], 2.5), abs=1e-6)
    by_hand = predictor(tmp_path)
    found = by_hand.bins.summary(hot["p"], by_hand.bins.column(ASKED), by_hand.settings.quantiles, plain[ASKED])
    for name in ("mean", "median", "std", "pit"):
        assert hot[f"{ASKED}_{name}"] == pytest.approx(found[name], rel=1e-4, nan_ok=True)
    assert hot[f"{ASKED}_std"].mean() > 1.05 * plain[f"{ASKED}_std"].mean()


def test_conformal_shifts_move_quantiles_by_their_share_of_the_width_and_nothing_else(tmp_path):
    hot = written(tmp_path, fitted(tmp_path), mode=Calibrate.temperature)
    moved = written(tmp_path, fitted(tmp_path), mode=Calibrate.conformal)
    names = [f"{ASKED}_{end}" for end in ("q2.5", "q16", "median", "q84", "q97.5")]
    before, after = (np.stack([found[name] for name in names], 1) for found in (hot, moved))
    width = before[:, 3] - before[:, 1]
    assert (width > 0).all()
    expected = np.sort(before + width[:, None] * np.array([s or 0.0 for s in SHIFTS]), axis=1)
    assert after == pytest.approx(expected, rel=1e-5)
    assert np.isnan(moved[f"{ASKED}_pit"].astype(float)).all()
    for name in ("mean", "std"):
        assert (moved[f"{ASKED}_{name}"] == hot[f"{ASKED}_{name}"]).all()


def test_the_file_says_what_was_applied(tmp_path):
    written(tmp_path, fitted(tmp_path), mode=Calibrate.conformal)
    _, meaning = cat.read_catalogue(tmp_path)
    applied = meaning["questions"][ASKED]["calibration"]
    assert (applied["mode"], applied["temperature"], applied["fitted_on"]["split"]) == ("conformal", 2.5, "val")
    written(tmp_path)
    assert "calibration" not in cat.read_catalogue(tmp_path)[1]["questions"][ASKED]


def test_a_calibration_of_another_question_is_not_applied(tmp_path, caplog):
    whole = fitted(tmp_path)
    with pytest.raises(
        ArtifactMissingError, match=f"fitted temperature calibration for one of {ASKED}.*posterior=true"
    ):
        predictor(tmp_path, whole, mode=Calibrate.temperature, given=[OTHER])
    with pytest.raises(ArtifactMissingError):
        predictor(tmp_path, None, mode=Calibrate.conformal)
    with caplog.at_level(logging.WARNING):
        both = predictor(tmp_path, whole, mode=Calibrate.temperature, predict=[ASKED, OTHER])
    assert list(both.corrections) == [ASKED] and f"nothing was fitted for them: {OTHER}" in caplog.text


def test_without_posteriors_no_temperature_was_fitted(tmp_path):
    [question] = predictor(tmp_path).plan.questions
    whole = Calibration("model")
    whole.add(ASKED, question.given, ColumnCalibration(levels=LEVELS, shifts=SHIFTS, n_conformal=300))
    with pytest.raises(ArtifactMissingError, match="temperature"):
        predictor(tmp_path, whole, mode=Calibrate.temperature)
    assert predictor(tmp_path, whole, mode=Calibrate.conformal).corrections


def test_other_quantiles_than_the_fitted_ones_are_refused_before_any_work(tmp_path):
    whole = fitted(tmp_path)
    with pytest.raises(DataError, match=r"evaluate.quantiles=\[0.025,0.16,0.84,0.975\]"):
        predictor(tmp_path, whole, mode=Calibrate.conformal, quantiles=[0.1, 0.9])
    assert predictor(tmp_path, whole, mode=Calibrate.temperature, quantiles=[0.1, 0.9]).corrections


@pytest.mark.parametrize("half", [None, 0])
def test_objects_that_a_correction_was_fitted_on_are_not_judged(half, tmp_path):
    """A catalogue of validation objects, corrected by what they were fitted on: the other half is judged, or none."""
    import json

    store = ToyStore(900)
    path = write_catalogue(tmp_path, store)
    table = pq.read_table(path)
    table = table.filter(np.equal(table["split"].to_numpy(zero_copy_only=False), "val"))
    meaning = json.loads(table.schema.metadata[cat.KEY])
    meaning["questions"]["z"]["calibration"] = {"mode": "temperature", "fitted_on": {"split": "val", "half": half}}
    pq.write_table(table.replace_schema_metadata({cat.KEY: json.dumps(meaning)}), path)
    if half is None:
        with pytest.raises(DataError, match="calibration was not fitted on"):
            judge(path)
        return
    found = judge(path)
    assert found.result["n_judged"] == pytest.approx(table.num_rows / 2, rel=0.15)
    assert found.calibration is None and "recalibration" not in found.result["columns"]["z"]


def test_the_median_may_be_one_of_the_asked_quantiles(tmp_path):
    whole = fitted(tmp_path)
    asked = predictor(tmp_path, whole, Calibrate.conformal, quantiles=[0.16, 0.5, 0.84])
    write_predictions(asked, [hand.field()], tmp_path)
    table, _ = cat.read_catalogue(tmp_path)
    assert table[f"{ASKED}_q50"].equals(table[f"{ASKED}_median"])
    assert 0 < table[f"{ASKED}_crps"].null_count < len(table)  # where nothing is given or observed
