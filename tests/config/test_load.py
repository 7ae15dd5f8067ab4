"""``load_config``: documented names, a user's file, refusals."""

import pytest

from astromodal.config import load_config
from astromodal.config.load import ALIASES
from astromodal.errors import ConfigError


def test_documented_names_answer_with_the_programs_values():
    config = load_config()
    assert config.training.learning_rate == config.optimizer.learning_rate == 2e-4
    assert config.training.meaningful_loss.sample_k_per_modality == config.loss.sample_k == 4096
    assert (config.vocab.image, config.vocab.scalar, config.vocab.spectrum) == (2048, 1024, 2048)
    assert list(config.tokenizers.spectrum.groups) == ["desi_b", "desi_r", "desi_z", "gaiaxp_bp", "gaiaxp_rp"]
    assert config.sequences.max_seq_len == config.model.max_len


def test_every_alias_points_to_a_key_that_exists():
    from omegaconf import OmegaConf

    config = load_config()
    missing = object()
    assert [k for k, v in ALIASES.items() if OmegaConf.select(config, v, default=missing) is missing] == []


def test_a_documented_yaml_file_changes_the_programs_keys(tmp_path):
    file = tmp_path / "my_config.yaml"
    file.write_text("training:\n  batch_size: 32\n  learning_rate: 0.0001\n  meaningful_loss:\n    weight_image: 0.2\n")
    config = load_config(file)
    assert (config.training.batch_size, config.optimizer.learning_rate, config.loss.weight_image) == (32, 1e-4, 0.2)


@pytest.mark.parametrize(
    "text, message",
    [
        ("training:\n  batchsize: 32\n", "did you mean training.batch_size"),
        ("training:\n  batch_size: many\n", "expected a value of type Integer"),
        ("- 1\n- 2\n", "a mapping of keys to values"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.yaml")
