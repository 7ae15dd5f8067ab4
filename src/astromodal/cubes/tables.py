"""Tables of any format astronomers use, some rows at a time, as Arrow: FITS, Parquet, CSV, ECSV, VOTable.

FITS, Parquet and CSV are streamed; ECSV and VOTable are read file by file, as astropy reads them. What is masked,
or a null of the format (TNULL, an empty cell), becomes null. Array cells become lists, also those that text formats
write as ``"[1, 2, 3]"`` or ``"(1, 2, 3)"``. The unit that a file states is in the metadata of the column.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from .fits_files import find_hdu, open_fits, reading

ROWS = 50_000  # rows read at once
UNIT = b"unit"  # key of a column's metadata
_PARQUET = (".parquet", ".parq", ".pq")
CSV = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_ASTROPY = {".ecsv": "ascii.ecsv", ".ecsv.gz": "ascii.ecsv", ".vot": "votable", ".votable": "votable",
            ".xml": "votable", ".vot.gz": "votable", ".xml.gz": "votable"}  # fmt: skip


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


def batches(path: Path, columns: Sequence[str], hdu: str | None = None) -> Iterator[pa.RecordBatch]:
    """The wanted columns of a table, in the order asked, at most about ``ROWS`` rows at a time.

    Raises:
        DataError: the file is damaged or of no known format, or a column is missing.
    """
    name, columns = path.name.lower(), list(dict.fromkeys(columns))
    delimiter = next((d for ending, d in CSV.items() if name.endswith(ending)), None)
    form = next((form for ending, form in _ASTROPY.items() if name.endswith(ending)), None)
    if name.endswith(_PARQUET):
        found = _parquet(path, columns)
    elif form or (delimiter and _is_ecsv(path)):
        found = _astropy(path, columns, form or "ascii.ecsv")
    elif delimiter:
        found = _csv(path, columns, delimiter)
    else:
        found = _fits(path, columns, hdu)
    for batch in found:
        arrays = [_parsed(batch.column(name), path, name) for name in columns]
        fields = [pa.field(name, array.type, metadata=batch.schema.field(name).metadata)
                  for name, array in zip(columns, arrays, strict=True)]  # fmt: skip
        yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _check(columns: Sequence[str], there: Sequence[str], where: object) -> None:
    for name in columns:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1, cutoff=0.5) or [n for n in there if n.lower() == name.lower()]
            hint = f"; the nearest is {near[0]}" if near else f", only {', '.join(list(there)[:12])}"
            raise DataError(f"a column {name}", got=f"none{hint}", where=where, repair="name the column of this file")


# ------------------------------------------------------------------------------------------- formats


def _parquet(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check(columns, file.schema_arrow.names, path)
            yield from file.iter_batches(ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError("a complete Parquet file", got=str(error).split("\n")[0][:160], where=path) from error


def _csv(path: Path, columns: list[str], delimiter: str) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv

    convert = csv.ConvertOptions(include_columns=columns, strings_can_be_null=True,
                                 null_values=["", "null", "NULL", "nan", "NaN", "--", "N/A"])  # fmt: skip
    try:
        with csv.open_csv(path, csv.ReadOptions(block_size=1 << 24), csv.ParseOptions(delimiter=delimiter),
                          csv.ConvertOptions()) as file:  # fmt: skip
            _check(columns, file.schema.names, path)
        with csv.open_csv(path, csv.ReadOptions(block_size=1 << 24), csv.ParseOptions(delimiter=delimiter),
                          convert) as file:  # fmt: skip
            yield from file
    except (pa.ArrowException, OSError) as error:
        raise DataError("lines of CSV with one header, and columns of one type", got=str(error).split("\n")[0][:160],
                        where=path, repair="write the table as Parquet or FITS") from error  # fmt: skip


def _is_ecsv(path: Path) -> bool:
    """Gaia's archive writes ECSV into files called ``.csv``."""
    import gzip

    opened = gzip.open if path.name.endswith(".gz") else open
    with contextlib.suppress(OSError, UnicodeDecodeError, EOFError), opened(path, "rt", encoding="utf-8") as file:
        return file.readline().startswith("# %ECSV")
    return False


def _astropy(path: Path, columns: list[str], form: str) -> Iterator[pa.RecordBatch]:
    from astropy.table import Table

    with warnings.catch_warnings(), reading(path):
        warnings.simplefilter("ignore")
        table = Table.read(path, format=form)
    _check(columns, table.colnames, path)
    arrays = {name: _column(table[name], path, name) for name in columns}
    fields = [pa.field(n, a.type, metadata=_unit(table[n].unit)) for n, a in arrays.items()]
    whole = pa.table(list(arrays.values()), schema=pa.schema(fields))
    yield from whole.to_batches(max_chunksize=ROWS)


def _fits(path: Path, columns: list[str], hdu: str | None) -> Iterator[pa.RecordBatch]:
    with open_fits(path) as hdus:
        number = find_hdu(hdus, hdu, "table", path)
        table = hdus[number]
        spelt = {name.lower(): name for name in table.columns.names}
        own = [name if name in table.columns.names else spelt.get(name.lower(), name) for name in columns]
        _check(own, table.columns.names, f"{path}, extension {number} {table.name}".strip())
        n = int(table.header["NAXIS2"])
        for first in range(0, max(n, 1), ROWS):
            with reading(path, number):
                rows = table.data[first : first + ROWS]
                arrays = [_fits_column(rows, table.columns[name], path) for name in own]
            fields = [pa.field(c, a.type, metadata=_unit(table.columns[o].unit))
                      for c, o, a in zip(columns, own, arrays, strict=True)]  # fmt: skip
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
            del rows


