"""Tokenizers with other quantizers than k-means: shapes, parts, files, bundles of before, refusals."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from astromodal.config.schema import FSQConfig, KMeansConfig, ResidualKMeansConfig, SpectrumTokenizerConfig
from astromodal.data.datacube import Datacube
from astromodal.data.images import read_images
from astromodal.data.spectra import read_spectra
from astromodal.errors import ArtifactError, ConfigError, DataError
from astromodal.files.io import load_joblib, load_npz, save_npz
from astromodal.loss.standardize import CodedTable, build_tables
from astromodal.provenance import manifest
from astromodal.sequences.layout import build_layout
from astromodal.sequences.names import quantities
from astromodal.sequences.slots import check_field, segment_tokens
from astromodal.tokenizers import SpectrumTokenizer, TokenizerSet
from astromodal.tokenizers.image.tokenizer import ImageTokenizer
from astromodal.tokenizers.spectrum.tokenizer import FILE_NAME
from astromodal.tokens import TokenStore, encode_survey
from tests.tokenizers.survey import make_survey, whole
from tests.tokenizers.test_image import CPU, ROWS, settings, write_cube
from tests.tokenizers.test_image import survey as image_survey

RESIDUAL = ResidualKMeansConfig(n_stages=3, n_codes=24)


def spectra_with(quantizer, **changes) -> SpectrumTokenizer:
    return SpectrumTokenizer(
        SpectrumTokenizerConfig(patch_size=8, patch_sizes={"xp": 10}, quantizer=quantizer, **changes)
    )


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    """Survey, a tokenizer with three stages, its report, and one batch of a group."""
    data, cubes, splits = make_survey(tmp_path_factory.mktemp("survey"))
    tokenizer = spectra_with(RESIDUAL)
    report = tokenizer.fit(cubes, splits, data)
    return data, cubes, splits, tokenizer, report, read_spectra(whole(cubes[0]), data, "blue")


# ------------------------------------------------------------------------------------------ spectra


def test_every_stage_of_a_group_is_a_part_with_its_own_codebook(spectra):
    _, _, _, tokenizer, _, _ = spectra
    assert tokenizer.groups == ("blue", "red", "xp")
    assert list(tokenizer.parts) == [f"{group}{stage}" for group in tokenizer.groups for stage in ("", ".1", ".2")]
    assert [tokenizer.length(part) for part in ("blue", "blue.1", "xp.2")] == [10, 10, 1]
    books = tokenizer.codebooks()
    assert list(books) == list(tokenizer.parts)
    assert books["blue.1"].scale < books["blue"].scale  # a stage codes what is left over
    with pytest.raises(ArtifactError, match=r"got blue\.3"):
        tokenizer.length("blue.3")


def test_stages_add_up_and_every_one_lowers_the_error(spectra):
    _, _, _, tokenizer, _, blue = spectra
    tokens, present = tokenizer.encode("blue", blue)
    assert tokens.shape == (len(blue.flux), 10, 3) and tokens.dtype == np.uint16
    flux, valid = blue.flux[present], blue.precision[present] > 0
    books = tokenizer.codebooks()
    entries, errors = 0.0, []
    for stage, part in enumerate(("blue", "blue.1", "blue.2")):
        entries = entries + books[part].entries[tokens[present][..., stage]]
        errors.append(((tokenizer.decode_features("blue", entries) - flux)[valid] ** 2).mean())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.8 * errors[0]
    np.testing.assert_allclose(
        tokenizer.decode_normalized("blue", tokens[present]), tokenizer.decode_features("blue", entries), atol=1e-5
    )
    with pytest.raises(DataError, match=r"\(n, 10, 3\)"):
        tokenizer.decode_normalized("blue", tokens[present][..., 0])


def test_parts_hold_what_the_stages_hold_and_errors_in_each_stage_s_units(spectra):
    _, _, _, tokenizer, _, blue = spectra
    tokens, present = tokenizer.encode("blue", blue)
    parts, books = tokenizer.encode_parts("blue", blue), tokenizer.codebooks()
    assert list(parts) == ["blue", "blue.1", "blue.2"]
    first = parts["blue"][2].astype(float)
    for stage, (part, (codes, seen, sigma)) in enumerate(parts.items()):
        assert np.array_equal(codes, tokens[..., stage]) and np.array_equal(seen, present)
        inside = (first > 0) & (sigma < 100)
        ratio = books["blue"].scale / books[part].scale
        np.testing.assert_allclose(sigma[inside], first[inside] * ratio, rtol=3e-3)


def test_the_report_counts_every_stage(spectra):
    report = spectra[4]["groups"]["blue"]
    assert report["n_tokens"] == 30 and len(report["stages"]) == 3
    assert report["bits_per_object"] == pytest.approx(10 * sum(stage["bits"] for stage in report["stages"]))
    assert report["codes_used"] == sum(stage["codes_used"] for stage in report["stages"]) > 24
    assert len(report["fit_distortion"]) == 3 and report["fit_distortion"][2] < report["fit_distortion"][0]


def test_a_saved_tokenizer_of_stages_gives_the_same_codes(spectra, tmp_path):
    _, _, _, tokenizer, _, blue = spectra
    tokenizer.save(tmp_path)
    again = SpectrumTokenizer.load(tmp_path)
    assert np.array_equal(again.encode("blue", blue)[0], tokenizer.encode("blue", blue)[0])
    assert again.config.quantizer == RESIDUAL and again.report_["groups"]["blue"]["stages"]
    names = sorted(path.name for path in tmp_path.glob("*.joblib"))
    assert names == [f"spectrum_residual_kmeans_{group}.joblib" for group in ("blue", "red", "xp")]
    assert set(load_joblib(tmp_path / names[0])) == set(tokenizer.codecs["blue"].quantizer.state())
    summary = TokenizerSet(spectrum=again).summary()["spectrum"]["groups"]
    assert summary["red.2"] == {"n_codes": 24, "n_tokens": 10, "patch_size": 8}


def test_codebooks_of_another_quantizer_do_not_stay_behind(spectra, tmp_path):
    data, cubes, splits, tokenizer, _, _ = spectra
    tokenizer.save(tmp_path)
    plain = spectra_with(KMeansConfig(n_codes=16), groups=["blue"])
    plain.fit(cubes, splits, data)
    plain.save(tmp_path)
    assert [path.name for path in tmp_path.glob("*.joblib")] == ["spectrum_kmeans_blue.joblib"]
    SpectrumTokenizer.load(tmp_path)


def test_patches_whose_codes_were_chosen_otherwise_are_refused(spectra, tmp_path):
    data, cubes, splits, *_ = spectra
    tokenizer = spectra_with(KMeansConfig(n_codes=16), groups=["blue"])
    tokenizer.fit(cubes, splits, data)
    tokenizer.save(tmp_path)
    arrays = load_npz(tmp_path / FILE_NAME)
    del arrays["format"]  # as it was before pixels were weighted
    save_npz(tmp_path / FILE_NAME, arrays)
    files = [tmp_path / FILE_NAME, tmp_path / "spectrum_kmeans_blue.joblib"]
    manifest.write_manifest(tmp_path, kind="spectrum_tokenizer", config={}, inputs={}, files=files, run_id="")
    with pytest.raises(ArtifactError, match=r"format 5, got format 1 .*run python train_tokenizers.py tokenizer=spec"):
        SpectrumTokenizer.load(tmp_path)


def test_a_bundle_of_a_quantizer_that_is_gone_is_refused_in_one_line(spectra, tmp_path):
    spectra[3].save(tmp_path)
    arrays = load_npz(tmp_path / FILE_NAME)
    config = json.loads(str(arrays["config_json"]))
    config["quantizer"]["name"] = "vq"
    save_npz(tmp_path / FILE_NAME, arrays | {"config_json": np.array(json.dumps(config))})
    files = [tmp_path / FILE_NAME, *tmp_path.glob("*.joblib")]
    manifest.write_manifest(tmp_path, kind="spectrum_tokenizer", config={}, inputs={}, files=files, run_id="")
    with pytest.raises(ConfigError, match=r"kmeans, residual_kmeans, fsq, got vq"):
        SpectrumTokenizer.load(tmp_path)


def test_levels_for_patches_are_refused_before_a_spectrum_is_read(spectra, monkeypatch):
    data, cubes, splits, *_ = spectra
    monkeypatch.setattr(Datacube, "batches", lambda *a, **k: pytest.fail("a spectrum was read"))
    with pytest.raises(
        ConfigError, match=r"4 numbers.*got vectors of 8 .*8 pixels.*codec with as many latent_channels"
    ):
        spectra_with(FSQConfig()).fit(cubes, splits, data)


def test_the_documented_pair_of_flux_and_precision_can_have_levels(spectra):
    data, cubes, splits, *_, blue = spectra
    config = SpectrumTokenizerConfig(groups=["blue"], patch_size=1, quantizer=FSQConfig(levels=[64, 8]))
    tokenizer = SpectrumTokenizer(dataclasses.replace(config, precision_weight=0.25))
    report = tokenizer.fit(cubes, splits, data)["groups"]["blue"]
    tokens, present = tokenizer.encode("blue", blue)
    assert tokens.shape[1] == 75 and report["n_codes"] == 512
    decoded, valid = tokenizer.decode_normalized("blue", tokens[present]), blue.precision[present] > 0
    assert np.abs(decoded - blue.flux[present])[valid].mean() < 0.1


# ------------------------------------------------------------------------------------------- images


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    root = tmp_path_factory.mktemp("blobs")
    data = image_survey(root)
    write_cube(root / "datacube_A.parquet", 0)
    cube = Datacube(root / "datacube_A.parquet", data)
    return data, [cube], {"A": (np.arange(ROWS) % 5 == 4).astype(np.uint8)}


def images_with(quantizer, latent_channels: int = 2) -> ImageTokenizer:
    config = settings(max_steps=20)
    codec = dataclasses.replace(config.codec, latent_channels=latent_channels)
    return ImageTokenizer(dataclasses.replace(config, codec=codec, quantizer=quantizer), CPU)


@pytest.mark.parametrize(
    "quantizer, channels, stages, label",
    [
        (RESIDUAL, 2, (3,), "residual_kmeans_3x24"),
        (FSQConfig(levels=[5, 4, 3]), 3, (), "fsq_5-4-3"),
        (FSQConfig(levels=[3] * 9), 9, (), "fsq_3-3-3-3-3-3-3-3-3"),
    ],
)
def test_cutouts_become_codes_of_any_quantizer_and_back(blobs, tmp_path, quantizer, channels, stages, label):
    data, cubes, splits = blobs
    tokenizer = images_with(quantizer, channels)
    report = tokenizer.fit(cubes, splits, data)
    batch = read_images(whole(cubes[0]), data, "A")
    coded = tokenizer.encode(batch)
    assert coded.tokens.shape == (ROWS, 64, *stages) and coded.tokens.dtype == np.uint16
    assert tokenizer.n_stages == (stages or (1,))[0]
    latents = tokenizer.dequantize(coded.tokens[coded.present])
    assert latents.shape == coded.latents[coded.present].shape
    error = ((latents - coded.latents[coded.present]) ** 2).mean()
    assert error < 0.5 * coded.latents[coded.present].var((0, 2, 3)).mean()
    assert tokenizer.decode(coded.tokens[:3]).normalized.shape == (3, 3, 32, 32)
    with pytest.raises(DataError, match="image tokens of shape"):
        tokenizer.decode(coded.tokens[:3, :5])
    n_tokens = 64 * (stages or (1,))[0]
    assert report["n_tokens"] == n_tokens and report["codes_used"] <= report["n_codes"]
    assert 0 < report["bits_per_object"] <= report["bits_per_object_uncoded"] and report["perplexity_fraction"] <= 1
    assert ("stages" in report) == ("fit_distortion" in report) == bool(stages)
    assert ("fit_clipped_share" in report) == (not stages)
    tokenizer.save(tmp_path)
    assert (tmp_path / f"codebook_{label}.joblib").is_file()
    again = ImageTokenizer.load(tmp_path)
    assert np.array_equal(again.encode(batch).tokens, coded.tokens)
    assert TokenizerSet(image=again).summary()["image"]["n_codes"] == sum(tokenizer.quantizer_.sizes)


def test_levels_for_another_number_of_latents_are_refused_before_training(blobs, monkeypatch):
    data, cubes, splits = blobs
    monkeypatch.setattr(
        "astromodal.tokenizers.image.tokenizer.train_codec", lambda *a: pytest.fail("the codec was trained")
    )
    with pytest.raises(ConfigError, match=r"2 numbers.*\[8, 8\], got vectors of 3 \(latents.*latent_channels=2"):
        images_with(FSQConfig(levels=[8, 8]), 3).fit(cubes, splits, data)


def test_several_codes_per_position_of_an_image_are_parts_of_a_sequence(blobs, tmp_path):
    data, cubes, splits = blobs
    tokenizer = images_with(RESIDUAL)
    tokenizer.fit(cubes, splits, data)
    tokenizer.save(tmp_path / "image")
    tokenizers = TokenizerSet(image=tokenizer)
    encode_survey(cubes, tokenizers, splits, data, tmp_path)
    field = TokenStore(tmp_path).open("A")
    assert list(field.spectra) == ["image.1", "image.2"]
    layout = build_layout(tokenizers, ["image"])
    assert [(s.name, s.modality, s.length) for s in layout.segments] == [(p, "image", 64) for p in tokenizer.parts]
    assert list(quantities(layout)) == ["image"] and len(quantities(layout)["image"]) == 3
    check_field(field, layout)
    coded = tokenizer.encode(read_images(whole(cubes[0]), data, "A"))
    for stage, segment in enumerate(layout.segments):
        ids, sigma, present = segment_tokens(field, segment, layout, 0, ROWS)
        assert np.array_equal(present, coded.present)
        assert np.array_equal(ids[present] - segment.base, coded.tokens[present, :, stage])
        assert np.array_equal(sigma[present], coded.sigma[present, :, stage]) and (sigma[present] > 0).all()
    parts = [coded.tokens[:3, :, stage] for stage in range(3)]
    np.testing.assert_array_equal(tokenizer.decode_parts(parts).flux, tokenizer.decode(coded.tokens[:3]).flux)
    tables = [t for t in build_tables(layout.vocab, tokenizers.codebooks()).blocks if isinstance(t, CodedTable)]
    assert [table.modality for table in tables] == ["image"] * 3
    for table, book in zip(tables, tokenizer.quantizer_.codebooks, strict=True):
        np.testing.assert_allclose(table.entries * table.scale + table.mean, book.entries, rtol=1e-4, atol=1e-6)
