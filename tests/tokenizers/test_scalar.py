"""Quantile bins of catalogue columns: what is present, what is clipped, what survives saving."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from astromodal.config.schema import ScalarTokenizerConfig
from astromodal.data.scalars import read_scalars, scalar_columns
from astromodal.errors import ArtifactError, ArtifactMissingError, DataError
from astromodal.files.io import load_npz, load_npz_key, read_json, save_npz
from astromodal.runs.tables import tokenizer_table
from astromodal.tokenizers import ScalarTokenizer
from tests.tokenizers.survey import make_survey, whole

CONFIG = ScalarTokenizerConfig(n_bins=64)


@pytest.fixture(scope="module")
def fitted(survey):
    data, cubes, splits = survey
    tokenizer = ScalarTokenizer(CONFIG)
    report = tokenizer.fit(cubes, splits, data)
    return tokenizer, report


def read(cube, data):
    return read_scalars(whole(cube), data, scalar_columns(data, list(data.spectra)))


def test_columns_are_those_of_the_survey_and_one_scale_per_group(fitted):
    assert fitted[0].columns == ("mag", "flux", "redshift", "never", "blue_scale", "red_scale", "xp_scale")


def test_decoded_values_are_close_to_what_was_encoded(fitted, survey):
    tokenizer, (data, cubes, _) = fitted[0], survey
    codes = tokenizer.encode(read(cubes[0], data))
    decoded = tokenizer.decode(codes.tokens)
    assert codes.tokens.dtype == np.uint16 and decoded.shape == codes.tokens.shape
    for name, tolerance in (("mag", 0.1), ("redshift", 0.1)):
        j = tokenizer.columns.index(name)
        inside = codes.present[:, j] & ~codes.clipped[:, j]
        error = decoded[inside, j] - codes.values[inside, j]
        assert np.abs(error).mean() < tolerance * codes.values[inside, j].std()


def test_bins_are_learned_from_good_training_values_only(fitted, survey):
    tokenizer, (data, cubes, splits) = fitted[0], survey
    values = np.concatenate(
        [np.where(b.fit[:, 0] & (splits[c.field] == 0), b.values[:, 0], np.nan) for c in cubes for b in [read(c, data)]]
    )
    values = values[np.isfinite(values)]
    binner = tokenizer.binners[0]
    assert binner.edges_[[0, -1]].tolist() == [values.min(), values.max()]
    assert binner.counts_.sum() == len(values) and binner.n_codes == min(64, len(values) // 8)
    assert values.min() >= 14 and values.max() <= 22


def test_a_value_outside_of_the_quality_range_is_clipped_and_counted_not_dropped(fitted, survey):
    tokenizer, (data, cubes, _) = fitted[0], survey
    batch = read(cubes[0], data)
    faint = batch.present[:, 0] & (batch.values[:, 0] > 22)
    codes = tokenizer.encode(batch)
    assert faint.any() and codes.present[faint, 0].all() and codes.clipped[faint, 0].all()
    assert (codes.tokens[faint, 0] == tokenizer.n_bins[0] - 1).all()
    assert fitted[1]["columns"]["mag"]["clipped_fraction"] > 0


def test_a_nondetection_is_neither_a_code_nor_missing(fitted, survey):
    tokenizer, (data, cubes, _) = fitted[0], survey
    codes = tokenizer.encode(read(cubes[0], data))
    marked = np.flatnonzero(np.arange(len(codes.tokens)) % 17 == 0)
    marked = marked[marked % 23 != 1]  # those are missing
    assert codes.nondetected[marked, 0].all() and not codes.present[marked, 0].any()
    entry = fitted[1]["columns"]["mag"]
    shares = entry["nondetected_fraction"], entry["missing_fraction"], entry["n"] / fitted[1]["n_objects"]
    assert sum(shares) == pytest.approx(1.0) and min(shares) > 0


def test_a_missing_value_is_not_present_and_its_token_is_zero(fitted, survey):
    tokenizer, (data, cubes, _) = fitted[0], survey
    codes = tokenizer.encode(read(cubes[0], data))
    missing = ~codes.present
    assert missing[::11, 1].all() and (codes.tokens[missing] == 0).all()
    assert codes.present[codes.tokens > 0].all()


def test_a_column_that_nobody_has_stays_in_place_and_says_so(survey, caplog):
    data, cubes, splits = survey
    tokenizer = ScalarTokenizer(CONFIG)
    with caplog.at_level(logging.WARNING):
        report = tokenizer.fit(cubes, splits, data)
    j = tokenizer.columns.index("never")
    assert "scalar column never: never observed" in caplog.text
    assert tokenizer.n_bins[j] == 1 and report["columns"]["never"]["status"] == "never observed"
    batch = read(cubes[0], data)
    batch.present[:, j], batch.values[:, j] = True, 5.0  # a new cube has it: there is no bin for it
    assert not tokenizer.encode(batch).present[:, j].any()


def test_every_column_has_its_own_centres(fitted):
    book = fitted[0].codebook
    assert book.centers.shape == (7, max(fitted[0].n_bins))
    mag, redshift = book.centers[0, : book.n_bins[0]], book.centers[2, : book.n_bins[2]]
    assert mag.min() > 13 and redshift.max() > 1 and abs(redshift.min()) < 1
    for j, n in enumerate(book.n_bins):
        assert (np.diff(book.centers[j, :n]) > 0).all() and (book.centers[j, n:] == 0).all()


def test_distinct_values_get_distinct_tokens(fitted, survey):
    tokenizer, (data, cubes, _) = fitted[0], survey
    codes = tokenizer.encode(read(cubes[0], data))
    order = np.argsort(codes.values[:, 2])
    tokens = codes.tokens[order, 2].astype(int)
    assert (np.diff(tokens) >= 0).all() and len(np.unique(tokens)) > 50


def test_the_report_holds_rate_and_error_of_held_out_objects(fitted, survey):
    report, (_, _, splits) = fitted[1], survey
    assert report["split"] == "val" and report["n_objects"] == sum((s == 1).sum() for s in splits.values())
    entry = report["columns"]["mag"]
    assert 4 < entry["bits"] <= 6 and entry["codes_used"] <= 64
    assert entry["perplexity"] == pytest.approx(2 ** entry["bits"])
    assert 0 < entry["mae"] <= entry["rmse"] and entry["rmse_over_std"] < 0.5
    assert entry["mae_over_measurement_error"] == pytest.approx(entry["mae"] / entry["median_measurement_error"])
    assert report["bits_per_object"] == pytest.approx(sum(c["bits_per_object"] for c in report["columns"].values()))
    assert report["arrays"]["mag"].shape[1] == 3


def test_without_a_validation_split_some_training_rows_are_kept_out(survey):
    data, cubes, _ = survey
    splits = {cube.field: np.zeros(cube.n_rows, np.uint8) for cube in cubes}
    tokenizer = ScalarTokenizer(CONFIG)
    report = tokenizer.fit(cubes, splits, data)
    n_rows = sum(cube.n_rows for cube in cubes)
    assert report["split"] == "train sample" and 40 < report["n_objects"] < 130
    j = tokenizer.columns.index("redshift")
    assert tokenizer.binners[j].counts_.sum() == n_rows - report["n_objects"]


def test_fitting_does_not_depend_on_the_batches(survey):
    data, cubes, splits = survey
    one, two = ScalarTokenizer(ScalarTokenizerConfig(16, 8, 100)), ScalarTokenizer(ScalarTokenizerConfig(16, 8, 100))
    one.fit(cubes, splits, data, seed=4)
    for cube in cubes:
        cube_batches = cube.batches
        cube.batches = lambda columns, rows=None, row_mask=None, f=cube_batches: f(columns, 7, row_mask)
    two.fit(cubes, splits, data, seed=4)
    for cube in cubes:
        del cube.batches
    assert np.array_equal(one.codebook.centers, two.codebook.centers)
    assert one.binners[0].counts_.sum() == 100  # the reservoir bounds what is kept


def test_a_saved_tokenizer_gives_the_same_codes(fitted, survey, tmp_path):
    tokenizer, (data, cubes, _) = fitted[0], survey
    tokenizer.save(tmp_path)
    again = ScalarTokenizer.load(tmp_path)
    batch = read(cubes[1], data)
    for a, b in zip(vars(tokenizer.encode(batch)).values(), vars(again.encode(batch)).values(), strict=True):
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    assert again.fingerprint == tokenizer.fingerprint and again.columns == tokenizer.columns
    assert np.array_equal(again.decode(again.encode(batch).tokens), tokenizer.decode(tokenizer.encode(batch).tokens))
    assert read_json(tmp_path / "report.json")["columns"]["mag"]["n"] == again.report_["columns"]["mag"]["n"]


def test_the_documented_keys_can_be_read(fitted, tmp_path):
    fitted[0].save(tmp_path)
    path = tmp_path / "scalar_tokenizer_config.npz"
    centers = load_npz_key(path, key_candidates=("bin_centers", "centers", "quantile_centers"))
    arrays = load_npz(path)
    assert np.array_equal(centers, fitted[0].codebook.centers)
    j = fitted[0].columns.index("flux")
    n = arrays["n_bins"][j]
    assert np.allclose(arrays["bin_centers_physical"][j, :n], 10.0 ** centers[j, :n], rtol=1e-5)
    assert all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")
    weights = arrays["counts"] / np.maximum(arrays["counts"].sum(1, keepdims=True), 1)
    assert np.allclose((weights * arrays["bin_centers_standardized"] ** 2).sum(1)[[0, 1, 2]], 1.0, atol=1e-4)
    assert json.loads(str(arrays["layout_json"]))["scalars"]["mag"]["unit"] == "mag"


def test_fitting_twice_gives_the_same_bundle(survey, tmp_path):
    data, cubes, splits = survey
    prints = []
    for k in range(2):
        tokenizer = ScalarTokenizer(CONFIG)
        tokenizer.fit(cubes, splits, data, seed=1)
        prints.append(tokenizer.save(tmp_path / str(k))["fingerprint"])
    assert prints[0] == prints[1]


def test_another_layout_is_refused_with_both_values(fitted, survey):
    tokenizer, (data, cubes, _) = fitted[0], survey
    tokenizer.check(data, cubes)
    data.scalars["mag"].unit = "nanomaggies"
    try:
        with pytest.raises(ArtifactError, match=r"scalars.mag.unit = mag.*got nanomaggies.*python train_tokenizers.py"):
            tokenizer.check(data)
    finally:
        data.scalars["mag"].unit = "mag"
    data.scalars["mag"].fit_max = 21.0  # only matters to the next fit
    tokenizer.check(data)
    data.scalars["mag"].fit_max = 22.0


def test_no_values_at_all_names_the_columns(survey, tmp_path):
    def empty(rows):
        for name in rows:
            rows[name] = rows["id"] if name == "id" else [None] * len(rows["id"])

    data, cubes, splits = make_survey(tmp_path / "empty", change=empty)
    with pytest.raises(DataError, match="mag, flux, redshift, never, blue_scale"):
        ScalarTokenizer(CONFIG).fit(cubes, splits, data)


def test_no_training_objects_are_an_error(survey):
    data, cubes, _ = survey
    with pytest.raises(DataError, match="training split"):
        ScalarTokenizer(CONFIG).fit(cubes, {c.field: np.full(c.n_rows, 2, np.uint8) for c in cubes}, data)


def test_a_missing_tokenizer_names_the_command(tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"python train_tokenizers.py tokenizer=scalar"):
        ScalarTokenizer.load(tmp_path)


def test_a_damaged_file_is_refused(fitted, tmp_path):
    fitted[0].save(tmp_path)
    path = tmp_path / "scalar_tokenizer_config.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="fingerprint"):
        ScalarTokenizer.load(tmp_path)


def test_bins_of_fewer_columns_are_refused(fitted, tmp_path):
    fitted[0].save(tmp_path)
    path = tmp_path / "scalar_tokenizer_config.npz"
    save_npz(path, load_npz(path) | {"n_bins": np.array([], np.int64)})
    with pytest.raises(ArtifactError, match="bins of"):
        ScalarTokenizer._read(tmp_path)


def test_what_the_training_rows_lose_is_reported_and_warned_about(tmp_path, caplog):
    def spoil(rows):
        rows["redshift"][::3] = [-9.99] * len(rows["redshift"][::3])  # a sentinel that nobody declared
        rows["flux"][5::40] = [0.0] * len(rows["flux"][5::40])

    data, cubes, splits = make_survey(tmp_path, change=spoil)
    tokenizer = ScalarTokenizer(CONFIG)
    with caplog.at_level(logging.WARNING):
        report = tokenizer.fit(cubes, splits, data)
    train = [splits[cube.field] == 0 for cube in cubes]
    lost = sum(int(mask[::3].sum()) for mask in train)
    assert report["found"]["scalar redshift"]["out_of_range"] == lost
    assert report["found"]["scalar redshift"]["kept"] == sum(int(mask.sum()) for mask in train) - lost
    assert report["found"]["scalar flux"]["not_positive"] == sum(int(mask[5::40].sum()) for mask in train)
    assert (
        report["found"]["scalar blue_scale"]["null"] > 0 and "no_spectrum" not in report["found"]["scalar blue_scale"]
    )
    (line,) = [line for line in report["warnings"] if "scalar redshift" in line]
    assert f"lost {lost} of {sum(int(mask.sum()) for mask in train)}" in line and "(fields F0, F1)" in line
    assert line.endswith("most of them are -9.99") and line in caplog.text
    tokenizer.save(tmp_path / "bundle")
    assert read_json(tmp_path / "bundle" / "report.json")["found"] == report["found"]
    shown = tokenizer_table({"scalar": report})
    assert "what was found" in shown and f"{lost} outside of min and max (34%)" in shown
