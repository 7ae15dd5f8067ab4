"""``plugins``: modules of the user that are imported before the schema is checked, because they add to it.

A module does so with :func:`~astromodal.config.growth.add_modality`. It is named on the command line
(``plugins=[my_module]``), or at the top of a file that is chosen there (``experiment=…``, ``data=…``); only what the
user names is imported, never what data or artifacts say.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import ConfigError
from .reading.conf_files import conf_dir

_GIVEN = re.compile(r"\+{0,2}plugins=\[?([\w., ]*)\]?", re.ASCII)
_IN_A_FILE = re.compile(r"^plugins:[ \t]*\[([\w., \t]*)\]", re.ASCII | re.MULTILINE)
_CHOSEN = re.compile(r"\+?(experiment|data|local|hparams)=([\w./-]+)", re.ASCII)
_FOLDERS = ("--config-dir", "-cd")


def import_plugins(names: Iterable[str]) -> None:
    """Import modules by name, from where Python finds them or from the folder that the command runs in.

    Raises:
        ConfigError: there is no such module, or it cannot be imported.
    """
    for name in names:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # behind everything else: a plugin stands in for nothing
        try:
            importlib.import_module(name)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                "modules that can be imported",
                got=f"{name}: {type(error).__name__}: {error}",
                where="plugins",
                repair="run where the module is, or install it",
            ) from error
        _forget_types()


def plugins_of(arguments: Sequence[str]) -> list[str]:
    """Plugins that a command line, and the files that it chooses, name.

    >>> plugins_of(["plugins=[one,two.three]", "seed=1"])
    ['one', 'two.three']
    """
    found: list[str] = []
    folders = [conf_dir()]
    for index, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag in _FOLDERS:
            folders.append(Path(value or (arguments[index + 1] if index + 1 < len(arguments) else "")))
        if "hydra.searchpath=" in argument:
            folders += [Path(place) for place in re.findall(r"file://([^\],'\"]+)", argument)]
    for argument in arguments:
        if given := _GIVEN.fullmatch(argument):
            found += _names(given[1])
        if chosen := _CHOSEN.fullmatch(argument):
            for folder in folders:
                path = folder / chosen[1] / f"{chosen[2]}.yaml"
                if path.is_file():
                    found += [
                        n for text in _IN_A_FILE.findall(path.read_text("utf-8", "replace")) for n in _names(text)
                    ]
    return list(dict.fromkeys(found))


def check_imported(names: Iterable[str]) -> None:
    """Refuse plugins that were named too late: where the schema had been read before.

    Raises:
        ConfigError: naming the module.
    """
    for name in names:
        if name not in sys.modules:
            raise ConfigError(
                "plugins on the command line, or at the top of the file of an experiment or of data=…",
                got=f"{name}, named elsewhere",
                where="plugins",
                repair=f"plugins=[{name}]",
            )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _forget_types() -> None:
    """What was remembered of the schema's classes."""
    from .launching.register import store_schemas
    from .reading.key_types import fields_of

    fields_of.cache_clear()
    store_schemas.cache_clear()
