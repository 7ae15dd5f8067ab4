"""Which positions take part in the loss of one optimizer step, and with what weight.

Every mean in the loss is over the positions of the *whole* step, and the draw of ``sample_k`` positions per modality
is keyed by (seed, step, object, position): a position's weight is the same however the step is cut into
micro-batches and ranks, so accumulation and data parallelism give the gradient of one big batch. The draw is uniform
without replacement, so the mean over the k drawn of n positions is unbiased for the mean over all; its variance is
(1/k)(1 - k/n) times the variance of a single position (Cochran 1977, section 2.5).

With ``errors=weight`` a position weighs in its modality's mean by 1 / (1 + sigma^2), sigma its target's standard error
in units of the codebook's spread. That is the share of signal in the variance of what was observed (Wiener 1949), and
the inverse variance of a target that scatters by its noise and by the population's spread: of all weighted means the
one of least variance (Aitken 1935). Exact targets weigh 1, so none takes over, as it would with 1 / sigma^2.

With ``balance=object`` a position weighs by 1 / the number of targets of its sequence, in the cross-entropy and in its
modality's mean. In a mean over positions an object with a spectrum of a hundred codes counts a hundred times as much as
one of which a single redshift is asked.

All of this runs on the CPU in NumPy, before a batch is copied to the device: the loss itself never has to ask the
device how many positions there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..config.schema import Balance, CEBalance, CEMode, ErrorUse, LossConfig, LossFormConfig
from ..errors import ConfigError
from ..machine.random import keyed_uniform
from ..parallel.distributed import gather as gather_ranks
from ..vocabulary.modalities import MODALITIES
from .standardize import CodedTable, Tables

CE_STREAM = 0x5EED  # keeps the draws of the cross-entropy apart from those of the reconstruction

Gather = Callable[[np.ndarray], list[np.ndarray]]  # one array per rank, in the order of the ranks


@dataclass(frozen=True)
class Targets:
    """The targets of some positions, flat ``(N,)``, and where they belong."""

    tokens: np.ndarray  # ids
    blocks: np.ndarray  # index of the block in Tables.blocks; len(blocks) for specials
    columns: np.ndarray  # row of the scalar table
    kinds: np.ndarray  # int8, by which the cross-entropy is balanced: len(MODALITIES) for specials, -1 for nothing
    modality: np.ndarray  # int8: index in MODALITIES where the target is a code with a codebook, else -1
    coded: np.ndarray  # bool: the target is a code of some block, not a special
    sigma: np.ndarray  # float32: standard error of the target in units of its codebook, 0 for none
    shares: np.ndarray  # float64: 1 / targets of the sequence that it belongs to

    @classmethod
    def concatenate(cls, parts: Sequence[Targets]) -> Targets:
        """The targets of several micro-batches as one."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def widths(self, loss: LossConfig) -> np.ndarray:
        """By how much each target is widened, ``(N,)``, 0 for terms without; empty where no term asks for it."""
        asked = [loss.enabled and getattr(loss, modality).errors == ErrorUse.width for modality in MODALITIES]
        if not any(asked):
            return np.zeros(0, np.float32)
        return np.where(np.asarray([*asked, False])[self.modality], self.sigma, np.float32(0))  # -1: no code


def read_targets(
    tables: Tables,
    tokens: np.ndarray,
    types: np.ndarray | None,
    real: np.ndarray,
    sigma: np.ndarray | None = None,
    length: int = 1,
) -> Targets:
    """Classify targets; ``real`` is False at padding, which has no part in any term. ``length``: of a sequence.

    Without ``sigma``, or where it is no positive number, targets are exact. A special that has the type of a modality
    (a value that was observed but not detected) counts with that modality in the balanced cross-entropy, never in the
    reconstruction.
    """
    tokens = np.where(real, tokens, 0)
    blocks = tables.blocks_of(tokens)
    no_block = len(tables.blocks)
    kind_of_block = [*(MODALITIES.index(t.modality) for t in tables.blocks), len(MODALITIES)]
    has_entries = [*(isinstance(t, CodedTable) for t in tables.blocks), False]
    kinds = np.asarray(kind_of_block, dtype=np.int8)[blocks]
    modality = np.where(np.asarray(has_entries)[blocks] & real, kinds, -1).astype(np.int8)
    if types is not None:
        names = [MODALITIES.index(m) if m in MODALITIES else len(MODALITIES) for m in tables.modality_of_type]
        by_type = np.asarray(names, dtype=np.int8)[np.clip(types, 0, len(names) - 1)]
        kinds = np.where(blocks == no_block, by_type, kinds)
    scalar = np.asarray([*(t.modality == "scalar" for t in tables.blocks), False])[blocks]
    columns = tables.columns_of(types, scalar & real)
    tables.check_codes(tokens, blocks, columns)
    kinds = np.where(real, kinds, -1).astype(np.int8)
    errors = np.zeros(len(tokens), np.float32)
    if sigma is not None:
        errors = np.where(sigma > 0, sigma, errors).astype(np.float32)
    counts = real.reshape(-1, length).sum(1)
    shares = np.repeat(1.0 / np.maximum(counts, 1), length)
    return Targets(tokens, blocks, columns, kinds, modality, real & (blocks < no_block), errors, shares)


