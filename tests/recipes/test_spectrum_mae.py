"""``experiment=spectrum_mae``: made-up and real spectra, figures against oracles, the files of a run."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from astromodal import stages
from astromodal.config.launching.register import conf_dir, register
from astromodal.errors import ConfigError, DataError
from astromodal.recipes.chemomae.experiment import best_weights
from astromodal.recipes.chemomae.measures import filled_by_lines, principal_components, probe_labels, ridge_r2
from astromodal.recipes.chemomae.models import ChemoMAE
from astromodal.recipes.chemomae.nir import normalised, read_spectra_set, split_rows, synthetic_spectra

SMALL = (
    "recipe.d_model=16",
    "recipe.n_layers=2",
    "recipe.n_heads=2",
    "recipe.patch_size=35",
    "recipe.epochs=4",
    "recipe.n_synthetic=120",
    "recipe.warmup_epochs=1",
    "recipe.batch_size=16",
)


def run(*overrides: str, run_id: str = "r1"):
    """The stage in this process, in the working directory; returns the run's folder."""
    register()
    given = [
        "experiment=spectrum_mae",
        "hardware=cpu",
        "hardware.n_threads=1",
        "tracking=off",
        f"run_id={run_id}",
        f"run_dir=runs/{run_id}",
        "tokenizer_id=default",
        *SMALL,
        *overrides,
    ]
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        stages.train_tokenizers(compose("train_tokenizers", given))


def test_the_experiment_runs_on_made_up_spectra_and_goes_on_where_it_was_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    monkeypatch.setattr("astromodal.runs.tracking.Tracker.summary", lambda self, values: found.update(values))
    run("recipe.epochs=2")
    assert found["n_test"] == 24 and found["epochs"] == 2
    assert found["fraction_of_variance"] == pytest.approx(found["masked_mse"] / found["masked_mse_of_mean"])
    assert {"r2_water", "pca_r2_water", "masked_mse_of_lines"} <= found.keys()

    run("recipe.epochs=4", "recipe.resume_from=runs/r1", run_id="r2")
    old, folder = tmp_path / "runs/r1", tmp_path / "runs/r2"
    files = (
        "training_history.json",
        "best_model.pt",
        "checkpoints/last.pt",
        "metrics.jsonl",
        "plots/learning.png",
        "plots/examples.png",
    )
    assert [name for name in files if not (folder / name).stat().st_size] == []
    history = json.loads((folder / "training_history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3, 4] and found["epochs"] == 4
    assert history[:2] == json.loads((old / "training_history.json").read_text())
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    model = ChemoMAE.load(folder / "best_model.pt")
    assert (model.seq_len, model.n_blocks, model.n_mask, model.encoder.patch_size) == (700, 20, 15, 35)


def test_a_resumed_run_without_a_better_epoch_keeps_the_best_of_before(tmp_path):
    (tmp_path / "old/checkpoints").mkdir(parents=True)
    (tmp_path / "new").mkdir()
    (tmp_path / "old/best_model.pt").write_bytes(b"weights")
    for place in ("old", "old/checkpoints/last.pt"):
        assert best_weights(tmp_path / "new", str(tmp_path / place)).read_bytes() == b"weights"


def write(path, x, **columns):
    arrays = {name: pa.array(values) for name, values in columns.items()}
    pq.write_table(pa.table({"spectrum": pa.array(x, pa.list_(pa.float32()))} | arrays), path)


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    good = np.arange(12.0).reshape(3, 4).tolist()
    write(
        tmp_path / "a.parquet",
        [good[0], None, good[1], [1.0], [1.0, float("nan"), 2.0, 3.0]],
        label=[1.0, 2.0, None, 4.0, 5.0],
        train=[1, 1, 0, 1, 1],
        name=list("abcde"),
    )
    write(tmp_path / "b.parquet", [good[2]], label=[7], train=[1])
    found = read_spectra_set(tmp_path / "*.parquet")
    assert found.x.tolist() == good and found.counts == {"null": 1, "other_length": 1, "not_finite": 1}
    assert np.array_equal(found.labels["label"], [1.0, np.nan, 7.0], equal_nan=True) and set(found.labels) == {"label"}
    assert found.train.tolist() == [True, False, True]


def test_wrong_files_are_explained(tmp_path):
    write(tmp_path / "a.parquet", [[1.0, 2.0]], label=[1.0])
    (tmp_path / "text.parquet").write_text("no Parquet")
    write(tmp_path / "empty.parquet", [None], label=[1.0])
    for name, column, text in (
        ("nothing.parquet", "spectrum", "a Parquet file of spectra, got nothing"),
        ("a.parquet", "flux", "a list column flux, got spectrum"),
        ("a.parquet", "label", "a list column label"),
        ("text.parquet", "spectrum", "a Parquet file, got"),
        ("empty.parquet", "spectrum", "at least one spectrum, got none in 1 rows"),
    ):
        with pytest.raises(DataError, match=text):
            read_spectra_set(tmp_path / name, column)
    with pytest.raises(DataError, match="spectra for training, validation and test"):
        split_rows(read_spectra_set(tmp_path / "a.parquet"), 0, {"val": 0.1, "test": 0.1})


def test_splits_follow_the_file_or_the_seed():
    spectra = synthetic_spectra(100)
    rows = split_rows(spectra, 1, {"val": 0.15, "test": 0.2})
    assert sorted(np.concatenate(list(rows.values()))) == list(range(100))
    assert {name: len(part) for name, part in rows.items()} == {"train": 65, "val": 15, "test": 20}
    assert any((rows[k] != split_rows(spectra, 2, {"val": 0.15, "test": 0.2})[k]).any() for k in rows)
    said = np.arange(100) % 3 > 0
    rows = split_rows(type(spectra)(spectra.x, {}, said, {}), 1, {"val": 0.15, "test": 0.2})
    assert np.array_equal(rows["test"], np.flatnonzero(~said)) and said[rows["val"]].all() and len(rows["val"]) == 15


def test_made_up_spectra_are_seeded_and_hold_their_constituents():
    a, b = synthetic_spectra(300, seed=1), synthetic_spectra(300, seed=1)
    assert np.array_equal(a.x, b.x) and not np.array_equal(a.x, synthetic_spectra(300, seed=2).x)
    assert (a.x > 0).all() and (a.x < 6).all()
    rows = split_rows(a, 0, {"val": 0.15, "test": 0.2})
    scores = principal_components(normalised(a.x, "snv"), rows["train"], 12)
    for name in ("water", "organic", "clay"):  # a linear model can read them off, so they are in there
        assert ridge_r2(scores, a.labels[name], rows) > 0.5, name
    with pytest.raises(ConfigError, match="one spectrum or more, got 0"):
        synthetic_spectra(0)


def test_normalisation():
    x = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1e-17, 3e-17, 5e-17]], dtype=np.float32)
    found = normalised(x, "snv")
    assert np.allclose(found[[0, 2]].mean(1), 0, atol=1e-6) and np.allclose(found[[0, 2]].std(1), 1, rtol=1e-5)
    assert (found[1] == 0).all() and normalised(x, "none") is x
    with pytest.raises(ConfigError, match="a normalisation of snv, none, got max"):
        normalised(x, "max")


