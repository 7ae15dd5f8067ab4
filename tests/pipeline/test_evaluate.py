"""``evaluate.py`` on the tiny survey: the catalogue of a trained model, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.__main__ import main as astromodal_main
from astromodal.ask import catalogue as cat
from astromodal.ask.recalibration import Calibration, ColumnCalibration, temper
from astromodal.data.scalars import inverse_transform
from astromodal.files.io import load_npz, load_torch, save_torch
from astromodal.tokenizers import TokenizerSet
from astromodal.tokens import TokenStore

from .conftest import EXTRA, MODEL, SURVEY, Outcome, Workplace, contents, launch_stage


@pytest.fixture(scope="module")
def place(pipeline: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A copy of ``pipeline`` with a second, newer run of train_lm that knows any order."""
    folder = tmp_path_factory.mktemp("evaluate") / "place"
    shutil.copytree(pipeline.folder, folder)
    outcome = launch_stage("train_lm", *SURVEY, *MODEL, "sequence=random", "run_id=random", cwd=folder)
    assert outcome.returncode == 0, outcome.stderr
    return Workplace(folder)


def evaluate(place: Workplace, *overrides: str) -> Outcome:
    judged = [] if any(o.startswith("evaluate.judge.") for o in overrides) else ["evaluate.judge=null"]
    return launch_stage("evaluate", *SURVEY, *judged, *overrides, cwd=place.folder)


def catalogue(place: Workplace, *overrides: str) -> tuple[dict[str, np.ndarray], Path]:
    """Columns of the catalogue of a run that ends well, and its directory."""
    outcome = evaluate(place, *overrides)
    assert outcome.returncode == 0, outcome.stderr
    folder = max((place.folder / "runs" / "evaluate").glob("*/*/run.json"), key=lambda p: p.stat().st_mtime_ns).parent
    table, _ = cat.read_catalogue(folder)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}, folder


def launch_report(folder: Path, capsys) -> str:
    """What ``astromodal compare`` prints of the runs in a folder."""
    from astromodal.__main__ import main

    capsys.readouterr()
    main(["compare", str(folder)])
    return capsys.readouterr().out


def fixed_run(place: Workplace) -> Path:
    return next(folder for folder in place.runs("train_lm") if folder.name != "random")


def test_the_newest_run_answers_for_every_object_of_every_field(place: Workplace):
    found, folder = catalogue(place, "evaluate.embeddings=[mean]", "run_id=whole")
    store = TokenStore(place.store)
    assert found["id"].tolist() == [i for field in store for i in field.ids]
    assert sorted(set(found["field"])) == store.fields() and set(found["split"]) == {"train", "val", "test"}
    field = store.open("SYN-0001")
    for j, name in enumerate(field.columns):
        if name not in found:  # too rare for a single training value: nothing can be said
            assert name in (folder / "evaluate.log").read_text()
            continue
        there = field.scalar["present"][:, j] & ~field.scalar["nondetected"][:, j]
        observed = np.where(there, field.scalar["values"][:, j], np.nan)
        np.testing.assert_array_equal(found[name][found["field"] == "SYN-0001"], observed)
        predicted = found[f"{name}_flag"] & cat.LACKS_GIVEN == 0
        assert np.isfinite(found[f"{name}_mean"][predicted].astype(float)).all() and predicted.mean() > 0.9
        assert (found[f"{name}_q16"] <= found[f"{name}_median"])[predicted].all()
    record = json.loads((folder / "run.json").read_text())
    trained = json.loads((place.folder / "runs/train_lm/default/random/run.json").read_text())
    assert record["status"] == "DONE" and record["inputs"]["model"] == trained["outputs"]["model"]
    assert record["inputs"]["tokens"] == trained["inputs"]["tokens"]
    assert set(record["outputs"]) == {"catalogue", "embeddings"}
    summary = json.loads((folder / "prediction.json").read_text())
    assert summary["objects"] == len(found["id"]) == 120 and summary["run"] == "random"
    assert {p.name for p in folder.iterdir()} >= {"catalogue.parquet", "embeddings.parquet", "evaluate.log"}
    assert not list(folder.rglob(".*.tmp*")) and not list(folder.glob(".tokens-*"))


