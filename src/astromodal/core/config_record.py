"""What of a configuration decides the result of a run: what runs are recognised by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config.schema import STAGE_GROUPS
from .io import plain

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Names, places and what only says how a run is begun or watched.
_LEFT_OUT = ("stage", "name", "run_id", "run_dir", "resume", "paths", "tracking", "sweep", "preview")


def config_record(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """The groups that ``stage`` reads, resolved, as plain values, without names and places.

    The folder that tokenizers are written to is a place; the one that they are read from is an input.
    """
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    left_out = (*_LEFT_OUT, "tokenizer_id") if stage == "train_tokenizers" else _LEFT_OUT
    return {key: plain(values[key]) for key in STAGE_GROUPS[stage] if key not in left_out}
