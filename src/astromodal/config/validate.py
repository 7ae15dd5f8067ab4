"""Every cross-check of a configuration, before any work starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from .explain import all_keys, nearest, schema_of
from .levels import check_image_levels, check_patch_levels
from .packages import require_package
from .schema import SCALAR_FORMS, STAGE_GROUPS, WIDTH_FORMS, Config, ErrorUse, LossForm, OptimizerName

MODALITIES = ("scalar", "spectrum", "image")

# key -> (smallest allowed value, may it equal that value)
_BOUNDS: dict[str, tuple[float, bool]] = {
    "seed": (0, True),
    "data.batch_rows": (1, True),
    "data.splits.cell_deg": (0, False),
    "data.splits.val_fraction": (0, True),
    "data.splits.test_fraction": (0, True),
    "data.images.size": (1, True),
    "data.images.pixel_scale": (0, False),
    "data.synthetic.n_fields": (1, True),
    "data.synthetic.n_objects_per_field": (1, True),
    "data.synthetic.n_processes": (1, True),
    "tokenizer.scalar.n_bins": (2, True),
    "tokenizer.scalar.min_values_per_bin": (1, True),
    "tokenizer.spectrum.patch_size": (1, True),
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
    "loss.sample_k": (0, True),
    "loss.ledger_every": (1, True),
    "loss.share_rate": (0, False),
    "loss.weight_image": (0, True),
    "loss.weight_scalar": (0, True),
    "loss.weight_spectrum": (0, True),
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
    "evaluate.n_samples": (1, True),
    "evaluate.temperature": (0, False),
    "evaluate.top_p": (0, False),
    "evaluate.batch_size": (1, True),
}
_BELOW_ONE = ("model.dropout", "training.ema_decay", "data.splits.val_fraction", "data.splits.test_fraction",
              "recipe.val_size")  # fmt: skip
_AT_MOST_ONE = ("schedule.min_lr_ratio", "schedule.decay_fraction", "tokenizer.image.min_valid_fraction",
                "training.early_stop_start_ratio", "tokenizer.image.codec.corruption_rate",
                "tokenizer.spectrum.codec.corruption_rate", "recipe.corruption_rate", "evaluate.top_p")  # fmt: skip


def validate(cfg: DictConfig, stage: str, overrides: list[str] = ()) -> None:
    """Check ``cfg`` for ``stage``.

    Raises:
        ConfigError: an unknown key, a value out of its range, or values that cannot work together.
    """
    groups = tuple(Config.__dataclass_fields__)
    _check_stage(list(overrides), STAGE_GROUPS[stage], groups, stage)
    if any(o.startswith("hparams=") for o in overrides) and not _swept():
        raise ConfigError("-m with hparams=…", got="a single run", where="command line",
                          repair=f"python {stage}.py -m {' '.join(overrides)}")  # fmt: skip
    for key in _unknown_keys(cfg):
        raise ConfigError("a configuration key that exists", got=key, repair=nearest(key, all_keys()))
    _check_bounds(cfg)
    _check_processes(cfg, stage)
    _check_combinations(cfg, stage)


def _check_stage(overrides: list[str], allowed: tuple[str, ...], known: tuple[str, ...], stage: str) -> None:
    """Refuse overrides of groups that exist but that this stage does not read: they would change nothing."""
    for override in overrides:
        group = override.lstrip("+~").split("=")[0].split("@")[0].replace("/", ".").split(".")[0]
        if group in known and group not in allowed:
            readable = ", ".join(k for k in allowed if k not in ("stage", "run_id", "run_dir"))
            raise ConfigError(f"keys that {stage}.py reads ({readable})", got=override, where="command line",
                              repair=f"drop it, or give it to the stage that uses '{group}'")  # fmt: skip


def _swept() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _unknown_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys that ``+key=value`` smuggled past the schema."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    cls = schema_of(node)
    known = {f.name for f in fields(cls)} if cls else None
    for key in node:
        name = f"{prefix}{key}"
        if known is not None and key not in known:
            yield name
        else:
            yield from _unknown_keys(node._get_node(key), name + ".")


def _value(cfg: DictConfig, key: str) -> Any:
    return OmegaConf.select(cfg, key, throw_on_missing=False)


def _check_bounds(cfg: DictConfig) -> None:
    for key, (least, inclusive) in _BOUNDS.items():
        value = _value(cfg, key)
        if value is not None and not (value >= least if inclusive else value > least):
            raise ConfigError(f"{key} {'>=' if inclusive else '>'} {least}", got=value, where=key)
    for key in _BELOW_ONE:
        value = _value(cfg, key)
        if value is not None and not 0 <= value < 1:
            raise ConfigError(f"0 <= {key} < 1", got=value, where=key)
    for key in _AT_MOST_ONE:
        value = _value(cfg, key)
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"0 <= {key} <= 1", got=value, where=key)


def _check_combinations(cfg: DictConfig, stage: str) -> None:
    _check_data(cfg)
    if cfg.tracking.tensorboard:
        require_package("tensorboard", "tracking.tensorboard=true", "tracking.tensorboard=false")
    if stage == "train_tokenizers":
        _check_tokenizer(cfg)
    elif stage == "train_lm":
        _check_model_and_loss(cfg)
        _check_sequence(cfg)
        _check_objective(cfg)
    elif stage == "evaluate":
        _check_evaluate(cfg)


def _check_processes(cfg: DictConfig, stage: str) -> None:
    """Several processes need torchrun, and only training knows what to do with them."""
    n_launched, parallel = int(os.environ.get("WORLD_SIZE", "1")), cfg.hardware.parallel.value
    if stage != "train_lm" and n_launched > 1 and "RANK" in os.environ:
        repair = "python encode.py hardware.n_processes=<n>" if stage == "encode" else f"python {stage}.py"
        raise ConfigError(f"one process for {stage}.py", got=f"{n_launched} of torchrun", repair=repair)
    if stage == "train_lm" and parallel != "auto" and "RANK" not in os.environ:
        raise ConfigError(f"several processes for hardware.parallel={parallel}", got="one", where="hardware",
                          repair="torchrun --nproc-per-node=<processes> train_lm.py …, or hardware=auto")  # fmt: skip


def _check_data(cfg: DictConfig) -> None:
    held_out = cfg.data.splits.val_fraction + cfg.data.splits.test_fraction
    if held_out >= 1:
        raise ConfigError("val_fraction + test_fraction < 1", got=held_out, where="data.splits")
    if not cfg.data.scalars and not cfg.data.spectra and cfg.data.images is None:
        repair = "data=splus, data=kids_viking or data=synthetic"
        raise ConfigError("data.scalars, data.spectra or data.images", got="none of them", where="data", repair=repair)
    if cfg.data.images is not None and cfg.data.images.size % 4:
        raise ConfigError("a cutout size divisible by 4", got=cfg.data.images.size, where="data.images.size")


def _check_model_and_loss(cfg: DictConfig) -> None:
    if cfg.optimizer.name == OptimizerName.riemannian_adam:
        require_package("geoopt", "optimizer=riemannian_adam", "optimizer=adamw")
    width, heads = cfg.model.d_model, cfg.model.n_heads
    if width % heads:
        close = min((n for n in range(1, 65) if width % n == 0), key=lambda n: abs(n - heads))
        expected = f"model.n_heads that divides model.d_model={width}"
        raise ConfigError(expected, got=heads, where="model", repair=f"model.n_heads={close}")
    if not cfg.loss.use_ce and not cfg.loss.enabled:
        raise ConfigError("loss.use_ce or loss.enabled", got="neither", where="loss", repair="loss=combined")
    check_shares(cfg.loss)
    for modality in MODALITIES:
        check_form(modality, cfg.loss[modality])
        check_width(modality, cfg.loss[modality], cfg.loss.standardize)


def check_shares(loss: Any) -> None:
    """Refuse target shares of the gradient that cannot be held.

    Raises:
        ConfigError: naming the key.
    """
    for modality in MODALITIES:
        key, share = f"loss.share_{modality}", getattr(loss, f"share_{modality}")
        if share is None:
            continue
        if not loss.enabled:
            raise ConfigError("loss.enabled=true, the term that would have the share", got="false", where=key,
                              repair="loss=combined")  # fmt: skip
        if not 0 < share < 1:
            raise ConfigError("a share between 0 and 1, or null", got=share, where=key)
        if not loss.use_ce:
            raise ConfigError("loss.use_ce=true, whose gradient is shared with", got="false", where=key,
                              repair=f"use loss.weight_{modality}")  # fmt: skip
        if loss.ledger_every is None:
            raise ConfigError("loss.ledger_every, which measures the shares", got="null", where=key,
                              repair="loss.ledger_every=100")  # fmt: skip


def check_width(modality: str, form: Any, standardize: bool) -> None:
    """Refuse targets as wide as their errors where entries are not in the errors' unit.

    Raises:
        ConfigError: naming the key.
    """
    if form.errors == ErrorUse.width and not standardize:
        raise ConfigError("loss.standardize=true, the unit of the errors", got="false",
                          where=f"loss.{modality}.errors=width", repair="errors=weight")  # fmt: skip


def check_form(modality: str, form: Any) -> None:
    """Refuse a form that ``modality`` cannot have, and numbers that no form can use.

    Args:
        form: a :class:`LossFormConfig`, or a node like it.

    Raises:
        ConfigError: naming the key.
    """
    if form.form in SCALAR_FORMS and modality != "scalar":
        usable = [f.value for f in LossForm if f not in SCALAR_FORMS]
        raise ConfigError(f"one of {', '.join(usable)}", got=f"{form.form.value}, which needs entries in an order",
                          where=f"loss.{modality}.form", repair=f"loss.{modality}.form=energy")  # fmt: skip
    key = f"loss.{modality}.errors"
    if form.errors != ErrorUse.ignore and modality == "image":
        raise ConfigError(f"{key}=ignore", got=f"{form.errors.value}, but images have no errors", where=key,
                          repair=f"{key}=ignore")  # fmt: skip
    if form.errors == ErrorUse.width and form.form not in WIDTH_FORMS:
        usable = " or ".join(f.value for f in WIDTH_FORMS if modality == "scalar" or f not in SCALAR_FORMS)
        raise ConfigError(f"form {usable}, whose targets have a width", got=form.form.value, where=f"{key}=width",
                          repair=f"{key}=weight, or change loss.{modality}.form")  # fmt: skip
    for name, least, inclusive in (
        ("beta", 0, True), ("sigma_bins", 0, False), ("n_neighbours", 1, True), ("temperature", 0, False)
    ):  # fmt: skip
        value, key = getattr(form, name), f"loss.{modality}.{name}"
        if not (value >= least if inclusive else value > least):
            raise ConfigError(f"{key} {'>=' if inclusive else '>'} {least}", got=value, where=key)


def _check_sequence(cfg: DictConfig) -> None:
    if cfg.sequence.order.value == "random" and not cfg.sequence.next_types:
        expected = "sequence.next_types=true with sequence.order=random, or a position cannot know what to predict"
        raise ConfigError(expected, got="false", where="sequence", repair="sequence.next_types=true")
    modalities = list(cfg.sequence.modalities)
    for name in modalities:
        if name not in MODALITIES:
            expected, repair = f"modalities among {', '.join(MODALITIES)}", nearest(name, list(MODALITIES))
            raise ConfigError(expected, got=name, where="sequence.modalities", repair=repair)
    if not modalities or len(set(modalities)) != len(modalities):
        raise ConfigError("each modality once, and at least one", got=modalities, where="sequence.modalities")


def _check_objective(cfg: DictConfig) -> None:
    if cfg.objective.value != "prediction":
        return
    _check_evaluate(cfg)
    for key, only, why in (("run", "auto", "the model is the one that is trained"), ("splits", None, "it is val"),
                           ("calibration", "off", "new weights have none")):  # fmt: skip
        if cfg.evaluate[key] != only:
            raise ConfigError(f"no evaluate.{key} with objective=prediction: {why}", got=cfg.evaluate[key],
                              where=f"evaluate.{key}", repair="drop it")  # fmt: skip


def _check_evaluate(cfg: DictConfig) -> None:
    for name, known in (("splits", ("train", "val", "test")), ("embeddings", ("mean", "last"))):
        for value in cfg.evaluate[name] or ():
            if value not in known:
                raise ConfigError(f"evaluate.{name} among {', '.join(known)}", got=value, where="evaluate",
                                  repair=nearest(value, list(known)))  # fmt: skip
    if not 0 < cfg.evaluate.fraction <= 1:
        raise ConfigError("0 < evaluate.fraction <= 1", got=cfg.evaluate.fraction, where="evaluate.fraction")
    quantiles = list(cfg.evaluate.quantiles)
    if not all(0 < q < 1 for q in quantiles) or len({*quantiles}) < len(quantiles):
        raise ConfigError("different quantiles between 0 and 1", got=quantiles, where="evaluate.quantiles")
    if cfg.evaluate.predict is not None and not (cfg.evaluate.predict or cfg.evaluate.embeddings):
        raise ConfigError("something to predict, or evaluate.embeddings=[mean]", got="neither", where="evaluate")


def _check_tokenizer(cfg: DictConfig) -> None:
    check_image_levels(
        _value(cfg, "tokenizer.image.quantizer.levels"), _value(cfg, "tokenizer.image.codec.latent_channels")
    )
    spectrum = cfg.tokenizer.spectrum
    if spectrum is None:
        return
    groups = list(spectrum.groups or cfg.data.spectra)
    for group in (*groups, *spectrum.patch_sizes):
        if cfg.data.spectra and group not in cfg.data.spectra:
            expected, repair = f"groups among {', '.join(cfg.data.spectra)}", nearest(group, list(cfg.data.spectra))
            raise ConfigError(expected, got=group, where="tokenizer.spectrum", repair=repair)
    for group, size in spectrum.patch_sizes.items():
        if size < 1:
            raise ConfigError("patch sizes >= 1", got=size, where=f"tokenizer.spectrum.patch_sizes.{group}")
    codec = _value(cfg, "tokenizer.spectrum.codec")
    if codec is None or codec.get("name") == "patches":
        patch_sizes = {group: spectrum.patch_sizes.get(group, spectrum.patch_size) for group in groups}
        check_patch_levels(_value(cfg, "tokenizer.spectrum.quantizer.levels"), patch_sizes)
