"""Errors of targets from the token files to the batch: each stays with its token, on disk and in any order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from astromodal.config.schema import ErrorUse, LossConfig, LossFormConfig, ModelConfig, SequenceConfig, TrainingConfig
from astromodal.errors import ArtifactError
from astromodal.files.io import load_npz
from astromodal.language_model.run import LanguageModelRun
from astromodal.provenance.manifest import read_manifest, update_manifest
from astromodal.sequences import SequenceDataset, build_layout, build_sequences
from astromodal.tokens import TokenStore, encode_survey, token_paths
from astromodal.vocabulary.vocab import TYPE_IMAGE
from tests.tokens.fake_survey import FakeTokenizers, make_survey

VOCAB = build_layout(FakeTokenizers(), ["scalar", "spectrum", "image"]).vocab
COLUMN_OF = {VOCAB.type_of_column(name): j for j, name in enumerate(("r", "u", "z"))}
GROUP_OF = {VOCAB.type_of_group(name): name for name in ("bp", "rp")}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    survey = make_survey(folder, n_fields=2)
    encode_survey(survey[0], FakeTokenizers(), survey[1], survey[2], folder / "store")
    return folder / "store", survey


@pytest.fixture(scope="module", params=["absent", "token"])
def packed(request, encoded):
    layout = build_layout(FakeTokenizers(), ["image", "scalar", "spectrum"])
    return build_sequences(TokenStore(encoded[0]), layout, request.param)


def expected_sigma(root, packed, split, index, tokens, types):
    """Errors of one object's sequence, looked up in plainly loaded token files, part by part."""
    arrays = packed.split(split)
    name, row = packed.fields[arrays["field"][index]], arrays["row"][index]
    files = {kind: load_npz(path) for kind, path in token_paths(root / "tokens", name).items()}
    found, taken = [], {}
    for token, type_ in zip(tokens, types, strict=True):
        sigma = 0.0
        if token >= 5 and type_ in COLUMN_OF:  # below 5: nothing there, or nothing detected
            sigma = files["scalar"]["sigma"][row, COLUMN_OF[type_]]
        elif token >= 5 and type_ in GROUP_OF:
            group = GROUP_OF[type_]
            first = files["spectrum"][f"offsets_{group}"][row]
            sigma = files["spectrum"][f"sigma_{group}"][first + taken.get(group, 0)]
            taken[group] = taken.get(group, 0) + 1
        elif token >= 5 and type_ == TYPE_IMAGE:
            sigma = files["image"]["sigma"][row, taken.get("image", 0)]
            taken["image"] = taken.get("image", 0) + 1
        found.append(float(sigma))
    return found


@pytest.mark.parametrize("order", ["fixed", "random"])
def test_every_token_of_a_batch_has_the_error_of_the_token_files(encoded, packed, order):
    dataset = SequenceDataset(packed, "train", order=order, seed=3, with_sigma=True)
    dataset.set_epoch(4)
    indices = np.arange(0, len(dataset), 5)
    batch = dataset.__getitems__(indices)
    assert batch["sigma"].dtype == torch.float32 and batch["sigma"].shape == batch["tokens"].shape
    assert not batch["sigma"][~batch["attn_mask"]].any() and not batch["sigma"][batch["types"] == 0].any()
    n_with = {"scalar": 0, "spectrum": 0, "image": 0}
    for i, index in enumerate(indices):
        tokens, types = batch["tokens"][i].tolist(), batch["types"][i].tolist()
        expected = expected_sigma(encoded[0], packed, "train", index, tokens, types)
        assert batch["sigma"][i].tolist() == expected
        for kind, of in (("scalar", COLUMN_OF), ("spectrum", GROUP_OF), ("image", (TYPE_IMAGE,))):
            n_with[kind] += sum(s > 0 for s, t in zip(expected, types, strict=True) if t in of)
    assert min(n_with.values()) > 10


def test_batches_have_errors_only_when_asked_and_are_the_same_otherwise(packed):
    without, asked = (SequenceDataset(packed, "val", order="random", with_sigma=w) for w in (False, True))
    a, b = without.__getitems__([1, 5, 2]), asked.__getitems__([1, 5, 2])
    assert set(b) - set(a) == {"sigma"}
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("use", list(ErrorUse))
def test_training_asks_for_errors_when_the_loss_reads_them_and_validation_when_the_model_does(packed, use):
    loss = LossConfig(spectrum=LossFormConfig(errors=use))
    groups = {"sequence": SequenceConfig(), "model": ModelConfig(), "training": TrainingConfig()}
    config = SimpleNamespace(loss=loss, seed=0, **groups)
    objective = SimpleNamespace(reads_errors=False)
    run = SimpleNamespace(config=config, packed=packed, questions=(), objective=objective, redraw=lambda: None)
    train, val = (next(iter(LanguageModelRun.loader(run, split))) for split in ("train", "val"))
    assert ("sigma" in train) == (use != ErrorUse.ignore) and "sigma" not in val
    config.loss.enabled = False
    assert "sigma" not in next(iter(LanguageModelRun.loader(run, "train")))
    objective.reads_errors = True
    assert all("sigma" in next(iter(LanguageModelRun.loader(run, split))) for split in ("train", "val"))


def test_shown_tokens_stand_where_the_tokens_stand_and_change_with_the_epoch(packed):
    """In every order; drawn in the fixed one, by object and column."""

    def one_further(tokens, types, sigma, values, object_index, epoch):
        assert values.shape == (3, 3) and sigma.shape == tokens.shape and object_index.shape == (3,)
        return tokens + (1000 + epoch) * (sigma > 0)

    for order in ("fixed", "random", "ask"):
        plain, redrawn = (
            SequenceDataset(packed, "train", order=order, seed=3, with_sigma=True, redraw=r)
            for r in (None, one_further)
        )
        redrawn.set_epoch(2), plain.set_epoch(2)
        a, b = plain.__getitems__([1, 5, 2]), redrawn.__getitems__([1, 5, 2])
        assert set(b) - set(a) == {"shown"} and all(torch.equal(a[name], b[name]) for name in a)
        assert torch.equal(b["shown"], a["tokens"] + 1002 * (a["sigma"] > 0)) and (a["sigma"] > 0).any()


def test_files_of_an_earlier_format_are_refused_in_one_line_and_encoded_again(encoded):
    root, (cubes, splits, data) = encoded
    assert encode_survey(cubes, FakeTokenizers(), splits, data, root)["encoded"] == []
    entry = read_manifest(root / "tokens")["entries"]["F1"]
    del entry["format"]
    update_manifest(root / "tokens", "F1", entry)
    store = TokenStore(root)
    store.open("F0")
    for attempt in (lambda: store.open("F1"), lambda: next(iter(store)), lambda: store.select(["F1"])):
        with pytest.raises(ArtifactError, match=r"format 4, got format 1.*field F1.*python encode\.py") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert encode_survey(cubes, FakeTokenizers(), splits, data, root)["encoded"] == ["F1"]
    TokenStore(root).open("F1")
