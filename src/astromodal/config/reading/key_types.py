"""Types of configuration keys, by their dotted name: read from the schema, without Hydra and OmegaConf.

>>> type_at("name"), type_at("data.fields"), type_at("data.scalars.r.min")
(<class 'str'>, typing.List[str], <class 'float'>)
>>> type_at("recipe.path"), type_at("loss.weight_imag")
(<class 'str'>, None)
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, TypeGuard, Union, get_args, get_origin, get_type_hints

from .. import schema
from ..families import SECTIONS


@dataclass
class _Sweeper:
    params: dict[str, str]  # of a preset: Hydra takes them as text


@dataclass
class _Hydra:
    """What is of use here of Hydra's own section."""

    sweeper: _Sweeper


def type_at(key: str) -> Any:
    """Type of a key without its ``Optional``.

    Returns:
        ``Any`` where the schema leaves it open, a tuple of dataclasses where one of several sections may stand, and
        ``None`` for a key that no section has.
    """
    hint: Any = schema.Config
    for name in key.split(".") if key else ():
        hint = below(hint, name)
        if hint is None or hint is Any:
            return hint
    return hint


def below(hint: Any, name: str) -> Any:
    """Type of the entry ``name`` of a section, dictionary or list of type ``hint``; as :func:`type_at`."""
    if hint is Any:
        return Any
    for section in hint if isinstance(hint, tuple) else (hint,):
        if section is schema.Config and name == "hydra":
            return _Hydra
        if is_section(section):
            found = fields_of(section).get(name)
            if found is not None:
                return sections_at(name) if found[0] is Any else found[0]
        elif get_origin(section) in (dict, list):
            return get_args(section)[-1]
    return None


def sections_at(name: str) -> Any:
    """The sections that may stand at a key of this name whose type the schema leaves open; ``Any`` for others."""
    return tuple(SECTIONS[name].sections().values()) if name in SECTIONS else Any


def is_optional(key: str) -> bool:
    """Whether ``null`` is a value of a key; True where that is not known.

    >>> is_optional("resume"), is_optional("name"), is_optional("model")
    (True, False, False)
    """
    parent, _, name = key.rpartition(".")
    section = type_at(parent)
    for candidate in section if isinstance(section, tuple) else (section,):
        if is_section(candidate) and name in fields_of(candidate):
            return fields_of(candidate)[name][1]
    return get_origin(section) not in (dict, list)


def is_section(kind: Any) -> TypeGuard[type]:
    """Whether a type is a section of the schema, or a group of settings: a dataclass."""
    return isinstance(kind, type) and is_dataclass(kind)


@cache
def fields_of(section: type) -> dict[str, tuple[Any, bool]]:
    """Type of each field of a dataclass without its ``Optional``, and whether it had one."""
    return {name: _without_optional(hint) for name, hint in get_type_hints(section).items()}


def _without_optional(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) is Union and type(None) in get_args(hint):
        return next(a for a in get_args(hint) if a is not type(None)), True
    return hint, hint is Any
