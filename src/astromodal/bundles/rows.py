"""Rows of a user's table through the tokenizers: the columns that the survey has, in its units, as tokens in memory.

What a table lacks is missing for all of its objects, and said once; a column that is there under another spelling, of
another type, or in a unit that cannot be brought to the survey's is refused.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..data.columns import refuse_twice
from ..data.datacube import Batch, Datacube, needed_columns
from ..data.masks import SUFFIX
from ..errors import DataError
from ..files.ids import normalize_ids
from ..sequences.names import quantities
from ..tokens.field import FieldReader
from ..tokens.in_memory import RowsInMemory
from .tables import Source

if TYPE_CHECKING:
    from ..ask.trained import TrainedModel
    from ..config.schema import DataConfig
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
        self,
        trained: TrainedModel,
        data: DataConfig,
        field: str | None,
        log: logging.Logger,
        named: Iterable[str] = (),
        asked: Iterable[str] = (),
    ) -> None:
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
        if not len(source):
            return
        cube = Datacube(WHERE, self.data, self.reader.field, _AsCube(source, there, self.data))
        for text in cube.said:
            self.log.info("%s", text)
        named, window = self.data.id_column in there, RowsInMemory(self.reader)
        for batch in cube.batches(self.columns()):
            start = 0
            while start < len(batch):
                part = slice(start, start + step - len(window))
                rows = batch.rows[part]
                ids = normalize_ids(batch.column(self.data.id_column)[part] if named else self.n_rows + rows)
                piece = batch.table.slice(start, len(rows))
                window.add(Batch(piece, rows, batch.field, batch.masked if start == 0 else {}), ids)
                start += len(rows)
                if len(window) == step:
                    yield window.take()
        if len(window):
            yield window.take()
        self.n_rows += len(source)

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
        there = [name for name in wanted if source.has(name)]
        refuse_twice(source.names, there, WHERE)
        absent = [name for name in wanted if name not in there]
        others = {_plain(name): name for name in source.names if name not in wanted}
        for name in absent:
            if _plain(name) in others:
                raise DataError(f"column {name}", got=others[_plain(name)], where=WHERE, repair=f"rename it to {name}")
        lacking = [name for name, columns in self._sources.items() if not set(columns) & set(there)]
        if len(lacking) == len(self._sources):
            raise DataError(
                f"some of the survey's columns ({_few(absent)})", got=_few(source.names) or "none", where=WHERE
            )
        for name in self._named:
            if name in lacking:
                raise DataError(
                    f"column {_few(self._sources[name])}, as {name} is to be given",
                    got="none",
                    where=WHERE,
                    repair=_near(self._sources[name], source.names),
                )
        self._say(tuple(name for name in absent if name not in self._unasked), source.names)
        return there

    def _say(self, absent: tuple[str, ...], names: list[str]) -> None:
        if absent and absent not in self._said:
            self._said.add(absent)
            near = _near(absent, [name for name in names if name not in self._kinds])
            ids = " (objects are numbered, and drawn for, by row)" if self.data.id_column in absent else ""
            self.log.warning(
                "not in the table, and so missing for every object%s: %s%s",
                ids,
                _few(absent, 12),
                f"; {near}" if near else "",
            )


class _AsCube:
    """A table as the source of a :class:`~..data.datacube.Datacube`: what it lacks is null."""

    kind, where = "table", WHERE
    lacking: Mapping[str, Path] = {}
    files: Sequence[Path] = ()

    def __init__(self, source: Source, there: Sequence[str], data: DataConfig) -> None:
        self.source, self.path, self.n_rows = source, Path(WHERE), len(source)
        self.there = [*there, *(name + SUFFIX for name in there if name + SUFFIX in source.names)]
        absent = [name for name in needed_columns(data) if name not in self.there]
        types = {name: pa.string() if name == data.id_column else pa.null() for name in absent}
        self.schema = pa.schema([*source.schema(self.there), *(pa.field(name, kind) for name, kind in types.items())])

    def units(self) -> Mapping[str, str]:
        return {name: unit for name, unit in self.source.units.items() if name in self.there}

    def fingerprint(self) -> str:
        raise NotImplementedError("a table in memory")

    def batches(
        self, names: Sequence[str], rows: int, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """The columns ``names``, some rows at a time, and the number of the first."""
        first = 0
        for piece in self.source.pieces([name for name in names if name in self.there], rows):
            there = {name: piece.column(name) for name in piece.schema.names}
            arrays = [there[n] if n in there else pa.nulls(piece.num_rows, self.schema.field(n).type) for n in names]
            yield pa.RecordBatch.from_arrays(arrays, names=list(names)), first
            first += piece.num_rows


def _main_columns(name: str, data: DataConfig) -> list[str]:
    """Columns of a table of which a quantity needs at least one."""
    if name == "image":
        return [] if data.images is None else [band.column for band in data.images.bands.values()]
    if name in data.scalars:
        return [data.scalars[name].column or name]
    group = data.spectra.get(name) or data.spectra.get(name.removesuffix("_scale"))
    return [] if group is None else [group.flux]


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
