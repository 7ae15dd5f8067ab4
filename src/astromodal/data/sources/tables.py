"""A field in a table that astropy reads: FITS, ECSV, VOTable, CSV.

FITS is read some rows at a time from a memory map. The text formats are read whole, and the last two of them are kept:
memory depends on the largest such file. Masked values are null; so is a missing integer of FITS (TNULL). A column with
several numbers per row is a list column, and so is text such as ``[1.0, 2.0]`` or ``(1.0, 2.0)``, as CSV writes them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from ...provenance.manifest import fingerprint_file
from ...provenance.remembered import Stamp, stamp_of
from .text_lists import MISSING, lists_in_text

if TYPE_CHECKING:
    from astropy.io import fits

FITS, ECSV, VOTABLE, CSV = "fits", "ascii.ecsv", "votable", "ascii.csv"
ENDINGS = {
    ".fits": FITS,
    ".fit": FITS,
    ".ecsv": ECSV,
    ".vot": VOTABLE,
    ".votable": VOTABLE,
    ".xml": VOTABLE,
    ".csv": CSV,
}
PACKED = (".gz", ".bz2", ".xz")


def table_format(path: Path) -> str | None:
    """What astropy calls the format of a table, by its name; None for a file that is none."""
    endings = [e.lower() for e in path.suffixes]
    if endings and endings[-1] in PACKED:
        endings.pop()
    return ENDINGS.get(endings[-1]) if endings else None


class TableSource:
    """The rows of one table. Attributes as those of :class:`.parquet.ParquetSource`.

    Args:
        path: the file.
        hdu: extension of a FITS file, by name or number; None: the first with a table.

    Raises:
        DataError: cut off, not of its format, no such extension, no rows, or a column that has no type here.
    """

    def __init__(self, path: Path, hdu: str | None = None) -> None:
        self.path, self.hdu, self.format = Path(path), hdu, table_format(Path(path))
        self.lacking: dict[str, Path] = {}
        if not self.path.is_file():
            raise DataError("a table", got="no such file", where=path, repair="set data.root or data.fields")
        if self.format == FITS:
            with _open_fits(self.path, hdu) as (table, name):
                self.n_rows, self.extension = len(table.data), name
                self._units = {c.name: c.unit for c in table.columns if c.unit}
                with one_line(self.path, "FITS file"):
                    self.schema = _fits_batch(table, 0, 1, [c.name for c in table.columns]).schema
        else:
            whole, self._units = _read_whole(self.path, self.format, stamp_of(self.path))
            self.n_rows, self.schema, self.extension = whole.num_rows, whole.schema, ""
        if self.n_rows == 0:
            raise DataError("at least one row", got="none", where=self.where, repair="remove or rewrite the file")

    @property
    def kind(self) -> str:
        """What this is, for reports."""
        return f"FITS table, extension {self.extension}" if self.format == FITS else f"table ({self.format})"

    @property
    def where(self) -> str:
        """What messages name."""
        return f"{self.path}, extension {self.extension}" if self.extension else str(self.path)

    def units(self) -> Mapping[str, str]:
        """Units that the header states, by column."""
        return self._units

    @property
    def files(self) -> list[Path]:
        """The one file."""
        return [self.path]

    def fingerprint(self) -> str:
        """Hash of the file's content."""
        return fingerprint_file(self.path)

    def batches(
        self, names: Sequence[str], rows: int, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Columns and the number of the first row, some rows at a time; batches without a ``wanted`` row are not read.

        Raises:
            DataError: the file changed since it was opened, or cannot be decoded.
        """
        starts = [s for s in range(0, self.n_rows, rows) if wanted is None or wanted[s : s + rows].any()]
        if self.format != FITS:
            whole = _read_whole(self.path, self.format, stamp_of(self.path))[0].select(list(names))
            self._same(whole.num_rows)
            for start in starts:
                yield whole.slice(start, rows).combine_chunks().to_batches(max_chunksize=rows)[0], start
            return
        with _open_fits(self.path, self.hdu) as (table, _):
            self._same(len(table.data))
            for start in starts:
                with one_line(self.path, "FITS file"):
                    batch = _fits_batch(table, start, rows, names)
                yield batch, start

    def _same(self, n_rows: int) -> None:
        if n_rows != self.n_rows:
            raise DataError(f"{self.n_rows} rows", got=n_rows, where=f"{self.where}, changed since")


@contextmanager
def one_line(path: Path, what: str) -> Iterator[None]:
    """astropy's errors in one line of ours, and none of its remarks on files that are nearly what they should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # astropy's readers raise nearly anything on a damaged file
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise DataError(
                f"a complete {what}",
                got=reason[:200],
                where=path,
                repair="copy or write the file again; it may be cut off",
            ) from error


# ---------------------------------------------------------------------------------------------- FITS


@contextmanager
def _open_fits(path: Path, hdu: str | None) -> Iterator[tuple[fits.BinTableHDU, str]]:
    """The extension with the table, and its name or number."""
    from astropy.io import fits

    with one_line(path, "FITS file"):
        file = fits.open(path, memmap=path.suffix.lower() not in PACKED)
    with file:
        with one_line(path, "FITS file"):
            chosen = _choose(file, path, hdu)
            len(file[chosen].data)  # read now, for the error
        yield file[chosen], file[chosen].name or str(chosen)


def _choose(file: fits.HDUList, path: Path, hdu: str | None) -> int:
    """Number of the extension with the table, which is whole."""
    from astropy.io import fits

    asked = None if hdu is None else str(hdu).lower()
    for number, table in enumerate(file):
        if isinstance(table, fits.BinTableHDU | fits.TableHDU) and asked in (None, table.name.lower(), str(number)):
            ends = 0 if path.suffix.lower() in PACKED else table.fileinfo()["datLoc"] + table.size
            if ends > (size := path.stat().st_size):
                raise DataError(
                    "a complete FITS file",
                    got=f"{size} bytes of {ends}",
                    where=f"{path}, {table.name or number}",
                    repair="copy or write the file again; it is cut off",
                )
            return number
    there = ", ".join(f"{number} {table.name}".strip() for number, table in enumerate(file))
    repair = "set data.hdu=… to the extension with the table"
    if not any(isinstance(table, fits.BinTableHDU | fits.TableHDU) for table in file):
        repair = "python build_datacubes.py makes datacubes of images and spectra"
    raise DataError(
        "a table" if hdu is None else f"a table in extension {hdu}",
        got=f"extensions {there}",
        where=path,
        repair=repair,
    )


def other_extensions(path: Path, chosen: str) -> tuple[list[str], list[str]]:
    """Names of the other tables of a FITS file, with their rows, and of its images; both empty for other formats."""
    from astropy.io import fits

    if table_format(path) != FITS:
        return [], []
    with one_line(path, "FITS file"), fits.open(path) as file:
        named = [(hdu.name or str(number), hdu) for number, hdu in enumerate(file)]
        tables = [
            f"{name} ({hdu.header['NAXIS2']} rows)"
            for name, hdu in named
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and name != chosen
        ]
        return tables, [name for name, hdu in named if hdu.is_image and hdu.header.get("NAXIS", 0) > 0]


def _fits_batch(table: fits.BinTableHDU, start: int, rows: int, names: Sequence[str]) -> pa.RecordBatch:
    """Some rows of some columns, with null where an integer is the column's TNULL."""
    part, arrays = table.data[start : start + rows], []
    for name in names:
        values, null = part[name], table.columns[name].null
        mask = None
        if null not in (None, "") and np.asarray(values).dtype.kind in "iuf":
            mask = np.asarray(np.recarray.field(part, name)) == null  # before scaling
        arrays.append(as_arrow(values, mask))
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


# ------------------------------------------------------------------------------------- whole tables


@lru_cache(maxsize=2)
def _read_whole(path: Path, kind: str, stamp: Stamp) -> tuple[pa.Table, dict[str, str]]:
    """A text table as Arrow, and the units of its columns; ``stamp`` tells versions of the file apart."""
    from astropy.table import Table
    from astropy.table.serialize import represent_mixins_as_columns

    options: dict[str, Any] = {}
    if kind == CSV and _is_ecsv(path):  # Gaia's archive calls them .csv.gz
        kind = ECSV
    if kind in (CSV, ECSV):
        options = {"guess": False, "fill_values": [(text, "0") for text in MISSING]}
    with one_line(path, f"table ({kind})"):
        table = represent_mixins_as_columns(Table.read(path, format=kind, **options))
        columns = {name: as_arrow(table[name], None) for name in table.colnames}
        if kind == CSV:  # without a value there is no telling of what type it is
            columns = {n: pa.nulls(len(c)) if c.null_count == len(c) else c for n, c in columns.items()}
        units = {name: str(table[name].unit) for name in table.colnames if table[name].unit is not None}
    return pa.table(columns), units


def _is_ecsv(path: Path) -> bool:
    import bz2
    import gzip
    import lzma

    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with one_line(path, "table"), openers.get(path.suffix.lower(), open)(path, "rb") as file:
        return b"%ECSV" in file.readline(200)


# ------------------------------------------------------------------------------------------- columns


def as_arrow(values: Any, mask: np.ndarray | None = None) -> pa.Array:
    """A column of numbers, text, or arrays (n, …) of either, in any byte order, masked or not, as an Arrow array."""
    hidden = getattr(values, "mask", None) if mask is None else mask
    array = np.ma.getdata(np.asanyarray(values))
    if array.dtype.kind == "O":
        return _ragged(array, hidden)
    if array.dtype.kind in "iufb":
        array = np.asarray(array).astype(array.dtype.newbyteorder("="), copy=False)
    elif array.dtype.kind == "S":
        array = np.char.decode(np.asarray(array), "utf-8", "replace")
    else:
        array = np.asarray(array).astype("U")
    hidden = None if hidden is None or not np.any(hidden) else np.broadcast_to(hidden, array.shape)
    flat = pa.array(array.reshape(-1), mask=None if hidden is None else np.ascontiguousarray(hidden).reshape(-1))
    if array.dtype.kind == "U":
        flat = pc.utf8_rtrim_whitespace(flat.cast(pa.large_string()))
        if array.ndim == 1:
            return flat if (lists := lists_in_text(flat)) is None else lists
    return flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, _width(array))


def _width(array: np.ndarray) -> int:
    return int(np.prod(array.shape[1:]))


def _ragged(rows: np.ndarray, hidden: Any) -> pa.Array:
    """Rows that are arrays of any length, or text; a masked or empty one is null, and so is a masked element.

    FITS and VOTable have no other way of saying that an array is not there.
    """
    masked = np.zeros(len(rows), bool)
    if hidden is not None and np.shape(hidden) == (len(rows),) and np.asarray(hidden).dtype == bool:
        masked |= np.asarray(hidden)
    masked |= np.array([row is None or row is np.ma.masked for row in rows], bool)
    if any(isinstance(row, str | bytes) for row in rows[~masked]):
        return as_arrow(np.where(masked, "", rows).astype("U"), masked)
    parts = [np.ma.masked_array(() if gone else row).reshape(-1) for row, gone in zip(rows, masked, strict=True)]
    lengths = [len(part) for part in parts]
    masked |= np.array(lengths) == 0
    filled = [part for part in parts if len(part)] or parts[:1]
    flat = as_arrow(np.ma.concatenate(filled)) if filled else pa.array([], pa.float64())
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, flat, mask=pa.array(masked) if masked.any() else None)
