"""Ranges that single values have to lie in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...vocabulary.modalities import MODALITIES

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LARGEST = 2**63 - 1  # of what arrays count with

# key -> (smallest allowed value, may it equal that value)
_BOUNDS: dict[str, tuple[float, bool]] = {
    "seed": (0, True),
    "data.batch_rows": (1, True),
    "data.splits.cell_deg": (0, False),
    "data.splits.val_fraction": (0, True),
    "data.splits.test_fraction": (0, True),
    "data.images.size": (1, True),
    "data.images.pixel_scale": (0, False),
    "cubes.chunk_rows": (1, True),
    "cubes.fields.healpix_order": (0, True),
    "data.synthetic.n_fields": (1, True),
    "data.synthetic.n_objects_per_field": (1, True),
    "data.synthetic.n_processes": (1, True),
    "tokenizer.scalar.n_bins": (2, True),
    "tokenizer.scalar.min_values_per_bin": (1, True),
    "tokenizer.spectrum.patch_size": (1, True),
    "tokenizer.spectrum.precision_weight": (0, True),
    "tokenizer.spectrum.denoise": (0, True),
    "tokenizer.spectrum.quantizer.n_codes": (2, True),
    "tokenizer.image.quantizer.n_codes": (2, True),
    "tokenizer.spectrum.quantizer.n_stages": (1, True),
    "tokenizer.image.quantizer.n_stages": (1, True),
    "tokenizer.image.softening": (0, False),
    "tokenizer.image.codec.width": (1, True),
    "tokenizer.image.codec.latent_channels": (1, True),
    "tokenizer.image.codec.beta": (0, True),
    "tokenizer.image.codec.free_bits": (0, True),
    "tokenizer.image.codec.kl_warmup_steps": (0, True),
    "tokenizer.image.codec.noise_std": (0, True),
    "tokenizer.spectrum.codec.patch_size": (1, True),
    "tokenizer.spectrum.codec.pixels_per_latent": (1, True),
    "tokenizer.spectrum.codec.latent_channels": (1, True),
    "tokenizer.spectrum.codec.width": (1, True),
    "tokenizer.spectrum.codec.n_layers": (1, True),
    "tokenizer.spectrum.codec.decoder_layers": (0, True),
    "tokenizer.spectrum.codec.visible_weight": (0, True),
    "tokenizer.spectrum.codec.latent_noise": (0, True),
    "tokenizer.spectrum.codec.training.batch_size": (1, True),
    "tokenizer.spectrum.codec.training.learning_rate": (0, False),
    "tokenizer.spectrum.codec.beta": (0, True),
    "tokenizer.spectrum.codec.free_bits": (0, True),
    "tokenizer.spectrum.codec.kl_warmup_steps": (0, True),
    "tokenizer.spectrum.codec.noise_std": (0, True),
    "tokenizer.image.codec.training.batch_size": (1, True),
    "tokenizer.image.codec.training.learning_rate": (0, False),
    "recipe.epochs": (1, True),
    "recipe.batch_size": (1, True),
    "recipe.learning_rate": (0, False),
    "recipe.latent_dimension": (1, True),
    "recipe.hidden_dimension": (1, True),
    "recipe.min_species_observations": (1, True),
    "recipe.val_size": (0, False),
    "recipe.nrows": (1, True),
    "recipe.beta": (0, True),
    "recipe.free_bits": (0, True),
    "recipe.kl_warmup_epochs": (0, True),
    "recipe.noise_std": (0, True),
    "recipe.made_up.n_checklists": (1, True),
    "recipe.made_up.n_species": (2, True),
    "recipe.made_up.n_habitats": (1, True),
    "model.d_model": (1, True),
    "model.n_layers": (1, True),
    "model.n_heads": (1, True),
    "model.d_ff": (1, True),
    "model.dropout": (0, True),
    "model.max_len": (2, True),
    "sequence.redraw": (0, True),
    "model.values.n_features": (1, True),
    "loss.sample_k": (0, True),
    "loss.ledger_every": (1, True),
    "loss.share_rate": (0, False),
    "optimizer.learning_rate": (0, False),
    "optimizer.muon_learning_rate": (0, False),
    "optimizer.weight_decay": (0, True),
    "schedule.warmup_steps": (0, True),
    "schedule.min_lr_ratio": (0, True),
    "training.batch_size": (1, True),
    "training.epochs": (1, True),
    "training.max_steps": (1, True),
    "training.grad_accum_steps": (1, True),
    "training.grad_clip": (0, False),
    "training.log_every": (1, True),
    "training.val_every": (1, True),
    "training.save_every": (1, True),
    "training.keep_last": (1, True),
    "training.patience": (1, True),
    "training.min_delta": (0, True),
    "training.spike_factor": (0, False),
    "training.num_workers": (0, True),
    "hardware.rank_timeout_s": (0, False),
    "hardware.n_threads": (1, True),
    "hardware.n_processes": (1, True),
    "hardware.workers.n_jobs": (1, True),
    "evaluate.n_samples": (1, True),
    "evaluate.temperature": (0, False),
    "evaluate.top_p": (0, False),
    "evaluate.batch_size": (1, True),
}
_BELOW_ONE = (
    "model.dropout",
    "training.ema_decay",
    "data.splits.val_fraction",
    "data.splits.test_fraction",
    "recipe.val_size",
)
_AT_MOST_ONE = (
    "schedule.min_lr_ratio",
    "schedule.decay_fraction",
    "tokenizer.image.min_valid_fraction",
    "training.early_stop_start_ratio",
    "tokenizer.image.codec.corruption_rate",
    "tokenizer.spectrum.codec.corruption_rate",
    "recipe.corruption_rate",
    "evaluate.top_p",
)


def check_bounds(cfg: DictConfig) -> None:
    """Refuse values that are out of their range, numbers that are not finite, and integers that no array counts to.

    Raises:
        ConfigError: naming the key.
    """
    from omegaconf import OmegaConf

    for key, value in numbers_of(OmegaConf.to_container(cfg, resolve=False)):
        check_value(key, value)


def check_value(key: str, value: Any) -> None:
    """Refuse one value, as :func:`check_bounds`; what is no number is fine."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    bound = _bound(key)
    if not isinstance(value, int) and bound is not None and math.isnan(value):
        raise ConfigError(_range(key), got=value, where=key)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError("a finite number", got=value, where=key)
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ConfigError(f"an integer of at most {_LARGEST:,} (64 bits)", got=value, where=key)
    least, inclusive = bound or (value, True)
    if not (value >= least if inclusive else value > least):
        raise ConfigError(_range(key), got=value, where=key)
    if key in _BELOW_ONE and not 0 <= value < 1:
        raise ConfigError(f"0 <= {key} < 1", got=value, where=key)
    if key in _AT_MOST_ONE and not 0 <= value <= 1:
        raise ConfigError(f"0 <= {key} <= 1", got=value, where=key)


def _bound(key: str) -> tuple[float, bool] | None:
    """Smallest value of a key, and whether it may be had; None: any."""
    if key.removeprefix("loss.weight_") in MODALITIES:
        return 0, True
    return _BOUNDS.get(key)


def _range(key: str) -> str:
    least, inclusive = _bound(key) or (-math.inf, True)
    return f"{key} {'>=' if inclusive else '>'} {least}"


def numbers_of(node: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Dotted key and value of every number below ``node``; the entries of a list have the list's key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from numbers_of(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from numbers_of(value, key)
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield key, node


def value_of(cfg: DictConfig, key: str) -> Any:
    """The value of a dotted key; None where it, or a section on the way to it, is null, missing or absent."""
    from omegaconf import OmegaConf

    return OmegaConf.select(cfg, key, throw_on_missing=False)
