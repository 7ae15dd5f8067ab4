"""Making a model's uncertainties true: one temperature per column, and conformal shifts of its quantiles.

Both are fitted on validation objects, saved beside the weights, and shown on other objects.
Temperature: probabilities become ``p^(1/T)``, normalised, with the T of least negative log-likelihood (Guo et al. 2017,
ICML, for classes). It is convex in 1/T, so there is one.
Conformal: a quantile at level τ is moved by the order statistic of the validation objects' scores
``(observed - quantile) / width`` that makes it right for a new, exchangeable object, whatever the distribution (Vovk,
Gammerman & Shafer 2005; Romano, Patterson & Candès 2019, "Conformalized quantile regression", with its two ends
separately). ``width`` is the object's own 68 % width (Lei et al. 2018, section 5.2), so the correction scales with it.

Shapes: n objects, B bins, q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..core.json_files import read_json, write_json
from ..errors import ArtifactError, DataError

FILE = "calibration.json"
FORMAT = 1
MIN_OBJECTS = 50  # fewer fit nothing
T_RANGE = (0.05, 20.0)
_FLOOR = 1e-38  # a probability of exactly 0 is one that float32 has no number for


@dataclass(frozen=True)
class ColumnCalibration:
    """What was fitted for one column; ``shifts`` are in units of the object's width, None where objects are too few."""

    temperature: float = 1.0
    n_temperature: int = 0
    levels: tuple[float, ...] = ()
    shifts: tuple[float | None, ...] = ()
    n_conformal: int = 0


@dataclass
class Calibration:
    """Corrections by column, and the fingerprint of the weights that they belong to."""

    weights: str | None
    columns: dict[str, ColumnCalibration] = field(default_factory=dict)
    fitted_on: dict[str, Any] = field(default_factory=dict)

    def temperature(self, column: str) -> float:
        """Divisor of the logits of a column's bins; 1 where none was fitted."""
        return self.columns[column].temperature if column in self.columns else 1.0

    def shift_quantiles(self, column: str, quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Quantiles ``(n, q)`` of posteriors after :meth:`temperature`, moved to where they are right; rising again.

        Raises:
            DataError: the shifts were fitted at other levels.
        """
        found = self.columns.get(column)
        if found is None or not found.levels:
            return np.asarray(quantiles, np.float64)
        if len(found.levels) != len(levels) or not np.allclose(found.levels, levels):
            asked = ",".join(str(level) for level in found.levels if level != 0.5)
            raise DataError(f"quantiles of {column} at the levels {list(found.levels)}", got=list(levels),
                            repair=f"evaluate.quantiles=[{asked}]")  # fmt: skip
        shift = np.array([0.0 if s is None else s for s in found.shifts])
        return np.sort(quantiles + shift * widths(quantiles, levels)[:, None], axis=1)

    def save(self, path: str | Path) -> None:
        """Write as plain JSON, atomically."""
        columns = {name: asdict(column) for name, column in self.columns.items()}
        write_json(path, {"format": FORMAT, "weights": self.weights, "fitted_on": self.fitted_on, "columns": columns})

    @classmethod
    def load(cls, path: str | Path, weights: str | None = None) -> Self:
        """Read; with ``weights``, refuse a file that belongs to others.

        Raises:
            ArtifactMissingError: there is none.
            ArtifactError: it is damaged, or was fitted for other weights.
        """
        content = read_json(path)
        try:
            if content["format"] != FORMAT:
                raise ArtifactError(f"a calibration of format {FORMAT}", got=content["format"], where=path)
            columns = {name: _column(values) for name, values in content["columns"].items()}
            found = cls(content["weights"], columns, dict(content["fitted_on"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError("a whole calibration", got=repr(error), where=path, repair="fit it again") from error
        if weights is not None and found.weights != weights:
            raise ArtifactError(f"a calibration of the weights {weights}", got=f"one of {found.weights}", where=path,
                                repair="fit it again")  # fmt: skip
        return found


def _column(values: dict[str, Any]) -> ColumnCalibration:
    return ColumnCalibration(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """``p^(1/T)``, normalised, of probabilities ``(n, B)``; a row without any mass stays NaN.

    >>> temper(np.array([[0.2, 0.8]]), 0.5).round(3).tolist()
    [[0.059, 0.941]]
    """
    p = np.asarray(probabilities, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = (p / p.max(1, keepdims=True)) ** (1.0 / temperature)
        return scaled / scaled.sum(1, keepdims=True)


def bins_of(edges: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Bin ``(edge[k], edge[k + 1]]`` of each observation ``(n,)``; beyond the ends, the end bins."""
    return np.searchsorted(np.asarray(edges)[1:-1], observed, side="left")


def fit_temperature(probabilities: np.ndarray, bins: np.ndarray) -> float:
    """Temperature of least mean negative log-likelihood of the observed bins ``(n,)`` under ``(n, B)``.

    Bounded to ``T_RANGE``.

    Raises:
        DataError: fewer than ``MIN_OBJECTS`` objects.
    """
    from scipy.optimize import minimize_scalar

    p = np.asarray(probabilities)
    usable = np.isfinite(p).all(1) & (p.sum(1) > 0)
    if usable.sum() < MIN_OBJECTS:
        raise DataError(f"{MIN_OBJECTS} objects to fit a temperature", got=int(usable.sum()))
    logs = np.log(np.maximum(p[usable], _FLOOR)).astype(np.float32)
    logs -= logs.max(1, keepdims=True)
    at = np.take_along_axis(logs, np.asarray(bins)[usable][:, None], 1)[:, 0].astype(np.float64).mean()

    def nll(log_beta: float) -> float:
        beta = np.exp(log_beta)
        total = np.exp(np.float32(beta) * logs).sum(1, dtype=np.float64)
        return float(np.log(total).mean() - beta * at)

    bounds = (-np.log(T_RANGE[1]), -np.log(T_RANGE[0]))
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(-found.x))


