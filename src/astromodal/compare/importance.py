"""Which of the swept keys decides the metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cohorts import Axis, Cohort
from .rundir import Run
from .runs_table import as_text

MIN_RUNS = 8  # for a forest
FOREST, SPREAD = "forest", "spread"


@dataclass(frozen=True)
class Importance:
    """What was found, and how.

    Attributes:
        method: ``forest`` or ``spread``.
        names: of the swept keys, and ``seed`` where there are several; the most important first.
        values: ``forest``: by how much the squared error of runs that the forest has not seen grows when the key is
            shuffled, in units of the metric's variance. ``spread``: largest minus smallest of the means per value, in
            units of the metric.
        explained: R² of the forest for runs it has not seen; ``None`` with ``spread``.
    """

    method: str
    names: list[str]
    values: np.ndarray
    explained: float | None

    @property
    def says(self) -> str:
        """The method in one sentence."""
        if self.method == SPREAD:
            return (
                f"Fewer than {MIN_RUNS} runs: largest minus smallest of the means per value of each key, in units "
                "of the metric; keys that vary together share it."
            )
        text = (
            f"Random forest, permutation importance on runs held out of its fit: growth of the squared error in "
            f"units of the metric's variance; R² on those runs {self.explained:.2f}."
        )
        if self.explained is not None and self.explained <= 0:
            text += " That is no better than the mean: the keys explain nothing that can be relied on."
        return text


def importance(cohort: Cohort, seed: int = 0) -> Importance | None:
    """How much each swept key matters; ``None`` where fewer than two were swept or all runs are equal."""
    runs = cohort.runs
    y = np.array([value for group in cohort.groups for value in group.values.values()])
    columns = {axis.label: encode([axis.value(run) for run in runs]) for axis in cohort.axes}
    if len({as_text(run.seed) for run in runs}) > 1:
        columns["seed"] = encode([run.seed for run in runs])
    if len(cohort.axes) < 2 or len(runs) < 3 or not np.ptp(y) > 0:
        return None
    x, names = np.stack(list(columns.values()), axis=1), list(columns)
    if len(runs) >= MIN_RUNS:
        values, explained = _forest(x, y, seed)
        method = FOREST
    else:
        values, explained, method = np.array([_spread(column, y) for column in x.T]), None, SPREAD
    order = np.argsort(-values, kind="stable")
    return Importance(method, [names[i] for i in order], values[order], explained)


def _forest(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Permutation importance ``(k,)`` and R², both on held-out folds."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    rises, residual = np.zeros(x.shape[1]), 0.0
    folds = KFold(min(5, len(y) // 2), shuffle=True, random_state=seed)
    for train, test in folds.split(x):
        forest = RandomForestRegressor(60, min_samples_leaf=2, random_state=seed, n_jobs=1).fit(x[train], y[train])
        found = permutation_importance(
            forest, x[test], y[test], scoring="neg_mean_squared_error", n_repeats=5, random_state=seed, n_jobs=1
        )
        rises += found.importances_mean * len(test)
        residual += float(((forest.predict(x[test]) - y[test]) ** 2).sum())
    total = float(((y - y.mean()) ** 2).sum())
    return rises / total, 1.0 - residual / total


def _spread(column: np.ndarray, y: np.ndarray) -> float:
    return float(np.ptp([y[column == value].mean() for value in np.unique(column)]))


def encode(values: Sequence[Any]) -> np.ndarray:
    """Numbers as they are, ``None`` beyond the largest (it stands for "all" or "off"); anything else by its rank.

    >>> encode([64, None, 256]).tolist(), encode(["b", "a", True]).tolist()
    ([64.0, 257.0, 256.0], [1.0, 0.0, 2.0])
    """
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        known = [float(value) for value in values if value is not None]
        beyond = max(known, default=0.0) + 1.0
        return np.array([beyond if value is None else float(value) for value in values])
    texts = [as_text(value) for value in values]
    ranks = {text: rank for rank, text in enumerate(sorted(set(texts)))}
    return np.array([float(ranks[text]) for text in texts])


def swept_values(runs: Sequence[Run], axis: Axis) -> list[Any]:
    """The different values of an axis: numbers in order, ``None`` last, others as text."""
    found = {as_text(axis.value(run)): axis.value(run) for run in runs}
    return [
        value
        for _, value in sorted(zip(encode(list(found.values())), found.values(), strict=True), key=lambda pair: pair[0])
    ]
