"""Encoding a survey: what is in the files, what is redone, and what a failure leaves behind."""

import errno
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.config.schema import ScalarTokenizerConfig, WorkersConfig
from astromodal.data.datacube import Datacube
from astromodal.errors import ArtifactError, ArtifactMissingError, DataError
from astromodal.files.io import load_npz
from astromodal.provenance.manifest import read_manifest
from astromodal.runs.tables import encoding_table
from astromodal.tokens import FieldWriter, TokenStore, encode_survey, token_paths
from tests.tokens.fake_survey import FakeTokenizers, make_survey, write_cube


@pytest.fixture
def survey(tmp_path):
    cubes, splits, data = make_survey(tmp_path)
    return cubes, splits, data, tmp_path / "store"


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*.npz"))}


def test_each_row_holds_the_codes_of_its_object_and_nothing_where_a_modality_is_missing(survey):
    cubes, splits, data, root = survey
    tokenizers = FakeTokenizers()
    encode_survey(cubes, tokenizers, splits, data, root)
    from astromodal.data.images import read_images
    from astromodal.data.scalars import read_scalars
    from astromodal.data.spectra import read_spectra

    for cube in cubes:
        files = {kind: load_npz(path) for kind, path in token_paths(root / "tokens", cube.field).items()}
        # The oracle: one object at a time.
        row = 0
        for batch in cube.batches(cube.columns, rows=1):
            scalars = tokenizers.scalar.encode(read_scalars(batch, data, tokenizers.scalar.configs))
            assert (files["scalar"]["tokens"][row] == scalars.tokens[0]).all()
            assert (files["scalar"]["present"][row] == scalars.present[0]).all()
            assert (files["scalar"]["nondetected"][row] == scalars.nondetected[0]).all()
            assert (files["scalar"]["sigma"][row] == scalars.sigma[0]).all()
            for group in tokenizers.spectrum.groups:
                spectra = read_spectra(batch, data, group)
                codes, present = tokenizers.spectrum.encode(group, spectra)
                sigma = tokenizers.spectrum.sigma(group, spectra)[0]
                first, last = files["spectrum"][f"offsets_{group}"][row : row + 2]
                found = files["spectrum"][f"tokens_{group}"][first:last].tolist()
                assert found == (codes[0].tolist() if present[0] else [])
                errors = files["spectrum"][f"sigma_{group}"][first:last].tolist()
                assert errors == (sigma.tolist() if present[0] else [])
                assert files["spectrum"][f"present_{group}"][row] == present[0]
            image = tokenizers.image.encode(read_images(batch, data, cube.field))
            assert files["image"]["present"][row] == files["latents"]["present"][row] == image.present[0]
            assert (files["image"]["tokens"][row] == image.tokens[0]).all()
            assert (files["image"]["sigma"][row] == np.where(image.present[0], image.sigma[0], 0)).all()
            assert np.array_equal(files["latents"]["latents"][row], image.latents[0])
            row += 1
        assert row == cube.n_rows
        for arrays in files.values():
            assert arrays["ids"].tolist() == cube.ids().tolist()
        assert files["splits"]["split"].tolist() == splits[cube.field].tolist()
        assert files["scalar"]["columns"].tolist() == ["r", "u", "z"]


def test_files_have_the_documented_names_types_and_shapes(survey):
    cubes, splits, data, root = survey
    encode_survey(cubes, FakeTokenizers(), splits, data, root)
    names = {p.relative_to(root / "tokens").as_posix() for p in (root / "tokens").rglob("*.npz")}
    assert {
        "image_tokens/datacube_F0_tokens.npz",
        "image_latents/datacube_F0_latents.npz",
        "scalar_tokens/datacube_F0_scalar_tokens.npz",
        "spectrum_tokens/datacube_F0_spectrum_tokens.npz",
    } <= names
    image = load_npz(root / "tokens/image_tokens/datacube_F0_tokens.npz")
    assert image["tokens"].dtype == np.uint16 and image["present"].dtype == bool
    assert image["tokens"].shape == (cubes[0].n_rows, 4)
    scalar, spectrum = (load_npz(token_paths(root / "tokens", "F0")[kind]) for kind in ("scalar", "spectrum"))
    assert scalar["sigma"].dtype == spectrum["sigma_bp"].dtype == np.float16


