"""From token files to batches: which parts a sequence has, packed sequences, batches of similar length."""

from __future__ import annotations

from typing import Any

_WHERE = {
    "BucketSampler": "collate",
    "PackedSequences": "packed",
    "Segment": "layout",
    "SequenceDataset": "dataset",
    "SequenceLayout": "layout",
    "SequenceLoader": "collate",
    "build_layout": "layout",
    "build_sequences": "packing",
    "build_vocabulary": "layout",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
