"""Spectra as tokens, one codebook per group: coverage, masks, missing spectra, saving, a predecessor's mistakes."""

from __future__ import annotations

import copy
import dataclasses
import logging

import numpy as np
import pytest

from astromodal.config.schema import KMeansConfig, SpectrumTokenizerConfig
from astromodal.data.spectra import SpectrumBatch, read_spectra
from astromodal.errors import ArtifactError, ConfigError, DataError
from astromodal.files.io import load_codebook, load_npz_key
from astromodal.tokenizers import SpectrumTokenizer
from astromodal.tokenizers.spectrum.groups import standardisation
from tests.tokenizers.survey import N_PIXELS, make_survey, whole

CONFIG = SpectrumTokenizerConfig(patch_size=8, quantizer=KMeansConfig(n_codes=128), patch_sizes={"xp": 10})


@pytest.fixture(scope="module")
def fitted(survey):
    data, cubes, splits = survey
    tokenizer = SpectrumTokenizer(CONFIG)
    return tokenizer, tokenizer.fit(cubes, splits, data)


@pytest.fixture
def blue(survey):
    data, cubes, _ = survey
    return read_spectra(whole(cubes[0]), data, "blue")


def changed(batch: SpectrumBatch, **arrays) -> SpectrumBatch:
    return dataclasses.replace(batch, **arrays)


def test_tokens_cover_the_whole_range_of_every_group(fitted, survey):
    tokenizer, (data, cubes, _) = fitted[0], survey
    assert tokenizer.groups == ("blue", "red", "xp")
    assert [tokenizer.length(g) for g in tokenizer.groups] == [10, 10, 1]
    for group in tokenizer.groups:
        tokens, present = tokenizer.encode(group, read_spectra(whole(cubes[0]), data, group))
        assert tokens.dtype == np.uint16 and tokens.shape == (cubes[0].n_rows, tokenizer.length(group))
        assert 0 < present.sum() < cubes[0].n_rows


