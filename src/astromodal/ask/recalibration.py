"""Making a model's uncertainties true: a temperature per question, and conformal shifts of its quantiles.

Both are fitted on validation objects of the model's own run, saved beside the weights, and shown on other objects; on
others only on request, and then not beside the weights. A question is a column and what was given: a redshift from
twelve magnitudes is not as sure of itself as one from a spectrum. What it was fitted on is part of an entry's key, so
that one fit never takes the place of another.
Temperature: probabilities become ``p^(1/T)``, normalised, with the T of least negative log-likelihood (Guo et al. 2017,
ICML, for classes). It is convex in 1/T, so there is one.
Conformal: a quantile at level τ is moved by the order statistic of the validation objects' scores
``(observed - quantile) / width`` that makes it right for a new, exchangeable object, whatever the distribution (Vovk,
Gammerman & Shafer 2005; Romano, Patterson & Candès 2019, "Conformalized quantile regression", with its two ends
separately). ``width`` is the object's own 68 % width (Lei et al. 2018, section 5.2), so the correction scales with it.

Shapes: n objects, B bins, q quantile levels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import ArtifactError, ArtifactMissingError, DataError
from ..files.locks import FileLock
from ..provenance.sealed import read_sealed, write_sealed

FILE = "calibration.json"
FORMAT = 3
MIN_OBJECTS = 50  # fewer fit nothing
T_RANGE = (0.05, 20.0)
_FLOOR = 1e-38  # a probability of exactly 0 is one that float32 has no number for


Given = tuple[str, ...] | None


@dataclass(frozen=True)
class ColumnCalibration:
    """What was fitted for one column; ``shifts`` are in units of the object's width, None where objects are too few."""

    temperature: float = 1.0
    n_temperature: int = 0  # objects; 0: not fitted, for want of posteriors
    levels: tuple[float, ...] = ()
    shifts: tuple[float | None, ...] = ()
    n_conformal: int = 0
    # split, half (its seed; null: all of it), data, objects (their number), fingerprint (of data and their ids)
    fitted_on: dict[str, Any] = field(default_factory=dict)

    @property
    def n_objects(self) -> int:
        """Objects that it was fitted on."""
        return max(self.n_temperature, self.n_conformal)

    def said(self) -> str:
        """What it was fitted on, in words."""
        on = self.fitted_on
        half = "" if on.get("half") is None else f" (a half, seed {on['half']})"
        data = f" of {on['data']}" if on.get("data") else ""
        return f"{on.get('objects', self.n_objects)} {on.get('split', 'unknown')} objects{half}{data}"

    def check(self, levels: Sequence[float] | np.ndarray) -> None:
        """Shifts at all of these levels, and for the widths that these make, are known.

        Raises:
            DataError: they were fitted at other levels.
        """
        fitted = np.array(self.levels)
        known = all(np.isclose(fitted, level, atol=1e-6).any() for level in levels)
        if not known or not np.allclose([levels[j] for j in _ends(levels)], [fitted[j] for j in _ends(fitted)]):
            asked = ",".join(f"{level:g}" for level in self.levels if level != 0.5)
            raise DataError(
                f"quantiles at the levels {list(self.levels)}",
                got=sorted(levels),
                where="calibration",
                repair=f"evaluate.quantiles=[{asked}]",
            )

    def shifted(self, quantiles: np.ndarray, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """Quantiles ``(n, q)`` of posteriors after the temperature, moved to where they are right; rising again.

        Quantiles of an object whose 68 % interval has no width are left where they are.

        Raises:
            DataError: the shifts were fitted at other levels.
        """
        self.check(levels)
        at = [int(np.argmin(np.abs(np.array(self.levels) - level))) for level in levels]
        shift = np.array([self.shifts[k] or 0.0 for k in at])
        return np.sort(quantiles + shift * widths(quantiles, levels)[:, None], axis=1)


@dataclass
class Calibration:
    """Corrections by question (column and what was given) and by the fingerprint of what they were fitted on; and that
    of the weights that they belong to."""

    weights: str | None
    questions: dict[tuple[str, Given, str], ColumnCalibration] = field(default_factory=dict)

    def add(self, column: str, given: Sequence[str] | None, fitted: ColumnCalibration) -> None:
        """Enter what was fitted for a question; only what was fitted on the same objects is replaced."""
        self.questions[column, _given(given), str(fitted.fitted_on.get("fingerprint"))] = fitted

    def of(self, column: str, given: Collection[str] | None) -> ColumnCalibration | None:
        """What was fitted for a question, on the most objects if on several sets of them; None: nothing."""
        wanted = (column, _given(given))
        found = {key[2]: fitted for key, fitted in self.questions.items() if key[:2] == wanted}
        return found[max(found, key=lambda key: (found[key].n_objects, key))] if found else None

    def save(self, path: str | Path) -> None:
        """Write as plain JSON with a checksum, atomically."""
        entries = [
            {"column": column, "given": given, **asdict(fitted)}
            for (column, given, _), fitted in self.questions.items()
        ]
        write_sealed(path, {"format": FORMAT, "weights": self.weights, "questions": entries})

    def merge_into(self, path: str | Path) -> None:
        """Write into a file that keeps what it has of other questions, if it is of the same weights.

        Safe when several processes judge the same weights.
        """
        with FileLock(path, wait_seconds=60.0):
            try:
                whole = type(self).load(path, self.weights)
            except (ArtifactMissingError, ArtifactError):  # none, an older format, or of weights that are no more
                whole = type(self)(self.weights)
            whole.questions |= self.questions
            whole.save(path)

    @classmethod
    def load(cls, path: str | Path, weights: str | None = None) -> Self:
        """Read; with ``weights``, refuse a file that belongs to others.

        Raises:
            ArtifactMissingError: there is none.
            ArtifactError: it is damaged, or was fitted for other weights.
        """
        content = read_sealed(path, "fit it again: run evaluate.py")
        try:
            if content["format"] != FORMAT:
                raise ArtifactError(
                    f"a calibration of format {FORMAT}",
                    got=content["format"],
                    where=path,
                    repair="fit it again: run evaluate.py",
                )
            found = cls(content["weights"])
            for entry in content["questions"]:
                found.add(entry.pop("column"), entry.pop("given"), _column(entry))
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                "a whole calibration", got=repr(error), where=path, repair="fit it again: run evaluate.py"
            ) from error
        if weights is not None and found.weights != weights:
            raise ArtifactError(
                f"a calibration of the weights {weights}",
                got=f"one of {found.weights}",
                where=path,
                repair="fit it again: run evaluate.py",
            )
        return found


