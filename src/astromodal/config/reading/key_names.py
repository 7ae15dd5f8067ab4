"""Every key of the schema by name, the nearest one to a misspelt one, and what is said of those that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from typing import get_args, get_type_hints

from ...errors import ConfigError
from .. import schema
from .key_types import is_section


def nearest(name: str, names: list[str]) -> str | None:
    """``did you mean …`` with the nearest of ``names``, or None."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:  # the last part alone may be right: weight_imag for loss.weight_image
        last = {n.split(".")[-1]: n for n in names}
        close = [last[m] for m in difflib.get_close_matches(name.split(".")[-1], list(last), n=1, cutoff=0.6)]
    return f"did you mean {close[0]}?" if close else None


def unknown_key(key: str, kind: str = "key") -> ConfigError:
    """``loss.weight_imag``: the key and the nearest one. ``kind``: key, or key or group."""
    return ConfigError(f"a configuration {kind} that exists", got=key, repair=nearest(key, all_keys()))


def unknown_option(option: str, options: Sequence[str], group: str) -> ConfigError:
    """``model=smal``: the option, what there is, and the nearest."""
    return ConfigError(
        f"one of {', '.join(options)}", got=option, where=f"group {group}", repair=nearest(option, list(options))
    )


def all_keys() -> list[str]:
    """Every key of the schema, dotted."""
    return _keys(schema.Config, "")


def _keys(cls: type, prefix: str) -> list[str]:
    hints, names = get_type_hints(cls), []
    for item in fields(cls):
        name = f"{prefix}{item.name}"
        names.append(name)
        for inner in (hints[item.name], *get_args(hints[item.name])):
            if is_section(inner) and not str(hints[item.name]).startswith("typing.Dict"):
                names += _keys(inner, name + ".")
    return names
