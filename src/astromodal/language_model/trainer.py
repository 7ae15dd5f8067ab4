"""``Trainer``: the public face of the training loop for a language model on tokens.

It translates its arguments into a :class:`~astromodal.loss.language_model.LanguageModelObjective` and a
:class:`~astromodal.training.loop.TrainingLoop`; everything else happens there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.schema import HardwareConfig, LossConfig, OptimizerConfig, Precision, ScheduleConfig, TrainingConfig
from ..errors import ArtifactMissingError, ConfigError
from ..loss.functions import as_loss_config
from ..loss.language_model import LanguageModelObjective
from ..loss.reference import term_weights
from ..loss.standardize import as_codebooks
from ..training.loop import LoopResult, TrainingLoop
from ..training.utils import available_device
from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import VocabSpec
from .gradient_shares import ledger_of

# Documented key -> (part, its key). Keys that a part's dataclass has are found there by their own name.
_ALIASES = {
    "save_every_steps": ("training", "save_every"),
    "early_stop_patience": ("training", "patience"),
    "early_stop_min_delta": ("training", "min_delta"),
}
_EXTRA = ("seed", "meaningful_loss", "use_amp", "resume", "init_from")
_DOCUMENTED_STEP = re.compile(r"(?:ckpt|checkpoint)_step_(\d+)\.pt")


class Trainer:
    """Train ``model`` with cross-entropy and the reconstruction loss.

    Args:
        model: ``(tokens, types, attn_mask) -> (B, L, V)``; one with ``hidden()`` and ``head_weight`` trains faster.
        train_loader: batches ``{"tokens", "types", "attn_mask"}``, each ``(B, L)``.
        config: ``load_config().training``, a :class:`TrainingConfig`, or a mapping with keys of either.
        image_codebook: ``(V_image, D)`` or a ``Codebook``.
        spectrum_codebook: one codebook, or a mapping from group to codebook.
        scalar_centers: ``(V,)``, ``(n_columns, V)`` or a ``ScalarCodebook``.
        device: ``auto``, ``cpu``, ``cuda``…; ``cuda`` without a GPU warns and trains on the CPU.
        use_amp: mixed precision where the device gains from it (bf16 on GPUs that have it).
        use_ce: False trains with the reconstruction loss only.
        next_types: tell the model which type each position has to predict.

    Raises:
        ConfigError: an unknown key in ``config``, or a combination that cannot work.
    """

    def __init__(
        self,
        model: nn.Module,
        vocab: VocabSpec,
        train_loader: Iterable[dict],
        config: Any,
        image_codebook: Any = None,
        spectrum_codebook: Any = None,
        scalar_centers: Any = None,
        device: str | torch.device = "cuda",
        output_dir: str | Path | None = None,
        use_amp: bool = True,
        use_ce: bool = True,
        compile_model: bool = False,
        *,
        val_loader: Iterable[dict] | None = None,
        next_types: bool = False,
        **loop_options: Any,
    ) -> None:
        self.vocab = vocab
        settings = read_settings(config)
        self.loss = replace(settings["loss"], use_ce=use_ce)
        books = as_codebooks(vocab, image_codebook, spectrum_codebook, scalar_centers, per_column=True)
        objective = LanguageModelObjective(model, vocab, books, self.loss, settings["seed"], next_types=next_types)
        hardware = HardwareConfig(
            device=available_device(str(device)),
            precision=Precision.auto if use_amp else Precision.float32,
            compile=compile_model,
        )
        loss_config = {f.name: getattr(self.loss, f.name) for f in fields(LossConfig)}
        self.loop = TrainingLoop(
            objective,
            train_loader,
            training=settings["training"],
            optimizer=settings["optimizer"],
            schedule=settings["schedule"],
            hardware=hardware,
            val_loader=val_loader,
            callbacks=[*ledger_of(objective), *loop_options.pop("callbacks", ())],
            output_dir=output_dir,
            seed=settings["seed"],
            config_record={
                "vocab_size": vocab.vocab_size,
                "base_image": vocab.base_image,
                "base_scalar": vocab.base_scalar,
                "base_spectrum": vocab.base_spectrum,
                "loss_config": loss_config,
            },
            **({key: settings[key] for key in ("resume", "init_from")} | loop_options),
        )

    @property
    def model(self) -> nn.Module:
        """The bare model."""
        return self.loop.model

    @property
    def global_step(self) -> int:
        """Optimizer steps done."""
        return self.loop.global_step

    def train(self, num_epochs: int | None = None) -> LoopResult:
        """Train until ``num_epochs`` epochs are complete in all (default: as configured), from where it stands."""
        if num_epochs is not None:
            self.loop.training = replace(self.loop.training, epochs=num_epochs, max_steps=None)
        return self.loop.fit()

    def evaluate(self, val_loader: Iterable[dict]) -> dict[str, float]:
        """Metrics over all positions of ``val_loader``.

        Returns:
            ``loss_ce``, ``loss_img``, ``loss_sca``, ``loss_spec`` (not weighted; 0 for what the data lacks),
            ``loss_total`` (with the weights of training), and the detailed metrics under their own names.
        """
        metrics = self.loop.evaluate(val_loader)
        loss, use_ce = self.loss, float(self.loss.use_ce)
        parts = {f"loss_{row.short}": metrics.get(f"error_{name}", 0.0) for name, row in MODALITIES.items()}
        total = use_ce * metrics.get("ce", 0.0)
        if loss.enabled:
            weights = term_weights(loss)
            total += sum(weights[name] * parts[f"loss_{row.short}"] for name, row in MODALITIES.items())
        return {"loss_total": total, "loss_ce": metrics.get("ce", 0.0), **parts, **metrics}

    def load_checkpoint(self, path: str | Path) -> None:
        """Stand where ``path`` was saved; :meth:`train` goes on from there.

        The public names ``<run>/ckpt_step_<n>.pt`` also find ``<run>/checkpoints/step_<n>.pt``.

        Raises:
            ArtifactMissingError, ArtifactError: no such checkpoint, a damaged one, or one of another model.
        """
        path = Path(path)
        named = _DOCUMENTED_STEP.fullmatch(path.name)
        if named and not path.exists():
            path = path.parent / "checkpoints" / f"step_{int(named[1]):08d}.pt"
        if not path.exists():
            raise ArtifactMissingError("a checkpoint", got="nothing", where=path, repair="look into <run>/checkpoints/")
        self.loop.load_checkpoint(path)


def read_settings(config: Any) -> dict[str, Any]:
    """``training``, ``optimizer``, ``schedule``, ``loss``, ``seed``, ``resume`` and ``init_from`` of a configuration.

    Args:
        config: an object with the attributes of the public API (``learning_rate``, ``grad_clip``,
            ``meaningful_loss.weight_image``…), a mapping with such keys, or a :class:`TrainingConfig`.

    Raises:
        ConfigError: an unknown key, with the nearest known one.
    """
    parts: dict[str, Any] = {"training": TrainingConfig(), "optimizer": OptimizerConfig(), "schedule": ScheduleConfig()}
    homes = {f.name: (part, f.name) for part, value in parts.items() for f in fields(value) if f.name != "name"}
    homes |= _ALIASES
    given = _as_dict(config)
    changes: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in given.items():
        if key in homes and key not in _EXTRA:
            part, name = homes[key]
            changes[part][name] = value
        elif key not in _EXTRA:
            near = difflib.get_close_matches(key, [*homes, *_EXTRA], n=1)
            raise ConfigError(
                "a key of the training configuration",
                got=repr(key),
                where="Trainer(config=…)",
                repair=f"did you mean {near[0]!r}?" if near else None,
            )
    settings: dict[str, Any] = {part: replace(value, **changes[part]) for part, value in parts.items()}
    settings |= {"seed": int(given.get("seed", 0)), "resume": given.get("resume"), "init_from": given.get("init_from")}
    settings["loss"] = as_loss_config(_as_dict(given.get("meaningful_loss") or {}))
    return settings


def _as_dict(config: Any) -> dict[str, Any]:
    """Keys and values of a mapping, dataclass or plain object."""
    if isinstance(config, Mapping) or hasattr(config, "keys"):
        return {str(key): config[key] for key in config}
    return {key: value for key, value in vars(config).items() if not key.startswith("_")}
