"""Every cross-check of a configuration, before any work starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig

from ..errors import ConfigError
from .bounds import check_bounds, value_of
from .combinations import check_combinations
from .explain import all_keys, nearest, schema_of
from .names import check_name
from .schema import STAGE_GROUPS, Config


def validate(cfg: DictConfig, stage: str, overrides: list[str] = ()) -> None:
    """Check ``cfg`` for ``stage``.

    Raises:
        ConfigError: an unknown key, a value out of its range, or values that cannot work together.
    """
    groups = tuple(Config.__dataclass_fields__)
    _check_stage(list(overrides), STAGE_GROUPS[stage], groups, stage)
    if any(o.startswith("hparams=") for o in overrides) and not _swept():
        raise ConfigError("-m with hparams=…", got="a single run", where="command line",
                          repair=f"python {stage}.py -m {' '.join(overrides)}")  # fmt: skip
    for key in _unknown_keys(cfg):
        raise ConfigError("a configuration key that exists", got=key, repair=nearest(key, all_keys()))
    _check_names(cfg)
    check_bounds(cfg)
    _check_processes(cfg, stage)
    check_combinations(cfg, stage)


def _check_names(cfg: DictConfig) -> None:
    """Refuse names that would leave the folder in which they become a folder or a file."""
    for key in ("name", "run_id", "tokenizer_id", "data.name"):
        if value_of(cfg, key) is not None:
            check_name(value_of(cfg, key), key)
    for key in ("data.fields", "data.spectra"):
        for name in value_of(cfg, key) or ():
            check_name(name, key)


def _check_stage(overrides: list[str], allowed: tuple[str, ...], known: tuple[str, ...], stage: str) -> None:
    """Refuse overrides of groups that exist but that this stage does not read: they would change nothing."""
    for override in overrides:
        group = override.lstrip("+~").split("=")[0].split("@")[0].replace("/", ".").split(".")[0]
        if group in known and group not in allowed:
            readable = ", ".join(k for k in allowed if k not in ("stage", "run_id", "run_dir"))
            raise ConfigError(f"keys that {stage}.py reads ({readable})", got=override, where="command line",
                              repair=f"drop it, or give it to the stage that uses '{group}'")  # fmt: skip


def _swept() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _unknown_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys that ``+key=value`` smuggled past the schema."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    cls = schema_of(node)
    known = {f.name for f in fields(cls)} if cls else None
    for key in node:
        name = f"{prefix}{key}"
        if known is not None and key not in known:
            yield name
        else:
            yield from _unknown_keys(node._get_node(key), name + ".")


def _check_processes(cfg: DictConfig, stage: str) -> None:
    """Several processes need torchrun, and only training knows what to do with them."""
    n_launched, parallel = int(os.environ.get("WORLD_SIZE", "1")), cfg.hardware.parallel.value
    if stage != "train_lm" and n_launched > 1 and "RANK" in os.environ:
        repair = "python encode.py hardware.n_processes=<n>" if stage == "encode" else f"python {stage}.py"
        raise ConfigError(f"one process for {stage}.py", got=f"{n_launched} of torchrun", repair=repair)
    if stage == "train_lm" and parallel != "auto" and "RANK" not in os.environ:
        raise ConfigError(f"several processes for hardware.parallel={parallel}", got="one", where="hardware",
                          repair="torchrun --nproc-per-node=<processes> train_lm.py …, or hardware=auto")  # fmt: skip
