"""Colours: differences of given columns of one unit, which trees cannot form from the columns themselves.

A tree cuts along one column at a time; a colour (a difference of magnitudes, the logarithm of a ratio of fluxes) runs
along a diagonal. The difference is taken in each column's own space (``transform``), where it has a meaning whatever
the scale: magnitudes as they are, logarithms of fluxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.schema import ScalarConfig, Transform
from ...data.scalars import scalar_columns, transform

if TYPE_CHECKING:
    from ...config.schema import DataConfig

MAX_COLOURS = 80  # those of columns next to each other first: 12 bands have 66


def colour_pairs(columns: Sequence[str], configs: Mapping[str, ScalarConfig]) -> list[tuple[str, str]]:
    """Pairs of columns with one unit and one space, nearest in order first, at most ``MAX_COLOURS``.

    >>> mag = ScalarConfig(unit="mag")
    >>> colour_pairs(["u", "z", "g", "r"], {"u": mag, "g": mag, "r": mag, "z": ScalarConfig()})
    [('u', 'g'), ('g', 'r'), ('u', 'r')]
    """
    families: dict[Any, list[str]] = {}
    for name in columns:
        config = configs.get(name)
        if config is not None and config.unit:
            families.setdefault((config.unit, config.transform, config.softening), []).append(name)
    pairs = [
        (lag, one, names[i + lag])
        for names in families.values()
        for lag in range(1, len(names))
        for i, one in enumerate(names[:-lag])
    ]
    return [(one, other) for _, one, other in sorted(pairs, key=lambda pair: pair[0])][:MAX_COLOURS]


def colour_features(
    values: np.ndarray, columns: Sequence[str], pairs: Sequence[tuple[str, str]], configs: Mapping[str, ScalarConfig]
) -> np.ndarray:
    """Differences ``(n, p)`` float64 of the pairs, from physical values ``(n, c)``; NaN where one is missing."""
    needed = dict.fromkeys(name for pair in pairs for name in pair)
    own = {name: transform(values[:, columns.index(name)].astype(np.float64), configs[name]) for name in needed}
    return np.stack([own[one] - own[other] for one, other in pairs], axis=1)


def colour_unit(config: ScalarConfig, unit: float) -> float:
    """What a difference is divided by to be without a unit: the columns' own where the space has one."""
    return unit if Transform(config.transform) is Transform.identity else 1.0


def configs_of(data: DataConfig | None) -> dict[str, ScalarConfig]:
    """Unit and space of every scalar column of ``config.data``, with the scales of its spectra; empty without one."""
    return {} if data is None else scalar_columns(data, tuple(data.spectra))