@pytest.mark.parametrize("pixel", [0, 44, N_PIXELS - 1])
def test_a_change_anywhere_in_the_spectrum_reaches_the_tokens(fitted, blue, pixel):
    seen = np.flatnonzero(blue.present & (blue.precision[:, pixel] > 0))
    flux = blue.flux.copy()
    flux[:, pixel] += 3.0
    before, _ = fitted[0].encode("blue", blue)
    after, _ = fitted[0].encode("blue", changed(blue, flux=flux))
    assert (before[seen, pixel // 8] != after[seen, pixel // 8]).mean() > 0.9
    others = np.delete(before != after, pixel // 8, 1)[seen]
    assert others.mean() < 0.1  # only where it was smoothed with this pixel, or a masked one is filled from it


def test_distinct_spectra_get_distinct_tokens(fitted, blue):
    tokens, present = fitted[0].encode("blue", blue)
    assert len(np.unique(tokens[present], axis=0)) > 0.98 * present.sum()


def test_a_missing_spectrum_is_not_present_and_is_no_code(fitted, blue):
    tokens, present = fitted[0].encode("blue", blue)
    assert np.array_equal(present, blue.present) and (tokens[~present] == 0).all()
    alone = changed(blue, present=np.zeros_like(blue.present))
    assert not fitted[0].encode("blue", alone)[1].any()


def test_the_value_of_a_masked_pixel_does_not_change_tokens(fitted, blue):
    masked = (blue.precision == 0) & blue.present[:, None]
    noise = np.random.default_rng(0).normal(0, 1e6, blue.flux.shape).astype(np.float32)
    tokens, _ = fitted[0].encode("blue", blue)
    spoiled, _ = fitted[0].encode("blue", changed(blue, flux=np.where(masked, noise, blue.flux)))
    nans, _ = fitted[0].encode("blue", changed(blue, flux=np.where(masked, np.nan, blue.flux)))
    assert masked.sum() > 100 and np.array_equal(tokens, spoiled) and np.array_equal(tokens, nans)


def test_groups_have_their_own_codebooks(fitted):
    books = fitted[0].codebooks()
    assert set(books) == {"blue", "red", "xp"}
    assert books["blue"].entries.shape == (128, 8) and books["xp"].entries.shape[1] == 10
    assert not np.array_equal(books["blue"].entries, books["red"].entries)
    assert books["blue"].counts.sum() == fitted[1]["groups"]["blue"]["n_fit_patches"]


def test_decoding_gives_flux_in_physical_units_on_the_grid(fitted, blue):
    tokenizer = fitted[0]
    tokens, present = tokenizer.encode("blue", blue)
    flux = tokenizer.decode("blue", tokens[present], blue.scale[present])
    assert flux.shape == (present.sum(), N_PIXELS) and flux.dtype == np.float64
    valid = blue.precision[present] > 0
    error = (flux / blue.scale[present, None] - blue.flux[present])[valid]
    assert error.std() < 0.4 * blue.flux[present][valid].std()
    normalized = tokenizer.decode_normalized("blue", tokens[present])
    assert np.allclose(flux, normalized * blue.scale[present, None], rtol=1e-5)


def test_spectra_without_ivar_get_a_neutral_precision(fitted, survey):
    data, cubes, _ = survey
    tokenizer, red = fitted[0], read_spectra(whole(cubes[0]), data, "red")
    without = red.present & ~red.has_ivar
    assert without.sum() > 20 and tokenizer.codecs["red"].neutral > 2  # not the 1 of the reader
    scaled = changed(red, precision=np.where(without[:, None], red.precision * 7, red.precision))
    assert np.array_equal(tokenizer.encode("red", red)[0], tokenizer.encode("red", scaled)[0])


def test_coefficients_are_standardised_each(fitted, survey):
    data, cubes, _ = survey
    tokenizer, batch = fitted[0], read_spectra(whole(cubes[0]), data, "xp")
    codec = tokenizer.codecs["xp"]
    standard = ((batch.flux - codec.center) / codec.spread)[batch.present]
    assert np.abs(standard.mean(0)).max() < 0.3 and np.abs(standard.std(0) - 1).max() < 0.3
    assert (tokenizer.codecs["blue"].center == 0).all() and (tokenizer.codecs["blue"].spread == 1).all()


def test_outliers_do_not_set_the_scale_of_a_coefficient():
    rng = np.random.default_rng(0)
    raw = np.ones((1000, 4))
    raw[:, :2] = rng.normal([5, -3], [2, 0.1], (1000, 2))
    raw[:5, 0] = 1e6
    center, spread = standardisation(raw, np.zeros(1000, int), 2)
    assert center == pytest.approx([5, -3], abs=0.3) and spread == pytest.approx([2, 0.1], rel=0.15)


def test_patch_size_one_with_a_precision_is_the_documented_pair(survey):
    data, cubes, splits = survey
    config = SpectrumTokenizerConfig(groups=["blue"], patch_size=1, quantizer=KMeansConfig(n_codes=64))
    for weight, width in ((0.25, 2), (0.0, 1)):
        tokenizer = SpectrumTokenizer(dataclasses.replace(config, precision_weight=weight))
        report = tokenizer.fit(cubes, splits, data)
        assert tokenizer.length("blue") == N_PIXELS and tokenizer.codebooks()["blue"].entries.shape == (64, width)
        assert report["groups"]["blue"]["fraction_of_variance"] < 0.1


def test_precisions_can_be_numbers_beside_the_flux_and_are_not_decoded(survey, blue, tmp_path):
    data, cubes, splits = survey
    tokenizer = SpectrumTokenizer(dataclasses.replace(CONFIG, groups=["blue"], patch_sizes={}, precision_weight=0.25))
    tokenizer.fit(cubes, splits, data)
    entries = tokenizer.codebooks()["blue"].entries
    assert entries.shape == (128, 16) and (entries[:, 8:] > 0.1).mean() > 0.9
    tokens, present = tokenizer.encode("blue", blue)
    decoded, valid = tokenizer.decode_normalized("blue", tokens[present]), blue.precision[present] > 0
    assert np.abs(decoded - blue.flux[present])[valid].mean() < 0.1
    tokenizer.save(tmp_path)
    assert np.array_equal(SpectrumTokenizer.load(tmp_path).encode("blue", blue)[0], tokens)


def test_the_report_holds_rate_and_error_of_held_out_spectra(fitted, survey):
    entry, (data, cubes, splits) = fitted[1]["groups"]["blue"], survey
    n = sum((read_spectra(whole(c), data, "blue").present & (splits[c.field] == 1)).sum() for c in cubes)
    assert entry["split"] == "val" and entry["n_spectra"] == n
    assert 0 < entry["fraction_of_variance"] < 0.3 and 0 < entry["rmse_normalized"] < 0.2
    assert 0.3 < entry["chi2_per_pixel"] < 6 and 0.3 < entry["median_error_over_noise"] < 2
    everything = entry["by_snr"][-1]
    assert everything["n"] == n and everything["chi2_pooled"] == pytest.approx(entry["chi2_per_pixel"], rel=1e-4)
    assert sum(row["n"] for row in entry["by_snr"][:-1]) == n
    assert entry["bits_per_object"] <= 10 * np.log2(entry["codes_used"]) and entry["perplexity"] <= entry["codes_used"]
    arrays = fitted[1]["arrays"]["blue"]
    assert arrays["wave"].shape == (N_PIXELS,)
    assert arrays["flux"].shape == arrays["reconstruction"].shape == arrays["ivar"].shape == (4, N_PIXELS)


def test_the_reservoir_bounds_what_is_fitted(survey):
    data, cubes, splits = survey
    quantizer = KMeansConfig(n_codes=16, max_fit_rows=500)
    tokenizer = SpectrumTokenizer(SpectrumTokenizerConfig(groups=["blue"], patch_size=8, quantizer=quantizer))
    report = tokenizer.fit(cubes, splits, data)
    assert tokenizer.codebooks()["blue"].counts.sum() == 500 and report["groups"]["blue"]["n_fit_patches"] > 3000


def test_only_training_rows_are_learned_from(tmp_path):
    def spoil(rows):
        wild = (7 + 90 * np.sin(np.arange(N_PIXELS))).tolist()
        rows["blue_flux"][::2] = [None if flux is None else wild for flux in rows["blue_flux"][::2]]

    data, cubes, _ = make_survey(tmp_path, change=spoil)
    splits = {cube.field: np.arange(cube.n_rows) % 2 == 0 for cube in cubes}  # even rows are validation
    tokenizer = SpectrumTokenizer(dataclasses.replace(CONFIG, groups=["blue"], patch_sizes={}))
    tokenizer.fit(cubes, splits, data)
    assert tokenizer.codebooks()["blue"].entries[:, :8].min() > -2


def test_a_group_without_spectra_is_skipped_and_said(tmp_path, caplog):
    def without_red(rows):
        rows["red_flux"] = [None] * len(rows["id"])

    data, cubes, splits = make_survey(tmp_path, change=without_red)
    tokenizer = SpectrumTokenizer(CONFIG)
    with caplog.at_level(logging.WARNING):
        report = tokenizer.fit(cubes, splits, data)
    assert tokenizer.groups == ("blue", "xp") and "red" not in tokenizer.codebooks() and "red" in report["skipped"]
    assert "spectrum group red: no spectrum" in caplog.text
    tokenizer.save(tmp_path / "saved")
    with pytest.raises(ArtifactError, match=r"blue, xp.*got red; no spectrum in the training split"):
        SpectrumTokenizer.load(tmp_path / "saved").length("red")


def test_no_spectrum_at_all_names_the_columns(tmp_path):
    def empty(rows):
        for name in ("blue_flux", "red_flux", "xp_coefficients"):
            rows[name] = [None] * len(rows["id"])

    data, cubes, splits = make_survey(tmp_path, change=empty)
    with pytest.raises(DataError, match=r"columns blue_flux, red_flux, xp_coefficients"):
        SpectrumTokenizer(CONFIG).fit(cubes, splits, data)


def test_few_spectra_give_fewer_codes_and_say_so(survey, caplog):
    data, cubes, _ = survey
    splits = {cube.field: (np.arange(cube.n_rows) > 8).astype(np.uint8) for cube in cubes}
    tokenizer = SpectrumTokenizer(CONFIG)
    with caplog.at_level(logging.WARNING):
        tokenizer.fit(cubes, splits, data)
    assert 1 < tokenizer.codebooks()["blue"].entries.shape[0] < 128
    assert "codes instead of 128" in caplog.text


def test_a_saved_tokenizer_gives_the_same_codes(fitted, survey, tmp_path):
    tokenizer, (data, cubes, _) = fitted[0], survey
    tokenizer.save(tmp_path)
    again = SpectrumTokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    again.check(data, cubes)
    for group in tokenizer.groups:
        batch = read_spectra(whole(cubes[1]), data, group)
        tokens, present = tokenizer.encode(group, batch)
        assert np.array_equal(tokens, again.encode(group, batch)[0])
        assert np.array_equal(
            tokenizer.decode(group, tokens[present], batch.scale[present]),
            again.decode(group, tokens[present], batch.scale[present]),
        )


def test_the_documented_files_can_be_read(fitted, survey, tmp_path):
    fitted[0].save(tmp_path)
    book = load_codebook(tmp_path / "spectrum_kmeans_blue.joblib", key_candidates=("centroids", "codebook", "centers"))
    assert np.array_equal(book, fitted[0].codebooks()["blue"].entries)
    assert np.array_equal(load_npz_key(tmp_path / "spectrum_tokenizer_config.npz", ("centroids_blue",)), book)
    data, cubes, splits = survey
    single = SpectrumTokenizer(dataclasses.replace(CONFIG, groups=["red"], patch_sizes={}))
    single.fit(cubes, splits, data)
    single.save(tmp_path)  # over the earlier one: files of groups that are gone go too
    red = load_npz_key(tmp_path / "spectrum_tokenizer_config.npz", ("centroids", "codebook", "centers"))
    assert np.array_equal(red, single.codebooks()["red"].entries)
    assert not (tmp_path / "spectrum_kmeans_blue.joblib").exists()
    SpectrumTokenizer.load(tmp_path)


def test_another_grid_is_refused_with_both_values(fitted, survey):
    tokenizer, data = fitted[0], copy.deepcopy(survey[0])
    data.spectra["red"].wave_max += 2.0
    with pytest.raises(ArtifactError, match=r"spectra.red.wave_max = 4148.0.*got 4150.0.*train_tokenizers.py"):
        tokenizer.check(data)


def test_a_batch_of_another_length_is_refused(fitted, blue):
    short = changed(blue, flux=blue.flux[:, :-1], precision=blue.precision[:, :-1])
    with pytest.raises(ArtifactError, match="75 pixels"):
        fitted[0].encode("blue", short)
    with pytest.raises(DataError, match=r"tokens of shape \(n, 10\)"):
        fitted[0].decode("blue", np.zeros((2, 9), np.uint16), np.ones(2))


def test_an_unknown_group_is_named(survey):
    data, cubes, splits = survey
    with pytest.raises(ConfigError, match=r"got bleu.*blue"):
        SpectrumTokenizer(dataclasses.replace(CONFIG, groups=["bleu"])).fit(cubes, splits, data)


def test_the_same_seed_gives_the_same_bundle(survey, tmp_path):
    data, cubes, splits = survey
    prints = set()
    for k in range(2):
        tokenizer = SpectrumTokenizer(CONFIG)
        tokenizer.fit(cubes, splits, data, seed=3)
        prints.add(tokenizer.save(tmp_path / str(k))["fingerprint"])
    assert len(prints) == 1
