"""One spelling of an object's id, whatever type the table had; and joins on it without Python loops.

Catalogues write the same id as integer, as a float (an integer column with missing values elsewhere), as bytes or as
text padded with blanks. Everything that joins on ids goes through :func:`normalize_ids`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DataError
from ..machine.random import splitmix64

_EXACT = 2.0**53  # beyond it a float64 no longer tells neighbouring integers apart


def normalize_ids(values: Any) -> np.ndarray:
    """Ids as text: dtype ``<U…``, one-dimensional, as narrow as the longest.

    Integers and whole floats become their digits, bytes are decoded (UTF-8), blanks and NULs around are stripped. Text
    otherwise stays as it is: ``'007'`` and ``'123.0'`` are not numbers.

    Raises:
        DataError: an id is missing, not finite, a boolean, or a float too large to be exact.

    >>> normalize_ids([7, 123]), normalize_ids([b"123 ", b"007"])
    (array(['7', '123'], dtype='<U3'), array(['123', '007'], dtype='<U3'))
    """
    if type(values).__module__.startswith("pyarrow"):
        return _from_arrow(values)
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError("a column of ids", got=f"shape {array.shape}")
    kind = array.dtype.kind
    if kind == "O":
        return _from_objects(array)
    if kind in "iu":
        return _narrow(array.astype("U"))
    if kind == "f":
        return _from_floats(array)
    if kind == "S":
        try:
            return _narrow(np.char.decode(array, "utf-8"))
        except UnicodeDecodeError as error:
            raise DataError("ids in UTF-8", got=str(error)) from error
    if kind == "U":
        return _narrow(array)
    raise DataError("ids that are integers or text", got=f"dtype {array.dtype}")


def _narrow(text: np.ndarray) -> np.ndarray:
    if not len(text):
        return np.empty(0, "<U1")
    text = np.char.strip(np.char.strip(text), "\x00 \t\r\n")
    lengths = np.char.str_len(text)
    if not lengths.all():
        raise DataError("an id in every row", got="an empty one", where=f"row {int(np.argmin(lengths))}")
    return text.astype(f"<U{int(lengths.max())}")


def _from_floats(array: np.ndarray) -> np.ndarray:
    values = array.astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError("an id in every row", got=values[bad][0], where=f"row {int(np.argmax(bad))}")
    bad = np.abs(values) > (_EXACT if array.dtype.itemsize >= 8 else 2.0**24)
    if bad.any():
        raise DataError(
            "ids stored as integers or text",
            got=f"a {array.dtype} that has lost digits, {values[bad][0]:.17g}",
            where=f"row {int(np.argmax(bad))}",
            repair="rewrite the id column as integers or text",
        )
    whole = values == np.floor(values)
    if whole.all():
        return _narrow(values.astype(np.int64).astype("U"))
    return _narrow(np.where(whole, values.astype(np.int64).astype("U"), array.astype("U")))


def _from_arrow(values: Any) -> np.ndarray:
    """Arrow arrays: strings go through NumPy's own conversion, the rest by their type."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # zero chunks stay chunked in some versions
        return np.empty(0, "<U1")
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise DataError("an id in every row", got=f"{values.null_count} without", where=f"first in row {row}")
    kind = values.type
    if pa.types.is_decimal(kind):  # as Spark and DuckDB write unsigned integers
        try:
            return normalize_ids(values.cast(pa.decimal256(76, 0)).cast(pa.string()))
        except pa.ArrowInvalid as error:
            raise DataError("ids that are whole numbers", got=f"a {kind} that is none") from error
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        values = values.cast(pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary())
        kind = values.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        if pa.types.is_fixed_size_binary(kind):
            return normalize_ids(values.to_numpy(zero_copy_only=False).astype(f"S{max(kind.byte_width, 1)}"))
        try:
            values = values.cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise DataError("ids in UTF-8", got=str(error)) from error
        kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return normalize_ids(values.to_numpy(zero_copy_only=False))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _narrow(values.to_numpy(zero_copy_only=False).astype("U")) if len(values) else np.empty(0, "<U1")
    raise DataError("ids that are integers or text", got=f"type {kind}")


def _from_objects(array: np.ndarray) -> np.ndarray:
    """Python objects: of one type through Arrow, mixed ones each by itself (small tables made by hand)."""
    import pyarrow as pa

    try:
        return _from_arrow(pa.array(array, from_pandas=False))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        missing = np.array([v is None or isinstance(v, (bool, np.bool_)) for v in array])
        if missing.any():
            row = int(np.argmax(missing))
            raise DataError("an id in every row", got=repr(array[row]), where=f"row {row}") from None
        return _narrow(np.array([normalize_ids(np.array([v]))[0] for v in array]))


def hash_ids(ids: Any) -> np.ndarray:
    """64-bit hashes of ids, the same in every process and on every machine; ``(n,)`` uint64.

    FNV-1a over the characters (www.isthe.com/chongo/tech/comp/fnv), all objects at once, then the finaliser of
    splitmix64; the width of the text column is without effect.

    >>> hash_ids(["123"]) == hash_ids([b" 123  ", b"a very long one"])[:1]
    array([ True])
    """
    text = normalize_ids(ids)
    width = text.dtype.itemsize // 4
    codes = np.ascontiguousarray(text).view(np.uint32).reshape(len(text), width)
    state = np.full(len(text), 0xCBF29CE484222325, np.uint64)
    for column in codes.T:  # over characters, not objects
        step = (state ^ column) * np.uint64(0x100000001B3)
        state = np.where(column != 0, step, state)
    return splitmix64(state)


def find_duplicates(ids: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose id stood before: ``(rows, first)``, both int64, ``first`` being the row where the id stands first.

    >>> find_duplicates([5, 6, 5, 5])
    (array([2, 3]), array([0, 0]))
    """
    text = normalize_ids(ids)
    if not len(text):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    keys = hash_ids(text)
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    if (text[order][1:][same] != text[order][:-1][same]).any():  # two ids with one hash: sort the text itself
        _, keys = np.unique(text, return_inverse=True)
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
    starts = np.maximum.accumulate(np.where(np.concatenate([[True], ~same]), np.arange(len(text)), 0))
    repeated = np.flatnonzero(np.concatenate([[False], same]))
    rows, first = order[repeated], order[starts[repeated]]
    by_row = np.argsort(rows, kind="stable")
    return rows[by_row].astype(np.int64), first[by_row].astype(np.int64)
