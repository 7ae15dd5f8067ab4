"""Size and cost of a model: parameters per part, memory, arithmetic per token, tokens per step.

Arithmetic of training: 6 operations per weight of a linear map and token, 2 forward and 4 backward (Kaplan et al. 2020,
arXiv:2001.08361), embeddings excluded and the output head included; plus attention, whose two products with the
sequence cost ``12 L d`` per layer and token (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), of which a causal
model needs half. Recomputation (activation checkpointing) is not counted: it is no progress.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

_LENGTHS = 1 << 18  # looked at together
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def model_summary(model: nn.Module, length: float | None = None) -> dict[str, Any]:
    """Size and cost of a model.

    Args:
        length: sequence length at which attention is counted (needs ``model.n_layers`` and ``model.d_model``).

    Returns:
        ``parts`` (parameters per child), ``parameters``, ``trainable``, ``bytes`` (parameters and buffers), and
        ``flops_per_token``, of training: 6 per weight of a linear map plus ``6 L d`` per layer of causal attention;
        ``None`` for a model with convolutions, whose cost depends on the size of the image.
    """
    seen: set[int] = set()
    parts: dict[str, int] = {}
    for name, child in [*model.named_children(), ("(own)", model)]:
        new = [p for p in child.parameters() if id(p) not in seen]
        seen |= {id(p) for p in new}
        if new:
            parts[name] = sum(p.numel() for p in new)
    tensors = [*model.parameters(), *model.buffers()]
    total, trainable = count_parameters(model)
    return {
        "parts": parts,
        "parameters": total,
        "trainable": trainable,
        "bytes": sum(t.numel() * t.element_size() for t in tensors),
        "flops_per_token": flops_per_token(model, length),
    }


def flops_per_token(model: nn.Module, length: float | None = None) -> float | None:
    """Operations of one training step per token; see the module's docstring. ``None`` for convolutional models."""
    if any(isinstance(module, _CONVOLUTIONS) for module in model.modules()):
        return None
    weights = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)}
    head = model.learned_head if hasattr(model, "learned_head") else getattr(model, "head_weight", None)
    if isinstance(head, torch.Tensor):
        weights[id(head)] = head.numel()
    flops: float = 6 * sum(weights.values())
    n_layers, width = getattr(model, "n_layers", None), getattr(model, "d_model", None)
    if length and isinstance(n_layers, int) and isinstance(width, int):
        flops += 6 * n_layers * length * width
    return flops


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters in all and trainable ones; tied ones count once.

    >>> count_parameters(nn.Linear(3, 2))
    (8, 8)
    """
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)


def expected_tokens(loader: Any, steps_per_epoch: int) -> tuple[float | None, float | None]:
    """Tokens per optimizer step (over all ranks), and the length at which the mean token is attended to.

    The second is ``sum L^2 / sum L``: long sequences hold more of the tokens. Both are ``None`` for a loader without
    ``dataset.lengths``.

    >>> from types import SimpleNamespace
    >>> expected_tokens(SimpleNamespace(dataset=SimpleNamespace(lengths=[10, 30])), 2)
    (20.0, 25.0)
    """
    lengths = getattr(getattr(loader, "dataset", None), "lengths", None)
    if lengths is None or not len(lengths):
        return None, None
    total = squares = 0.0
    for start in range(0, len(lengths), _LENGTHS):  # they lie in a file, 8 bytes an object
        values = np.asarray(lengths[start : start + _LENGTHS], dtype=np.float64)
        total, squares = total + float(values.sum()), squares + float((values**2).sum())
    return total / max(steps_per_epoch, 1), squares / max(total, 1.0)


def training_summary(model: nn.Module, loader: Any, steps_per_epoch: int) -> dict[str, Any]:
    """:func:`model_summary` at the lengths of the training data, with ``tokens_per_step`` and ``flops_per_step``."""
    tokens, length = expected_tokens(loader, steps_per_epoch)
    summary = model_summary(model, length) | {"tokens_per_step": tokens, "flops_per_step": None}
    if tokens is not None and summary["flops_per_token"] is not None:
        summary["flops_per_step"] = tokens * summary["flops_per_token"]
    return summary


def describe(name: str, summary: dict[str, Any]) -> str:
    """A summary as one line."""
    parts = ", ".join(f"{part} {count:,}" for part, count in summary["parts"].items())
    text = f"{name}: {summary['parameters']:,} parameters ({parts}), {summary['bytes'] / 2**20:.1f} MiB"
    if summary["trainable"] != summary["parameters"]:
        text += f", {summary['trainable']:,} trainable"
    if summary["flops_per_token"] is not None:
        text += f", {summary['flops_per_token'] / 1e6:.2f} MFLOP per token"
    if summary.get("tokens_per_step") is not None:
        text += f", about {summary['tokens_per_step']:,.0f} tokens per step"
    return text


def describe_model(model: nn.Module) -> str:
    """:func:`model_summary` as one line."""
    return describe(type(model).__name__, model_summary(model))


def print_model_summary(model: nn.Module) -> None:
    """Print a model, its parameters and its size, in the public layout."""
    total, trainable = count_parameters(model)
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()]) / 2**20
    lines = [
        "=" * 80,
        "Model Summary",
        "=" * 80,
        str(model),
        "-" * 80,
        f"Total parameters: {total:,}",
        f"Trainable parameters: {trainable:,}",
        f"Model size: {size:.2f} MB",
        "=" * 80,
    ]
    print("\n".join(lines))
