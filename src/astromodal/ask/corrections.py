"""Which fitted corrections (:mod:`.recalibration`) answer for the asked questions, and moving what they move."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ..config.schema import Calibrate, EvaluateConfig
from ..errors import ArtifactMissingError
from ..metrics.posterior import crps_of_quantiles
from .questions import Plan
from .recalibration import Calibration, ColumnCalibration


def corrections(
    plan: Plan, settings: EvaluateConfig, calibration: Calibration | None, log: logging.Logger
) -> dict[str, ColumnCalibration]:
    """What ``settings.calibration`` applies, by asked column; a column that nothing was fitted for is said.

    Raises:
        ArtifactMissingError: nothing was fitted for any of the questions.
        DataError: shifts were fitted at other quantiles.
    """
    mode, without = settings.calibration, []
    found: dict[str, ColumnCalibration] = {}
    said: dict[str, list[str]] = {}
    if mode == Calibrate.off:
        return found
    for question in plan.scalars:
        fitted = None if calibration is None else calibration.of(question.name, question.given)
        if fitted is None or not (fitted.n_temperature if mode == Calibrate.temperature else fitted.n_conformal):
            without.append(question.name)
            continue
        if mode == Calibrate.conformal:  # at once, not after hours
            fitted.check([0.5, *settings.quantiles])
        found[question.name] = fitted
        said.setdefault(fitted.said(), []).append(question.name)
    if not found:
        raise ArtifactMissingError(
            f"a fitted {mode.value} calibration for one of {', '.join(without) or 'the asked columns'}",
            got="none",
            where=settings.calibration_file or "calibration.json beside the weights",
            repair="fit it: the same command with evaluate.calibration=off evaluate.posterior=true",
        )
    for fitted_on, names in said.items():
        log.info("corrected by a %s calibration fitted on %s: %s", mode.value, fitted_on, ", ".join(names))
    if without:
        log.warning("not calibrated, as nothing was fitted for them: %s", ", ".join(without))
    return found


def shift(
    found: dict[str, np.ndarray], correction: ColumnCalibration, quantiles: Sequence[float], observed: np.ndarray
) -> None:
    """Move ``median (N,)`` and ``quantiles (N, Q)`` of a posterior's summary in place.

    Its PIT becomes NaN, as the posterior's distribution function says nothing of moved quantiles; its CRPS becomes that
    of the moved quantiles.
    """
    levels = np.array([0.5, *quantiles])
    order = np.argsort(levels, kind="stable")
    moved = np.concatenate([found["median"][:, None], found["quantiles"]], axis=1)
    moved[:, order] = correction.shifted(moved[:, order], levels[order])
    unknown = np.full(len(moved), np.nan)
    rising, first = np.unique(levels, return_index=True)  # 0.5 may be among the quantiles, too
    score = crps_of_quantiles(moved[:, first], rising, observed) if len(rising) > 1 else unknown
    found |= {"median": moved[:, 0], "quantiles": moved[:, 1:], "pit": unknown, "crps": score}
