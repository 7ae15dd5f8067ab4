"""What ``training.py`` trains: sequences of uneven length, the model of this program, and the loop of a sketch.

A sequence has 40 catalogue columns, of which a tenth are missing, five groups of spectra of 81 tokens and an image of
576, each of which a fifth of the objects lack: up to 1024 tokens, 0.8 of that on average. Codes are random (which
changes no time); codebooks have the documented sizes; token files and packing are the real ones.

Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astromodal.config.schema import LossConfig
from astromodal.loss.functions import combined_loss
from astromodal.loss.language_model import LanguageModelObjective
from astromodal.loss.standardize import Codebooks
from astromodal.models import CausalTransformerLM
from astromodal.sequences import BucketSampler, SequenceDataset, SequenceLayout, build_sequences
from astromodal.tokens import FieldWriter, TokenStore
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import PAD, VocabSpec, build_vocab_spec

GROUPS = tuple(f"group_{i}" for i in range(5))
COLUMNS = tuple(f"column_{i}" for i in range(40))


@dataclass(frozen=True)
class Size:
    """Of the model, the batch and the vocabulary."""

    d_model: int = 384
    n_layers: int = 4
    n_heads: int = 6
    batch_size: int = 4
    image_codes: int = 2048  # and as many of each group of spectra
    image_tokens: int = 576
    group_tokens: int = 81  # of one group of spectra
    dropout: float = 0.0

    @property
    def length(self) -> int:
        """L: the longest sequence, and one more that is only a target."""
        return 2 + len(COLUMNS) + len(GROUPS) * self.group_tokens + self.image_tokens


def build_vocab(size: Size) -> VocabSpec:
    """About 13 k ids at the documented sizes: 2048 image codes, 1024 bins, 5 x 2048 spectrum codes."""
    n = size.image_codes
    return build_vocab_spec(
        n, n // 2, dict.fromkeys(GROUPS, n), scalar_columns=COLUMNS, n_bins=(n // 2,) * len(COLUMNS)
    )


def build_codebooks(size: Size, rng: np.random.Generator) -> Codebooks:
    n, bins = size.image_codes, size.image_codes // 2
    centers = np.sort(rng.normal(size=(len(COLUMNS), bins)))
    scalar = ScalarCodebook(COLUMNS, centers, np.ones(centers.shape), [bins] * len(COLUMNS))
    return Codebooks(Codebook(rng.normal(size=(n, 2))), {g: Codebook(rng.normal(size=(n, 64))) for g in GROUPS}, scalar)


def write_sequences(folder: Path, size: Size, vocab: VocabSpec, n: int, seed: int = 0) -> SequenceDataset:
    """``n`` objects, through token files and packing as the real ones, and the dataset that maps them."""
    rng = np.random.default_rng(seed)
    with FieldWriter(folder / "tokens", "A") as writer:
        present = rng.random((n, len(COLUMNS))) < 0.9
        flags = {"present": present, "clipped": ~present, "nondetected": present & False}
        values = {"values": rng.normal(size=present.shape), "errors": np.ones(present.shape)}
        codes = rng.integers(0, size.image_codes // 2, present.shape)
        sigma = np.zeros(present.shape)
        writer.add_scalars(SimpleNamespace(tokens=codes, sigma=sigma, **flags, **values), COLUMNS)
        for group in GROUPS:
            codes = rng.integers(0, size.image_codes, (n, size.group_tokens))
            writer.add_spectrum(group, codes, rng.random(n) < 0.8)
        codes = rng.integers(0, size.image_codes, (n, size.image_tokens))
        writer.add_image(codes, np.zeros((n, 1, 1, 1)), rng.random(n) < 0.8)
        ids = np.array([f"A-{i:06d}" for i in range(n)])
        writer.commit(ids, np.zeros(n, np.uint8), {"inputs": {}, "summary": {}})
    groups = dict.fromkeys(GROUPS, size.group_tokens)
    layout = SequenceLayout(vocab, ("scalar", "spectrum", "image"), COLUMNS, groups, size.image_tokens, size.length)
    return SequenceDataset(build_sequences(TokenStore(folder), layout), "train")


def padding_of(lengths: np.ndarray, batches: Iterable[np.ndarray], width: int | None = None) -> float:
    """Share of padding: each batch as long as its longest, rounded up to 8, or all as long as ``width``."""
    real = total = 0
    for rows in batches:
        real += int(lengths[rows].sum())
        total += len(rows) * (width or -(-int(lengths[rows].max()) // 8) * 8)
    return 1 - real / total


def chosen_batches(dataset: SequenceDataset, size: Size, n: int) -> list[np.ndarray]:
    """``n`` batches of the sampler's epoch, spread evenly over its lengths, so that few stand for all."""
    lengths = np.asarray(dataset.lengths)
    batches = [b for b in BucketSampler(dataset.lengths, size.batch_size, drop_last=True)]
    batches.sort(key=lambda rows: lengths[rows].mean())
    return [batches[(2 * i + 1) * len(batches) // (2 * n)] for i in range(n)]


def build_objective(size: Size, vocab: VocabSpec, loss: LossConfig | None = None) -> LanguageModelObjective:
    """This program's model and its loss."""
    torch.manual_seed(0)
    model = CausalTransformerLM(
        vocab.vocab_size,
        vocab.n_types,
        size.d_model,
        size.n_layers,
        size.n_heads,
        4 * size.d_model,
        size.dropout,
        max_len=size.length,
    )
    books = build_codebooks(size, np.random.default_rng(0))
    return LanguageModelObjective(model, vocab, books, loss or LossConfig(), next_types=True)


class Sketch(nn.Module):
    """The model as the documents sketch it: torch's encoder with a causal and a padding mask, logits of everything."""

    def __init__(self, size: Size, vocab: VocabSpec) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(vocab.vocab_size, size.d_model)
        self.types = nn.Embedding(vocab.n_types, size.d_model)
        self.positions = nn.Embedding(size.length, size.d_model)
        layer = nn.TransformerEncoderLayer(
            size.d_model, size.n_heads, 4 * size.d_model, size.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, size.n_layers, nn.LayerNorm(size.d_model), False)
        self.head = nn.Linear(size.d_model, vocab.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor, types: Tensor, attn_mask: Tensor) -> Tensor:
        """Logits ``(B, L, V)``."""
        length = tokens.shape[1]
        x = self.tokens(tokens) + self.types(types) + self.positions(torch.arange(length, device=tokens.device))
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        return self.head(self.encoder(x, mask=causal, src_key_padding_mask=~attn_mask))


class SketchedLoop:
    """The documents' loop over padded batches: full logits, ``combined_loss``, ``.item()`` of four terms per step.

    ``loss``: ``shared``, one vector of scalar centres for all columns, as there; ``columns``, each column its own, as
    this program trains; or ``ce``, ``F.cross_entropy`` alone.
    """

    def __init__(self, size: Size, vocab: VocabSpec, device: str, bf16: bool, loss: str) -> None:
        self.vocab, self.device, self.bf16, self.form = vocab, device, bf16, loss
        self.books = build_codebooks(size, np.random.default_rng(0))
        self.model = Sketch(size, vocab).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-4, weight_decay=0.05)

    def loss(self, logits: Tensor, targets: Tensor, types: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.form == "ce":
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PAD)
            return loss, {"loss_ce": loss.detach()}
        shared = self.form == "shared"
        books = self.books.image, self.books.spectrum, self.books.scalar.centers[0] if shared else self.books.scalar
        own = None if shared else types
        return combined_loss(logits, targets, self.vocab, *books, {"sample_k": 4096}, target_types=own)

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        tokens, types, mask = batch["tokens"], batch["types"], batch["attn_mask"]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            logits = self.model(tokens[:, :-1], types[:, :-1], mask[:, :-1])
            loss, stats = self.loss(logits, torch.where(mask[:, 1:], tokens[:, 1:], PAD), types[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {name: value.item() for name, value in stats.items() if name.startswith("loss_")}


def padded_batch(dataset: SequenceDataset, rows: np.ndarray, length: int) -> dict[str, Any]:
    """A batch of whole sequences, padded to ``length``."""
    batch = dataset.gather(rows, 0)
    missing = length - batch["tokens"].shape[1]
    names = ("tokens", "types", "attn_mask")
    return {name: nn.functional.pad(batch[name], (0, missing)) for name in names}
