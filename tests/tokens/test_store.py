"""Reading token files: whole ones open, damaged, foreign and missing ones are refused by name."""

import shutil

import numpy as np
import pytest

from astromodal.core.io import load_npz, save_npz
from astromodal.core.manifest import read_manifest, update_manifest
from astromodal.errors import ArtifactError, ArtifactMissingError
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
    """Change a member of a file of F1 and bring the recorded size up to date: only a look at the content finds it."""
    path = token_paths(root / "tokens", "F1")[kind]
    arrays = load_npz(path)
    change(arrays)
    save_npz(path, arrays)
    entry = read_manifest(root / "tokens")["entries"]["F1"]
    entry["sizes"][path.relative_to(root / "tokens").as_posix()] = path.stat().st_size
    update_manifest(root / "tokens", "F1", entry)


def test_arrays_are_memory_mapped_and_aligned_across_modalities(root):
    store = TokenStore(root)
    assert store.fields() == ["F0", "F1"]
    field = store.open("F0")
    assert len(field) == len(field.split) == len(field.scalar["tokens"]) == len(field.image["present"])
    base = field.image["tokens"]
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    store.verify()


def test_an_empty_store_names_the_command_that_fills_it(tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"python encode\.py"):
        TokenStore(tmp_path)


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


def test_a_changed_code_is_found_by_verification(root):
    def change(arrays):
        arrays["tokens"][0, 0] += 1

    rewrite(root, "scalar", change)
    with pytest.raises(ArtifactError, match="fingerprint"):
        TokenStore(root).verify()
