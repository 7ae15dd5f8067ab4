"""What of a recorded command line is taken up again: keys of this program, and nothing that Hydra would execute.

A sweep's folder may come from anybody. Hydra makes objects of ``hydra.*._target_`` (callbacks, launcher, sweeper,
loggers), sets environment variables (``hydra.job.env_set``) and reads configuration from ``--config-dir`` and from
``hydra.searchpath``; Slurm's launcher runs ``setup`` in a shell. So only the groups and keys of the schema, and a
few plain settings of launchers, are replayed; anything else has to be typed again by whoever continues the sweep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from ...errors import ConfigError

_ARGUMENT = re.compile(r"(?:\+\+?|~)?(?P<key>[A-Za-z_][\w-]*(?:[./][\w-]+)*)(?:=(?P<value>.*))?", re.DOTALL)
_HYDRA = ("hydra/launcher", "hydra/sweeper", "hydra.sweeper.max_batch_size")
_SEARCH = ("n_trials", "sampler", "n_startup_trials", "seed")  # of hydra/sweeper=astromodal_optuna
_LAUNCHER = (
    "n_jobs",
    "pre_dispatch",
    "batch_size",
    "partition",
    "account",
    "qos",
    "constraint",
    "timeout_min",
    "max_num_timeout",
    "nodes",
    "tasks_per_node",
    "cpus_per_task",
    "gpus_per_node",
    "mem_gb",
    "array_parallelism",
)
_WORD = re.compile(r"[\w.:+-]*")  # a launcher's setting: joblib evaluates it, Slurm's stands in a script


def check_replayed(arguments: Iterable[str], where: Path) -> None:
    """Refuse recorded arguments that are more than choices and values of this program.

    Raises:
        ConfigError: naming the argument.
    """
    from ..reading.conf_files import conf_dir
    from ..schema import Config

    groups, keys = _groups(conf_dir()), {item.name for item in fields(Config)}
    for argument in arguments:
        found = _ARGUMENT.fullmatch(argument) if isinstance(argument, str) else None
        key, value = (found["key"], found["value"] or "") if found else ("", "")
        if not found or not (_is_choice(key, value, groups) or _is_setting(key, value, keys)):
            raise ConfigError(
                "recorded arguments that choose options or set keys of the configuration",
                got=repr(argument)[:200],
                where=where,
                repair="look at it; if it is yours, give it again on the command line",
            )


def _groups(conf: Path) -> set[str]:
    """Groups of options, as they are typed: ``model``, ``tokenizer/image/codec``."""
    return {p.relative_to(conf).as_posix() for p in conf.rglob("*") if p.is_dir() and p.name[:1] not in "._"}


def _is_choice(key: str, value: str, groups: set[str]) -> bool:
    """``group=option``, of options in the folders of the configuration and nowhere else."""
    if key not in groups or (key.split("/")[0] == "hydra" and key not in _HYDRA):
        return False
    names = re.split(r"[\s,()\[\]'\"]+", value)
    return not any(name.startswith("/") or ".." in name.split("/") or ":" in name or "$" in name for name in names)


def _is_setting(key: str, value: str, keys: set[str]) -> bool:
    """``key=value`` of the schema, which calls no resolver (``${oc.env:…}`` would copy the environment)."""
    if key.startswith("hydra.launcher."):
        return key.removeprefix("hydra.launcher.") in _LAUNCHER and bool(_WORD.fullmatch(value))
    if key.startswith("hydra.sweeper.") and key.removeprefix("hydra.sweeper.") in _SEARCH:
        return bool(_WORD.fullmatch(value))
    if key == "hydra/sweeper":
        return value in ("astromodal", "astromodal_optuna")
    if key in _HYDRA:
        return value.isdecimal()
    calls = "${" in value and ":" in value[value.index("${") :]
    return "/" not in key and (key.split(".")[0] in keys or key == "hydra.sweep.subdir") and not calls
