"""The gradient ledger: how much of the gradient each term of the loss really is, and weights that hold a share of it.

A weight says little: at weight 0.1 the squared error of a fresh model is under 1 % of the cross-entropy's gradient,
later it may be a third. So at a period the gradients of both terms are taken apart, for the positions of each
modality, where they meet the network: at the logits, and at the last hidden states. There the term of modality m has::

    share_m = w_m |g_m| / (w_m |g_m| + |g_ce,m|)

with ``g_m`` the gradient of its unweighted reconstruction and ``g_ce,m`` that of the cross-entropy at the same
modality's positions. Given a target share instead of a weight, the weight follows the measurements: at once at the
first, then by ``share_rate`` of the way (in its logarithm) at each, as in gradient normalisation (Chen et al. 2018,
arXiv:1711.02257), but towards the share that was asked for.

A draw of k of n positions has gradients of the same mean and larger norm. Norms are corrected for it (squared norms
times k / n), so that a share means the same for every ``sample_k``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config.checks.loss_choices import check_shares
from ..config.schema import LossConfig
from ..errors import ConfigError
from ..loss.gradients import N_SUMS
from ..parallel.distributed import sum_over_ranks
from ..training.callbacks.hooks import Callback
from ..training.validation import to_device
from ..vocabulary.modalities import MODALITIES

if TYPE_CHECKING:
    from ..loss.language_model import LanguageModelObjective
    from ..training.loop import TrainingLoop

MIN_WEIGHT, MAX_WEIGHT = 1e-4, 1e4  # of an adapted weight: a perfect reconstruction has no gradient to share


def read_ledger(table: Tensor, weights: list[float]) -> dict[str, float]:
    """Figures of one measurement, from the sums and counts of a whole step ``(M + 1, 10)`` and the weights in force.

    Per modality with reconstructed positions: ``<m>`` and ``logits_<m>`` (shares at the hidden states and at the
    logits), ``cosine_<m>`` (with the cross-entropy's gradient, at the hidden states), ``norm_<m>``, ``norm_ce_<m>``,
    ``norm_logits_<m>``, ``norm_logits_ce_<m>`` (unweighted), ``total_<m>`` (of the sum of all terms' norms) and
    ``weight_<m>``; ``norm_ce`` over all positions.
    """
    figures: dict[str, float] = {}
    parts = {}
    drawn_ce, all_ce = table[:, N_SUMS : N_SUMS + 2].sum(0).tolist()  # one draw for all modalities
    thin_ce = drawn_ce / max(all_ce, 1.0)
    for name, row in zip((*MODALITIES, "special"), table.tolist(), strict=True):
        thin = row[N_SUMS + 2] / max(row[N_SUMS + 3], 1.0)
        parts[name] = [(math.sqrt(row[i] * thin_ce), math.sqrt(row[i + 1] * thin), row[i + 2]) for i in (0, 3)]
    figures["norm_ce"] = math.sqrt(sum(found[1][0] ** 2 for found in parts.values()))
    weighted = {m: w * parts[m][1][1] for m, w in zip(MODALITIES, weights, strict=True)}
    total = figures["norm_ce"] + sum(weighted.values())
    for name, weight in zip(MODALITIES, weights, strict=True):
        (ce_logits, own_logits, _), (ce, own, product) = parts[name]
        if own == 0:
            continue
        figures[name] = weighted[name] / (weighted[name] + ce)
        figures[f"logits_{name}"] = weight * own_logits / (weight * own_logits + ce_logits)
        if ce > 0:
            figures[f"cosine_{name}"] = min(max(product / (ce * own), -1.0), 1.0)
        figures |= {
            f"norm_{name}": own,
            f"norm_ce_{name}": ce,
            f"norm_logits_{name}": own_logits,
            f"norm_logits_ce_{name}": ce_logits,
            f"total_{name}": weighted[name] / total,
            f"weight_{name}": weight,
        }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


class GradientLedger(Callback):
    """Measures the shares at a period, logs ``grad_share/*``, and lets weights follow targets.

    Many steps lack a modality altogether, so the period is each modality's own: it is measured at the first step that
    has it, and again at the first that has it ``loss.ledger_every`` steps later. In the beginning, where gradients
    change fast, sooner: when the steps since the last measurement are as many as there were before it.

    Raises:
        ConfigError: target shares for a model without ``hidden()``, whose gradients cannot be taken apart.
    """

    def __init__(self, objective: LanguageModelObjective) -> None:
        self.objective, self.loss = objective, objective.loss
        check_shares(objective.loss)
        self.shares = target_shares(objective.loss)
        self.measured: dict[str, int] = {}  # step of each modality's last measurement
        if self.shares and not objective.fused:
            raise ConfigError(
                "a model with hidden() and head_weight",
                got=type(objective.model).__name__,
                where=f"loss.share_{next(iter(self.shares))}",
                repair="use loss.weight_*",
            )

    def is_due(self, step: int, present: Iterable[str]) -> bool:
        """Whether a step with these modalities is measured."""
        every = self.loss.ledger_every
        return every is not None and any(
            name not in self.measured or step - self.measured[name] >= min(every, self.measured[name])
            for name in present
        )

    def on_step_begin(self, loop: TrainingLoop, batches: list[dict]) -> None:
        """Measure with the weights as they are before the step, without dropout; adapt; record."""
        step = loop.global_step + 1
        if not self.is_due(step, present_in(batches)):
            return
        was_training = self.objective.training
        self.objective.eval()
        try:
            with torch.no_grad(), loop.precision.autocast():
                parts = [self.objective.gradient_sums(to_device(batch, loop.device)) for batch in batches]
        finally:
            self.objective.train(was_training)
        table = sum_over_ranks(torch.stack(parts).sum(0))
        figures = read_ledger(table, self.objective.term_weights.tolist())
        self._adapt(figures)
        self.measured |= {name: step for name in MODALITIES if name in figures}
        loop.tracker.log(step, {f"{loop.metric_prefix}grad_share/{name}": value for name, value in figures.items()})

    def _adapt(self, figures: Mapping[str, float]) -> None:
        """Move the weights of modalities with a target share towards what would give it now."""
        for index, name in enumerate(MODALITIES):
            own, ce = figures.get(f"norm_{name}", 0.0), figures.get(f"norm_ce_{name}", 0.0)
            if name not in self.shares or own == 0 or ce == 0:
                continue
            share, weights = self.shares[name], self.objective.term_weights
            wanted = min(max(share / (1 - share) * ce / own, MIN_WEIGHT), MAX_WEIGHT)
            if name in self.measured:
                old = float(weights[index])
                wanted = old * (wanted / old) ** self.loss.share_rate
            weights[index] = wanted

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.objective.term_weights.tolist(), "measured": dict(self.measured)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.objective.term_weights.copy_(torch.tensor(state["weights"], dtype=self.objective.term_weights.dtype))
        self.measured = dict(state["measured"])


def present_in(batches: Sequence[Mapping[str, Any]]) -> list[str]:
    """Modalities with reconstructed positions in the step of these prepared micro-batches, on any rank."""
    return [name for name, n in zip(MODALITIES, batches[0]["loss_n_drawn"], strict=True) if n > 0]


def target_shares(loss: LossConfig) -> dict[str, float]:
    """Modalities whose weight is to hold a share, with it; none where the reconstruction is off."""
    shares = {m: getattr(loss, f"share_{m}") for m in MODALITIES} if loss.enabled else {}
    return {name: float(share) for name, share in shares.items() if share is not None}


def ledger_of(objective: LanguageModelObjective) -> list[Callback]:
    """The ledger of an objective, as a list of callbacks: empty where there is nothing to measure."""
    loss = objective.loss
    wanted = loss.enabled and loss.ledger_every is not None and (objective.fused or target_shares(loss))
    return [GradientLedger(objective)] if wanted else []
