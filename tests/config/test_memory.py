"""Sizes that no machine holds are refused with the memory that they need; what fits is not."""

from __future__ import annotations

import copy

import pytest
from omegaconf import OmegaConf

from astromodal.config import load_config
from astromodal.config.checks.memory import check_memory
from astromodal.errors import ConfigError


@pytest.mark.parametrize(
    "key, value",
    [
        ("model.d_model", 100_000_000),
        ("model.n_layers", 10**9),
        ("model.d_ff", 10**13),
        ("model.max_len", 10**15),
        ("training.batch_size", 10**15),
        ("data.batch_rows", 10**15),
        ("tokenizer.scalar.n_bins", 10**14),
        ("tokenizer.image.quantizer.n_codes", 10**15),
        ("tokenizer.image.codec.width", 10**8),
        ("evaluate.n_samples", 10**15),
        ("data.images.size", 4 * 10**6),
        ("data.synthetic.n_objects_per_field", 10**15),
    ],
)
def test_what_no_machine_holds_is_refused(config, key, value):
    changed = copy.deepcopy(config)
    OmegaConf.update(changed, key, value)
    stage = {"tokenizer": "train_tokenizers", "evaluate": "evaluate"}.get(key.split(".")[0], "train_lm")
    check_memory(config, stage)
    with pytest.raises(ConfigError, match=rf"memory of this machine .*{key}={value}.* at least .*[kMGTP]B"):
        check_memory(changed, stage)


@pytest.fixture(scope="module")
def config():
    return load_config()
