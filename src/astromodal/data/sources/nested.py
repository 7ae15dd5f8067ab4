"""Arrow columns as the readers want them: nested ones by dotted name, odd types as plain ones.

``spectrum.flux`` is the field ``flux`` of a column ``spectrum``, whether that holds a struct of lists or a list of
structs: both are read as one list per row. ``image.flux[DES-R]`` is the element of such a list where ``image.band``
says ``DES-R``, ``image.flux[0]`` the first. A column whose own name has a dot in it comes first.

Dictionaries, views, extension types (tensors) and lists of lists come out as their values, strings, lists, and one flat
list, row by row. Nothing is copied of a column that is plain already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from .text_lists import lists_in_text

_ELEMENT = re.compile(r"(.+)\[([^\]]+)\]\Z", re.DOTALL)
LABEL = "band"  # field beside the one that is chosen from, which names the elements


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of its six kinds of lists."""
    names = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(pa.types, f"is_{name}", lambda _: False)(kind) for name in names)


def storage(kind: pa.DataType) -> pa.DataType:
    """The type behind an extension type; any other as it is."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_view(kind: pa.DataType, of: str) -> bool:
    return getattr(pa.types, f"is_{of}_view", lambda _: False)(kind)


def _is_json(kind: pa.DataType) -> bool:
    """Lists as fastparquet writes them."""
    return getattr(kind, "extension_name", "") == "arrow.json"


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of :func:`plain` of an array."""
    if _is_json(kind):
        return pa.large_list(pa.float64())
    kind = storage(kind)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if _is_view(kind, "string"):
        return pa.large_string()
    if _is_view(kind, "binary"):
        return pa.large_binary()
    if not is_list(kind):
        return kind
    inner = plain_type(kind.value_type)
    if is_list(inner):
        return pa.large_list(inner.value_type)
    view = _is_view(kind, "list") or _is_view(kind, "large_list")
    return pa.large_list(inner) if view or inner != kind.value_type else kind