def test_processes_that_share_the_fields_write_the_same_catalogue_and_the_last_one_judges(
    place: Workplace, monkeypatch
):
    alone, _ = catalogue(place, "evaluate.predict=[mag_pstotal_r]", "run_id=alone")
    asked = ["evaluate.predict=[mag_pstotal_r]", "evaluate.judge.baselines=[marginal]", "run_id=shared"]
    folder = place.folder / "runs/evaluate/default/shared"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        outcome = evaluate(place, *asked)
        assert outcome.returncode == 0, outcome.stderr
        assert (folder / "prediction.json").is_file() == (folder / "judgement").is_dir() == (rank == "1")
    monkeypatch.undo()
    table, _ = cat.read_catalogue(folder)
    assert table.column_names == list(alone) and not (folder / "answered" / ".shares").exists()
    for name in table.column_names:
        np.testing.assert_array_equal(table[name].to_numpy(zero_copy_only=False), alone[name])
    (folder / "answered" / "field_SYN-0001.json").unlink()
    again = evaluate(place, *asked[:1], "evaluate.by_field=true", "run_id=shared")
    assert again.returncode == 0 and "1 of 2 fields are answered" in (folder / "evaluate.log").read_text()
    assert cat.read_catalogue(folder)[0].equals(table)


def test_figures_are_those_of_the_training_run_where_both_mean_the_same(place: Workplace):
    """Given what stands before it, a column's expectation is that of validation: the same error on the same objects."""
    run = fixed_run(place)
    found, folder = catalogue(
        place,
        f"evaluate.run={run}",
        "evaluate.given=[before]",
        "evaluate.splits=[val]",
        "evaluate.posterior=true",
        "run_id=before",
    )
    expected = json.loads((run / "summary.json").read_text())["columns"]
    tokenizer = TokenizerSet.load(place.store / "tokenizers").scalar
    bins, book = load_npz(folder / "posterior_bins.npz"), tokenizer.codebook
    compared = 0
    for name, figures in expected.items():
        config, j = tokenizer.configs[name], tokenizer.columns.index(name)
        known = np.isfinite(found[name])
        posterior = np.stack(found[f"{name}_posterior"][known]).astype(np.float64)
        expectation = inverse_transform(posterior @ book.centers[j, : posterior.shape[1]], config)
        assert known.sum() == figures["n"]
        assert np.abs(expectation - found[name][known]).mean() == pytest.approx(figures["mae"], rel=1e-4), name
        if config.transform.value == "identity":
            np.testing.assert_allclose(found[f"{name}_mean"][known], expectation, rtol=1e-4, atol=1e-4)
            compared += 1
        assert len(bins[f"edges_{name}"]) == posterior.shape[1] + 1
    assert compared > 3


