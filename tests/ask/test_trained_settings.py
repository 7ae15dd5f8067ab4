"""A stranger's file of weights: its settings are those of its weights, or one line says which are not."""

from __future__ import annotations

import time
from dataclasses import asdict

import pytest
import torch

from astromodal.ask.trained_settings import read_settings
from astromodal.config.schema import ModelConfig, SequenceConfig
from astromodal.errors import ArtifactError
from astromodal.files.io import plain
from astromodal.models import CausalTransformerLM
from astromodal.vocabulary.vocab import build_vocab_spec
from tests.mutations import mutations, replaced

VOCAB = build_vocab_spec(4, 8, {"sp": 5}, ("sp",), ("r", "z"))


@pytest.fixture(scope="module")
def state() -> dict:
    model = ModelConfig(d_model=8, n_layers=2, n_heads=2, d_ff=12, max_len=16)
    network = CausalTransformerLM(VOCAB.vocab_size, VOCAB.n_types, 8, 2, 2, 12, 0.0, max_len=16, grid_width=3)
    config = {
        "model": plain(asdict(model)),
        "sequence": plain(asdict(SequenceConfig())),
        "vocab": {"image": None},
        "vocab_spec": VOCAB.to_dict(),
        "vocab_size": VOCAB.vocab_size,
        "n_types": VOCAB.n_types,
        "grid_width": 3,
    }
    return {"model_state_dict": network.state_dict(), "config": config}


def test_what_was_saved_is_read(state):
    settings, weights = read_settings(state, "w.pt", "")
    assert settings.model.d_ff == 12 and settings.grid_width == 3 and settings.vocab_size == VOCAB.vocab_size
    assert settings.sequence == plain(asdict(SequenceConfig())) and len(weights) == len(state["model_state_dict"])


def test_any_other_value_is_one_line_or_builds_a_model_of_these_weights(state):
    """What is let through differs in nothing that decides a size."""
    start = time.process_time()
    for name, config in mutations(state["config"]):
        if name.startswith("vocab_spec."):
            continue  # compared with the layout's own
        try:
            settings, _ = read_settings(state | {"config": config}, "w.pt", "")
        except ArtifactError as error:
            assert "\n" not in str(error) and "w.pt" in str(error) and len(str(error)) < 600, name
            continue
        model = settings.model
        network = CausalTransformerLM(
            settings.vocab_size,
            settings.n_types,
            model.d_model,
            model.n_layers,
            1,
            model.d_ff,
            0.0,
            max_len=model.max_len,
            tie_head=model.tie_head,
            grid_width=settings.grid_width,
        )
        network.load_state_dict(state["model_state_dict"])
    assert time.process_time() - start < 30


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "n_layers"), 10_000_000, "weights of 10000000 layers"),
        (("model", "d_model"), 10**6, "model.d_model from 1 to"),
        (("model", "d_ff"), 13, r"blocks.0.mlp_in.weight of \(13, 8\)"),
        (("model", "max_len"), 17, "position_embedding"),
        (("model", "tie_head"), False, "head.weight"),
        (("model", "n_heads"), 0, "model.n_heads from 1"),
        (("vocab_size",), 12, "token_embedding"),
        (("vocab", "image"), 10**12, "vocab.image"),
        (("model", "d_model"), "${oc.env:HOME}", "resolved"),
    ],
)
def test_the_line_names_the_setting(state, path, value, message):
    with pytest.raises(ArtifactError, match=message):
        read_settings(replaced(state, ("config", *path), value), "w.pt", "")


@pytest.mark.parametrize("bad", [None, [], {}, {"config": {}}, {"model": 3}, torch.zeros(3)], ids=repr)
def test_what_is_no_file_of_weights_is_refused(state, bad):
    with pytest.raises(ArtifactError):
        read_settings(bad, "w.pt", "repair")
    if isinstance(bad, dict):
        with pytest.raises(ArtifactError):
            read_settings(bad | {"config": state["config"], "model": {"w": 3}}, "w.pt", "repair")
