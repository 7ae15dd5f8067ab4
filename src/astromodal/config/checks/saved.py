"""Typed settings from plain values in somebody's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ...errors import ArtifactError
from ..reading.containers import to_object

T = TypeVar("T")


def typed(kind: type[T], values: Any, where: object, needed: tuple[str, ...] = ()) -> T:
    """The dataclass ``kind`` of the schema with ``values``, each of its type.

    Args:
        needed: keys that have to be there; others have their default.

    Raises:
        ArtifactError: no mapping, a key that ``kind`` does not have, one that is missing, or a value of another type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    expected = f"settings of a {kind.__name__}"
    if not isinstance(values, Mapping):
        raise ArtifactError(expected, got=f"a {type(values).__name__}", where=where)
    missing = [key for key in needed if key not in values]
    if missing:
        raise ArtifactError(expected, got=f"none for {', '.join(missing)}", where=where)
    if "${" in str(list(values.values())):
        raise ArtifactError(expected, got="values that would have to be resolved", where=where)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), dict(values))
        return to_object(merged, kind)
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ArtifactError(expected, got=str(error).split("\n")[0][:200], where=where) from error


def check_count(value: Any, name: str, most: int, where: object, least: int = 1) -> int:
    """An integer from ``least`` to ``most``.

    Raises:
        ArtifactError: it is none.
    """
    if type(value) is not int or not least <= value <= most:
        raise ArtifactError(f"{name} from {least} to {most}", got=str(value)[:60], where=where)
    return value
