"""Hydra's composition, remembered: one choice of files is put together once in a process of tests.

Hydra reads and merges all files for every configuration (half a second of the processor, hundreds of times in the
tests). What the files come to depends on the choice of files alone; everything that a command line adds is done by
Hydra each time, as it is where a test starts a process. Files in folders of users are compared byte by byte.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import yaml
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, omegaconf
from omegaconf._utils import OmegaConfDumper

from astromodal.config.reading.conf_files import conf_dir

real_defaults_list = config_loader_impl.create_defaults_list
real_composition = ConfigLoaderImpl._compose_config_from_defaults_list
_known: dict[Hashable, bytes] = {}


class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """OmegaConf's writer of YAML, four times as fast where libyaml is there."""


Dumper.add_representer(str, OmegaConfDumper.str_representer)


def remember_compositions() -> None:
    """Until the end of the process. Idempotent."""
    omegaconf.get_omega_conf_dumper = lambda: Dumper
    config_loader_impl.create_defaults_list = _defaults_list
    ConfigLoaderImpl._compose_config_from_defaults_list = _composition


def _remembered(repo: Any, key: tuple, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, each time a new copy of it; what it raises is raised each time."""
    key = (*map(_content, repo.get_sources()), *key)
    if key not in _known:
        made = make()
        _known[key] = pickle.dumps(made)
        return made
    return pickle.loads(_known[key])


def _content(source: Any) -> Hashable:
    """A source of files; the program's own do not change."""
    folder = Path(source.path)
    if source.scheme() != "file" or folder == conf_dir():
        return source.scheme(), source.path
    return source.path, *((path, path.read_bytes()) for path in sorted(folder.rglob("*.y*ml")))


def _defaults_list(
    repo: Any, config_name: str | None, overrides_list: list, prepend_hydra: bool, skip_missing: bool
) -> Any:
    """The files in their order. Overrides of keys do not matter to it, and are handed on."""
    values, choices = [], []
    for override in (o for o in overrides_list if not o.is_sweep_override()):  # of which Hydra takes no notice here
        chooses = repo.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
        (choices if chooses else values).append(override)
    key = ("files", config_name, tuple(o.input_line for o in choices), prepend_hydra, skip_missing)

    def make() -> Any:
        return real_defaults_list(repo, config_name, choices, prepend_hydra, skip_missing)

    found = _remembered(repo, key, make)
    found.config_overrides = values
    return found


def _composition(self: ConfigLoaderImpl, defaults: list, repo: Any) -> DictConfig:
    """What the files come to."""
    return _remembered(repo, ("values", *map(repr, defaults)), lambda: real_composition(self, defaults, repo))
