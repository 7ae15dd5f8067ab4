"""The runs table: one row per run directory with the right figures; damaged directories are named and skipped."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from astromodal.compare.rundir import Run, Skipped, find_run_dirs, read_run
from astromodal.compare.runs_table import differing_keys, read_runs_table
from astromodal.errors import ArtifactMissingError
from astromodal.files.io import FileLock
from tests.compare.fake_runs import INPUTS, make_run, sweep


def test_a_row_has_what_the_run_directory_says(tmp_path):
    make_run(
        tmp_path,
        "a",
        seed=3,
        score=0.5,
        grad_shares={"image": 0.02},
        ms=10.0,
        record={"attempts": [{"seconds": 100.0}], "peak_memory_mb": 512.5},
    )
    make_run(tmp_path, "b", score=0.4, changes={"loss.weight_image": 1.0, "paths.store": "elsewhere"})
    row = read_runs_table([tmp_path]).rows()[0]
    expected = {
        "path": str(tmp_path / "a" / "20260101-000000-000"),
        "run_id": "20260101-000000-000",
        "name": "a",
        "stage": "train_lm",
        "status": "done",
        "seed": 3,
        "steps": 30,
        "best_step": 20,
        "seconds": 112.5,
        "ms_per_step": 10.0,
        "git_revision": "abcdef0123456789",
        "git_dirty": False,
        "peak_memory_mb": 512.5,
        "input.sequences": INPUTS["sequences"],
        "config.loss.weight_image": 0.1,
        "grad_share/image": 0.02,
        "config.paths.store": "artifacts/synthetic/default",
        "best/val/score": 0.5,
        "final/val/score": 0.55,
        "best/val/error_image": 0.6,
        "best/val/accuracy_image": 0.5,
    }
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert "config.loss.sample_k" not in row and "config.run_dir" not in row  # equal, or a name


def test_energy_and_memory_are_taken_where_they_were_recorded(tmp_path):
    folder = make_run(tmp_path, "a", record={"peak_memory_gpu_mb": 7.0})
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(
            '{"step": 30, "perf/energy_kwh": 0.5, "val/energy_image": 3.0}\n{"step": 31, "perf/energy_kwh": 0.6}\n'
        )
    row = read_runs_table([tmp_path]).rows()[0]
    assert (row["peak_memory_gpu_mb"], row["energy_kwh"]) == (7.0, 0.6) and "energy_image" not in row


def test_runs_are_found_at_any_depth_once_and_not_within_each_other(tmp_path):
    jobs = [make_run(tmp_path / "train_lm", "x", "s1", job=str(i)) for i in range(2)]
    alone = make_run(tmp_path / "train_lm", "y")
    inner = alone / "checkpoints" / "copied"
    inner.mkdir(parents=True)
    (inner / "run.json").write_text("{}")
    (tmp_path / "train_lm" / "sweeps" / "s1" / "multirun.yaml").write_text("")
    assert find_run_dirs([tmp_path, tmp_path / "train_lm", jobs[0]]) == sorted([*jobs, alone])
    assert [run.label for run in read_runs_table([jobs[0].parent]).runs] == ["x/s1/0", "x/s1/1"]
    with pytest.raises(ArtifactMissingError, match="nothing"):
        find_run_dirs([tmp_path / "nowhere"])


def test_how_a_run_ended(tmp_path):
    for status in ("DONE", "FAILED", "INTERRUPTED", "RUNNING"):
        make_run(tmp_path, status, status=status, record={"error": {"type": "E", "message": "of\nno  use"}})
    rows = {row["name"]: row for row in read_runs_table([tmp_path]).rows()}
    found = {name: (row["status"], row["reason"]) for name, row in rows.items()}
    assert found == {
        "DONE": ("done", None),
        "FAILED": ("failed", "E: of no use"),
        "INTERRUPTED": ("killed", "E: of no use"),
        "RUNNING": ("killed", "E: of no use"),
    }
    folder = tmp_path / "RUNNING" / "20260101-000000-000"
    with FileLock(folder / ".run"):
        assert read_run(folder).status == "running"
    assert read_run(folder).status == "killed"


@pytest.mark.parametrize(
    ("changes", "best_step", "accuracy"),
    [
        ({}, 20, 0.5),
        ({"training.monitor": "val/accuracy_image"}, 20, 0.5),
        ({"training.monitor": "val/accuracy_image", "training.monitor_mode": "min"}, 10, 0.3),
        ({"training.monitor": "val/unknown"}, None, None),
    ],
)
def test_without_a_summary_the_monitor_tells_the_best_step(tmp_path, changes, best_step, accuracy):
    run = read_run(make_run(tmp_path, "a", status="INTERRUPTED", changes=changes))
    assert run.best_step == best_step
    assert run.best.get("val/accuracy_image") == pytest.approx(accuracy)


def test_a_step_that_was_validated_twice_counts_as_the_second_time(tmp_path):
    folder = make_run(tmp_path, "a", score=0.5)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 20, "val/score": 0.45}) + "\n")
    run = read_run(folder)
    assert (run.best["val/score"], run.final["val/score"]) == (0.45, pytest.approx(0.55))
    assert run.best["val/error_image"] == pytest.approx(0.6)  # logged apart at the same step


# -------------------------------------------------------------------------------------------- damage


def damage(folder, kind):
    if kind == "truncated run.json":
        text = (folder / "run.json").read_text()
        (folder / "run.json").write_text(text[: len(text) // 2])
    elif kind == "run.json is a list":
        (folder / "run.json").write_text("[1]")
    elif kind == "run.json without an id":
        (folder / "run.json").write_text('{"status": "DONE", "stage": "train_lm"}')
    elif kind == "garbage":
        (folder / "run.json").write_bytes(bytes(range(256)))
    elif kind == "no run.json":
        (folder / "run.json").unlink()
    elif kind == "no config.json":
        (folder / "config.json").unlink()
    elif kind == "config.json is text":
        (folder / "config.json").write_text('"a"')
    elif kind == "truncated summary.json":
        (folder / "summary.json").write_text('{"steps": 3')
    elif kind == "damaged line":
        (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n{"step": 2}\n')
    elif kind == "line is a number":
        (folder / "metrics.jsonl").write_text("3\n")
    elif kind == "empty metrics":
        (folder / "metrics.jsonl").write_text("")
        (folder / "summary.json").unlink()


DAMAGE = {
    "truncated run.json": ("unreadable", "run.json"),
    "run.json is a list": ("unreadable", "got list"),
    "run.json without an id": ("unreadable", "run_id"),
    "garbage": ("unreadable", "run.json"),
    "no run.json": ("half-written", "no run.json"),
    "no config.json": ("half-written", "config.json"),
    "config.json is text": ("unreadable", "got str"),
    "truncated summary.json": ("unreadable", "summary.json"),
    "damaged line": ("unreadable", "metrics.jsonl"),
    "line is a number": ("unreadable", "metrics.jsonl"),
    "empty metrics": ("half-written", "without a single metric"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_directory_is_listed_with_the_reason(tmp_path, kind):
    good, bad = make_run(tmp_path, "good"), make_run(tmp_path, "zbad")
    damage(bad, kind)
    runs_table = read_runs_table([tmp_path])
    assert [run.path for run in runs_table.runs] == [good]
    (skipped,) = runs_table.skipped
    status, reason = DAMAGE[kind]
    assert (skipped.path, skipped.status) == (bad, status) and reason in skipped.reason
    assert "\n" not in skipped.reason
    last = runs_table.rows()[-1]
    assert (last["path"], last["status"], last["reason"]) == (str(bad), status, skipped.reason)


@pytest.mark.parametrize("name", ["run.json", "config.json", "summary.json"])
def test_wherever_a_file_breaks_off_there_is_a_reason(tmp_path, name):
    folder = make_run(tmp_path, "a")
    data = (folder / name).read_bytes()
    for length in range(0, len(data), max(1, len(data) // 15)):
        (folder / name).write_bytes(data[:length])
        assert isinstance(read_run(folder), Skipped)


def test_a_killed_run_without_metrics_and_an_unfinished_line_are_normal(tmp_path):
    killed = make_run(tmp_path, "killed", status="RUNNING")
    (killed / "metrics.jsonl").unlink()
    cut = make_run(tmp_path, "cut", status="RUNNING")
    with open(cut / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "val/sc')
    runs = {run.record["name"]: run for run in read_runs_table([tmp_path]).runs}
    assert isinstance(runs["killed"], Run) and runs["killed"].best == {} and runs["killed"].steps is None
    assert runs["cut"].final["val/score"] == pytest.approx(0.55)


def test_an_unusable_file_of_object_errors_counts_as_none(tmp_path):
    folder = make_run(tmp_path, "a")
    assert read_run(folder).object_errors is None
    (folder / "object_errors.npz").write_bytes(b"PK\x03\x04 not a zip")
    assert read_run(folder).object_errors is None


# --------------------------------------------------------------------------------------------- files


def test_csv_and_parquet_say_the_same_as_the_table(tmp_path):
    sweep(tmp_path / "runs", seeds=1)
    make_run(tmp_path / "runs", 'a "b", c\nd=é', changes={"loss.sample_k": "auto", "optimizer.betas": [0.8, 0.9]})
    make_run(tmp_path / "runs", "failed", status="FAILED", record={"seed": None, "git": None})
    damage(make_run(tmp_path / "runs", "bad"), "truncated run.json")
    runs_table = read_runs_table([tmp_path / "runs"])
    table, (csv, parquet) = runs_table.table(), runs_table.write(tmp_path)
    assert table.num_rows == 21 and sorted(p.name for p in tmp_path.iterdir()) == [
        "runs",
        "runs.csv",
        "runs.parquet",
    ]
    assert pyarrow.parquet.read_table(parquet).equals(table)
    options = pa.csv.ConvertOptions(
        column_types=table.schema, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False
    )
    again = pa.csv.read_csv(csv, convert_options=options, parse_options=pa.csv.ParseOptions(newlines_in_values=True))
    assert again.equals(table)
    kinds = {name: table.schema.field(name).type for name in ("seed", "git_dirty", "best/val/score", "best_step")}
    assert kinds == {
        "seed": pa.int64(),
        "git_dirty": pa.bool_(),
        "best/val/score": pa.float64(),
        "best_step": pa.int64(),
    }
    assert set(table["config.loss.sample_k"].to_pylist()) == {"16", "256", "64", "auto", None}  # mixed: text


def test_a_runs_table_of_nothing_usable_can_still_be_written(tmp_path):
    damage(make_run(tmp_path / "runs", "bad"), "no config.json")
    csv, _ = read_runs_table([tmp_path / "runs"]).write(tmp_path / "out")
    assert pa.csv.read_csv(csv)["status"].to_pylist() == ["half-written"]


def test_keys_that_name_places_decide_nothing(tmp_path):
    changes = {"paths.runs": "x", "tracking.tags": ["t"], "data.root": "/data", "loss.ce": "block", "new.key": 1}
    runs = [read_run(make_run(tmp_path, "a")), read_run(make_run(tmp_path, "b", seed=1, changes=changes))]
    assert differing_keys(runs) == ["loss.ce", "new.key"]
    assert set(differing_keys(runs, places=True)) == set(changes)
