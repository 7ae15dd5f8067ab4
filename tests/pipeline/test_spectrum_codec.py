"""All three stages with spectra as latents of a masked autoencoder, in this process."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from omegaconf import OmegaConf

from astromodal import stages
from astromodal.data.datacube import discover
from astromodal.data.spectra import read_spectra, spectrum_columns
from astromodal.tokenizers import TokenizerSet
from astromodal.tokens import TokenStore
from tests.tiny_survey import configuration, undrawn, write_survey

CODEC = (
    "tokenizer/spectrum/codec=masked_autoencoder",
    "tokenizer.spectrum.codec.width=16",
    "tokenizer.spectrum.codec.n_heads=2",
    "tokenizer.spectrum.codec.n_layers=1",
    "tokenizer.spectrum.codec.decoder_layers=1",
    "tokenizer.spectrum.codec.training.epochs=2",
    "tokenizer.spectrum.patch_sizes={gaiaxp_bp: 4, gaiaxp_rp: 4}",
    "tokenizer.image=null",
)
MODEL = ("training.epochs=1", "sequence.modalities=[scalar,spectrum]", "loss.spectrum.errors=weight")
STORE = "artifacts/synthetic/default"


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    write_survey(folder, n_fields=1, n=60)
    for stage, overrides in (("train_tokenizers", CODEC), ("encode", ()), ("train_lm", MODEL)):
        small = [o for o in overrides if o != "tokenizer.image=null"]
        cfg = configuration(stage, folder, *small)
        if small != list(overrides):  # the sizes of the image tokenizer are among the overrides
            cfg.tokenizer.image = None
        with (contextlib.chdir if stage == "train_lm" else undrawn)(folder):  # the model's plots are looked at
            getattr(stages, stage)(cfg)
    return folder


def test_stored_tokens_are_those_of_the_latents_with_their_errors(survey, monkeypatch):
    monkeypatch.chdir(survey)
    tokenizer = TokenizerSet.load(survey / STORE / "tokenizers").spectrum
    assert tokenizer.config.codec.name == "masked_autoencoder" and len(tokenizer.groups) == 5
    assert [tokenizer.length(group) for group in tokenizer.groups] == [2, 2, 2, 3, 3]
    config = OmegaConf.to_object(configuration("train_tokenizers", survey))
    (cube,) = discover(config.data, config.paths.datacube_template)
    stored = TokenStore(survey / STORE).open(cube.field).spectra["desi_b"]
    columns = spectrum_columns(config.data.spectra["desi_b"])
    batches = [read_spectra(table, config.data, "desi_b") for table in cube.batches(columns)]
    wanted = np.concatenate([tokenizer.encode("desi_b", batch)[0][batch.present] for batch in batches])
    assert np.array_equal(stored.tokens.reshape(-1, 2), wanted) and len(np.unique(wanted)) > 3
    errors = np.concatenate([tokenizer.sigma("desi_b", batch)[batch.present] for batch in batches])
    assert np.array_equal(np.asarray(stored.sigma).reshape(-1, 2), errors) and (errors > 0).all()


def test_the_model_trains_on_them_and_its_spectra_are_drawn(survey):
    (summary,) = (survey / "runs/train_lm").glob("*/*/summary.json")
    values = json.loads(summary.read_text())
    assert np.isfinite(values["model"]["score"]) and np.isfinite(values["model"]["error_spectrum"])
    assert (summary.parent / "plots/spectra.png").stat().st_size > 0
