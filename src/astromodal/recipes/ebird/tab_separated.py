"""Some columns of a large tab-separated file without quoting, block by block.

A row with another number of fields than the header is looked at once more: where the free text at its end (a column
called …COMMENTS) holds the odd tab, the columns before it are whole, and the row is rescued; any other is malformed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from ...errors import DataError
from ...files.text_files import decoded, refuse_other_kinds

MAX_HEADER = 1 << 22  # bytes: a file without a line end is no table


class TabReader:
    """Iterates over record batches of binary columns; afterwards ``n_rows``, ``n_rescued``, ``n_malformed`` are known.

    Args:
        path: plain text, or compressed with the suffix saying how (``.gz``, ``.bz2``).
        columns: name in the batches -> names in the file, of which the first that is there is taken. Names are compared
            without regard to case, blanks around them, and underscores or dots for blanks.
        nrows: end after so many rows.

    Raises:
        DataError: no such file, an empty one, or columns that are missing.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Mapping[str, Sequence[str]],
        block_bytes: int = 1 << 20,
        nrows: int | None = None,
    ) -> None:
        self.path, self.block_bytes, self.nrows = Path(path), block_bytes, nrows
        self.n_rows = self.n_rescued = self.n_malformed = 0
        header = self._header()
        self.n_fields = len(header)
        missing = [" or ".join(names) for names in columns.values() if not set(names) & set(header)]
        if missing:
            got = ", ".join(name for name in header if name)[:200]
            raise DataError(
                f"the columns {'; '.join(missing)}",
                got=got or "an empty line",
                where=self.path,
                repair="give a tab-separated file as it was downloaded, with its header",
            )
        self.places = {name: header.index(next(n for n in names if n in header)) for name, names in columns.items()}
        comments = [i for i, name in enumerate(header) if name.endswith("COMMENTS")]
        self._safe = min(comments, default=self.n_fields)  # columns before this one survive a tab in the free text
        self._odd: list[list[bytes]] = []

    def _header(self) -> list[str]:
        try:
            with pa.input_stream(str(self.path), compression="detect") as stream:
                line = stream.read(1 << 16)
                refuse_other_kinds(line, "a tab-separated file", self.path)
                while b"\n" not in line and len(line) < MAX_HEADER and (block := stream.read(1 << 16)):
                    line += block
        except FileNotFoundError as error:
            raise DataError("a tab-separated file", got="nothing", where=self.path) from error
        except OSError as error:
            raise DataError(
                "a readable text or .gz file",
                got=str(error),
                where=self.path,
                repair="unpack archives (.tar, .zip) first",
            ) from error
        text = decoded(line.split(b"\n")[0], "a tab-separated file", self.path)
        return [" ".join(name.replace("_", " ").replace(".", " ").split()).upper() for name in text.split("\t")]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.n_rows = self.n_rescued = self.n_malformed = 0
        try:
            for batch in self._open():
                for part in (batch, self._rescued()):
                    if part is not None and len(part):
                        if self.nrows is not None:
                            part = part.slice(0, self.nrows - self.n_rows)
                        self.n_rows += len(part)
                        yield part
                if self.nrows is not None and self.n_rows >= self.nrows:
                    return
            rest = self._rescued()
            if rest is not None:
                self.n_rows += len(rest)
                yield rest
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                "a whole tab-separated file",
                got=str(error).splitlines()[0],
                where=self.path,
                repair="download or unpack it again",
            ) from error

    def _open(self) -> Iterator[pa.RecordBatch]:
        names = [f"f{i}" for i in range(self.n_fields)]
        wanted = [names[place] for place in self.places.values()]
        try:
            with self._in_utf8():
                reader = csv.open_csv(
                    str(self.path),
                    read_options=csv.ReadOptions(
                        use_threads=False, block_size=self.block_bytes, skip_rows=1, column_names=names
                    ),
                    parse_options=csv.ParseOptions(
                        delimiter="\t", quote_char=False, double_quote=False, invalid_row_handler=self._keep_odd
                    ),
                    convert_options=csv.ConvertOptions(
                        column_types=dict.fromkeys(wanted, pa.binary()),
                        include_columns=wanted,
                        check_utf8=False,
                        strings_can_be_null=False,
                    ),
                )
        except pa.ArrowInvalid as error:
            if "Empty" in str(error):  # a header and no row
                return
            raise
        while True:
            with self._in_utf8():
                batch = next(reader, None)
            if batch is None:
                return
            yield pa.RecordBatch.from_arrays(batch.columns, names=list(self.places))

    @contextmanager
    def _in_utf8(self) -> Iterator[None]:
        """Around the parser, which decodes an odd row before it calls :meth:`_keep_odd`.

        Where that fails, it prints a traceback and ends with the row's number of fields: the reason is caught here.

        Raises:
            DataError: an odd row is no text in UTF-8.
        """
        failures: list[BaseException | None] = []
        before, sys.unraisablehook = sys.unraisablehook, lambda found: failures.append(found.exc_value)
        try:
            yield
        except pa.ArrowInvalid as error:
            if not failures:
                raise
            raise DataError(
                "a tab-separated file in UTF-8", got=str(failures[0]), where=self.path, repair="save it as UTF-8"
            ) from error
        finally:
            sys.unraisablehook = before

    def _keep_odd(self, row: csv.InvalidRow) -> str:
        """Called by the parser for a row with another number of fields; it goes on without the row."""
        last = max(self.places.values())
        if (row.actual_columns > self.n_fields and last < self._safe) or self._only_shorter(row, last):
            fields = row.text.rstrip("\r\n").split("\t")
            self._odd.append([fields[place].encode() for place in self.places.values()])
        else:
            self.n_malformed += 1
        return "skip"

    def _only_shorter(self, row: csv.InvalidRow, last: int) -> bool:
        """A row that lacks just the empty field after the header's last tab."""
        return row.actual_columns == self.n_fields - 1 and last < row.actual_columns

    def _rescued(self) -> pa.RecordBatch | None:
        if not self._odd:
            return None
        columns, self._odd = [pa.array(values, pa.binary()) for values in zip(*self._odd, strict=True)], []
        self.n_rescued += len(columns[0])
        return pa.RecordBatch.from_arrays(columns, names=list(self.places))
