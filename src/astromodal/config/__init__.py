"""Configuration: schema, registration with Hydra, checks, and :func:`load_config` for Python users."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .load import load_config

__all__ = ["load_config"]


def __getattr__(name: str) -> Any:
    if name == "load_config":  # lazily: Hydra costs 0.3 s
        from .load import load_config

        return load_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
