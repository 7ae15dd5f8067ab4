"""Tables of any kind in, the same kind out: Arrow, pandas, astropy, a dict of arrays; files come out as Arrow.

A source gives its columns piece by piece as Arrow, so that a million rows are never converted at once. Where one row
of a dict is asked (its values are numbers, not columns), an answer has one row.

Shapes: n rows, X numbers of a list.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.columns import list_value_type, numbers, one_array
from ..data.sources import nested
from ..data.sources.layouts import open_source
from ..data.sources.tables import as_arrow
from ..data.sources.units import parquet_units, parse_unit
from ..errors import DataError

UNIT = b"unit"  # key of a field's metadata
KINDS = "a pyarrow, pandas or astropy table, a dict of columns, or the path of a file"
_FIRST = 64  # rows whose types are those of all


class Source:
    """A table that is asked about.

    Attributes:
        names: of all its columns, nested ones by dotted name. units: of those that state one.
    """

    def __init__(self, table: Any, names: Collection[str], units: Mapping[str, Any]) -> None:
        self.table, self.names = table, [str(name) for name in names]
        self.units = {str(name): str(unit) for name, unit in units.items()}

    def pieces(self, wanted: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """The columns ``wanted``, at most ``rows`` rows at a time."""
        for start in range(0, len(self), rows):
            yield self.rows(wanted, start, min(start + rows, len(self)))

    def __len__(self) -> int:
        return len(self.table)

    def has(self, name: str) -> bool:
        """Whether there is a column of a name."""
        return name in self.names

    def rows(self, wanted: Sequence[str], start: int, stop: int) -> pa.RecordBatch:
        """Some rows of some columns."""
        arrays = [self.column(name, start, stop) for name in wanted]
        return pa.RecordBatch.from_arrays(arrays, names=list(wanted))

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        """Rows of one column."""
        raise NotImplementedError

    def schema(self, wanted: Sequence[str]) -> pa.Schema:
        """Of some columns, as their first rows say."""
        return self.rows(wanted, 0, min(len(self), _FIRST)).schema

    def back(self, answer: pa.Table) -> Any:
        """An answer as the kind of table that was asked about; ``answer`` has a row for each of its rows."""
        raise NotImplementedError


class _Arrow(Source):
    def __init__(self, table: pa.Table | pa.RecordBatch) -> None:
        units = parquet_units(table.schema.metadata or {}, table.schema)
        super().__init__(table, nested.names_in(table.schema), units)

    def __len__(self) -> int:
        return self.table.num_rows

    def has(self, name: str) -> bool:
        return nested.find(self.table.schema, name) is not None

    def rows(self, wanted: Sequence[str], start: int, stop: int) -> pa.RecordBatch:
        return nested.take(self.table.slice(start, stop - start), wanted)

    def back(self, answer: pa.Table) -> Any:
        if isinstance(self.table, pa.Table):
            return answer
        batches = answer.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], answer.schema)


class _File(Source):
    """A file, read as a datacube is: Parquet, or a table of astropy (FITS, ECSV, VOTable, CSV)."""

    def __init__(self, path: Path) -> None:
        self.source = open_source([path])
        super().__init__(None, nested.names_in(self.source.schema), self.source.units())

    def __len__(self) -> int:
        return self.source.n_rows

    def has(self, name: str) -> bool:
        return nested.find(self.source.schema, name) is not None

    def pieces(self, wanted: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        for piece, _ in self.source.batches(list(wanted), rows):
            yield piece

    def schema(self, wanted: Sequence[str]) -> pa.Schema:
        return pa.schema([pa.field(name, nested.type_of(self.source.schema, name)) for name in wanted])

    def back(self, answer: pa.Table) -> pa.Table:
        return answer


class _Pandas(Source):
    def __init__(self, table: Any) -> None:
        super().__init__(table, list(table.columns), {})

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        return as_array(self.table[name].iloc[start:stop], name)

    def back(self, answer: pa.Table) -> Any:
        import pandas as pd

        columns = {name: _per_row(values) for name, values in arrays_of(answer).items()}
        frame = pd.DataFrame(columns, index=self.table.index)
        frame.attrs = meaning_of(answer)
        return frame


class _Astropy(Source):
    def __init__(self, table: Any) -> None:
        units = {name: table[name].unit for name in table.colnames if getattr(table[name], "unit", None) is not None}
        super().__init__(table, table.colnames, units)

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        return as_array(self.table[name][start:stop], name)

    def back(self, answer: pa.Table) -> Any:
        from astropy.table import Column, Table

        found, units = Table(meta=meaning_of(answer)), parquet_units({}, answer.schema)
        for name, values in arrays_of(answer).items():
            unit = parse_unit(units[name]) if name in units else None
            found[name] = Column(values, unit=unit, description=None if unit is not None else units.get(name))
        return type(self.table)(found)  # a QTable makes quantities of what has a unit


class _Dict(Source):
    def __init__(self, table: Mapping[str, Any]) -> None:
        columns = {str(name): values for name, values in table.items()}
        units = {name: v.unit for name, v in columns.items() if getattr(v, "unit", None) is not None}
        if any(_is_value(v) for v in columns.values()):  # one row
            columns = {name: [getattr(v, "value", v)] for name, v in columns.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len({*lengths.values()}) > 1:
            raise DataError("columns of one length", got=lengths, where="the table")
        super().__init__(columns, columns, units)
        self._rows = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._rows

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        return as_array(self.table[name][start:stop], name)

    def back(self, answer: pa.Table) -> dict[str, np.ndarray]:
        return arrays_of(answer)


def source_of(table: Any) -> Source:
    """A table of any kind as a source.

    Raises:
        DataError: of no kind that is known.
    """
    if isinstance(table, pa.Table | pa.RecordBatch):
        return _Arrow(table)
    if isinstance(table, str | Path):
        return _File(Path(table))
    if isinstance(table, Mapping):
        return _Dict(table)
    package = type(table).__module__.split(".")[0]
    if package == "pandas" and hasattr(table, "iloc") and hasattr(table, "columns"):
        return _Pandas(table)
    if hasattr(table, "colnames") and hasattr(table, "meta"):
        return _Astropy(table)
    raise DataError(KINDS, got=f"a {type(table).__name__}", where="the table")


def is_stream(table: Any) -> bool:
    """Whether a table comes in pieces: an Arrow reader, or a generator of tables."""
    return isinstance(table, pa.RecordBatchReader | Iterator)


# ------------------------------------------------------------------------------------- columns


def meaning_of(answer: pa.Table) -> dict[str, Any]:
    """What an answer's metadata say, under the key ``astromodal``."""
    metadata = answer.schema.metadata or {}
    return {key.decode(): json.loads(value) for key, value in metadata.items() if key == b"astromodal"}