def plain(array: pa.Array) -> pa.Array:
    """An array without dictionaries, views, extension types and lists of lists; the same one where it has none."""
    kind = array.type
    if plain_type(kind) == kind:
        return array
    if _is_json(kind):
        none = array.null_count == len(array)
        lists = pa.nulls(len(array), plain_type(kind)) if none else lists_in_text(array.storage)
        if lists is None:
            raise DataError(
                "a list of numbers in every row", got="other text as JSON", repair="write the column again, as lists"
            )
        return lists
    if isinstance(kind, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if not is_list(kind):
        return array.cast(plain_type(kind))
    offsets, flat, null = as_lists(array)
    flat = plain(flat)
    if is_list(flat.type):  # row by row, each row its own lists one after the other
        inner, flat, _ = as_lists(flat)
        offsets = inner[offsets]
    return _lists(offsets, flat, null)


def as_lists(array: pa.Array) -> tuple[np.ndarray, pa.Array, pa.Array | None]:
    """A list array as offsets (n + 1,), its values without those that nulls hide, and which rows are null."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return offsets, array.flatten(), array.is_null() if array.null_count else None


def _lists(offsets: np.ndarray, flat: pa.Array, null: pa.Array | None) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat, mask=null)


@dataclass(frozen=True)
class Place:
    """Where the values of a name stand: a column, the fields below it, and perhaps an element of the list there."""

    column: str
    steps: tuple[str, ...] = ()
    element: str | None = None


def find(schema: pa.Schema, name: str) -> Place | None:
    """The place of a name; None if there is none such."""
    if name in schema.names:
        return Place(name)
    if match := _ELEMENT.match(name):
        place = find(schema, match[1])
        if place is None or place.element is not None:
            return None
        kind = stored_type(schema, place)
        return Place(place.column, place.steps, match[2]) if kind and is_list(storage(kind)) else None
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):  # a column's own name may have dots in it
        place = Place(".".join(parts[:n]), tuple(parts[n:]))
        if place.column in schema.names and stored_type(schema, place) is not None:
            return place
    return None


def type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Type of what :func:`take` gives for a name, None for an unknown one."""
    place = find(schema, name)
    if place is None:
        return None
    kind = stored_type(schema, place)
    return plain_type(storage(kind).value_type if place.element is not None else kind)


def stored_type(schema: pa.Schema, place: Place) -> pa.DataType | None:
    """Type of a place as the file holds it (elements apart); None where there is no such field."""
    kind = schema.field(schema.names.index(place.column)).type
    for step in place.steps:
        kind = _child_type(storage(kind), step)
        if kind is None:
            return None
    return kind


def _child_type(kind: pa.DataType, name: str) -> pa.DataType | None:
    if is_list(kind):
        inner = _child_type(storage(kind.value_type), name)
        return None if inner is None else pa.large_list(inner)
    if pa.types.is_struct(kind) and (at := kind.get_field_index(name)) >= 0:
        return kind.field(at).type
    return None


def names_in(schema: pa.Schema) -> list[str]:
    """Every name that can be asked for, elements apart: columns, and behind nested ones the fields in them."""

    def below(name: str, kind: pa.DataType) -> Iterator[str]:
        kind = storage(kind)
        while is_list(kind):
            kind = storage(kind.value_type)
        if pa.types.is_struct(kind):
            for i in range(kind.num_fields):
                field = kind.field(i)
                yield f"{name}.{field.name}"
                yield from below(f"{name}.{field.name}", field.type)

    columns = set(schema.names)
    return [
        name
        for field in schema
        for name in (field.name, *(n for n in below(field.name, field.type) if n not in columns))
    ]


def take(table: pa.RecordBatch | pa.Table, names: Sequence[str]) -> pa.RecordBatch:
    """The values of some names, each a plain column called by its name."""
    arrays = []
    for name in names:
        place = find(table.schema, name)
        if place is None:
            raise KeyError(name)
        column = table.column(place.column)
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        array = _descend(array, place.steps)
        if place.element is not None:
            array = _element(array, place, place.element, table)
        arrays.append(plain(array))
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def _descend(array: pa.Array, steps: Sequence[str]) -> pa.Array:
    for step in steps:
        array = _child(array, step)
    return array


def _child(array: pa.Array, name: str) -> pa.Array:
    """A field of a struct array, or of the structs in a list array, as an array of lists; null where the parent is."""
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if is_list(array.type):
        offsets, flat, null = as_lists(array)
        return _lists(offsets, _child(flat, name), null)
    return pc.struct_field(array, [array.type.get_field_index(name)])


def _element(array: pa.Array, place: Place, element: str, table: pa.RecordBatch | pa.Table) -> pa.Array:
    """One element of each list: by its number, or where the field ``band`` beside it has the wanted name; else null."""
    offsets, flat, _ = as_lists(array)
    lengths = np.diff(offsets)
    label = Place(place.column, (*place.steps[:-1], LABEL)) if place.steps else None
    if element.isdigit():
        at = np.full(len(lengths), int(element))
    elif label is None or stored_type(table.schema, label) is None:
        raise KeyError(f"{'.'.join((place.column, *place.steps[:-1], LABEL))}, which would name the elements")
    else:
        names = _descend(table.column(label.column), label.steps)
        at = _where(names, element, lengths)
    there = (at >= 0) & (at < lengths)
    rows = pa.array(offsets[:-1] + np.where(there, at, 0), mask=~there)
    return flat.take(rows)


def _where(names: pa.Array, wanted: str, lengths: np.ndarray) -> np.ndarray:
    """Place of ``wanted`` in each row's list of names (the first of several), -1 where it is not; ``(n,)``."""
    offsets, flat, _ = as_lists(names)
    equal = pc.equal(pc.utf8_lower(plain(flat)), wanted.lower())  # DES-R, and des-r
    hits = np.flatnonzero(pc.fill_null(equal, False).to_numpy(zero_copy_only=False))
    rows = np.searchsorted(offsets, hits, side="right") - 1
    at = np.full(len(lengths), -1)
    first, index = np.unique(rows, return_index=True)
    at[first] = hits[index] - offsets[first]
    return at
