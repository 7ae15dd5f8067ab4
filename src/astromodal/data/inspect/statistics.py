"""Statistics of every column over some rows of some fields: types, missing values, ranges, suspected sentinels.

Memory holds the sampled numbers of scalar columns and a few lists of each list column, however large the survey is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import is_number, list_column_ragged, list_value_type, numbers
from ..masks import mask_columns
from ..sources import nested
from ..sources.layouts import Source

N_FIELDS = 8  # looked into, evenly spread
N_LISTS = 16  # kept of each list column
LISTS_READ = 128  # rows of list columns looked at, per field
BATCH = 64  # rows of list columns read at once
KNOWN_MARKS = (99.0, 99.9, 999.0, 9999.0, 99999.0, 1e20, 1e30, 32768.0, 9.99)  # of either sign: "missing", somewhere
MIN_REPEATS, MAX_MARKS = 3, 6


@dataclass
class ColumnFacts:
    """What is known of one column from the sampled rows."""

    name: str
    type: pa.DataType
    unit: str = ""
    rows: int = 0
    missing: int = 0  # null, or NaN
    values: np.ndarray = dataclass_field(default_factory=lambda: np.empty(0))  # (n,) finite numbers, float64
    texts: list[str] = dataclass_field(default_factory=list)  # some values that are no numbers
    distinct: int = 0  # different values, of a column that could be an id
    lengths: np.ndarray = dataclass_field(default_factory=lambda: np.empty(0, int))  # of lists that are there
    lists: list[np.ndarray] = dataclass_field(default_factory=list)  # a few of them
    low: float = np.nan  # over all sampled elements
    high: float = np.nan
    dimensions: int = 0  # of what a row holds: lists within lists

    @property
    def is_list(self) -> bool:
        return list_value_type(self.type) is not None

    @property
    def is_number(self) -> bool:
        """Numbers, or lists of numbers."""
        kind = list_value_type(self.type) if self.is_list else self.type
        return is_number(kind)

    @property
    def present(self) -> int:
        """Sampled rows with a value."""
        return self.rows - self.missing

    @property
    def rising(self) -> bool:
        """Whether all kept lists rise, or fall, from element to element, as wavelengths do."""
        if not self.lists:
            return False
        steps = [np.diff(values[np.isfinite(values)]) for values in self.lists]
        return all(len(s) > 1 and ((s > 0).all() or (s < 0).all()) for s in steps)


def facts(sources: Sequence[Source], rows: int) -> tuple[list[ColumnFacts], list[str]]:
    """Facts on every column that all of some fields have, and what there is to say of the others.

    Args:
        sources: the fields.
        rows: scalar rows to look at, over all fields.
    """
    some = [sources[i] for i in np.unique(np.linspace(0, len(sources) - 1, min(N_FIELDS, len(sources))).astype(int))]
    schemas = [source.schema for source in some]
    names = [name for name in nested.names_in(schemas[0]) if nested.find(schemas[0], name)]
    common = [name for name in names if all(nested.type_of(schema, name) is not None for schema in schemas)]
    said = [f"column {name}: not in every field, left out" for name in names if name not in common]
    units = some[0].units()
    found = {name: ColumnFacts(name, _widest(schemas, name), str(units.get(name) or "")) for name in common}
    masks = set(mask_columns(schemas[0]).values())
    found = {name: f for name, f in found.items() if name not in masks and not _is_parent(f.type)}
    for fact in found.values():
        fact.dimensions = _depth(schemas[0], fact.name)
    per_field = max(1, rows // len(some))
    for source in some:
        _scan(source, [f for f in found.values() if not f.is_list], per_field, per_field)
        _scan(source, [f for f in found.values() if f.is_list and f.is_number], min(per_field, LISTS_READ), BATCH)
    for fact in found.values():
        fact.distinct = len(np.unique(fact.values)) if len(fact.values) else len(set(fact.texts))
    return list(found.values()), said


def band_labels(source: Source, columns: Sequence[ColumnFacts]) -> dict[str, list[str]]:
    """List columns whose elements are named by a field ``band`` beside them → the names, in order of the first rows."""
    found = {}
    for fact in columns:
        parent, label = fact.name.rpartition(".")[0], f"{fact.name.rpartition('.')[0]}.{nested.LABEL}"
        kind = nested.type_of(source.schema, label) if parent and fact.dimensions > 2 else None
        if kind is not None and "string" in str(list_value_type(kind)):
            table, _ = next(source.batches([label], BATCH))
            found[fact.name] = list(dict.fromkeys(pc.drop_null(table.column(0).flatten()).to_pylist()))
    return found


def _widest(schemas: Sequence[pa.Schema], name: str) -> pa.DataType:
    kinds = [nested.type_of(schema, name) for schema in schemas]
    return next((kind for kind in kinds if not pa.types.is_null(kind)), kinds[0])


def _is_parent(kind: pa.DataType) -> bool:
    """Structs, and lists of them: their fields are looked at instead."""
    inner = list_value_type(kind)
    return any(pa.types.is_struct(k) or pa.types.is_map(k) for k in (kind, inner) if k is not None)


def _depth(schema: pa.Schema, name: str) -> int:
    """Lists within lists, as the file holds a name."""
    place = nested.find(schema, name)
    kind, depth = None if place is None else nested.stored_type(schema, place), 0
    while kind is not None and nested.is_list(kind):
        kind, depth = nested.storage(kind.value_type), depth + 1
    return depth


def _scan(source: Source, wanted: Sequence[ColumnFacts], rows: int, batch: int) -> None:
    """Add the first rows of a field."""
    if not wanted:
        return
    left = rows
    for table, _ in source.batches([fact.name for fact in wanted], min(batch, left)):
        table = table.slice(0, left)
        for fact in wanted:
            _add(fact, table.column(fact.name))
        left -= table.num_rows
        if left <= 0:
            return


def _add(fact: ColumnFacts, column: pa.Array) -> None:
    fact.rows += len(column)
    if fact.is_list:
        flat, offsets, present = list_column_ragged(column, f"column {fact.name}")
        fact.missing += int((~present).sum())
        fact.lengths = np.concatenate([fact.lengths, np.diff(offsets)[present]])
        keep = np.flatnonzero(present)[: max(0, N_LISTS - len(fact.lists))]
        fact.lists += [flat[offsets[i] : offsets[i + 1]].astype(np.float64) for i in keep]
        finite = flat[np.isfinite(flat)]
        if len(finite):
            fact.low, fact.high = np.fmin(fact.low, finite.min()), np.fmax(fact.high, finite.max())
    elif is_number(column.type) or pa.types.is_null(column.type):
        values = numbers(column, f"column {fact.name}").astype(np.float64)
        fact.missing += int(np.isnan(values).sum())
        fact.values = np.concatenate([fact.values, values[np.isfinite(values)]])
        if pa.types.is_integer(column.type):
            fact.texts += [str(v) for v in column.to_pylist() if v is not None]  # ids beyond 2^53
    else:
        fact.missing += column.null_count
        fact.texts += [str(v) for v in column.drop_null().to_pylist()]


def suspected_marks(values: np.ndarray) -> list[float]:
    """Numbers that stand apart from all others, and are known to mean "missing", or come again and again.

    >>> suspected_marks(np.array([15.0, 16.0, 99.0, 17.0, -99.0, 99.0, 15.5, 16.5]))
    [-99.0, 99.0]
    >>> suspected_marks(np.array([0.0, 0.0, 0.0, 0.1, 0.2, 0.3]))
    []
    """
    marks: list[float] = []
    rest = np.sort(values)
    while len(rest) > 2 and len(marks) < MAX_MARKS:
        inner = rest[(rest > rest[0]) & (rest < rest[-1])]
        if not len(inner):
            break
        width = max(float(np.ptp(inner)), 1e-3 * abs(float(inner[-1])), 1e-12)
        gaps = {float(rest[0]): inner[0] - rest[0], float(rest[-1]): rest[-1] - inner[-1]}
        times = {end: int((rest == end).sum()) if len(np.unique(inner)) >= MIN_REPEATS else 1 for end in gaps}
        apart = [end for end, gap in gaps.items() if _stands_apart(end, gap / width, times[end])]
        if not apart:
            break
        marks += apart
        rest = rest[~np.isin(rest, apart)]
    return sorted(marks)


def _stands_apart(value: float, widths: float, times: int) -> bool:
    known = any(np.isclose(abs(value), mark, rtol=1e-6) for mark in KNOWN_MARKS)
    return widths > 1.0 if known else times >= MIN_REPEATS and widths > 3.0