def widths(quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Width of each object's interval nearest to 68 %, ``(n,)``; where it has none, the median width (or 1)."""
    levels = np.asarray(levels, np.float64)
    low, high = int(np.argmin(np.abs(levels - 0.16))), int(np.argmin(np.abs(levels - 0.84)))
    width = np.abs(np.asarray(quantiles, np.float64)[:, high] - quantiles[:, low])
    some = width[np.isfinite(width) & (width > 0)]
    return np.where(width > 0, width, np.median(some) if len(some) else 1.0)


def fit_shifts(quantiles: np.ndarray, levels: Sequence[float], observed: np.ndarray) -> tuple[float | None, ...]:
    """Conformal shift of each level, in units of :func:`widths`; None where a level asks for more objects.

    Below the median a quantile becomes a lower bound that holds with probability ≥ 1 - τ, above it an upper bound that
    holds with probability ≥ τ: the ⌈(n + 1) τ⌉-th smallest score. The median gets the scores' median.
    """
    quantiles, observed = np.asarray(quantiles, np.float64), np.asarray(observed, np.float64)
    usable = np.isfinite(quantiles).all(1) & np.isfinite(observed)
    if usable.sum() < MIN_OBJECTS:
        return (None,) * len(levels)
    quantiles, observed = quantiles[usable], observed[usable]
    scores = np.sort((observed[:, None] - quantiles) / widths(quantiles, levels)[:, None], axis=0)
    n = len(scores)
    shifts: list[float | None] = []
    for j, level in enumerate(levels):
        # counted from below for an upper bound, from above for a lower one
        rank = int(np.ceil((n + 1) * max(level, 1 - level) - 1e-9))
        if level == 0.5:
            shifts.append(float(np.median(scores[:, j])))
        elif rank > n:
            shifts.append(None)
        else:
            shifts.append(float(scores[rank - 1, j] if level > 0.5 else scores[n - rank, j]))
    return tuple(shifts)
