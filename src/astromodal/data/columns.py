"""List columns of Arrow as NumPy arrays, without a Python object per row.

A list column is one flat buffer of values and one of offsets. Where no row is null and all have the right length,
the flat buffer *is* the matrix and is returned as a view; in every other case one copy puts the rows in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from ..errors import DataError

Column: TypeAlias = "pa.Array | pa.ChunkedArray"


def list_value_type(kind: pa.DataType) -> pa.DataType | None:
    """Type of the elements of a list type; None for any other type."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return kind.value_type if is_list else None


def is_number(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type can be read as floating-point numbers."""
    is_a = pa.types
    return is_a.is_integer(kind) or is_a.is_floating(kind) or is_a.is_boolean(kind) or is_a.is_decimal(kind)


def refuse_twice(names: Sequence[str], wanted: Iterable[str], where: object) -> None:
    """Refuse a column that is wanted and stands twice among the ``names`` of a file: nobody knows which is meant.

    Raises:
        DataError: naming it.
    """
    for name in wanted:
        if (n := names.count(name)) > 1:
            raise DataError(
                f"one column {name}",
                got=f"{n} of that name",
                where=where,
                repair="rename or drop all but one (a join keeps both)",
            )


def one_array(column: Column) -> pa.Array:
    """A chunked column as one array; without a copy where there is one chunk."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], type=column.type)
    return pa.concat_arrays(column.chunks)


def numbers(column: Column, where: str = "") -> np.ndarray:
    """A numeric column as floats, NaN where null: float32 columns as float32, all others as float64.

    Raises:
        DataError: the column does not hold numbers.
    """
    array = one_array(column)
    if pa.types.is_null(array.type):
        return np.full(len(array), np.nan)
    if not is_number(array.type):
        raise DataError("a column of numbers", got=f"type {array.type}", where=where)
    if pa.types.is_float32(array.type):
        return array.to_numpy(zero_copy_only=False)
    if array.null_count or pa.types.is_boolean(array.type) or pa.types.is_decimal(array.type):
        array = array.cast(pa.float64(), safe=False)
    return array.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def _fits_single(kind: pa.DataType) -> bool:
    """Whether float32 holds all numbers of an Arrow type exactly."""
    small = pa.types.is_integer(kind) and kind.bit_width <= 16
    return small or any(
        is_a(kind) for is_a in (pa.types.is_float16, pa.types.is_float32, pa.types.is_boolean, pa.types.is_null)
    )


def _parts(column: Column, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Flat values, and for each row its start, its length (0 if null) and whether it is not null.

    The values are float32 where that holds them exactly, else float64: an inverse variance of 1e40 is no infinity.
    """
    array = one_array(column)
    n = len(array)
    if pa.types.is_null(array.type):
        zeros = np.zeros(n, np.int64)
        return np.empty(0, np.float32), zeros, zeros, np.zeros(n, bool)
    kind = list_value_type(array.type)
    if kind is None or not (is_number(kind) or pa.types.is_null(kind)):
        raise DataError("a column with lists of numbers", got=f"type {array.type}", where=where)
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        starts, lengths = (np.arange(n, dtype=np.int64) + array.offset) * size, np.full(n, size, np.int64)
    else:
        offsets = array.offsets.to_numpy().astype(np.int64)
        starts, lengths = offsets[:-1], np.diff(offsets)
    not_null = np.ones(n, bool) if not array.null_count else ~array.is_null().to_numpy(zero_copy_only=False)
    # only this slice's part of the values, which may belong to a much longer array
    used = not_null & (lengths > 0)
    begin = int(starts[used].min()) if used.any() else 0
    end = int((starts + lengths)[used].max()) if used.any() else 0
    flat = numbers(array.values.slice(begin, end - begin), where)
    if _fits_single(array.values.type):
        flat = flat.astype(np.float32, copy=False)
    return flat, np.where(used, starts - begin, 0), np.where(not_null, lengths, 0), not_null


def list_column_to_matrix(
    column: Column, length: int, where: str = "", *, strict: bool = True, ids: Column | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A list column whose rows all have ``length`` elements, as a matrix.

    Args:
        column: (large, fixed-size) list of numbers, possibly chunked or sliced; element nulls become NaN.
        length: elements that every row that is not null must have.
        where: file, field and column, for the message.
        strict: refuse a row of another length; otherwise it counts as not present (the number of such rows is
            ``len(column) - column.null_count - present.sum()``).
        ids: the rows' ids, for the message.

    Returns:
        ``values`` ``(n, length)``: float32, or float64 where the file's numbers are wider; a read-only view of Arrow's
        memory where possible, 0 in rows not present. ``present`` ``(n,)``: bool.

    Raises:
        DataError: not a list of numbers; or a row of another length, with ``strict``.
    """
    flat, starts, lengths, not_null = _parts(column, where)
    n = len(starts)
    present = not_null & (lengths == length)
    if strict and (wrong := not_null & ~present).any():
        row = int(np.argmax(wrong))
        name = f", id {one_array(ids)[row].as_py()}" if ids is not None else ""
        raise DataError(
            f"{length} values in every row",
            got=f"{lengths[row]} (and {int(wrong.sum()) - 1} more such rows)",
            where=f"{where}, row {row}{name}",
            repair="set the length in data=…, or rewrite the column",
        )
    rows = np.flatnonzero(present)
    begin = int(starts[rows[0]]) if len(rows) else 0
    packed = bool(len(rows)) and bool((starts[rows] == begin + np.arange(len(rows)) * length).all())
    block = flat[begin : begin + len(rows) * length].reshape(len(rows), length) if packed else None
    if block is not None and len(rows) == n:
        return block, present
    values = np.zeros((n, length), flat.dtype)
    if block is not None:
        values[rows] = block
    elif len(rows):
        values[rows] = np.lib.stride_tricks.sliding_window_view(flat, length)[starts[rows]]
    return values, present


def list_column_ragged(column: Column, where: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A list column with rows of any length.

    Returns:
        ``flat`` ``(total,)``: all rows one after the other, element nulls as NaN; float32, or float64 where the file's
        numbers are wider. ``offsets`` ``(n + 1,)``: row ``i`` is ``flat[offsets[i]:offsets[i + 1]]``, int64.
        ``present`` ``(n,)``: bool, not null and not empty.

    Raises:
        DataError: not a list of numbers.
    """
    flat, starts, lengths, _ = _parts(column, where)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    used = lengths > 0
    if (starts[used] != offsets[:-1][used]).any():  # gaps: null rows with hidden values
        flat = flat[np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])]
    return flat[: offsets[-1]], offsets, used
