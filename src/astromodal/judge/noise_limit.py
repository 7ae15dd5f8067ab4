"""How well anybody could do: the error that the noise of the given observations leaves, where the truth is known.

Only for the synthetic sky, and for the quantities of :func:`~astromodal.data.synthetic.truth.noise_limited_error`:
redshift and temperature from magnitudes and spectra. An object is taken to have the spectra that its token files have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..metrics.scalars import NMAD
from .baselines.inputs import Inputs, places_in_store

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..tokens.store import FieldTokens, TokenStore

QUANTITIES = {"specz_z": "redshift", "gaia_teff_gspphot": "temperature"}  # column -> what the generator calls it
_ROW = re.compile(r"_(\d+)$")  # an id ends in the object's row of its field


def observables(inputs: Inputs) -> dict[str, tuple[str, ...]]:
    """The generator's observables among the inputs, and the spectrum groups that each needs.

    The bound is for all twelve magnitudes together, so less than twelve of them are none.
    """
    found: dict[str, tuple[str, ...]] = {}
    if sum(name.startswith("mag_pstotal_") for name in inputs.scalars) >= 12:
        found["photometry"] = ()
    groups = (*inputs.parts, *inputs.unused)
    for name, prefix in (("spectrum", "desi_"), ("xp", "gaiaxp")):
        mine = tuple(group for group in groups if group.startswith(prefix) and "." not in group)
        if mine:
            found[name] = mine
    return found


def noise_limits(
    data: DataConfig | None, column: str, store: TokenStore, inputs: Inputs, fields: np.ndarray, ids: np.ndarray
) -> np.ndarray | None:
    """Smallest possible standard deviation of each row ``(n,)`` of a catalogue, NaN where unknown; None: nowhere known.

    Args:
        data: ``config.data``.
        fields, ids: of the rows.
    """
    given = observables(inputs)
    if data is None or data.synthetic is None or column not in QUANTITIES or not given:
        return None
    limit = np.full(len(ids), np.nan)
    for tokens, rows, places in places_in_store(store, fields, ids):
        patterns = _patterns(tokens, places, given)
        for pattern in sorted(set(patterns)):
            if not pattern:
                continue
            chosen = np.flatnonzero(np.array([p == pattern for p in patterns]))
            limit[rows[chosen]] = _of_field(data, column, tokens.field, pattern, _truth_rows(ids[rows[chosen]]))
    return limit


def _patterns(tokens: FieldTokens, places: np.ndarray, given: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Which of the given observables each object really has; one needs all of its groups."""
    have = {name: np.ones(len(places), bool) for name in given}
    for name, groups in given.items():
        for group in groups:
            have[name] &= np.asarray(tokens.spectra[group].present)[places]
    return [tuple(name for name in given if have[name][i]) for i in range(len(places))]


def _of_field(data: DataConfig, column: str, field: str, given: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
    from ..data.synthetic import noise_limited_error

    return noise_limited_error(data, QUANTITIES[column], field=field, given=given, rows=rows)[rows]


def _truth_rows(ids: np.ndarray) -> np.ndarray:
    matches = [_ROW.search(text) for text in ids.tolist()]
    rows = [int(match[1]) for match in matches if match is not None]
    if len(rows) < len(matches):
        raise DataError("ids of the synthetic sky, <field>_<row>", got=ids[[m is None for m in matches]][0])
    return np.array(rows, np.int64)


def limit_figures(error: np.ndarray, limit: np.ndarray) -> dict[str, float]:
    """Errors of a prediction against their lower limits, both ``(n,)``; objects without a limit are left out.

    Returns:
        ``rmse`` and ``limit_rmse`` (root mean square of the limits), their ``ratio``, and ``scatter_over_limit``: the
        robust scatter of error / limit, 1 for a perfect estimator. A ratio below 1 is possible: a model may know the
        distribution of the population better than the bound's weak priors do.
    """
    usable = np.isfinite(error) & np.isfinite(limit) & (limit > 0)
    if not usable.any():
        return dict.fromkeys(("rmse", "limit_rmse", "ratio", "scatter_over_limit"), float("nan")) | {"n": 0}
    error, limit = error[usable], limit[usable]
    rmse, least = float(np.sqrt((error**2).mean())), float(np.sqrt((limit**2).mean()))
    scatter = float(NMAD * np.median(np.abs(error / limit)))
    return {"rmse": rmse, "limit_rmse": least, "ratio": rmse / least, "scatter_over_limit": scatter, "n": len(error)}
