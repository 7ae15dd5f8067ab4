"""What OmegaConf gives back, with the type that it has: its own signatures say "anything"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")


def to_object(node: Any, kind: type[T]) -> T:
    """A section of the configuration as the dataclass ``kind`` of the schema that it was made from.

    Raises:
        TypeError: it was made from something else.
    """
    from omegaconf import OmegaConf

    found = OmegaConf.to_object(node)
    if not isinstance(found, kind):
        raise TypeError(f"expected a {kind.__name__}, got a {type(found).__name__}")
    return found


def to_dict(node: DictConfig, *, resolve: bool, enum_to_str: bool = False) -> dict[str, Any]:
    """A section as plain dictionaries and lists."""
    from omegaconf import OmegaConf

    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=resolve, enum_to_str=enum_to_str))
