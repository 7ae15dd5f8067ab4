"""What a token stands for, as numbers: so that bin k is next to bin k + 1, and like codes of a codebook are alike.

A vocabulary gives names. Without more, 1024 bins are 1024 unrelated rows of an embedding, learned one by one. Here the
embedding of a token is a learned row plus a linear map of its *value*, which the codebooks know:

- a scalar bin k of column j: features ``phi_j(k)`` of the bin's standardised centre x, times a matrix of the column.
  Numbers as features before a linear layer are worth more to a transformer than the numbers (Gorishniy, Rubachev and
  Babenko 2022, "On Embeddings for Numerical Features in Tabular Deep Learning", arXiv:2203.05556), of two kinds:
  ``piecewise``, x between knots at the quantiles of the column's training values, ``clip((x - b_i) / (b_{i+1} - b_i),
  0, 1)`` for F intervals (their PLE, section 3.2); ``periodic``, x, and sine and cosine of ``2 pi f x`` (their section
  3.3; the frequencies are fixed here, powers of 2 from 1/16 on).
- a code of a vector codebook (images, and every stage of every group of spectra): its standardised entry times a
  matrix of the codebook.

Standardised is as in the loss (``core/codebook.py``): the usage-weighted mean taken away, over one spread per codebook
or column. Specials, non-detections among them, have no value, nor has a block without a codebook.

With ``errors`` the standard error of the token's observation (``tokenizers/sigma.py``) is an input, too: a magnitude
of +- 0.5 is another thing than one of +- 0.01. Its features are the piecewise-linear ones of log10 sigma, in half
decades from 0.001 to 10, and 1; times a matrix of the token's type. Where no error is known nothing is added.

The same in the output head gives the logits of like tokens like weights. All columns share the head's rows of the
scalar block, so there the value of bin k is its rank, (k + 1/2) / V, with features of the same kind.

Features and entries are fixed; they are saved with the weights, as buffers. Matrices start as N(0, 0.02).

Shapes: B batch, L length, D width, V bins of the scalar block, F features of a scalar, C codes, E dimensions of an
entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.schema import ValueFeatures, ValuesConfig
from ..errors import ArtifactError
from ..vocabulary.codebook import Codebook, ScalarCodebook
from ..vocabulary.vocab import VocabSpec

LOWEST_FREQUENCY = 1 / 16  # per standard deviation
ERROR_KNOTS = np.linspace(-3.0, 1.0, 9)  # log10 of the standard error, in units of the codebook's spread
FARTHEST = 5.0  # standard deviations: beyond, the linear one of the periodic features stays as it is


def piecewise_features(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Piecewise-linear encoding of ``x (...)``, ``(..., F)``, between ``knots (F + 1,)``; equal knots make a step.

    >>> piecewise_features(np.array([-1.0, 0.5, 2.0]), np.array([0.0, 1.0, 3.0])).tolist()
    [[0.0, 0.0], [0.5, 0.0], [1.0, 0.5]]
    """
    low, high = knots[:-1], knots[1:]
    width = np.where(high > low, high - low, 1.0)
    return np.clip((x[..., None] - low) / width, 0.0, 1.0)


