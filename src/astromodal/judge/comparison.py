"""A model against the baselines: the same objects, the same inputs, and an interval on every difference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..metrics import calibration
from ..metrics.bootstrap import paired_bootstrap
from ..metrics.photo_z import photo_z_figures
from ..metrics.posterior import crps_of_quantiles, pit_of_quantiles
from ..metrics.scalars import scalar_figures
from ..vocabulary.codebook import Codebook
from .baselines.inputs import Inputs, Rows, features, places_in_store, training_rows
from .baselines.predictors import PREDICTORS, make_predictor
from .baselines.values import BoostingColours, Prediction
from .scores import Scores

if TYPE_CHECKING:
    from ..tokens.store import TokenStore

LOSES, WINS, EVEN = "loses", "wins", "undecided"
MIN_TRAINING, MIN_JUDGED = 20, 5


@dataclass(frozen=True)
class Baselines:
    """Where the baselines read, and how many rows they learn from."""

    store: TokenStore  # that they learn from
    asked: TokenStore  # of the objects that they answer for; mostly the same
    codebooks: Mapping[str, Codebook] | None
    names: Sequence[str]
    max_rows: int
    seed: int


def compare(
    baselines: Baselines,
    column: str,
    inputs: Inputs,
    scores: Scores,
    fields: np.ndarray,
    ids: np.ndarray,
    *,
    is_redshift: bool = False,
    n_resamples: int = 1000,
) -> dict[str, Any]:
    """Every baseline on the judged objects of a column, and the model's difference from it.

    Args:
        scores: of the model; objects that the token files do not have are left out on both sides and counted.
        fields, ids: of all rows of the catalogue.

    Returns:
        ``n, n_left_out, n_training, n_available``; ``baselines``: by name its figures, seconds, and ``differences``
        (model - baseline; below zero is better) of the absolute error, the squared error and, with quantiles, the CRPS,
        or ``skipped``, why not; ``best``: the baseline that the model has to beat. Or ``skipped``, why there are none.
    """
    if column not in (names := baselines.store.open(baselines.store.fields()[0]).columns):
        return {"skipped": f"{column} is not among the {len(names)} scalar columns of the token files"}
    train, available = training_rows(
        baselines.store, column, inputs, baselines.codebooks, max_rows=baselines.max_rows, seed=baselines.seed
    )
    held_out, at = _held_out(baselines, inputs, scores, fields, ids)
    counts = {
        "n": len(at),
        "n_left_out": len(scores.rows) - len(at),
        "n_training": len(train.target),
        "n_available": available,
        "inputs": [*inputs.scalars, *inputs.parts],
        "unused": list(inputs.unused),
        "colours": len(inputs.colours),
    }
    if len(train.target) < MIN_TRAINING or len(at) < MIN_JUDGED:
        return counts | {"skipped": f"{len(train.target)} training objects and {len(at)} judged ones are too few"}
    results, n_plain = {}, train.features.shape[1] - len(inputs.colours)
    for name in baselines.names:
        kind = PREDICTORS[name]
        if kind is BoostingColours and not inputs.colours:
            results[name] = {"skipped": "no two given columns have one unit"}
            continue
        rows = train if kind.colours else Rows(train.features[:, :n_plain], train.target)
        asked = held_out if kind.colours else held_out[:, :n_plain]
        try:
            results[name] = _one(name, baselines.seed, scores, at, rows, asked, is_redshift, n_resamples)
        except DataError as error:
            results[name] = {"skipped": str(error)}
    return counts | {"baselines": results, "best": best(results)}


def best(baselines: Mapping[str, Any]) -> dict[str, Any] | None:
    """The baseline with the least CRPS (without quantiles, absolute error): its name, the figure, both values.

    It is chosen on the judged objects themselves, in favour of the baselines.
    """
    for figure in ("crps", "absolute error"):
        found = {
            name: entry["differences"][figure]
            for name, entry in baselines.items()
            if figure in entry.get("differences", {})
        }
        if found:
            name = min(found, key=lambda name: found[name]["baseline"])
            return {"name": name, "figure": figure, **found[name]}
    return None


def _held_out(
    baselines: Baselines, inputs: Inputs, scores: Scores, fields: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features of the judged objects that the store has, and their places among the judged ones; each object once."""
    blocks, places = [], []
    known = np.zeros(len(scores.rows), bool)
    for tokens, mine, rows in places_in_store(baselines.asked, fields[scores.rows], ids[scores.rows]):
        fresh = ~known[mine]
        known[mine] = True
        blocks.append(features(tokens, rows[fresh], inputs, baselines.codebooks))
        places.append(mine[fresh])
    if not blocks:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
    return np.concatenate(blocks), np.concatenate(places)


def _one(
    name: str,
    seed: int,
    scores: Scores,
    at: np.ndarray,
    train: Rows,
    held_out: np.ndarray,
    is_redshift: bool,
    n_resamples: int,
) -> dict[str, Any]:
    start = time.perf_counter()
    levels = scores.levels if len(scores.levels) > 1 else ()
    answer = make_predictor(name, levels, seed).fit(train.features, train.target).predict(held_out)
    observed = scores.observed[at]
    median = _median(answer, levels)
    result: dict[str, Any] = {"figures": scalar_figures(observed, answer.mean, median)}
    if is_redshift:
        result["photo_z"] = photo_z_figures(observed, median)
    pairs = {
        "absolute error": (np.abs(scores.median[at] - observed), np.abs(median - observed)),
        "squared error": ((scores.mean[at] - observed) ** 2, (answer.mean - observed) ** 2),
    }
    if levels:
        score = crps_of_quantiles(answer.quantiles, levels, observed)
        pit = pit_of_quantiles(answer.quantiles, levels, observed, seed)
        inside = calibration.coverage(pit)
        result |= {"crps": float(score.mean()), "coverage_68": float(inside[0]), "coverage_95": float(inside[1])}
        pairs["crps"] = (scores.crps_quantiles[at], score)
    differences = {}
    for what, (model, baseline) in pairs.items():
        if np.isfinite(model).any():
            differences[what] = _difference(model, baseline, n_resamples, seed)
    return result | {"differences": differences, "seconds": time.perf_counter() - start}


def crps_against_marginal(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The CRPS of a judged column beside the marginal's (see :func:`compare`); None if they were not compared."""
    marginal = record.get("against", {}).get("baselines", {}).get("marginal", {})
    found = marginal.get("differences", {}).get("crps")
    return found if found and found["baseline"] else None


def _median(answer: Prediction, levels: Sequence[float]) -> np.ndarray:
    return answer.quantiles[:, list(levels).index(0.5)] if 0.5 in levels else answer.mean


def _difference(model: np.ndarray, baseline: np.ndarray, n_resamples: int, seed: int) -> dict[str, Any]:
    """Paired by object: model - baseline, its 95 % interval, the share of the baseline's value, and the verdict."""
    found = paired_bootstrap(model, baseline, n_resamples, seed)
    usable = np.isfinite(model) & np.isfinite(baseline)
    verdict = LOSES if found.low > 0 else WINS if found.high < 0 else EVEN
    return {
        "model": float(model[usable].mean()),
        "baseline": float(baseline[usable].mean()),
        **found._asdict(),
        "verdict": verdict,
    }
