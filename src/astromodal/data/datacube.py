"""Datacubes: the rows of one field, one per object, most modalities null for most objects.

A cube is checked when it is opened (footer, columns, types, units), so that a damaged or foreign file is refused before
any work starts; lengths and values are checked as they are read. Reading streams: memory depends on
``data.batch_rows``, not on the file, whatever the size of its row groups. Where the rows come from (a Parquet file,
part files, a HATS tile, a table) is the business of :mod:`.sources`.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..config.checks.names import check_name
from ..errors import ConfigError, DataError
from ..files.ids import normalize_ids
from ..vocabulary.modalities import MODALITIES
from .columns import is_number, list_column_ragged, list_column_to_matrix, list_value_type, numbers, refuse_twice
from .masks import mask_columns, unmasked
from .sources import nested
from .sources.hats import overlapping
from .sources.layouts import find_fields, open_source
from .sources.subset import Subset, check_cone, in_cone
from .sources.units import factors, scaled

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from .sources.layouts import Source

__all__ = [
    "Batch",
    "Datacube",
    "discover",
    "list_column_ragged",
    "list_column_to_matrix",
    "needed_columns",
]

log = logging.getLogger(__name__)
NUMBER_ROWS = 8192  # rows per batch where only numbers are read
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
        pairs += [(column, "list") for column in (group.flux, group.ivar, group.error, group.wave, group.mask)]
    if data.images is not None:
        pairs += [(band.column, "list") for band in data.images.bands.values()]
        pairs += [(column, "number") for column in (data.images.a, data.images.b, data.images.theta)]
    for name in MODALITIES.outside():
        if (section := getattr(data, MODALITIES[name].section, None)) is not None:
            pairs += section.columns().items()
    for column, kind in pairs:
        if column:
            needed.setdefault(column, kind)
    return needed


def rows_at_once(data: DataConfig, columns: Sequence[str]) -> int:
    """``data.batch_rows``, and more where all columns are numbers: then a row is some hundred bytes, not a megabyte."""
    kinds = needed_columns(data)
    return data.batch_rows if any(kinds.get(name) == "list" for name in columns) else max(data.batch_rows, NUMBER_ROWS)


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
    """One field's rows, opened and checked. Holds no file handle, so it can be sent to other processes.

    Args:
        path: the file, or what messages name.
        data: the survey's configuration.
        field: the field's name; default: the file's name without ``datacube_``.
        source: where the rows come from; default: the file ``path``.

    Attributes:
        said: what there is to say about the file: units that were converted, or not compared.

    Raises:
        DataError: no such file, not Parquet or cut off, no rows, a column missing, twice there, of the wrong type, or
            in a unit that cannot be converted.
    """

    def __init__(
        self, path: str | Path, data: DataConfig, field: str | None = None, source: Source | None = None
    ) -> None:
        self.path = Path(path)
        self.data = data
        self.field = field or self.path.stem.removeprefix("datacube_")
        self.source = source or open_source([self.path], data.hdu)
        self.n_rows: int = self.source.n_rows
        schema = self.source.schema
        self.columns: tuple[str, ...] = tuple(nested.names_in(schema))
        self.masks = mask_columns(schema) | {g.flux: g.mask for g in data.spectra.values() if g.mask}
        self._check_columns(schema)
        self._factors, self.said = factors(data, self.source.units(), self.source.where)
        self._marks = {
            scalar.column or name: [m for m in (*scalar.sentinels, scalar.nondetection) if m is not None]
            for name, scalar in data.scalars.items()
        }

    def __repr__(self) -> str:
        return f"Datacube({self.field}, {self.n_rows} rows, {self.path})"

    def _check_columns(self, schema: pa.Schema) -> None:
        for name, kind in needed_columns(self.data).items():
            refuse_twice(self.columns, [name], self.source.where)
            found = nested.type_of(schema, name)
            if found is None:
                near = difflib.get_close_matches(name, self.columns, 1, cutoff=0.5)
                raise DataError(
                    f"column {name}",
                    got=f"no such column{f'; the nearest is {near[0]}' if near else ''}",
                    where=self.source.lacking.get(name, self.source.where),
                    repair="add the column (null where unknown) or take it out of data=…",
                )
            check_type(name, found, kind, self.source.where)

    def fingerprint(self) -> str:
        """Hash of the content of the field's files."""
        return self.source.fingerprint()

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
            place = f"{self.source.where}, column {self.data.id_column}, rows from {batch.first_row}"
            raise DataError.plain(f"{error} ({place})") from error

    def positions(self) -> np.ndarray:
        """Right ascension and declination of all rows in degrees, ``(n_rows, 2)`` float64, NaN where unknown."""
        ra, dec = self.data.ra_column, self.data.dec_column
        if not ra or not dec:
            return np.full((self.n_rows, 2), np.nan)
        names = [ra, dec]
        parts = []
        for batch in self.batches(names, rows=LIGHT_ROWS):
            where = f"{self.source.where}, ra and dec"
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
        unknown = [name for name in names if nested.find(self.source.schema, name) is None]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.columns, 1)
            raise DataError(f"column {unknown[0]}", got=f"none; nearest {near}", where=self.source.where)
        if row_mask is not None and len(row_mask) != self.n_rows:
            raise DataError(f"a mask of {self.n_rows} rows", got=len(row_mask), where=self.path)
        masks = [self.masks[name] for name in names if name in self.masks]
        read = list(dict.fromkeys([*names, *masks]))
        for table, first in self.source.batches(read, rows or self.data.batch_rows, row_mask):
            index = np.arange(first, first + table.num_rows)
            if row_mask is not None and not (keep := row_mask[index]).all():
                table, index = table.filter(pa.array(keep)), index[keep]
            if table.num_rows:
                counts: dict[str, int] = {}
                if masks:
                    table, counts = unmasked(table, names, self.masks)
                yield Batch(self._in_units(table), index, self.field, counts)

    def _in_units(self, table: pa.RecordBatch) -> pa.RecordBatch:
        """A batch with its columns in the configured units."""
        if not self._factors.keys() & set(table.schema.names):
            return table
        arrays = [
            scaled(table.column(name), self._factors[name], self._marks.get(name, ()))
            if name in self._factors
            else table.column(name)
            for name in table.schema.names
        ]
        return pa.RecordBatch.from_arrays(arrays, names=table.schema.names)


