"""The catalogue of predictions: one Parquet row per object, written window by window, there only when it is whole.

Columns: ``id`` (normalised), ``field``, ``split`` (what the object was to the model: train, val or test; test, too, is
what it never saw); of each asked scalar column c, in its unit::

    c, c_err          observed value and its error, null where there is none
    c_mean, c_median, c_std, c_q<percent>   of the posterior (see posterior.py), null where nothing could be predicted
    c_pit             distribution function of the posterior at the observed value
    c_crps            continuous ranked probability score of the posterior, in the column's unit (0: sure, and right)
    c_posterior       probability of each bin, on request; posterior_bins.npz has the edges
    c_flag            sum of the bits below

and of each asked group of spectra g, and of ``image`` (band, row, column; flattened)::

    g_mean, g_std     of the draws, fixed-size lists in physical units (see drawing.py)
    g_flag

and, with ``evaluate.familiarity``, of each object ``surprise`` and ``surprise_percentile``.

It is one file, or with ``evaluate.by_field`` a folder of this name with a file of these columns for each field, which
Parquet readers open as a whole; :mod:`.parts` writes it.

The file's metadata (key ``astromodal``, JSON) say what was given, the units, what was read and whose splits they are.

==============  ===  ==============================================================================
UNCONDITIONAL     1  nothing was to be given: what the model thinks of any object
LACKS_GIVEN       2  the object has nothing of what was to be given: nothing is predicted
CLIPPED           4  the observed value lies outside of the fitted range, which no posterior reaches
CLIPPED_GIVEN     8  a given value lies outside of the fitted range: the model saw the end of it
NOT_DETECTED     16  observed, but not detected: there is no value to compare with
SCALE_DRAWN      32  spectra: times a drawn scale, not a given one
UNFAMILIAR       64  what is given surprises the model more, or less, than nearly all validation objects
==============  ===  ==============================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ArtifactError, ArtifactMissingError, ConfigError
from ..files.io import atomic_path, read_json
from ..provenance.manifest import changed_files
from ..provenance.sealed import read_sealed

UNCONDITIONAL, LACKS_GIVEN, CLIPPED, CLIPPED_GIVEN, NOT_DETECTED, SCALE_DRAWN, UNFAMILIAR = 1, 2, 4, 8, 16, 32, 64
FLAGS = {
    "UNCONDITIONAL": 1,
    "LACKS_GIVEN": 2,
    "CLIPPED": 4,
    "CLIPPED_GIVEN": 8,
    "NOT_DETECTED": 16,
    "SCALE_DRAWN": 32,
    "UNFAMILIAR": 64,
}
KEY = b"astromodal"
CATALOGUE, EMBEDDINGS, RECORDS = "catalogue.parquet", "embeddings.parquet", "answered"
ID_COLUMNS = ("id", "field", "split")
SURPRISE, PERCENTILE = "surprise", "surprise_percentile"
OF_MODEL, OF_FILES, OF_CONFIGURATION = "the model's run", "the token files", "data.splits"  # whose splits there are


def quantile_name(column: str, quantile: float) -> str:
    """Name of a quantile's column.

    >>> quantile_name("z", 0.16), quantile_name("z", 0.975)
    ('z_q16', 'z_q97.5')
    """
    return f"{column}_q{100 * quantile:.10g}"


def scalar_fields(column: str, quantiles: Sequence[float], n_bins: int | None) -> list[pa.Field]:
    """Parquet columns of a scalar, as double as the file's; ``n_bins``: with the posterior."""
    names = [column, *(f"{column}_{end}" for end in ("err", "mean", "median", "std"))]
    names += [*(quantile_name(column, q) for q in quantiles), f"{column}_pit", f"{column}_crps"]
    fields = [pa.field(name, pa.float64()) for name in names]
    if n_bins is not None:
        fields.append(pa.field(f"{column}_posterior", pa.list_(pa.float32(), n_bins)))
    return [*fields, pa.field(f"{column}_flag", pa.uint8())]


def drawn_fields(name: str, size: int) -> list[pa.Field]:
    """Parquet columns of a spectrum (in the file's unit, whatever its size) or an image of ``size`` numbers."""
    lists = [pa.field(f"{name}_{end}", pa.list_(pa.float64(), size)) for end in ("mean", "std")]
    return [*lists, pa.field(f"{name}_flag", pa.uint8())]


