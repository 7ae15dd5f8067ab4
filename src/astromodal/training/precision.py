"""Device arithmetic of one optimizer step: autocast, loss scaling, clipping.

bf16 has the exponent range of float32 and needs no scaling. fp16 scales the loss (Micikevicius et al. 2018,
arXiv:1710.03740); a step whose gradients overflow is skipped and the scale halved.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ..config.schema import HardwareConfig, Precision
from ..errors import ConfigError
from ..parallel.sharded import clip, whole
from .arithmetic import choose


class MixedPrecision:
    """How the loss is computed, differentiated and applied."""

    def __init__(self, wanted: Precision, device: torch.device) -> None:
        """Raises ConfigError when the device cannot do what is wanted."""
        self.device = device
        name = Precision(wanted)
        has_bf16 = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
        if name is Precision.auto:
            name = Precision.bf16 if device.type == "cuda" and has_bf16 else Precision.float32
        if name is Precision.bf16 and not has_bf16:
            raise ConfigError("a device with bf16", got=str(device), repair="hardware.precision=fp16 or float32")
        self.name = name.value
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)
        self.scaler = torch.amp.GradScaler(device.type) if self.dtype is torch.float16 else None

    @classmethod
    def of(cls, hardware: HardwareConfig, device: torch.device) -> MixedPrecision:
        """As :func:`~astromodal.training.arithmetic.choose` chooses."""
        return cls(Precision(choose(hardware, device).precision), device)

    def autocast(self) -> AbstractContextManager:
        """Context for the forward pass."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype is not None else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, scaled if need be."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def gradient_norm(self, optimizer: object, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Norm of the true (unscaled) gradient, as a tensor on the device."""
        if self.scaler:
            self.scaler.unscale_(optimizer)  # type: ignore[arg-type]
        grads = [p.grad for p in parameters if p.grad is not None]
        return whole(nn.utils.get_total_norm(grads)) if grads else torch.zeros((), device=self.device)

    @staticmethod
    def clip(parameters: Iterable[nn.Parameter], norm: Tensor, max_norm: float | None) -> None:
        """Scale gradients of norm ``norm`` down to ``max_norm``; of a NaN norm, all of them become NaN."""
        if max_norm is not None:
            clip(parameters, norm, max_norm)

    def step(self, optimizer: object) -> bool:
        """Apply the gradient; False when the step was skipped because a scaled gradient overflowed."""
        if not self.scaler:
            optimizer.step()  # type: ignore[attr-defined]
            return True
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)  # type: ignore[arg-type]
        self.scaler.update()
        return self.scaler.get_scale() >= before
