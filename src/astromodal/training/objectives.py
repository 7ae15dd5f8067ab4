"""The language model's objective: next-token cross-entropy plus the reconstruction loss, and its validation.

Position t predicts token t+1. :meth:`LanguageModelObjective.prepare` shifts, draws the positions and settles every
weight on the CPU for the whole optimizer step; ``forward`` then runs without asking the device for anything, in one
graph, and gives this micro-batch's share of the step's loss. A model with ``hidden()`` and ``head_weight`` trains
with the fused loss; any other ``(tokens, types, attn_mask) -> (B, L, V)`` with the reference on its logits.

Shapes: B batch, L length, N = B * (L - 1) predicted positions, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config.schema import CEMode, LossConfig
from ..core.objective import Batch
from ..core.vocab import PAD, VocabSpec
from ..errors import ConfigError
from . import fused
from .distributed import this_rank
from .forms import expected_error
from .fused_forms import gaps
from .reference import as_loss_config, reference_terms, total_of
from .sampling import CE_STREAM, Layout, StepWeights, Targets, keyed_priorities, lay_out, read_targets, weigh
from .standardize import MODALITIES, Codebooks, build_tables

EVALUATION_ROWS = 1024  # positions whose logits exist at once


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
        self.fused = hasattr(model, "hidden") and hasattr(model, "head_weight")
        self._check(model)
        if not isinstance(codebooks, Codebooks):
            image, spectrum, scalar = codebooks
            codebooks = Codebooks(image, spectrum or {}, scalar)
        self.tables = build_tables(vocab, codebooks, self.loss.standardize, forms=self.loss)
        weights = [getattr(self.loss, f"weight_{m}") for m in MODALITIES]
        self.head = fused.Head.of(self.tables, weights, self.loss.ce == CEMode.block)
        entries, n_bins = fused.block_tensors(self.tables)
        dtype = torch.float64 if self._dtype() == torch.float64 else torch.float32
        for index, tensor in enumerate(entries):
            tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
            self.register_buffer(f"entries_{index}", tensor, persistent=False)
        self.n_tensors = len(entries)
        self.register_buffer("n_bins", n_bins, persistent=False)
        scalar = next((t for t in self.tables.blocks if t.modality == "scalar" and t.entries is not None), None)
        self.has_crps = scalar is not None and bool((gaps(scalar.entries, scalar.n_bins) >= 0).all())

    def _check(self, model: nn.Module) -> None:
        for name in ("vocab_size", "n_types"):
            if getattr(model, name, np.inf) < getattr(self.vocab, name):
                raise ConfigError(f"a model with {name} of {getattr(self.vocab, name)} or more",
                                  got=getattr(model, name), where="model")  # fmt: skip
        accepts = inspect.signature(model.hidden if self.fused else model.forward).parameters
        if (
            self.next_types
            and "next_types" not in accepts
            and not any(p.kind == p.VAR_KEYWORD for p in accepts.values())
        ):
            raise ConfigError("a model that takes next_types", got=type(model).__name__, where="sequence.next_types",
                              repair="set sequence.next_types=false")  # fmt: skip

    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def entries(self) -> list[Tensor]:
        """Standardised entries per block, and the constants of their forms, on the model's device."""
        return [getattr(self, f"entries_{index}") for index in range(self.n_tensors)]

    # ------------------------------------------------------------------------------------ training

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Shift all micro-batches of one optimizer step, and settle what each of their positions weighs."""
        parts = [self._shift(batch) for batch in batches]
        read = [self._read(part) for part in parts]
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
            part |= self._plan(targets, own)
            start = stop
        return parts

    def _shift(self, batch: Batch) -> Batch:
        """Inputs and targets from whole sequences; what else the batch holds is kept."""
        tokens, types, mask = batch["tokens"], batch["types"], batch["attn_mask"].bool()
        real = mask[:, 1:] & (tokens[:, 1:] != PAD)
        return dict(batch) | {
            "tokens": tokens[:, :-1],
            "types": types[:, :-1],
            "attn_mask": mask[:, :-1],
            "targets": torch.where(real, tokens[:, 1:], PAD),
            "target_types": types[:, 1:],
        }

    def _read(self, part: Batch) -> Targets:
        tokens = part["targets"].cpu().numpy().reshape(-1)
        types = part["target_types"].cpu().numpy().reshape(-1) if self.vocab.scalar_columns else None
        return read_targets(self.tables, tokens, types, tokens != PAD)

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
            "loss_counts": torch.tensor([*counts, *seen], dtype=dtype),
        }

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the step's loss, and of ``ce image scalar spectrum loss n_* seen_*``.

        Terms are before their weights; nothing here waits for the device. ``batch`` comes from :meth:`prepare`.
        """
        if self.fused:
            hidden = self._hidden(batch)
            total, terms = fused.fused_loss(
                hidden.reshape(-1, hidden.shape[-1]), self.model.head_weight, batch["targets"].reshape(-1),
                batch["loss_columns"], batch["loss_order"], batch["loss_weights_ce"], batch["loss_weights_rec"],
                torch.as_tensor(batch["loss_segments"]), self.entries, self.n_bins, self.head,
            )  # fmt: skip
        else:
            total, terms = self._reference(batch)
        counts = batch["loss_counts"]
        stats = dict(zip(("ce", *MODALITIES), terms.unbind(), strict=True)) | {"loss": total.detach()}
        for i, m in enumerate(MODALITIES):
            stats |= {f"n_{m}": counts[1 + i], f"seen_{m}": counts[1 + len(MODALITIES) + i]}
        return total, stats | {"n_ce": counts[0]}

    def _model_inputs(self, batch: Batch) -> tuple[tuple, dict]:
        extra = {"next_types": batch["target_types"]} if self.next_types else {}
        return (batch["tokens"], batch["types"], batch["attn_mask"]), extra

    def _hidden(self, batch: Batch) -> Tensor:
        inputs, extra = self._model_inputs(batch)
        return self.model.hidden(*inputs, **extra)

    def _reference(self, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, extra = self._model_inputs(batch)
        logits = self.model(*inputs, **extra)
        weights = StepWeights(batch["loss_weights_ce"].cpu().numpy(), batch["loss_weights_rec"].cpu().numpy())
        flat = logits.reshape(-1, logits.shape[-1])
        terms = reference_terms(flat, self._read(batch), self.tables, weights, self.loss.ce)
        return total_of(terms, self.loss), torch.stack([terms[name].detach() for name in ("ce", *MODALITIES)])

    # ---------------------------------------------------------------------------------- validation

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and counts over all positions of a batch of whole sequences; nothing is weighted or sampled.

        ``ce`` (every target), and for each modality, spectrum group and scalar column ``ce_*`` (nats, softmax over
        the whole vocabulary), ``accuracy_*`` (top-1 over the whole vocabulary) and, where there is a codebook,
        ``error_*``: the reconstruction error against the target's own entry, as a fraction of the variance. Scalars
        also have ``crps_scalar``, in standard deviations, for any ``loss.scalar.form``: unlike the error it is proper,
        so a wrong spread costs. (Its like for vectors, the energy score, costs C^2 per position: not in validation.)
        """
        part = batch if "targets" in batch else self._shift(batch)
        targets = self._read(part)
        everything = LossConfig(sample_k=None)
        weights = weigh(targets, everything, np.zeros(len(targets.tokens)), gather=lambda values: [values])
        layout = lay_out(targets, weights, len(self.tables.blocks), CEMode.full)
        values = self._evaluate_rows(part, targets, layout)  # (n, 4): ce, correct, error, crps
        order = layout.order[: len(values)]
        names, groups = self._groups(targets)
        index = torch.as_tensor(groups[order], device=values.device)
        sums = values.new_zeros(len(names), 5).index_add_(
            0, index, torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
        )
        return self._collect(names, sums)

    def _evaluate_rows(self, part: Batch, targets: Targets, layout: Layout) -> Tensor:
        """Cross-entropy, top-1 hit, error and CRPS (0 but for scalars) of each target, in the order of the layout."""
        if self.fused:
            states, weight = self._hidden(part).flatten(0, 1), self.model.head_weight
        else:
            inputs, extra = self._model_inputs(part)
            states, weight = self.model(*inputs, **extra).flatten(0, 1), None
        device = states.device
        sums = torch.float32 if device.type == "mps" else torch.float64
        n = int(layout.segments[0, -1, 2])
        values = torch.zeros(n, 4, dtype=sums, device=device)
        order, tokens, columns = (
            torch.as_tensor(a, device=device) for a in (layout.order, targets.tokens, targets.columns)
        )
        for first in range(0, n, EVALUATION_ROWS):
            stop = min(first + EVALUATION_ROWS, n)
            rows = order[first:stop]
            with torch.autocast(device.type, enabled=False):  # bf16 logits would tie, and blur top-1
                logits = states[rows] if weight is None else states[rows].to(weight.dtype) @ weight.t()
            logits = logits if logits.dtype == torch.float64 else logits.float()
            ids = tokens[rows]
            values[first:stop, 1] = (logits.argmax(1) == ids).to(sums)
            for block, (start, end, _) in enumerate(layout.segments[0, :-1].tolist()):
                a, b = max(start, first), min(end, stop)
                if a < b:
                    here = slice(a - first, b - first)
                    found = self._errors(block, logits[here], ids[here], columns[rows[here]])
                    values[a:b, 2 : 2 + len(found)] = torch.stack(found, dim=1).to(sums)
            log_p = torch.log_softmax(logits, dim=1, out=logits)  # in place: fresh memory costs more than the sums
            values[first:stop, 0] = -log_p.gather(1, ids[:, None])[:, 0]
        return values

    def _errors(self, block: int, logits: Tensor, ids: Tensor, columns: Tensor) -> list[Tensor]:
        """Reconstruction errors ``(R,)``, and for scalars the CRPS ``(R,)``, of targets of one block."""
        table, entries = self.tables.blocks[block], self.entries[block].to(logits)
        own = logits[:, table.start : table.start + table.size]
        if table.modality != "scalar":
            return [expected_error(own, ids - table.start, entries)[0]]
        beyond = torch.arange(table.size, device=ids.device) >= self.n_bins[columns][:, None]
        centers = entries[columns]  # (R, C): every row has its own column's
        p, codes = torch.softmax(own.masked_fill(beyond, float("-inf")), dim=1), (ids - table.start)[:, None]
        errors = ((p * centers).sum(1) - centers.gather(1, codes)[:, 0]).square()
        below = p.cumsum(1).sub_((torch.arange(table.size, device=ids.device) >= codes).to(p.dtype))
        return [errors, (below.square_() * gaps(entries, self.n_bins)[columns]).sum(1)]

    def _groups(self, targets: Targets) -> tuple[list[tuple[str, str]], np.ndarray]:
        """Name and modality of the groups whose metrics are reported, and the group of each target."""
        names, first = [], []
        for table in self.tables.blocks:
            first.append(len(names))
            scalar = table.modality == "scalar" and self.tables.n_columns > 1
            names += [(c, "scalar") for c in self.vocab.scalar_columns] if scalar else [(table.name, table.modality)]
        first.append(len(names))
        return [*names, ("special", "special")], np.asarray(first)[targets.blocks] + targets.columns

    def _collect(self, names: list[tuple[str, str]], sums: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums per group ``(G, 5)`` as named sums and counts, with those of the modalities and of everything."""
        with_codebook = {
            t.name if t.modality != "scalar" else "scalar" for t in self.tables.blocks if t.entries is not None
        }
        has_error = [name in with_codebook or modality in with_codebook for name, modality in names]
        found = {"ce": (sums[:, 0].sum(), sums[:, 4].sum())}
        parts = {name: [index] for index, (name, _) in enumerate(names) if name != "special"}
        for modality in MODALITIES:
            parts[modality] = [index for index, (_, m) in enumerate(names) if m == modality]
        for name, indices in parts.items():
            ce, correct, _, _, count = sums[indices].sum(0).unbind()
            found[f"ce_{name}"], found[f"accuracy_{name}"] = (ce, count), (correct, count)
            known = [index for index in indices if has_error[index]]
            if known:
                found[f"error_{name}"] = (sums[known, 2].sum(), sums[known, 4].sum())
                if name == "scalar" and self.has_crps:
                    found["crps_scalar"] = (sums[known, 3].sum(), sums[known, 4].sum())
        return found

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
