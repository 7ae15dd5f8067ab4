"""Seeds, devices, GPU switches, and the public learning-rate function; the summary of a model is re-exported."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import ConfigError
from ..machine.random import seed_everything
from ..optim.schedules import cosine_factor
from .watch.summary import count_parameters, describe_model, model_summary, print_model_summary

__all__ = [
    "configure_cuda_performance",
    "cosine_schedule_with_warmup",
    "count_parameters",
    "describe_model",
    "deterministic_kernels",
    "get_device",
    "model_summary",
    "print_model_summary",
    "require_deterministic",
    "resolve_device",
    "set_seed",
]


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch (all devices); ``deterministic`` also refuses kernels that vary from run to run."""
    seed_everything(seed)
    if deterministic:
        require_deterministic()


def require_deterministic() -> None:
    """From now on the same input gives the same bits, on GPUs too, at some cost in speed."""
    prepare_cublas()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def prepare_cublas() -> None:
    """Have cuBLAS use fixed workspaces, without which torch refuses its kernels as not deterministic.

    It reads the variable when it starts, so this comes before the first product on a GPU and is never undone.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic_kernels(wanted: bool = True) -> Iterator[None]:
    """Block with :func:`require_deterministic`, if ``wanted``; afterwards the settings are what they were."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    require_deterministic()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def configure_cuda_performance(tf32: bool = True) -> None:
    """TensorFloat-32 for float32 products, and the flash and memory-efficient attention kernels; harmless on CPU."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)


def get_device(prefer_cuda: bool = True) -> torch.device:
    """CUDA, else Apple's MPS, else CPU; with ``prefer_cuda=False`` MPS, else CPU."""
    if prefer_cuda and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if torch.backends.mps.is_available():
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


def available_device(device: str) -> str:
    """``device``, or ``cpu`` with a warning where a GPU is asked for and there is none."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        warnings.warn("device='cuda', but there is no CUDA device: training on the CPU", stacklevel=3)
        return "cpu"
    return device
