"""Parts of the prediction experiments: scores, pairing by object, and what spectra are compared with."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def answers(tables, values, ids=("a", "b")):
    return tables.Answers(np.array(ids), np.array(values, float), {"score": tables.score_of(np.array(values, float))})


def asked(tables, found):
    question = importlib.import_module("prediction_questions").QUESTIONS["kids"]["cutouts"]
    return tables.Asked("kids", "cutouts", question, found)


def test_an_interval_is_of_whole_objects_over_the_seeds_that_both_have(load):
    tables = load("prediction_answers")
    ours = {
        0: answers(tables, [[0.5, np.nan], [0.5, 1.0]]),
        1: answers(tables, [[1.5, np.nan], [0.5, 0.4]]),
        7: answers(tables, [[9.0, 9.0], [9.0, 9.0]]),
    }
    theirs = {0: answers(tables, [[1.0, np.nan], [1.0, 1.0]]), 1: answers(tables, [[1.0, np.nan], [1.0, 1.0]])}
    found = tables.compare(asked(tables, {"mixed_3": ours, "ce": theirs}), "mixed_3", "ce")
    # columns of the mean over the seeds 0 and 1: (1.0, 0.5) and 0.7 against (1, 1) and 1
    assert found.gain == pytest.approx(100 * (1 - (0.75 + 0.7) / 2))
    assert (found.n_better, found.n_seeds) == (2, 2)
    # resamples with one column only do not count; the others hold both objects, or b twice: (0.5 and 0.7)
    assert (found.low, found.high) == pytest.approx((found.gain, 100 * (1 - (0.5 + 0.7) / 2)))
    assert tables.compare(asked(tables, {"ce": theirs}), "mixed_3", "ce") is None


def test_answers_about_different_objects_are_not_compared(load):
    tables = load("prediction_answers")
    both = {"ce": {0: answers(tables, [[1.0], [1.0]])}, "mixed_3": {0: answers(tables, [[1.0], [1.0]], ("a", "c"))}}
    with pytest.raises(SystemExit, match="different objects"):
        tables.compare(asked(tables, both), "mixed_3", "ce")


def write_run(run: Path, predicted: list[float]) -> None:
    """A finished run of ``evaluate.py`` on three objects, the last of which has no observed value."""
    # all quantiles at one value: the CRPS is about the absolute error
    table = {
        "id": ["a", "b", "c"],
        "field": ["F"] * 3,
        "split": ["test"] * 3,
        "m": [1.0, 2.0, None],
        "m_mean": predicted,
        "m_median": predicted,
    }
    table |= {f"m_q{level}": predicted for level in ("2.5", "16", "84", "97.5")}
    (run / "judgement").mkdir(parents=True)
    pq.write_table(pa.table(table), run / "catalogue.parquet")
    marginal = {"crps": 0.25, "figures": {"mae": 0.25, "r2": 0.0}}
    record = {"figures": {"mae": {"value": 1.25}}, "against": {"baselines": {"marginal": marginal}}}
    (run / "judgement" / "evaluation.json").write_text(json.dumps({"columns": {"m": record, "alone": {}}}))
    (run / "finished.json").write_text("{}")


def test_the_score_of_a_run_is_its_crps_over_that_of_the_marginal(load, tmp_path):
    write_run(tmp_path, [1.5, 4.0, 0.0])
    found = load("prediction_answers").scalar_answers(tmp_path)
    assert found.ids.tolist() == ["a", "b", "c"] and np.isnan(found.ratios[2, 0])
    assert found.ratios[1, 0] == pytest.approx(4 * found.ratios[0, 0])  # errors 2 and 0.5
    assert found.ratios[0, 0] == pytest.approx(0.5 / 0.25, rel=0.05)  # CRPS of a point is the absolute error
    assert found.figures["MAE"] == 1.25 and np.isnan(found.figures["sigma_nmad"])
    assert found.figures["score"] == pytest.approx(np.nanmean(found.ratios))


def test_the_report_has_a_row_per_variant_and_the_gain_between_them(load, tmp_path):
    runs = tmp_path / "kids" / "runs" / "evaluate"
    write_run(runs / "ce" / "seed0-cutouts", [1.5, 4.0, 0.0])
    write_run(runs / "mixed_3" / "seed0-cutouts", [1.25, 3.0, 0.0])  # half of each error
    paths = load("prediction_tables").write_report(
        {"kids": tmp_path / "kids", "splus": tmp_path / "splus"},
        ["ce", "combined", "mixed_3"],
        [0, 1],
        tmp_path / "report",
        "ce",
        "mixed_3",
    )
    text = paths[0].read_text()
    assert "2 objects" in text and "## splus" not in text and "`combined`" not in text
    # 0.25 and 1.0 of a mean of 1.25: the ends are those of resamples with one object only
    assert "| `mixed_3` | **+50.0** [+20.0, +80.0] 1/1 |" in text
    assert "Calibration" not in text and paths[1].stat().st_size > 10_000
    alone = load("prediction_tables").write_report(
        {"kids": tmp_path / "kids"}, ["ce"], [0], tmp_path / "alone", "ce", "ce"
    )
    assert "Gain over" not in alone[0].read_text() and alone[1].stat().st_size > 10_000  # nothing to compare with


def test_spectra_that_follow_from_the_bands_are_found_by_the_regression_and_their_own_copies_by_the_rest(load):
    spectra = load("prediction_spectra")
    rng = np.random.default_rng(0)
    bands = rng.uniform(0.5, 2.0, (200, 3)) * 10 ** rng.uniform(-1, 1, (200, 1))
    flux, magnitudes = bands @ rng.uniform(0.5, 2.0, (3, 20)), -2.5 * np.log10(bands)
    train, test = slice(0, 150), slice(150, 200)

    def error(name: str) -> float:
        predicted = spectra.BASELINES[name](magnitudes[train], flux[train], magnitudes[test], 1)
        return spectra.relative_error(predicted, flux[test]).mean()

    assert error("linear") < 1e-3 < error("neighbours") < error("mean shape") < error("marginal")
    # one shape at any brightness: only the marginal does not know it
    copies = 10 ** (-0.4 * magnitudes[:, :1]) * flux[:1]
    same = np.tile(magnitudes[:, :1], (1, 3))
    for name in ("mean shape", "neighbours", "linear"):
        predicted = spectra.BASELINES[name](same[train], copies[train], same[test], 1)
        np.testing.assert_allclose(predicted, copies[test], rtol=1e-3, err_msg=name)
    alone = spectra.marginal(same[train], copies[train], same[test], 1)
    np.testing.assert_allclose(np.sqrt((alone**2).mean(1)), np.median(np.sqrt((copies[train] ** 2).mean(1))))


def test_baselines_are_asked_what_the_models_are_asked(load):
    questions = load("prediction_questions")
    assert set(questions.QUESTIONS) == set(questions.SETTINGS)
    for of in questions.QUESTIONS.values():
        for question in of.values():
            chosen, alone = question.overrides(baselines=True), question.overrides()
            assert set(question.against) <= set(question.predict)
            same = [o for o in chosen if "judge" not in o] == [o for o in alone if "judge" not in o]
            assert same == (not question.against and not question.against_given)
            assert (chosen == alone) == question.spectrum
            assert ("evaluate.judge=null" in chosen) == question.spectrum


def test_a_calibration_is_fitted_on_validation_objects_with_whole_posteriors(load):
    experiments, questions = load("prediction_experiments"), load("prediction_questions")
    chosen = experiments.calibrating(questions.QUESTIONS["splus"]["photo_z"])
    assert "evaluate.splits=[val,test]" in chosen and "evaluate.posterior=true" in chosen
    assert not any("splits=[test]" in o or "calibrate=false" in o for o in chosen)
    assert len(chosen) == len({o.split("=")[0] for o in chosen})  # nothing is said twice