def test_the_summary_counts_what_the_files_hold(survey):
    cubes, splits, data, root = survey
    summary = encode_survey(cubes, FakeTokenizers(), splits, data, root)
    field = summary["fields"]["F1"]
    scalar = load_npz(token_paths(root / "tokens", "F1")["scalar"])
    assert field["rows"] == cubes[1].n_rows and summary["rows"] == sum(c.n_rows for c in cubes)
    assert field["present"]["scalar"] == (scalar["present"] | scalar["nondetected"]).any(1).sum()
    assert field["found"]["counts"]["scalar u"]["nondetected"] == scalar["nondetected"][:, 1].sum() > 0
    clipped = sum(load_npz(token_paths(root / "tokens", c.field)["scalar"])["clipped"].sum(0) for c in cubes)
    assert [summary["found"][f"scalar {c}"].get("clipped", 0) for c in ("r", "u", "z")] == clipped.tolist()
    assert field["bytes"] == sum(p.stat().st_size for p in token_paths(root / "tokens", "F1").values())


def test_what_a_field_loses_is_counted_and_warned_about_also_when_it_is_up_to_date(survey, caplog):
    cubes, splits, data, root = survey
    path = cubes[1].path
    table = pq.read_table(path)
    wrong = pa.array([None if v is None else 1e4 * v for v in table["r"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("r"), "r", wrong), path)
    cubes[1] = Datacube(path, data)
    n = len(table) - wrong.null_count
    for _ in range(2):
        caplog.clear()
        summary = encode_survey(cubes, FakeTokenizers(), splits, data, root)
        (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "scalar r" in r.getMessage()]
        assert f"lost {n} of {n}: {n} beyond the fitted range" in line and "(field F1)" in line
        assert "another unit" in line and line in summary["warnings"]
        shown = encoding_table(summary)
        assert "what was found" in shown and "not detected" in shown
        assert f"{summary['found']['scalar r']['clipped']} beyond the fitted range" in shown


def test_batch_size_and_number_of_processes_do_not_change_a_byte(survey, tmp_path):
    cubes, splits, data, root = survey
    encode_survey(cubes, FakeTokenizers(), splits, data, root)
    reference = {p.name: b for p, b in snapshot(root).items()}
    data.batch_rows = 7
    encode_survey(cubes, FakeTokenizers(), splits, data, tmp_path / "other")
    assert {p.name: b for p, b in snapshot(tmp_path / "other").items()} == reference
    workers = WorkersConfig(n_jobs=2)
    parallel = encode_survey(cubes, FakeTokenizers(), splits, data, tmp_path / "parallel", workers=workers)
    assert parallel["encoded"] == ["F0", "F1", "F2"]
    assert {p.name: b for p, b in snapshot(tmp_path / "parallel").items()} == reference


def test_a_field_is_redone_only_when_one_of_its_inputs_changed(survey, tmp_path):
    cubes, splits, data, root = survey
    assert encode_survey(cubes, FakeTokenizers(), splits, data, root)["encoded"] == ["F0", "F1", "F2"]
    again = encode_survey(cubes, FakeTokenizers(), splits, data, root)
    assert again["encoded"] == [] and set(again["fields"]) == {"F0", "F1", "F2"}
    splits["F1"] = 2 - splits["F1"]
    assert encode_survey(cubes, FakeTokenizers(), splits, data, root)["encoded"] == ["F1"]
    assert encode_survey(cubes, FakeTokenizers(tag="1"), splits, data, root)["encoded"] == ["F0", "F1", "F2"]
    data.batch_rows = 3
    assert encode_survey(cubes, FakeTokenizers(tag="1"), splits, data, root)["encoded"] == []
    assert encode_survey(cubes, FakeTokenizers(tag="1"), splits, data, root, overwrite=True)["encoded"] == [
        "F0",
        "F1",
        "F2",
    ]
    path = token_paths(root / "tokens", "F2")["image"]
    path.write_bytes(path.read_bytes()[:-10])
    assert encode_survey(cubes, FakeTokenizers(tag="1"), splits, data, root)["encoded"] == ["F2"]
    write_cube(tmp_path, "F0", cubes[0].n_rows, seed=77)
    assert encode_survey(cubes, FakeTokenizers(tag="1"), splits, data, root)["encoded"] == ["F0"]


def test_a_cube_that_changed_since_the_fit_is_refused_before_anything_is_written(survey):
    cubes, splits, data, root = survey
    tokenizers = FakeTokenizers()
    tokenizers.scalar.inputs_ = {"F2": "another"}
    with pytest.raises(ArtifactError, match=r"another.*fit again"):
        encode_survey(cubes, tokenizers, splits, data, root)
    assert not root.exists()


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_failing_field_is_named_and_done_fields_stay_whole(survey, n_processes):
    cubes, splits, data, root = survey
    bad = cubes[1].path
    whole = bad.read_bytes()
    damaged = bytearray(whole)
    damaged[100:4000] = bytes(3900)  # the footer stays: the damage shows while reading
    bad.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=r"^field F1 was not encoded: expected"):
        encode_survey(cubes, FakeTokenizers(), splits, data, root, workers=WorkersConfig(n_jobs=n_processes))
    assert "F0" in TokenStore(root).fields() and "F1" not in TokenStore(root).fields()
    TokenStore(root).verify()
    assert not list((root / "tokens").rglob("*.raw")) and not list((root / "tokens").rglob("*.tmp*"))
    bad.write_bytes(whole)
    done = TokenStore(root).fields()
    again = encode_survey(cubes, FakeTokenizers(), splits, data, root)
    assert set(again["encoded"]) == {"F0", "F1", "F2"} - set(done)


