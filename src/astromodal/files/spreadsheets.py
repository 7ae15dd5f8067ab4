"""Tables for people: the same rows as CSV, for spreadsheets, and as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import printable
from .atomic import atomic_path

if TYPE_CHECKING:
    import pyarrow as pa

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "＝", "＋", "－", "＠")


def write_tables(table: pa.Table, path: Path) -> tuple[Path, Path]:
    """``<path>.csv`` and ``<path>.parquet``, each written atomically. In the CSV no text is taken for a formula."""
    import pyarrow.csv
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    files = path.with_name(path.name + ".csv"), path.with_name(path.name + ".parquet")
    with atomic_path(files[0]) as temporary:
        pyarrow.csv.write_csv(without_formulas(table), str(temporary))
    with atomic_path(files[1]) as temporary:
        pyarrow.parquet.write_table(table, str(temporary))
    return files


def without_formulas(table: pa.Table) -> pa.Table:
    """Texts and names that a spreadsheet would compute, or a terminal obey, as plain text (OWASP: CSV injection)."""
    import pyarrow as pa

    columns = []
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pa.array([None if text is None else plain_cell(text) for text in column.to_pylist()], pa.string())
        columns.append(column)
    return pa.table(columns, names=[plain_cell(name) for name in table.column_names])


def plain_cell(text: str) -> str:
    """``text`` behind an apostrophe if it begins as a formula does; numbers stay numbers.

    >>> plain_cell("=cmd|' /C calc'!A0"), plain_cell("-0.5"), plain_cell("a=b"), plain_cell("-1+cmd")
    ("'=cmd|' /C calc'!A0", '-0.5', 'a=b', "'-1+cmd")
    """
    text = printable(text)
    if not text.lstrip(" ").startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