def uses_errors(loss: LossConfig) -> bool:
    """Whether any term reads the errors of its targets."""
    return loss.enabled and any(getattr(loss, modality).errors != ErrorUse.ignore for modality in MODALITIES)


def check_sigma(loss: LossConfig, sigma: object) -> None:
    """Refuse targets without errors where a term reads them.

    Raises:
        ConfigError: with the name of what the errors come from.
    """
    if sigma is None and uses_errors(loss):
        raise ConfigError(
            "errors of the targets, which loss.*.errors asks for",
            got="a batch without sigma",
            repair="SequenceDataset(..., with_sigma=True), or errors=ignore",
        )


def draw(
    priorities: np.ndarray, eligible: np.ndarray, k: int | None, gather: Gather = gather_ranks
) -> tuple[np.ndarray, int]:
    """The ``k`` eligible positions of smallest priority over all ranks; None: every eligible one.

    Returns:
        which of the given positions are drawn ``(N,)``, and how many are drawn on all ranks together.
    """
    n = int(sum(int(c[0]) for c in gather(np.asarray([eligible.sum()]))))
    if k is None or k >= n:
        return eligible, n
    if k <= 0:
        return np.zeros_like(eligible), 0
    mine = priorities[eligible]
    smallest = np.concatenate(gather(np.partition(mine, k - 1)[:k] if len(mine) > k else mine))
    threshold = np.partition(smallest, k - 1)[k - 1]
    return eligible & (priorities <= threshold), int((smallest <= threshold).sum())


@dataclass(frozen=True)
class StepWeights:
    """Weight of each position in the cross-entropy and in its modality's reconstruction, ``(N,)``; 0: not in it."""

    ce: np.ndarray
    reconstruction: np.ndarray
    n_drawn: tuple[int, ...] = ()  # reconstructed positions of each modality, on all ranks together


def weigh(
    targets: Targets,
    loss: LossConfig,
    priorities: np.ndarray,
    ce_priorities: np.ndarray | None = None,
    *,
    use_ce: bool = True,
    gather: Gather = gather_ranks,
) -> StepWeights:
    """Weights of all positions of one step (of this rank); each term's weights sum to 1 over the step.

    ``ce_priorities`` are only needed with ``loss.ce_sample_k``.
    """
    reconstruction, n_drawn = np.zeros(len(targets.tokens)), [0] * len(MODALITIES)
    by_object = loss.balance == Balance.object
    if loss.enabled:
        for index, name in enumerate(MODALITIES):
            drawn, n_drawn[index] = draw(priorities, targets.modality == index, loss.sample_k, gather)
            form = getattr(loss, name)
            shares = targets.shares[drawn] if by_object else None
            reconstruction[drawn] = position_weights(targets.sigma[drawn], n_drawn[index], form, gather, shares)
    ce = np.zeros(len(targets.tokens))
    if use_ce and loss.use_ce:
        ce = _ce_weights(targets, loss, ce_priorities, gather)
        ce = _summing_to_one(ce * targets.shares, gather) if by_object else ce
    return StepWeights(ce, reconstruction, tuple(n_drawn))