def test_baselines_against_simple_cases():
    x = np.array([[0.0, 1.0, 2.0, 3.0, 9.0]], dtype=np.float32)
    visible = np.array([[False, True, False, True, False]])
    assert filled_by_lines(x, visible).tolist() == [[1.0, 1.0, 2.0, 3.0, 3.0]]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 3))
    rows = {"train": np.arange(50), "val": np.arange(50, 65), "test": np.arange(65, 90)}
    label = features @ [1.0, -2.0, 0.5] + 4.0
    label[::7] = np.nan
    assert ridge_r2(features, label, rows) > 0.999
    assert ridge_r2(features, rng.normal(size=90), rows) < 0.3
    few = np.full(90, np.nan)
    few[:20] = 1.0
    found = probe_labels({"good": label, "few": few, "constant": np.ones(90)}, rows, features, features)
    assert set(found) == {"r2_good", "pca_r2_good"} and found["pca_r2_good"] > 0.999


REAL = {
    "nir/nirsoil.parquet": ("spectrum", (825, 700)),
    "nir/milk.parquet": ("spectrum", (450, 601)),
    "splus/datacube_GAIAXP.parquet": ("gaiaxp_flux", (2815, 343)),
}


def test_real_spectra_are_read(realdata):
    for name, (column, shape) in REAL.items():
        if (realdata / name).is_file():
            found = read_spectra_set(realdata / name, column)
            assert found.x.shape == shape and np.allclose(normalised(found.x, "snv").std(1), 1, rtol=1e-3), name


def test_real_spectra_are_trained_on(realdata, tmp_path, monkeypatch):
    if not (realdata / "nir/nirsoil.parquet").is_file():
        pytest.skip("no nir/nirsoil.parquet")
    monkeypatch.chdir(tmp_path)
    run(f"recipe.path={realdata / 'nir/nirsoil.parquet'}", "recipe.epochs=1", "recipe.batch_size=256")
    assert ChemoMAE.load(tmp_path / "runs/r1/best_model.pt").seq_len == 700