def test_datacubes_that_were_never_encoded_give_the_same_catalogue(place: Workplace, tmp_path: Path):
    asked = ("evaluate.given=[spectrum]", "evaluate.predict=[mag_pstotal_r,desi_b]", "evaluate.n_samples=2")
    stored, _ = catalogue(place, *asked, "evaluate.splits=[test]", "run_id=stored")
    before = sorted(place.store.rglob("*"))
    encoded, folder = catalogue(place, *asked, "evaluate.splits=[test]", "evaluate.input=datacubes", "run_id=raw")
    assert sorted(place.store.rglob("*")) == before and not list(folder.glob(".tokens-*"))
    for name, values in stored.items():
        if name.startswith("desi_b") and name != "desi_b_flag":
            continue
        np.testing.assert_array_equal(values, encoded[name])
    for a, b in zip(stored["desi_b_mean"], encoded["desi_b_mean"], strict=True):
        assert (a is None) == (b is None) and (a is None or np.array_equal(a, b))
    assert any(row is not None for row in stored["desi_b_mean"])
    new = tmp_path / "new"  # other data, no store of their own: the model's tokenizers are found by its run
    new.mkdir()
    for name in ("datacube_SYN-0001.parquet", "zero_points.csv"):
        shutil.copy(place.cubes / name, new / name)
    third, _ = catalogue(place, *asked, "data.synthetic=null", f"data.root={new}", "data.name=other", "run_id=new")
    assert set(third["field"]) == {"SYN-0001"} and len(third["id"]) == 60
    where = {i: k for k, i in enumerate(third["id"])}
    rows = [where[i] for i in stored["id"] if i in where]
    same = [k for k, i in enumerate(stored["id"]) if i in where]
    column = "mag_pstotal_r_mean"
    expected = stored[column][same].astype(float)
    np.testing.assert_allclose(third[column][rows].astype(float), expected, rtol=1e-5)


def new_sky(place: Workplace, folder: Path) -> tuple[str, ...]:
    """Overrides for a copy of a field under other ids, 90 degrees away: 60 objects that no model has seen."""
    folder.mkdir()
    zero_points = (place.cubes / "zero_points.csv").read_text()
    (folder / "zero_points.csv").write_text(zero_points.replace("SYN-0001", "NEW"))
    table = pq.read_table(place.cubes / "datacube_SYN-0001.parquet")
    ids = [f"new_{i}" for i in table["id"].to_pylist()]
    for name, column in (("id", pa.array(ids)), ("ra", pa.array((table["ra"].to_numpy() + 90.0) % 360.0))):
        at = table.column_names.index(name)
        table = table.set_column(at, name, column.cast(table.schema.field(name).type))
    pq.write_table(table, folder / "datacube_NEW.parquet")
    return "data.synthetic=null", f"data.root={folder}", "data.name=other", "evaluate.input=datacubes"


def test_never_seen_cubes_are_held_out_as_a_whole_and_leave_the_training_run_as_it_is(place: Workplace, tmp_path: Path):
    run = place.folder / "runs/train_lm/default/random"
    before = contents(run)
    outcome = evaluate(
        place,
        *new_sky(place, tmp_path / "new"),
        f"evaluate.run={run}",
        "run_id=foreign",
        "evaluate.predict=[mag_pstotal_r]",
        "evaluate.given=[scalar]",
        "evaluate.judge.baselines=[marginal,neighbours]",
    )
    assert outcome.returncode == 0, outcome.stderr
    assert contents(run) == before
    assert "60 objects that the model never saw, 0 that it trained on" in outcome.stderr
    folder = place.folder / "runs/evaluate/default/foreign"
    found = json.loads((folder / "judgement/evaluation.json").read_text())
    table, _ = cat.read_catalogue(folder)
    assert set(table["split"].to_pylist()) == {"test"} and found["n_judged"] == 60
    record = found["columns"]["mag_pstotal_r"]
    store = TokenStore(place.store)
    j = store.open("SYN-0001").columns.index("mag_pstotal_r")
    trained = sum(int(((t.split == 0) & np.isfinite(t.scalar["values"][:, j])).sum()) for t in store)
    assert record["against"]["n"] == record["n"] and record["against"]["n_training"] == trained
    assert {"marginal", "neighbours"} == set(record["against"]["baselines"]) and found["score"] is not None
    assert "none of these objects is one of the model's validation" in outcome.stderr
    assert not list(folder.rglob("calibration.json")) and not list(folder.glob(".tokens-*"))
    # the score of every observed object stands in the catalogue
    crps = table["mag_pstotal_r_crps"].to_numpy(zero_copy_only=False)
    observed = np.isfinite(table["mag_pstotal_r"].to_numpy(zero_copy_only=False))
    predicted = np.isfinite(table["mag_pstotal_r_mean"].to_numpy(zero_copy_only=False))
    assert (np.isfinite(crps) == (observed & predicted)).all() and (crps[np.isfinite(crps)] > 0).all()
    assert record["distribution"]["crps"]["value"] == pytest.approx(np.nanmean(crps), rel=1e-5)


