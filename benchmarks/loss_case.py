"""What ``loss.py`` measures: one size of hidden states, head and codebooks, and the ways to a loss from them.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from astromodal.config.schema import CEMode, LossConfig
from astromodal.loss.forms import values as form_values
from astromodal.loss.fused import loss as fused
from astromodal.loss.reference import reference_terms, total_of
from astromodal.loss.sampling import StepWeights, lay_out, read_targets, weigh
from astromodal.loss.standardize import Codebooks, CodedTable, build_tables
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.modalities import MODALITIES
from astromodal.vocabulary.vocab import build_vocab_spec

Variant = Callable[[], Tensor | None]  # backward included; the loss, where it is the whole one
COLUMNS = tuple(f"column_{i}" for i in range(20))
WEIGHT = 0.1  # of each reconstruction term
PRODUCTS = 3  # logits, gradient of the hidden states, gradient of the head


class Case:
    """Hidden states (N, D), head (V, D), targets and codebooks of one size."""

    def __init__(self, vocab_size: int, positions: int, width: int, sample_k: int | None, device: str) -> None:
        rng = np.random.default_rng(0)
        codes = min(2048, 2 * vocab_size // 5)  # the documented sizes; larger vocabularies have more groups of spectra
        image, scalar, spectrum = codes, codes // 2, codes
        groups = [f"group_{i}" for i in range(max(1, round((vocab_size - 1.5 * codes) / codes)))]
        self.vocab = build_vocab_spec(image, scalar, spectrum, groups, COLUMNS)
        books = Codebooks(
            Codebook(rng.normal(size=(image, 2))),
            {g: Codebook(rng.normal(size=(spectrum, 64))) for g in groups},
            ScalarCodebook(COLUMNS, np.sort(rng.normal(size=(20, scalar))), np.ones((20, scalar)), [scalar] * 20),
        )
        self.tables = build_tables(self.vocab, books)
        self.sample_k, self.device = sample_k, device
        tokens, types = self._targets(rng, positions)
        self.targets = read_targets(self.tables, tokens, types, tokens > 0)
        self.draws = rng.random(positions)
        self.tokens = torch.as_tensor(tokens, device=device)
        torch.manual_seed(0)
        self.hidden = torch.randn(positions, width, device=device, requires_grad=True)
        self.head = (0.02 * torch.randn(self.vocab.vocab_size, width, device=device)).requires_grad_()

    def _targets(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As in a sequence with everything: 60 % image, 37 % spectra, 3 % scalars."""
        blocks = self.vocab.blocks
        n_groups = len(blocks) - 2
        kinds = rng.choice(len(blocks), n, p=[0.60, 0.03, *[0.37 / n_groups] * n_groups])
        tokens = np.asarray([blocks[k].start for k in kinds]) + rng.integers(0, min(b.size for b in blocks), n)
        types = np.where(kinds == 1, self.vocab.first_column_type + rng.integers(0, len(COLUMNS), n), 1)
        return tokens, types

    @property
    def floor_flops(self) -> int:
        """Of the three products of a linear head, forward and backward: 6 N V D."""
        return 2 * PRODUCTS * self.hidden.numel() * len(self.head)

    def _weights(self) -> StepWeights:
        return weigh(self.targets, LossConfig(sample_k=self.sample_k), self.draws)

    def clear(self) -> None:
        self.hidden.grad = self.head.grad = None

    # ------------------------------------------------------------------------------- the variants

    def floor(self, autocast: bool) -> Variant:
        """The three products in chunks, into buffers that exist already."""
        rows = 512 if self.device == "cpu" else 8192
        dtype = torch.bfloat16 if autocast else torch.float32
        hidden, head = self.hidden.detach().to(dtype), self.head.detach().to(dtype)
        logits = torch.empty(rows, len(head), dtype=dtype, device=self.device)
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)

        def run() -> None:
            with torch.autocast(self.device, enabled=False):
                for first in range(0, len(hidden), rows):
                    part = hidden[first : first + rows]
                    out = torch.mm(part, head.t(), out=logits[: len(part)])
                    torch.mm(out, head, out=grad_hidden[first : first + rows])
                    grad_head.addmm_(out.t(), part)

        return run

    def fused(self, ce: CEMode) -> Variant:
        weights = self._weights()
        layout = lay_out(self.targets, weights, len(self.tables.blocks), ce)
        entries, n_bins = fused.block_tensors(self.tables)
        entries = [e.float().to(self.device) for e in entries]
        arrays = [self.targets.columns, layout.order, weights.ce.astype("f4"), weights.reconstruction.astype("f4")]
        moved = [torch.as_tensor(a, device=self.device) for a in arrays]
        segments, n_bins = torch.from_numpy(layout.segments), n_bins.to(self.device)
        terms = torch.full((len(MODALITIES),), WEIGHT, device=self.device)
        head, none = fused.Head.of(self.tables, ce == CEMode.block), torch.zeros(0, device=self.device)

        def run() -> Tensor:
            given = fused.LossInput(self.tokens, *moved, segments, terms, entries, n_bins, none, head)
            total = fused.fused_loss(self.hidden, self.head, given)[0]
            total.backward()
            return total.detach()

        return run

    def reference(self) -> Variant:
        """``combined_loss`` behind its arguments."""
        weights = self._weights()

        def run() -> Tensor:
            logits = self.hidden @ self.head.t()
            terms = reference_terms(logits, self.targets, self.tables, weights, CEMode.full)
            total = total_of(terms, dict.fromkeys(MODALITIES, WEIGHT))
            total.backward()
            return total.detach()

        return run

    def careful(self) -> Variant:
        """Full logits too, but each block is cut out before rows are gathered, and scalars go in one batch."""
        weights = self._weights()
        parts = []
        for index, table in enumerate(self.tables.blocks):
            rows = np.flatnonzero((self.targets.blocks == index) & (weights.reconstruction > 0))
            if not isinstance(table, CodedTable) or not len(rows):
                continue
            codes = torch.as_tensor(self.targets.tokens[rows] - table.start, device=self.device)
            entries = table.entries.float().to(self.device)
            if table.modality == "scalar":
                columns = torch.as_tensor(self.targets.columns[rows], device=self.device)
                entries = entries[columns]  # (K, C)
            w = torch.as_tensor(weights.reconstruction[rows], dtype=torch.float32, device=self.device)
            cut = slice(table.start, table.start + table.size)
            parts.append((table, cut, torch.as_tensor(rows, device=self.device), codes, entries, w))

        def run() -> Tensor:
            logits = (self.hidden @ self.head.t()).float()
            total = F.cross_entropy(logits, self.tokens)
            for table, cut, rows, codes, entries, w in parts:
                own = logits[:, cut][rows]
                if table.modality == "scalar":
                    mean = (torch.softmax(own, dim=1) * entries).sum(1)
                    error = (mean - entries.gather(1, codes[:, None])[:, 0]).square()
                else:
                    error = form_values(table.form, own, codes, entries)
                total = total + WEIGHT * (error * w).sum()
            total.backward()
            return total.detach()

        return run

    def cross_entropy(self, compiled: bool) -> Variant:
        """No reconstruction at all."""

        def loss(hidden: Tensor, head: Tensor, tokens: Tensor) -> Tensor:
            return F.cross_entropy((hidden @ head.t()).float(), tokens)

        function = torch.compile(loss) if compiled else loss
        return lambda: function(self.hidden, self.head, self.tokens).backward()

    def linear_ce(self) -> Variant | None:
        function = getattr(F, "linear_cross_entropy", None)
        return None if function is None else lambda: function(self.hidden, self.head, self.tokens).backward()

    def liger(self) -> Variant | None:
        """Hsu et al. 2024."""
        try:
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
        except ImportError:
            return None
        function = LigerFusedLinearCrossEntropyLoss()
        return lambda: function(self.head, self.hidden, self.tokens).backward()

    def cut_ce(self) -> Variant | None:
        """Wijmans et al. 2024; its kernels take half precision."""
        try:
            from cut_cross_entropy import linear_cross_entropy
        except ImportError:
            return None

        def run() -> None:
            linear_cross_entropy(self.hidden.bfloat16(), self.head.bfloat16(), self.tokens).backward()

        return run

    def variants(self, compiled: bool, autocast: bool) -> dict[str, Variant]:
        """By name; what cannot run here is left out."""
        gpu = self.device != "cpu"
        found = {
            "floor": self.floor(autocast),
            "reference": self.reference(),
            "careful": self.careful(),
            "fused": self.fused(CEMode.full),
            "fused block": self.fused(CEMode.block),
            "cross_entropy": self.cross_entropy(False),
            "compiled": self.cross_entropy(True) if compiled else None,
            "linear_ce": self.linear_ce(),
            "liger": self.liger() if gpu else None,
            "cut_ce": self.cut_ce() if gpu else None,
        }
        return {name: run for name, run in found.items() if run is not None}


def count_flops(run: Variant, seen: bool) -> tuple[Tensor | None, int]:
    """One call's value and the FLOPs of its matrix products, as torch's counter sees them.

    The counter sees neither compiled code nor the kernels of other packages: 0 for them (``seen=False`` leaves it out).
    """

    def in_place(_: tuple, a: tuple, b: tuple, *rest: object, **named: object) -> int:
        return 2 * a[0] * a[1] * b[1]

    if not seen:
        return run(), 0
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        value = run()
    return value, counter.get_total_flops()
