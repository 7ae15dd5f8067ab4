"""Lists of numbers that a file holds as text: CSV has nothing else, and fastparquet writes them as JSON."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = ("", "null", "NULL", "--", "N/A")  # how text says that there is no value; nan is a number
_LIST = r"^\s*[\[(].*[\])]\s*$"


def lists_in_text(text: pa.Array) -> pa.Array | None:
    """Text such as ``[1.0, 2.0]``, ``(1.0, 2.0)`` or ``[1. 2.]`` in every row that has any, as lists; else None.

    Rows that are null, empty or say that nothing is there are null.

    >>> lists_in_text(pa.array(["[1, 2.5]", None, "()"])).to_pylist()
    [[1.0, 2.5], None, []]
    """
    text = text.cast(pa.large_string())
    null = pc.or_kleene(text.is_null(), pc.is_in(text, value_set=pa.array(MISSING, text.type)))
    given = text.filter(pc.invert(null))
    if not len(given) or not pc.all(pc.match_substring_regex(given, _LIST)).as_py():
        return None
    parts = pc.split_pattern_regex(pc.utf8_trim(text, characters=" \t[]()"), r"[,\s]+")
    lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy(zero_copy_only=False)
    flat = parts.flatten()
    kept = pc.and_(pc.not_equal(flat, ""), pa.array(np.repeat(pc.invert(null).to_numpy(zero_copy_only=False), lengths)))
    rows = np.repeat(np.arange(len(text)), lengths)[kept.to_numpy(zero_copy_only=False)]
    flat = flat.filter(kept)
    missing = pc.is_in(flat, value_set=pa.array([*MISSING, "None", "masked"], flat.type))
    try:
        numbers = pc.if_else(missing, pa.scalar(None, flat.type), flat).cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(text)))])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), numbers, mask=null)
