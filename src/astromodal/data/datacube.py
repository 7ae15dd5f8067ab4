"""Datacubes: one Parquet file per field, one row per object, most modalities null for most objects.

A cube is checked when it is opened (footer, columns, types), so that a damaged or foreign file is refused before
any work starts; lengths and values are checked as they are read. Reading streams: memory depends on
``data.batch_rows``, not on the file, whatever the size of its row groups.
"""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..config.names import check_name
from ..core.ids import hash_ids, normalize_ids
from ..core.manifest import fingerprint_file
from ..errors import ConfigError, DataError
from .columns import is_number, list_column_ragged, list_column_to_matrix, list_value_type, numbers, refuse_twice
from .masks import mask_columns, unmasked

if TYPE_CHECKING:
    from ..config.schema import DataConfig

__all__ = [
    "Batch", "Datacube", "check_unique_ids", "discover", "list_column_ragged", "list_column_to_matrix",
    "needed_columns",
]  # fmt: skip

BUFFER = 1 << 20  # bytes read ahead per column: without it Arrow holds the whole row group's column chunk
LIGHT_ROWS = 16384  # rows per batch where only ids and positions are read


@dataclass(frozen=True)
class Batch:
    """Some rows of a cube. Offers what the readers use of an Arrow batch: ``column``, ``num_rows``, ``schema``."""

    table: pa.RecordBatch
    rows: np.ndarray  # (n,) int64: row of the cube
    field: str
    masked: Mapping[str, int] = dataclass_field(default_factory=dict)  # column → values that a mask made null

    @property
    def first_row(self) -> int:
        """Row of the cube of the first object."""
        return int(self.rows[0]) if len(self.rows) else 0

    @property
    def num_rows(self) -> int:
        return self.table.num_rows

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def column(self, name: str) -> pa.Array:
        return self.table.column(name)

    def __len__(self) -> int:
        return self.table.num_rows


def needed_columns(data: DataConfig) -> dict[str, str]:
    """Columns that the configuration names: name → ``id``, ``number`` or ``list``, in order of first mention."""
    needed = {data.id_column: "id"}
    pairs = [(data.ra_column, "number"), (data.dec_column, "number")]
    for name, scalar in data.scalars.items():
        pairs += [(scalar.column or name, "number"), (scalar.error, "number")]
    for group in data.spectra.values():
        pairs += [(column, "list") for column in (group.flux, group.ivar, group.error, group.wave)]
    if data.images is not None:
        pairs += [(band.column, "list") for band in data.images.bands.values()]
        pairs += [(column, "number") for column in (data.images.a, data.images.b, data.images.theta)]
    for column, kind in pairs:
        if column:
            needed.setdefault(column, kind)
    return needed


def check_type(name: str, found: pa.DataType, kind: str, where: object) -> None:
    """Refuse a column of another type than its ``kind``: ``id``, ``number`` or ``list``.

    Raises:
        DataError: with the type.
    """
    element = list_value_type(found)
    right = {
        "id": not pa.types.is_nested(found) and not pa.types.is_null(found),
        "number": is_number(found) or pa.types.is_null(found),
        "list": pa.types.is_null(found) or (element is not None and (is_number(element) or pa.types.is_null(element))),
    }[kind]
    if not right:
        wanted = {"id": "an id (integer or text)", "number": "a number", "list": "a list of numbers"}[kind]
        raise DataError(f"{wanted} in column {name}", got=f"type {found}", where=where)