def _unit(unit: Any) -> dict[bytes, bytes] | None:
    return {UNIT: str(unit).encode()} if unit is not None and str(unit) else None


# ------------------------------------------------------------------------------------------- columns


def _fits_column(rows: Any, column: Any, path: Path) -> pa.Array:
    values = rows.field(column.name)
    if column.null is not None and values.dtype.kind in "iu":
        values = np.ma.masked_equal(values, column.null)
    return _arrow(values, path, column.name)


def _column(column: Any, path: Path, name: str) -> pa.Array:
    values = column
    if hasattr(values, "unmasked") and hasattr(values, "mask"):  # a masked quantity
        values = np.ma.MaskedArray(np.asarray(values.unmasked.value), np.asarray(values.mask))
    elif not isinstance(values, np.ma.MaskedArray):
        values = getattr(values, "value", values)
    if not isinstance(values, np.ndarray):
        raise DataError("a column of numbers or text", got=type(column).__name__, where=f"{path}, column {name}")
    return _arrow(values, path, name)


def _arrow(values: np.ndarray, path: Path, name: str) -> pa.Array:
    """A column of astropy as Arrow: numbers, text, or lists of numbers."""
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    values = np.asarray(values.data if mask is not None else values)
    if values.dtype.kind == "O":
        return _ragged(values, mask, path, name)
    if values.dtype.kind in "SU":
        text = np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values
        return pa.array(np.char.strip(text).tolist() if not len(text) else np.char.strip(text), pa.string(), mask=mask)
    if values.dtype.kind not in "iufb":
        raise DataError("a column of numbers or text", got=f"type {values.dtype}", where=f"{path}, column {name}")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 1:
        return pa.array(values, mask=mask)
    flat, n = values.reshape(len(values), -1), len(values)
    inner = None if mask is None else mask.reshape(n, -1)
    if inner is not None and flat.dtype.kind == "f":
        flat = np.where(inner, np.nan, flat)
    none = np.zeros(n, bool) if inner is None else inner.all(1)
    kept = pa.array(np.ascontiguousarray(flat[~none]).reshape(-1))
    offsets = np.concatenate([[0], np.cumsum(np.where(none, 0, flat.shape[1]))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), kept, mask=pa.array(none))


def _ragged(values: np.ndarray, mask: np.ndarray | None, path: Path, name: str) -> pa.Array:
    """An object column: text with nulls, or arrays of any length; a masked element of an array is NaN."""
    if mask is not None and mask.ndim > 1:
        mask = mask.reshape(len(mask), -1).all(1)
    null = np.array([v is None for v in values], bool) | (False if mask is None else mask)
    if all(isinstance(v, str) for v in values[~null]):
        return pa.array([None if gone else str(v) for v, gone in zip(values, null, strict=True)], pa.string())
    try:
        rows = [np.empty(0) if gone else np.ma.filled(np.ma.asarray(v, np.float64), np.nan).reshape(-1)
                for v, gone in zip(values, null, strict=True)]  # fmt: skip
    except (TypeError, ValueError) as error:
        raise DataError("a column of numbers, text or arrays", got=str(error)[:80], where=f"{path}, column {name}") from error
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    flat = np.concatenate(rows) if rows else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), mask=pa.array(null))


def _parsed(array: pa.Array, path: Path, name: str) -> pa.Array:
    """Lists where text stands for lists, with null for an empty one; every other column as it is."""
    if pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if pa.types.is_list(array.type):
        empty = pc.fill_null(pc.equal(pc.list_value_length(array), 0), False)
        return pc.if_else(empty, pa.scalar(None, array.type), array) if pc.any(empty).as_py() else array
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        return array
    given = array.drop_null()
    if not len(given) or not given[0].as_py().lstrip()[:1] in ("[", "("):
        return array.cast(pa.string())
    try:
        text = pc.utf8_trim(pc.replace_substring(array, " ", ""), "()[]\n")
        text = pc.replace_substring(text, "null", "nan")
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
        return pc.split_pattern(text, ",").cast(pa.list_(pa.float64()))
    except pa.ArrowInvalid as error:
        raise DataError("lists of numbers such as [1, 2]", got=str(error)[:120], where=f"{path}, column {name}") from error


def column_names(path: Path, hdu: str | None = None) -> list[str]:
    """Names of all columns of a table; of ECSV and VOTable files everything is read for it."""
    import pyarrow.parquet as pq
    from pyarrow import csv

    name = path.name.lower()
    delimiter = next((d for ending, d in CSV.items() if name.endswith(ending)), None)
    form = next((form for ending, form in _ASTROPY.items() if name.endswith(ending)), None)
    if name.endswith(_PARQUET):
        try:
            return list(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise DataError("a complete Parquet file", got=str(error).split("\n")[0][:160], where=path) from error
    if form or (delimiter and _is_ecsv(path)):
        from astropy.table import Table

        with warnings.catch_warnings(), reading(path):
            warnings.simplefilter("ignore")
            return list(Table.read(path, format=form or "ascii.ecsv").colnames)
    if delimiter:
        try:
            with csv.open_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter)) as file:
                return list(file.schema.names)
        except (pa.ArrowException, OSError) as error:
            raise DataError("lines of CSV with a header", got=str(error).split("\n")[0][:160], where=path) from error
    with open_fits(path) as hdus:
        return list(hdus[find_hdu(hdus, hdu, "table", path)].columns.names)
