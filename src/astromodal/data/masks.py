"""Columns with a mask beside them, as astropy's tables are written: ``z`` and a boolean ``z.mask``, True where masked.

What lies under a mask is anything: 0, a neighbour's value, the value of another catalogue. It is read as null, whoever
reads the column. A list column has a mask per row, or a list of masks per element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from .columns import list_value_type, one_array

Batch = TypeVar("Batch", pa.RecordBatch, pa.Table)
SUFFIX = ".mask"


def mask_columns(schema: pa.Schema) -> dict[str, str]:
    """Columns of a file that have a mask, and the name of its column."""
    found = {}
    for name in schema.names:
        if name + SUFFIX in schema.names and len(schema.get_all_field_indices(name + SUFFIX)) == 1:
            kind = schema.field(name + SUFFIX).type
            if pa.types.is_boolean(kind) or pa.types.is_boolean(list_value_type(kind) or pa.null()):
                found[name] = name + SUFFIX
    return found


def unmasked(table: Batch, names: Sequence[str], masks: Mapping[str, str]) -> tuple[Batch, dict[str, int]]:
    """The columns ``names`` of a table or batch with null where they are masked, and how many values that took of each.

    Raises:
        DataError: a mask of another shape than its column.
    """
    arrays, counts = [], {}
    for name in names:
        array = one_array(table.column(name))
        mask = one_array(table.column(masks[name])) if name in masks else None
        if mask is not None and not pa.types.is_null(mask.type) and not pa.types.is_null(array.type):
            array, counts[name] = _applied(array, mask, name)
        arrays.append(array)
    return type(table).from_arrays(arrays, names=list(names)), counts


def masked_values(batch: object, names: Sequence[str]) -> int:
    """Values (elements, of a list with a mask per element) of some columns of a cube's batch that a mask took."""
    masked = getattr(batch, "masked", {})
    return sum(masked.get(name, 0) for name in names)


def _applied(array: pa.Array, mask: pa.Array, name: str) -> tuple[pa.Array, int]:
    """One column with null where the mask is True, and how many values were taken."""
    if pa.types.is_boolean(mask.type):
        hidden = pc.and_(pc.fill_null(mask, False), array.is_valid())
        return pc.if_else(hidden, pa.scalar(None, array.type), array), int(pc.sum(hidden).as_py() or 0)
    if list_value_type(array.type) is None:
        raise DataError("a mask of one value per row", got=f"type {mask.type}", where=f"column {name}{SUFFIX}")
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    masked = pc.and_(array.is_valid(), mask.is_valid())  # a row without a mask has nothing masked
    own = pc.fill_null(pc.list_value_length(mask), 0)
    wrong = pc.and_(masked, pc.not_equal(own, lengths))
    if n := int(pc.sum(wrong).as_py() or 0):
        raise DataError(
            f"as many masks as values in {name}",
            got=f"{n} rows with another number",
            where=f"column {name}{SUFFIX}",
            repair="write the column again",
        )
    starts = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))])
    flat, hidden = array.flatten(), np.zeros(int(starts[-1]), bool)
    rows = np.repeat(masked.to_numpy(zero_copy_only=False), np.diff(starts))
    flags = mask.filter(masked).flatten()  # true, or any bit of an integer
    flags = flags if pa.types.is_boolean(flags.type) else pc.not_equal(flags, 0)
    hidden[rows] = pc.fill_null(flags, False).to_numpy(zero_copy_only=False)
    flat = pc.if_else(pa.array(hidden), pa.scalar(None, flat.type), flat)
    none = array.is_null() if array.null_count else None
    return pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), flat, mask=none), int(hidden.sum())
