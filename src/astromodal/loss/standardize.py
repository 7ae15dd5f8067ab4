"""Codebooks as the loss needs them: one table of standardised entries per block of the vocabulary.

Errors are taken in units of a codebook's own spread (``core/codebook.py``), so that an error of 1 means "no better
than the mean" whatever the modality and the number of dimensions, and a weight means the same everywhere. Codebooks
come in raw and reconstructions go out raw; standardising happens here and nowhere else.

Shapes: C entries of a block, D dimensions of an entry, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.checks.loss_choices import check_form
from ..config.schema import LossConfig, LossFormConfig
from ..errors import ArtifactError, ConfigError, DataError
from ..vocabulary.codebook import Codebook, ScalarCodebook
from ..vocabulary.vocab import Block, VocabSpec
from .forms import check_entries


@dataclass(frozen=True)
class Codebooks:
    """The codebooks of one set of tokenizers; what is absent takes no part in the reconstruction loss."""

    image: Codebook | None = None
    spectrum: Mapping[str, Codebook] = field(default_factory=dict)
    scalar: ScalarCodebook | None = None


@dataclass(frozen=True, kw_only=True)
class BlockTable:
    """One block of the vocabulary. As it is, without a codebook, it takes no part in the reconstruction."""

    name: str
    modality: str
    start: int
    size: int
    n_bins: Tensor | None = None  # (n_columns,), scalars only
    form: LossFormConfig = field(default_factory=LossFormConfig)  # of its reconstruction term


@dataclass(frozen=True, kw_only=True)
class CodedTable(BlockTable):
    """A block with its standardised entries, (raw - ``mean``) / ``scale``.

    ``entries`` is ``(C, D)``; for scalars ``(n_columns, C)``, a row of bin centres per column, padded with 0
    beyond the column's ``n_bins``.
    """

    entries: Tensor
    mean: Tensor  # (D,) or (n_columns,)
    scale: Tensor  # () or (n_columns,)


@dataclass(frozen=True)
class Tables:
    """All blocks of a vocabulary, and which block and column a target belongs to."""

    blocks: tuple[BlockTable, ...]
    first_column_type: int
    n_columns: int  # rows of the scalar block's entries; 1: all columns share one row
    block_of_token: np.ndarray  # (V,): index into blocks, len(blocks) for specials
    modality_of_type: tuple[str, ...]

    @property
    def coded(self) -> list[CodedTable]:
        """The blocks that have a codebook."""
        return [table for table in self.blocks if isinstance(table, CodedTable)]

    def blocks_of(self, targets: np.ndarray) -> np.ndarray:
        """Index of each target's block, ``len(self.blocks)`` for specials.

        Raises:
            DataError: an id outside of the vocabulary.
        """
        if targets.size and (targets.min() < 0 or targets.max() >= len(self.block_of_token)):
            raise DataError(
                f"ids from 0 to {len(self.block_of_token) - 1}",
                got=f"{targets.min()} to {targets.max()}",
                where="targets",
            )
        return self.block_of_token[targets]

    def columns_of(self, target_types: np.ndarray | None, is_scalar: np.ndarray) -> np.ndarray:
        """Row of the scalar table for each target; 0 where the target is no scalar.

        Raises:
            DataError: a bin of the scalar block whose type is no column.
        """
        if self.n_columns == 1 or target_types is None:
            return np.zeros(is_scalar.shape, dtype=np.int64)
        columns = np.where(is_scalar, target_types - self.first_column_type, 0)
        if columns.size and (columns.min() < 0 or columns.max() >= self.n_columns):
            raise DataError(
                "a scalar column's type at every scalar target",
                got=f"type {target_types[(columns < 0) | (columns >= self.n_columns)][0]}",
            )
        return columns.astype(np.int64)

    def check_codes(self, targets: np.ndarray, blocks: np.ndarray, columns: np.ndarray) -> None:
        """Codes that the codebooks do not have are refused: they come from other tokenizers.

        Raises:
            ArtifactError: with block, code and size.
        """
        for index, table in enumerate(self.blocks):
            here = blocks == index
            codes = targets[here] - table.start
            size = np.int64(table.size) if table.n_bins is None else table.n_bins.numpy()[columns[here]]
            if (codes >= size).any():
                raise ArtifactError(
                    "codes that the codebook has",
                    got=f"code {codes.max()} of {table.size}",
                    where=table.name,
                    repair="encode again with these tokenizers",
                )


def build_tables(
    vocab: VocabSpec,
    codebooks: Codebooks,
    standardize: bool = True,
    per_column: bool = True,
    forms: LossConfig | None = None,
) -> Tables:
    """Standardised tables (float64) of every block of ``vocab``.

    ``per_column=False``: the columns of the targets are unknown, all scalars share one row. ``forms``: whose
    ``image``, ``scalar`` and ``spectrum`` say which form the terms take; None: the default.

    Raises:
        ArtifactError: a codebook larger than its block, or for other columns.
        ConfigError: a codebook of a group that the vocabulary does not have, or a form that it cannot have.
    """
    if not standardize:
        warnings.warn(
            "loss.standardize=false: errors, and so the meaning of the weights, depend on the units of the codebooks",
            stacklevel=2,
        )
    unknown = set(codebooks.spectrum) - set(vocab.spectrum_groups)
    if unknown:
        raise ConfigError(
            "codebooks of the vocabulary's groups",
            got=", ".join(sorted(unknown)),
            where=", ".join(vocab.spectrum_groups),
        )
    blocks: list[BlockTable] = []
    lookup = np.zeros(vocab.vocab_size, dtype=np.int64)
    for block in vocab.blocks:
        if block.modality == "scalar":
            table = _scalar_table(vocab, codebooks.scalar, standardize, per_column)
        else:
            book = codebooks.image if block.name == "image" else codebooks.spectrum.get(block.name)
            table = _vector_table(block, book, standardize)
        if forms is not None and isinstance(table, CodedTable):
            form = getattr(forms, block.modality)
            check_form(block.modality, form)
            check_entries(form, block.name, table.entries, table.n_bins)
            table = replace(table, form=form)
        lookup[block.start : block.stop] = len(blocks)
        blocks.append(table)
    lookup[: vocab.blocks[0].start] = len(blocks)
    n_columns = next((len(t.n_bins) for t in blocks if t.n_bins is not None), 1)
    return Tables(tuple(blocks), vocab.first_column_type, n_columns, lookup, vocab.modality_of_type())


def _vector_table(block: Block, book: Codebook | None, standardize: bool) -> BlockTable:
    if book is None:
        return BlockTable(name=block.name, modality=block.modality, start=block.start, size=block.size)
    entries = torch.as_tensor(book.entries, dtype=torch.float64)
    if len(entries) > block.size:
        raise ArtifactError(
            f"at most {block.size} entries, the size of its block", got=len(entries), where=f"codebook {block.name}"
        )
    mean = torch.as_tensor(book.mean, dtype=torch.float64) if standardize else torch.zeros(entries.shape[1]).double()
    scale = torch.tensor(book.scale if standardize else 1.0, dtype=torch.float64)
    return CodedTable(
        name=block.name,
        modality=block.modality,
        start=block.start,
        size=len(entries),
        entries=(entries - mean) / scale,
        mean=mean,
        scale=scale,
    )


def _scalar_table(vocab: VocabSpec, book: ScalarCodebook | None, standardize: bool, per_column: bool) -> BlockTable:
    """A row per column of the vocabulary; one row if it has none, or if the targets' columns are unknown."""
    block = vocab.block("scalar")
    n_rows = max(len(vocab.scalar_columns), 1) if per_column else 1
    if book is None:
        known = vocab.n_bins if vocab.n_bins is not None and per_column else [block.size] * n_rows
        n_bins = torch.tensor(known)
        return BlockTable(name="scalar", modality="scalar", start=block.start, size=block.size, n_bins=n_bins)
    columns = list(book.columns)
    if len(columns) > 1 and set(columns) != set(vocab.scalar_columns):
        raise ArtifactError(
            f"bin centres of the columns {', '.join(vocab.scalar_columns) or '(none)'}",
            got=", ".join(columns),
            where="scalar codebook",
        )
    rows = [columns.index(c) for c in vocab.scalar_columns] if len(columns) > 1 else [0] * n_rows
    n_bins = torch.as_tensor(book.n_bins[rows])
    if int(n_bins.max()) > block.size:
        raise ArtifactError(f"at most {block.size} bins, the size of the block", got=int(n_bins.max()), where="scalars")
    size = min(block.size, book.centers.shape[1])
    centers = torch.as_tensor(book.centers[rows, :size], dtype=torch.float64)
    mean = torch.as_tensor(book.mean[rows] if standardize else np.zeros(len(rows)), dtype=torch.float64)
    scale = torch.as_tensor(book.scale[rows] if standardize else np.ones(len(rows)), dtype=torch.float64)
    entries = (centers - mean[:, None]) / scale[:, None]
    entries = entries.masked_fill(torch.arange(size) >= n_bins[:, None], 0.0)
    return CodedTable(
        name="scalar",
        modality="scalar",
        start=block.start,
        size=size,
        n_bins=n_bins,
        entries=entries,
        mean=mean,
        scale=scale,
    )


