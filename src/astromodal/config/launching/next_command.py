"""The command to type next: it runs where it is printed, on what this run has made, with what this run was told."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from ..reading.conf_files import conf_dir
from ..reading.text_values import text_stays_text
from ..schema import STAGE_GROUPS, Config

_OF_ONE_RUN = ("run_id", "run_dir", "stage", "resume", "preview", "sweep", "hparams")
_OF_TORCHRUN = ("hardware=ddp", "hardware=fsdp")
_SURVEY = ("data.name", "data.root", "paths.store")  # what a primary file of the user may have set


def next_command(cfg: Any, stage: str, *more: str) -> str:
    """A shell command that starts ``stage`` after the run of ``cfg``.

    Args:
        more: flags and overrides of its own; they replace those of this run with the same key.

    >>> from types import SimpleNamespace
    >>> next_command(SimpleNamespace(stage="encode"), "train_lm", "-m", "seed=0,1")
    'python train_lm.py -m seed=0,1'
    """
    own = {_key(o) for o in more}
    flags, told = _told(cfg, stage)
    kept = [o for o in told if _key(o) not in own and o not in _OF_TORCHRUN and _is_read(_key(o), stage)]
    ours = [o for o in more if not o.startswith("-")]
    flags += [o for o in more if o.startswith("-")]
    return shlex.join(["python", script_of(stage), *flags, *map(_as_typed, [*kept, *ours])])


def chosen_option(group: str) -> str:
    """The option of a group that this run has, for the commands of stages with another default."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices[group]) if HydraConfig.initialized() else "mine"


def _told(cfg: Any, stage: str) -> tuple[list[str], list[str]]:
    """Flags and overrides of this run that hold for ``stage`` as well."""
    if "hydra" not in sys.modules:
        return [], []
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return [], []
    hydra = HydraConfig.get()
    flags = folder_flags(hydra)
    primary = hydra.job.config_name or cfg.stage
    told = [*(o for o in hydra.overrides.hydra if _key(o) == "hydra.searchpath"), *hydra.overrides.task]
    given = {_key(o) for o in told}
    if stage != cfg.stage and primary != cfg.stage:  # a primary file is one of its stage
        survey = [f"data={hydra.runtime.choices['data']}", *(f"{key}={_quoted(_get(cfg, key))}" for key in _SURVEY)]
        told = [*(o for o in survey if _key(o) not in given), *told]
    elif primary != cfg.stage:
        flags += ["--config-name", primary]
    if str(hydra.mode).endswith("MULTIRUN") and "tokenizer_id" not in given:  # a job of a sweep has a folder of its own
        told.append(f"tokenizer_id={_quoted(cfg.tokenizer_id)}")
    return flags, told


def folder_flags(hydra: Any) -> list[str]:
    """The flags that name the user's folders of options, of Hydra's own configuration."""
    flags: list[str] = []
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
        elif source.provider == "main" and source.schema == "file" and Path(source.path) != conf_dir():
            flags += ["--config-path", source.path]
    return flags


def _is_read(key: str, stage: str) -> bool:
    group = key.replace("/", ".").split(".")[0]
    known = group in Config.__dataclass_fields__
    return group not in _OF_ONE_RUN and (not known or group in STAGE_GROUPS[stage])


def script_of(stage: str) -> str:
    """The script of ``stage``, beside the one that runs."""
    running = Path(sys.argv[0])
    return str(running.with_name(f"{stage}.py")) if running.stem in STAGE_GROUPS else f"{stage}.py"


def _as_typed(override: str) -> str:
    """Without the quotes that the command line gets anyway: they only make the shell's longer."""
    found = re.fullmatch(r"([^=]+)='([^']*)'", override)
    typed = f"{found[1]}={found[2]}" if found else override
    return typed if text_stays_text(typed) == override else override


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0].split("@")[0]


def _get(cfg: Any, key: str) -> str:
    for name in key.split("."):
        cfg = cfg[name]
    return str(cfg)


def _quoted(text: str) -> str:
    return text_stays_text(f"name={text}").removeprefix("name=")
