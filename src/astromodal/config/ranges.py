"""The range of a number, kept where its key is declared: metadata of the dataclass field."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True)
class Range:
    """What values a key may have; ``None``: no limit on that side."""

    least: float | None = None  # the smallest value
    above: float | None = None  # or what it has to exceed
    most: float | None = None  # the largest value
    below: float | None = None  # or what it has to stay under

    def refusal(self, key: str, value: float) -> str | None:
        """What is expected of ``key`` where ``value`` is outside, for a message; else None. NaN is outside.

        >>> [Range(least=0, below=1).refusal("dropout", x) for x in (-1, 0, 0.5, 1)]
        ['dropout >= 0', None, None, '0 <= dropout < 1']
        """
        low, number = (self.above, ">") if self.above is not None else (self.least, ">=")
        if low is not None and not (value > low if number == ">" else value >= low):
            return f"{key} {number} {low}"
        high, sign = (self.below, "<") if self.below is not None else (self.most, "<=")
        if high is not None and not (value < high if sign == "<" else value <= high):
            return f"{low} {number.replace('>', '<')} {key} {sign} {high}"
        return None


def ranged(default: Any, **limits: float) -> Any:
    """A field with this default, whose value has to lie in ``Range(**limits)``; it is checked before any work."""
    return field(default=default, metadata={"range": Range(**limits)})


def check_ranges(section: Any, where: str, kind: Any = None) -> None:
    """Refuse a value of a section that is out of its range: for classes that take the section from Python.

    Args:
        where: key of the section.
        kind: the dataclass that declares the ranges; default the section's own.

    Raises:
        ConfigError: naming the key.
    """
    for item in fields(section if kind is None else kind):
        value = getattr(section, item.name)
        if item.metadata and value is not None:
            key = f"{where}.{item.name}"
            if expected := item.metadata["range"].refusal(key, value):
                raise ConfigError(expected, got=value, where=key)
