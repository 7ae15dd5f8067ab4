"""Rows of a user's table through the tokenizers: the columns that the survey has, in its units, as tokens in memory.

What a table lacks is missing for all of its objects, and said once; a column that is there under another spelling, of
another type, or in a unit that cannot be brought to the survey's is refused.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..core.ids import normalize_ids
from ..data.columns import list_value_type, refuse_twice
from ..data.datacube import Batch, check_type, needed_columns
from ..data.masks import SUFFIX, mask_columns, unmasked
from ..errors import DataError
from ..sequences.names import quantities
from ..tokens.field import FieldReader
from ..tokens.in_memory import RowsInMemory
from .tables import Source
from .units import factors

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..evaluation.trained import TrainedModel
    from ..tokens.store import FieldTokens

WHERE = "the table"


class RowEncoder:
    """Encodes tables of one field's objects.

    Args:
        field: whose zero points hold, where the survey has them by field.
        asked: quantities that are only asked: nobody misses their columns.
        named: quantities that the user said to be given: their columns have to be there.

    ``reader.findings`` counts what was found in the values.
    """

    def __init__(
        self, trained: TrainedModel, data: DataConfig, field: str | None, log: logging.Logger,
        named: Iterable[str] = (), asked: Iterable[str] = (),
    ) -> None:  # fmt: skip
        if data.images is not None and data.images.zero_point_file and field is None and trained.tokenizers.image:
            raise DataError("field=…, whose zero points hold", got="none", where=data.images.zero_point_file)
        self.data, self.log = data, log
        self.reader = FieldReader(field or "table", trained.tokenizers, data)
        self._sources = {name: _main_columns(name, data) for name in quantities(trained.layout)}
        self._kinds = needed_columns(data)
        self._named = [name for name in named if name in self._sources]
        self._unasked = {column for name in asked for column in self._sources[name]}
        self._said: set[tuple[str, ...]] = set()
        self.n_rows = 0  # so far, over the tables of a stream

    def tokens(self, source: Source, step: int) -> Iterator[FieldTokens]:
        """Tokens of a table, ``step`` rows at a time.

        Raises:
            DataError: a column is missing under its name, has another type or unit, or no input is there at all.
        """
        there = self._check(source)
        scales = factors({name: unit for name, unit in source.units.items() if name in there}, self.data)
        masks = {name: name + SUFFIX for name in there if name + SUFFIX in source.names}
        window = RowsInMemory(self.reader)
        for piece in source.pieces([*there, *masks.values()], self.data.batch_rows):
            while piece.num_rows:
                part = piece.slice(0, step - len(window))
                piece = piece.slice(part.num_rows)
                window.add(*self._batch(part, there, scales))
                if len(window) == step:
                    yield window.take()
        if len(window):
            yield window.take()

    def report(self) -> None:
        """Say what was lost of the values so far."""
        for line in self.reader.findings.warnings():
            self.log.warning("%s", line)

    # ----------------------------------------------------------------------------------- columns

    def columns(self) -> list[str]:
        """Columns that are read where they are there."""
        return list(dict.fromkeys([self.data.id_column, *self.reader.columns]))

    def _check(self, source: Source) -> list[str]:
        """Columns of the table that are read: the survey's, as far as they are there."""
        wanted = self.columns()
        there = [name for name in wanted if name in source.names]
        refuse_twice(source.names, there, WHERE)
        absent = [name for name in wanted if name not in there]
        others = {_plain(name): name for name in source.names if name not in wanted}
        for name in absent:
            if _plain(name) in others:
                raise DataError(f"column {name}", got=others[_plain(name)], where=WHERE,
                                repair=f"rename it to {name}")  # fmt: skip
        lacking = [name for name, columns in self._sources.items() if not set(columns) & set(there)]
        if len(lacking) == len(self._sources):
            raise DataError(f"some of the survey's columns ({_few(absent)})", got=_few(source.names) or "none",
                            where=WHERE)  # fmt: skip
        for name in self._named:
            if name in lacking:
                raise DataError(f"column {_few(self._sources[name])}, as {name} is to be given", got="none",
                                where=WHERE, repair=_near(self._sources[name], source.names))  # fmt: skip
        self._say(tuple(name for name in absent if name not in self._unasked), source.names)
        return there

    def _say(self, absent: tuple[str, ...], names: list[str]) -> None:
        if absent and absent not in self._said:
            self._said.add(absent)
            near = _near(absent, [name for name in names if name not in self._kinds])
            ids = " (objects are numbered, and drawn for, by row)" if self.data.id_column in absent else ""
            self.log.warning("not in the table, and so missing for every object%s: %s%s", ids, _few(absent, 12),
                             f"; {near}" if near else "")  # fmt: skip

    def _batch(self, piece: pa.RecordBatch, there: list[str], scales: dict[str, float]) -> tuple[Batch, np.ndarray]:
        """A piece of a table as a batch of a cube, and its ids."""
        for name in there:
            check_type(name, piece.schema.field(name).type, self._kinds[name], WHERE)
        rows = np.arange(self.n_rows, self.n_rows + piece.num_rows)
        self.n_rows += piece.num_rows
        plain, counts = unmasked(piece, there, mask_columns(piece.schema))
        columns = {name: _scaled(plain.column(name), scales.get(name)) for name in there}
        columns |= {name: pa.nulls(piece.num_rows) for name in self.reader.columns if name not in columns}
        id_column = self.data.id_column
        ids = normalize_ids(columns[id_column]) if id_column in columns else normalize_ids(rows)
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        return Batch(batch, rows, self.reader.field, counts), ids


def _main_columns(name: str, data: DataConfig) -> list[str]:
    """Columns of a table of which a quantity needs at least one."""
    if name == "image":
        return [] if data.images is None else [band.column for band in data.images.bands.values()]
    if name in data.scalars:
        return [data.scalars[name].column or name]
    group = data.spectra.get(name) or data.spectra.get(name.removesuffix("_scale"))
    return [] if group is None else [group.flux]


def _scaled(column: pa.Array, factor: float | None) -> pa.Array:
    """A column of numbers, or of lists of them, times a factor."""
    import pyarrow.compute as pc

    if factor is None or pa.types.is_null(column.type):
        return column
    if list_value_type(column.type) is None:
        return pc.multiply(column.cast(pa.float64()), factor)
    none = column.is_null() if column.null_count else None
    flat = pc.multiply(column.flatten().cast(pa.float64()), factor)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, flat, mask=none)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _few(names: Iterable[str], n: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def _near(wanted: Iterable[str], names: list[str]) -> str:
    """What a missing column may be called in the table."""
    for name in wanted:
        if close := difflib.get_close_matches(name, names, 1, cutoff=0.7):
            return f"is {close[0]} the column {name}?"
    return ""
