"""``Trainer`` and ``TrainerConfig``: the public face of the training loop for masked autoencoders.

It translates its arguments; precision, average, checkpoints, resume and history are the loop's. Unlike what the
document's own package did, every validation uses the same masks, the best weights are the ones that were validated
(the average), and checkpoints hold the random state and the state of early stopping.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ....codecs.masking import REDUCTIONS, masked_mse, masked_sse
from ....config.schema import HardwareConfig, OptimizerConfig, Precision, ScheduleConfig, TrainingConfig
from ....errors import ArtifactMissingError, ConfigError
from ....training.checkpoints.state import training_state
from ....training.loop import TrainingLoop
from .objective import MaskedReconstruction, SpectraLoader

__all__ = ["Trainer", "TrainerConfig", "masked_mse", "masked_sse"]


@dataclass
class TrainerConfig:
    """How to train; ``seed`` is an addition to ChemoMAE's fields."""

    out_dir: str | Path = "runs"
    device: str | None = None  # "cuda", "mps", "cpu"; None: the first of these that there is
    amp: bool = True  # mixed precision on a GPU
    amp_dtype: str = "bf16"  # "bf16" or "fp16"
    enable_tf32: bool = False
    grad_clip: float | None = 1.0  # of the gradient's norm; None: off
    use_ema: bool = True  # validate and keep the moving average of the weights
    ema_decay: float = 0.999
    loss_type: str = "mse"  # "mse" or "sse"
    reduction: str = "mean"  # "sum", "mean" or "batch_mean"
    early_stop_patience: int | None = 20  # epochs without improvement; None: off
    early_stop_start_ratio: float = 0.5  # share of the epochs before which patience does not count
    early_stop_min_delta: float = 0.0
    resume_from: str | Path | None = "auto"  # "auto": out_dir/checkpoints/last.pt, if there is one
    seed: int = 0  # of masks, dropout and whatever draws from the global generators

    def __post_init__(self) -> None:
        choices = {"amp_dtype": ("bf16", "fp16"), "loss_type": ("mse", "sse"), "reduction": REDUCTIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} of {', '.join(allowed)}", got=getattr(self, name), where="TrainerConfig")


class _Loop(TrainingLoop):
    """The training loop with an optimizer and a schedule that the caller has built."""

    def use(self, optimizer: torch.optim.Optimizer, scheduler: LambdaLR | None) -> None:
        """Train with these."""
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.network.optimizer, self.scheduler = optimizer, scheduler

    def _begin(self) -> None:
        super()._begin()
        scheduler = self.scheduler
        factor = scheduler.lr_lambdas[0] if scheduler is not None else lambda step: 1.0
        self.schedule = lambda update: factor(update - 1)


