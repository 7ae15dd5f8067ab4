"""The language model's objective: next-token cross-entropy plus the reconstruction loss, and its validation.

Position t predicts token t+1. :meth:`LanguageModelObjective.prepare` shifts, draws the positions and settles every
weight on the CPU for the whole optimizer step; ``forward`` then runs without asking the device for anything, in one
graph, and gives this micro-batch's share of the step's loss. A model with ``hidden()`` and ``head_weight`` trains
with the fused loss; any other ``(tokens, types, attn_mask) -> (B, L, V)`` with the reference on its logits.

Shapes: B batch, L length, N = B * (L - 1) predicted positions, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from ..config.schema import CEMode, LossConfig
from ..errors import ConfigError
from ..models.trainable import Batch, Headed, is_headed
from ..parallel.distributed import this_rank
from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import PAD, VocabSpec
from .fused import loss as fused
from .gradients import drawn_counts, gradient_sums
from .reference import as_loss_config, reference_terms, term_weights, total_of
from .sampling import (
    CE_STREAM,
    Layout,
    StepWeights,
    Targets,
    check_sigma,
    keyed_priorities,
    lay_out,
    read_targets,
    weigh,
)
from .scoring import Scorer
from .shifting import model_inputs, shift
from .standardize import Codebooks, build_tables


class LanguageModelObjective(nn.Module):
    """Trains a causal model on the tokens of a vocabulary.

    Args:
        model: ``(tokens, types, attn_mask) -> (B, L, V)``, best with ``hidden()`` and ``head_weight``.
        codebooks: :class:`Codebooks`, or a tuple (image, {group: codebook}, scalar) of which any may be None.
        loss: which terms, with which weights, at how many positions.
        seed: of the draws of positions, which disturb no other random number.
        next_types: tell the model the type of the token each position has to predict.

    Raises:
        ConfigError: a model too small for the vocabulary, or without ``next_types`` where they are asked for.
    """

    model: nn.Module
    term_weights: Tensor  # (M,)
    n_bins: Tensor
    dynamic_shapes = True  # batches differ in length, the last ones in size: compiled once for all of them

    def __init__(
        self,
        model: nn.Module,
        vocab: VocabSpec,
        codebooks: Codebooks | tuple,
        loss: Any = None,
        seed: int = 0,
        *,
        next_types: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.vocab, self.loss, self.seed = model, vocab, as_loss_config(loss), seed
        self.next_types = next_types
        self.fused = is_headed(model)
        self.reads_errors = getattr(model, "reads_errors", False)
        self._check(model)
        if not isinstance(codebooks, Codebooks):
            image, spectrum, scalar = codebooks
            codebooks = Codebooks(image, spectrum or {}, scalar)
        self.tables = build_tables(vocab, codebooks, self.loss.standardize, forms=self.loss)
        self.head = fused.Head.of(self.tables, self.loss.ce == CEMode.block)
        entries, n_bins = fused.block_tensors(self.tables)
        dtype = torch.float64 if self._dtype() == torch.float64 else torch.float32
        # A tensor, because target shares of the gradient change it while the graph stays (``gradient_shares.py``).
        weights = torch.tensor(list(term_weights(self.loss).values()), dtype=dtype)
        self.register_buffer("term_weights", weights, persistent=False)
        for index, tensor in enumerate(entries):
            tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
            self.register_buffer(f"entries_{index}", tensor, persistent=False)
        self.n_tensors = len(entries)
        self.register_buffer("n_bins", n_bins, persistent=False)
        self.scorer = Scorer(self.tables, vocab)

    def _check(self, model: nn.Module) -> None:
        for name in ("vocab_size", "n_types"):
            if getattr(model, name, np.inf) < getattr(self.vocab, name):
                raise ConfigError(
                    f"a model with {name} of {getattr(self.vocab, name)} or more",
                    got=getattr(model, name),
                    where="model",
                )
        accepts = inspect.signature(self.headed.hidden if self.fused else model.forward).parameters
        if (
            self.next_types
            and "next_types" not in accepts
            and not any(p.kind == p.VAR_KEYWORD for p in accepts.values())
        ):
            raise ConfigError(
                "a model that takes next_types",
                got=type(model).__name__,
                where="sequence.next_types",
                repair="set sequence.next_types=false",
            )

    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def headed(self) -> Headed:
        """The model, as one with ``hidden()`` and ``head_weight``.

        Raises:
            ConfigError: it has none.
        """
        if self._is_headed(self.model):
            return self.model
        raise ConfigError("a model with hidden() and head_weight", got=type(self.model).__name__, where="model")

    def _is_headed(self, model: nn.Module) -> TypeGuard[Headed]:
        return self.fused  # found once, in the beginning: to ask for head_weight may be to compute it

    @property
    def entries(self) -> list[Tensor]:
        """Standardised entries per block, and the constants of their forms, on the model's device."""
        return [getattr(self, f"entries_{index}") for index in range(self.n_tensors)]

    # ------------------------------------------------------------------------------------ training

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Shift all micro-batches of one optimizer step, and settle what each of their positions weighs.

        Raises:
            ConfigError: a batch without ``sigma``, where the loss or the model reads errors.
        """
        for batch in batches:
            check_sigma(self.loss, batch.get("sigma"))
        parts = [shift(batch) for batch in batches]
        if not self.reads_errors:  # of the tokens: those of the targets are the loss's
            parts = [{name: value for name, value in part.items() if name != "sigma"} for part in parts]
        read = [self._read(part, part.pop("target_sigma", None)) for part in parts]
        everything = Targets.concatenate(read)
        objects = _object_indices(batches)
        lengths = [part["targets"].shape[1] for part in parts]
        pairs = list(zip(objects, lengths, strict=True))
        priorities = np.concatenate([keyed_priorities(self.seed, step, o, n) for o, n in pairs])
        ce_priorities = None
        if self.loss.ce_sample_k is not None:
            keyed = [keyed_priorities(self.seed ^ CE_STREAM, step, o, n) for o, n in pairs]
            ce_priorities = np.concatenate(keyed)
        weights = weigh(everything, self.loss, priorities, ce_priorities)
        start = 0
        for part, targets in zip(parts, read, strict=True):
            stop = start + len(targets.tokens)
            own = StepWeights(weights.ce[start:stop], weights.reconstruction[start:stop])
            part |= self._plan(targets, own) | {"loss_n_drawn": np.asarray(weights.n_drawn)}
            start = stop
        return parts

    def _read(self, part: Batch, sigma: Tensor | None = None) -> Targets:
        tokens = part["targets"].cpu().numpy().reshape(-1)
        types = part["target_types"].cpu().numpy().reshape(-1) if self.vocab.scalar_columns else None
        errors = None if sigma is None else sigma.cpu().numpy().reshape(-1)
        return read_targets(self.tables, tokens, types, tokens != PAD, errors, part["targets"].shape[1])

    def _plan(self, targets: Targets, weights: StepWeights) -> Batch:
        """What the loss of one micro-batch needs, as tensors.

        ``loss_segments`` stays a NumPy array: it tells the host how far to loop, so it must not move to the device.
        """
        layout = lay_out(targets, weights, len(self.tables.blocks), self.loss.ce)
        dtype = torch.float64 if self._dtype() == torch.float64 else torch.float32
        sampled = weights.reconstruction > 0
        counts = [int((weights.ce > 0).sum())]
        counts += [int((sampled & (targets.modality == index)).sum()) for index in range(len(MODALITIES))]
        # The weights of a modality sum to 1 over a step that has positions of it, and to 0 over one that has none.
        seen = [float(weights.reconstruction[targets.modality == index].sum()) for index in range(len(MODALITIES))]
        return {
            "loss_order": torch.from_numpy(layout.order),
            "loss_segments": layout.segments,
            "loss_columns": torch.from_numpy(targets.columns),
            "loss_weights_ce": torch.from_numpy(weights.ce).to(dtype),
            "loss_weights_rec": torch.from_numpy(weights.reconstruction).to(dtype),
            "loss_sigma": torch.from_numpy(targets.widths(self.loss)).to(dtype),
            "loss_counts": torch.tensor([*counts, *seen], dtype=dtype),
        }

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the step's loss, and of ``ce <modality>… loss n_* seen_*``.

        Terms are before their weights; nothing here waits for the device. ``batch`` comes from :meth:`prepare`.
        """
        if self.fused:
            hidden = self._hidden(batch)
            total, terms = fused.fused_loss(
                hidden.reshape(-1, hidden.shape[-1]), self.headed.head_weight, self._loss_input(batch)
            )
        else:
            total, terms = self._reference(batch)
        counts = batch["loss_counts"]
        stats = dict(zip(("ce", *MODALITIES), terms.unbind(), strict=True)) | {"loss": total.detach()}
        for i, m in enumerate(MODALITIES):
            stats |= {f"n_{m}": counts[1 + i], f"seen_{m}": counts[1 + len(MODALITIES) + i]}
        return total, stats | {"n_ce": counts[0]}

    def _loss_input(self, batch: Batch) -> fused.LossInput:
        return fused.LossInput(
            targets=batch["targets"].reshape(-1),
            columns=batch["loss_columns"],
            order=batch["loss_order"],
            weights_ce=batch["loss_weights_ce"],
            weights_rec=batch["loss_weights_rec"],
            segments=torch.as_tensor(batch["loss_segments"]),
            term_weights=self.term_weights,
            entries=self.entries,
            n_bins=self.n_bins,
            sigma=batch["loss_sigma"],
            head=self.head,
        )

    def _hidden(self, batch: Batch) -> Tensor:
        inputs, told = model_inputs(batch, self.next_types, self.reads_errors)
        return self.headed.hidden(*inputs, **told)

    def _logits(self, batch: Batch) -> Tensor:
        inputs, told = model_inputs(batch, self.next_types, self.reads_errors)
        return self.model(*inputs, **told)

    def _reference(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self._logits(batch)
        weights = StepWeights(batch["loss_weights_ce"].cpu().numpy(), batch["loss_weights_rec"].cpu().numpy())
        flat = logits.reshape(-1, logits.shape[-1])
        sigma = batch["loss_sigma"] if len(batch["loss_sigma"]) else None
        terms = reference_terms(flat, self._read(batch, sigma), self.tables, weights, self.loss.ce)
        own = dict(zip(MODALITIES, self.term_weights, strict=True))
        return total_of(terms, own), torch.stack([terms[name].detach() for name in ("ce", *MODALITIES)])

    # ---------------------------------------------------------------------------------- validation

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and counts over all positions of a batch of whole sequences, of what ``scoring.py`` describes."""
        states, weight, targets, layout = self._to_score(batch)
        return self.scorer.sums(states, weight, targets, layout, self.entries, self.n_bins)

    @torch.no_grad()
    def score_positions(self, batch: Batch) -> tuple[Tensor, np.ndarray, Targets]:
        """What ``Scorer.rows`` tells of each target ``(P, 4)``, which of the ``N`` positions it is ``(P,)``, and all
        targets ``(N,)``."""
        states, weight, targets, layout = self._to_score(batch)
        values = self.scorer.rows(states, weight, targets, layout, self.entries, self.n_bins)
        return values, layout.order[: len(values)], targets

    def _to_score(self, batch: Batch) -> tuple[Tensor, Tensor | None, Targets, Layout]:
        part = batch if "targets" in batch else shift(batch)
        targets = self._read(part)
        weights = weigh(
            targets, LossConfig(sample_k=None), np.zeros(len(targets.tokens)), gather=lambda values: [values]
        )
        layout = lay_out(targets, weights, len(self.tables.blocks), CEMode.full)
        return *self.states(part), targets, layout

    @torch.no_grad()
    def gradient_sums(self, batch: Batch) -> Tensor:
        """What the gradient ledger adds up over the micro-batches of a step, ``(M + 1, 10)``; see ``gradients.py``.

        ``batch`` comes from :meth:`prepare`; the model must have ``hidden()``.
        """
        hidden, weight = self._hidden(batch).flatten(0, 1), self.headed.head_weight
        given, dtype = self._loss_input(batch), fused.product_dtype(hidden, weight)
        with torch.autocast(hidden.device.type, enabled=False):
            work, plan, chunk_elements = fused.open_work(hidden, weight, given, dtype, (False, False))
            sums = gradient_sums(work, plan, chunk_elements)
        weights = (batch["loss_weights_ce"].cpu().numpy(), batch["loss_weights_rec"].cpu().numpy())
        counts = drawn_counts(self._read(batch), *weights, self.head)
        return torch.cat([sums, counts.to(sums.device)], dim=1)

    def states(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Last hidden states ``(N, D)`` and the head's weight; of a model without them, logits ``(N, V)`` and None."""
        if self.fused:
            return self._hidden(batch).flatten(0, 1), self.headed.head_weight
        return self._logits(batch).flatten(0, 1), None

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Means over the whole split, and ``score``: the mean ``error_*`` of the modalities present (else ``ce``)."""
        means = {name: float(total) / float(count) for name, (total, count) in totals.items() if count > 0}
        errors = [means[f"error_{m}"] for m in MODALITIES if f"error_{m}" in means]
        score = float(np.mean(errors)) if errors else means.get("ce")
        return means if score is None else means | {"score": score}


def _object_indices(batches: list[Batch]) -> list[np.ndarray]:
    """Global rows of the objects; for loaders that do not give them, their place in the step."""
    found, start = [], this_rank() << 32
    for batch in batches:
        n = len(batch["tokens"])
        given = batch.get("object_index")
        found.append(np.arange(start, start + n) if given is None else np.asarray(given))
        start += n
    return found