def as_array(values: Any) -> np.ndarray:
    """Array of a tensor or anything array-like, float64."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def as_codebook(values: Any) -> Codebook:
    """A :class:`Codebook`, or an array ``(C, D)`` whose entries then weigh the same in the statistics."""
    return values if isinstance(values, Codebook) else Codebook(as_array(values))


def as_scalar_codebook(values: Any, vocab: VocabSpec, per_column: bool) -> ScalarCodebook | None:
    """Bin centres ``(V,)`` shared by all columns, or ``(n_columns, V)``, as a codebook.

    Centres per column need to know a target's column. Where it is unknown (no ``target_types``, or a vocabulary
    without columns), an array is used as one column of mean standardised centres, with a warning.

    Raises:
        ConfigError: a ``ScalarCodebook`` of several columns while the columns of the targets are unknown, or an
            array with a wrong number of rows.
    """
    if values is None:
        return None
    if isinstance(values, ScalarCodebook):
        if len(values.columns) > 1 and not per_column:
            raise ConfigError(
                "target_types, which say a target's column",
                got="centres of several columns and none",
                repair="pass target_types=types[:, 1:]",
            )
        return values
    centers = np.atleast_2d(as_array(values))
    n_bins = None if vocab.n_bins is None else np.asarray(vocab.n_bins)
    columns = vocab.scalar_columns if per_column and vocab.scalar_columns else ("scalar",)
    if len(centers) > 1 and columns == ("scalar",) and len(vocab.scalar_columns) in (0, len(centers)):
        warnings.warn(
            "bin centres of several columns, and none is known of a target: the columns' mean is used; pass "
            "target_types=types[:, 1:], and a vocabulary with scalar_columns",
            stacklevel=3,
        )
        centers, n_bins = _mean_column(centers), None
    if len(centers) > 1 and len(centers) != len(columns):
        raise ConfigError(
            f"bin centres of {len(columns)} column(s)",
            got=f"shape {centers.shape}",
            repair="pass target_types, and a vocabulary with scalar_columns",
        )
    if n_bins is None or len(n_bins) != len(columns):
        n_bins = np.full(1, centers.shape[1]) if len(centers) == 1 else _used_bins(centers)
    repeats = len(columns) // len(centers)
    centers, n_bins = np.repeat(centers, repeats, axis=0), np.repeat(n_bins, len(columns) // len(n_bins))
    return ScalarCodebook(columns, centers, np.ones(centers.shape), n_bins)


def _used_bins(centers: np.ndarray) -> np.ndarray:
    """Bins of each column, ``(n_columns,)``: zeros behind the last centre are padding.

    >>> _used_bins(np.array([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0], [-2.0, -1.0, 0.0]]))
    array([3, 1, 3])
    """
    n_zeros = (centers[:, ::-1] == 0).cumprod(axis=1).sum(axis=1)
    used = np.maximum(centers.shape[1] - n_zeros, 1)
    last = np.take_along_axis(centers, used[:, None] - 1, axis=1)[:, 0]
    return np.where((n_zeros > 0) & (last < 0), used + 1, used)  # after a negative centre, a zero may be one itself


def _mean_column(centers: np.ndarray) -> np.ndarray:
    """Mean over the columns of their standardised centres, ``(1, V)``.

    Bins are quantiles, so the same bin of two columns stands for about the same rank in both.
    """
    beyond = np.arange(centers.shape[1]) >= _used_bins(centers)[:, None]
    real = np.ma.masked_array(centers, beyond)
    spread = real.std(axis=1, keepdims=True).filled(0.0)
    standardized = (real - real.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    return standardized.mean(axis=0).filled(0.0)[None]


def as_codebooks(vocab: VocabSpec, image: Any, spectrum: Any, scalar: Any, per_column: bool) -> Codebooks:
    """The arguments of the public functions (arrays, tensors, codebooks, a mapping for spectra) as :class:`Codebooks`.

    Spectra may come stacked, ``(n_groups, V, D)`` in the order of the vocabulary's groups, zero-padded to the largest
    codebook, as ``spectrum_tokenizer_config.npz`` has them. A single codebook for several groups is used for each of
    them, with a warning.

    Raises:
        ConfigError: a stack of another number of codebooks than groups.
    """
    if spectrum is not None and not isinstance(spectrum, Mapping | Codebook) and as_array(spectrum).ndim == 3:
        stacked = as_array(spectrum)
        if len(stacked) != len(vocab.spectrum_groups):
            raise ConfigError(
                f"codebooks of {len(vocab.spectrum_groups)} groups",
                got=f"shape {stacked.shape}",
                where=", ".join(vocab.spectrum_groups),
            )
        used = [np.flatnonzero(book.any(1)) for book in stacked]  # the padding would count as codes
        spectrum = {
            group: book[: rows[-1] + 1]
            for group, book, rows in zip(vocab.spectrum_groups, stacked, used, strict=True)
            if len(rows)
        }
    if isinstance(spectrum, Mapping):
        books = {group: as_codebook(book) for group, book in spectrum.items() if book is not None}
    else:
        one = None if spectrum is None else as_codebook(spectrum)
        if one is not None and len(vocab.spectrum_groups) > 1:
            warnings.warn(
                f"one spectrum codebook is used for all of {', '.join(vocab.spectrum_groups)}; pass a "
                "mapping from group to codebook",
                stacklevel=3,
            )
        books = {} if one is None else dict.fromkeys(vocab.spectrum_groups, one)
    scalars = as_scalar_codebook(scalar, vocab, per_column)
    return Codebooks(None if image is None else as_codebook(image), books, scalars)