def test_a_name_that_does_not_exist_is_refused_before_any_work(place: Workplace, tmp_path: Path):
    """Before the cubes are opened, or made: the folder of the survey does not exist yet."""
    line = evaluate(
        place,
        f"data.root={tmp_path / 'cubes'}",
        "evaluate.input=datacubes",
        "run_id=typo",
        "evaluate.given=[mag_pstotal_q]",
    ).error()
    assert "did you mean mag_pstotal_" in line and not (tmp_path / "cubes").exists()
    outcome = launch_stage(
        "train_lm", *SURVEY, *MODEL, "evaluate.predict=[mag_pstotal_q]", "run_id=typo", cwd=place.folder
    )
    assert "did you mean mag_pstotal_" in outcome.error()
    assert not list((place.folder / "runs/train_lm/default/typo").glob("**/*.pt"))
    shutil.rmtree(place.folder / "runs/train_lm/default/typo", ignore_errors=True)


def test_cutouts_are_drawn(place: Workplace):
    found, folder = catalogue(
        place,
        "evaluate.predict=[image]",
        "evaluate.given=[scalar]",
        "evaluate.splits=[test]",
        "evaluate.n_samples=2",
        "data.fields=[SYN-0001]",
        "run_id=image",
    )
    summary = json.loads((folder / "prediction.json").read_text())
    shape = summary["questions"]["image"]["shape"]
    rows = [row for row in found["image_mean"] if row is not None]
    assert rows and all(len(row) == np.prod(shape) and np.isfinite(row).all() for row in rows)
    assert len({row.tobytes() for row in rows}) == len(rows) and found["image_std"][0].max() > 0


def test_the_catalogue_is_judged_against_baselines_on_held_out_sky(place: Workplace):
    outcome = evaluate(
        place,
        "evaluate.predict=[mag_pstotal_r,specz_z]",
        "run_id=judged",
        "evaluate.judge.baselines=[marginal,neighbours]",
        "evaluate.posterior=true",
    )
    assert outcome.returncode == 0, outcome.stderr
    folder = place.folder / "runs/evaluate/default/judged"
    found = json.loads((folder / "judgement/evaluation.json").read_text())
    assert set(found["columns"]) == {"mag_pstotal_r", "specz_z"}
    assert (folder / "judgement/evaluation.txt").read_text() in outcome.stderr + "\n"
    assert json.loads((folder / "summary.json").read_text()).items() >= found["summary"].items()
    assert "no calibration: 12 objects to fit and 22 to show it" in outcome.stderr  # said, not left out in silence
    assert list((folder / "judgement/plots").glob("*.png"))


def test_a_calibration_beside_the_weights_is_applied_on_request(place: Workplace):
    ask = ("evaluate.predict=[mag_pstotal_r]", "evaluate.given=[spectrum]", "evaluate.posterior=true")
    assert "calibration.json" in evaluate(place, *ask, "evaluate.calibration=temperature", "run_id=none").error()
    plain, folder = catalogue(place, *ask, "run_id=plain")
    weights = place.folder / "runs/train_lm/default/random"
    meaning = json.loads((folder / "prediction.json").read_text())
    whole = Calibration(meaning["model"])
    given = meaning["questions"]["mag_pstotal_r"]["given"]
    whole.add("mag_pstotal_r", given, ColumnCalibration(3.0, 200, fitted_on={"split": "val", "half": None}))
    whole.save(weights / "calibration.json")
    try:
        hot, folder = catalogue(place, *ask, "evaluate.calibration=temperature", "run_id=hot")
    finally:
        (weights / "calibration.json").unlink()
    rows = [p is not None for p in plain["mag_pstotal_r_posterior"]]
    p, q = (np.stack(found["mag_pstotal_r_posterior"][rows]) for found in (plain, hot))
    assert q == pytest.approx(temper(p, 3.0), abs=1e-6) and not np.allclose(p, q)
    assert "calibration" in json.loads((folder / "run.json").read_text())["inputs"]