def as_array(values: Any, name: str) -> pa.Array:
    """A column of numbers, text or lists as Arrow: masked values and None are null.

    Args:
        values: an array ``(n,)`` or ``(n, X)``, maybe masked or with a unit; a list; a series of pandas.

    Raises:
        DataError: of another shape, or of mixed types.

    >>> as_array(np.array([[1.0, 2.0]]), "flux").type
    FixedSizeListType(fixed_size_list<item: double>[2])
    """
    mask = getattr(values, "mask", None) if hasattr(values, "unmasked") else None  # a masked quantity
    values = getattr(values, "unmasked", values)
    values = getattr(values, "value", values) if hasattr(values, "unit") and not hasattr(values, "mask") else values
    try:
        if isinstance(values, np.ndarray):
            return one_array(as_arrow(values, None if mask is None else np.asarray(mask, bool)))
        return one_array(pa.array(values, from_pandas=True))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            "a column of numbers, or of lists of numbers", got=str(error).split("\n")[0][:200], where=f"column {name}"
        ) from error


def arrays_of(answer: pa.Table) -> dict[str, np.ndarray]:
    """Columns of an answer as NumPy arrays ``(n,)``, or ``(n, X)`` of lists; NaN where nothing is."""
    found = {}
    for field in answer.schema:
        column = one_array(answer.column(field.name))
        kind = list_value_type(field.type)
        if kind is not None and pa.types.is_fixed_size_list(field.type):
            flat = column.values.slice(column.offset * field.type.list_size, len(column) * field.type.list_size)
            values = numbers(flat).reshape(len(column), field.type.list_size)
            if column.null_count:
                values = np.where(np.asarray(column.is_null())[:, None], np.nan, values).astype(values.dtype)
        else:
            values = column.to_numpy(zero_copy_only=False)
        found[field.name] = values
    return found


def _is_value(values: Any) -> bool:
    return isinstance(values, str | bytes | int | float) or getattr(values, "ndim", 1) == 0


def _per_row(values: np.ndarray) -> Any:
    return list(values) if values.ndim > 1 else values
