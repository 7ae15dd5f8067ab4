"""``load_config()``: the configuration for Python users, under the program's names and the public ones.

The documents read ``config.training.learning_rate``, ``config.vocab.image``, ``config.sequences.max_seq_len`` and
so on; the program keeps each of these in one place (``optimizer``, ``vocab``, ``model``). The alias table below is
the whole translation, for reading and for a user's YAML file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from .launching.register import conf_dir, register
from .plugins import import_plugins, plugins_of
from .reading.containers import to_dict
from .reading.explain import all_keys, explain, nearest
from .reading.text_values import text_stays_text
from .reading.yaml_files import load_yaml

# public name -> the program's key
ALIASES: dict[str, str] = {
    "training.seed": "seed",
    "training.learning_rate": "optimizer.learning_rate",
    "training.weight_decay": "optimizer.weight_decay",
    "training.warmup_steps": "schedule.warmup_steps",
    "training.min_lr_ratio": "schedule.min_lr_ratio",
    "training.save_every_steps": "training.save_every",
    "training.meaningful_loss.enabled": "loss.enabled",
    "training.meaningful_loss.sample_k": "loss.sample_k",
    "training.meaningful_loss.sample_k_per_modality": "loss.sample_k",
    "training.meaningful_loss.weight_image": "loss.weight_image",
    "training.meaningful_loss.weight_scalar": "loss.weight_scalar",
    "training.meaningful_loss.weight_spectrum": "loss.weight_spectrum",
    "sequences.max_seq_len": "model.max_len",
    "sequences.max_len": "model.max_len",
    "tokenizers.scalar.n_bins": "tokenizer.scalar.n_bins",
    "tokenizers.spectrum.codebook_size": "tokenizer.spectrum.quantizer.n_codes",
    "tokenizers.spectrum.groups": "tokenizer.spectrum.groups",
    "tokenizers.spectrum.patch_size": "tokenizer.spectrum.patch_size",
    "tokenizers.image.latent_dim": "tokenizer.image.codec.latent_channels",
    "tokenizers.image.codebook_size": "tokenizer.image.quantizer.n_codes",
    "paths.output_dir": "paths.runs",
}
# sizes of the vocabulary that are left to the tokenizers
_VOCAB = {
    "vocab.image": "tokenizer.image.quantizer.n_codes",
    "vocab.scalar": "tokenizer.scalar.n_bins",
    "vocab.spectrum": "tokenizer.spectrum.quantizer.n_codes",
}


def load_config(path: str | Path | None = None, overrides: list[str] | None = None) -> DictConfig:
    """The composed configuration of ``train_lm.py`` with the public views beside it.

    Args:
        path: a YAML file whose keys (the program's or the public ones) replace defaults. Groups are not
            selected in it; give ``overrides=["model=tiny"]`` for that.
        overrides: as on the command line.

    Raises:
        ConfigError: a key that does not exist, or a value of the wrong type.

    >>> config = load_config()
    >>> config.training.learning_rate, config.vocab.image, config.sequences.max_seq_len
    (0.0002, 2048, 2048)
    """
    from hydra import compose, initialize_config_dir

    import_plugins(plugins_of(overrides or []))
    register()
    try:
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            cfg = compose("train_lm", [f"run_dir={'${paths.runs}'}/train_lm", *map(text_stays_text, overrides or [])])
        if path is not None:
            _merge_file(cfg, Path(path))
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        raise ConfigError.plain(message) from error
    return _with_views(cfg)


def _merge_file(cfg: DictConfig, path: Path) -> None:
    flat = _flatten(to_dict(load_yaml(path), resolve=False))
    for key, value in flat.items():
        target = ALIASES.get(key, key)
        if key == "training.use_amp" and isinstance(value, bool):
            target, value = "hardware.precision", "auto" if value else "float32"
        try:
            OmegaConf.update(cfg, target, value, merge=True)
        except OmegaConfBaseException as error:
            if "could not be converted" in str(error) or "Invalid value" in str(error):
                raise
            raise ConfigError(
                "a configuration key that exists", got=key, where=path, repair=nearest(key, [*all_keys(), *ALIASES])
            ) from error


def _flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _with_views(cfg: DictConfig) -> DictConfig:
    """A plain, writable configuration with the public keys added."""
    plain = OmegaConf.create(to_dict(cfg, resolve=True, enum_to_str=True))
    for key, source in _VOCAB.items():
        if OmegaConf.select(plain, key) is None:
            OmegaConf.update(plain, key, OmegaConf.select(plain, source), force_add=True)
    for alias, source in ALIASES.items():
        OmegaConf.update(plain, alias, OmegaConf.select(plain, source), force_add=True)
    if plain.tokenizers.spectrum.groups is None:
        plain.tokenizers.spectrum.groups = [n for n, g in plain.data.spectra.items() if g.tokenize]
    plain.training.use_amp = plain.hardware.precision != "float32"
    return plain