class Datacube:
    """One field's Parquet file, opened and checked. Holds no file handle, so it can be sent to other processes.

    Args:
        path: the file.
        data: the survey's configuration.
        field: the field's name; default: the file's name without ``datacube_``.

    Raises:
        DataError: no such file, not Parquet or cut off, no rows, a column missing, twice there, or of the wrong type.
    """

    def __init__(self, path: str | Path, data: DataConfig, field: str | None = None) -> None:
        self.path = Path(path)
        self.data = data
        self.field = field or self.path.stem.removeprefix("datacube_")
        with self._open() as file:
            schema = file.schema_arrow
            self.n_rows: int = file.metadata.num_rows
        self.columns: tuple[str, ...] = tuple(schema.names)
        self.masks = mask_columns(schema)
        if self.n_rows == 0:
            raise DataError("at least one row", got="none", where=self.path, repair="remove or rewrite the file")
        self._check_columns(schema)

    def __repr__(self) -> str:
        return f"Datacube({self.field}, {self.n_rows} rows, {self.path})"

    def _open(self) -> pq.ParquetFile:
        if not self.path.is_file():
            raise DataError("a datacube", got="no such file", where=self.path, repair="set data.root or data.fields")
        try:
            return pq.ParquetFile(self.path, pre_buffer=False, buffer_size=BUFFER)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                "a complete Parquet file", got=str(error).split("\n")[0][:200], where=self.path,
                repair="copy or write the file again; it may be cut off",
            ) from error  # fmt: skip

    def _check_columns(self, schema: pa.Schema) -> None:
        for name, kind in needed_columns(self.data).items():
            if name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, 1, cutoff=0.5)
                raise DataError(
                    f"column {name}", got=f"no such column{f'; the nearest is {near[0]}' if near else ''}",
                    where=self.path, repair="add the column (null where unknown) or take it out of data=…",
                )  # fmt: skip
            refuse_twice(self.columns, [name], self.path)
            check_type(name, schema.field(name).type, kind, self.path)

    def fingerprint(self) -> str:
        """Hash of the file's content."""
        return fingerprint_file(self.path)

    def ids(self) -> np.ndarray:
        """Ids of all rows as normalised text, ``(n_rows,)``.

        Raises:
            DataError: a row has no id.
        """
        parts = [self.batch_ids(batch) for batch in self.batches([self.data.id_column], rows=LIGHT_ROWS)]
        return np.concatenate(parts)

    def batch_ids(self, batch: Batch) -> np.ndarray:
        """Normalised ids of a batch that holds the id column, ``(n,)``."""
        try:
            return normalize_ids(batch.column(self.data.id_column))
        except DataError as error:
            place = f"{self.path}, column {self.data.id_column}, rows from {batch.first_row}"
            raise DataError.plain(f"{error} ({place})") from error

    def positions(self) -> np.ndarray:
        """Right ascension and declination of all rows in degrees, ``(n_rows, 2)`` float64, NaN where unknown."""
        names = [self.data.ra_column, self.data.dec_column]
        if not all(names):
            return np.full((self.n_rows, 2), np.nan)
        parts = []
        for batch in self.batches(names, rows=LIGHT_ROWS):
            where = f"{self.path}, ra and dec"
            parts.append(np.stack([numbers(batch.column(c), where).astype(np.float64) for c in names], axis=1))
        return np.concatenate(parts)

    def batches(
        self, columns: Sequence[str], rows: int | None = None, row_mask: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """The cube in order, some rows at a time.

        Args:
            columns: columns to read, each once or more often.
            rows: rows read at a time; default ``data.batch_rows``.
            row_mask: ``(n_rows,)`` bool; only these rows come, and row groups without any are not read.

        Raises:
            DataError: an unknown column, or data that cannot be decoded.
        """
        names = list(dict.fromkeys(columns))
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.columns, 1)
            raise DataError(f"column {unknown[0]}", got=f"none; nearest {near}", where=self.path)
        if row_mask is not None and len(row_mask) != self.n_rows:
            raise DataError(f"a mask of {self.n_rows} rows", got=len(row_mask), where=self.path)
        with self._open() as file:
            if file.metadata.num_rows != self.n_rows:
                raise DataError(f"{self.n_rows} rows", got=file.metadata.num_rows, where=f"{self.path}, changed since")
            groups, first = [], 0
            for group in range(file.metadata.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                if last > first and (row_mask is None or row_mask[first:last].any()):
                    groups.append((group, first))
                first = last
            for group, first in groups:
                yield from self._group_batches(file, group, first, names, rows or self.data.batch_rows, row_mask)

    def _group_batches(
        self, file: pq.ParquetFile, group: int, first: int, names: list[str], rows: int, mask: np.ndarray | None
    ) -> Iterator[Batch]:
        """One row group; groups one by one, so that a skipped one costs nothing and row numbers stay known."""
        masks = [self.masks[name] for name in names if name in self.masks]
        read = list(dict.fromkeys([*names, *masks]))
        stream = file.iter_batches(rows, row_groups=[group], columns=read, use_threads=False)
        while True:
            try:
                table = next(stream, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DataError(
                    "columns that can be decoded", got=str(error).split("\n")[0][:200],
                    where=f"{self.path}, rows from {first}", repair="copy or write the file again; it is damaged",
                ) from error  # fmt: skip
            if table is None:
                return
            index = np.arange(first, first + table.num_rows)
            first += table.num_rows
            if mask is not None:
                keep = mask[index]
                if not keep.any():
                    continue
                if not keep.all():
                    table, index = table.filter(pa.array(keep)), index[keep]
            if table.num_rows:
                counts: dict[str, int] = {}
                if masks:
                    table, counts = unmasked(table, names, self.masks)
                yield Batch(table, index, self.field, counts)


def discover(data: DataConfig, template: str) -> list[Datacube]:
    """The survey's datacubes, sorted by field.

    Args:
        data: the survey; ``data.fields`` chooses some of the fields.
        template: path with ``{field}``, such as ``cubes/datacube_{field}.parquet``.

    Raises:
        DataError: the folder is missing or holds no matching file, a field is unknown, or a cube is not usable.
    """
    if "{field}" not in template:
        return [Datacube(template, data)]
    folder = Path(template.split("{field}")[0] + "x").parent
    if not folder.is_dir():
        raise DataError("a folder with datacubes", got="no such folder", where=folder, repair="set data.root=…")
    before, after = template.split("{field}", 1)
    after = after.replace("{field}", "*")
    pattern = re.compile(re.escape(str(Path(before + "x"))[:-1]) + "(.+?)" + re.escape(after) + r"\Z", re.DOTALL)
    found = {}
    for path in glob.glob(glob.escape(before) + "*" + glob.escape(after)):
        if match := pattern.match(str(Path(path))):
            found[match.group(1)] = Path(path)
    if not found:
        raise DataError(
            f"files {Path(template).name}", got="none", where=folder,
            repair="set data.root=… to the folder with the datacubes, or paths.datacube_template=…",
        )  # fmt: skip
    for field in found if data.fields is None else ():
        try:
            check_name(field, "the name of a field")
        except ConfigError as error:  # it becomes a part of the names of token files and of folders
            raise DataError.plain(f"{error}; to repair: rename {found[field]}, or choose with data.fields") from error
    for field in data.fields or ():
        check_name(field, "data.fields")
        if field not in found:
            near = difflib.get_close_matches(field, found, 1, cutoff=0.3) or sorted(found)[:1]
            raise DataError("data.fields of existing fields", got=field, where=folder, repair=f"nearest: {near[0]}")
    chosen = sorted(set(data.fields)) if data.fields else sorted(found)
    return [Datacube(found[field], data, field) for field in chosen]


def check_unique_ids(cubes: Sequence[Datacube]) -> None:
    """Refuse an id that stands in more than one row of the survey. Keeps 8 bytes per object (a hash of the id).

    Raises:
        DataError: naming the id and its first two places.
    """

    def hashes(cube: Datacube) -> np.ndarray:
        return np.concatenate(
            [hash_ids(cube.batch_ids(b)) for b in cube.batches([cube.data.id_column], rows=LIGHT_ROWS)]
        )

    keys = np.empty(sum(cube.n_rows for cube in cubes), np.uint64)
    start = 0
    for cube in cubes:
        keys[start : start + cube.n_rows] = hashes(cube)
        start += cube.n_rows
    keys.sort()
    suspects = np.unique(keys[1:][keys[1:] == keys[:-1]])
    if not len(suspects):
        return
    seen: dict[str, str] = {}  # the few ids with equal hashes, compared as text
    for cube in cubes:
        for batch in cube.batches([cube.data.id_column], rows=LIGHT_ROWS):
            ids = cube.batch_ids(batch)
            for i in np.flatnonzero(np.isin(hash_ids(ids), suspects)):
                place = f"{cube.path}, row {batch.rows[i]}"
                if ids[i] in seen:
                    raise DataError(
                        "ids that are unique over all datacubes", got=f"{ids[i]} twice",
                        where=f"{seen[ids[i]]}; {place}", repair="remove one of the rows or rename it",
                    )  # fmt: skip
                seen[str(ids[i])] = place
