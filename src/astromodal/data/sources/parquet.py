"""A field in Parquet: one file, or several part files that follow each other.

Every part has to have the columns that are asked for, in types that agree; one that lacks a column, or holds text where
the others hold numbers, is named. Reading streams: memory depends on the rows of a batch, not on the row groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError
from ...provenance.fingerprints import fingerprint_config
from ...provenance.manifest import fingerprint_file
from . import nested
from .units import parquet_units

BUFFER = 1 << 20  # bytes read ahead per column: without it Arrow holds the whole row group's column chunk


class ParquetSource:
    """The rows of some Parquet files, one file after the other. Holds no handle, so it can be sent to other processes.

    Args:
        paths: the part files, in order.
        path: what messages call the whole; default: the first file.

    Attributes:
        path, where, n_rows.
        schema: the columns that all parts have, as stored.
        lacking: column that some part lacks → that part.

    Raises:
        DataError: no such file, not Parquet or cut off, no rows, or parts whose columns do not agree.
    """

    def __init__(self, paths: Sequence[Path], path: Path | None = None) -> None:
        self.paths, self.path = [Path(p) for p in paths], Path(path or paths[0])
        self.where = str(self.path)
        self._lengths, schemas = [], []
        for part in self.paths:
            with _open(part) as file:
                self._lengths.append(file.metadata.num_rows)
                schemas.append(file.schema_arrow)
        self.n_rows = sum(self._lengths)
        if self.n_rows == 0:
            raise DataError("at least one row", got="none", where=self.path, repair="remove or rewrite the file")
        self.lacking = {
            n: part
            for schema in schemas
            for n in schema.names
            for part, other in zip(self.paths, schemas, strict=True)
            if n not in other.names
        }
        self.schema = schemas[0] if len(schemas) == 1 else self._common(schemas)
        self._metadata = dict(schemas[0].metadata or {})

    @property
    def kind(self) -> str:
        """What this is, for reports."""
        return "Parquet" if len(self.paths) == 1 else f"Parquet, {len(self.paths)} part files"

    def _common(self, schemas: Sequence[pa.Schema]) -> pa.Schema:
        """The columns that all parts have; of two types of numbers, or null and another, the wider."""
        fields = []
        for field in schemas[0]:
            if field.name in self.lacking or schemas[0].names.count(field.name) > 1:
                continue
            for part, schema in zip(self.paths[1:], schemas[1:], strict=True):
                other = schema.field(field.name) if schema.names.count(field.name) == 1 else field
                if other.type != field.type:
                    field = self._wider(field, other, part)
            fields.append(field)
        twice = [field for field in schemas[0] if schemas[0].names.count(field.name) > 1]
        return pa.schema([*fields, *twice], metadata=schemas[0].metadata)

    def _wider(self, field: pa.Field, other: pa.Field, part: Path) -> pa.Field:
        mine, theirs = (pa.field(f.name, nested.plain_type(f.type)) for f in (field, other))
        try:
            return pa.unify_schemas([pa.schema([mine]), pa.schema([theirs])], promote_options="permissive").field(0)
        except pa.ArrowException as error:
            raise DataError(
                f"one type of column {field.name} in all parts",
                got=f"{field.type} and {other.type}",
                where=f"{self.paths[0]}; {part}",
                repair="write the parts again, with one schema",
            ) from error

    def units(self) -> Mapping[str, str]:
        """Units that the files state, by column."""
        return parquet_units(self._metadata, self.schema)

    @property
    def files(self) -> list[Path]:
        """The part files."""
        return self.paths

    def fingerprint(self) -> str:
        """Hash of the content; of several parts, of their names and contents."""
        if len(self.paths) == 1:
            return fingerprint_file(self.paths[0])
        return fingerprint_config({part.name: fingerprint_file(part) for part in self.paths})

    def batches(
        self, names: Sequence[str], rows: int, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Plain columns (see :func:`.nested.take`) and the number of the first row, some rows at a time.

        ``wanted`` (n_rows,) bool: row groups without such a row are not read; of the others all rows come.

        Raises:
            DataError: data that cannot be decoded, or a file that changed since.
        """
        first = 0
        for part, length in zip(self.paths, self._lengths, strict=True):
            if wanted is None or wanted[first : first + length].any():
                with _open(part) as file:
                    if file.metadata.num_rows != length:
                        raise DataError(f"{length} rows", got=file.metadata.num_rows, where=f"{part}, changed since")
                    yield from self._part(file, part, first, names, rows, wanted)
            first += length

    def _part(
        self, file: pq.ParquetFile, part: Path, first: int, names: Sequence[str], rows: int, wanted: np.ndarray | None
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """One file; row groups one by one, so that a skipped one costs nothing and row numbers stay known."""
        columns = _stored(file, part, names)
        for group in range(file.metadata.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            if last > first and (wanted is None or wanted[first:last].any()):
                at = first
                for table in self._decoded(file, part, at, group, columns, rows):
                    yield nested.take(table, names), at
                    at += table.num_rows
            first = last

    def _decoded(
        self, file: pq.ParquetFile, part: Path, first: int, group: int, columns: list[str], rows: int
    ) -> Iterator[pa.RecordBatch]:
        stream = file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
        while True:
            try:
                table = next(stream, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DataError(
                    "columns that can be decoded",
                    got=str(error).split("\n")[0][:200],
                    where=f"{part}, rows from {first}",
                    repair="copy or write the file again; it is damaged",
                ) from error
            if table is None:
                return
            first += table.num_rows
            yield table


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise DataError("a datacube", got="no such file", where=path, repair="set data.root or data.fields")
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "a complete Parquet file",
            got=str(error).split("\n")[0][:200],
            where=path,
            repair="copy or write the file again; it may be cut off",
        ) from error


def _stored(file: pq.ParquetFile, part: Path, names: Sequence[str]) -> list[str]:
    """Paths of the leaves of the file that names stand in: of a nested column only the fields that are asked for."""
    schema = file.schema_arrow
    leaves: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    at = 0
    for field in schema:
        for steps in _leaves(field.type):
            leaves.setdefault(field.name, []).append((steps, file.metadata.schema.column(at).path))
            at += 1
    wanted = []
    for name in names:
        place = nested.find(schema, name)
        if place is None:  # nested differently than in the first part, which was looked at
            raise DataError(f"column {name}", got="no such column", where=part, repair="write all parts alike")
        below = [place.steps] + ([(*place.steps[:-1], nested.LABEL)] if place.element and place.steps else [])
        wanted += [path for steps, path in leaves[place.column] if any(steps[: len(b)] == b for b in below)]
    return list(dict.fromkeys(wanted))


def _leaves(kind: pa.DataType) -> Iterator[tuple[str, ...]]:
    """The leaves of a type in the order of Parquet's columns, each by the names of the struct fields above it."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_map(kind):
        yield from (("key", *s) for s in _leaves(kind.key_type))
        yield from (("value", *s) for s in _leaves(kind.item_type))
    elif nested.is_list(kind):
        yield from _leaves(kind.value_type)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from ((kind.field(i).name, *s) for s in _leaves(kind.field(i).type))
    else:
        yield ()
