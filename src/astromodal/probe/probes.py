"""What a model's hidden states know of labels that it is not shown: linear and attention probes, judged.

The model is frozen and shown everything else of each object (or what is named), never a label. Probes learn from
training objects, are chosen by validation objects and judged on test objects, in the label's unit, with bootstrap
intervals by object, beside the marginal (mean and median of the training objects). The pretraining itself has seen the
labels of the training objects, so only held-out objects count. :mod:`astromodal.probe.report` is the command.

Probes predict in the transformed space of the column, and no further than the training labels reach. The inverse of
such a prediction is judged as a median (MAE, scatter). The inverse of a mean is no mean: that (R2, RMSE) is the average
of the inverse over the residuals of the validation objects (Duan 1983, JASA 78, 605).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config.schema import HardwareConfig, ScalarConfig
from ..data.scalars import inverse_transform, transform
from ..data.splits import TEST, TRAIN, VAL
from ..metrics.bootstrap import bootstrap_figures, paired_bootstrap
from ..metrics.scalars import scalar_figures
from ..tokenizers.fitted import needed
from .fits import ProbeOptions, attention_predictions, fit_attention, fit_ridge, mean_states
from .frozen import Frozen
from .pooling import AttentionPooling
from .states import HiddenStates, States, labelled_objects

_SHARES = (np.arange(128) + 0.5) / 128  # quantiles that stand for all residuals
FIGURES = ("r2", "mae", "rmse", "scatter")
PROBES = ("linear", "attention")


@dataclass(frozen=True)
class Judged:
    """Both probes of a label."""

    figures: dict[str, Any]  # plain values; see judge_probes
    pooling: AttentionPooling  # of the attention probe
    observed: np.ndarray  # (n,) label of the judged objects, in its unit
    predicted: dict[str, np.ndarray]  # median (n,) of each of PROBES, in that unit
    places: np.ndarray | None = None  # (k, 2) number of the field and row in it of all objects that were used


def judge_probes(
    states: States,
    rows: Mapping[int, np.ndarray],
    values: np.ndarray,
    config: ScalarConfig,
    options: ProbeOptions | None = None,
    hardware: HardwareConfig | None = None,
    log: logging.Logger | None = None,
) -> Judged:
    """Fit both probes and judge them.

    Args:
        rows: numbers of the objects to learn from (``TRAIN``), to choose by (``VAL``) and to judge on (``TEST``).
        values: the label of every object ``(n,)`` in its unit.
        config: of the label's column.

    Returns:
        With the figures ``probes``: name → figure → value, low, high; ``linear`` and ``attention``: how they were
        fitted; ``attention_minus_linear``: difference of the absolute errors with its interval.
    """
    options, log = options or ProbeOptions(), log or logging.getLogger(__name__)
    hardware = hardware or HardwareConfig(device="cpu")
    target = transform(np.asarray(values, np.float64), config)
    learnt = target[rows[TRAIN]]
    low, high, center, scale = learnt.min(), learnt.max(), learnt.mean(), float(learnt.std()) or 1.0
    standard = (target - center) / scale
    pooled = {k: mean_states(states, rows[k], options.batch_size) for k in (TRAIN, VAL, TEST)}
    linear = fit_ridge(pooled[TRAIN][0], standard[rows[TRAIN]], pooled[VAL][0], standard[rows[VAL]])
    train, val = ((rows[k], standard[rows[k]]) for k in (TRAIN, VAL))
    probe, fitted = fit_attention(states, train, val, linear, pooled[TRAIN][1:], options, hardware, log)
    found = {
        "linear": [linear(pooled[k][0]) for k in (VAL, TEST)],
        "attention": [attention_predictions(probe, states, rows[k], options.batch_size) for k in (VAL, TEST)],
    }

    def physical(standardised: np.ndarray) -> np.ndarray:
        return inverse_transform(np.clip(standardised * scale + center, low, high), config)

    truth, known = values[rows[TEST]], values[rows[TRAIN]]
    predictions = {"marginal": (np.full(len(truth), known.mean()), np.full(len(truth), np.median(known)))}
    for name, (on_val, on_test) in found.items():
        residuals = np.quantile(standard[rows[VAL]] - on_val, _SHARES)
        predictions[name] = physical(on_test[:, None] + residuals).mean(1), physical(on_test)
    errors = {name: np.abs(predictions[name][1] - truth) for name in found}
    paired = paired_bootstrap(errors["attention"], errors["linear"], options.n_resamples, options.seed)
    pooling = probe.pooling()
    figures = {
        "probes": {name: _figures(truth, *p, options) for name, p in predictions.items()},
        "linear": {"penalty": linear.penalty, "val_mse": linear.val_mse},
        "attention": fitted | {"queries": options.n_queries, "is_mean": pooling.is_mean},
        "attention_minus_linear": {"mae": paired.difference, "low": paired.low, "high": paired.high},
    }
    return Judged(figures, pooling, truth, {name: predictions[name][1] for name in PROBES})


def _figures(
    truth: np.ndarray, mean: np.ndarray, median: np.ndarray, options: ProbeOptions
) -> dict[str, dict[str, float]]:
    """Figures with intervals of predictions ``(n,)``."""

    def figures(*arrays: np.ndarray) -> dict[str, float]:
        found = scalar_figures(*arrays)
        return {name: found[name] for name in FIGURES}

    intervals = bootstrap_figures(figures, truth, mean, median, n_resamples=options.n_resamples, seed=options.seed)
    return {name: {"value": i.value, "low": i.low, "high": i.high} for name, i in intervals.items()}


def probe_label(
    frozen: Frozen, label: str, options: ProbeOptions | None = None, log: logging.Logger | None = None
) -> Judged:
    """Probes of one of the labels that a frozen model is not shown; see :func:`judge_probes`.

    Raises:
        DataError: too few objects have the label.
        ArtifactError: the tokens do not belong to the model.
    """
    started = time.perf_counter()
    options, log = options or ProbeOptions(), log or logging.getLogger(__name__)
    trained, plan = frozen.trained, frozen.plan
    config = needed(trained.tokenizers.scalar, "scalar").configs[label]
    limits = {TRAIN: options.max_train, VAL: options.max_held_out, TEST: options.max_held_out}
    objects = labelled_objects(frozen.tokens, trained.layout, plan, label, config, limits, options.seed)
    states = HiddenStates(frozen.engine, objects.slots, frozen.labels)
    rows = {k: objects.rows(k) for k in (TRAIN, VAL, TEST)}
    log.info("%s: %d objects to learn from, %d to choose by, %d to judge", label, *(len(r) for r in rows.values()))
    found = judge_probes(states, rows, objects.values, config, options, frozen.hardware, log)
    judged = "test" if objects.counts["test"]["used"] else "half of val"
    about = {
        "label": label,
        "unit": config.unit,
        **frozen.meaning(),
        "drawn": objects.counts,
        "judged": {"split": judged, "objects": len(rows[TEST])},
        "seconds": time.perf_counter() - started,
    }
    return replace(found, figures=about | found.figures, places=objects.places)
