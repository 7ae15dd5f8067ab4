"""Scores of one predicted column, object by object: from its binned posterior where there is one, else from quantiles.

Shapes: m judged objects, q quantile levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ask.recalibration import temper
from ..metrics import calibration
from ..metrics.posterior import (
    cdf_at,
    cdf_of_bins,
    crps,
    crps_of_quantiles,
    log_score,
    moments_of_bins,
    pit_of_quantiles,
    quantiles_of_cdf,
)
from .predicted import PredictedColumn, PredictionCatalogue

DEFAULT_LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)


@dataclass(frozen=True)
class Scores:
    """Everything about the judged objects of a column, ``(m,)`` each, in the column's unit."""

    rows: np.ndarray  # of the catalogue
    observed: np.ndarray
    error: np.ndarray  # 1 sigma of the observation, NaN where unknown
    mean: np.ndarray
    median: np.ndarray
    std: np.ndarray
    levels: tuple[float, ...]
    quantiles: np.ndarray  # (m, q)
    pit: np.ndarray  # of the posterior, else of the quantiles; NaN without either
    crps: np.ndarray  # of the posterior, else as the catalogue says, else of the quantiles
    crps_quantiles: np.ndarray  # of the quantiles, for comparisons at the same levels
    log_score: np.ndarray | None  # nats; None without a posterior

    @property
    def source(self) -> str:
        """What the distribution is from."""
        if self.log_score is not None:
            return "binned posterior"
        if np.isfinite(self.pit).all() and len(self.levels) < 2:
            return "PIT values"
        return "quantiles" if len(self.levels) > 1 else "none"


def score_column(
    catalogue: PredictionCatalogue,
    column: PredictedColumn,
    rows: np.ndarray,
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> Scores:
    """Scores of the rows ``(n,)`` bool of a catalogue that can be judged.

    With a ``temperature`` other than 1 the posterior is changed by it first, and with it mean, quantiles and the rest;
    without a posterior it has no effect.
    """
    chosen = np.flatnonzero(column.judged(rows))
    plain = {name: getattr(column, name)[chosen] for name in ("observed", "error", "mean", "median", "std")}
    levels, quantiles = column.levels, column.quantiles[chosen]
    pit = column.pit[chosen]
    score, logs = np.full(len(chosen), np.nan), None
    if column.edges is not None:
        rescored = temperature != 1.0
        if rescored or len(levels) < 2:
            levels = levels if len(levels) > 1 else DEFAULT_LEVELS
            quantiles = np.full((len(chosen), len(levels)), np.nan)
        logs = score.copy()
        for places, p in catalogue.posteriors(column.name, column.judged(rows)):
            at = np.searchsorted(chosen, places)
            p = temper(p, temperature) if rescored else p
            cdf, y = cdf_of_bins(p), plain["observed"][at]
            if rescored or not np.isfinite(pit[at]).all():
                pit[at] = cdf_at(column.edges, cdf, y)
            score[at] = crps(column.edges, cdf, y)
            logs[at] = log_score(column.edges, p, y)
            if rescored:
                plain["mean"][at], plain["std"][at] = moments_of_bins(column.edges, p)
            if not np.isfinite(quantiles[at]).all():
                quantiles[at] = quantiles_of_cdf(column.edges, cdf, levels)
        if rescored and 0.5 in levels:
            plain["median"] = quantiles[:, levels.index(0.5)]
    from_quantiles = np.full(len(chosen), np.nan)
    if len(levels) > 1:
        from_quantiles = crps_of_quantiles(quantiles, levels, plain["observed"])
        if column.edges is None:
            score = from_quantiles
        if not np.isfinite(pit).all():
            pit = pit_of_quantiles(quantiles, levels, plain["observed"], seed)
    if column.edges is None and column.crps is not None and np.isfinite(column.crps[chosen]).all():
        score = column.crps[chosen]
    return Scores(
        chosen,
        **plain,
        levels=levels,
        quantiles=quantiles,
        pit=pit,
        crps=score,
        crps_quantiles=from_quantiles,
        log_score=logs,
    )


def interval(levels: tuple[float, ...], quantiles: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Ends of the central interval that holds ``share``; None if it is not among the quantiles."""
    ends = []
    for wanted in ((1 - share) / 2, (1 + share) / 2):
        near = [j for j, level in enumerate(levels) if abs(level - wanted) < 0.005]
        if not near:
            return None
        ends.append(quantiles[:, near[0]])
    return ends[0], ends[1]


def mean_log_score(log_score: np.ndarray) -> float:
    """Mean over the objects inside of the bins [nats]; the others are counted apart, as each would be infinite."""
    finite = np.isfinite(log_score)
    return float(log_score[finite].mean()) if finite.any() else float("nan")


def distribution_figures(pit: np.ndarray, score: np.ndarray) -> Mapping[str, float]:
    """Coverage of 68 and 95 % and the mean CRPS, of PIT values and CRPS ``(m,)``; for the bootstrap."""
    inside = calibration.coverage(pit)
    return {"coverage_68": inside[0], "coverage_95": inside[1], "crps": float(np.mean(score)) if len(score) else np.nan}


def calibration_record(scores: Scores) -> dict[str, Any]:
    """Uniformity of the PIT values, coverage curve, sharpness and pulls of the scored objects."""
    width = interval(scores.levels, scores.quantiles, calibration.SIGMA_1)
    n_bins = int(np.clip(np.isfinite(scores.pit).sum() // 20, 5, 20))  # 20 objects in a bar: chi2 holds, bars are calm
    record: dict[str, Any] = {"source": scores.source, **calibration.uniformity(scores.pit, n_bins)}
    record["coverage_error"] = calibration.coverage_error(scores.pit)
    record["sharpness_68"] = calibration.sharpness(*width) if width else float("nan")
    record |= calibration.pull_figures(scores.observed, scores.mean, scores.std)
    if scores.log_score is not None:
        record["log_score"] = mean_log_score(scores.log_score)
        record["n_outside_bins"] = int(np.isinf(scores.log_score).sum())
    record["pit_histogram"] = calibration.pit_histogram(scores.pit, n_bins).tolist()
    levels = calibration.COVERAGE_LEVELS
    curve = zip(levels, calibration.coverage(scores.pit, levels).tolist(), strict=True)
    return record | {"coverage_curve": [list(pair) for pair in curve]}