def periodic_features(x: np.ndarray, n_features: int) -> np.ndarray:
    """x, and sine and cosine at ``n_features // 2`` frequencies, of ``x (...)``: ``(..., 1 + 2 (n_features // 2))``."""
    frequencies = LOWEST_FREQUENCY * 2.0 ** np.arange(n_features // 2)
    phase = 2.0 * np.pi * frequencies * x[..., None]
    return np.concatenate([np.clip(x, -FARTHEST, FARTHEST)[..., None], np.sin(phase), np.cos(phase)], -1)


def quantile_knots(x: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """``n + 1`` knots at the quantiles of ascending values ``x (C,)`` that occur ``counts (C,)`` times."""
    total = counts.sum()
    weights = counts / total if total > 0 else np.full(len(x), 1.0 / len(x))
    return np.interp(np.linspace(0.0, 1.0, n + 1), np.cumsum(weights) - weights / 2, x)


def scalar_features(x: np.ndarray, counts: np.ndarray, config: ValuesConfig) -> np.ndarray:
    """Features ``(C, F)`` of the standardised centres ``x (C,)`` of one column."""
    if config.scalar == ValueFeatures.periodic:
        return periodic_features(x, config.n_features)
    return piecewise_features(x, quantile_knots(x, counts, config.n_features))


@dataclass(frozen=True)
class TokenValues:
    """The values of a vocabulary's tokens, as features that only have to be multiplied with a matrix, float32."""

    vectors: Mapping[int, np.ndarray]  # first id of a block -> standardised entries (C, E)
    scalar_start: int  # first id of the scalar block
    first_column_type: int
    features: np.ndarray  # (n_columns, V, F) of the bins; no columns: no scalar has a value
    ranks: np.ndarray  # (V, F) of the ranks of the bins, for the head
    head: bool  # whether the values take part in the output head
    errors: bool  # whether the errors of the observations are an input
    vocab_size: int
    n_types: int

    @classmethod
    def of(
        cls,
        vocab: VocabSpec,
        config: ValuesConfig,
        image: Codebook | None,
        spectrum: Mapping[str, Codebook],
        scalar: ScalarCodebook | None,
    ) -> TokenValues:
        """The values that these codebooks give to the tokens of ``vocab``.

        Raises:
            ArtifactError: a codebook larger than its block, or without one of the vocabulary's columns.
        """
        books = {"image": image, **spectrum}
        vectors = {}
        for block in vocab.blocks:
            book = books.get(block.name) if block.modality != "scalar" else None
            if book is None or not block.size:
                continue
            if len(book.entries) > block.size:
                raise ArtifactError(
                    f"at most {block.size} entries, the size of its block",
                    got=len(book.entries),
                    where=f"codebook {block.name}",
                )
            vectors[block.start] = ((book.entries - book.mean) / book.scale).astype(np.float32)
        block = vocab.block("scalar")
        features = []
        if scalar is not None:
            features = [_column_features(scalar, name, block.size, config) for name in vocab.scalar_columns]
        rank = (np.arange(block.size) + 0.5) / max(block.size, 1)
        uniform = (rank - 0.5) * np.sqrt(12.0)  # mean 0, standard deviation 1
        ranks = scalar_features(uniform, np.ones(block.size), config) if features else np.zeros((block.size, 0))
        return cls(
            vectors,
            block.start,
            vocab.first_column_type,
            np.asarray(features, np.float32),
            ranks.astype(np.float32),
            config.head,
            config.errors,
            vocab.vocab_size,
            vocab.n_types,
        )


def _column_features(book: ScalarCodebook, name: str, size: int, config: ValuesConfig) -> np.ndarray:
    """Features of a column's bins ``(V, F)``, 0 beyond the last."""
    if name not in book.columns and len(book.columns) > 1:  # one is for all of them, as in the loss
        raise ArtifactError(f"bin centres of column {name}", got=", ".join(book.columns), where="scalar codebook")
    j = list(book.columns).index(name) if name in book.columns else 0
    n = int(book.n_bins[j])
    if n > size:
        raise ArtifactError(f"at most {size} bins, the size of the block", got=n, where=f"column {name}")
    x = (book.centers[j, :n] - book.mean[j]) / book.scale[j]
    own = scalar_features(x.astype(np.float64), book.counts[j, :n], config)
    return np.pad(own, ((0, size - n), (0, 0)))


def token_values(vocab: VocabSpec, books: Any, config: ValuesConfig | Mapping[str, Any] | None) -> TokenValues | None:
    """What ``model.values`` makes of a set of codebooks; None: nothing.

    Args:
        books: with ``image``, ``spectrum`` and ``scalar`` (:class:`~astromodal.loss.standardize.Codebooks`).
        config: as it stands in a configuration, or in the ``config.json`` of a run.
    """
    if config is None:
        return None
    config = config if isinstance(config, ValuesConfig) else ValuesConfig(**config)
    return TokenValues.of(vocab, config, books.image, books.spectrum, books.scalar)


class ValueTable(nn.Module):
    """Rows that the values of ids give to a table over the vocabulary ``(n_ids, D)``, through a matrix per block.

    Args:
        blocks: first id of a block -> features of its first ids ``(C, E)``.
    """

    def __init__(self, blocks: Mapping[int, np.ndarray], n_ids: int, d_model: int) -> None:
        super().__init__()
        self.n_ids = n_ids
        self.starts = sorted(blocks)
        self.maps = nn.ParameterList()
        for index, start in enumerate(self.starts):
            entries = torch.tensor(blocks[start], dtype=torch.float32)
            self.register_buffer(f"entries_{index}", entries)
            self.maps.append(nn.Parameter(torch.empty(entries.shape[1], d_model)))

    def forward(self) -> Tensor:
        """The table; ids without a value are 0."""
        rows: list[Tensor] = []
        end = 0
        for index, (start, weight) in enumerate(zip(self.starts, self.maps, strict=True)):
            with torch.autocast(weight.device.type, enabled=False):  # few numbers, of which the digits count
                own = getattr(self, f"entries_{index}").to(weight.dtype) @ weight
            rows += [own.new_zeros(start - end, own.shape[1]), own]
            end = start + len(own)
        return F.pad(torch.cat(rows), (0, 0, 0, self.n_ids - end))


def mapped(phi: Tensor, group: Tensor, maps: Tensor) -> Tensor:
    """Features ``phi (..., F)`` times the matrix of their ``group (...)``, of those in ``maps (n_groups * F, D)``.

    A sum of F rows per token, weighted: no ``(..., F, D)`` is made, and no product with all matrices.
    """
    n_features = phi.shape[-1]
    rows = (group * n_features)[..., None] + torch.arange(n_features, device=group.device)
    flat = phi.reshape(-1, n_features).to(maps.dtype)
    found = F.embedding_bag(rows.view(flat.shape), maps, per_sample_weights=flat, mode="sum")
    return found.view(*group.shape, maps.shape[1])  # of a batch without rows, too


class ScalarValues(nn.Module):
    """Embeddings of scalar bins from their values: each column has its own features and its own matrix."""

    features: Tensor

    def __init__(self, values: TokenValues, d_model: int) -> None:
        super().__init__()
        self.start, self.first_type = values.scalar_start, values.first_column_type
        self.n_columns, self.n_bins, n_features = values.features.shape
        self.register_buffer("features", torch.tensor(values.features, dtype=torch.float32).flatten(0, 1))
        self.map = nn.Parameter(torch.empty(self.n_columns * n_features, d_model))

    def forward(self, tokens: Tensor, types: Tensor) -> Tensor:
        """``(B, L, D)``; 0 where a token is no scalar bin."""
        bins, columns = tokens - self.start, types - self.first_type
        inside = (bins >= 0) & (bins < self.n_bins) & (columns >= 0) & (columns < self.n_columns)
        cell = torch.where(inside, columns * self.n_bins + bins, 0)
        return mapped(self.features[cell] * inside[..., None], torch.where(inside, columns, 0), self.map)


class ErrorValues(nn.Module):
    """Embeddings of standard errors, with a matrix per type."""

    knots: Tensor

    def __init__(self, n_types: int, d_model: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.tensor(ERROR_KNOTS, dtype=torch.float32))
        self.map = nn.Parameter(torch.empty(n_types * len(ERROR_KNOTS), d_model))

    def forward(self, types: Tensor, sigma: Tensor) -> Tensor:
        """``(B, L, D)``; 0 where ``sigma (B, L)`` is, which says that no error is known."""
        low, high = self.knots[:-1], self.knots[1:]
        known = sigma > 0
        log = torch.where(known, sigma, 1.0).log10().to(low.dtype)[..., None]
        phi = F.pad(((log - low) / (high - low)).clamp(0.0, 1.0), (0, 1), value=1.0)
        return mapped(phi * known[..., None], types, self.map)


class ValueEmbedding(nn.Module):
    """The value part of the embeddings of tokens, and of the rows of the output head."""

    def __init__(self, values: TokenValues, d_model: int) -> None:
        super().__init__()
        size = values.vocab_size
        self.vectors = ValueTable(values.vectors, size, d_model) if values.vectors else None
        self.scalars = ScalarValues(values, d_model) if values.features.size else None
        self.errors = ErrorValues(values.n_types, d_model) if values.errors else None
        ranks = {values.scalar_start: values.ranks} if values.ranks.size else {}
        self.head = ValueTable({**values.vectors, **ranks}, size, d_model) if values.head else None

    def forward(self, learned: Tensor, tokens: Tensor, types: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Embeddings ``(B, L, D)`` of tokens whose learned rows are ``learned (V, D)``; ``sigma``: their errors."""
        x = F.embedding(tokens, learned if self.vectors is None else learned + self.vectors())
        x = x if self.scalars is None else x + self.scalars(tokens, types)
        if self.errors is None:
            return x
        return x + self.errors(types, torch.zeros_like(tokens, dtype=x.dtype) if sigma is None else sigma)

    def head_weight(self, learned: Tensor) -> Tensor:
        """Weight of the output head ``(V, D)``, of which ``learned`` is the learned part."""
        return learned if self.head is None else learned + self.head()