def _given(names: Collection[str] | None) -> Given:
    return None if names is None else tuple(sorted(names))


def _column(values: dict[str, Any]) -> ColumnCalibration:
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return ColumnCalibration(**given)


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


def widths(quantiles: np.ndarray, levels: Sequence[float] | np.ndarray) -> np.ndarray:
    """Width of each object's interval nearest to 68 %, ``(n,)``, >= 0."""
    low, high = _ends(levels)
    return np.abs(np.asarray(quantiles, np.float64)[:, high] - quantiles[:, low])


def _ends(levels: Sequence[float] | np.ndarray) -> tuple[int, int]:
    at = np.asarray(levels, np.float64)
    return int(np.argmin(np.abs(at - 0.16))), int(np.argmin(np.abs(at - 0.84)))


def fit_shifts(quantiles: np.ndarray, levels: Sequence[float], observed: np.ndarray) -> tuple[float | None, ...]:
    """Conformal shift of each level, in units of :func:`widths`; None where a level asks for more objects.

    Below the median a quantile becomes a lower bound that holds with probability ≥ 1 - τ, above it an upper bound that
    holds with probability ≥ τ: the ⌈(n + 1) τ⌉-th smallest score. The median gets the scores' median.
    """
    quantiles, observed = np.asarray(quantiles, np.float64), np.asarray(observed, np.float64)
    width = widths(quantiles, levels)
    usable = np.isfinite(quantiles).all(1) & np.isfinite(observed) & (width > 0)
    if usable.sum() < MIN_OBJECTS:
        return (None,) * len(levels)
    scores = np.sort((observed[usable, None] - quantiles[usable]) / width[usable, None], axis=0)
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
