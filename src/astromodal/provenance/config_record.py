"""What of a configuration decides the result of a run: what runs are recognised by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config.reading.containers import to_dict
from ..config.schema import STAGE_GROUPS
from ..files.io import plain

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Names, places and what only says how a run is begun or watched.
_LEFT_OUT = ("stage", "name", "run_id", "run_dir", "resume", "paths", "tracking", "sweep", "preview")


def config_record(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """The groups that ``stage`` reads, resolved, as plain values, without names and places.

    The folder that tokenizers are written to is a place; the one that they are read from is an input.
    """
    values = to_dict(cfg, resolve=True, enum_to_str=True)
    values["hardware"].pop("workers")  # the results do not depend on who works
    left_out = list(_LEFT_OUT)
    if not values["plugins"]:  # as before there were any
        left_out.append("plugins")
    if stage == "train_tokenizers":
        left_out.append("tokenizer_id")
    if stage == "train_lm" and values["objective"] == "score":  # nothing is asked
        left_out += ["objective", "evaluate"]
    return {key: plain(values[key]) for key in STAGE_GROUPS[stage] if key not in left_out}
