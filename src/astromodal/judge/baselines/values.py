"""Predictors that a model has to beat, on the same inputs: the marginal, gradient boosting, nearest neighbours.

(All are listed in :mod:`.predictors`; a small network is in :mod:`.tabular_network`.)

Each is fitted on training rows and answers like the model does, with a mean and quantiles in physical units.
Boosting: histogram-based gradient-boosted trees (scikit-learn; Ke et al. 2017), one for the mean and one for each
quantile (pinball loss), trees take missing values as they are. Neighbours: Euclidean in features of unit scatter; a
missing one stands at the mean, with its absence as a feature of its own; their number is chosen on a tenth of the
training rows.

Shapes: n rows, f features, q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from ...errors import DataError

BATCH_ROWS = 8192


class Prediction(NamedTuple):
    """In the unit of the target."""

    mean: np.ndarray  # (n,)
    quantiles: np.ndarray  # (n, q), rising along the levels


class Predictor(Protocol):
    """A baseline; ``fit`` before ``predict``."""

    name: str
    colours: bool  # its features have colours behind them, where there are some

    def __init__(self, levels: Sequence[float], seed: int = 0) -> None: ...

    def fit(self, features: np.ndarray, target: np.ndarray) -> Self:
        """Learn from training rows ``(n, f)`` and their ``(n,)``."""
        ...

    def predict(self, features: np.ndarray) -> Prediction:
        """Answer rows ``(n, f)``."""
        ...


class Marginal:
    """The distribution of the training rows, whatever the values of what is given."""

    name = "marginal"
    colours = False

    def __init__(self, levels: Sequence[float], seed: int = 0) -> None:
        self.levels = tuple(levels)

    def fit(self, features: np.ndarray, target: np.ndarray) -> Self:
        self.mean = float(checked_target(target).mean())
        self.quantiles = np.quantile(target, np.asarray(self.levels, float))
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        n = len(features)
        return Prediction(np.full(n, self.mean), np.tile(self.quantiles, (n, 1)))


class Boosting:
    """Gradient-boosted trees, early stopping on a tenth of the training rows."""

    name = "boosting"
    colours = False

    def __init__(self, levels: Sequence[float], seed: int = 0, max_iter: int = 200) -> None:
        self.levels, self.seed, self.max_iter = tuple(levels), seed, max_iter

    def fit(self, features: np.ndarray, target: np.ndarray) -> Self:
        from sklearn.ensemble import HistGradientBoostingRegressor

        self.used = varying(features)
        # Trees keep float32 gradients and stop at absolute tolerances: they learn a target without a unit.
        self.origin = float(checked_target(target).mean())
        self.unit = float(np.std(target)) or 1.0
        losses: list[dict[str, Any]] = [
            {"loss": "squared_error"},
            *({"loss": "quantile", "quantile": level} for level in self.levels),
        ]
        self.models = [
            HistGradientBoostingRegressor(
                **loss,
                max_iter=self.max_iter,
                random_state=self.seed,
                early_stopping=len(target) >= 200,
                learning_rate=0.1,
                max_leaf_nodes=31,
                min_samples_leaf=min(20, max(len(target) // 10, 1)),
            ).fit(features[:, self.used], (target - self.origin) / self.unit)
            for loss in losses
        ]
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        answers = [self.origin + self.unit * model.predict(features[:, self.used]) for model in self.models]
        quantiles = np.stack(answers[1:], 1) if self.levels else np.zeros((len(features), 0))
        return Prediction(answers[0], np.sort(quantiles, axis=1))  # quantiles fitted one by one may cross


class BoostingColours(Boosting):
    """The same trees, given colours, which they cannot form."""

    name = "boosting_colours"
    colours = True


class Neighbours:
    """Mean and quantiles of the k nearest training rows; ``n_neighbours`` None: the best k of ``CHOICES``."""

    name = "neighbours"
    colours = False
    CHOICES = (5, 10, 20, 50, 100)

    def __init__(self, levels: Sequence[float], seed: int = 0, n_neighbours: int | None = None) -> None:
        self.levels, self.n_neighbours, self.seed = tuple(levels), n_neighbours, seed

    def fit(self, features: np.ndarray, target: np.ndarray) -> Self:
        from sklearn.neighbors import NearestNeighbors

        self.used = varying(features)
        used = features[:, self.used].astype(np.float64)
        self.absent = np.isnan(used).any(0)
        counts = np.maximum(np.isfinite(used).sum(0), 1)
        self.mean = np.nansum(used, 0) / counts
        scale = np.sqrt(np.nansum((used - self.mean) ** 2, 0) / counts)
        self.scale = np.where(scale > 0, scale, 1.0)
        self.target = checked_target(target)
        places = self._placed(features)
        k = self._best_k(places) if self.n_neighbours is None else self.n_neighbours
        self.tree = NearestNeighbors(n_neighbors=min(k, len(target))).fit(places)
        return self

    def _best_k(self, places: np.ndarray) -> int:
        """Least squared error of the mean on a tenth of the rows (2000 at most) that the others answer for."""
        from sklearn.neighbors import NearestNeighbors

        order = np.random.default_rng(self.seed).permutation(len(places))
        asked, others = np.split(order, [min(len(order) // 10, 2000)])
        choices = [k for k in self.CHOICES if k <= len(others)]
        if not len(asked) or not choices:
            return self.CHOICES[0]
        tree = NearestNeighbors(n_neighbors=choices[-1]).fit(places[others])
        values = self.target[others][tree.kneighbors(places[asked], return_distance=False)]  # nearest first
        means = np.cumsum(values, axis=1) / np.arange(1, choices[-1] + 1)
        errors = ((means[:, np.array(choices) - 1] - self.target[asked][:, None]) ** 2).mean(0)
        return choices[int(np.argmin(errors))]

    def _placed(self, features: np.ndarray) -> np.ndarray:
        used = features[:, self.used]
        missing = np.isnan(used)
        return np.concatenate([np.where(missing, 0.0, (used - self.mean) / self.scale), missing[:, self.absent]], 1)

    def predict(self, features: np.ndarray) -> Prediction:
        means, quantiles = [np.zeros(0)], [np.zeros((0, len(self.levels)))]
        for start in range(0, len(features), BATCH_ROWS):
            near = self.tree.kneighbors(self._placed(features[start : start + BATCH_ROWS]), return_distance=False)
            values = self.target[near]
            means.append(values.mean(1))
            quantiles.append(np.quantile(values, np.asarray(self.levels, float), axis=1).T)
        return Prediction(np.concatenate(means), np.concatenate(quantiles))


def checked_target(target: np.ndarray) -> np.ndarray:
    target = np.asarray(target, np.float64)
    if not len(target) or not np.isfinite(target).all():
        raise DataError("training rows with finite values", got=f"{np.isfinite(target).sum()} of {len(target)}")
    return target


def varying(features: np.ndarray) -> np.ndarray:
    """Columns that are not the same everywhere: constants say nothing. A column of zeros if there is no other.

    Raises:
        DataError: there is no column at all.
    """
    if not features.shape[1]:
        raise DataError("at least one given quantity", got="none", where="baselines")
    with np.errstate(invalid="ignore"):
        first = features[:1]
        same = ((features == first) | (np.isnan(features) & np.isnan(first))).all(0)
    used = np.flatnonzero(~same)
    return used if len(used) else np.zeros(1, np.int64)