@pytest.mark.parametrize("failing_call", [3, 9, 40])
def test_a_full_disk_leaves_the_earlier_encoding_untouched(survey, monkeypatch, failing_call):
    cubes, splits, data, root = survey
    encode_survey(cubes, FakeTokenizers(), splits, data, root)
    before, manifest = snapshot(root), read_manifest(root / "tokens")
    from astromodal.files.npz import _Spool

    calls, write = [0], _Spool.write

    def full(self, chunk):
        calls[0] += 1
        if calls[0] == failing_call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, chunk)

    monkeypatch.setattr(_Spool, "write", full)
    with pytest.raises(ArtifactError, match=r"field F0 was not encoded: expected room on the disk"):
        encode_survey(cubes, FakeTokenizers(tag="1"), splits, data, root)
    assert snapshot(root) == before and read_manifest(root / "tokens") == manifest
    assert not (root / "tokens" / ".staging" / "F0").exists()


def test_after_a_kill_in_the_middle_only_the_unfinished_field_is_redone(survey, monkeypatch):
    cubes, splits, data, root = survey

    class Killed(BaseException):
        """As a signal would, it passes every handler of ordinary errors."""

    commit = FieldWriter.commit

    def killed_at_f1(self, *arguments):
        if self.field == "F1":
            raise Killed
        return commit(self, *arguments)

    # A killed process runs no clean-up.
    monkeypatch.setattr(FieldWriter, "__exit__", lambda self, *_: None)
    monkeypatch.setattr(FieldWriter, "commit", killed_at_f1)
    with pytest.raises(Killed):
        encode_survey(cubes, FakeTokenizers(), splits, data, root)
    monkeypatch.undo()
    assert TokenStore(root).fields() == ["F0"]
    assert encode_survey(cubes, FakeTokenizers(), splits, data, root)["encoded"] == ["F1", "F2"]
    assert not list((root / "tokens").rglob("*.raw"))
    TokenStore(root).verify()


def test_a_kill_between_renames_makes_the_field_count_as_not_encoded(survey, monkeypatch):
    cubes, splits, data, root = survey
    encode_survey(cubes, FakeTokenizers(), splits, data, root)
    renames, replace = [], os.replace

    def stop_at_the_third(source, target):
        if "/.staging/F0/" in str(source) and ".tmp" not in str(source):
            renames.append(target)
            if len(renames) == 3:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        encode_survey(cubes, FakeTokenizers(tag="1"), splits, data, root)
    monkeypatch.undo()
    assert TokenStore(root).fields() == ["F1", "F2"]
    assert encode_survey(cubes, FakeTokenizers(tag="1"), splits, data, root)["encoded"] == ["F0", "F1", "F2"]
    TokenStore(root).verify()


