"""A model whose weights, gradients and optimizer state are divided among the processes (FSDP2).

Zhao et al. 2023, "PyTorch FSDP" (arXiv:2304.11277), in the form of :func:`torch.distributed.fsdp.fully_shard`: every
parameter becomes a :class:`DTensor` of which each process holds some rows. A block's weights are whole only while it
computes; those outside of the blocks (embeddings, head) from the beginning of :meth:`hidden` to the end of the step,
which is what the loss needs, since it multiplies with the whole head. Gradients are averaged as under DDP.

Checkpoints are the usual files with whole tensors, gathered on the first process: they can be read by any number of
processes, and with ``weights_only=True``. (``torch.distributed.checkpoint`` reads its ``.metadata`` with plain
``pickle``, which executes what a stranger put there.) Functions here leave what is not sharded as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError
from ..optim.muon import JointOptimizer


def shard(model: nn.Module, device: torch.device, precision: str) -> None:
    """Divide ``model`` among the processes, beginning with the weights of the first; parameters are replaced.

    Blocks are moved to ``device`` one after the other, so that the whole model need not fit there. With bf16 on a GPU a
    block's weights travel in bf16, as autocast would use them; sums of gradients are float32.

    Raises:
        ConfigError: a model without ``blocks``, or fp16, whose loss scale is not kept equal on all processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ConfigError(
            "a model with blocks, to be sharded",
            got=type(model).__name__,
            where="hardware.parallel",
            repair="hardware=ddp",
        )
    if precision == "fp16":
        raise ConfigError(
            "bf16 or float32 with hardware.parallel=fsdp",
            got="fp16",
            where="hardware.precision",
            repair="hardware.precision=bf16",
        )
    with torch.no_grad():
        for tensor in chain(model.parameters(), model.buffers()):
            dist.broadcast(tensor, 0)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Inputs stay as they are: the stream between the blocks is float32, as under autocast alone.
    # On a CPU weights stay float32, too: its layer norm takes no bf16 weights with such a stream.
    travels = precision == "bf16" and device.type != "cpu"
    half = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if travels else {}
    policy = MixedPrecisionPolicy(**half, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    if hasattr(model, "hidden"):
        register_fsdp_forward_method(model, "hidden")


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was called with ``model``."""
    return hasattr(model, "reshard")


def forget_whole(model: nn.Module) -> None:
    """Drop whole copies of weights, which otherwise outlive a change of the shares (average, loaded weights)."""
    if is_sharded(model):
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def local(tensor: Tensor) -> Tensor:
    """This process's share, in the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor in full, on every process; all of them have to call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gathered(value: Any) -> Any:
    """Nested dicts and lists with sharded tensors in full, on the CPU of the first process, None elsewhere."""
    return _gathered(value) if _has_shards(value) else value


def _has_shards(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_shards, value.values()))
    return any(map(_has_shards, value)) if isinstance(value, list | tuple) else hasattr(value, "full_tensor")


def _gathered(value: Any) -> Any:
    if hasattr(value, "full_tensor"):
        full = value.detach().full_tensor()
        return full.cpu() if dist.get_rank() == 0 else None
    if isinstance(value, Mapping):
        return {key: _gathered(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_gathered(item) for item in value)
    return value


def like(value: Any, own: Tensor) -> Any:
    """``value`` (whole, on every process) divided as ``own`` is."""
    if not hasattr(own, "placements") or not isinstance(value, Tensor) or hasattr(value, "placements"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def optimizer_state(optimizer: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole ``state_dict`` of an optimizer, divided as its parameters are."""
    if isinstance(optimizer, JointOptimizer):
        parts = optimizer.parts
        return {name: optimizer_state(parts[name], own) if name in parts else own for name, own in state.items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(hasattr(p, "placements") for p in parameters):
        return dict(state)
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    owner = dict(zip(numbers, parameters, strict=False))
    divided = {
        number: {k: like(v, owner[number]) if _shape(v) == owner[number].shape else v for k, v in entries.items()}
        for number, entries in state["state"].items()
        if number in owner
    }
    return {**state, "state": divided}


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def clip(parameters: Iterable[nn.Parameter], norm: Tensor, max_norm: float) -> None:
    """:func:`torch.nn.utils.clip_grads_with_norm_` for sharded gradients, of which ``norm`` is the whole norm."""
    grads = [local(p.grad) for p in parameters if p.grad is not None]
    torch._foreach_mul_(grads, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
