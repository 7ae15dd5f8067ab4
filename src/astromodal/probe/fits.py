"""Two probes of frozen hidden states: ridge regression on their mean, and a learned query that attends over them.

*Linear*: ``y = w . mean_t h_t + b``, w by ridge regression with the penalty that is best on validation objects.

*Attention*: ``y = sum_q w_q . sum_t a_qt h_t + b`` with ``a_q = softmax_t(u_q . h_t / sqrt(D))``. With u = 0 this is
the linear probe, from which it starts; the weights that are best on validation objects are kept, the start's included,
so that on them it is never worse. A mean over hundreds of tokens drowns what one token knows (Parker et al. 2025,
AION-1); to find that token takes large steps, by which queries that only shift the mean are thrown off. So several
learning rates are tried, and validation objects choose.

States are highly anisotropic, so queries and weights act on whitened states (the covariance of the training tokens, its
small eigenvalues raised to a floor); the whitening is folded into them, and nothing is multiplied per token twice.

Targets are standardised values in the transformed space of the label's column.
Shapes: n objects, m of a batch, P tokens, D width, Q queries, L penalties.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config.schema import (
    HardwareConfig,
    OptimizerConfig,
    Precision,
    ScheduleConfig,
    ScheduleName,
    TrainingConfig,
)
from ..errors import ConfigError
from ..training.callbacks.hooks import Callback
from ..training.loop import TrainingLoop
from .pooling import AttentionPooling, attention_shares
from .states import States

PENALTIES = tuple(10.0**e for e in np.arange(-7.0, 5.0, 0.5))  # times the number of training objects
_FLOOR = 1e-4  # of the eigenvalues that states are whitened by, of the largest
NOISE = 0.02  # by which queries and weights differ from the start
_POOL = 16  # batches among which objects are sorted by length


@dataclass(frozen=True)
class ProbeOptions:
    """How probes are trained and judged.

    Raises:
        ConfigError: a number that has to be positive is not.
    """

    max_train: int = 20_000  # objects of each split that are used, drawn by keyed draws
    max_held_out: int = 5000
    n_queries: int = 4
    epochs: int = 40
    patience: int = 8  # epochs without improvement before stopping
    learning_rates: tuple[float, ...] = (0.03, 0.003)  # of the attention; each is tried, validation objects choose
    weight_decay: float = 0.01
    batch_size: int = 64
    n_resamples: int = 1000  # of the bootstrap
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_train", "max_held_out", "n_queries", "epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of 1 or more", got=getattr(self, name), where="probes")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ConfigError("positive learning rates", got=self.learning_rates, where="probes")


def batches(states: States, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Places in ``rows`` of objects of similar lengths, ``size`` at a time, in a fixed order."""
    order = np.argsort(states.lengths()[rows], kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


# -------------------------------------------------------------------------------------------- linear


def mean_states(states: States, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean state of each object ``(n, D)``; mean ``(D,)`` and covariance ``(D, D)`` of all tokens' states; float64."""
    pooled, count = np.zeros((len(rows), states.width)), 0
    total, squares = np.zeros(states.width), np.zeros((states.width, states.width))
    for at in batches(states, rows, size):
        hidden, lengths = states(rows[at])
        real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        kept = torch.where(real[:, :, None], hidden, 0.0).double()
        pooled[at] = (kept.sum(1) / lengths[:, None]).cpu().numpy()
        total = total + kept.sum((0, 1)).cpu().numpy()
        flat = kept.flatten(0, 1)
        squares = squares + (flat.T @ flat).cpu().numpy()
        count += int(lengths.sum())
    mean = total / count
    return pooled, mean, squares / count - np.outer(mean, mean)


@dataclass(frozen=True)
class LinearProbe:
    """``prediction = features @ weights + bias``."""

    weights: np.ndarray  # (D,)
    bias: float
    penalty: float
    val_mse: float  # of the chosen penalty

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weights + self.bias


def fit_ridge(features: np.ndarray, target: np.ndarray, val: np.ndarray, val_target: np.ndarray) -> LinearProbe:
    """Ridge regression on standardised features ``(n, D)``; the bias is not penalised.

    One eigendecomposition serves all penalties. Of equally good ones the largest is taken.
    """
    mean, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 1e-9 * max(float(spread.max()), 1e-30), spread, np.inf)  # constant: weight 0
    x, center = (features - mean) / spread, target.mean()
    eigenvalues, vectors = np.linalg.eigh(x.T @ x / len(x))
    along = vectors.T @ (x.T @ (target - center)) / len(x)
    penalties = np.array(PENALTIES)
    solutions = vectors @ (along[:, None] / (np.maximum(eigenvalues, 0.0)[:, None] + penalties))  # (D, L)
    errors = (((val - mean) / spread @ solutions + center - val_target[:, None]) ** 2).mean(0)
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    weights = solutions[:, best] / spread
    return LinearProbe(weights, float(center - mean @ weights), float(penalties[best]), float(errors[best]))


# ----------------------------------------------------------------------------------------- attention


class AttentionProbe(nn.Module):
    """Learned queries over per-token states, then linear.

    Args:
        linear: what it starts as.
        mean, covariance: of the tokens' states, ``(D,)`` and ``(D, D)``.
        noise: by which its queries and weights differ from the start; equal queries would stay equal.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        linear: LinearProbe,
        mean: np.ndarray,
        covariance: np.ndarray,
        n_queries: int,
        seed: int,
        noise: float = NOISE,
    ) -> None:
        super().__init__()
        eigenvalues, vectors = np.linalg.eigh(covariance)
        scales = np.sqrt(np.maximum(eigenvalues, max(_FLOOR * float(eigenvalues.max()), 1e-30)))
        generator = torch.Generator().manual_seed(seed)
        shape = (n_queries, len(mean))
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("whitening", torch.from_numpy(vectors / scales).float())
        weights = torch.from_numpy(scales * (vectors.T @ linear.weights)).float().expand(shape)
        self.queries = nn.Parameter(noise * torch.randn(shape, generator=generator))
        self.weights = nn.Parameter((weights + noise * torch.randn(shape, generator=generator)) / n_queries)
        self.bias = nn.Parameter(torch.tensor(float(linear.bias + mean @ linear.weights)))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Predictions ``(m,)`` from states ``(m, P, D)`` of which the first ``lengths (m,)`` are real."""
        x = hidden - self.mean
        shares = attention_shares(x @ self._directions(), lengths)  # (m, P, Q)
        values = x @ (self.whitening @ self.weights.T)  # (m, P, Q): attending to values is the same as pooling first
        return (shares * values).sum((1, 2)) + self.bias

    def _directions(self) -> Tensor:
        """``(D, Q)``: what states are multiplied by to be weighed."""
        return self.whitening @ self.queries.T / len(self.mean) ** 0.5

    @torch.no_grad()
    def pooling(self) -> AttentionPooling:
        """How it weighs tokens, without what it then predicts."""
        return AttentionPooling(self.mean.cpu().numpy(), np.ascontiguousarray(self._directions().cpu().numpy()))


class ProbeObjective(nn.Module):
    """Mean squared error of a probe; the frozen states are computed for every batch."""

    def __init__(self, probe: AttentionProbe, states: States) -> None:
        super().__init__()
        self.model = probe
        self._states = states  # no module: nothing of it is trained

    def prepare(self, batches: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """Adds the number of objects of the step."""
        total = sum(len(batch["target"]) for batch in batches)
        return [batch | {"total": total} for batch in batches]

    def _errors(self, batch: dict[str, Any]) -> Tensor:
        target = batch["target"]
        hidden, lengths = self._states(batch["rows"].cpu().numpy())
        with torch.autocast(target.device.type, enabled=False):
            return self.model(hidden.to(target.device), lengths.to(target.device)) - target

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        return (self._errors(batch) ** 2).sum() / batch["total"], {}

    def evaluate(self, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        errors = self._errors(batch)
        return {"mse": ((errors.double() ** 2).sum(), torch.tensor(float(len(errors)), device=errors.device))}

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        return {name: value / count for name, (value, count) in totals.items()}


class RowLoader:
    """Batches of rows and targets: of similar lengths, shuffled by epoch when training."""

    def __init__(self, states: States, rows: np.ndarray, target: np.ndarray, size: int, seed: int | None) -> None:
        """``seed``: of the shuffling; None: always the same order."""
        self.lengths, self.rows, self.target = states.lengths()[rows], rows, target.astype(np.float32)
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for at in self._order():
            yield {"rows": torch.from_numpy(self.rows[at]), "target": torch.from_numpy(self.target[at])}

    def _order(self) -> list[np.ndarray]:
        if self.seed is None:
            order = np.argsort(self.lengths, kind="stable")
            return [order[start : start + self.size] for start in range(0, len(order), self.size)]
        rng = np.random.default_rng([self.seed, self.epoch])
        order, found = rng.permutation(len(self.rows)), []
        for start in range(0, len(order), self.size * _POOL):
            pool = order[start : start + self.size * _POOL]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            found += [pool[k : k + self.size] for k in range(0, len(pool), self.size)]
        return [found[k] for k in rng.permutation(len(found))]


class _KeepBest(Callback):
    """The weights with the lowest validation error, the start's included."""

    def __init__(self, probe: AttentionProbe, mse: float) -> None:
        self.mse, self.weights = mse, self._copy(probe)

    @staticmethod
    def _copy(probe: nn.Module) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in probe.state_dict().items()}

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> None:
        if metrics["mse"] < self.mse:
            self.mse, self.weights = metrics["mse"], self._copy(loop.model)


def fit_attention(
    states: States,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    linear: LinearProbe,
    moments: tuple[np.ndarray, np.ndarray],
    options: ProbeOptions,
    hardware: HardwareConfig,
    log: logging.Logger,
) -> tuple[AttentionProbe, dict[str, Any]]:
    """Train the attention probe at each learning rate and keep the weights that were best on validation objects.

    Args:
        train, val: rows and targets, ``(n,)`` each.
        moments: mean ``(D,)`` and covariance ``(D, D)`` of tokens' states.

    Returns:
        The probe, and ``learning_rate`` (None: it stayed the start), ``val_mse`` and by rate ``epochs``.
    """

    mean, covariance = moments

    def new(noise: float = NOISE) -> AttentionProbe:
        return AttentionProbe(linear, mean, covariance, options.n_queries, options.seed, noise)

    probe = new(noise=0.0)
    best, chosen, epochs = _KeepBest(probe, linear.val_mse), None, {}
    for rate in options.learning_rates:
        before = best.mse
        loop = TrainingLoop(
            ProbeObjective(new(), states),
            RowLoader(states, *train, options.batch_size, options.seed),
            val_loader=RowLoader(states, *val, options.batch_size, None),
            training=TrainingConfig(
                batch_size=options.batch_size,
                epochs=options.epochs,
                monitor="val/mse",
                patience=options.patience,
                save_every=None,
                pin_memory=False,
            ),
            optimizer=OptimizerConfig(learning_rate=rate, weight_decay=options.weight_decay, beta2=0.99),
            schedule=ScheduleConfig(name=ScheduleName.cosine, warmup_steps=20, min_lr_ratio=0.1),
            hardware=replace(hardware, precision=Precision.float32, compile=False),
            callbacks=[best],
            seed=options.seed,
            log=log,
        )
        epochs[f"{rate:g}"] = loop.fit().epochs
        chosen = rate if best.mse < before else chosen
    probe.load_state_dict(best.weights)
    return probe.to(loop.device), {"learning_rate": chosen, "val_mse": best.mse, "epochs": epochs}


@torch.no_grad()
def attention_predictions(probe: AttentionProbe, states: States, rows: np.ndarray, size: int) -> np.ndarray:
    """Predictions ``(n,)`` float64."""
    found, device = np.zeros(len(rows)), probe.bias.device
    for at in batches(states, rows, size):
        hidden, lengths = states(rows[at])
        found[at] = probe(hidden.to(device), lengths.to(device)).double().cpu().numpy()
    return found
