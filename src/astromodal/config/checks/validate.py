"""Every cross-check of a configuration, before any work starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ...errors import ConfigError
from ..launching.command_line import MAY_BE_NONE, check_preset, check_stage, no_option
from ..plugins import check_imported
from ..reading.explain import schema_of
from ..reading.key_names import unknown_key
from ..reading.key_types import is_optional, type_at
from ..schema import STAGE_GROUPS
from .bounds import check_bounds, value_of
from .combinations import check_combinations
from .memory import check_memory
from .names import check_name


def validate(cfg: DictConfig, stage: str, overrides: Sequence[str] = ()) -> None:
    """Check ``cfg`` for ``stage``.

    Raises:
        ConfigError: an unknown key, a value out of its range, or values that cannot work together.
    """
    check_stage(list(overrides), stage)
    check_preset(list(overrides), stage, _swept())
    check_imported(cfg.plugins)
    for key in _unknown_keys(cfg):
        raise unknown_key(key)
    _check_entries(cfg)
    _check_sections(cfg, stage)
    _check_names(cfg)
    check_bounds(cfg)
    _check_processes(cfg, stage)
    check_memory(cfg, stage)
    check_combinations(cfg, stage, overrides)


def _check_names(cfg: DictConfig) -> None:
    """Refuse names that would leave the folder in which they become a folder or a file."""
    for key in ("name", "run_id", "tokenizer_id", "data.name"):
        if value_of(cfg, key) is not None:
            check_name(value_of(cfg, key), key)
    for key in ("data.fields", "data.spectra"):
        for name in value_of(cfg, key) or ():
            check_name(name, key)


def _check_sections(cfg: DictConfig, stage: str) -> None:
    """Refuse a section that is null or gone, and a group of which a file has chosen no option."""
    for key in STAGE_GROUPS[stage]:
        if not is_dataclass(type_at(key)) or is_optional(key):
            continue
        if key not in cfg or (node := cfg._get_node(key)) is None or node._is_none():
            raise ConfigError(f"a section {key}", got="null", where=key, repair=f"{key}=<option>")
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    for group, option in chosen.items():
        section = str(group).split("/")[0]
        if str(option) in ("null", "None") and section in STAGE_GROUPS[stage] and group not in MAY_BE_NONE:
            raise no_option(group)


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
        name = prefix + str(key)
        if known is not None and key not in known:
            yield name
        else:
            yield from _unknown_keys(node._get_node(key), name + ".")


def _check_entries(node: Any, key: str = "") -> None:
    """Refuse lists and sections where a list or a dictionary has plain values: OmegaConf lets them in."""
    plain = node._metadata.element_type in (int, float, str, bool)
    if node._is_none() or node._is_missing():
        return
    for name in node if isinstance(node, DictConfig) else range(len(node)):
        entry, where = node._get_node(name), ".".join([key, str(name)] if key else [str(name)])
        if not OmegaConf.is_config(entry):
            continue
        if plain:
            kind = node._metadata.element_type.__name__
            raise ConfigError(f"entries of type {kind}", got=OmegaConf.to_container(entry, resolve=False), where=key)
        _check_entries(entry, where)


def _check_processes(cfg: DictConfig, stage: str) -> None:
    """Several processes need torchrun, and only training, encoding and asking know what to do with them."""
    n_launched, parallel = int(os.environ.get("WORLD_SIZE", "1")), cfg.hardware.parallel.value
    if stage not in ("train_lm", "encode", "evaluate") and n_launched > 1 and "RANK" in os.environ:
        repair = f"python {stage}.py hardware.n_processes=<n>"
        raise ConfigError(f"one process for {stage}.py", got=f"{n_launched} of torchrun or srun", repair=repair)
    if stage == "train_lm" and parallel != "auto" and "RANK" not in os.environ:
        raise ConfigError(
            f"several processes for hardware.parallel={parallel}",
            got="one",
            where="hardware",
            repair="torchrun --nproc-per-node=<processes> train_lm.py …, or hardware=auto",
        )
