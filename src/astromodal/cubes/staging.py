"""A table, staged: the wanted rows and columns in an Arrow file that is mapped, with two small indexes beside it.

Whatever the format of a table, a row of it can then be had at once, by any process, and memory does not depend on the
table's length: the indexes are 8 bytes a row and mapped as well. While it is staged, each table takes 24 bytes a row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.sources.units import scaled
from ..errors import DataError
from ..files.ids import hash_ids, normalize_ids
from .tables import CSV, UNIT, batches, files_of
from .units import factor

if TYPE_CHECKING:
    from ..config.schema import CatalogueConfig

ID, RA, DEC = "__id", "__ra", "__dec"  # columns of a staged table, beside those that were asked for


@dataclass(frozen=True)
class Staged:
    """A staged table; holds paths only, so that it can be sent to other processes."""

    name: str
    path: Path
    n_rows: int
    counts: dict[str, int]

    @cached_property
    def table(self) -> pa.Table:
        """The mapped file."""
        return pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("name", "path", "n_rows", "counts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def take(self, rows: np.ndarray, columns: Iterable[str] | None = None) -> pa.Table:
        """Some rows, in the order asked; a negative number is a row of nulls."""
        table = self.table if columns is None else self.table.select(list(columns))
        return table.take(pa.array(rows, pa.int64(), mask=np.asarray(rows) < 0))

    def _index(self, kind: str) -> np.ndarray:
        return np.load(self.path.with_suffix(f".{kind}.npy"), mmap_mode="r")

    def near(self, ra: float, dec: float, radius: float) -> np.ndarray:
        """Rows within ``radius`` of a position, all in degrees; rows without position are left out. Sorted."""
        from astropy.coordinates import angular_separation

        decs, rows = self._index("decs"), self._index("rows")
        first, last = np.searchsorted(decs, dec - radius), np.searchsorted(decs, dec + radius, "right")
        found = np.sort(rows[first:last])
        where = self.take(found, (RA, DEC))
        away = angular_separation(*np.deg2rad([ra, dec]), *(np.deg2rad(where.column(c).to_numpy()) for c in (RA, DEC)))
        return found[np.rad2deg(away) <= radius * (1 + 1e-12) + 1e-12]

    def with_ids(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first row with each id (-1: none), and how many rows have it; both ``(n,)``."""
        if not len(ids):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        keys, rows, wanted = self._index("keys"), self._index("keyrows"), hash_ids(ids)
        first, last = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, "right")
        found = np.where(last > first, rows[np.minimum(first, max(len(rows) - 1, 0))] if len(rows) else -1, -1)
        return found, last - first


def stage(
    name: str,
    source: CatalogueConfig,
    root: Path,
    folder: Path,
    *,
    wanted_units: Mapping[str, tuple[str, list[float]]] | None = None,
    lists: Iterable[str] = (),
    key: str = "",
) -> Staged:
    """Stage a table.

    Args:
        wanted_units: name in the datacube → unit that its values are to be in, and values that are marks (99, -999)
            and stay.
        lists: columns of the datacube that are lists, also where a file has nothing in them.
        key: of the configuration, for messages.

    Raises:
        DataError: a file or column that is missing or damaged, units that do not convert, text as a position.
    """
    only = dict(_condition(text, key) for text in source.only)
    theirs = list(source.columns.values())
    read = [c for c in (source.id, source.ra, source.dec, *theirs, *only) if c]
    counts = {"files": 0, "rows": 0, "left_out": 0}

    def rows() -> Iterator[pa.RecordBatch]:
        for path in files_of(source.path or "", root, f"{key}.path"):
            counts["files"] += 1
            for batch in batches(path, read, source.hdu):
                counts["rows"] += batch.num_rows
                taken = _taken(batch, only, path)
                counts["left_out"] += batch.num_rows - taken.num_rows
                yield _staged(taken, source, wanted_units or {}, set(lists), path, key)

    return write(name, rows(), folder, counts)


def write(name: str, rows: Iterator[pa.RecordBatch], folder: Path, counts: dict[str, int]) -> Staged:
    """Write batches with the columns ``ID``, ``RA``, ``DEC`` (where known) to ``folder``, with indexes."""
    path = folder / f"{name}.arrow"
    first = next(rows, None)
    if first is None:
        raise DataError("a table with rows", got="none", where=name)
    decs, keys, n = [], [], 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
        batch: pa.RecordBatch | None = first
        while batch is not None:
            batch = _cast(batch, first.schema, name)
            writer.write_batch(batch)
            n += batch.num_rows
            if DEC in first.schema.names:
                decs.append(np.where(np.isfinite(_numbers(batch, RA)), _numbers(batch, DEC), np.nan))
            if ID in first.schema.names:
                keys.append(hash_ids(normalize_ids(batch.column(ID))) if batch.num_rows else np.empty(0, np.uint64))
            batch = next(rows, None)
    if decs:
        _save_sorted(path, "decs", "rows", np.concatenate(decs))
    if keys:
        _save_sorted(path, "keys", "keyrows", np.concatenate(keys))
    return Staged(name, path, n, counts)


