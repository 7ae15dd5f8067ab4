"""Validation of the language model's predictions: sums over positions, nothing weighted or sampled.

``ce`` (every target), and for each modality, spectrum group and scalar column ``ce_*`` (nats, softmax over the whole
vocabulary), ``accuracy_*`` (top-1 over the whole vocabulary) and, where there is a codebook, ``error_*``: the
reconstruction error against the target's own entry, as a fraction of the variance. Scalars also have ``crps_scalar``,
in standard deviations, for any ``loss.scalar.form``: unlike the error it is proper, so a wrong spread costs. (Its like
for vectors, the energy score, costs C^2 per position: not in validation.)

Shapes: N positions, R rows of a chunk, C entries of a block, V vocabulary, G groups whose metrics are reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import VocabSpec
from .forms import expected_error
from .fused.forms import gaps
from .sampling import Layout, Targets
from .standardize import Tables

CHUNK_ROWS = 1024  # positions whose logits exist at once


class Scorer:
    """Scores positions against the tables of a vocabulary."""

    def __init__(self, tables: Tables, vocab: VocabSpec) -> None:
        self.tables, self.vocab = tables, vocab
        scalar = [gaps(table.entries, table.n_bins) for table in tables.coded if table.n_bins is not None]
        self.has_crps = bool(scalar) and all(bool((above >= 0).all()) for above in scalar)

    def sums(
        self,
        states: Tensor,
        weight: Tensor | None,
        targets: Targets,
        layout: Layout,
        entries: Sequence[Tensor],
        n_bins: Tensor,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum and count of every metric over some positions.

        Args:
            states: hidden states ``(N, D)``, with the head's ``weight`` ``(V, D)``; or logits ``(N, V)``, with None.
            entries, n_bins: from :func:`~astromodal.loss.fused.chunks.block_tensors`, on the device.
        """
        values = self.rows(states, weight, targets, layout, entries, n_bins)
        order = layout.order[: len(values)]
        names, groups = self._groups(targets)
        index = torch.as_tensor(groups[order], device=values.device)
        sums = values.new_zeros(len(names), 5).index_add_(
            0, index, torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
        )
        return self._collect(names, sums)

    def rows(
        self,
        states: Tensor,
        weight: Tensor | None,
        targets: Targets,
        layout: Layout,
        entries: Sequence[Tensor],
        n_bins: Tensor,
    ) -> Tensor:
        """Cross-entropy, top-1 hit, error and CRPS (0 but for scalars) of each target, in the order of the layout."""
        device = states.device
        sums = torch.float32 if device.type == "mps" else torch.float64
        n = int(layout.segments[0, -1, 2])
        values = torch.zeros(n, 4, dtype=sums, device=device)
        order, tokens, columns = (
            torch.as_tensor(a, device=device) for a in (layout.order, targets.tokens, targets.columns)
        )
        for first in range(0, n, CHUNK_ROWS):
            stop = min(first + CHUNK_ROWS, n)
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
                    own = (logits[here], ids[here], columns[rows[here]])
                    found = self._errors(block, *own, entries[block].to(logits), n_bins)
                    values[a:b, 2 : 2 + len(found)] = torch.stack(found, dim=1).to(sums)
            log_p = torch.log_softmax(logits, dim=1, out=logits)  # in place: fresh memory costs more than the sums
            values[first:stop, 0] = -log_p.gather(1, ids[:, None])[:, 0]
        return values

    def _errors(
        self, block: int, logits: Tensor, ids: Tensor, columns: Tensor, entries: Tensor, n_bins: Tensor
    ) -> list[Tensor]:
        """Reconstruction errors ``(R,)``, and for scalars the CRPS ``(R,)``, of targets of one block."""
        table = self.tables.blocks[block]
        own = logits[:, table.start : table.start + table.size]
        if table.modality != "scalar":
            return [expected_error(own, ids - table.start, entries)[0]]
        beyond = torch.arange(table.size, device=ids.device) >= n_bins[columns][:, None]
        centers = entries[columns]  # (R, C): every row has its own column's
        p, codes = torch.softmax(own.masked_fill(beyond, float("-inf")), dim=1), (ids - table.start)[:, None]
        errors = ((p * centers).sum(1) - centers.gather(1, codes)[:, 0]).square()
        below = p.cumsum(1).sub_((torch.arange(table.size, device=ids.device) >= codes).to(p.dtype))
        return [errors, (below.square_() * gaps(entries, n_bins)[columns]).sum(1)]

    def _groups(self, targets: Targets) -> tuple[list[tuple[str, str]], np.ndarray]:
        """Name and modality of the groups whose metrics are reported, and the group of each target."""
        names: list[tuple[str, str]] = []
        first = []
        for table in self.tables.blocks:
            first.append(len(names))
            scalar = table.modality == "scalar" and self.tables.n_columns > 1
            names += [(c, "scalar") for c in self.vocab.scalar_columns] if scalar else [(table.name, table.modality)]
        first.append(len(names))
        return [*names, ("special", "special")], np.asarray(first)[targets.blocks] + targets.columns

    def _collect(self, names: list[tuple[str, str]], sums: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums per group ``(G, 5)`` as named sums and counts, with those of the modalities and of everything."""
        with_codebook = {t.name if t.modality != "scalar" else "scalar" for t in self.tables.coded}
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
