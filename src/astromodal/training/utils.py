"""Seeds, devices, GPU switches, the documented learning-rate function, and the summary of a model."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from ..core.random import seed_everything
from ..errors import ConfigError
from .schedules import cosine_factor


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch (all devices); ``deterministic`` also refuses kernels that vary from run to run."""
    seed_everything(seed)
    if deterministic:
        require_deterministic()


def require_deterministic() -> None:
    """From now on the same input gives the same bits, on GPUs too, at some cost in speed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def configure_cuda_performance(tf32: bool = True) -> None:
    """TensorFloat-32 for float32 products, and the flash and memory-efficient attention kernels; harmless on CPU."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)


def get_device(prefer_cuda: bool = True) -> torch.device:
    """CUDA, else Apple's MPS, else CPU; with ``prefer_cuda=False`` the CPU."""
    if prefer_cuda and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if prefer_cuda and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ConfigError: this machine or this torch has no such device.
    """
    if name == "auto":
        return get_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("hardware.device auto, cpu, cuda, cuda:<n> or mps", got=repr(name)) from error
    repair = "hardware=cpu, or hardware.device=auto"
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return get_device()
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"a device {name}", got=f"{torch.cuda.device_count()} CUDA devices", repair=repair)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("an MPS device", got="none on this machine", repair=repair)
    return device


def cosine_schedule_with_warmup(
    step: int, base_lr: float, warmup_steps: int, total_steps: int, min_lr_ratio: float = 0.1
) -> float:
    """Learning rate at ``step``: linear from 0 to ``base_lr``, then half a cosine to ``min_lr_ratio * base_lr``.

    >>> cosine_schedule_with_warmup(step=1000, base_lr=2e-4, warmup_steps=2000, total_steps=200_000, min_lr_ratio=0.1)
    0.0001
    """
    return base_lr * cosine_factor(step, warmup_steps, total_steps, min_lr_ratio)


def model_summary(model: nn.Module, length: int | None = None) -> dict[str, Any]:
    """Size and cost of a model.

    Args:
        length: sequence length at which attention is counted (needs ``model.n_layers`` and ``model.d_model``).

    Returns:
        ``parts`` (parameters per child), ``parameters``, ``trainable``, ``bytes`` (parameters and buffers), and
        ``flops_per_token``: 6 per weight of a linear map (2 forward, 4 backward) plus ``6 L d`` per layer of
        causal attention (Kaplan et al. 2020, arXiv:2001.08361; Chowdhery et al. 2022, arXiv:2204.02311, app. B).
    """
    seen: set[int] = set()
    parts: dict[str, int] = {}
    for name, child in [*model.named_children(), ("(own)", model)]:
        new = [p for p in child.parameters() if id(p) not in seen]
        seen |= {id(p) for p in new}
        if new:
            parts[name] = sum(p.numel() for p in new)
    tensors = [*model.parameters(), *model.buffers()]
    weights = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)}
    head = getattr(model, "head_weight", None)
    if isinstance(head, torch.Tensor):
        weights[id(head)] = head.numel()
    flops = 6 * sum(weights.values())
    n_layers, width = getattr(model, "n_layers", None), getattr(model, "d_model", None)
    if length and isinstance(n_layers, int) and isinstance(width, int):
        flops += 6 * n_layers * length * width
    return {
        "parts": parts,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "bytes": sum(t.numel() * t.element_size() for t in tensors),
        "flops_per_token": flops,
    }


def describe_model(model: nn.Module) -> str:
    """:func:`model_summary` as one line."""
    summary = model_summary(model)
    parts = ", ".join(f"{name} {count:,}" for name, count in summary["parts"].items())
    return (
        f"{type(model).__name__}: {summary['parameters']:,} parameters ({parts}), "
        f"{summary['bytes'] / 2**20:.1f} MiB, {summary['flops_per_token'] / 1e6:.2f} MFLOP per token and step"
    )
