"""From configuration to optimizer: which parameters decay, which update they get.

Matrices and convolution kernels decay; biases, norms, embeddings, positions and learned tokens do not (they are few,
and pulling them to zero only costs accuracy). A further optimizer is one
function here and a row of ``OPTIMIZERS`` in :mod:`astromodal.config.families`.
"""

from __future__ import annotations

import torch
from torch import nn

from ..config.families import OPTIMIZERS
from ..config.ranges import check_ranges
from ..config.schema import OptimizerConfig
from ..errors import ConfigError
from .muon import JointOptimizer, Muon, hidden_matrices
from .riemannian import build_riemannian_adam, manifold_points

Optimizer = torch.optim.Optimizer | JointOptimizer


def no_decay_ids(model: nn.Module) -> set[int]:
    """Ids of the parameters without weight decay: vectors of any shape, tables, and learned tokens."""
    found = {id(p) for p in model.parameters() if p.ndim < 2}
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            found |= {id(p) for p in module.parameters()}
    # Tables that are plain parameters, as positions often are.
    found |= {id(p) for name, p in model.named_parameters() if "embed" in name or "position" in name}
    # A class token of shape (1, 1, D) or (n, D) is no map either; the weights of layers are named weight.
    for name, p in model.named_parameters():
        own = name.rsplit(".", 1)[-1]
        is_vector = not own.endswith("weight") and sum(n > 1 for n in p.shape) < 2
        if is_vector or {"token", "tokens", "cls", "pos"} & set(own.split("_")):
            found.add(id(p))
    return found


def parameter_groups(model: nn.Module, weight_decay: float, skip: frozenset[int] = frozenset()) -> list[dict]:
    """Two groups, with and without weight decay, of the trainable parameters whose id is not in ``skip``."""
    plain = no_decay_ids(model)
    free = [p for p in model.parameters() if p.requires_grad and id(p) not in skip]
    groups = [
        {"params": [p for p in free if id(p) not in plain], "weight_decay": weight_decay},
        {"params": [p for p in free if id(p) in plain], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def fused_supported(groups: list[dict]) -> bool:
    """Whether torch has one fused kernel for these parameters (real floats on CPU, CUDA or MPS)."""
    parameters = [p for group in groups for p in group["params"]]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in parameters)


def adamw(
    model: nn.Module, config: OptimizerConfig, _: str = "", skip: frozenset[int] = frozenset()
) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config.weight_decay, skip)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=betas, eps=config.eps, fused=fused_supported(groups)
    )


def adam(model: nn.Module, config: OptimizerConfig, _: str = "") -> torch.optim.Optimizer:
    groups = parameter_groups(model, config.weight_decay)
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(groups, lr=config.learning_rate, betas=betas, eps=config.eps, fused=fused_supported(groups))


def muon(model: nn.Module, config: OptimizerConfig, precision: str = "bf16") -> Optimizer:
    matrices = [p for _, p in hidden_matrices(model)]
    if not matrices:
        raise ConfigError(
            "a model with linear hidden layers for optimizer.name=muon",
            got=type(model).__name__,
            repair="optimizer=adamw",
        )
    muon = Muon(matrices, config.muon_learning_rate, config.muon_momentum, config.weight_decay, precision)
    skip = frozenset(id(p) for p in matrices)
    if not parameter_groups(model, config.weight_decay, skip):
        return JointOptimizer(muon=muon)
    return JointOptimizer(adamw=adamw(model, config, skip=skip), muon=muon)


def riemannian_adam(model: nn.Module, config: OptimizerConfig, _: str = "") -> Optimizer:
    points = manifold_points(model)
    betas = (config.beta1, config.beta2)
    riemannian = build_riemannian_adam(points, config.learning_rate, betas, config.eps)
    skip = frozenset(id(p) for p in points)
    if not parameter_groups(model, config.weight_decay, skip):
        return JointOptimizer(riemannian=riemannian)
    return JointOptimizer(adamw=adamw(model, config, skip=skip), riemannian=riemannian)


def build_optimizer(model: nn.Module, config: OptimizerConfig, muon_precision: str = "bf16") -> Optimizer:
    """Optimizer over the trainable parameters of ``model``, which must already be on its device.

    Every group carries ``initial_lr``, its peak, which the schedule scales.

    Args:
        muon_precision: ``bf16`` or ``float32``, of Muon's products.

    Raises:
        ConfigError: a constant out of range, or nothing to train.
    """
    check_ranges(config, "optimizer")
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("a model with trainable parameters", got=type(model).__name__)
    optimizer = OPTIMIZERS[config.name].made()(model, config, muon_precision)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