def test_a_fraction_of_the_objects_is_the_same_whatever_else_is_chosen(place: Workplace):
    ask = ("evaluate.predict=[mag_pstotal_r]", "evaluate.fraction=0.3")
    some, _ = catalogue(place, *ask, "run_id=some")
    held_out, _ = catalogue(place, *ask, "evaluate.splits=[val,test]", "run_id=some_held_out")
    n = sum(len(field) for field in TokenStore(place.store))
    assert 0.15 * n < len(some["id"]) < 0.45 * n
    assert held_out["id"].tolist() == [
        i for i, split in zip(some["id"], some["split"], strict=True) if split != "train"
    ]


# ------------------------------------------------------------------------------- the objective of a sweep


def test_a_sweep_of_losses_is_compared_by_the_judged_answer_to_a_question(place: Workplace, tmp_path: Path, capsys):
    """What train_lm.py returns is what evaluate.py finds for the same weights on the same objects."""
    place = Workplace(shutil.copytree(place.folder, tmp_path / "place"))  # whose newest run stays the newest
    ask = ("evaluate.predict=[mag_pstotal_r,mag_pstotal_g]", "evaluate.given=[spectrum]")
    outcome = launch_stage(
        "train_lm",
        "-m",
        *SURVEY,
        *MODEL,
        "sequence=random",
        "objective=prediction",
        *ask,
        "training.monitor=val/question",
        "sequence.redraw=1",
        "loss.weight_scalar=0.1,3",
        "run_id=asked",
        cwd=place.folder,
    )
    assert outcome.returncode == 0, outcome.stderr
    jobs = sorted((place.folder / "runs/train_lm/sweeps/asked").glob("*/summary.json"))
    assert len(jobs) == 2
    scores = [json.loads(path.read_text())["prediction"]["score"] for path in jobs]
    assert len(set(scores)) == 2
    for path, score in zip(
        jobs, scores, strict=True
    ):  # of the best weights, by the very question; from bins, not levels
        lines = map(json.loads, (path.parent / "metrics.jsonl").read_text().splitlines())
        asked = [line["val/question"] for line in lines if "val/question" in line]
        assert min(asked) == pytest.approx(score, rel=0.3)
    rows = [line.split()[:3] for line in outcome.stdout.split("prediction/score", 1)[1].splitlines()[1:3]]
    assert rows == [[str(job), "done", f"{score:.4f}"] for job, score in enumerate(scores)]
    ranked = launch_report(place.folder / "runs/train_lm/sweeps/asked", capsys)
    assert "prediction/score" in ranked and f"{min(scores):.4g}"[:5] in ranked
    assert not list((place.folder / "runs/train_lm/sweeps/asked").glob("*/calibration.json"))
    again = launch_stage(
        "evaluate",
        *SURVEY,
        *ask,
        "evaluate.splits=[val]",
        "evaluate.judge.baselines=[marginal]",
        f"evaluate.run={jobs[1].parent}",
        "run_id=again",
        cwd=place.folder,
    )
    assert again.returncode == 0, again.stderr
    found = json.loads((place.folder / "runs/evaluate/default/again/summary.json").read_text())
    assert found["prediction/score"] == pytest.approx(scores[1], rel=1e-9)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.predict=[mag_pstotal_rr]"], "did you mean mag_pstotal_r"),
        (["evaluate.predict=[image]"], "a scalar column among what is asked"),
        (["evaluate.splits=[test]"], "no evaluate.splits with objective=prediction"),
        (["evaluate.calibration=conformal"], "new weights have none"),
        (["sequence=default", "evaluate.given=[spectrum]"], "sequence=random"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_the_training(place: Workplace, overrides, message):
    outcome = launch_stage(
        "train_lm",
        *SURVEY,
        *MODEL,
        "sequence=random",
        "objective=prediction",
        *overrides,
        "run_id=refused",
        cwd=place.folder,
    )
    assert message in outcome.error()
    folder = place.folder / "runs/train_lm/default/refused"
    assert not list(folder.glob("**/*.pt"))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_sweep_over_what_is_given_becomes_the_any_to_any_matrix(place: Workplace, tmp_path, capsys, monkeypatch):
    outcome = launch_stage(
        "evaluate",
        "-m",
        *SURVEY,
        "evaluate.given=[scalar],[spectrum],[image]",
        "evaluate.splits=[val,test]",
        "evaluate.predict=[mag_pstotal_r,mag_pstotal_g]",
        "evaluate.judge.baselines=[marginal]",
        "run_id=matrix",
        cwd=place.folder,
    )
    assert outcome.returncode == 0, outcome.stderr
    sweep = place.folder / "runs/evaluate/sweeps/matrix"
    judged = sorted(sweep.glob("*/judgement/evaluation.json"))
    assert len(judged) == 3
    scores = [json.loads(path.read_text())["score"]["value"] for path in judged]
    assert len({*scores}) == 3 and all(f"{score:.4f}" in outcome.stdout + outcome.stderr for score in scores)
    times = [path.stat().st_mtime_ns for path in judged]
    monkeypatch.chdir(place.folder)
    astromodal_main(["judge", str(sweep), "--out", str(tmp_path / "matrix")])
    assert [path.stat().st_mtime_ns for path in judged] == times  # not judged again
    table = pq.read_table(tmp_path / "matrix" / "any_to_any_crps_skill.parquet").to_pylist()
    assert len(table) == 6 and {row["asked"] for row in table} == {"mag_pstotal_r", "mag_pstotal_g"}
    assert {row["given"] for row in table} == {"scalar", "spectrum", "image"}  # as asked, the same for every column
    means = {
        given: np.mean([1 - row["crps_skill"] for row in table if row["given"] == given])
        for given in dict.fromkeys(row["given"] for row in table)
    }
    assert sorted(means.values()) == pytest.approx(sorted(scores), rel=1e-6)
    assert (tmp_path / "matrix" / "any_to_any_crps_skill.png").is_file()
    assert "crps_skill of each quantity" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["evaluate.predict=[mag_pstotal_rr]"],
            "mag_pstotal_rr .evaluate.predict.; to repair: did you mean mag_pstotal_r",
        ),
        (["evaluate.given=[desi_bb]"], "did you mean desi_b"),
        (["evaluate.quantiles=[0.5,1.5]"], "quantiles between 0 and 1"),
        (["evaluate.splits=[vall]"], "did you mean val"),
        (["evaluate.top_p=1.5"], "evaluate.top_p"),
        (["evaluate.judge.baselines=[boost]"], "did you mean boosting"),
        (["evaluate.judge.n_resample=3"], "did you mean evaluate.judge.n_resamples"),
        (["evaluate.calibration=on"], "conformal"),
        (["evaluate.fraction=0"], "0 < evaluate.fraction"),
        (["evaluate.temperature=0"], "evaluate.temperature"),
        (["evaluate.run=nowhere"], "nowhere"),
        (["evaluate.run=runs"], "weights"),
        (["model.d_model=8"], "keys that evaluate.py reads"),
        (["evaluate.run=FIXED"], "sequence=random"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_leaves_no_catalogue(place: Workplace, overrides, message):
    overrides = [o.replace("FIXED", str(fixed_run(place))) for o in overrides]
    assert re.search(message, evaluate(place, *overrides, "run_id=bad").error())
    assert not (place.folder / "runs/evaluate/default/bad/catalogue.parquet").exists()
    shutil.rmtree(place.folder / "runs/evaluate/default/bad", ignore_errors=True)


def test_missing_and_other_tokenizers_are_refused_with_both_fingerprints(place: Workplace, tmp_path: Path):
    other = Workplace(tmp_path / "place")
    shutil.copytree(place.folder, other.folder)
    expected = json.loads((other.folder / "runs/train_lm/default/random/run.json").read_text())["inputs"]
    again = launch_stage("train_tokenizers", *SURVEY, "tokenizer=scalar", "tokenizer.scalar.n_bins=8", cwd=other.folder)
    assert again.returncode == 0, again.stderr
    line = evaluate(other, "run_id=a").error()
    assert expected["scalar_tokenizer"] in line and "scalar tokenizer" in line and "train again" in line
    shutil.rmtree(other.store / "tokenizers" / "scalar_tokenizers")
    line = evaluate(other, "run_id=b").error()
    assert "scalar tokenizer" in line and "got none" in line and "paths.store" in line
    shutil.rmtree(other.store / "tokenizers")
    assert "run python train_tokenizers.py" in evaluate(other, "run_id=c").error()


def test_tokens_of_other_tokenizers_are_refused(place: Workplace, tmp_path: Path):
    """The run has its own store; tokens of another one, made with other tokenizers, mean something else."""
    folder = tmp_path / "place"
    shutil.copytree(place.folder, folder)
    shutil.copytree(place.store, folder / "elsewhere")
    manifest = folder / "elsewhere" / "tokens" / "manifest.json"
    text = manifest.read_text()
    fingerprint = json.loads(text)["entries"]["SYN-0001"]["inputs"]["image_tokenizer"]
    changed = json.loads(text.replace(fingerprint, "0" * 32))
    manifest.write_text(json.dumps({key: value for key, value in changed.items() if key != "checksum"}))
    elsewhere = (f"paths.store={folder / 'elsewhere'}", "run_id=a")
    assert "on the tokens of" in evaluate(Workplace(folder), *elsewhere).error()  # no run is on those
    line = evaluate(Workplace(folder), *elsewhere, "evaluate.run=runs/train_lm/default/random", "run_id=b").error()
    assert fingerprint in line and "0" * 32 in line


def test_weights_alone_are_enough_where_the_tokenizers_fit(place: Workplace, tmp_path: Path):
    weights = tmp_path / "mine.pt"
    shutil.copy(place.folder / "runs/train_lm/default/random/best_model.pt", weights)
    asked = ("evaluate.predict=[mag_pstotal_r]", "evaluate.splits=[test]")
    alone, folder = catalogue(place, *asked, f"evaluate.run={weights}", "run_id=weights_alone")
    assert "cannot be checked" in (folder / "evaluate.log").read_text()
    known, _ = catalogue(place, *asked, "run_id=known")
    np.testing.assert_array_equal(alone["mag_pstotal_r_mean"], known["mag_pstotal_r_mean"])
    state = load_torch(weights)
    save_torch(weights, {"model_state_dict": state["model_state_dict"]})
    assert "without its configuration" in evaluate(place, *asked, f"evaluate.run={weights}", "run_id=x").error()
    state["config"]["vocab_spec"]["n_bins"][0] -= 1
    save_torch(weights, state)
    assert "another vocabulary" in evaluate(place, *asked, f"evaluate.run={weights}", "run_id=y").error()


def test_the_script_runs(place: Workplace, script):
    result = script(
        "evaluate",
        *SURVEY,
        "evaluate.predict=[mag_pstotal_r]",
        "evaluate.judge.baselines=[marginal]",
        "run_id=script",
        cwd=place.folder,
    )
    assert result.returncode == 0, result.stderr
    assert "done in" in result.stderr and "next: " in result.stderr
    assert "evaluate" not in EXTRA
