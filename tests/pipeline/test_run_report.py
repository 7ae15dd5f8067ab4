"""A report of real runs: what the scripts write is what the runs table reads, objects included."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet
import pytest

from astromodal.__main__ import main
from astromodal.files.io import load_npz, read_json
from tests.pipeline.conftest import contents


def test_the_report_of_a_survey_s_runs(pipeline, tmp_path, capsys):
    before = contents(pipeline.folder / "runs")
    main(["compare", str(pipeline.folder / "runs"), "--out", str(tmp_path)])
    assert contents(pipeline.folder / "runs") == before
    rows = {row["stage"]: row for row in pyarrow.parquet.read_table(tmp_path / "runs.parquet").to_pylist()}
    assert set(rows) == {"train_tokenizers", "encode", "train_lm"}
    assert {row["status"] for row in rows.values()} == {"done"} and all(row["seconds"] > 0 for row in rows.values())
    run = pipeline.runs("train_lm")[-1]
    record, summary, row = read_json(run / "run.json"), read_json(run / "summary.json"), rows["train_lm"]
    assert row["best/val/score"] == pytest.approx(summary["model"]["score"])
    assert (row["steps"], row["best_step"], row["seed"]) == (summary["steps"], summary["best_step"], record["seed"])
    assert row["input.sequences"] == record["inputs"]["sequences"] and row["git_revision"] == record["git"]["revision"]
    assert rows["train_tokenizers"]["summary/image/rmse_inside_sigma"] > 0  # a stage without validations
    assert "val/score" in capsys.readouterr().out and "<svg" in (tmp_path / "report.html").read_text()


def test_every_training_run_has_the_errors_of_its_objects(pipeline):
    run = pipeline.runs("train_lm")[-1]
    arrays, model = load_npz(run / "object_errors.npz"), read_json(run / "summary.json")["model"]
    for name, n in (("ce", "n_ce"), *((f"error_{m}", f"n_{m}") for m in ("image", "scalar", "spectrum"))):
        weights = arrays[n]
        mean = np.nansum(arrays[name] * weights) / weights.sum()
        assert mean == pytest.approx(model[name], rel=1e-5)
    assert len(arrays["object_index"]) == len(np.unique(arrays["object_index"])) > 5
