"""Token files: one per field and modality, written by ``encode.py`` and memory-mapped by what trains on them."""

from __future__ import annotations

from typing import Any

_WHERE = {
    "FieldTokens": "store",
    "FieldWriter": "writer",
    "TokenStore": "store",
    "token_paths": "writer",
    "encode_field": "field",
    "encode_survey": "encode",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
