"""A small network on tables that is trained in place: piecewise-linear encodings into a perceptron, quantiles out.

Encoding: a feature becomes its place among quantile knots, ``e_t = clip((x - b_t) / (b_t+1 - b_t), 0, 1)`` for every
interval t, which a linear layer turns into any continuous piecewise-linear function of it (Gorishniy, Rubachev &
Babenko 2022, "On Embeddings for Numerical Features in Tabular Deep Learning", section 3.1). A missing value is all
zeros, and a mark of its own. Output: quantiles at ``N_LEVELS`` even levels under the mean pinball loss, which in the
limit of many levels is half the CRPS. They are quantiles of the target's normal score, since quantiles pass through a
monotone map: so units and decades do not matter. Several networks are trained side by side as one batched
multiplication, and their quantiles averaged (Lichtendahl, Grushka-Cockayne & Winkler 2013).

Shapes: n rows, f features, T intervals, M members, K levels, q asked levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from .values import Prediction, checked_target, varying

if TYPE_CHECKING:
    import torch

N_LEVELS, N_MEMBERS, WIDTH, DROPOUT = 49, 4, 128, 0.1
MAX_INTERVALS, MAX_INPUTS = 32, 1536  # knots of a feature; inputs of the first layer
BATCH, LEARNING_RATE, WEIGHT_DECAY = 256, 2e-3, 1e-3
MAX_STEPS, PATIENCE, HELD_OUT = 4000, 8, 0.15  # patience in epochs of at least MIN_EPOCH_STEPS steps
MIN_EPOCH_STEPS = 40


class Network:
    """The network as a baseline (see :class:`~.values.Predictor`)."""

    name = "network"
    colours = True

    def __init__(self, levels: Sequence[float], seed: int = 0) -> None:
        self.levels, self.seed = np.asarray(tuple(levels), float), seed

    def fit(self, features: np.ndarray, target: np.ndarray) -> Self:
        import torch

        target = checked_target(target)
        self.used = varying(features)
        x = features[:, self.used].astype(np.float64)
        self.knots = _knots(x)
        self.scores, self.values = _normal_scores(target)
        order = np.random.default_rng(self.seed).permutation(len(x))
        n_held = max(int(HELD_OUT * len(x)), 1)
        inputs = torch.from_numpy(_place(x, self.knots))
        goal = torch.from_numpy(np.interp(target, self.values, self.scores).astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.net = _net(self.knots)
            _train(self.net, inputs, goal, torch.from_numpy(order[n_held:]), torch.from_numpy(order[:n_held]))
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        import torch

        x = features[:, self.used].astype(np.float64)
        found = [np.zeros((0, N_LEVELS))]
        self.net.eval()
        with torch.no_grad():
            for start in range(0, len(x), 4096):
                part = torch.from_numpy(_place(x[start : start + 4096], self.knots))
                members = np.interp(self.net(part).double().numpy(), self.scores, self.values)  # (m, M, K)
                found.append(np.sort(members, axis=2).mean(1))
        quantiles = np.concatenate(found)
        at = np.interp(self.levels, _levels(), np.arange(N_LEVELS))
        low = np.minimum(at.astype(int), N_LEVELS - 2)
        asked = quantiles[:, low] + (at - low) * (quantiles[:, low + 1] - quantiles[:, low])
        return Prediction(quantiles.mean(1), asked)


def _levels() -> np.ndarray:
    return (np.arange(N_LEVELS) + 0.5) / N_LEVELS


def _knots(x: np.ndarray) -> list[np.ndarray]:
    """Different quantiles of each feature's known values, as many as the first layer has room for; at least two."""
    n = int(np.clip(MAX_INPUTS // max(x.shape[1], 1) - 1, 1, MAX_INTERVALS))
    found = []
    for column in x.T:
        known = column[np.isfinite(column)]
        knots = np.unique(np.quantile(known, np.linspace(0, 1, n + 1))) if len(known) else np.zeros(1)
        found.append(knots if len(knots) > 1 else np.array([knots[0], knots[0] + 1.0]))
    return found


def _place(x: np.ndarray, knots: Sequence[np.ndarray]) -> np.ndarray:
    """Number of the interval that each value lies in, and how far, as one number ``(n, f)`` float32; NaN if missing."""
    out = np.empty(x.shape, np.float32)
    for j, at in enumerate(knots):
        out[:, j] = np.where(np.isfinite(x[:, j]), np.interp(x[:, j], at, np.arange(len(at))), np.nan)
    return out


def _normal_scores(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots of the map between a target and its normal score: scores and values, both rising."""
    from scipy.special import ndtri

    values, counts = np.unique(target, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(target)
    chosen = np.unique(np.linspace(0, len(values) - 1, 1024).astype(int))
    return ndtri(ranks[chosen]), values[chosen]


def _net(knots: Sequence[np.ndarray]) -> torch.nn.Module:
    """The encoding and ``N_MEMBERS`` perceptrons: places ``(n, f)`` to normal scores ``(n, M, K)``."""
    import torch
    from torch import nn

    class Net(nn.Module):
        starts: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            f, t = len(knots), max(len(at) for at in knots) - 1
            self.register_buffer("starts", torch.arange(t, dtype=torch.float32))
            self.first = nn.Linear(f * (t + 1), N_MEMBERS * WIDTH)
            self.second = nn.Parameter(torch.randn(N_MEMBERS, WIDTH, WIDTH) * (2 / WIDTH) ** 0.5)
            self.last = nn.Parameter(torch.randn(N_MEMBERS, WIDTH, N_LEVELS) * 0.1 / WIDTH**0.5)
            self.shift = nn.Parameter(torch.zeros(N_MEMBERS, WIDTH))
            self.level = nn.Parameter(torch.special.ndtri(torch.from_numpy(_levels())).float().repeat(N_MEMBERS, 1))
            self.drop = nn.Dropout(DROPOUT)

        def forward(self, place: torch.Tensor) -> torch.Tensor:
            missing = place.isnan()
            encoded = (place.nan_to_num(0.0)[..., None] - self.starts).clamp(0.0, 1.0)
            encoded = torch.cat([encoded, missing[..., None].float()], dim=-1).flatten(1)
            h = self.drop(self.first(encoded).relu()).view(len(place), N_MEMBERS, WIDTH)
            h = self.drop((torch.einsum("nmw,mwv->nmv", h, self.second) + self.shift).relu())
            return torch.einsum("nmv,mvk->nmk", h, self.last) + self.level

    return Net()


def _pinball(scores: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Mean pinball loss of ``(n, M, K)`` against ``(n,)``."""
    import torch

    gap = goal[:, None, None] - scores
    levels = torch.from_numpy(_levels()).float()
    return torch.maximum(levels * gap, (levels - 1) * gap).mean()


def _train(
    net: torch.nn.Module, inputs: torch.Tensor, goal: torch.Tensor, rows: torch.Tensor, held: torch.Tensor
) -> None:
    """AdamW until the held-out loss has not fallen for ``PATIENCE`` epochs; the best weights stay."""
    import torch

    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    epoch = max(-(-len(rows) // BATCH), MIN_EPOCH_STEPS)
    best, left, state = float("inf"), PATIENCE, {}
    for step in range(1, MAX_STEPS + 1):
        net.train()
        batch = rows[torch.randint(len(rows), (min(BATCH, len(rows)),))]
        optimizer.zero_grad()
        _pinball(net(inputs[batch]), goal[batch]).backward()
        optimizer.step()
        if step % epoch == 0 or step == MAX_STEPS:
            net.eval()
            with torch.no_grad():
                loss = float(_pinball(net(inputs[held]), goal[held]))
            left = PATIENCE if loss < best else left - 1
            if loss < best:
                best, state = loss, {k: v.clone() for k, v in net.state_dict().items()}
            if not left:
                break
    net.load_state_dict(state or net.state_dict())
