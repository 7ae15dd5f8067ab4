"""Configurations that an older version recorded (runs, checkpoints, sweeps), under the keys of this one."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

LOG = logging.getLogger("astromodal.config")
_SAID: set[str] = set()  # each change is told once, however many runs are read


def _workers(value: Any, section: Mapping[str, Any]) -> Any:
    """Who works: a section since there are clusters. Before, it was a number, or the number of processes alone."""
    n_jobs = section.get("n_processes") if value is None else value
    if isinstance(value, Mapping) or n_jobs is None:
        return value
    return {"backend": "loky", "n_jobs": n_jobs, "address": None}


# an old key -> the new one, or what makes the new value of the old one (None: it was not there) and its section
CHANGED: dict[str, str | Callable[[Any, Mapping[str, Any]], Any]] = {
    "training.resume": "resume",
    "training.init_from": "init_from",
    "hardware.workers": _workers,
}
# the same on a command line, where a number can only be given to a key that is no section
_TYPED = {old: new for old, new in CHANGED.items() if isinstance(new, str)} | {
    "hardware.workers": "hardware.workers.n_jobs",
    "evaluate.baselines": "evaluate.judge.baselines",
}
_SWITCHED = {"evaluate.judge=false": "evaluate.judge=null"}  # a switch that is a section, or null, now


def migrated(config: Mapping[str, Any], where: object) -> dict[str, Any]:
    """A recorded configuration with the keys of this version; what changed is said once.

    A new key that is there already keeps its value. Sections that are not there are not made.

    Args:
        where: file or folder that the configuration is of.
    """
    new = dict(config)
    for old, change in CHANGED.items():
        section, key = old.split(".")
        values = new.get(section)
        if not isinstance(values, Mapping):
            continue
        if callable(change):
            value = change(values.get(key), values)
            if value is not values.get(key):
                new[section] = {**values, key: value}
                _say(f"{old} is a section now", where)
        elif key in values:
            new[section] = {name: value for name, value in values.items() if name != key}
            new.setdefault(change, values[key])
            _say(f"{old} is {change} now", where)
    return new


def migrated_arguments(arguments: list[str], where: object) -> list[str]:
    """Recorded arguments of a command line with the keys of this version; what changed is said once.

    >>> migrated_arguments(["model=tiny", "hardware.workers.backend=dask"], "sweep.json")
    ['model=tiny', 'hardware.workers.backend=dask']
    """
    found = []
    for argument in arguments:
        parts = re.fullmatch(r"([+~]*)([\w.]+)(=.*)?", argument, re.DOTALL) if isinstance(argument, str) else None
        if parts and parts[2] in _TYPED and not (parts[3] or "").startswith("={"):
            _say(f"{parts[2]} is {_TYPED[parts[2]]} now", where)
            argument = parts[1] + _TYPED[parts[2]] + (parts[3] or "")
        elif isinstance(argument, str) and argument.lower() in _SWITCHED:
            new = _SWITCHED[argument.lower()]
            _say(f"{argument} is {new} now", where)
            argument = new
        found.append(argument)
    return found


def _say(change: str, where: object) -> None:
    if change not in _SAID:
        _SAID.add(change)
        LOG.warning("recorded by an older version: %s, and is read so (%s)", change, where)