def make_schema(fields: Sequence[pa.Field], meaning: Mapping[str, Any]) -> pa.Schema:
    """The schema with the columns of the object's id in front.

    Raises:
        ConfigError: two quantities give a column of the same name.
    """
    ids = [pa.field(name, pa.string()) for name in ID_COLUMNS]
    names = [f.name for f in (*ids, *fields)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "quantities whose columns have different names",
            got=", ".join(twice),
            where="evaluate.predict",
            repair="ask them in two runs",
        )
    return pa.schema([*ids, *fields], metadata={KEY: json.dumps(dict(meaning))})


def as_column(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An Arrow array of ``(n,)`` or ``(n, X)`` numbers; null where a value, or a whole row, is NaN."""
    if pa.types.is_fixed_size_list(kind):
        numbers = np.ascontiguousarray(values, kind.value_type.to_pandas_dtype())
        flat = pa.array(numbers.reshape(-1), kind.value_type)
        there = pa.py_buffer(np.packbits(~np.isnan(values).all(1), bitorder="little"))
        return pa.Array.from_buffers(kind, len(values), [there], children=[flat])
    return pa.array(values, kind, from_pandas=True)


class CatalogueWriter:
    """Appends windows of objects to a Parquet file."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self.schema, self.rows = writer, schema, 0

    def append(self, columns: Mapping[str, np.ndarray]) -> None:
        """One window: an array for every column of the schema, all of one length."""
        arrays = [as_column(columns[f.name], f.type) for f in self.schema]
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
            self.rows += table.num_rows


@contextmanager
def writing_catalogue(path: Path, schema: pa.Schema) -> Iterator[CatalogueWriter]:
    """The writer of a file that appears at the end of the block, or not at all."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        yield CatalogueWriter(writer, schema)


class ParquetReader(pq.ParquetFile):
    """A Parquet file whose pages are compared with their checksums (where it has some) as they are read.

    Raises:
        ArtifactError: it is damaged, or not the one that the run in its folder has written.
    """

    def __init__(self, path: str | Path, what: str = "a whole Parquet file") -> None:
        """``what``: what the file should be, for the error."""
        self.path, self._what = Path(path), what
        _check_written(self.path)
        with self._whole():
            super().__init__(self.path, page_checksum_verification=True)

    def read(self, *args: Any, **keywords: Any) -> pa.Table:
        with self._whole():
            return super().read(*args, **keywords)

    def iter_batches(self, *args: Any, **keywords: Any) -> Iterator[pa.RecordBatch]:
        batches = super().iter_batches(*args, **keywords)
        while True:
            with self._whole():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
            raise ArtifactError(self._what, got=reason, where=self.path, repair="make it again") from error


def files_of(path: Path) -> list[Path]:
    """A Parquet file, or the parts of a folder in the order of their names; nothing if there is none."""
    return [path] if path.is_file() else sorted(path.glob("*.parquet"))


def record_of(part: Path) -> Path:
    """What the run says of a field's part of a catalogue."""
    return part.parent.parent / RECORDS / f"{part.stem}.json"


def _check_written(path: Path) -> None:
    """Compare a file with the fingerprint that the run beside it says that it has written."""
    try:
        if path.parent.suffix == ".parquet":
            said, name = read_sealed(record_of(path)).get("files", {}), path.parent.stem
        else:
            said, name = read_json(path.parent / "run.json").get("outputs", {}), path.stem
    except (ArtifactError, AttributeError):
        return
    expected = said.get(name) if isinstance(said, dict) else None
    if expected is not None and changed_files(path.parent, {path.name: expected}, remember=True):
        raise ArtifactError(
            f"the file that the run has written (fingerprint {expected})",
            got="another one",
            where=path,
            repair="run python evaluate.py again",
        )


def read_catalogue(path: str | Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """A catalogue (or some of its columns) and what its metadata say.

    Raises:
        ArtifactMissingError: there is none.
        ArtifactError: not a catalogue of predictions.
    """
    path = Path(path)
    path = path / CATALOGUE if path.is_dir() and path.suffix != ".parquet" else path
    files = files_of(path)
    if not files:
        raise ArtifactMissingError(
            "a catalogue of predictions", got="no such file", where=path, repair="run python evaluate.py"
        )
    try:
        tables = []
        for name in files:
            with ParquetReader(name) as file:
                tables.append(file.read(None if columns is None else list(columns)))
        meaning = json.loads(tables[0].schema.metadata[KEY])
        table = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            "a catalogue written by evaluate.py", got=str(error).split("\n")[0][:200], where=path
        ) from error
    return table, meaning
