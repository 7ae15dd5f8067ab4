"""Spectra as tokens of a network's latents: every codec of one-dimensional arrays, masks, sums, saving, all stages."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from astromodal.config import schema
from astromodal.config.families import CODECS
from astromodal.config.schema import CodecTrainingConfig, KMeansConfig, MaskedAutoencoderConfig, SpectrumTokenizerConfig
from astromodal.data.spectra import read_spectra
from astromodal.errors import ArtifactError, ConfigError
from astromodal.files.io import load_torch, save_torch
from astromodal.tokenizers import SpectrumTokenizer
from astromodal.tokenizers.spectrum.patches import pixel_weights
from astromodal.tokenizers.spectrum.sample import SATURATION, SpectrumLoader, SpectrumSample
from tests.tokenizers.survey import N_PIXELS, whole

TRAINING = CodecTrainingConfig(epochs=15, batch_size=32, learning_rate=5e-3, warmup_steps=10)
CODEC = MaskedAutoencoderConfig(
    width=24,
    n_layers=2,
    decoder_layers=1,
    n_heads=2,
    patch_size=4,
    n_blocks=8,
    n_mask=1,
    latent_channels=3,
    training=TRAINING,
)
CONFIG = SpectrumTokenizerConfig(patch_size=8, quantizer=KMeansConfig(n_codes=128), patch_sizes={"xp": 10}, codec=CODEC)


@pytest.fixture(scope="module")
def fitted(survey):
    data, cubes, splits = survey
    tokenizer = SpectrumTokenizer(CONFIG)
    return tokenizer, tokenizer.fit(cubes, splits, data, seed=3)


@pytest.fixture
def blue(survey):
    data, cubes, _ = survey
    return read_spectra(whole(cubes[0]), data, "blue")


def test_every_group_has_its_own_network_with_as_many_tokens_as_patches(fitted, survey):
    tokenizer, (data, cubes, _) = fitted[0], survey
    assert tokenizer.groups == ("blue", "red", "xp")
    assert [tokenizer.length(g) for g in tokenizer.groups] == [10, 10, 1]
    assert len({id(codec.network) for codec in tokenizer.codecs.values()}) == 3
    for group in tokenizer.groups:
        batch = read_spectra(whole(cubes[0]), data, group)
        tokens, present = tokenizer.encode(group, batch)
        assert tokens.dtype == np.uint16 and tokens.shape == (cubes[0].n_rows, tokenizer.length(group))
        assert np.array_equal(present, batch.present) and tokens.max() < tokenizer.codecs[group].quantizer.n_codes
        known = batch.present & batch.has_ivar
        assert ((tokenizer.sigma(group, batch) > 0) == known[:, None]).all()  # 0: unknown, or nothing there
        assert tokenizer.codebooks()[group].entries.shape[1] == 3


def test_reconstruction_is_better_than_the_mean_and_reported(fitted):
    report = fitted[1]["groups"]
    for group in ("blue", "red"):
        assert report[group]["fraction_of_variance"] < 0.3, group
        assert report[group]["codec"] == "masked_autoencoder" and report[group]["steps"] > 100
        assert report[group]["codes_used"] > 8
    assert all(np.isfinite(entry["bits_per_object"]) for entry in report.values())


def test_decoding_gives_flux_in_physical_units(fitted, blue):
    tokenizer = fitted[0]
    tokens, present = tokenizer.encode("blue", blue)
    flux = tokenizer.decode("blue", tokens[present], blue.scale[present])
    assert flux.shape == (present.sum(), N_PIXELS)
    valid = blue.precision[present] > 0
    error = (flux / blue.scale[present, None] - blue.flux[present])[valid]
    assert error.std() < 0.7 * blue.flux[present][valid].std()


def test_what_masked_pixels_hold_and_who_else_is_encoded_do_not_matter(fitted, blue):
    tokenizer = fitted[0]
    tokens, present = tokenizer.encode("blue", blue)
    masked = blue.precision == 0
    for value in (1e6, np.nan):
        other = dataclasses.replace(blue, flux=np.where(masked, np.float32(value), blue.flux))
        assert np.array_equal(tokenizer.encode("blue", other)[0], tokens)
    rows = np.flatnonzero(present)[3:8]
    part = dataclasses.replace(
        blue, **{name: getattr(blue, name)[rows] for name in ("flux", "precision", "scale", "present", "has_ivar")}
    )
    assert np.array_equal(tokenizer.encode("blue", part)[0], tokens[rows])
    nobody = dataclasses.replace(blue, present=np.zeros_like(blue.present))
    assert not tokenizer.encode("blue", nobody)[1].any()


def test_the_same_seed_gives_the_same_tokens(fitted, survey, blue):
    data, cubes, splits = survey
    again = SpectrumTokenizer(dataclasses.replace(CONFIG, groups=["blue"], patch_sizes={}))
    again.fit(cubes, splits, data, seed=3)
    assert np.array_equal(again.encode("blue", blue)[0], fitted[0].encode("blue", blue)[0])


def test_a_saved_bundle_gives_the_same_tokens_and_spectra(fitted, blue, tmp_path):
    tokenizer = fitted[0]
    (tmp_path / "spectrum_codec_stale.pt").touch()
    tokenizer.save(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == [f"spectrum_codec_{g}.pt" for g in ("blue", "red", "xp")]
    again = SpectrumTokenizer.load(tmp_path).use(schema.HardwareConfig(device="cpu"))
    tokens, present = tokenizer.encode("blue", blue)
    assert np.array_equal(again.encode("blue", blue)[0], tokens)
    assert np.array_equal(
        again.decode_normalized("blue", tokens[present]), tokenizer.decode_normalized("blue", tokens[present])
    )
    sent = pickle.loads(pickle.dumps(again))  # to the worker processes of encode.py
    assert np.array_equal(sent.encode("blue", blue)[0], tokens)
    assert again.config.codec == CODEC and again.codecs["blue"].figures == tokenizer.codecs["blue"].figures
    assert again.codecs["xp"].network.config.pixels_per_latent == 10


def test_damaged_weights_are_refused(fitted, tmp_path):
    codec = fitted[0].codecs["blue"]
    state = codec.state()
    state["state"] = {name: value for name, value in state["state"].items() if name != "decoder.norm.weight"}
    save_torch(tmp_path / "broken.pt", state)
    with pytest.raises(ArtifactError, match="weights that fit the saved codec"):
        type(codec).from_state(load_torch(tmp_path / "broken.pt"), 80, codec.center, codec.spread, codec.quantizer)


def test_the_sample_is_bounded_and_pixels_weigh_by_their_precision(survey):
    data, cubes, _ = survey
    batches = [read_spectra(whole(cube), data, "red") for cube in cubes]
    sample = SpectrumSample(batches, data.spectra["red"], 50, seed=0)
    assert len(sample) == 50 and sample.n_seen == sum(int(batch.present.sum()) for batch in batches)
    rows = np.arange(50)
    weights = sample.weights(rows)
    assert (
        (weights[~sample.valid] == 0).all() and (weights[sample.valid] >= 0.01).all() and weights.max() <= SATURATION**2
    )
    known = sample.has_ivar[:, None] & sample.valid
    assert np.allclose(weights[known], np.maximum(pixel_weights(sample.precision[known], SATURATION), 0.01), rtol=1e-5)
    unknown, usual = weights[~sample.has_ivar], pixel_weights(np.median(sample.precision[known]), SATURATION)
    assert len(unknown) and np.allclose(unknown[unknown > 0], usual, rtol=1e-4)
    batch = sample.batch(rows)
    assert batch["x"].shape == batch["valid"].shape == batch["weight"].shape == (50, 1, N_PIXELS)
    few = SpectrumSample(batches, data.spectra["red"], 1000, seed=0)
    few_rows = {tuple(row) for row in few.flux.round(5).tolist()}
    assert all(tuple(row) in few_rows for row in sample.flux.round(5).tolist())


def test_batches_are_shuffled_by_seed_and_epoch(survey):
    data, cubes, _ = survey
    sample = SpectrumSample([read_spectra(whole(cubes[0]), data, "blue")], data.spectra["blue"], 40, seed=0)
    loader = SpectrumLoader(sample, np.arange(30), 8, seed=1, train=True)

    def rows(epoch):
        loader.set_epoch(epoch)
        return torch.cat([batch["row"] for batch in loader]).tolist()

    assert rows(0) == rows(0) != rows(1) and sorted(rows(1)) == list(range(30)) and len(loader) == 4


def test_patches_are_the_default_by_any_name(survey, blue):
    data, cubes, splits = survey
    config = SpectrumTokenizerConfig(groups=["blue"], patch_size=8, quantizer=KMeansConfig(n_codes=16))
    plain, named = SpectrumTokenizer(config), SpectrumTokenizer(dataclasses.replace(config, codec={"name": "patches"}))
    for tokenizer in (plain, named):
        tokenizer.fit(cubes, splits, data)
    assert named.config.codec is None
    assert np.array_equal(plain.encode("blue", blue)[0], named.encode("blue", blue)[0])


@pytest.mark.parametrize("name", [name for name, row in CODECS.items() if 1 in row.facts["dims"]])
def test_any_codec_of_one_dimensional_arrays_serves(name, survey, blue, tmp_path):
    data, cubes, splits = survey
    codec = CODECS[name].section(training=dataclasses.replace(TRAINING, epochs=3))
    tokenizer = SpectrumTokenizer(dataclasses.replace(CONFIG, codec=codec, groups=["blue"], patch_sizes={}))
    report = tokenizer.fit(cubes, splits, data)["groups"]["blue"]
    assert report["n_spectra"] > 0 and np.isfinite(report["rmse_normalized"])
    tokens, present = tokenizer.encode("blue", blue)
    assert tokenizer.decode_normalized("blue", tokens[present]).shape == (present.sum(), N_PIXELS)
    tokenizer.save(tmp_path)
    assert np.array_equal(SpectrumTokenizer.load(tmp_path).encode("blue", blue)[0], tokens)


@pytest.mark.parametrize(
    ("quantizer", "parts"),
    [
        (schema.FSQConfig(levels=[5, 5, 5]), ["blue"]),
        (schema.ResidualKMeansConfig(n_stages=2, n_codes=16), ["blue", "blue.1"]),
    ],
)
def test_latents_go_with_any_quantizer(survey, blue, quantizer, parts):
    data, cubes, splits = survey
    codec = dataclasses.replace(CODEC, training=dataclasses.replace(TRAINING, max_steps=10))
    config = dataclasses.replace(CONFIG, codec=codec, quantizer=quantizer, groups=["blue"], patch_sizes={})
    tokenizer = SpectrumTokenizer(config)
    tokenizer.fit(cubes, splits, data)
    found = tokenizer.encode_parts("blue", blue)
    assert list(found) == parts == list(tokenizer.codebooks())
    assert all(
        tokens.shape == (len(blue), 10) and (sigma[blue.present] > 0).all() for tokens, _, sigma in found.values()
    )


def test_errors_are_how_far_noise_moves_the_latents_in_units_of_the_codebook(fitted, blue):
    codec, rng = fitted[0].codecs["blue"], np.random.default_rng(0)
    seen = np.flatnonzero(blue.present)
    batch = blue.only(blue.present)
    sigma = np.where(batch.precision > 0, 1 / np.maximum(batch.precision, 1e-9), 0)
    square = 0.0
    for _ in range(20):
        noisy = dataclasses.replace(batch, flux=batch.flux + (sigma * rng.normal(size=sigma.shape)).astype(np.float32))
        square = square + np.square(codec.features(noisy)[0] - codec.features(batch)[0]).sum(2) / 20
    wanted, found = np.sqrt(square) / codec.scales[0], fitted[0].sigma("blue", blue)[seen].astype(np.float64)
    assert 0.7 < np.sqrt(np.square(found).mean() / np.square(wanted).mean()) < 1.4
    assert np.corrcoef(np.log(found.mean(1)), np.log(wanted.mean(1)))[0, 1] > 0.6  # noisy spectra are told apart


def test_codecs_of_images_and_unfit_quantizers_are_refused(survey):
    data, cubes, splits = survey
    wrong = dataclasses.replace(CONFIG, codec=schema.AutoencoderConfig(), groups=["blue"], patch_sizes={})
    with pytest.raises(ConfigError, match=r"a codec of .*masked_autoencoder.*got autoencoder \(tokenizer\.spectrum"):
        SpectrumTokenizer(wrong).fit(cubes, splits, data)
    unfit = dataclasses.replace(CONFIG, quantizer=schema.FSQConfig(levels=[5, 5]), groups=["blue"], patch_sizes={})
    with pytest.raises(ConfigError, match="masked_autoencoder"):
        SpectrumTokenizer(unfit).fit(cubes, splits, data)