def discover(data: DataConfig, template: str) -> list[Datacube]:
    """The survey's datacubes, sorted by field.

    Args:
        data: the survey; ``data.fields`` chooses some of the fields.
        template: path with ``{field}``, such as ``cubes/datacube_{field}.parquet``.

    Raises:
        DataError: the folder is missing or holds no matching file, a field is unknown, or a cube is not usable.
    """
    survey = find_fields(data, template, list(needed_columns(data)))
    found = survey.fields
    for field in found if data.fields is None else ():
        try:
            check_name(field, "the name of a field")
        except ConfigError as error:  # it becomes a part of the names of token files and of folders
            place = found[field][0]
            raise DataError.plain(f"{error}; to repair: rename {place}, or choose with data.fields") from error
    for field in data.fields or ():
        check_name(field, "data.fields")
        if field not in found:
            near = difflib.get_close_matches(field, found, 1, cutoff=0.3) or sorted(found)[:1]
            raise DataError("data.fields of existing fields", got=field, where=data.root, repair=f"nearest: {near[0]}")
    chosen = sorted(set(data.fields)) if data.fields else sorted(found)
    if data.cone is not None and survey.layout == "hats":
        chosen = overlapping(chosen, check_cone(data.cone))
    cubes = []
    for field in chosen:
        parts = found[field]
        place = parts[0] if len(parts) == 1 else parts[0].parent
        cubes.append(Datacube(place, data, field, open_source(parts, data.hdu, place)))
    _say(survey.said, cubes)
    return cubes if data.cone is None else _within_cone(cubes, data, data.cone)


def _within_cone(cubes: Sequence[Datacube], data: DataConfig, cone: Sequence[float]) -> list[Datacube]:
    """The rows of some cubes that lie in ``data.cone``, without the fields that have none.

    Raises:
        DataError: no row does, or there are no positions.
    """
    if not (data.ra_column and data.dec_column):
        raise DataError("positions (data.ra_column, data.dec_column) for data.cone", got="none", where=data.root)
    kept, unknown = [], 0
    for cube in cubes:
        positions = cube.positions()
        inside = in_cone(positions, cone)
        unknown += int(np.isnan(positions).any(1).sum())
        if inside.any():
            kept.append(Datacube(cube.path, data, cube.field, Subset(cube.source, np.flatnonzero(inside))))
    n, total = (sum(cube.n_rows for cube in some) for some in (kept, cubes))
    log.info(
        "data.cone: %d of %d objects, in %d of %d fields; %d without a position are left out",
        n,
        total,
        len(kept),
        len(cubes),
        unknown,
    )
    if not kept:
        raise DataError("objects in data.cone", got=f"none of {total}", where=data.root)
    return kept


def _say(said: Sequence[str], cubes: Sequence[Datacube]) -> None:
    """Log what was left alone, and what was found about units, once for all fields of which it is true."""
    fields: dict[str, list[str]] = {}
    for cube in cubes:
        for text in cube.said:
            fields.setdefault(text, []).append(cube.field)
    for text in said:
        log.warning("%s", text)
    for text, where in fields.items():
        log.info("%s (%s)", text, f"field {where[0]}" if len(where) == 1 else f"{len(where)} fields")
