"""Fitting the corrections of :mod:`~astromodal.ask.recalibration` from a catalogue, and what they change on others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..ask.recalibration import MIN_OBJECTS, ColumnCalibration, bins_of, fit_shifts, fit_temperature
from ..metrics import calibration
from ..metrics.posterior import crps_of_quantiles, pit_of_quantiles
from .predicted import PredictedColumn, PredictionCatalogue
from .scores import Scores, mean_log_score, score_column


def fit_and_show(
    catalogue: PredictionCatalogue,
    column: PredictedColumn,
    fitting: np.ndarray,
    shown: np.ndarray,
    max_rows: int = 10_000,
    seed: int = 0,
) -> tuple[dict[str, Any], ColumnCalibration | None]:
    """Fit on the rows ``fitting`` and judge on the rows ``shown``, both ``(n,)`` bool without a common object.

    Returns:
        A record (``fitted``, and by step ``as predicted``, ``temperature``, ``conformal`` the figures from the
        quantiles on the shown rows; or ``skipped``, why not) and what was fitted, None if nothing.
    """
    usable = column.judged(fitting)
    n_shown = int(column.judged(shown).sum())
    if usable.sum() < MIN_OBJECTS or n_shown < MIN_OBJECTS:
        why = f"{int(usable.sum())} objects to fit and {n_shown} to show it; {MIN_OBJECTS} of each are needed"
        return {"skipped": why}, None
    fitted = ColumnCalibration()
    if column.edges is not None:
        p, rows = _posteriors(catalogue, column, usable, max_rows)
        fitted = ColumnCalibration(fit_temperature(p, bins_of(column.edges, column.observed[rows])), len(rows))
    scores = score_column(catalogue, column, fitting, temperature=fitted.temperature, seed=seed)
    shifts = fit_shifts(scores.quantiles, scores.levels, scores.observed)
    fitted = replace(fitted, levels=scores.levels, shifts=shifts, n_conformal=len(scores.rows))
    record = {
        "fitted": {
            "temperature": fitted.temperature,
            "n_temperature": fitted.n_temperature,
            "n_conformal": fitted.n_conformal,
            "levels": list(fitted.levels),
            "shifts": list(fitted.shifts),
        }
    }
    plain = score_column(catalogue, column, shown, seed=seed)
    record["as predicted"] = _figures(plain, plain.quantiles, seed)
    tempered = plain
    if column.edges is not None:
        tempered = score_column(catalogue, column, shown, temperature=fitted.temperature, seed=seed)
        record["temperature"] = _figures(tempered, tempered.quantiles, seed)
    shifted = fitted.shifted(tempered.quantiles, tempered.levels)
    record["conformal"] = _figures(replace(tempered, log_score=None), shifted, seed)
    return record, fitted


def _posteriors(
    catalogue: PredictionCatalogue, column: PredictedColumn, usable: np.ndarray, max_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most ``max_rows`` posteriors of usable rows, spread evenly over them, and their rows."""
    rows = np.flatnonzero(usable)
    if len(rows) > max_rows:
        rows = rows[np.linspace(0, len(rows) - 1, max_rows).astype(np.int64)]
    chosen = np.zeros(len(usable), bool)
    chosen[rows] = True
    found = list(catalogue.posteriors(column.name, chosen))
    return np.concatenate([p for _, p in found]), np.concatenate([at for at, _ in found])


def _figures(scores: Scores, quantiles: np.ndarray, seed: int) -> dict[str, Any]:
    """From quantiles at the same levels at every step, so that the steps can be compared."""
    pit = pit_of_quantiles(quantiles, scores.levels, scores.observed, seed)
    test, inside = calibration.level_test(pit, scores.levels), calibration.coverage(pit)
    found = {
        "n": test["n"],
        "coverage_68": float(inside[0]),
        "coverage_95": float(inside[1]),
        "crps": float(np.nanmean(crps_of_quantiles(quantiles, scores.levels, scores.observed))),
        "levels": test,
    }
    if scores.log_score is not None:
        found["log_score"] = mean_log_score(scores.log_score)
    return found
