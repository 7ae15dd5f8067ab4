"""TabICL, a network pretrained on made-up tables that learns a new one in context, where it is installed.

Qu, Holzmüller, Varoquaux & Le Morvan (2025, ICML; version 2: 2026). An optional extra: ``pip install tabicl`` and its
weights in the Hugging Face cache. Nothing is ever downloaded from here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ...errors import DataError
from .values import BATCH_ROWS, Prediction, checked_target, varying

MAX_ROWS = 10_000  # in context; on a CPU more takes hours


class TabICL:
    """See :class:`~.values.Predictor`; colours help it as they help trees."""

    name = "tabicl"
    colours = True

    def __init__(self, levels: Sequence[float], seed: int = 0) -> None:
        self.levels, self.seed = list(levels), seed

    def fit(self, features: np.ndarray, target: np.ndarray) -> Self:
        """Raises: DataError: it is not here."""
        if (why := missing()) is not None:
            raise DataError.plain(why)
        self.used = varying(features)
        rows = np.random.default_rng(self.seed).permutation(len(features))[:MAX_ROWS]
        self.model = _regressor(self.seed).fit(features[rows][:, self.used], checked_target(target)[rows])
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        wanted = ["mean", "quantiles"] if self.levels else ["mean"]
        means, quantiles = [np.zeros(0)], [np.zeros((0, len(self.levels)))]
        for start in range(0, len(features), BATCH_ROWS):
            found = self.model.predict(
                features[start : start + BATCH_ROWS, self.used], output_type=wanted, alphas=self.levels or None
            )
            means.append(found["mean"] if self.levels else found)
            quantiles.append(np.sort(found["quantiles"], axis=1) if self.levels else np.zeros((len(means[-1]), 0)))
        return Prediction(np.concatenate(means).astype(np.float64), np.concatenate(quantiles).astype(np.float64))


def missing() -> str | None:
    """What is missing to use it; None: nothing."""
    if importlib.util.find_spec("tabicl") is None:
        return "the package tabicl is not installed"
    try:
        from huggingface_hub import try_to_load_from_cache

        model = _regressor(0)
        found = try_to_load_from_cache("jingang/TabICL", model.checkpoint_version)
    except Exception as error:
        return f"this version of tabicl cannot be used: {error}"
    return None if isinstance(found, str) else f"its weights {model.checkpoint_version} are not on this machine"


def _regressor(seed: int) -> Any:
    from tabicl import TabICLRegressor

    return TabICLRegressor(allow_auto_download=False, device="cpu", random_state=seed)
