"""Surveys: Parquet datacubes, what their columns hold, and who stands in which split.

Names are imported on first use, so that importing one part does not load the others.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Batch": "datacube",
    "Datacube": "datacube",
    "check_unique_ids": "datacube",
    "discover": "datacube",
    "list_column_ragged": "columns",
    "list_column_to_matrix": "columns",
    "ScalarBatch": "scalars",
    "inverse_transform": "scalars",
    "read_scalars": "scalars",
    "scalar_columns": "scalars",
    "transform": "scalars",
    "SpectrumBatch": "spectra",
    "grid": "spectra",
    "read_spectra": "spectra",
    "ImageBatch": "images",
    "elliptical_mask": "images",
    "read_images": "images",
    "TEST": "splits",
    "TRAIN": "splits",
    "VAL": "splits",
    "assign_splits": "splits",
    "ensure_survey": "synthetic",
    "noise_limited_error": "synthetic",
    "true_parameters": "synthetic",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
