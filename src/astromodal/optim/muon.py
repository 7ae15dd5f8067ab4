"""Muon for the matrices of the hidden layers, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
semi-orthogonal one (five Newton-Schulz steps) and scales it by ``sqrt(max(1, rows / columns))``. Its products are in
bf16, as published, or in float32 on a CPU that is slow in bf16: :class:`torch.optim.Muon`, which gives the same bits
in bf16, knows no other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC, _NS_STEPS, _EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7


class JointOptimizer:
    """Several optimizers over disjoint parameters behind the interface of one."""

    def __init__(self, **parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all parts (the very dicts: setting ``lr`` here sets it there)."""
        return [group for part in self.parts.values() for group in part.param_groups]

    @property
    def state(self) -> dict:
        """State per parameter, over all parts."""
        return {p: s for part in self.parts.values() for p, s in part.state.items()}

    def step(self) -> None:
        """One update of every part."""
        for part in self.parts.values():
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts.values():
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, dict]:
        """State dict per part, by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Inverse of :meth:`state_dict`; ValueError when the parts differ."""
        if set(state) != set(self.parts):
            raise ValueError(f"expected the parts {sorted(self.parts)}, got {sorted(state)}")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def hidden_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Weights of the linear maps inside a model: 2-D, and neither an embedding nor an output head."""
    excluded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}
    head = model.learned_head if hasattr(model, "learned_head") else getattr(model, "head_weight", None)
    if isinstance(head, torch.Tensor):
        excluded.add(id(head))
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        if module_name.rsplit(".", 1)[-1] in ("head", "lm_head"):
            continue
        names = ("in_proj_weight",) if isinstance(module, nn.MultiheadAttention) else ("weight",)
        if not isinstance(module, nn.Linear | nn.MultiheadAttention):
            continue
        for name in names:
            p = getattr(module, name, None)
            if p is None or p.ndim != 2 or id(p) in excluded or id(p) in seen or not p.requires_grad:
                continue
            seen.add(id(p))
            yield f"{module_name}.{name}".lstrip("."), p


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, over matrices.

    Args:
        precision: of the Newton-Schulz products, ``bf16`` or ``float32``.
    """

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, precision: str = "bf16"
    ) -> None:
        super().__init__(
            matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "precision": precision}
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("precision", "bf16")  # a checkpoint from before there was a choice

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing is evaluated twice here
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            dtype = torch.bfloat16 if group["precision"] == "bf16" else torch.float32
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad, memory_format=torch.preserve_format)
                momentum = state["momentum_buffer"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(momentum, group["momentum"]), dtype)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * math.sqrt(max(1, p.shape[0] / p.shape[1])))


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About the nearest semi-orthogonal matrix, by five Newton-Schulz steps in ``dtype``.

    The quintic polynomial is Jordan's: its slope at 0 is as large as it can be, and singular values end between
    0.7 and 1.2 instead of at 1, which training does not notice.
    """
    x = matrix.to(dtype)
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T  # the product of the shorter side with itself is the cheaper one
    x = x / x.norm().clamp(min=_EPS)  # no singular value above 1
    a, b, c = _QUINTIC
    for _ in range(_NS_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
