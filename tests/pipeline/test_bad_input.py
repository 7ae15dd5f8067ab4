"""Bad input, end to end: one clear line, exit code 1, and every artifact that stood before stands as it was."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.warm_start import WarmProcess

from .conftest import EXTRA, TOKENIZERS, Outcome, Workplace, contents, launch_stage

REPO = Path(__file__).resolve().parents[2]
BASE = ("data.synthetic=null", "tracking=off", "hardware=cpu", "hardware.n_threads=1")  # the cubes as they are


def run(place: Workplace, stage: str, *overrides: str) -> Outcome:
    """A stage on the cubes as they lie there."""
    alone = next((o.removeprefix("tokenizer=") for o in overrides if o.startswith("tokenizer=")), "")
    extra = [o for o in EXTRA[stage] if o.startswith(f"tokenizer.{alone}")]
    return launch_stage(stage, *BASE, *(extra if alone else EXTRA[stage]), *overrides, cwd=place.folder)


def refused(place: Workplace, stage: str, *overrides: str) -> str:
    """The error line of a stage that has to fail, with everything in the store untouched."""
    before = contents(place.store)
    line = run(place, stage, *overrides).error()
    assert contents(place.store) == before
    runs = place.runs(stage)
    if runs:
        record = json.loads((runs[-1] / "run.json").read_text())
        assert record["status"] == "FAILED" and record["error"]["traceback"]
    return line


def rewrite(place: Workplace, change, field: str = "SYN-0001") -> Path:
    """Write a cube again after ``change(table)``."""
    path = place.cubes / f"datacube_{field}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    return path


def replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def each_list(table: pa.Table, name: str, change) -> pa.Table:
    rows = [None if row is None else change(np.asarray(row, np.float32)) for row in table.column(name).to_pylist()]
    return replaced(table, name, pa.array(rows, pa.list_(pa.float32())))


# ------------------------------------------------------------------------------------------- the cubes


@pytest.mark.parametrize("stage", ["train_tokenizers", "encode"])
def test_a_missing_folder(workplace: Workplace, stage: str):
    line = refused(workplace, stage, "data.root=/nowhere/cubes", "data.images.zero_point_file=null")
    assert "expected a folder with datacubes, got no such folder (/nowhere/cubes)" in line
    assert "set data.root=" in line


@pytest.mark.parametrize("stage", ["train_tokenizers", "encode"])
def test_an_empty_folder(workplace: Workplace, stage: str):
    empty = workplace.folder / "empty"
    empty.mkdir()
    line = refused(workplace, stage, "data.root=empty")
    assert "expected files datacube_{field}.parquet, got none (empty)" in line and "data.root" in line


@pytest.mark.parametrize("stage", ["train_tokenizers", "encode"])
def test_a_missing_column(workplace: Workplace, stage: str):
    path = rewrite(
        workplace,
        lambda table: table.rename_columns(["specz_zz" if name == "specz_z" else name for name in table.column_names]),
    )
    line = refused(workplace, stage)
    assert "expected column specz_z, got no such column; the nearest is specz_zz" in line
    assert path.name in line and "to repair" in line


WRONG = (
    ("train_tokenizers", "paths.datacube_template='nowhere/datacube_{field}.parquet'"),
    ("train_tokenizers", "data.fields=[SYN-9999]"),
    ("encode", "paths.datacube_template='nowhere/datacube_{field}.parquet'"),
    ("encode", "data.splits.method=sky", "data.ra_column=null", "data.dec_column=null"),
    ("train_lm", "data.fields=[SYN-9999]"),
    ("train_lm", "sequence.modalities=[scalar,imag]"),
    ("evaluate", "evaluate.run={run}", "evaluate.predict=[nothing]"),
    ("evaluate", "evaluate.run={run}", "data.fields=[SYN-9999]"),
    ("evaluate", "evaluate.run={run}", "evaluate.input=datacubes", "paths.datacube_template='no/{field}.parquet'"),
)


def test_a_command_that_fails_has_changed_nothing(workplace: Workplace, pipeline: Workplace):
    """Neither the store, nor the cubes, nor the run that it was about to read."""
    source = pipeline.runs("train_lm")[0]
    model = workplace.folder / "model"
    shutil.copytree(source, model)
    before = contents(workplace.folder / "artifacts") | contents(model)
    for stage, *overrides in WRONG:
        wrong = [o.replace("{run}", str(model)) for o in overrides]
        outcome = launch_stage(stage, *BASE, *EXTRA.get(stage, ()), *wrong, cwd=workplace.folder)
        assert "expected" in outcome.error(), (stage, overrides)
        assert contents(workplace.folder / "artifacts") | contents(model) == before, (stage, overrides)


def test_a_fit_that_fails_leaves_every_tokenizer_as_it_was(workplace: Workplace, monkeypatch: pytest.MonkeyPatch):
    from astromodal.errors import DataError
    from astromodal.tokenizers import SpectrumTokenizer

    def fails(*_):
        raise DataError("a spectrum", got="none")

    monkeypatch.setattr(SpectrumTokenizer, "fit", fails)
    assert "expected a spectrum" in refused(workplace, "train_tokenizers", "tokenizer.scalar.n_bins=12")


def test_an_encoding_of_another_survey_that_fails_leaves_the_tokens_of_this_one(workplace: Workplace):
    other = workplace.folder / "other"
    other.mkdir()
    table = pq.read_table(workplace.cubes / "datacube_SYN-0001.parquet")
    table = replaced(table, "id", pa.array([f"other-{i}" for i in range(len(table))]))
    path = other / "datacube_NEW.parquet"
    pq.write_table(table, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes(3000) + whole[4000:])  # the footer stays: the damage shows while reading
    shutil.copy(workplace.cubes / "zero_points.csv", other)
    template = "paths.datacube_template='other/datacube_{field}.parquet'"
    refused(workplace, "encode", template)
    assert run(workplace, "train_lm", "training.max_steps=1").returncode == 0


def test_a_column_of_another_type(workplace: Workplace):
    rewrite(workplace, lambda t: replaced(t, "specz_z", pa.array(["much"] * len(t))))
    assert "expected a number in column specz_z, got type string" in refused(workplace, "train_tokenizers")


def test_cutouts_of_a_wrong_length(workplace: Workplace):
    line = refused(workplace, "train_tokenizers", "data.images.size=64", "tokenizer=image")
    assert "64 x 64 = 4096" in line and "9216" in line and "data.images.size" in line


def test_a_cutout_of_a_wrong_length_among_good_ones_is_left_out_and_said(pipeline: Workplace):
    said = (pipeline.runs("encode")[0] / "encode.log").read_text()
    assert "WARNING field SYN-0001: damaged values were skipped: image " in said
    assert "1 of a wrong length" in said


def test_coefficients_of_a_wrong_length(workplace: Workplace):
    line = refused(
        workplace,
        "train_tokenizers",
        "data.spectra.gaiaxp_bp.n_coefficients=54",
        "tokenizer=spectrum",
        "tokenizer.spectrum.groups=[gaiaxp_bp]",
    )
    assert "spectra whose length is not 54" in line and "gaiaxp_bp_coefficients" in line and "data.spectra" in line


def test_nan_and_infinite_pixels_are_masked_and_reach_no_artifact(workplace: Workplace):
    def spoil(row):
        row[::7], row[1::7], row[2::11] = np.nan, np.inf, -np.inf
        return row

    def spoil_table(table):
        for name in ("splus_cut_R", "splus_cut_F660", "desi_flux_b", "desi_ivar_b", "gaiaxp_bp_coefficients"):
            table = each_list(table, name, spoil)
        magnitudes = table.column("mag_pstotal_r").to_numpy().copy()
        magnitudes[::3] = [np.nan, np.inf, -np.inf, 1e30] * 5
        return replaced(table, "mag_pstotal_r", pa.array(magnitudes, pa.float32()))

    rewrite(workplace, spoil_table)
    rewrite(workplace, spoil_table, "SYN-0002")
    for stage in ("train_tokenizers", "encode", "train_lm"):
        outcome = run(workplace, stage)
        assert outcome.returncode == 0, outcome.stderr
        assert "Warning" not in outcome.stderr
    for path in workplace.store.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as members:
            for name in members.files:
                values = members[name]
                if name.startswith("coefficient_signal"):  # inf: nothing is shrunk
                    assert (values > 0).all(), name
                elif values.dtype.kind == "f" and "values" not in name and "errors" not in name:  # NaN: not observed
                    assert np.isfinite(values).all() or path.name == "scalar_tokenizer_config.npz", (path.name, name)
    summary = json.loads((workplace.runs("train_lm")[0] / "summary.json").read_text())
    for name in ("score", "error_image", "error_scalar", "error_spectrum", "ce"):
        assert np.isfinite(summary["model"][name]), name


@pytest.mark.parametrize("stage", ["train_tokenizers", "encode"])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_truncated_parquet_file(workplace: Workplace, stage: str, share: float):
    path = workplace.cubes / "datacube_SYN-0002.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    line = refused(workplace, stage)
    assert "expected a complete Parquet file" in line and path.name in line and "it may be cut off" in line


def test_an_empty_file(workplace: Workplace):
    (workplace.cubes / "datacube_SYN-0002.parquet").write_bytes(b"")
    assert "expected a complete Parquet file" in refused(workplace, "encode")


def test_a_modality_that_is_null_everywhere_is_absent_and_the_rest_goes_on(workplace: Workplace):
    def no_images(table):
        for name in table.column_names:
            if name.startswith("splus_cut_"):
                table = replaced(table, name, pa.nulls(len(table), table.schema.field(name).type))
        return table

    for field in ("SYN-0001", "SYN-0002"):
        rewrite(workplace, no_images, field)
    line = refused(workplace, "train_tokenizers", "tokenizer=image")
    assert "cutout" in line and "got none" in line and "tokenizer=" in line
    for folder in ("tokenizers", "tokens", "sequences"):
        shutil.rmtree(workplace.store / folder)
    for name in ("scalar", "spectrum"):
        mine = [o for o in TOKENIZERS if o.startswith(f"tokenizer.{name}.")]
        outcome = launch_stage("train_tokenizers", *BASE, f"tokenizer={name}", *mine, cwd=workplace.folder)
        assert outcome.returncode == 0, outcome.stderr
    assert run(workplace, "encode").returncode == 0
    assert "set sequence.modalities=[scalar,spectrum]" in run(workplace, "train_lm").error()
    outcome = run(workplace, "train_lm", "training.max_steps=2", "sequence.modalities=[scalar,spectrum]")
    assert outcome.returncode == 0, outcome.stderr
    assert not (workplace.store / "tokens" / "image_tokens").exists()


def test_duplicate_ids(workplace: Workplace):
    other = pq.read_table(workplace.cubes / "datacube_SYN-0002.parquet").column("id")[3].as_py()

    def same(table):
        ids = table.column("id").to_pylist()
        ids[7] = other
        return replaced(table, "id", pa.array(ids))

    path = rewrite(workplace, same)
    for stage in ("train_tokenizers", "encode"):
        line = refused(workplace, stage)
        assert f"expected ids that are unique over all datacubes, got {other} twice" in line
        assert f"{path.name}, row 7" in line and "datacube_SYN-0002.parquet, row 3" in line


def test_a_cube_that_changed_after_the_fit(workplace: Workplace):
    def brighter(table):
        return replaced(table, "mag_pstotal_r", pa.compute.subtract(table.column("mag_pstotal_r"), 1.0))

    path = rewrite(workplace, brighter)
    line = refused(workplace, "encode")
    assert "expected the cube that the scalar tokenizer was fitted on (fingerprint " in line
    assert "got one that changed since (fingerprint " in line
    assert path.name in line and "run python train_tokenizers.py" in line


def test_other_bands_and_columns_than_fitted_are_refused(workplace: Workplace):
    for override in ("~data.images.bands.u", "~data.scalars.specz_z", "data.images.pixel_scale=0.4"):
        line = refused(workplace, "encode", override)
        assert override.split("=")[0].split(".")[-1].lstrip("~") in line or "bands" in line
        assert "run python train_tokenizers.py" in line


def test_a_key_below_a_section_that_is_off_is_one_line(workplace: Workplace):
    for overrides in (("tokenizer=image", "tokenizer.scalar.n_bins=16"), ("data.synthetic.n_fields=2",)):
        outcome = launch_stage("train_tokenizers", *BASE, *overrides, cwd=workplace.folder)
        assert f"{overrides[-1].split('=')[0]} below one that is null" in outcome.error()


# ----------------------------------------------------------------------------------- the artifacts


def test_encoding_before_fitting_names_the_command(tmp_path: Path):
    small = ("data.synthetic.n_fields=1", "data.synthetic.n_objects_per_field=10", "tracking=off", "hardware=cpu")
    line = launch_stage("encode", *small, "hardware.n_threads=1", cwd=tmp_path).error()
    assert "expected fitted tokenizers, got none" in line and "run python train_tokenizers.py" in line
    assert not (tmp_path / "artifacts" / "synthetic" / "default").exists()


def test_training_before_fitting_or_encoding_names_the_command(workplace: Workplace):
    shutil.rmtree(workplace.store / "sequences")
    shutil.rmtree(workplace.store / "tokens")
    line = refused(workplace, "train_lm")
    assert "expected token files, got none" in line and "run python encode.py" in line
    shutil.rmtree(workplace.store / "tokenizers")
    line = refused(workplace, "train_lm")
    assert "expected fitted tokenizers, got none" in line and "run python train_tokenizers.py" in line


def test_tokens_made_with_other_codebooks(workplace: Workplace):
    outcome = launch_stage(
        "train_tokenizers", *BASE, "tokenizer=scalar", "tokenizer.scalar.n_bins=12", cwd=workplace.folder
    )
    assert outcome.returncode == 0, outcome.stderr
    line = refused(workplace, "train_lm")
    assert "expected tokens made with the scalar tokenizer " in line and "got tokens made with " in line
    assert "run python encode.py" in line
    for stage in ("encode", "train_lm"):  # the repair that it names
        outcome = run(workplace, stage, *(("training.max_steps=1",) if stage == "train_lm" else ()))
        assert outcome.returncode == 0, outcome.stderr


def test_a_damaged_token_file(workplace: Workplace):
    path = workplace.store / "tokens" / "image_tokens" / "datacube_SYN-0001_tokens.npz"
    path.write_bytes(path.read_bytes()[:-100])
    shutil.rmtree(workplace.store / "sequences")
    line = refused(workplace, "train_lm")
    assert path.name in line and "run python encode.py" in line and "encode.overwrite=true" in line


def test_a_flipped_bit_is_found_and_the_repair_that_is_named_repairs(workplace: Workplace):
    path = workplace.store / "tokens" / "splits" / "datacube_SYN-0001_splits.npz"
    before, content = contents(workplace.store), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    shutil.rmtree(workplace.store / "sequences")
    line = refused(workplace, "train_lm")
    assert path.name in line and "to repair: run python encode.py, which encodes this field again" in line
    outcome = run(workplace, "encode")
    assert outcome.returncode == 0 and "field SYN-0001 is encoded again" in outcome.stderr, outcome.stderr
    assert run(workplace, "train_lm", "training.max_steps=1").returncode == 0
    after = contents(workplace.store)
    assert {k for k in before if after[k] != before[k]} <= {"tokens/manifest.json"} | {
        k for k in before if k.startswith("sequences/") and k.endswith("manifest.json")
    }


def test_a_damaged_tokenizer(workplace: Workplace):
    path = workplace.store / "tokenizers" / "spectrum_tokenizers" / "spectrum_kmeans_desi_b.joblib"
    path.write_bytes(path.read_bytes()[:-100])
    for stage in ("encode", "train_lm"):
        line = refused(workplace, stage)
        assert path.name in line and "train_tokenizers.py" in line


def test_a_sequence_that_does_not_fit_the_model(workplace: Workplace):
    line = refused(workplace, "train_lm", "model.max_len=500")
    assert "model.max_len" in line and "500" in line


def test_a_run_id_that_was_used(workplace: Workplace):
    assert run(workplace, "encode", "run_id=mine").returncode == 0
    before = contents(workplace.folder / "runs" / "encode" / "default" / "mine")
    line = run(workplace, "encode", "run_id=mine").error()
    assert "expected a run directory of its own, got one of run mine (DONE)" in line
    after = contents(workplace.folder / "runs" / "encode" / "default" / "mine")
    assert {k: v for k, v in after.items() if ".hydra" not in k} == {
        k: v for k, v in before.items() if ".hydra" not in k
    }


def test_a_missing_gpu(workplace: Workplace):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    line = refused(workplace, "train_lm", "hardware=gpu")
    assert "hardware" in line and "cpu" in line


# -------------------------------------------------------------------------------- disk full, interruption


class FullDisk:
    """``os.fsync`` that fails with ENOSPC at the n-th file below a folder."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at, self.n, self.real = folder, at, 0, os.fsync

    def __call__(self, handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if self.folder in path.parents and path.is_file():
            self.n += 1
            if self.n == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.real(handle)


@pytest.mark.parametrize("at", [1, 6])
def test_a_full_disk_while_encoding(workplace: Workplace, monkeypatch: pytest.MonkeyPatch, at: int):
    monkeypatch.setattr(os, "fsync", FullDisk(workplace.store / "tokens", at))
    before = contents(workplace.store)
    line = run(workplace, "encode", "encode.overwrite=true").error()
    assert "room on the disk" in line and "No space left on device" in line and "to repair: free space" in line
    monkeypatch.undo()
    assert sorted(contents(workplace.store)) == sorted(before)  # no half files, nothing gone
    assert run(workplace, "encode").returncode == 0
    assert contents(workplace.store / "tokens").keys() == {
        k.removeprefix("tokens/") for k in before if k.startswith("tokens/")
    }
    assert run(workplace, "train_lm", "training.max_steps=1").returncode == 0


@pytest.mark.parametrize("at", [1, 3])
def test_a_full_disk_while_saving_tokenizers(workplace: Workplace, monkeypatch: pytest.MonkeyPatch, at: int):
    monkeypatch.setattr(os, "fsync", FullDisk(workplace.store / "tokenizers" / "scalar_tokenizers", at))
    before = contents(workplace.store)
    outcome = launch_stage(
        "train_tokenizers", *BASE, "tokenizer=scalar", "tokenizer.scalar.n_bins=16", cwd=workplace.folder
    )
    assert "room on the disk" in outcome.error()
    monkeypatch.undo()
    assert sorted(contents(workplace.store)) == sorted(before)
    assert run(workplace, "encode").returncode == 0


def test_a_full_disk_while_training_keeps_the_earlier_checkpoint(workplace: Workplace, monkeypatch):
    runs = workplace.folder / "runs" / "train_lm" / "default" / "full"
    monkeypatch.setattr(os, "fsync", FullDisk(runs / "checkpoints", 3))
    settings = ("run_id=full", "training.save_every=1", "training.epochs=1")
    line = run(workplace, "train_lm", *settings).error()
    assert "room on the disk" in line and "checkpoints" in line
    assert json.loads((runs / "run.json").read_text())["status"] == "FAILED"
    monkeypatch.undo()
    assert not list(runs.rglob(".*.tmp*"))
    outcome = run(workplace, "train_lm", *settings, "resume=auto")
    assert outcome.returncode == 0, outcome.stderr
    assert "resuming at step" in outcome.stderr
    shutil.rmtree(runs)


def test_a_full_disk_while_packing(workplace: Workplace, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(workplace.store / "sequences")
    monkeypatch.setattr(os, "fsync", FullDisk(workplace.store / "sequences", 2))
    before = contents(workplace.store)
    assert "room on the disk" in run(workplace, "train_lm").error()
    monkeypatch.undo()
    left = {k: v for k, v in contents(workplace.store).items() if not k.startswith("sequences/")}
    assert left == before
    assert run(workplace, "train_lm", "training.max_steps=1").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_encoding_is_repeated(workplace: Workplace, number: int):
    before = contents(workplace.store / "tokens")
    command = [REPO / "encode.py", *BASE, "encode.overwrite=true", "data.batch_rows=1"]
    process = WarmProcess(command, cwd=workplace.folder)
    deadline = time.monotonic() + 180
    while not list((workplace.store / "tokens").glob(".staging/*/*/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr, stderr
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert stderr.splitlines()[-1].startswith("error: interrupted; run the same command again")
        assert workplace.record("encode")["status"] == "INTERRUPTED"
    now = contents(workplace.store / "tokens")
    assert {k: v for k, v in now.items() if not k.startswith(".")} == before
    outcome = run(workplace, "encode", "encode.overwrite=true")
    assert outcome.returncode == 0, outcome.stderr
    assert run(workplace, "train_lm", "training.max_steps=1").returncode == 0


# --------------------------------------------------------------------------------------- hostile files


class Bomb:
    """Unpickling this makes a file, which must never happen."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def plant(path: Path, bomb: Bomb) -> None:
    if path.suffix == ".joblib":
        joblib.dump({"centers": bomb, "codebook": bomb}, path)
    elif path.suffix == ".npz":
        np.savez(path, ids=np.array([bomb], object), tokens=np.array([bomb], object), config=np.array(bomb, object))
    else:
        torch.save({"model": bomb, "model_state_dict": bomb}, path)


def trust(folder: Path) -> None:
    """Make the manifest vouch for the files as they are now, as an attacker would."""
    from astromodal.provenance.manifest import fingerprint_config, fingerprint_file

    manifest = json.loads((folder / "manifest.json").read_text())

    def visit(node):
        if isinstance(node, dict):
            for key, value in node.items():
                path = folder / key
                if isinstance(value, str) and len(value) == 32 and path.is_file():
                    node[key] = fingerprint_file(path)
                elif isinstance(value, int) and "sizes" not in node and path.is_file():
                    node[key] = path.stat().st_size
                else:
                    visit(value)

    visit(manifest)
    manifest.pop("checksum")
    if "fingerprint" in manifest:
        manifest["fingerprint"] = fingerprint_config({key: manifest.get(key) for key in ("kind", "files", "config")})
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    [
        "tokenizers/scalar_tokenizers/scalar_tokenizer_config.npz",
        "tokenizers/spectrum_tokenizers/spectrum_tokenizer_config.npz",
        "tokenizers/spectrum_tokenizers/spectrum_kmeans_desi_b.joblib",
        "tokenizers/codecs/autoencoder_splus_cuts.pt",
        "tokenizers/codecs/codebook_kmeans_16.joblib",
        "tokens/scalar_tokens/datacube_SYN-0001_scalar_tokens.npz",
        "tokens/image_tokens/datacube_SYN-0001_tokens.npz",
        "tokens/spectrum_tokens/datacube_SYN-0001_spectrum_tokens.npz",
        "sequences/*/train.npz",
    ],
)
def test_a_malicious_artifact_executes_nothing(workplace: Workplace, tmp_path: Path, name: str):
    (path,) = workplace.store.glob(name)
    if not name.startswith("sequences"):
        shutil.rmtree(workplace.store / "sequences")
    target = tmp_path / "executed"
    plant(path, Bomb(target))
    trust(next(p for p in path.parents if (p / "manifest.json").exists()))
    outcome = run(workplace, "train_lm", "training.max_steps=1")
    assert not target.exists()
    if outcome.returncode:
        assert "expected" in outcome.error()
    else:  # a packed file that is not the one written is packed again
        assert name.startswith("sequences")


def test_a_malicious_checkpoint_executes_nothing(workplace: Workplace, pipeline: Workplace, tmp_path: Path):
    target = tmp_path / "executed"
    (old,) = pipeline.runs("train_lm")
    shutil.copytree(old, folder := workplace.folder / "runs" / "train_lm" / "default" / old.name)
    for name in ("last.pt", "best.pt"):
        plant(folder / "checkpoints" / name, Bomb(target))
    (folder / "weights.pt").write_bytes(pickle.dumps(Bomb(target)))
    for override in (f"resume={folder}", f"resume={folder}/checkpoints/last.pt", f"init_from={folder}/weights.pt"):
        line = run(workplace, "train_lm", override).error()
        assert not target.exists()
        assert "expected" in line and folder.name in line
