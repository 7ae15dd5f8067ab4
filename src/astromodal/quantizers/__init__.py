"""Quantizers: vectors to codes and back. ``build_quantizer`` makes the one a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.schema import KMeansConfig
from ..errors import ConfigError
from .assign import NearestEntry, nearest
from .base import Quantizer
from .kmeans import KMeans
from .quantile import QuantileBinner
from .reservoir import Reservoir

_CONFIGS = {"kmeans": KMeansConfig}
_QUANTIZERS = {"kmeans": KMeans}


def quantizer_config(config: Any) -> Any:
    """The typed configuration of a quantizer from a dataclass or a mapping with a ``name``.

    Raises:
        ConfigError: no quantizer has that name, or a key is unknown.

    >>> quantizer_config({"name": "kmeans", "n_codes": 16}).n_codes
    16
    """
    if isinstance(config, tuple(_CONFIGS.values())):
        return config
    values = dict(config) if isinstance(config, Mapping) else {"name": getattr(config, "name", config)}
    name = values.get("name")
    if name not in _CONFIGS:
        raise ConfigError(f"a vector quantizer: {', '.join(_CONFIGS)}", got=name, where="quantizer.name")
    try:
        return _CONFIGS[name](**values)
    except TypeError as error:
        raise ConfigError(f"keys of {_CONFIGS[name].__name__}", got=error, where=f"quantizer {name}") from error


def build_quantizer(config: Any, seed: int = 0) -> Quantizer:
    """The vector quantizer that ``config.name`` names, not yet fitted."""
    config = quantizer_config(config)
    return _QUANTIZERS[config.name](config, seed)


__all__ = [
    "KMeans",
    "NearestEntry",
    "QuantileBinner",
    "Quantizer",
    "Reservoir",
    "build_quantizer",
    "nearest",
    "quantizer_config",
]
