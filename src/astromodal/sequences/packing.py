"""Packed sequences: every object's sequence, built once, end to end in files that are read in parts afterwards.

Building sequences object by object in the loader costs 30 times as much as gathering prepacked ones (see
``benchmarks/loader.py``). Packing takes a few thousand rows at a time, fills a matrix with a column for each possible
token (the *slots*), and compresses it with one boolean mask; there is no loop over objects. The three splits are
three files, so that a split is a range and no list of indices is needed. A survey of more than some million objects is
packed in shards of whole fields, three files each, by as many processes as there are; where a shard ends depends on the
survey alone. Parts stand in the layout's fixed order;
other orders are made while batches are gathered.

A part that an object lacks leaves no token (``missing=absent``) or one MISS token with the part's type
(``missing=token``). A scalar that was observed but not detected is one NONDET token with the column's type. Objects
that have no part at all are left out and counted.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, ArtifactMissingError
from ..files.ids import hash_ids
from ..files.io import FileLock, NpzWriter
from ..parallel.each import each, in_this_process
from ..provenance.manifest import fingerprint_config, write_manifest
from ..tokens.store import FieldTokens, TokenStore
from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import MISS, NONDET
from .layout import SequenceLayout
from .packed import SPLITS, PackedSequences, shard_name
from .slots import PackedChunk, check_field, pack_rows

if TYPE_CHECKING:
    from ..config.schema import WorkersConfig

_VERSION = 3  # of the files; another one makes old files be packed again
_CHUNK_TOKENS = 1 << 21  # slots filled at once: bounds the memory, whatever the layout
_HISTOGRAM_STEP = 64  # tokens per bin of the length histogram
_POLL_SECONDS = 0.2
_SHARD_ROWS, _SHARDS = 1 << 22, 64  # rows of a shard, more where there would be more shards: each is an open file


class _Counts:
    """What the manifest says about packed sequences."""

    def __init__(self, layout: SequenceLayout) -> None:
        self.rows = dict.fromkeys(SPLITS, 0)
        self.tokens = np.zeros(layout.vocab.n_types, np.int64)
        self.special = dict.fromkeys(("MISS", "NONDET"), 0)
        self.histogram = np.zeros(layout.max_length // _HISTOGRAM_STEP + 1, np.int64)
        self.n_dropped = 0
        self.longest = 0

    def add(self, chunk: PackedChunk, split: np.ndarray, n_read: int) -> None:
        self.n_dropped += n_read - len(chunk.rows)
        for index, name in enumerate(SPLITS):
            self.rows[name] += int((split == index).sum())
        self.tokens += np.bincount(chunk.types, minlength=len(self.tokens))
        self.special["MISS"] += int((chunk.tokens == MISS).sum())
        self.special["NONDET"] += int((chunk.tokens == NONDET).sum())
        self.histogram += np.bincount(chunk.lengths // _HISTOGRAM_STEP, minlength=len(self.histogram))
        self.longest = max(self.longest, int(chunk.lengths.max(initial=0)))

    def merge(self, other: _Counts) -> None:
        """Add those of another shard."""
        self.n_dropped += other.n_dropped
        self.longest = max(self.longest, other.longest)
        self.tokens += other.tokens
        self.histogram += other.histogram
        for mine, theirs in ((self.rows, other.rows), (self.special, other.special)):
            for name in mine:
                mine[name] += theirs[name]

    def to_dict(self, layout: SequenceLayout) -> dict[str, Any]:
        by_modality = dict.fromkeys(("special", *MODALITIES.in_sequence()), 0)
        for modality, n in zip(layout.vocab.modality_of_type(), self.tokens.tolist(), strict=True):
            by_modality[modality] += n
        return {
            "rows": self.rows,
            "n_dropped": self.n_dropped,
            "longest": self.longest,
            "tokens": by_modality,
            "special_tokens": self.special,
            "length_histogram": {
                f"{i * _HISTOGRAM_STEP}-{(i + 1) * _HISTOGRAM_STEP - 1}": int(n)
                for i, n in enumerate(self.histogram)
                if n
            },
        }


def build_sequences(
    store: TokenStore,
    layout: SequenceLayout,
    missing: str = "absent",
    *,
    root: str | Path | None = None,
    workers: WorkersConfig | None = None,
    run_id: str | None = None,
    log: logging.Logger | None = None,
    progress: Callable[..., Any] | None = None,
) -> PackedSequences:
    """Packed sequences of all fields of ``store``; built when there are none for exactly these tokens and this layout.

    Args:
        missing: ``absent`` or ``token``.
        root: folder that holds the packed folders; default ``<store>/sequences``.
        workers: who packs the shards of a large survey; default: this process.
        progress: ``progress(total, description)`` gives something with ``update(n)`` (``run.progress``).

    Raises:
        ArtifactError: tokens do not belong to the layout, or no training object has a sequence; what was there before
            is as it was.
    """
    log = log or logging.getLogger(__name__)
    missing = str(getattr(missing, "value", missing))
    config = {"version": _VERSION, "missing": missing, "layout": layout.to_dict()}
    inputs = {field: entry["fingerprint"] for field, entry in store.entries.items()}
    folder = Path(root or store.folder.parent / "sequences") / fingerprint_config({"inputs": inputs, "config": config})
    with _wait_for(folder, log):
        old = _open_if_whole(folder, log)
        if old is not None:
            return old
        started = time.perf_counter()
        try:
            shards = shards_of(store)
            counts = _write(store, layout, missing, folder, progress, shards, workers)
            extra = {"summary": counts.to_dict(layout), "fields": store.fields(), "n_columns": len(layout.columns)}
            extra["n_shards"] = len(shards)
            files = [shard_name(name, shard.number, len(shards)) for shard in shards for name in SPLITS]
            write_manifest(
                folder, kind="sequences", config=config, inputs=inputs, files=files, run_id=run_id, extra=extra
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # half of it, which nothing would use
            raise
        log.info(
            "packed %d sequences (%d objects with nothing to show left out) in %.1f s: %s",
            sum(counts.rows.values()),
            counts.n_dropped,
            time.perf_counter() - started,
            folder,
        )
        return PackedSequences(folder)


@contextmanager
def _wait_for(folder: Path, log: logging.Logger) -> Iterator[None]:
    """Hold the lock on a packed folder; jobs of one sweep start together, and one of them packs for all."""
    said = False
    lock = FileLock(folder)
    while True:
        try:
            lock.acquire()
            break
        except ArtifactError as error:
            if isinstance(error.__cause__, OSError):  # not another process: a folder that cannot be written
                raise
            if not said:
                log.info("waiting for another process that packs %s", folder)
                said = True
            time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            folder.parent.rmdir()  # if nothing came of it


def _open_if_whole(folder: Path, log: logging.Logger) -> PackedSequences | None:
    """What was packed before, unless it is damaged: it is a cache, so it is simply made again."""
    try:
        return PackedSequences(folder)
    except ArtifactMissingError:
        return None
    except ArtifactError as error:
        log.warning("packing again, as what was packed is damaged: %s", str(error).split("; to repair")[0])
        return None


@dataclass(frozen=True)
class Shard:
    """Fields that are packed together."""

    number: int
    n_shards: int
    first: int  # number of its first field among those of the survey
    fields: tuple[str, ...]
    rows: int

    def __str__(self) -> str:
        return f"field {self.fields[0]}" + (f" to {self.fields[-1]}" if len(self.fields) > 1 else "")


def shards_of(store: TokenStore) -> list[Shard]:
    """The fields of a store, divided into runs of about as many rows; one for a survey of up to some million."""
    rows = np.array([int(entry["rows"]) for entry in store.entries.values()])
    before, target = np.cumsum(rows) - rows, max(_SHARD_ROWS, -(-int(rows.sum()) // _SHARDS))
    firsts = np.unique(before // target, return_index=True)[1].tolist()
    names, ends = store.fields(), [*firsts[1:], len(rows)]
    return [
        Shard(k, len(firsts), first, tuple(names[first:end]), int(rows[first:end].sum()))
        for k, (first, end) in enumerate(zip(firsts, ends, strict=True))
    ]


def _write(
    store: TokenStore,
    layout: SequenceLayout,
    missing: str,
    folder: Path,
    progress: Callable[..., Any] | None,
    shards: list[Shard],
    workers: WorkersConfig | None,
) -> _Counts:
    """Fill the files of the three splits of all shards.

    Raises:
        ArtifactError: tokens do not belong to the layout, or no training object has a sequence.
    """
    counts = _Counts(layout)
    bar = progress(store.n_rows, "packing") if progress else _NoBar()
    shared = (store, layout, missing, folder.absolute())
    try:
        if in_this_process(workers, len(shards)):
            for shard in shards:
                counts.merge(_write_shard(shard, *shared, bar.update))
        else:
            for shard, found in each(_write_shard, shards, workers, shared=shared, done="packed"):
                counts.merge(found)
                bar.update(shard.rows)
    finally:
        if hasattr(bar, "close"):
            bar.close()
    if not counts.rows["train"]:
        others = sum(counts.rows.values())
        raise ArtifactError(
            "at least one training object with one of the parts",
            got=f"{others} of other splits, {counts.n_dropped} with none",
            where=store.folder,
            repair="look at the summary of encode.py, or change sequence.modalities or data.splits (and encode)",
        )
    return counts


class _NoBar:
    """A bar that nobody sees."""

    def update(self, n: int = 1) -> None: ...


def _write_shard(
    shard: Shard,
    store: TokenStore,
    layout: SequenceLayout,
    missing: str,
    folder: Path,
    update: Callable[[int], Any] = lambda n: None,
) -> _Counts:
    """Fill the files of one shard, after a look at the token files of its fields."""
    counts = _Counts(layout)
    writers = [NpzWriter(folder / shard_name(name, shard.number, shard.n_shards)) for name in SPLITS]
    step = max(_CHUNK_TOKENS // layout.max_length, 1)
    try:
        for writer in writers:
            writer.append("offsets", np.zeros(1, np.int64))
        ends = np.zeros(len(SPLITS), np.int64)
        for index, field in enumerate(store.select(list(shard.fields)), shard.first):
            check_field(field, layout)
            for start in range(0, max(len(field), 1), step):
                stop = min(start + step, len(field))
                chunk = pack_rows(field, start, stop, layout, missing)
                split = np.asarray(field.split[chunk.rows])
                counts.add(chunk, split, stop - start)
                _append(writers, ends, chunk, split, index, field, layout)
                update(stop - start)
        for writer in writers:
            writer.close()
    finally:
        for writer in writers:
            writer.abort()
    return counts


def _append(
    writers: list[NpzWriter],
    ends: np.ndarray,
    chunk: PackedChunk,
    split: np.ndarray,
    index: int,
    field: FieldTokens,
    layout: SequenceLayout,
) -> None:
    """Append a chunk to the files of its splits; ``ends`` (tokens per file) moves on."""
    values = field.scalar["values"][chunk.rows] if layout.columns else np.zeros((len(chunk.rows), 0))
    if layout.columns:
        seen = field.scalar["present"][chunk.rows] & ~field.scalar["nondetected"][chunk.rows]
        values = np.where(seen, values, np.nan)
    hashes = hash_ids(np.asarray(field.ids[chunk.rows])) if len(chunk.rows) else np.zeros(0, np.uint64)
    of_token = np.repeat(split, chunk.lengths)
    for which, writer in enumerate(writers):
        rows, positions = split == which, of_token == which
        writer.append("tokens", chunk.tokens[positions])
        writer.append("types", chunk.types[positions])
        writer.append("sigma", chunk.sigma[positions])
        writer.append("offsets", ends[which] + np.cumsum(chunk.lengths[rows]))
        writer.append("field", np.full(int(rows.sum()), index, np.uint32))  # a HATS catalogue has 1e5 tiles
        writer.append("row", chunk.rows[rows].astype(np.int64))
        writer.append("object_hash", hashes[rows])
        writer.append("scalar_values", values[rows].astype(np.float64, copy=False))
        ends[which] += int(chunk.lengths[rows].sum())
