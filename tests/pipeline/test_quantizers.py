"""The three stages with residual codes for spectra and images: several tokens per position."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from astromodal.ask.catalogue import read_catalogue
from astromodal.files.io import read_jsonl
from astromodal.sequences import PackedSequences, SequenceDataset
from astromodal.tokenizers import SpectrumTokenizer, TokenizerSet
from astromodal.tokens import TokenStore
from astromodal.vocabulary.vocab import TYPE_IMAGE, VocabSpec

from .conftest import MODEL, SURVEY, Workplace, launch_stage

TOKENIZERS = (
    "tokenizer.scalar.n_bins=16",
    "tokenizer/spectrum/quantizer=residual_kmeans",
    "tokenizer.spectrum.quantizer.n_stages=2",
    "tokenizer.spectrum.quantizer.n_codes=16",
    "tokenizer.spectrum.groups=[desi_b,gaiaxp_bp]",
    "tokenizer.spectrum.patch_sizes={gaiaxp_bp: 5}",
    "tokenizer/image/quantizer=residual_kmeans",
    "tokenizer.image.quantizer.n_stages=2",
    "tokenizer.image.quantizer.n_codes=16",
    "tokenizer.image.codec.width=8",
    "tokenizer.image.codec.n_blocks=1",
    "tokenizer.image.codec.training.max_steps=4",
)
SPECTRA = ["desi_b", "desi_b.1", "gaiaxp_bp", "gaiaxp_bp.1"]
PARTS = [*SPECTRA, "image.1"]  # groups of vectors of the vocabulary, beside the image's first stage
ARGUMENTS = {
    "train_tokenizers": TOKENIZERS,
    "encode": (),
    "train_lm": (*MODEL, "model.max_len=2048", "loss.image.errors=weight"),
}


@pytest.fixture(scope="module")
def staged(pipeline: Workplace, tmp_path_factory) -> Workplace:
    """The same sky as in ``pipeline``, with other tokenizers."""
    place = Workplace(tmp_path_factory.mktemp("staged"))
    shutil.copytree(pipeline.cubes, place.cubes)
    for stage, arguments in ARGUMENTS.items():
        result = launch_stage(stage, *SURVEY, *arguments, cwd=place.folder)
        assert result.returncode == 0, result.stderr
    return place


def test_bundles_have_the_names_of_their_quantizers(staged: Workplace):
    found = {path.name for path in (staged.store / "tokenizers").rglob("*.joblib")}
    assert found >= {f"spectrum_residual_kmeans_{group}.joblib" for group in ("desi_b", "gaiaxp_bp")}
    assert "codebook_residual_kmeans_2x16.joblib" in found and not any("spectrum_kmeans" in name for name in found)
    tokenizers = TokenizerSet.load(staged.store / "tokenizers")
    assert len(tokenizers.image_codebook().entries) == 16 and list(tokenizers.spectrum_codebooks()) == SPECTRA
    assert list(tokenizers.group_codebooks()) == PARTS and list(tokenizers.image.codebooks()) == ["image", "image.1"]


def test_token_files_hold_every_stage_and_decode_together(staged: Workplace):
    tokenizers = TokenizerSet.load(staged.store / "tokenizers")
    tokenizer, images = tokenizers.spectrum, tokenizers.image
    for field in TokenStore(staged.store):
        assert list(field.spectra) == PARTS
        coarse, fine = field.spectra["desi_b"], field.spectra["desi_b.1"]
        assert np.array_equal(coarse.present, fine.present) and np.array_equal(coarse.offsets, fine.offsets)
        stages = [np.asarray(part.tokens).reshape(-1, part.length) for part in (coarse, fine)]
        flux = tokenizer.decode_normalized("desi_b", np.stack(stages, axis=2))
        alone = tokenizer.decode_features("desi_b", tokenizer.codebooks()["desi_b"].entries[stages[0]])
        assert len(flux) == coarse.present.sum() > 0 and not np.allclose(flux, alone)
        sigma = [np.asarray(part.sigma, np.float32) for part in (coarse, fine)]
        assert np.median(sigma[1]) > np.median(sigma[0])  # the same noise, in units of a narrower codebook
        there, fine = np.asarray(field.image["present"]), field.spectra["image.1"]
        assert np.array_equal(fine.present, there) and fine.length == 576
        latents = np.asarray(field.latents["latents"])[there]
        stages = [np.asarray(field.image["tokens"])[there], np.asarray(fine.tokens).reshape(-1, fine.length)]
        first = images.codebooks()["image"].entries[stages[0]].transpose(0, 2, 1).reshape(latents.shape)
        both = images.dequantize(np.stack(stages, axis=2))
        assert np.square(both - latents).mean() < 0.7 * np.square(first - latents).mean()
        sigma = [np.asarray(field.image["sigma"], np.float32)[there], np.asarray(fine.sigma, np.float32)]
        assert (sigma[0] > 0).all() and np.median(sigma[1]) > np.median(sigma[0])
        assert not np.asarray(field.image["sigma"])[~there].any()


def test_every_stage_has_its_own_block_and_type_from_coarse_to_fine(staged: Workplace):
    (run,) = staged.runs("train_lm")
    vocab = VocabSpec.from_dict(json.loads((run / "vocab_spec.json").read_text()))
    assert list(vocab.spectrum_groups) == PARTS and vocab.block("image").size == 16
    assert len({vocab.type_of_group(part) for part in PARTS}) == len({vocab.block(part).start for part in PARTS}) == 5
    assert vocab.block("image.1").modality == "image" == vocab.modality_of_type()[vocab.type_of_group("image.1")]
    folder = next((staged.store / "sequences").iterdir())
    types = PackedSequences(folder).split("train")["types"]
    type_of = dict(zip(vocab.type_names, range(vocab.n_types), strict=True))
    for coarse in ("desi_b", "image"):
        first, second = type_of[coarse], type_of[f"{coarse}.1"]
        after = types[1:][(types[:-1] == first) & (types[1:] != first)]
        assert len(after) and (after == second).all()


def test_the_order_of_the_stages_is_kept_when_parts_are_permuted(staged: Workplace):
    packed = PackedSequences(next((staged.store / "sequences").iterdir()))
    dataset = SequenceDataset(packed, "train", order="random", seed=1)
    (run,) = staged.runs("train_lm")
    vocab = VocabSpec.from_dict(json.loads((run / "vocab_spec.json").read_text()))
    pairs = [tuple(map(vocab.type_of_group, PARTS[k : k + 2])) for k in (0, 2)] + [
        (TYPE_IMAGE, vocab.type_of_group("image.1"))
    ]
    n, orders = 0, set()
    for epoch in range(4):
        for types in dataset.gather(np.arange(len(dataset)), epoch)["types"].numpy():
            places = [[np.flatnonzero(types == type_) for type_ in pair] for pair in pairs]
            for coarse, fine in places:
                if len(coarse):
                    n += 1
                    assert len(coarse) == len(fine) and coarse.max() < fine.min()
            if all(len(coarse) for coarse, _ in places):
                orders.add(places[0][0][0] < places[1][0][0])
    assert n > 50 and orders == {True, False}  # other parts are still permuted


def test_the_model_is_trained_and_judged_on_every_stage(staged: Workplace):
    (run,) = staged.runs("train_lm")
    summary = json.loads((run / "summary.json").read_text())
    for key in ("error_spectrum", "error_image", "ce_spectrum"):
        assert np.isfinite(summary["model"][key])
    assert summary["baselines"]["marginal"]["ce_spectrum"] > 0
    assert any("val/error_image.1" in record for record in read_jsonl(run / "metrics.jsonl"))
    assert any("train/spectrum" in record for record in read_jsonl(run / "metrics.jsonl"))


def test_spectra_and_cutouts_of_several_stages_are_predicted(staged: Workplace):
    arguments = (
        "evaluate.predict=[desi_b,image]",
        "evaluate.fraction=0.15",
        "evaluate.given=[before]",
        "evaluate.n_samples=3",
        "evaluate.judge.baselines=[marginal]",
        "run_id=staged",
    )
    outcome = launch_stage("evaluate", *SURVEY, *arguments, cwd=staged.folder)
    assert outcome.returncode == 0, outcome.stderr
    folder = staged.folder / "runs" / "evaluate" / "default" / "staged"
    table, meaning = read_catalogue(folder)
    tokenizer = SpectrumTokenizer.load(staged.store / "tokenizers" / "spectrum_tokenizers")
    n_pixels = tokenizer.codecs["desi_b"].n_pixels
    known = [row for row in table["desi_b_mean"].to_pylist() if row is not None]
    assert len(known) > 5 and all(len(row) == n_pixels and np.isfinite(row).all() for row in known)
    cutouts = [row for row in table["image_mean"].to_pylist() if row is not None]
    assert len(cutouts) > 5 and all(len(row) == 12 * 96 * 96 and np.isfinite(row).all() for row in cutouts)
    assert meaning["questions"]["desi_b"]["wave_step"] > 0 and len({tuple(row) for row in known}) == len(known)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ("tokenizer=image", "tokenizer/image/quantizer=fsq"),
            r"got vectors of 2 \(tokenizer.image.codec.latent_chann",
        ),
        (
            ("tokenizer=spectrum", "tokenizer/spectrum/quantizer=fsq"),
            r"got vectors of 32 .*flux of 32 pixels per patch",
        ),
        (("tokenizer=spectrum", "experiment=demo"), r"option of tokenizer/image/codec, got .*image=null"),
    ],
)
def test_impossible_quantizers_are_refused_before_any_work(tmp_path, arguments, message):
    result = launch_stage("train_tokenizers", *SURVEY, *arguments, cwd=tmp_path)
    assert re.search(message, result.error()), result.stderr
    assert not (tmp_path / "artifacts").exists()
