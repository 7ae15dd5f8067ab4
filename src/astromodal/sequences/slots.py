"""Sequences of many rows at once: a matrix with a column for each possible token, compressed by one mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ArtifactError
from ..tokens.store import COMMAND, FieldTokens
from ..vocabulary.vocab import BOS, EOS, MISS, NONDET
from .layout import Segment, SequenceLayout


@dataclass(frozen=True)
class PackedChunk:
    """Sequences of consecutive rows of one field; rows with nothing to show are gone."""

    tokens: np.ndarray  # flat
    types: np.ndarray  # flat
    sigma: np.ndarray  # flat, float16: standard error of each token's target, 0 for none
    lengths: np.ndarray  # (m,)
    rows: np.ndarray  # (m,) rows of the field that have a sequence


def pack_rows(field: FieldTokens, start: int, stop: int, layout: SequenceLayout, missing: str) -> PackedChunk:
    """Sequences of rows ``start`` to ``stop`` of a field.

    Raises:
        ArtifactError: a code is outside of its block, so the tokens belong to another codebook.
    """
    n, width = stop - start, layout.max_length
    tokens = np.zeros((n, width), _token_dtype(layout))
    sigma = np.zeros((n, width), np.float16)
    keep = np.zeros((n, width), bool)
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    keep[:, 0] = keep[:, -1] = True
    slot_types = np.zeros(width, _type_dtype(layout))
    something = np.zeros(n, bool)
    slot = 1
    for segment in layout.segments:
        cells = slice(slot, slot + segment.length)
        present = _fill(tokens[:, cells], sigma[:, cells], field, segment, layout, start, stop)
        keep[:, cells] = present[:, None]
        if missing == "token":
            tokens[~present, slot] = MISS
            keep[:, slot] = True
        something |= present
        slot_types[cells] = segment.type
        slot += segment.length
    keep &= something[:, None]
    lengths = keep.sum(1, dtype=np.int64)
    types = np.broadcast_to(slot_types, keep.shape)
    rows = start + np.flatnonzero(something)
    return PackedChunk(tokens[keep], types[keep], sigma[keep], lengths[something], rows)


def segment_tokens(
    field: FieldTokens, segment: Segment, layout: SequenceLayout, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Global ids ``(n, length)`` int64 of one part of rows ``start`` to ``stop``, their errors ``(n, length)`` float16,
    and which rows have it ``(n,)``.

    Raises:
        ArtifactError: a code is outside of its block.
    """
    cells = np.zeros((stop - start, segment.length), np.int64)
    sigma = np.zeros(cells.shape, np.float16)
    present = _fill(cells, sigma, field, segment, layout, start, stop)
    return cells, sigma, np.asarray(present, bool)


def _fill(
    cells: np.ndarray,
    sigma: np.ndarray,
    field: FieldTokens,
    segment: Segment,
    layout: SequenceLayout,
    start: int,
    stop: int,
) -> np.ndarray:
    """Write one segment's global ids and errors into its slots; returns which rows have it (others stay)."""
    if segment.modality == "scalar":
        j = layout.columns.index(segment.name)
        undetected = np.asarray(field.scalar["nondetected"][start:stop, j])
        present = field.scalar["present"][start:stop, j] & ~undetected
        codes = field.scalar["tokens"][start:stop, j][present]
        cells[present, 0] = _global(codes, segment, field)
        cells[undetected, 0] = NONDET
        sigma[present, 0] = field.scalar["sigma"][start:stop, j][present]
        return present | undetected
    if segment.name != "image":
        part = field.spectra[segment.name]
        present = np.asarray(part.present[start:stop])
        where = slice(int(part.offsets[start]), int(part.offsets[stop]))
        codes = part.tokens[where].reshape(-1, segment.length)
        sigma[present] = part.sigma[where].reshape(-1, segment.length)
    else:
        present = np.asarray(field.image["present"][start:stop])
        codes = field.image["tokens"][start:stop][present]
        sigma[present] = field.image["sigma"][start:stop][present]
    cells[present] = _global(codes, segment, field)
    return present


def _global(codes: np.ndarray, segment: Segment, field: FieldTokens) -> np.ndarray:
    """Local codes as global ids."""
    largest = int(codes.max()) if codes.size else 0
    if largest >= segment.size and codes.size:
        raise ArtifactError(
            f"codes of {segment.name} below {segment.size}",
            got=largest,
            where=f"field {field.field}",
            repair=f"run {COMMAND}",
        )
    return codes.astype(np.int64) + segment.base


def _token_dtype(layout: SequenceLayout) -> np.dtype:
    return np.dtype(np.uint16 if layout.vocab.vocab_size <= 1 << 16 else np.uint32)


def _type_dtype(layout: SequenceLayout) -> np.dtype:
    return np.dtype(np.uint8 if layout.vocab.n_types <= 1 << 8 else np.uint16)


def check_field(field: FieldTokens, layout: SequenceLayout) -> None:
    """The field's files have the parts that the layout asks for."""
    wanted: dict[str, tuple[object, object, bool]] = {
        "columns of the scalar tokens": (field.columns, layout.columns, bool(layout.columns)),
        "tokens per image": (
            field.image["tokens"].shape[1] if field.image else 0,
            layout.image_length,
            "image" in layout.modalities and layout.image_length > 0,
        ),
    }
    for group, length in layout.group_lengths.items():
        part, needed = field.spectra.get(group), layout.vocab.block(group).modality in layout.modalities
        wanted[f"tokens per {group}"] = (part.length if part else 0, length, needed)
    for name, (found, expected, needed) in wanted.items():
        if needed and found != expected:
            raise ArtifactError(f"{name}: {expected}", got=found, where=f"field {field.field}", repair=f"run {COMMAND}")
