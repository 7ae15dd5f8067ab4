"""Muon for the matrices of the hidden layers, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
semi-orthogonal one (five Newton-Schulz steps) and scales it by ``sqrt(max(1, rows / columns))``. The update
itself is :class:`torch.optim.Muon`; this module decides which parameters it gets and joins the two optimizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError


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
    head = getattr(model, "head_weight", None)
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


def build_muon(
    matrices: list[nn.Parameter], learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """:class:`torch.optim.Muon` with Nesterov momentum and decoupled weight decay.

    Raises:
        ConfigError: the installed torch is older than 2.9, which brought Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError("torch 2.9 or newer for optimizer.name=muon", got=torch.__version__, repair="optimizer=adamw")
    return torch.optim.Muon(
        matrices,
        lr=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=True,
        adjust_lr_fn="original",  # sqrt(max(1, rows / columns))
    )
