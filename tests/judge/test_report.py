"""One call from a catalogue to a folder with tables, plots and a calibration; the words of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from astromodal.ask.recalibration import Calibration
from astromodal.errors import ArtifactError
from astromodal.judge import plots as prediction_plots
from astromodal.judge.report import judge_catalogue, report_matrix
from astromodal.judge.tables import judgement_text, write_table
from tests.ask.toy_sky import ToyStore, write_catalogue


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    from astromodal.config.schema import Baseline, JudgeConfig

    folder, store = tmp_path_factory.mktemp("judged"), ToyStore(900)
    options = JudgeConfig(
        n_resamples=60, redshifts=["z"], baselines=[Baseline.marginal, Baseline.neighbours], magnitude="mag_r"
    )
    for name, how in (("sharp", {}), ("blurred", {"blur": 0.07, "stated": 0.03})):
        path = write_catalogue(folder / f"catalogue_{name}", store, **how)
        result = judge_catalogue(
            path,
            folder / name,
            store=store,
            weights="abc",
            options=options,
            per_object={"chi2": np.linspace(0, 2, 1800)},
            calibration_path=folder / f"beside_{name}.json",
        )
    return folder, result


def test_the_folder_holds_figures_tables_plots_and_the_calibration(judged):
    folder, result = judged
    found = json.loads((folder / "blurred" / "evaluation.json").read_text())
    assert found["columns"]["z"]["n"] == result["columns"]["z"]["n"] and found["loses"]
    for name in ("figures", "against", "bins", "recalibration"):
        table = pq.read_table(folder / "blurred" / "tables" / f"{name}.parquet")
        assert table.num_rows == pa_csv.read_csv(folder / "blurred" / "tables" / f"{name}.csv").num_rows > 0
    plots = {path.stem: path for path in (folder / "blurred" / "plots").glob("*.png")}
    assert set(plots) == {
        "predicted",
        "pit",
        "coverage",
        "recalibration",
        "against_crps",
        "against_absolute_error",
        "by_signal_to_noise",
        "by_magnitude",
        "photo_z_z",
    }
    assert all(is_png(path) for path in plots.values())
    for path in (folder / "blurred" / "calibration.json", folder / "beside_blurred.json"):
        [fitted] = Calibration.load(path, "abc").questions.values()
        assert fitted.temperature > 1.5
        with pytest.raises(ArtifactError):
            Calibration.load(path, "other")


def test_the_report_says_where_the_model_loses_and_where_it_does_not(judged):
    folder, _ = judged
    lost, won = ((folder / name / "evaluation.txt").read_text() for name in ("blurred", "sharp"))
    assert "THE MODEL LOSES" in lost and "neighbours" in lost.split("THE MODEL LOSES")[1]
    assert "loses nowhere" in won and "THE MODEL LOSES" not in won
    assert "not observed" in won and "chi2" in won and "σ NMAD" in won


def test_the_report_says_how_to_get_a_temperature(judged):
    folder, result = judged
    assert "no temperature" not in (folder / "sharp" / "evaluation.txt").read_text()
    column = result["columns"]["z"]
    fitted = {step: found for step, found in column["recalibration"].items() if step != "temperature"}
    text = judgement_text(result | {"columns": {"z": column | {"recalibration": fitted}}})
    assert "z: no temperature: it needs whole posteriors, evaluate.posterior=true" in text


def test_tables_hold_the_figures_of_the_json(judged):
    folder, result = judged
    rows = pq.read_table(folder / "blurred" / "tables" / "figures.parquet").to_pylist()
    r2 = next(row for row in rows if row["figure"] == "r2")
    assert r2["value"] == result["columns"]["z"]["figures"]["r2"]["value"] and r2["low"] < r2["value"] < r2["high"]
    verdicts = {row["verdict"] for row in pq.read_table(folder / "blurred" / "tables" / "against.parquet").to_pylist()}
    assert "loses" in verdicts


def test_the_matrix_of_several_judgements(judged, tmp_path):
    folder, _ = judged
    text = report_matrix({"sharp": folder / "sharp", "blurred": folder / "blurred"}, tmp_path)
    assert "sharp" in text and is_png(tmp_path / "any_to_any_crps_skill.png")
    values = {
        row["given"]: row["crps_skill"] for row in pq.read_table(tmp_path / "any_to_any_crps_skill.parquet").to_pylist()
    }
    assert values["sharp"] > 0.6 > 0.3 > values["blurred"]


def test_nothing_to_draw_draws_nothing(tmp_path):
    path = tmp_path / "x.png"
    assert prediction_plots.plot_pit({}, path) is None and prediction_plots.plot_coverage({}, path) is None
    assert prediction_plots.plot_against({"z": {"skipped": "few"}}, path) is None
    assert prediction_plots.plot_recalibration({"z": {"skipped": "few"}}, path) is None
    assert prediction_plots.plot_by_bins({"z": {"bins": []}}, path, label="r") is None
    assert prediction_plots.plot_chi2_by_pixel({"b": {"chi2": np.full(3, np.nan)}}, path) is None
    empty = {"observed": np.array([np.nan]), "median": np.array([1.0])}
    assert prediction_plots.plot_photo_z("z", empty, {}, path) is None
    assert not path.exists()


def test_errors_by_wavelength_are_drawn(tmp_path):
    wave = np.linspace(3600, 5800, 100)
    group = {"wave": wave, "chi2": 1 + np.sin(wave / 100) ** 2, "pull": np.cos(wave / 50), "wave_unit": "Å"}
    assert is_png(prediction_plots.plot_chi2_by_pixel({"desi_b": group, "desi_r": group}, tmp_path / "s.png"))


def test_a_report_without_judged_objects_says_so():
    record = {"unit": "K", "n": 0, "left_out": {"not observed": 7}, "remarks": {}}
    result = {
        "n_judged": 7,
        "n_rows": 9,
        "split": "test",
        "columns": {"t": record},
        "figures": {},
        "loses": [],
        "score": None,
    }
    text = judgement_text(result)
    assert "no column has an object that can be judged" in text and "t: 7 not observed" in text
    assert "not compared" in text


def test_rows_that_lack_something_become_nulls(tmp_path):
    write_table([{"a": 1.0}, {"a": 2.0, "b": "x"}], tmp_path / "t")
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [{"a": 1.0, "b": None}, {"a": 2.0, "b": "x"}]


def test_the_stage_shows_every_plot_on_the_dashboard_and_returns_the_figures(tmp_path):
    """As ``evaluate.py`` judges; a catalogue that nothing of can be judged is left as it is, with a warning."""
    from types import SimpleNamespace

    from astromodal.config.schema import JudgeConfig
    from astromodal.stages.answers import judge_answers

    write_catalogue(tmp_path, ToyStore(300))
    shown, said = {}, []
    log = SimpleNamespace(info=lambda *_: None, warning=lambda text, *values: said.append(text % values))
    tracker = SimpleNamespace(image=lambda name, path: shown.update({name: path}))
    run = SimpleNamespace(dir=tmp_path, log=log, tracker=tracker)
    judge = JudgeConfig(n_resamples=10, baselines=[])
    figures = judge_answers(run, SimpleNamespace(seed=0), tmp_path, judge)
    assert figures["z/r2"] > 0.5 and not said
    plots = {f"judgement/{path.stem}": path for path in (tmp_path / "judgement" / "plots").glob("*.png")}
    assert shown == plots and "judgement/pit" in shown
    path = tmp_path / "catalogue.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(np.equal(table["split"].to_numpy(zero_copy_only=False), "train")), path)
    assert judge_answers(run, SimpleNamespace(seed=0), tmp_path, judge) == {} and "not judged" in said[0]
