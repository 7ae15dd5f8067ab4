"""Quantizers: vectors to codes and back. ``build_quantizer`` makes the one a configuration names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config.checks.levels import check_levels, check_n_levels
from ..config.families import QUANTIZERS
from ..config.schema import FSQConfig
from ..errors import ArtifactError, ConfigError
from .assign import NearestEntry, nearest
from .base import Quantizer
from .fsq import FSQ
from .kmeans import KMeans
from .quantile import QuantileBinner
from .report import quantizer_report, usage_figures
from .reservoir import Reservoir
from .residual import ResidualKMeans
from .sample import Sample


def quantizer_config(config: Any) -> Any:
    """The typed configuration of a vector quantizer from a dataclass or a mapping with a ``name``.

    Raises:
        ConfigError: no quantizer has that name, or a key is unknown.

    >>> quantizer_config({"name": "kmeans", "n_codes": 16}).n_codes
    16
    """
    kinds = QUANTIZERS.sections()
    if isinstance(config, tuple(kinds.values())):
        return config
    values = dict(config) if isinstance(config, Mapping) else {"name": getattr(config, "name", config)}
    name = values.get("name")
    if name not in kinds:
        raise ConfigError(f"a vector quantizer: {', '.join(kinds)}", got=name, where="quantizer.name")
    try:
        return kinds[name](**values)
    except TypeError as error:
        raise ConfigError(f"keys of {kinds[name].__name__}", got=error, where=f"quantizer {name}") from error


def build_quantizer(config: Any, seed: int = 0) -> Quantizer:
    """The vector quantizer that ``config.name`` names, not yet fitted."""
    config = quantizer_config(config)
    return QUANTIZERS[config.name].made()(config, seed)


def quantizer_from_state(name: str, state: Mapping[str, np.ndarray]) -> Quantizer:
    """The fitted quantizer ``name`` from what its ``state()`` gave.

    Raises:
        ArtifactError: no quantizer has that name, or arrays are missing.
    """
    if name not in QUANTIZERS:
        raise ArtifactError(f"a saved quantizer: {', '.join(QUANTIZERS)}", got=name, where="quantizer name")
    return QUANTIZERS[name].made().from_state(dict(state))


def with_at_most(config: Any, n_codes: int) -> Any:
    """``config`` with at most ``n_codes`` codes (per stage); levels stay as they are.

    >>> with_at_most(quantizer_config("kmeans"), 16).n_codes
    16
    """
    return dataclasses.replace(config, n_codes=min(config.n_codes, n_codes)) if hasattr(config, "n_codes") else config


def size_label(config: Any) -> str:
    """The sizes that were asked for, as a part of a file's name.

    >>> [size_label(quantizer_config(name)) for name in ("kmeans", "residual_kmeans", "fsq")]
    ['2048', '3x1024', '8-5-5-5']
    """
    if isinstance(config, FSQConfig):
        return "-".join(map(str, config.levels))
    n_stages = getattr(config, "n_stages", None)
    return str(config.n_codes) if n_stages is None else f"{n_stages}x{config.n_codes}"


def check_dimensions(config: Any, n_dims: int, where: str, repair: str | None = None) -> None:
    """Refuse, before any work, a quantizer whose configuration fixes another width than the vectors have.

    Raises:
        ConfigError: with both widths.
    """
    if isinstance(config, FSQConfig):
        check_levels(config.levels)
        check_n_levels(list(config.levels), n_dims, where, repair)


__all__ = [
    "FSQ",
    "KMeans",
    "NearestEntry",
    "QuantileBinner",
    "Quantizer",
    "Reservoir",
    "Sample",
    "ResidualKMeans",
    "build_quantizer",
    "check_dimensions",
    "nearest",
    "quantizer_config",
    "quantizer_from_state",
    "quantizer_report",
    "size_label",
    "usage_figures",
    "with_at_most",
]
