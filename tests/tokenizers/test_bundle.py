"""The set of tokenizers of a survey, and the checks before anything is encoded with it."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from astromodal.config.schema import KMeansConfig, ScalarTokenizerConfig, SpectrumTokenizerConfig
from astromodal.data.datacube import Datacube
from astromodal.errors import ArtifactError, ArtifactMissingError
from astromodal.tokenizers import ScalarTokenizer, SpectrumTokenizer, TokenizerSet
from astromodal.tokenizers.base import choose_rows, first_difference
from tests.tokenizers.survey import make_rows, make_survey, write_cube


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    data, cubes, splits = make_survey(root / "cubes", n=200)
    scalar = ScalarTokenizer(ScalarTokenizerConfig(n_bins=16))
    spectrum = SpectrumTokenizer(SpectrumTokenizerConfig(patch_size=16, quantizer=KMeansConfig(n_codes=32)))
    for tokenizer in (scalar, spectrum):
        tokenizer.fit(cubes, splits, data)
        tokenizer.save(root / "tokenizers" / tokenizer.folder_name, run_id="r1")
    return root, data, cubes


@pytest.fixture
def copied(fitted, tmp_path):
    shutil.copytree(fitted[0] / "tokenizers", tmp_path / "tokenizers")
    return tmp_path / "tokenizers"


def test_whatever_exists_is_loaded(fitted, copied):
    tokenizers = TokenizerSet.load(copied)
    assert [name for name, _ in tokenizers.items()] == ["scalar", "spectrum"] and tokenizers.image is None
    assert tokenizers.scalar_codebook().columns == tokenizers.scalar.columns
    assert set(tokenizers.spectrum_codebooks()) == {"blue", "red", "xp"}
    summary = tokenizers.summary()
    assert summary["spectrum"]["groups"]["blue"] == {"n_codes": 32, "n_tokens": 5, "patch_size": 16}
    shutil.rmtree(copied / "spectrum_tokenizers")
    assert TokenizerSet.load(copied).spectrum is None


def test_what_is_missing_names_the_command(copied, tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"python train_tokenizers.py$"):
        TokenizerSet.load(tmp_path / "nothing")
    with pytest.raises(ArtifactMissingError, match=r"python train_tokenizers.py tokenizer=image$"):
        TokenizerSet.load(copied).image_codebook()


def test_the_fingerprint_is_that_of_all_members(copied):
    both = TokenizerSet.load(copied)
    assert both.fingerprint == TokenizerSet.load(copied).fingerprint
    assert both.fingerprint != TokenizerSet(scalar=both.scalar).fingerprint
    with pytest.raises(ArtifactError, match="saved scalar tokenizer"):
        _ = TokenizerSet(scalar=ScalarTokenizer()).fingerprint


def test_a_cube_that_changed_after_fitting_is_refused_with_both_fingerprints(fitted, copied, tmp_path):
    _, data, cubes = fitted
    tokenizers = TokenizerSet.load(copied)
    tokenizers.check(data, cubes)
    changed = tmp_path / "datacube_F0.parquet"
    write_cube(changed, make_rows(200, 77))
    other = Datacube(changed, data)
    with pytest.raises(ArtifactError) as error:
        tokenizers.check(data, [other])
    message = str(error.value)
    assert cubes[0].fingerprint() in message and other.fingerprint() in message
    assert "python train_tokenizers.py" in message and "\n" not in message


def test_a_new_cube_is_fine(fitted, copied, tmp_path):
    _, data, _ = fitted
    write_cube(tmp_path / "datacube_NEW.parquet", make_rows(50, 5))
    TokenizerSet.load(copied).check(data, [Datacube(tmp_path / "datacube_NEW.parquet", data)])


def test_other_columns_are_refused(fitted, copied):
    data = copy.deepcopy(fitted[1])
    del data.scalars["never"]
    with pytest.raises(ArtifactError, match=r"scalars.never = .*got absent"):
        TokenizerSet.load(copied).check(data)
    data = copy.deepcopy(fitted[1])
    data.scalars = dict(reversed(data.scalars.items()))
    with pytest.raises(ArtifactError, match="scalars"):  # tokens are stored in the order of the columns
        TokenizerSet.load(copied).check(data)


def test_a_file_of_another_fit_is_refused(copied):
    folder = copied / "spectrum_tokenizers"
    shutil.copy(folder / "spectrum_kmeans_blue.joblib", folder / "spectrum_kmeans_red.joblib")
    with pytest.raises(ArtifactError, match=r"spectrum_kmeans_red.joblib"):
        TokenizerSet.load(copied)


def test_the_manifest_names_inputs_and_run(copied):
    manifest = json.loads((copied / "scalar_tokenizers" / "manifest.json").read_text())
    assert manifest["run_id"] == "r1" and set(manifest["inputs"]) == {"F0", "F1"}
    assert list(manifest["files"]) == ["scalar_tokenizer_config.npz"]


def test_no_file_is_pickled_code(copied):
    for path in copied.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype.kind in "fiuUb" for name in arrays.files)


def test_a_single_training_row_is_used_for_both():
    rows = choose_rows({"A": np.array([0, 2, 2])}, ["A"], seed=0)
    assert rows.fit["A"].tolist() == [True, False, False]


def test_differences_are_found_at_any_depth():
    assert first_difference({"a": [1, 2]}, {"a": [1, 2]}) is None
    assert first_difference({"a": {"b": [1, 2]}}, {"a": {"b": [2, 1]}}) == ("a.b", [1, 2], [2, 1])
    assert first_difference({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}})[0] == "a"


def test_a_null_that_an_older_version_did_not_know_makes_no_difference():
    old, new = {"x": 1, "z": 3}, {"x": 1, "y": None, "z": 3}
    assert first_difference(old, new) is None and first_difference(new, old) is None
    assert first_difference(old, new | {"y": 2}) == ("y", "absent", 2)
    assert first_difference(old | {"y": 2}, new) == ("y", 2, None)


def test_torch_is_not_imported_for_scalars_and_spectra():
    code = "import sys, astromodal.tokenizers; print('torch' in sys.modules)"
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "False"


def test_no_bit_of_a_bundle_can_flip_without_a_word(copied):
    """Arrays, codebooks, the report and the manifest itself: refused in a line that names the file and the command."""
    rng, files = np.random.default_rng(0), sorted(p for p in copied.rglob("*") if p.is_file())
    assert {p.name for p in files} >= {"report.json", "manifest.json", "scalar_tokenizer_config.npz"} and len(
        files
    ) == 9
    for path in files:
        whole = path.read_bytes()
        for bit in rng.choice(8 * len(whole), 15, replace=False):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(
                ArtifactError, match=rf"{path.name}.*to repair: run python train_tokenizers\.py"
            ) as caught:
                TokenizerSet.load(copied)
            assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    TokenizerSet.load(copied)


def test_zero_points_of_a_fitted_field_that_changed_are_refused_and_those_of_new_fields_are_fine(tmp_path):
    from types import SimpleNamespace

    from astromodal.config.schema import BandConfig, DataConfig, ImageConfig, ImageTokenizerConfig
    from astromodal.tokenizers.base import plain
    from astromodal.tokenizers.image.tokenizer import ImageTokenizer, _points

    points = tmp_path / "zero_points.csv"
    points.write_text("field,band,zero_point\nA,r,22.5\n")
    data = DataConfig(images=ImageConfig(bands={"r": BandConfig(column="cut_r")}, size=32, zero_point_file=str(points)))
    cubes = [SimpleNamespace(field=name, path=name, fingerprint=lambda: "same") for name in "AB"]
    tokenizer = ImageTokenizer(ImageTokenizerConfig())
    tokenizer.layout_ = plain(tokenizer.layout(data))
    tokenizer.inputs_ = {"A": "same", "zero points of A": _points(data.images, "A")}
    points.write_text("field,band,zero_point\nB,r,21.0\nA,r,22.5\n")
    tokenizer.check(data, cubes)
    points.write_text("field,band,zero_point\nB,r,21.0\nA,r,2.5\n")  # one bit
    with pytest.raises(
        ArtifactError, match=r"zero points of A .*zero_points\.csv.*train_tokenizers\.py tokenizer=image"
    ):
        tokenizer.check(data, cubes)
