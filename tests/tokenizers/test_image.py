"""The image tokenizer on a small survey of blobs: fit, encode, decode, save, load, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from astromodal.config.schema import (
    AutoencoderConfig,
    BandConfig,
    CodecTrainingConfig,
    DataConfig,
    HardwareConfig,
    ImageConfig,
    ImageTokenizerConfig,
    KMeansConfig,
)
from astromodal.data.datacube import Datacube
from astromodal.data.images import ImageReader, image_columns, read_images
from astromodal.errors import ArtifactError, ArtifactMissingError, ConfigError, DataError, UnsafeFileError
from astromodal.sequences.layout import build_layout
from astromodal.tokenizers import TokenizerSet
from astromodal.tokenizers.image.rings import N_LEVELS, FluxRings
from astromodal.tokenizers.image.tokenizer import ImageTokenizer
from astromodal.tokenizers.spectrum.sigma import MAX_SIGMA

SIZE, BANDS, ROWS = 32, ("g", "r", "z"), 160
CPU = HardwareConfig(device="cpu", n_threads=1)


def survey(root, bands=BANDS, size=SIZE):
    entries = {name: BandConfig(column=f"cut_{name}", zero_point=22.5) for name in bands}
    return DataConfig(
        name="blobs",
        root=str(root),
        ra_column=None,
        dec_column=None,
        batch_rows=50,
        images=ImageConfig(bands=entries, size=size),
    )


def write_cube(path, seed):
    """Blobs of random place, width and colour on a sky of level 20 and noise 1, with gaps and damage."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    width = rng.uniform(1.5, 4.0, (ROWS, 1, 1))
    shape = np.exp(-((x - rng.normal(0, 1, (ROWS, 1, 1))) ** 2 + y**2) / (2 * width**2))
    columns = {"id": [f"{path.stem}_{i}" for i in range(ROWS)]}
    brightness, colour = 10 ** rng.uniform(0.5, 2.5, (ROWS, 1, 1)), rng.uniform(-0.5, 0.5, (ROWS, 1, 1))
    for number, band in enumerate(BANDS):
        flux = 20 + rng.normal(size=shape.shape) + brightness * 10 ** (colour * (number - 1)) * shape
        rows = list(flux.reshape(ROWS, -1).astype(np.float32))
        rows[5] = None  # no image at all
        columns[f"cut_{band}"] = rows
    columns["cut_g"][7] = None  # one band is missing
    columns["cut_r"][8][:300] = np.nan
    for band in ("r", "z"):
        columns[f"cut_{band}"][9] = None
    columns["cut_g"][9][: SIZE * SIZE // 2] = np.nan  # a sixth of all pixels is left
    columns["cut_z"][10] = columns["cut_z"][10][:-1]  # wrong length
    arrays = {k: pa.array(v, pa.list_(pa.float32()) if k != "id" else pa.string()) for k, v in columns.items()}
    for name, value in (
        ("a_pixel_det", width[:, 0, 0]),
        ("b_pixel_det", width[:, 0, 0]),
        ("theta_det", np.zeros(ROWS)),
    ):
        arrays[name] = pa.array(value.astype(np.float32))
    pq.write_table(pa.table(arrays), path)


def settings(**training):
    chosen = {"epochs": 60, "batch_size": 16, "learning_rate": 3e-3, "warmup_steps": 20} | training
    return ImageTokenizerConfig(
        ellipse_scale=3.0,
        min_radius=4.0,
        codec=AutoencoderConfig(width=16, n_blocks=1, training=CodecTrainingConfig(**chosen)),
        quantizer=KMeansConfig(n_codes=128),
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Tokenizer, its report, data configuration, cubes, bundle folder."""
    root = tmp_path_factory.mktemp("blobs")
    data = survey(root)
    for seed, name in enumerate(("A", "B")):
        write_cube(root / f"datacube_{name}.parquet", seed)
    cubes = [Datacube(root / f"datacube_{name}.parquet", data) for name in ("A", "B")]
    splits = {cube.field: (np.arange(ROWS) % 5 == 4).astype(np.uint8) for cube in cubes}
    scratch = tmp_path_factory.mktemp("scratch")
    tokenizer = ImageTokenizer(settings(), hardware=CPU, scratch=scratch)
    report = tokenizer.fit(cubes, splits, data, seed=1)
    assert not list(scratch.iterdir()), "the cache is deleted after fitting"
    folder = tmp_path_factory.mktemp("bundle")
    tokenizer.save(folder)
    return tokenizer, report, data, cubes, folder


@pytest.fixture
def images(fitted):
    """The first 50 cutouts of field A."""
    _, _, data, cubes, _ = fitted
    return read_images(next(cubes[0].batches(image_columns(data))), data, "A")


def test_the_report_says_rate_use_and_errors(fitted):
    _, report, *_ = fitted
    assert report["variance_fraction_inside"] < 0.1, "the reconstruction has to beat the mean by a large factor"
    assert report["variance_fraction_inside_unquantized"] <= report["variance_fraction_inside"] * 1.05
    assert report["latent_variance_fraction"] < 0.05
    assert 16 < report["perplexity"] <= report["codes_used"] <= report["n_codes"] == 128
    assert 0 < report["bits_per_object"] <= report["bits_per_object_uncoded"] == 64 * 7
    assert set(report["variance_fraction_inside_per_band"]) == set(BANDS)
    assert report["rmse_outside_sigma"] < 2.0, "outside is noise: the error is about one sigma"
    assert report["held_out"] == "val" and report["n_held_out"] > 40 and report["steps"] > 100
    assert sum(counts.get("wrong_length", 0) for counts in report["found"].values()) == 2
    assert report["found"]["image"]["too_few_valid_pixels"] == 2
    json.dumps({k: v for k, v in report.items() if k != "arrays"}, allow_nan=False)


def test_the_report_says_what_is_left_of_fluxes_shapes_and_places(fitted):
    tokenizer, report, data, cubes, _ = fitted
    found = report["cutouts"]
    assert 0 < found["flux_within"] <= found["flux_within_or_floor"] <= 1
    assert set(found["by_band"]) == set(BANDS) and found["by_band"]["g"]["position"]["n"] > 40
    everything = found["by_snr"][-1]
    assert everything["n"] == sum(row["n"] for row in found["by_snr"][:-1]) > 100
    pull = []  # by hand: held-out rows, the widest aperture, whole pixels
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    circle = x**2 + y**2 <= 100
    for cube in cubes:
        batch = read_images(next(cube.batches(image_columns(data), rows=ROWS)), data, cube.field)
        rows = np.flatnonzero(tokenizer.usable(batch) & (np.arange(ROWS) % 5 == 4) & batch.band_present.all(1))
        coded = tokenizer.decode(tokenizer.encode(batch.select(rows)).tokens).flux
        pull.append(((coded - (batch.flux[rows] - 20.0))[..., circle]).sum(-1) / np.sqrt(circle.sum()))
    within = (np.abs(np.concatenate(pull)) < 1).mean()
    assert everything["flux"]["within"] == pytest.approx(within, abs=0.15)
    scatter = np.subtract(*np.quantile(np.concatenate(pull), [0.84, 0.16])) / 2
    assert 0.4 < everything["flux"]["scatter"] / scatter < 1.6, "of three apertures, of which this is the widest"


def test_errors_are_how_far_noise_moves_the_latents_in_units_of_the_codebook(fitted, images):
    tokenizer, rng = fitted[0], np.random.default_rng(0)
    encoded = tokenizer.encode(images)
    assert encoded.sigma.dtype == np.float16 and ((encoded.sigma > 0) == encoded.present[:, None]).all()
    square = 0.0
    for _ in range(8):
        noisy = copy.deepcopy(images)
        noisy.flux += rng.normal(size=noisy.flux.shape).astype(np.float32) * noisy.valid  # the sky's noise is 1
        square = square + np.square(tokenizer.encode(noisy).latents - encoded.latents).sum(1).reshape(50, -1) / 8
    rows = np.flatnonzero(encoded.present & images.band_present.all(1))
    wanted, found = np.sqrt(square[rows]) / tokenizer.codebook.scale, encoded.sigma[rows].astype(np.float64)
    assert 0.75 < np.sqrt(np.square(found).mean() / np.square(wanted).mean()) < 1.33
    deep = copy.deepcopy(images)  # a third of the noise: pixels nearer to the sky level of 20
    deep.flux = np.where(deep.valid, 20 + (deep.flux - 20) / 3, 0).astype(np.float32)
    ratio = tokenizer.encode(deep).sigma[rows].astype(np.float64)[:, :8] / found[:, :8]
    assert np.median(ratio) < 0.6, "an object with less noise has smaller errors"


def test_the_report_brings_arrays_for_plots(fitted):
    arrays = fitted[1]["arrays"]
    n = len(arrays["true"])
    assert arrays["true"].shape == arrays["reconstruction"].shape == (n, 3, SIZE, SIZE) and 0 < n <= 6
    assert arrays["mask"].shape == (n, SIZE, SIZE) and arrays["bands"] == list(BANDS)


def test_the_sky_noise_is_measured(fitted):
    np.testing.assert_allclose(fitted[0].scaling_.sigma, 1.0, rtol=0.1)


def test_encoding_gives_tokens_latents_and_presence(fitted, images):
    tokenizer = fitted[0]
    encoded = tokenizer.encode(images)
    assert encoded.tokens.shape == (50, 64) and encoded.tokens.dtype == np.uint16
    assert encoded.latents.shape == (50, 2, 8, 8) and encoded.latents.dtype == np.float32
    absent = np.flatnonzero(~encoded.present).tolist()
    assert absent == [5, 9], "no image; too few valid pixels"
    assert (encoded.tokens[absent] == 0).all() and (encoded.latents[absent] == 0).all()
    nearest = tokenizer.dequantize(encoded.tokens)
    distances = np.linalg.norm(encoded.latents[0, :, 3, 4] - tokenizer.codebook.entries, axis=1)
    assert encoded.tokens[0, 3 * 8 + 4] == distances.argmin(), "tokens run row by row over the grid"
    np.testing.assert_array_equal(nearest[0, :, 3, 4], tokenizer.codebook.entries[distances.argmin()])


def test_encoding_leaves_the_batch_as_it_was(fitted, images):
    before = copy.deepcopy(images)
    fitted[0].encode(images)
    np.testing.assert_array_equal(images.flux, before.flux)
    np.testing.assert_array_equal(images.valid, before.valid)


def test_an_object_gets_the_same_tokens_in_any_company(fitted, images):
    tokenizer = fitted[0]
    whole = tokenizer.encode(images)
    for rows in ([3], [49, 3, 20], np.arange(17, 50), np.arange(49, -1, -1)):
        part = tokenizer.encode(images.select(np.asarray(rows)))
        np.testing.assert_array_equal(part.tokens, whole.tokens[rows])
        np.testing.assert_array_equal(part.present, whole.present[rows])


def test_distinct_objects_get_distinct_tokens(fitted, images):
    encoded = fitted[0].encode(images)
    present = encoded.tokens[encoded.present]
    assert len(np.unique(present, axis=0)) == len(present)
    assert len(np.unique(present)) > 20


def test_decoding_gives_flux_above_the_sky(fitted, images):
    tokenizer = fitted[0]
    encoded = tokenizer.encode(images)
    rows = np.array([i for i in range(50) if encoded.present[i] and i not in (7, 8, 10)])
    decoded = tokenizer.decode(encoded.tokens[rows])
    assert decoded.flux.shape == decoded.normalized.shape == (len(rows), 3, SIZE, SIZE)
    core = (slice(None), slice(None), slice(8, 24), slice(8, 24))
    true = (images.flux[rows] - 20)[core].sum((2, 3))
    ratio = decoded.flux[core].sum((2, 3))[true > 500] / true[true > 500]
    assert 0.8 < np.median(ratio) < 1.2
    np.testing.assert_allclose(tokenizer.scaling_.inverse(decoded.normalized), decoded.flux)


def test_the_sky_level_does_not_change_the_tokens(fitted, images):
    brighter = images.select(np.arange(20))
    expected = fitted[0].encode(brighter)
    brighter.flux += np.where(brighter.valid, np.float32(64.0), 0)
    agreement = (fitted[0].encode(brighter).tokens == expected.tokens).mean()
    assert agreement > 0.995


def test_what_invalid_pixels_hold_does_not_change_the_tokens(fitted, images):
    expected = fitted[0].encode(images)
    images.flux[~images.valid] = 12345.0
    np.testing.assert_array_equal(fitted[0].encode(images).tokens, expected.tokens)


def test_a_missing_band_changes_the_tokens_but_the_object_stays(fitted, images):
    encoded = fitted[0].encode(images)
    assert encoded.present[[7, 8, 10]].all()
    images.valid[0, 1] = False
    images.flux[0, 1] = 0
    assert (fitted[0].encode(images).tokens[0] != encoded.tokens[0]).any()


def test_a_saved_tokenizer_gives_identical_tokens(fitted, images):
    tokenizer, report, data, cubes, folder = fitted
    assert {"autoencoder_splus_cuts.pt", "codebook_kmeans_128.joblib", "manifest.json", "report.json"} <= {
        path.name for path in folder.iterdir()
    }
    again = ImageTokenizer.load(folder)
    expected, encoded = tokenizer.encode(images), again.encode(images)
    np.testing.assert_array_equal(encoded.tokens, expected.tokens)
    np.testing.assert_array_equal(encoded.latents, expected.latents)
    np.testing.assert_array_equal(again.decode(encoded.tokens).flux, tokenizer.decode(encoded.tokens).flux)
    np.testing.assert_array_equal(again.codebook.counts, tokenizer.codebook.counts)
    assert again.fingerprint == tokenizer.fingerprint and again.report_["perplexity"] == report["perplexity"]
    again.check(data, cubes)
    copied = pickle.loads(pickle.dumps(again))  # as worker processes get it
    np.testing.assert_array_equal(copied.encode(images).tokens, expected.tokens)


def test_the_codebook_counts_are_plain_usage(fitted):
    tokenizer, report, *_ = fitted
    assert tokenizer.codebook.counts.sum() == report["n_fitted_on"] * 64
    assert (tokenizer.codebook.counts == np.round(tokenizer.codebook.counts)).all()


def test_another_order_of_bands_is_refused_with_both_lists(fitted, images, tmp_path):
    tokenizer, _, _, cubes, _ = fitted
    other = survey(tmp_path, bands=("r", "g", "z"))
    both = r"\['g', 'r', 'z'\].*got \['r', 'g', 'z'\]"
    with pytest.raises(ArtifactError, match=both):
        tokenizer.check(other)
    batch = next(cubes[0].batches(image_columns(other)))
    with pytest.raises(ArtifactError, match=both):
        tokenizer.encode(ImageReader(other, "A").read(batch))


def test_another_size_pixel_scale_or_zero_point_is_refused(fitted, images):
    tokenizer, _, data, _, _ = fitted
    small = copy.copy(images)
    small.flux, small.valid = images.flux[..., :16, :16], images.valid[..., :16, :16]
    with pytest.raises(ArtifactError, match=r"size 32.*got 16"):
        tokenizer.encode(small)
    images.pixel_scale = 0.2
    with pytest.raises(ArtifactError, match=r"pixel scale 0\.55.*got 0\.2"):
        tokenizer.encode(images)
    other = copy.deepcopy(data)
    other.images.bands["g"].zero_point = 30.0
    with pytest.raises(ArtifactError, match="zero_points"):
        tokenizer.check(other)


def test_wrong_tokens_are_refused(fitted):
    with pytest.raises(DataError, match=r"shape \(n, 64\)"):
        fitted[0].decode(np.zeros((2, 63), np.uint16))
    with pytest.raises(DataError, match="codes in 0"):
        fitted[0].decode(np.full((2, 64), 128, np.uint16))


def test_a_survey_without_training_cutouts_is_refused(fitted):
    _, _, data, cubes, _ = fitted
    splits = {cube.field: np.full(ROWS, 2, np.uint8) for cube in cubes}
    for mask in splits.values():
        mask[5] = 0  # the row without images
    with pytest.raises(DataError, match=r"training objects with cutouts.*leave the image tokenizer out"):
        ImageTokenizer(settings(), hardware=CPU).fit(cubes, splits, data)
    for mask in splits.values():
        mask[5], mask[8] = 2, 0  # the row with a tenth of its pixels invalid
    strict = dataclasses.replace(settings(epochs=1), min_valid_fraction=0.95)
    with pytest.raises(DataError, match=r"lower tokenizer\.image\.min_valid_fraction"):
        ImageTokenizer(strict, hardware=CPU).fit(cubes, splits, data)


def test_a_band_that_no_training_object_has_counts_as_missing_everywhere(fitted, tmp_path):
    _, _, data, _, _ = fitted
    write_cube(tmp_path / "datacube_C.parquet", 3)
    table = pq.read_table(tmp_path / "datacube_C.parquet")
    rows = table["cut_z"].to_pylist()
    empty = pa.array([None] * 100 + rows[100:], pa.list_(pa.float32()))
    table = table.set_column(table.column_names.index("cut_z"), "cut_z", empty)
    pq.write_table(table, tmp_path / "datacube_C.parquet")
    cube = Datacube(tmp_path / "datacube_C.parquet", data)
    splits = {"C": np.where(np.arange(ROWS) < 100, 0, 2).astype(np.uint8)}
    tokenizer = ImageTokenizer(settings(epochs=1), hardware=CPU)
    report = tokenizer.fit([cube], splits, data)
    assert tokenizer.scaling_.sigma[2] == 0 and report["held_out"] == "train sample"
    assert report["variance_fraction_inside_per_band"]["z"] is None
    batch = read_images(next(cube.batches(image_columns(data), rows=ROWS)), data, "C").select(np.arange(110, 120))
    tokens = tokenizer.encode(batch).tokens
    batch.flux[:, 2] = 0
    batch.valid[:, 2] = False
    np.testing.assert_array_equal(tokenizer.encode(batch).tokens, tokens)


def test_damaged_missing_and_malicious_bundles_are_refused(fitted, tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"train_tokenizers\.py tokenizer=image"):
        ImageTokenizer.load(tmp_path)
    with pytest.raises(ArtifactError, match="fitted image tokenizer"):
        ImageTokenizer(settings()).decode(np.zeros((1, 64), np.uint16))
    folder = fitted[4]
    weights = (folder / "autoencoder_splus_cuts.pt").read_bytes()
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "autoencoder_splus_cuts.pt").write_bytes(weights[:-100])
    with pytest.raises(ArtifactError):
        ImageTokenizer.load(tmp_path)

    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"codec": Malicious()}, tmp_path / "autoencoder_splus_cuts.pt")
    from astromodal.tokenizers.image.bundle import read_bundle

    with pytest.raises(UnsafeFileError):
        read_bundle(ImageTokenizer, tmp_path)
    assert not (tmp_path / "executed").exists()


def test_real_nine_band_cutouts_go_from_cube_to_tokens(realdata, tmp_path):
    points = {"u": 0.0, "g": 0.0, "r": 0.0, "i": 0.0, "Z": 30.0, "Y": 30.0, "J": 30.0, "H": 30.0, "Ks": 30.0}
    bands = {name: BandConfig(column=f"kids_cut_{name}", zero_point=point) for name, point in points.items()}
    data = DataConfig(
        name="kids",
        root=str(realdata / "kids"),
        ra_column=None,
        dec_column=None,
        images=ImageConfig(bands=bands, pixel_scale=0.2),
    )
    cubes = [Datacube(realdata / "kids" / f"datacube_KIDS-{name}.parquet", data) for name in "AB"]
    splits = {cube.field: (np.arange(cube.n_rows) % 6 == 5).astype(np.uint8) for cube in cubes}
    tokenizer = ImageTokenizer(settings(epochs=10), hardware=CPU)
    report = tokenizer.fit(cubes, splits, data)
    assert report["n_tokens"] == 576 and report["n_train"] == 180
    # most of a faint cutout's variance is noise, which no two numbers per patch can hold
    assert report["variance_fraction_inside"] < 0.75
    assert report["variance_fraction_inside_per_band"]["r"] < 0.75
    sky = np.array([8.5e-3, 4.0e-3, 4.4e-3, 9.1e-3, 6.59e-3, 11.7e-3, 14.5e-3, 36.6e-3, 46.6e-3])  # nMgy, README
    np.testing.assert_allclose(tokenizer.scaling_.sigma, sky, rtol=0.4)
    tokenizer.save(tmp_path)
    batch = read_images(next(cubes[1].batches(image_columns(data))), data, "KIDS-B")
    encoded = ImageTokenizer.load(tmp_path).encode(batch)
    np.testing.assert_array_equal(encoded.tokens, tokenizer.encode(batch).tokens)
    assert encoded.present.all() and len(np.unique(encoded.tokens, axis=0)) == len(encoded.tokens)


# ------------------------------------------------------------------------------------- fluxes of rings


def test_a_decoded_cutout_has_the_fluxes_of_its_ring_tokens(images):
    flux = (images.flux - 20.0 * images.valid)[images.band_present.all(1)]
    rings = FluxRings([3, 6, 10], np.ones(3), SIZE)
    values = rings.values(flux)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    whole = (flux * (x**2 + y**2 <= 100)).sum((2, 3))
    found = 30.0 * rings.error * np.sinh(values.reshape(-1, 3, 3))
    np.testing.assert_allclose(found.sum(2), whole, rtol=0.005, atol=15.0)  # of pixels at the rim, which are shared
    rings.fit(values)
    codes = rings.encode(values)
    assert codes.shape == (len(flux), 9) == (len(flux), rings.n_tokens) and rings.codebook.counts.sum() == codes.size
    for start in (np.zeros_like(flux), 0.7 * flux, -flux):
        again = rings.values(rings.applied(start, codes))
        error = 30.0 * rings.error * (np.sinh(again) - np.sinh(values)).reshape(-1, 3, 3)
        allowed = np.maximum(0.2 * rings.error, 0.003 * np.abs(found))
        assert (np.abs(error) < allowed).all(), "whatever the grid shows"
    shape = rings.applied(0.7 * flux, codes)  # a cutout that is too faint becomes brighter, not another one
    bright = found.sum(2) > 300
    assert np.abs(shape - flux)[bright].max() < 0.1 * np.abs(flux)[bright].max() and bright.sum() > 20
    sigma = rings.sigma(values, np.full((len(flux), 3), 4.0))
    expected = 2.0 * rings.error / np.hypot(found, 30.0 * rings.error) / rings.codebook.scale
    np.testing.assert_allclose(sigma.reshape(found.shape), expected, rtol=0.01)
    with pytest.raises(ConfigError, match=r"radii that grow, up to 16 px.*flux_radii"):
        FluxRings([6, 3], np.ones(3), SIZE)


def test_pixels_that_are_not_valid_have_the_flux_of_the_grid():
    rings = FluxRings([4], np.ones(1), SIZE)
    flux, valid = np.full((2, 1, SIZE, SIZE), 2.0), np.ones((2, 1, SIZE, SIZE), bool)
    valid[1, 0, SIZE // 2] = False
    assert rings.incomplete(valid).tolist() == [False, True]
    spoilt = np.where(valid, flux, 1e6)
    np.testing.assert_allclose(rings.values(spoilt, valid, flux), rings.values(flux))


def test_rings_make_fluxes_right_and_are_a_part_of_sequences(fitted, tmp_path):
    _, _, data, cubes, _ = fitted
    splits = {cube.field: (np.arange(ROWS) % 5 == 4).astype(np.uint8) for cube in cubes}
    config = dataclasses.replace(settings(max_steps=15), flux_radii=[3.0, 6.0, 10.0])
    config = dataclasses.replace(config, codec=dataclasses.replace(config.codec, patch_size=8))
    tokenizer = ImageTokenizer(config, CPU, tmp_path)
    report = tokenizer.fit(cubes, splits, data)
    assert report["n_tokens"] == 16 + 9 and report["cutouts"]["flux_within"] > 0.95
    assert tokenizer.parts == ("image", "image.1") and tokenizer.length("image.1") == 9
    batch = read_images(next(cubes[0].batches(image_columns(data))), data, "A")
    encoded = tokenizer.encode(batch)
    parts = tokenizer.by_part(encoded)
    assert [codes.shape for codes, _ in parts.values()] == [(50, 16), (50, 9)]
    sigma, has = parts["image.1"][1].reshape(50, 3, 3).astype(float), batch.band_present & encoded.present[:, None]
    assert ((sigma[encoded.present] == MAX_SIGMA) == ~has[encoded.present][..., None]).all() and (sigma[has] > 0).all()
    flux = tokenizer.decode_parts([codes for codes, _ in parts.values()]).flux
    rows = np.flatnonzero(encoded.present & batch.valid.all((1, 2, 3)))
    level = np.array([np.median(batch.flux[r].reshape(3, -1), axis=1) for r in rows])
    wanted = (batch.flux[rows] - level[..., None, None])[..., 12:21, 12:21].sum((2, 3))
    error = np.abs(flux[rows][..., 12:21, 12:21].sum((2, 3)) - wanted)
    assert np.median(error / np.maximum(0.1 * np.abs(wanted), 9.0)) < 1
    layout = build_layout(TokenizerSet(image=tokenizer), ["image"])
    assert [(s.name, s.length, s.size) for s in layout.segments] == [("image", 16, 128), ("image.1", 9, 2048)]
    tokenizer.save(tmp_path / "saved")
    again = ImageTokenizer.load(tmp_path / "saved").encode(batch)
    assert np.array_equal(again.rings, encoded.rings) and np.array_equal(again.ring_sigma, encoded.ring_sigma)


def test_fluxes_beyond_the_levels_are_counted_by_band():
    rings = FluxRings([3, 6], np.ones(2), SIZE)
    flux = np.random.default_rng(0).normal(5.0, 1.0, (4, 2, SIZE, SIZE))
    rings.fit(rings.values(flux))
    assert not rings.clipped(rings.values(flux)).any()
    flux[1, 0] *= 1e4
    flux[2, 1] *= -1e4
    values = rings.values(flux)
    assert rings.clipped(values).tolist() == [[False, False], [True, False], [False, True], [False, False]]
    assert rings.encode(values).reshape(4, 2, 2)[1, 0].tolist() == [N_LEVELS - 1] * 2
