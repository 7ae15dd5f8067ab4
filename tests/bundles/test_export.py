"""A bundle answers as its run does, anywhere; and one that is damaged, or made to harm, is refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from astromodal import load
from astromodal.__main__ import main
from astromodal.ask.recalibration import Calibration, ColumnCalibration
from astromodal.ask.trained import find_weights, load_trained
from astromodal.bundles.export import export
from astromodal.errors import ArtifactError, ArtifactMissingError, ConfigError
from astromodal.files import bundle_files
from astromodal.files.bundle_files import load_tensors, write_hashes

from .conftest import HARDWARE, PNG


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory) -> Path:
    fitted = Calibration(load(trained.run, **HARDWARE).trained.fingerprint)
    shifts = {"levels": (0.16, 0.5, 0.84), "shifts": (-0.5, 0.0, 0.5), "n_conformal": 60}
    given = load(trained.run, **HARDWARE)._predictor(_asking("specz_z"), 0, False).plan.questions[0].given
    fitted.add("specz_z", sorted(given), ColumnCalibration(**shifts))
    fitted.save(trained.run / "calibration.json")
    return export(trained.run, tmp_path_factory.mktemp("out") / "deep" / "bundle", license="cc-by-4.0", authors="A; B")


def _asking(name: str):
    from astromodal.config.schema import EvaluateConfig

    return EvaluateConfig(predict=[name])


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_a_bundle_elsewhere_answers_to_the_bit_as_its_run(trained, bundle, model, tmp_path, monkeypatch):
    moved = Path(shutil.copytree(bundle, tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    found = load(moved, **HARDWARE)
    for keywords in (
        {"predict": ["scalar", "desi_b"], "n_samples": 2},
        {"predict": "specz_z", "calibration": "conformal"},
    ):
        ours, theirs = (m.predict(trained.cube(), familiarity=False, **keywords) for m in (found, model))
        assert ours.equals(theirs)
    assert found.trained.fingerprint == model.trained.fingerprint  # of the run's weights
    about, of_run = found.explain(), model.explain()
    assert about["asks"] == of_run["asks"] and about["objects"] == of_run["objects"]
    assert "judged on" in str(about)


def test_what_is_familiar_comes_along_without_ids_and_values(trained, bundle, model):
    ours, theirs = (load(m, **HARDWARE).predict(trained.cube(), "specz_z") for m in (bundle, trained.run))
    kept = load(bundle, **HARDWARE).trained_on.store.open("validation")
    rank = 100 * 2 / len(kept)  # of objects that lie close to each other
    for name, near in (("surprise", 1e-3), ("surprise_percentile", rank + 1e-3)):
        np.testing.assert_allclose(ours[name].to_numpy(), theirs[name].to_numpy(), rtol=1e-3, atol=near)
    assert len(kept) == model.explain()["objects"]["val"] and kept.ids[0] == "0"
    assert np.isnan(kept.scalar["values"][:]).all()


def test_examples_are_asked_again_and_another_answer_is_refused(bundle, copy, caplog):
    with caplog.at_level(logging.INFO, "astromodal"):
        load(bundle, check=True, **HARDWARE)
    assert "4 example rows are answered as they were" in caplog.text
    from safetensors.torch import save_file

    weights = load_tensors(copy / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, copy / "model.safetensors")
    write_hashes(copy)
    load(copy, **HARDWARE)
    with pytest.raises(ArtifactError, match=r"of example 0 to be .*, got"):
        load(copy, check=True, **HARDWARE)


def test_the_card_has_what_hubs_and_people_read(bundle):
    text = (bundle / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    meta = yaml.safe_load(front)
    assert meta["library_name"] == "astromodal" and meta["license"] == "cc-by-4.0"
    judged = json.loads((bundle / "judgement" / "evaluation.json").read_text())["columns"]
    by_name = {
        r["task"]["name"]: {m["type"]: m["value"] for m in r["metrics"]} for r in meta["model-index"][0]["results"]
    }
    assert by_name["teff"]["mae"] == judged["teff"]["figures"]["mae"]["value"]
    plot = "![predicted](judgement/plots/predicted.png)"
    for part in (
        "## Use",
        "## Trained on",
        "## Limits",
        plot,
        "Not judged: desi",
        "UNFAMILIAR",
        "1e-17 erg/s/cm2/Angstrom",
        "astromodal.load(",
    ):
        assert part in body, part
    assert (bundle / "judgement/plots/predicted.png").read_bytes() == PNG
    cited = yaml.safe_load((bundle / "CITATION.cff").read_text())
    assert [a["name"] for a in cited["authors"]] == ["A", "B"] and cited["cff-version"] == "1.2.0"


def test_nothing_of_this_machine_is_in_a_bundle(bundle, trained):
    for path in (p for p in bundle.rglob("*") if p.is_file()):
        assert str(trained.folder).encode() not in path.read_bytes(), path
    assert json.loads((bundle / "config.json").read_text())["data"]["root"] == ""


def test_evaluate_and_init_from_take_a_bundle_as_they_take_a_run(bundle, trained, model, monkeypatch):
    from astromodal.training.checkpoints.checkpoint import load_weights

    found = load_trained(find_weights(str(bundle), "."), "nowhere", logging.getLogger())
    assert found.fingerprint == model.trained.fingerprint
    with torch.no_grad():
        for value in found.model.parameters():
            value.zero_()
    load_weights(found.model, bundle)
    own = model.trained.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in found.model.state_dict().items())


# ------------------------------------------------------------------------------- damage, and harm


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "examples.npz",
        "README.md",
        "tokenizers/scalar_tokenizers/scalar_tokenizer_config.npz",
    ],
)
def test_a_changed_byte_or_a_missing_file_is_refused(copy, name):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"SHA-256 .*{path.name}.*get the bundle again"):
        load(copy, **HARDWARE)
    path.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"{len(content)} bytes, got {len(content) - 1}"):
        load(copy, **HARDWARE)
    path.unlink()
    with pytest.raises(ArtifactMissingError, match=path.name if name != "model.safetensors" else "weights"):
        load(copy, **HARDWARE)


def test_a_file_that_nobody_named_is_not_read(copy):
    (copy / ".gitattributes").write_text("hubs add such files\n")
    load(copy, **HARDWARE)
    (copy / "calibration.json.bak").write_text("{}")
    with pytest.raises(ArtifactError, match=r"only files that the manifest names, got calibration.json.bak"):
        load(copy, **HARDWARE)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "a/../../b", "a\\..\\b", "C:x", "", "a//b", "./a"])
def test_names_do_not_leave_the_folder(copy, name):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": "0" * 64}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="names of files within the folder"):
        load(copy, **HARDWARE)


def test_the_manifest_of_a_part_does_not_leave_it_either(copy):
    path = copy / "tokenizers" / "scalar_tokenizers" / "manifest.json"
    content = json.loads(path.read_text())
    content["files"] = {"../../../../etc/passwd": "0"}
    path.write_text(json.dumps(content))
    write_hashes(copy)
    with pytest.raises(ArtifactError, match=r"names of files within the folder, got '../../../../etc/passwd'"):
        load(copy, **HARDWARE)


def test_a_link_that_leads_out_is_refused(copy, tmp_path):
    (tmp_path / "outside").write_bytes((copy / "examples.npz").read_bytes())
    (copy / "examples.npz").unlink()
    os.symlink(tmp_path / "outside", copy / "examples.npz")
    with pytest.raises(ArtifactError, match="files within the bundle, got a link"):
        load(copy, **HARDWARE)


def changed(folder: Path, change) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    write_hashes(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["trained"]["model"].update(d_model=10**9), "d_model"),
        (lambda c: c["trained"]["model"].update(n_layers=7), "7 layers"),
        (lambda c: c.update(trained=[1]), "a file without its configuration"),
        (lambda c: c["data"].update(name="${oc.env:HOME}"), "would have to be resolved"),
        (lambda c: c["data"].update(id_column=[7.5]), "settings of a DataConfig"),
        (lambda c: c["data"]["images"].update(zero_point_file="/etc/passwd"), "zero points in zero_points.csv"),
        (lambda c: c["data"]["scalars"].pop("teff"), "teff"),
        (lambda c: c.pop("data"), "settings of a DataConfig"),
    ],
)
def test_a_strangers_settings_are_compared_with_what_is_there(copy, change, match):
    changed(copy, change)
    with pytest.raises(ArtifactError, match=match):
        load(copy, **HARDWARE)


def test_weights_are_not_larger_than_their_file(copy):
    path = copy / "model.safetensors"
    for header in (
        b"{" + b" " * 40,
        json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [0, 10**15], "data_offsets": [0, 0]}}).encode(),
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
        with pytest.raises(ArtifactError, match="a whole file of safetensors"):
            load_tensors(path)
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(ArtifactError, match=f"a table of contents of {1 << 60} bytes"):
        load_tensors(path)


def test_a_pickle_among_the_tokenizers_executes_nothing(copy, tmp_path):
    import pickle

    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/harm",)

    path = next((copy / "tokenizers" / "codecs").glob("*.joblib"))
    path.write_bytes(pickle.dumps({"codebook": Harm()}))
    inner = path.parent / "manifest.json"
    content = json.loads(inner.read_text())
    from astromodal.provenance.fingerprints import fingerprint_config
    from astromodal.provenance.manifest import fingerprint_file
    from astromodal.provenance.sealed import write_sealed

    content["files"][path.name] = fingerprint_file(path)
    content["fingerprint"] = fingerprint_config({key: content.get(key) for key in ("kind", "files", "config")})
    write_sealed(inner, content)
    write_hashes(copy)
    with pytest.raises(ArtifactError, match=r"plain arrays|os.system|posix"):
        load(copy, **HARDWARE)
    assert not (tmp_path / "harm").exists()


def test_too_large_is_said_before_it_is_read(copy, monkeypatch):
    from astromodal.bundles import examples

    monkeypatch.setattr(examples, "MAX_BYTES", 100)
    with pytest.raises(ArtifactError, match="example rows of at most 100 bytes"):
        load(copy, check=True, **HARDWARE)
    monkeypatch.setattr(bundle_files, "MAX_FILES", 3)
    with pytest.raises(ArtifactError, match="at most 3 files"):
        load(copy, **HARDWARE)


# ------------------------------------------------------------------------------------- the command


def test_the_command_replaces_a_bundle_and_nothing_else(trained, copy, tmp_path, capsys):
    (copy / "old.txt").write_text("gone")
    main(["export", str(trained.run), "--to", str(copy), "--no-examples", "--reference", "0"])
    assert "astromodal.load(" in capsys.readouterr().out
    assert (
        not (copy / "old.txt").exists() and not (copy / "examples.npz").exists() and not (copy / "reference").exists()
    )
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]
    with pytest.raises(ArtifactMissingError, match=r"example|examples\.npz"):
        load(copy, check=True, **HARDWARE)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["export", str(trained.run), "--to", str(full)])
    assert "got something else" in capsys.readouterr().err and (full / "mine.txt").read_text() == "mine"


def test_one_file_is_loaded_as_the_folder_is(trained, bundle, model, tmp_path, capsys):
    main(["export", str(trained.run), "--to", str(tmp_path / "one.zip")])
    found = load(tmp_path / "one.zip", check=True, **HARDWARE)
    assert found.predict(trained.cube(), "specz_z").equals(load(bundle, **HARDWARE).predict(trained.cube(), "specz_z"))
    main(["export", str(trained.run), "--to", str(tmp_path / "one.zip"), "--no-examples"])  # replaced
    home = Path(found.home.name)
    assert home.is_dir()
    found.home.cleanup()
    assert not home.exists() and [p.name for p in tmp_path.iterdir()] == ["one.zip"]
    with zipfile.ZipFile(tmp_path / "harm.zip", "w") as archive:
        for name in ("manifest.json", "model.safetensors", "../outside"):
            archive.writestr(name, "{}")
    with pytest.raises(ArtifactError, match="names of files within the folder"):
        load(tmp_path / "harm.zip")
    assert not (tmp_path.parent / "outside").exists()
    (tmp_path / "other.zip").write_bytes(b"PK")
    with pytest.raises(SystemExit):
        main(["export", str(trained.run), "--to", str(tmp_path / "other.zip")])
    assert "got something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["export", "x", "--push", "a/b", "--to", "x.zip"], "a folder to be pushed, got one file"),
        (["exprt"], "did you mean export|export"),
        (["export"], "RUN"),
        (["export", "nothing"], "a run directory"),
        (["export", "x", "--push", "no-org"], "hf://<org>/<name>"),
    ],
)
def test_mistakes_are_one_line(arguments, match, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 1 and len(error.strip().splitlines()) == 1
    import re

    assert re.search(match, error)


def test_a_bundle_that_does_not_answer_as_the_run_is_not_written(trained, tmp_path, monkeypatch):
    from astromodal.bundles import export as module

    def other(path, state):
        bundle_files.save_weights(path, {name: value * 2 for name, value in state.items()})

    monkeypatch.setattr(module, "save_weights", other)
    with pytest.raises(ArtifactError, match="not what the run is, and was not written"):
        export(trained.run, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_judgement_of_other_weights_is_refused(trained, tmp_path):
    run = tmp_path / "other"
    shutil.copytree(trained.catalogue.parent, run)
    record = json.loads((run / "run.json").read_text())
    record["inputs"]["model"] = "0" * 32
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="a judgement of the weights"):
        export(trained.run, tmp_path / "new", judgement=run)
    with pytest.raises(ConfigError, match=r"a run of train_lm.py, got a bundle"):
        export(_bundle_at(trained, tmp_path), tmp_path / "twice")


def _bundle_at(trained, tmp_path) -> Path:
    return export(trained.run, tmp_path / "once", examples=False, reference=0)


def test_examples_keep_their_columns(trained):
    from astromodal.bundles.examples import pack, unpack

    rows = pq.read_table(trained.cube()).slice(3, 5)
    again = unpack(pack(rows))
    for name in rows.column_names:
        assert again[name].to_pylist() == rows[name].to_pylist(), name
