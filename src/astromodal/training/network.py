"""What is trained and what it computes in: model, optimizer, average, device and precision."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..config.schema import HardwareConfig, OptimizerConfig, OptimizerName, Precision, TrainingConfig
from ..optim.muon import JointOptimizer
from ..optim.optimizers import build_optimizer
from ..parallel import distributed
from ..parallel.rank import broadcast_object
from ..parallel.sharded import gathered, shard
from .arithmetic import Choice, choose
from .ema import ParameterAverage
from .precision import MixedPrecision
from .utils import configure_cuda_performance, prepare_cublas, resolve_device


class Network:
    """An objective on its device, with everything that moves its weights.

    Raises:
        ConfigError: a device, precision or optimizer that cannot be had.
    """

    def __init__(
        self, objective: Any, training: TrainingConfig, optimizer: OptimizerConfig, hardware: HardwareConfig
    ) -> None:
        self._prepare(hardware, OptimizerName(optimizer.name))
        self.model: nn.Module = objective.model
        if distributed.wants_shards(hardware.parallel):
            shard(self.model, self.device, self.precision.name)  # before the move: the whole may not fit
        self.objective: Any = objective.to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer: Any = build_optimizer(self.model, optimizer, self.choice.muon)
        # What a step calls; all ranks now hold the weights of the first.
        self.forward: Any = distributed.wrap(self.objective, self.device)
        self.ema = ParameterAverage(self.model, training.ema_decay) if training.ema_decay is not None else None
        if hardware.compile:
            varied: dict[str, Any] = {"dynamic": True} if getattr(objective, "dynamic_shapes", False) else {}
            self.forward = torch.compile(self.forward, **varied)

    def _prepare(self, hardware: HardwareConfig, optimizer: OptimizerName) -> None:
        if hardware.n_threads is not None:
            torch.set_num_threads(hardware.n_threads)
        self.deterministic = hardware.deterministic
        if hardware.deterministic:
            prepare_cublas()
        self.device = resolve_device(hardware.device)
        if self.device.type == "cuda":
            configure_cuda_performance(hardware.tf32)
        distributed.join_process_group(self.device, hardware.rank_timeout_s)
        # broadcast: clocks differ from rank to rank
        self.choice: Choice = broadcast_object(choose(hardware, self.device, optimizer))
        self.precision = MixedPrecision(Precision(self.choice.precision), self.device)
        self._insists = hardware.cpu_bf16 is not None

    def keep_choice(self, earlier: Choice) -> None:
        """Compute in what an earlier attempt of this run has chosen, where that is still a choice."""
        self.choice = self.choice.after(earlier, self._insists)
        if self.choice.precision != self.precision.name:
            self.precision = MixedPrecision(Precision(self.choice.precision), self.device)
        for group in self.optimizer.param_groups:
            if "precision" in group:
                group["precision"] = self.choice.muon

    def say_choice(self, log: logging.Logger) -> None:
        """Log what the run computes in, where that is not simply what was asked for."""
        wanted, precision, muon = self.choice.wanted, self.choice.precision, self.choice.muon
        if self.device.type != "cpu" or self._insists:
            return
        has_muon = any("precision" in group for group in self.optimizer.param_groups)
        if wanted not in (precision, "auto"):
            log.warning(
                "hardware.precision=%s: in %s, which this CPU is faster in (hardware.cpu_bf16=true insists)",
                wanted,
                precision,
            )
        elif wanted == "auto" and precision != "float32":
            log.info("precision %s, which this CPU is faster in (hardware.precision=float32: as it was)", precision)
        if has_muon:
            log.info("Muon's products in %s, which this CPU is faster in", muon)

    def set_learning_rate(self, factor: float) -> None:
        """Every group's peak rate, times ``factor``."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    @property
    def learning_rates(self) -> dict[str, float]:
        """``optim/lr``, and one for each part of a joint optimizer."""
        rates = {"optim/lr": float(self.optimizer.param_groups[0]["lr"])}
        if isinstance(self.optimizer, JointOptimizer):
            for name, part in self.optimizer.parts.items():
                rates[f"optim/lr_{name}"] = float(part.param_groups[0]["lr"])
        return rates

    def model_state(self) -> dict[str, Tensor]:
        """The model's weights, whole; call it on all ranks. Of a sharded model only the first gets them."""
        return gathered(self.model.state_dict())

    def averaged(self) -> AbstractContextManager:
        """Context in which the model holds the averaged weights, if there is an average."""
        return self.ema.applied() if self.ema is not None else nullcontext()
