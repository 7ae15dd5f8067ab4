"""Ranges that single values have to lie in: each stands at its field in the schema."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..ranges import Range
from ..reading.key_types import is_section, type_at

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LARGEST = 2**63 - 1  # of what arrays count with


def check_bounds(cfg: DictConfig) -> None:
    """Refuse values that are out of their range, numbers that are not finite, and integers that no array counts to.

    Raises:
        ConfigError: naming the key.
    """
    from omegaconf import OmegaConf

    for key, value in numbers_of(OmegaConf.to_container(cfg, resolve=False)):
        check_value(key, value)


def check_value(key: str, value: Any) -> None:
    """Refuse one value, as :func:`check_bounds`; what is no number is fine."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    allowed = range_of(key)
    if isinstance(value, float) and not math.isfinite(value) and (allowed is None or not math.isnan(value)):
        raise ConfigError("a finite number", got=value, where=key)
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ConfigError(f"an integer of at most {_LARGEST:,} (64 bits)", got=value, where=key)
    if allowed is not None and (expected := allowed.refusal(key, value)):
        raise ConfigError(expected, got=value, where=key)


def range_of(key: str) -> Range | None:
    """Range of a key, as its field declares it; None: any number.

    >>> range_of("training.epochs"), range_of("training.monitor")
    (Range(least=1, above=None, most=None, below=None), None)
    """
    parent, _, name = key.rpartition(".")
    section = type_at(parent)
    for candidate in section if isinstance(section, tuple) else (section,):
        if is_section(candidate):
            found = next((f.metadata["range"] for f in fields(candidate) if f.name == name and f.metadata), None)
            if found is not None:
                return found
    return None


def numbers_of(node: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Dotted key and value of every number below ``node``; the entries of a list have the list's key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from numbers_of(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from numbers_of(value, key)
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield key, node


def value_of(cfg: DictConfig, key: str) -> Any:
    """The value of a dotted key; None where it, or a section on the way to it, is null, missing or absent."""
    from omegaconf import OmegaConf

    return OmegaConf.select(cfg, key, throw_on_missing=False)
