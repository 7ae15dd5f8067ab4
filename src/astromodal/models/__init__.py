"""Neural networks over token sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .transformer import CausalTransformerLM

__all__ = ["CausalTransformerLM"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``--help`` and configuration errors never wait for torch."""
    if name in __all__:
        from . import transformer

        return getattr(transformer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