def _save_sorted(path: Path, values: str, rows: str, array: np.ndarray) -> None:
    order = np.argsort(array, kind="stable")
    array = array[order]
    last = len(array) - int(np.isnan(array).sum()) if array.dtype.kind == "f" else len(array)  # NaN sorts last
    np.save(path.with_suffix(f".{values}.npy"), array[:last])
    np.save(path.with_suffix(f".{rows}.npy"), order[:last].astype(np.int64))


def _cast(batch: pa.RecordBatch, schema: pa.Schema, name: str) -> pa.RecordBatch:
    """Types of the first batch for all: files of one survey differ in the width of numbers."""
    if batch.schema.equals(schema):
        return batch
    try:
        return pa.RecordBatch.from_arrays(
            [
                batch.column(f.name).cast(f.type) if batch.schema.field(f.name).type != f.type else batch.column(f.name)
                for f in schema
            ],
            schema=schema,
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            "the same types of columns in all files", got=str(error).split("\n")[0][:120], where=name
        ) from error


def _condition(text: str, key: str) -> tuple[str, list[str]]:
    column, equals, values = text.partition("=")
    if not equals or not column:
        raise DataError("COLUMN=VALUE, or COLUMN=VALUE|VALUE", got=text, where=f"{key}.only")
    return column.strip(), [value.strip() for value in values.split("|")]


def _taken(batch: pa.RecordBatch, only: Mapping[str, list[str]], path: Path) -> pa.RecordBatch:
    for column, values in only.items():
        array = batch.column(column)
        if pa.types.is_floating(array.type):
            keep = pc.is_in(array, pa.array([float(v) for v in values], array.type))
        else:
            text = pc.utf8_trim_whitespace(array.cast(pa.string()))
            keep = pc.is_in(pc.utf8_lower(text), pa.array([v.lower() for v in values]))
        batch = batch.filter(keep)
    return batch


def _staged(
    batch: pa.RecordBatch,
    source: CatalogueConfig,
    wanted: Mapping[str, tuple[str, list[float]]],
    lists: set[str],
    path: Path,
    key: str,
) -> pa.RecordBatch:
    """One batch as it is staged: ids as text, positions in degrees, columns under their new names and units."""
    columns: dict[str, pa.Array] = {}
    if source.id:
        try:
            columns[ID] = pa.array(normalize_ids(batch.column(source.id)), pa.string())
        except DataError as error:
            raise DataError.plain(f"{error} ({path}, column {source.id})") from error
    for name, theirs in ((RA, source.ra), (DEC, source.dec)):
        if theirs:
            columns[name] = _degrees(batch, theirs, name, path)
    for ours, theirs in source.columns.items():
        stated = source.units.get(ours, _unit(batch, theirs))
        where = f"{path}, column {theirs}"
        unit, marks = wanted.get(ours, ("", ()))
        times = factor(stated, unit, where, f"{key}.units.{ours}=… if the file's unit is wrong")
        array = batch.column(theirs)
        guessed = path.name.lower().endswith(tuple(CSV)) and pa.types.is_integer(array.type)
        if pa.types.is_null(array.type):
            array = array.cast(pa.list_(pa.float64()) if ours in lists else pa.float64())
        elif guessed and not ours.startswith("__"):  # other rows may have fractions
            with contextlib.suppress(pa.ArrowInvalid):  # integers with more digits stay integers
                array = array.cast(pa.float64())
        columns[ours] = array if times == 1 else _scaled(array, times, marks)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _scaled(array: pa.Array, times: float, marks: Iterable[float]) -> pa.Array:
    values = scaled(array, times, list(marks))
    return values.cast(pa.list_(values.type.value_type)) if pa.types.is_large_list(values.type) else values


def _unit(batch: pa.RecordBatch, column: str) -> str:
    return ((batch.schema.field(column).metadata or {}).get(UNIT) or b"").decode()


def _degrees(batch: pa.RecordBatch, column: str, name: str, path: Path) -> pa.Array:
    """Right ascension in [0, 360), declination; null where one of them is no position."""
    array, where = batch.column(column), f"{path}, column {column}"
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
        raise DataError(
            "positions as numbers, in degrees or the unit that the file states",
            got=f"type {array.type}",
            where=where,
            repair="convert sexagesimal text, as with astropy's SkyCoord",
        )
    stated = _unit(batch, column)
    times = factor(stated, "deg", where, "rewrite the column in degrees")
    values = array.cast(pa.float64()).to_numpy(zero_copy_only=False) * times
    finite = np.isfinite(values)
    if name == DEC and (np.abs(values[finite]) > 90).any():
        raise DataError(
            "declinations of -90 to 90 degrees",
            got=values[finite][np.abs(values[finite]) > 90][0],
            where=where,
            repair="name the right column, or set the unit",
        )
    values = values % 360.0 if name == RA else values
    return pa.array(values, mask=~finite)


def _numbers(batch: pa.RecordBatch, column: str) -> np.ndarray:
    return batch.column(column).to_numpy(zero_copy_only=False).astype(np.float64)
