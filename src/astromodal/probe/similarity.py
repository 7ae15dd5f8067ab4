"""The objects that are most like an object: nearest neighbours by the cosine between embeddings, exact.

Embeddings are read chunk by chunk and every chunk is multiplied with all queries at once, so that memory holds one
chunk and ``k`` neighbours of each query. Equal similarities are ordered by the place in the file.

Shapes: n objects, q queries, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..ask.catalogue import ParquetReader, files_of
from ..errors import ArtifactError, ArtifactMissingError, ConfigError, DataError
from ..files.ids import normalize_ids
from ..machine.program import program

FILE = "embeddings.parquet"
_WRITTEN = "embeddings written by evaluate.py or probes, as a whole Parquet file"
_CHUNK_CELLS = 1 << 23  # numbers of a chunk, and of its similarities


class Neighbours(NamedTuple):
    """The ``k`` nearest of each query, the nearest first; ids are empty and cosines NaN where there are fewer."""

    ids: np.ndarray  # (q, k) str
    cosines: np.ndarray  # (q, k) float32


def nearest_objects(
    embeddings: np.ndarray, ids: np.ndarray, query_ids: Sequence[str] | np.ndarray, k: int = 10
) -> Neighbours:
    """Nearest objects by cosine, without the object itself.

    Args:
        embeddings: ``(n, D)``, an array or a memory map; rows that are not finite, or zero, are nobody's neighbours.
        ids: ``(n,)``.
        query_ids: objects among ``ids``.

    Raises:
        DataError: a query that is not there, or has no embedding.

    >>> found = nearest_objects(np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), np.array(["a", "b", "c"]), ["a"], k=2)
    >>> found.ids.tolist(), found.cosines.astype(float).round(3).tolist()
    ([['c', 'b']], [[0.949, 0.0]])
    """
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise DataError("embeddings (n, D) and n ids", got=f"{embeddings.shape} and {len(ids)}")
    ids, step = np.asarray(ids, np.str_), max(_CHUNK_CELLS // max(embeddings.shape[1], 1), 1)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(ids), step):
            yield ids[start : start + step], np.asarray(embeddings[start : start + step])

    return _search(chunks, np.asarray(query_ids, np.str_), k)


def nearest_in_file(path: str | Path, query_ids: Sequence[str], k: int = 10, how: str = "mean") -> Neighbours:
    """The same among embeddings in a file; read twice, never as a whole.

    Args:
        path: run directory of evaluate.py, folder of probes, or file.
        how: ``mean``, ``last``, ``attention``, or ``attention_<label>``.

    Raises:
        ArtifactMissingError: no embeddings there.
        ArtifactError: not such a file, or without this kind of embedding.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() and path.suffix != ".parquet" else path
    files = files_of(path)
    if not files:
        raise ArtifactMissingError("embeddings", got="no such file", where=path, repair=_repair("mean"))
    name = f"embedding_{how}"
    try:
        with ParquetReader(files[0], _WRITTEN) as file:
            columns = file.schema_arrow
        if not {"id", name} <= set(columns.names):
            raise ArtifactError(
                f"columns id and {name}", got=", ".join(columns.names)[:200], where=path, repair=_repair(how)
            )
        width = columns.field(name).type.list_size
    except AttributeError as error:
        raise ArtifactError(_WRITTEN, got=str(error).split("\n")[0][:200], where=path) from error

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for file in files:
            rows = max(_CHUNK_CELLS // width, 1)
            for batch in ParquetReader(file, _WRITTEN).iter_batches(rows, columns=["id", name]):
                yield _as_arrays(batch, name, width)

    return _search(chunks, normalize_ids(np.asarray(query_ids, np.str_)), k)


def _repair(how: str) -> str:
    """How embeddings of a kind are made, or another kind is asked for."""
    other = "name another with --embedding"
    if how in ("mean", "last"):
        return f"run python evaluate.py evaluate.embeddings=[{how}], or {other}"
    return f"fit it with {program()} probe RUN --label COLUMN, or {other}"


def _as_arrays(batch: pa.RecordBatch, name: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and embeddings ``(m, D)`` of a batch; NaN where there is none."""
    lists = batch.column(name)
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    found = np.full((len(lists), width), np.nan, np.float32)
    found[there] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)  # flatten() skips nulls
    return np.asarray(batch.column("id").to_pylist(), np.str_), found


def _search(chunks: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]], wanted: np.ndarray, k: int) -> Neighbours:
    """Two passes: the queries' embeddings, then all objects against them."""
    if k < 1:
        raise ConfigError("k of 1 or more", got=k)
    queries = _queries(chunks(), wanted)
    step = max(_CHUNK_CELLS // max(len(wanted), 1), 1)
    best, names = np.full((len(wanted), 0), -np.inf, np.float32), np.full((len(wanted), 0), "", np.str_)
    for ids, embeddings in chunks():
        for start in range(0, len(ids), step):
            here, unit = ids[start : start + step], _unit(embeddings[start : start + step])
            cosine = np.clip(queries @ unit.T, -1.0, 1.0)  # (q, m); NaN where an embedding is
            cosine[np.isnan(cosine) | (wanted[:, None] == here)] = -np.inf
            best, names = _merged(best, names, cosine, here, k)
    pad = ((0, 0), (0, k - best.shape[1]))
    best, names = np.pad(best, pad, constant_values=-np.inf), np.pad(names, pad, constant_values="")
    there = np.isfinite(best)
    return Neighbours(np.where(there, names, ""), np.where(there, best, np.float32("nan")))


def _merged(
    best: np.ndarray, names: np.ndarray, cosine: np.ndarray, ids: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` best of what was found before ``(q, <=k)`` and of a chunk ``(q, m)``, the best first."""
    chosen = _top(cosine, k)
    best = np.concatenate([best, np.take_along_axis(cosine, chosen, 1)], 1)
    names = np.concatenate([names, ids[chosen]], 1)
    order = np.argsort(-best, axis=1, kind="stable")[:, :k]  # stable: what came first stays first
    return np.take_along_axis(best, order, 1), np.take_along_axis(names, order, 1)


def _top(cosine: np.ndarray, k: int) -> np.ndarray:
    """Places of the ``k`` largest of each row, rising; of those equal to the k-th the first ones."""
    m = cosine.shape[1]
    if m <= k:
        return np.broadcast_to(np.arange(m), cosine.shape)
    least = -np.partition(-cosine, k - 1, axis=1)[:, k - 1 : k]
    above, equal = cosine > least, cosine == least
    room = k - above.sum(1, keepdims=True)
    taken = above | (equal & (equal.cumsum(1) <= room))
    return np.nonzero(taken)[1].reshape(len(cosine), k)


def _queries(chunks: Iterator[tuple[np.ndarray, np.ndarray]], wanted: np.ndarray) -> np.ndarray:
    """Unit embeddings ``(q, D)`` of the queries.

    Raises:
        DataError: an object is missing, or has no embedding.
    """
    unique, back = np.unique(wanted, return_inverse=True)
    found: np.ndarray | None = None
    seen = np.zeros(len(unique), bool)
    for ids, embeddings in chunks:
        if found is None:
            found = np.full((len(unique), embeddings.shape[1]), np.nan, np.float32)
        rows = np.flatnonzero(np.isin(ids, unique))
        at = np.searchsorted(unique, ids[rows])
        found[at], seen[at] = _unit(embeddings[rows]), True
    if found is None or not len(wanted) or not seen.all():
        raise DataError("queries among the objects", got=f"unknown: {', '.join(unique[~seen][:3]) or 'no query'}")
    lacking = unique[np.isnan(found).any(1)]
    if len(lacking):
        raise DataError("queries that have an embedding", got=f"none for {', '.join(lacking[:3])}")
    return found[back]


def _unit(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; NaN where one is not finite or zero."""
    values = np.asarray(embeddings, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = values / np.sqrt((values**2).sum(1, keepdims=True))
    return np.where(np.isfinite(unit).all(1, keepdims=True), unit, np.nan).astype(np.float32)
