"""How far the gradient of a draw of ``sample_k`` positions is from the gradient of all of them.

The weights stand still and dropout is off. For the batches of a few optimizer steps the gradient with respect to all
parameters is computed from every position (``sample_k=null``) and from draws as training makes them: one draw differs
from the next in the ``step`` that keys it, and the positions of a smaller k are among those of a larger one. Gradients
are in the model's own precision, without autocast, so that what is measured is the draw and not the rounding.

With d = g_k - g the error of a draw, the gradient that training follows is wrong by the same d: the cross-entropy is
taken at all its positions here (also where ``ce_sample_k`` is set), so it only makes ``|g|`` larger. Draws are uniform
without replacement, so for each modality m (Cochran 1977, section 2.5)::

    E d_m = 0,    E |d_m|^2 = V_m (1/k)(1 - k/n_m),

with V_m the variance of one position's gradient. It is estimated from the measured errors, one number per modality
and step for all k together. Modalities are drawn independently, so their variances add.

Shapes: gradients are flat, ``(P,)`` for P parameters. About a dozen of them exist at once, whatever k and draws are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, DataError
from ...loss.language_model import LanguageModelObjective
from ...training.validation import to_device
from ...vocabulary.modalities import MODALITIES

Batch = dict[str, Any]
WHOLE = ("total", "reconstruction")  # of the parts of the gradient; the others are MODALITIES
MAX_T = 4.0  # of the test for bias: above it by chance about once in 5000, at 4 steps of 8 draws
MIN_TERMS = 6  # of that test: fewer say nothing


def thinning(k: float, n: float) -> float:
    """Variance of the mean of k of n positions, in units of the variance of one: ``(1/k)(1 - k/n)``.

    >>> thinning(2, 4), thinning(4, 4), thinning(9, 4)
    (0.25, 0.0, 0.0)
    """
    return max(1.0 - k / n, 0.0) / k if n else 0.0


@dataclass
class Step:
    """What the exact gradients of one optimizer step say, and the variances that its draws suggest."""

    n: dict[str, int]  # positions by modality
    norm2: dict[str, float]  # |g|^2 by part
    variance: dict[str, float] = field(default_factory=dict)  # V_m by modality

    def predicted2(self, part: str, k: float) -> float:
        """Expected ``|d|^2 / |g|^2`` of a part."""
        own = self.variance if part in WHOLE else [part]
        return sum(self.variance[m] * thinning(k, self.n[m]) for m in own) / self.norm2[part]


@dataclass
class Draws:
    """Figures of all draws at one k, over the steps: numbers, no gradients."""

    k: int
    drawn: dict[str, list[int]] = field(default_factory=dict)  # positions by modality
    cosines: dict[str, list[float]] = field(default_factory=dict)  # of g_k and g, by part
    errors2: dict[str, list[float]] = field(default_factory=dict)  # |d|^2 / |g|^2, by part
    mean2: list[float] = field(default_factory=list)  # |mean d|^2 / |g|^2 of the reconstruction, per step
    expected2: list[float] = field(default_factory=list)  # the same if the draws are unbiased
    projections: list[float] = field(default_factory=list)  # of a d on the direction of the step's earlier ones

    def add(self, part: str, cosine: float, error2: float, times: int) -> None:
        """Count a draw, as ``times`` equal ones."""
        self.cosines.setdefault(part, []).extend([cosine] * times)
        self.errors2.setdefault(part, []).extend([error2] * times)

    def bias_t(self) -> float | None:
        """Student's t of the projections: the mean is 0 if draws are unbiased, and ``|E d|`` if that dominates."""
        x = np.asarray(self.projections)
        if len(x) < MIN_TERMS or not x.any():
            return None
        spread = max(float(x.std(ddof=1)), 1e-9 * float(np.abs(x).max()))  # 0 if all draws are the same
        return float(x.mean() / (spread / math.sqrt(len(x))))


