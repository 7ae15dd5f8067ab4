"""Reading token files: whole ones open, damaged, foreign and missing ones are refused by name."""

import os
import shutil

import numpy as np
import pytest

from astromodal.errors import ArtifactError, ArtifactMissingError
from astromodal.files.file_array import FileArray
from astromodal.files.io import load_npz, save_npz
from astromodal.provenance import remembered
from astromodal.provenance.manifest import fingerprint_file, read_manifest, update_manifest
from astromodal.tokens import TokenStore, encode_survey, token_paths
from tests.tokens.fake_survey import FakeTokenizers, make_survey


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    cubes, splits, data = make_survey(folder, n_fields=2, n=40)
    encode_survey(cubes, FakeTokenizers(), splits, data, folder / "store")
    return folder / "store"


@pytest.fixture
def root(encoded, tmp_path):
    shutil.copytree(encoded, tmp_path / "store")
    return tmp_path / "store"


def rewrite(root, kind, change):
    """Change a member of a file of F1 and let the manifest vouch for it: only a look at the content finds it."""
    path = token_paths(root / "tokens", "F1")[kind]
    arrays = load_npz(path)
    change(arrays)
    save_npz(path, arrays)
    entry = read_manifest(root / "tokens")["entries"]["F1"]
    name = path.relative_to(root / "tokens").as_posix()
    entry["sizes"][name], entry["files"][name] = path.stat().st_size, fingerprint_file(path)
    update_manifest(root / "tokens", "F1", entry)


def test_arrays_stay_in_their_files_and_are_aligned_across_modalities(root):
    store = TokenStore(root)
    assert store.fields() == ["F0", "F1"]
    field = store.open("F0")
    assert len(field) == len(field.split) == len(field.scalar["tokens"]) == len(field.image["present"])
    assert isinstance(field.image["tokens"], FileArray) and isinstance(field.ids, FileArray)
    store.verify()


def test_an_empty_store_names_the_command_that_fills_it(tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"python encode\.py"):
        TokenStore(tmp_path)


def test_token_files_of_an_older_format_are_refused_with_the_command_that_renews_them(root):
    entry = read_manifest(root / "tokens")["entries"]["F1"]
    update_manifest(root / "tokens", "F1", entry | {"format": 3})
    with pytest.raises(ArtifactError, match=r"format 4.*format 3.*field F1.*run python encode\.py") as refused:
        TokenStore(root).open("F1")
    assert "\n" not in str(refused.value)
    TokenStore(root).open("F0")


def test_an_unknown_field_is_refused_with_those_there_are(root):
    with pytest.raises(ArtifactMissingError, match="F0, F1"):
        TokenStore(root).open("F9")
    with pytest.raises(ArtifactMissingError, match="F9"):
        TokenStore(root).select(["F9"])
    assert TokenStore(root).select(["F1"]).fields() == ["F1"]
    assert TokenStore(root).select(["F1"]).fingerprint != TokenStore(root).fingerprint


def test_tokens_of_another_codebook_are_refused_with_both_fingerprints(root):
    store = TokenStore(root)
    store.check_tokenizers(FakeTokenizers())
    with pytest.raises(ArtifactError, match=r"scalar-other.*scalar-0.*python encode\.py"):
        store.check_tokenizers(FakeTokenizers(tag="other"))


@pytest.mark.parametrize("kind", ["image", "latents", "scalar", "spectrum", "splits"])
def test_a_truncated_or_missing_file_is_named(root, kind):
    path = token_paths(root / "tokens", "F1")[kind]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=rf"{path.name}.*data\.fields=\[F1\]"):
        TokenStore(root).open("F1")
    TokenStore(root).open("F0")
    path.unlink()
    with pytest.raises(ArtifactMissingError, match=path.name):
        TokenStore(root).open("F1")


def test_rows_of_other_objects_are_noticed(root):
    def swap(arrays):
        arrays["ids"][[3, 4]] = arrays["ids"][[4, 3]]

    rewrite(root, "image", swap)
    with pytest.raises(ArtifactError, match=r"object F1-3 in row 3, got F1-4"):
        TokenStore(root).open("F1")


def test_a_half_written_field_is_noticed_by_its_shape(root):
    def cut(arrays):
        arrays["tokens"] = arrays["tokens"][:-1]

    rewrite(root, "scalar", cut)
    with pytest.raises(ArtifactError, match="scalar tokens of shape"):
        TokenStore(root).open("F1")


def test_a_flipped_bit_is_found_whenever_tokens_are_opened_and_encoding_repairs_it(encoded, root, tmp_path):
    """Single bits of every kind of file, and of the manifest: none is read without a word."""
    cubes, splits, data = make_survey(tmp_path, n_fields=2, n=40)
    rng, whole = np.random.default_rng(0), {p: p.read_bytes() for p in (root / "tokens").rglob("*.*") if p.is_file()}
    assert len(whole) == 11
    for path, content in whole.items():
        for bit in rng.choice(8 * len(content), 12, replace=False):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(ArtifactError, match=rf"{path.name}.*to repair: run python encode\.py") as caught:
                list(TokenStore(root))
            assert "\n" not in str(caught.value)
        again = encode_survey(cubes, FakeTokenizers(), splits, data, root)["encoded"]
        assert again == (["F0", "F1"] if path.suffix == ".json" else [path.name.split("_")[1]])
        list(TokenStore(root))
        if path.suffix != ".json":
            assert path.read_bytes() == content


def test_whole_files_are_read_once_to_be_compared(root, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_RACY_SECONDS", -1.0)  # the files need not grow old
    monkeypatch.setattr(remembered, "_KEPT_BYTES", 0)
    list(TokenStore(root))
    remembered._remembered.clear()  # another process
    monkeypatch.setattr(remembered, "_hash", lambda *_: pytest.fail("read again"))
    assert [field.field for field in TokenStore(root)] == ["F0", "F1"]


def test_tokens_that_are_cut_short_while_they_are_read_name_the_file(root):
    field = TokenStore(root).open("F1")
    path = token_paths(root / "tokens", "F1")["latents"]
    os.truncate(path, 100)
    with pytest.raises(ArtifactError, match=rf"{path.name}.*run python encode\.py data\.fields=\[F1\]"):
        field.latents["latents"][:]
