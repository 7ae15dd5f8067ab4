"""Tables of any format astronomers use, some rows at a time, as Arrow.

They are read as datacubes are (:mod:`astromodal.data.sources`): Parquet with nested columns, FITS, ECSV, VOTable. CSV
is streamed here, because catalogues of many millions of rows come as CSV. An empty list is null: nothing was observed.
The unit that a file states is in the metadata of the column.
"""

from __future__ import annotations

import difflib
import glob
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..data.sources import nested
from ..data.sources.layouts import Source, open_source
from ..data.sources.text_lists import MISSING, lists_in_text
from ..errors import DataError

ROWS = 50_000  # rows read at once
UNIT = b"unit"  # key of a column's metadata
CSV = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_BLOCK = 1 << 24  # bytes of CSV that decide the types of its columns


def files_of(pattern: str, root: str | Path, where: str) -> list[Path]:
    """Files that a path or pattern (``*``, ``**``) below ``root`` stands for, sorted.

    Raises:
        DataError: there are none.
    """
    full = str(Path(root) / pattern)
    found = [full] if Path(full).is_file() else sorted(glob.glob(full, recursive=True))
    files = [Path(path) for path in found if Path(path).is_file()]
    if not files:
        raise DataError("a file, or a pattern of files", got="none", where=full, repair=f"set {where}, or cubes.root")
    return files


def column_names(path: Path, hdu: str | None = None) -> list[str]:
    """Names of all columns of a table; nested ones by dotted name."""
    return _csv_names(path) if _delimiter(path) else nested.names_in(_opened(path, hdu).schema)


def batches(path: Path, columns: Sequence[str], hdu: str | None = None) -> Iterator[pa.RecordBatch]:
    """The wanted columns of a table, in the order asked, at most about ``ROWS`` rows at a time.

    Raises:
        DataError: the file is damaged or of no known format, or a column is missing.
    """
    columns = list(dict.fromkeys(columns))
    if _delimiter(path):
        _check(columns, _csv_names(path), path)
        for batch in _csv(path, columns):
            arrays = [_plain(batch.column(name)) for name in columns]
            yield pa.RecordBatch.from_arrays(arrays, names=columns)
        return
    source = _opened(path, hdu)
    _check([c for c in columns if nested.find(source.schema, c) is None], nested.names_in(source.schema), path)
    units = source.units()
    for batch, _ in source.batches(columns, ROWS):
        arrays = [_plain(batch.column(name)) for name in columns]
        fields = [
            pa.field(n, a.type, metadata={UNIT: units[n].encode()} if units.get(n) else None)
            for n, a in zip(columns, arrays, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _opened(path: Path, hdu: str | None) -> Source:
    try:
        return open_source([path], hdu)
    except DataError as error:  # its repair is a key of data
        raise DataError.plain(str(error).replace("data.hdu=…", "hdu, in cubes,")) from error


def _check(columns: Sequence[str], there: Sequence[str], where: object) -> None:
    for name in columns:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1, cutoff=0.5) or [
                n for n in there if n.lower() == name.lower()
            ]
            hint = f"; the nearest is {near[0]}" if near else f", only {', '.join(list(there)[:12])}"
            raise DataError(f"a column {name}", got=f"none{hint}", where=where, repair="name the column of this file")


def _plain(array: pa.Array) -> pa.Array:
    """Text as strings, lists of any kind as plain ones; an empty list as null."""
    if pa.types.is_large_string(array.type):
        return array.cast(pa.string())
    if not nested.is_list(array.type):
        return array
    array = array.cast(pa.list_(array.type.value_type))
    empty = pc.fill_null(pc.equal(pc.list_value_length(array), 0), False)
    return pc.if_else(empty, pa.scalar(None, array.type), array) if pc.any(empty).as_py() else array


# ---------------------------------------------------------------------------------------------- CSV


def _delimiter(path: Path) -> str | None:
    """Of a file with separated values; None for any other, also for the ECSV that Gaia's archive calls ``.csv``."""
    delimiter = next((d for ending, d in CSV.items() if path.name.lower().endswith(ending)), None)
    if delimiter is None or not path.is_file():
        return None
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            return None if b"%ECSV" in file.readline(200) else delimiter
    except OSError as error:
        raise DataError("a table that can be read", got=error, where=path, repair="fetch the file again") from error


def _csv_names(path: Path) -> list[str]:
    return list(next(_csv(path, [], header=True)).schema.names)


def _csv(path: Path, columns: list[str], header: bool = False) -> Iterator[pa.RecordBatch]:
    """Batches of a CSV file; text that stands for lists is parsed. With ``header``, the first batch, of all columns."""
    from pyarrow import csv

    convert = csv.ConvertOptions(
        include_columns=columns or None, strings_can_be_null=True, null_values=[*MISSING, "nan", "NaN"]
    )
    read = csv.ReadOptions(block_size=1 << 16 if header else _BLOCK)
    try:
        with csv.open_csv(path, read, csv.ParseOptions(delimiter=_delimiter(path) or ","), convert) as file:
            for batch in file:
                arrays = [
                    lists if pa.types.is_string(a.type) and (lists := lists_in_text(a)) is not None else a
                    for a in batch.columns
                ]
                yield pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "lines of CSV with one header, and columns of one type",
            got=str(error).split("\n")[0][:160],
            where=path,
            repair="write the table as Parquet or FITS",
        ) from error