class Trainer:
    """Train a model that returns ``(x_recon, z, visible_mask)`` on its error at hidden positions.

    Args:
        model: a :class:`~astromodal.recipes.chemomae.models.ChemoMAE`, or another such model that draws its masks.
        train_loader: batches ``x`` (B, L), or ``(x, meta)``, of which ``x`` is used; it must have a length.
        val_loader: the same, in the same order each time; without it nothing is "best", and nothing stops early.
        device: overrides ``cfg.device``; ``cuda`` without a GPU warns and trains on the CPU.
        scheduler: factor of the learning rate per optimizer update.

    Raises:
        ConfigError: values that do not exist or do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any] | None = None,
        *,
        device: str | torch.device | None = None,
        scheduler: LambdaLR | None = None,
        cfg: TrainerConfig | None = None,
        **loop_options: Any,
    ) -> None:
        self.cfg = cfg = TrainerConfig() if cfg is None else cfg
        self.scheduler = _checked(scheduler)
        hardware, loader = _hardware(cfg, device), SpectraLoader(train_loader)
        self.loop = _Loop(
            MaskedReconstruction(model, cfg.loss_type, cfg.reduction, cfg.seed),
            loader,
            training=TrainingConfig(
                epochs=1,
                grad_clip=cfg.grad_clip,
                log_every=max(1, len(loader)),
                save_every=None,
                checkpoint_async=False,
                monitor="val/loss",
                patience=None if val_loader is None else cfg.early_stop_patience,
                min_delta=cfg.early_stop_min_delta,
                early_stop_start_ratio=cfg.early_stop_start_ratio,
                ema_decay=cfg.ema_decay if cfg.use_ema else None,
            ),
            optimizer=OptimizerConfig(),
            schedule=ScheduleConfig(warmup_steps=0),
            hardware=hardware,
            val_loader=None if val_loader is None else SpectraLoader(val_loader),
            output_dir=cfg.out_dir,
            seed=cfg.seed,
            resume=None if cfg.resume_from is None else str(cfg.resume_from),
            config_record=_record(model, cfg),
            **loop_options,
        )
        self.loop.use(optimizer, scheduler)

    @property
    def model(self) -> nn.Module:
        """The model, with the weights that training has reached."""
        return self.loop.model

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record per epoch: ``epoch`` (from 1), ``train_loss``, ``val_loss``, ``lr``, and more."""
        return self.loop.history

    def fit(self, epochs: int) -> dict[str, Any]:
        """Train until ``epochs`` epochs are complete in all, those before a resume included, or until stopped early.

        Returns:
            ``{"best": {"epoch", "val_loss"}, "epochs"}``. Without a ``val_loader`` the best is the last one, and its
            ``val_loss`` NaN.
        """
        self._run(epochs)
        best = next((r for r in self.history if r["step"] == self.loop.best.step), None)
        if best is None:
            self.save_weights_only()
        epoch, loss = (self.loop.epoch, math.nan) if best is None else (best["epoch"], self.loop.best.value)
        return {"best": {"epoch": epoch, "val_loss": loss}, "epochs": self.loop.epoch}

    def train_one_epoch(self) -> float:
        """One more epoch without validation; returns the mean of its training loss. Saved as ``last.pt``, as always."""
        val_loader, self.loop.val_loader = self.loop.val_loader, None
        try:
            self._run(self.loop.epoch + 1)
        finally:
            self.loop.val_loader = val_loader
        return float(self.history[-1]["train_loss"])

    def validate(self) -> float:
        """Loss over ``val_loader`` with the averaged weights, if there is an average; changes nothing.

        Raises:
            ConfigError: there is no ``val_loader``.
        """
        if self.loop.val_loader is None:
            raise ConfigError("a val_loader to validate on", got=None, where="Trainer")
        return self.loop.evaluate(self.loop.val_loader)["loss"]

    def save_checkpoint(self, epoch: int, is_best: bool = False) -> None:
        """Write ``checkpoints/last.pt`` and, if asked, ``best.pt``: the state after the last step.

        Args:
            epoch: part of the public call; not used, because the state itself says how many epochs are complete.
        """
        assert self.loop.store is not None
        self.loop.store.save(training_state(self.loop), best=is_best)

    def save_weights_only(self, filename: str = "best_model.pt") -> None:
        """Write ``out_dir/filename``: the weights that a validation would use now, with the model's settings."""
        assert self.loop.store is not None
        with self.loop.network.averaged():
            self.loop.saver.save_weights(filename, self.loop.network)

    def load_checkpoint(self, path: str | Path) -> int:
        """Stand where ``path`` was saved; returns the number of the next epoch, from 1.

        Raises:
            ArtifactMissingError, ArtifactError: no such file, a damaged one, or one of another model.
        """
        if not Path(path).exists():
            raise ArtifactMissingError("a checkpoint", got="nothing", where=path, repair="look into checkpoints/")
        self.loop.load_checkpoint(path)
        return self.loop.epoch + 1

    def _run(self, epochs: int) -> None:
        if epochs < 1:
            raise ConfigError("epochs of 1 or more", got=epochs, where="fit")
        loop = self.loop
        loop.training = replace(loop.training, epochs=epochs)
        loop.fit()
        if self.scheduler is not None:  # what it would say had it been stepped
            self.scheduler.last_epoch = loop.n_updates
            self.scheduler._last_lr = [group["lr"] for group in loop.optimizer.param_groups]


def _checked(scheduler: Any) -> LambdaLR | None:
    """The scheduler, whose factor the loop asks for at every update.

    Raises:
        ConfigError: it has no such factor, or several.
    """
    factors = getattr(scheduler, "lr_lambdas", None)
    if scheduler is not None and (not factors or any(f is not factors[0] for f in factors)):
        raise ConfigError(
            "a LambdaLR with one factor for all parameters",
            got=type(scheduler).__name__,
            where="Trainer(scheduler=…)",
            repair="use build_scheduler",
        )
    return scheduler


def _hardware(cfg: TrainerConfig, device: str | torch.device | None) -> HardwareConfig:
    """Device and precision; mixed precision is for GPUs."""
    name = "auto" if device is None and cfg.device is None else str(device if device is not None else cfg.device)
    if name.startswith("cuda") and not torch.cuda.is_available():
        warnings.warn("device='cuda', but there is no CUDA device: training on the CPU", stacklevel=3)
        name = "cpu"
    on_gpu = name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())
    precision = Precision(cfg.amp_dtype) if cfg.amp and on_gpu else Precision.float32
    return HardwareConfig(device=name, precision=precision, tf32=cfg.enable_tf32)


def _record(model: nn.Module, cfg: TrainerConfig) -> dict[str, Any]:
    """What a resumed run must share with the one that wrote the checkpoint."""
    return {
        "model": {"class": type(model).__name__, "settings": getattr(model, "settings", None)},
        "loss": {"type": cfg.loss_type, "reduction": cfg.reduction},
        "training": {"grad_clip": cfg.grad_clip, "ema_decay": cfg.ema_decay if cfg.use_ema else None},
        "seed": cfg.seed,
    }