def test_without_tokenizers_or_splits_the_error_says_what_to_do(survey):
    cubes, splits, data, root = survey
    with pytest.raises(ArtifactMissingError, match=r"train_tokenizers\.py"):
        encode_survey(cubes, FakeTokenizers(names=()), splits, data, root)
    with pytest.raises(DataError, match="field F1"):
        encode_survey(cubes, FakeTokenizers(), splits | {"F1": splits["F1"][:-1]}, data, root)


def test_a_modality_without_a_tokenizer_leaves_no_file(survey):
    cubes, splits, data, root = survey
    encode_survey(cubes, FakeTokenizers(), splits, data, root)
    encode_survey(cubes, FakeTokenizers(names=("scalar",)), splits, data, root)
    assert not list((root / "tokens/image_tokens").glob("*.npz"))
    assert TokenStore(root).open("F0").image == {}


def test_the_real_scalar_tokenizer_encodes_and_decodes_within_a_bin(survey):
    cubes, splits, data, root = survey
    from astromodal.tokenizers.bundle import TokenizerSet
    from astromodal.tokenizers.scalar import ScalarTokenizer

    data.spectra, data.images = {}, None
    tokenizer = ScalarTokenizer(ScalarTokenizerConfig(n_bins=8, min_values_per_bin=2))
    tokenizer.fit(cubes, splits, data)
    tokenizer.save(root / "tokenizers" / "scalar_tokenizers")
    encode_survey(cubes, TokenizerSet(scalar=tokenizer), splits, data, root, workers=WorkersConfig(n_jobs=2))
    store = TokenStore(root)
    store.check_tokenizers(TokenizerSet.load(root / "tokenizers"))
    field = store.open("F0")
    r = field.columns.index("r")
    present = field.scalar["present"][:, r]
    decoded = tokenizer.decode(field.scalar["tokens"])[present, r]
    assert np.abs(decoded - field.scalar["values"][present, r]).max() < 8
    assert np.corrcoef(decoded, field.scalar["values"][present, r])[0, 1] > 0.95


def test_a_damaged_cutout_is_skipped_and_counted_and_its_object_keeps_the_rest(survey):
    cubes, splits, data, root = survey
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(cubes[0].path)
    for band in ("cut_r", "cut_u"):
        values = table[band].to_pylist()
        values[5] = [1.0, 2.0]
        table = table.set_column(table.schema.get_field_index(band), band, pa.array(values, pa.list_(pa.float32())))
    pq.write_table(table, cubes[0].path)
    summary = encode_survey(cubes, FakeTokenizers(), splits, data, root)["fields"]["F0"]
    assert [summary["found"]["counts"][f"image {band}"]["wrong_length"] for band in ("r", "u")] == [1, 1]
    assert not TokenStore(root).open("F0").image["present"][5]
    assert summary["rows"] == cubes[0].n_rows


def test_a_field_whose_cube_is_gone_is_no_longer_used_but_one_left_out_on_purpose_stays(survey):
    cubes, splits, data, root = survey
    encode_survey(cubes, FakeTokenizers(), splits, data, root)
    data.fields = ["F0", "F1"]
    encode_survey(cubes[:2], FakeTokenizers(), splits, data, root)
    assert TokenStore(root).fields() == ["F0", "F1", "F2"]
    data.fields = None
    encode_survey(cubes[:2], FakeTokenizers(), splits, data, root)
    assert TokenStore(root).fields() == ["F0", "F1"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_damaged_manifest_makes_every_field_be_encoded_again(survey, overwrite):
    cubes, splits, data, root = survey
    encode_survey(cubes, FakeTokenizers(), splits, data, root)
    (root / "tokens" / "manifest.json").write_text("{")
    again = encode_survey(cubes, FakeTokenizers(), splits, data, root, overwrite=overwrite)
    assert again["encoded"] == ["F0", "F1", "F2"]
    TokenStore(root).verify()