def position_weights(
    sigma: np.ndarray, n_drawn: int, form: LossFormConfig, gather: Gather, shares: np.ndarray | None = None
) -> np.ndarray:
    """Weights of this rank's drawn positions, ``(n,)``, which sum to 1 over the ``n_drawn`` of all ranks.

    >>> weight = LossFormConfig(errors=ErrorUse.weight)
    >>> position_weights(np.array([0.0, 1.0, 2.0]), 3, weight, lambda values: [values]).round(4).tolist()
    [0.5882, 0.2941, 0.1176]

    Args:
        shares: by which they weigh beside their errors, ``(n,)``; None: all the same.
    """
    weighed = form.errors == ErrorUse.weight
    if not weighed and shares is None:
        return np.full(len(sigma), 1.0 / max(n_drawn, 1))
    weights = 1.0 / (1.0 + sigma.astype(np.float64) ** 2) if weighed else np.ones(len(sigma))
    return _summing_to_one(weights if shares is None else weights * shares, gather)


def _summing_to_one(weights: np.ndarray, gather: Gather) -> np.ndarray:
    """Weights of this rank over their sum on all ranks."""
    total = float(sum(w[0] for w in gather(np.asarray([weights.sum()]))))
    return weights / total if total > 0 else weights


def _ce_weights(targets: Targets, loss: LossConfig, priorities: np.ndarray | None, gather: Gather) -> np.ndarray:
    """``token``: 1/n each. ``modality``: specials 1/n each, the rest shared equally by the modalities present."""
    eligible, special = targets.kinds >= 0, len(MODALITIES)
    if loss.ce == CEMode.block:  # specials have no block
        eligible = eligible & targets.coded
    counts = np.sum(gather(np.bincount(targets.kinds[eligible], minlength=special + 1).astype(np.int64)), axis=0)
    n = int(counts.sum())
    if n == 0:
        return np.zeros(len(eligible))
    per_kind = np.full(special + 1, 1.0 / n)
    present = counts[:special] > 0
    if loss.ce_balance == CEBalance.modality and present.any():
        share = (1.0 - counts[special] / n) / present.sum()
        per_kind[:special] = np.where(present, share / np.maximum(counts[:special], 1), 0.0)
    k = None if priorities is None else loss.ce_sample_k
    drawn, n_drawn = draw(np.zeros(0) if priorities is None else priorities, eligible, k, gather)
    weights = np.where(drawn, per_kind[targets.kinds], 0.0)
    return weights * (n / n_drawn) if n_drawn else weights


def keyed_priorities(seed: int, step: int, object_index: np.ndarray, n_positions: int) -> np.ndarray:
    """Uniform draws in [0, 1), ``(n_objects * n_positions,)``, keyed by (seed, step, object, position) alone."""
    objects = np.asarray(object_index, dtype=np.int64)[:, None]
    return keyed_uniform(seed, step, objects, np.arange(n_positions)[None, :]).ravel()


@dataclass(frozen=True)
class Layout:
    """Order in which the fused loss walks through the positions of a micro-batch.

    ``order`` (N,) is a permutation of the positions. First come those that need the whole vocabulary, by block and
    within a block the reconstructed ones first; then those that need only their block, likewise; the rest last.
    ``segments`` (2, n_blocks + 1, 3): for either part and each block (specials last) its first row, the end of its
    reconstructed rows, and its end.
    """

    order: np.ndarray
    segments: np.ndarray


def lay_out(targets: Targets, weights: StepWeights, n_blocks: int, ce: CEMode) -> Layout:
    """Sort the positions of one micro-batch for the fused loss."""
    has_ce, has_reconstruction = weights.ce > 0, weights.reconstruction > 0
    full = has_ce & (ce == CEMode.full)
    part = np.where(full, 0, np.where(has_ce | has_reconstruction, 1, 2))
    key = ((part * (n_blocks + 1) + targets.blocks) * 2 + ~has_reconstruction).astype(np.int16)
    order = np.argsort(key, kind="stable")  # a radix sort for int16
    counts = np.bincount(key, minlength=4 * (n_blocks + 1))[: 4 * (n_blocks + 1)].reshape(2, n_blocks + 1, 2)
    ends = counts.cumsum().reshape(2, n_blocks + 1, 2)
    starts = ends[:, :, :1] - counts[:, :, :1]
    return Layout(order, np.concatenate([starts, ends], axis=2).astype(np.int64))