class SampleKStudy:
    """Measures draws of several k against exact gradients, step by step.

    Args:
        objective: with the weights and the loss to study; it is left as it was.
        ks: numbers of positions, each 1 or more.
        draws: per k and step.

    Raises:
        ConfigError: nothing to sample in this loss, or numbers that cannot be.
    """

    def __init__(self, objective: LanguageModelObjective, ks: Sequence[int], draws: int) -> None:
        if not ks or min(ks) < 1 or draws < 1:
            raise ConfigError("values of k and draws of 1 or more", got=f"k {list(ks)}, draws {draws}")
        self.objective, self.draws = objective, draws
        self.weights = dict(zip(MODALITIES, objective.term_weights.tolist(), strict=True))
        self.modalities = [m for m, weight in self.weights.items() if weight > 0]
        if not objective.loss.enabled or not self.modalities:
            raise ConfigError(
                "a loss with a reconstruction term",
                got="none",
                where="loss.enabled, loss.weight_*",
                repair="study a run that was trained with one",
            )
        self.parameters = [p for p in objective.model.parameters() if p.requires_grad]
        self.results = {k: Draws(k) for k in sorted(set(ks))}
        self.steps: list[Step] = []
        self._batch_sum = self._zero()  # of the steps' exact total gradients

    def run(self, groups: Iterable[list[Batch]], progress: Callable[[int], object] = lambda n: None) -> None:
        """Measure each group of micro-batches as one optimizer step; ``progress(n)`` counts draws.

        Raises:
            DataError: no group has a position to reconstruct.
        """
        with _still(self.objective):
            for index, group in enumerate(groups):
                self._measure(group, index * self.draws, progress)
        if not self.steps:
            raise DataError("a batch with positions to reconstruct", got="none in these steps", repair="more steps")

    def _measure(self, group: list[Batch], first_key: int, progress: Callable[[int], object]) -> None:
        exact, n, cross_entropy = self._exact(group)
        if not exact:
            progress(len(self.results) * self.draws)
            return
        whole = {"reconstruction": sum(exact.values(), start=self._zero())}
        whole["total"] = whole["reconstruction"] + (self._zero() if cross_entropy is None else cross_entropy)
        step = Step(n, {name: _dot(g, g) for name, g in (exact | whole).items()})
        variances: dict[str, list[float]] = {m: [] for m in exact}
        for k, result in self.results.items():
            for m, squares in self._draw(result, group, first_key, exact, whole, n).items():
                if k < n[m]:
                    variances[m].append(float(np.mean(squares)) / thinning(k, n[m]))
            progress(self.draws)
        step.variance = {m: float(np.mean(found)) if found else 0.0 for m, found in variances.items()}
        self.steps.append(step)
        self._batch_sum.add_(whole["total"])

    def _exact(self, group: list[Batch]) -> tuple[dict[str, Tensor], dict[str, int], Tensor | None]:
        """From every position: gradients by modality, positions by modality, gradient of the cross-entropy."""
        prepared = self._prepare(group, None, 0)
        gradients, n = {}, {}
        for name in self.modalities:
            gradient, n[name] = self._gradient(prepared, name)
            if _dot(gradient, gradient) > 0:
                gradients[name] = gradient
        if not self.objective.loss.use_ce:
            return gradients, n, None
        return gradients, n, self._gradient(self._prepare(group, None, 0, reconstruct=False))[0]

    def _draw(
        self,
        result: Draws,
        group: list[Batch],
        first_key: int,
        exact: Mapping[str, Tensor],
        whole: Mapping[str, Tensor],
        n: Mapping[str, int],
    ) -> dict[str, list[float]]:
        """All draws of one k at one step; ``|d_m|^2`` of each. Where k covers all, they are equal: one is made."""
        sampled = [m for m in exact if result.k < n[m]]
        measured, rounds = (sampled, self.draws) if sampled else (list(exact), 1)
        squares: dict[str, list[float]] = {m: [] for m in measured}
        errors = self._zero()  # summed over the draws
        gg, total2 = _dot(whole["reconstruction"], whole["reconstruction"]), 0.0
        for key in range(first_key, first_key + rounds):
            d = self._zero()
            prepared = self._prepare(group, result.k, key)
            for name in measured:
                gradient, drawn = self._gradient(prepared, name)
                result.drawn.setdefault(name, []).append(drawn)
                own = gradient.sub_(exact[name])
                squares[name].append(_dot(own, own))
                result.add(name, *_compare(own, exact[name]), times=self.draws // rounds)
                d.add_(own)
            for name, g in whole.items():
                result.add(name, *_compare(d, g), times=self.draws // rounds)
            total2 += _dot(d, d)
            if (norm2 := _dot(errors, errors)) > 0:
                result.projections.append(_dot(d, errors) / math.sqrt(norm2 * gg))
            errors.add_(d)
        for name in set(exact) - set(measured):  # every position is drawn: d_m = 0
            result.drawn.setdefault(name, []).append(n[name])
            result.add(name, 1.0, 0.0, times=self.draws)
        if rounds > 1:
            result.mean2.append(_dot(errors, errors) / rounds**2 / gg)
            result.expected2.append(total2 / rounds**2 / gg)
        return squares

    # ---------------------------------------------------------------------------------- gradients

    def _prepare(self, group: list[Batch], k: int | None, key: int, *, reconstruct: bool = True) -> list[Batch]:
        """Micro-batches with a draw of k positions (None: all) and no cross-entropy, or with nothing but that."""
        loss = self.objective.loss
        changed = replace(loss, sample_k=k, enabled=reconstruct, use_ce=not reconstruct, ce_sample_k=None)
        self.objective.loss = changed
        try:
            prepared = self.objective.prepare(group, key)
        finally:
            self.objective.loss = loss
        return [to_device(batch, self.parameters[0].device) for batch in prepared]

    def _gradient(self, prepared: list[Batch], name: str | None = None) -> tuple[Tensor, int]:
        """Gradient of one modality's weighted term (None: of what else there is), and how many positions it has."""
        weights = [self.weights[m] if m == name else 0.0 for m in MODALITIES]
        self.objective.term_weights.copy_(torch.tensor(weights))
        flat, count = self._zero(), 0
        for batch in prepared:
            loss, stats = self.objective(batch)
            parts = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
            own = torch.cat([part.reshape(-1) for part in parts])
            flat.add_(own)
            count += int(stats[f"n_{name}"]) if name else 0
        return flat, count

    def _zero(self) -> Tensor:
        """A gradient of nothing, flat over all parameters."""
        return torch.cat([torch.zeros_like(p).reshape(-1) for p in self.parameters])

    # ------------------------------------------------------------------------------------ results

    def rows(self) -> list[dict[str, Any]]:
        """Per k the positions drawn, and per part the figures of :meth:`_row`; plain values."""
        return [self._row(result) for result in self.results.values()]

    def _row(self, result: Draws) -> dict[str, Any]:
        """``drawn`` and ``sampled`` by modality; per part ``cosine``, ``cosine_lowest``, ``error`` (RMS of
        ``|d|/|g|``), ``error_predicted``; ``bias`` of the reconstruction: ``|mean d|/|g|`` measured, expected, and
        the test."""
        row: dict[str, Any] = {"k": result.k, "drawn": {}, "sampled": {}}
        for name in self.modalities:
            available = [step.n[name] for step in self.steps]
            row["sampled"][name] = result.k < max(available)
            row["drawn"][name] = float(np.mean(result.drawn.get(name, [0])))
        for part, cosines in result.cosines.items():
            row[part] = {
                "cosine": float(np.mean(cosines)),
                "cosine_lowest": min(cosines),
                "error": math.sqrt(np.mean(result.errors2[part])),
                "error_predicted": self.predicted(part, result.k),
            }
        t = result.bias_t()
        row["bias"] = {
            "measured": math.sqrt(np.mean(result.mean2)) if result.mean2 else None,
            "if_unbiased": math.sqrt(np.mean(result.expected2)) if result.expected2 else None,
            "t": t,
            "found": None if t is None else t > MAX_T,
        }
        return row

    def predicted(self, part: str, k: float) -> float:
        """RMS of ``|d|/|g|`` over draws and steps that the theory gives for a part."""
        return math.sqrt(np.mean([step.predicted2(part, k) for step in self.steps if part in step.norm2]))

    def facts(self) -> dict[str, Any]:
        """``positions`` per step by modality, ``norm`` (RMS over steps) by part, and ``batch_noise``: how far the exact
        total gradient of one step is from its mean over all steps, in units of its own norm (None for one step)."""
        parts = [p for p in (*WHOLE, *self.modalities) if any(p in step.norm2 for step in self.steps)]
        norm2 = {p: [step.norm2[p] for step in self.steps if p in step.norm2] for p in parts}
        n_steps, noise = len(self.steps), None
        if n_steps > 1:
            mean2 = _dot(self._batch_sum, self._batch_sum) / n_steps**2
            variance = (sum(norm2["total"]) - n_steps * mean2) / (n_steps - 1)
            noise = math.sqrt(max(variance, 0.0) / np.mean(norm2["total"]))
        return {
            "steps": n_steps,
            "draws": self.draws,
            "positions": {m: float(np.mean([step.n[m] for step in self.steps])) for m in self.modalities},
            "norm": {p: math.sqrt(np.mean(values)) for p, values in norm2.items()},
            "batch_noise": noise,
        }


@contextmanager
def _still(objective: LanguageModelObjective) -> Iterator[None]:
    """No dropout; afterwards the objective is as it was."""
    training, weights = objective.training, objective.term_weights.clone()
    objective.eval()
    try:
        yield
    finally:
        objective.train(training)
        objective.term_weights.copy_(weights)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b))


def _compare(d: Tensor, g: Tensor) -> tuple[float, float]:
    """Cosine of g + d and g, and ``|d|^2 / |g|^2``; from d, so that small differences keep their digits."""
    dd, dg, gg = _dot(d, d), _dot(d, g), _dot(g, g)
    norm2 = gg * (gg + 2 * dg + dd)
    return (gg + dg) / math.sqrt(norm2) if norm2 > 0 else 0.0, dd / gg
