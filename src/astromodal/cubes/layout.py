"""What a datacube has to hold, as ``data`` says, and which input each column comes from.

A column that no input has is written as nulls, so that the cubes can be read with the same ``data=`` whatever is in
them; what is null for want of a source is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.datacube import needed_columns
from ..errors import ConfigError
from ..files.atomic import atomic_path
from .spectra.reader import LIST

if TYPE_CHECKING:
    from ..config.schema import CubesConfig, DataConfig


def carried(data: DataConfig, cubes: CubesConfig, there: list[str]) -> dict[str, str]:
    """Columns of the catalogue to carry, name in the datacube → name in the catalogue: those that the configuration
    names, and those that ``data`` needs and the catalogue has under the same name.

    Raises:
        ConfigError: a column of the datacube has two sources.
    """
    sources: dict[str, str] = {}
    own = {data.id_column: "the id", data.ra_column: "the position", data.dec_column: "the position"}
    named: list[tuple[str, Iterable[str]]] = [("cubes.catalogue", cubes.catalogue.columns)]
    named += [(f"cubes.matches.{name}", match.columns) for name, match in cubes.matches.items()]
    named += [("cubes.images", dict.fromkeys(image_columns(data, cubes).values()))]
    for where, columns in named:
        for column in columns:
            if column in own or column in sources:
                raise ConfigError(
                    "one source for each column of the datacube",
                    where=where,
                    repair="drop one of them",
                    got=f"{column} from {own.get(column) or sources[column]} and {where}",
                )
            sources[column] = where
    taken = {*sources, *own, *spectra_columns(data, cubes)}
    same = {name: name for name in needed_columns(data) if name in there and name not in taken}
    return dict(cubes.catalogue.columns) | same


def image_columns(data: DataConfig, cubes: CubesConfig) -> dict[str, str]:
    """Band → list column of the bands that have a source.

    Raises:
        ConfigError: images without bands in ``data.images``, or of a band that it does not have.
    """
    if not cubes.images.path:
        return {}
    if data.images is None or not data.images.bands:
        raise ConfigError(
            "bands in data.images",
            got="none",
            where="cubes.images",
            repair="data.images.bands, or cubes.images.path=null",
        )
    for band in cubes.images.bands:
        if band not in data.images.bands:
            raise ConfigError(f"bands among {', '.join(data.images.bands)}", got=band, where="cubes.images.bands")
    return {
        name: band.column
        for name, band in data.images.bands.items()
        if not cubes.images.bands or name in cubes.images.bands
    }


def spectra_columns(data: DataConfig, cubes: CubesConfig) -> list[str]:
    """List columns that files with spectra fill."""
    groups = [data.spectra[g] for source in cubes.spectra.values() for g in source.groups if g in data.spectra]
    return list(dict.fromkeys(c for g in groups for c in (g.flux, g.ivar, g.error, g.wave) if c))


def schema(data: DataConfig, cubes: CubesConfig, types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Columns of the datacube, in order: id, position, numbers, lists.

    Args:
        types: of what the catalogue and those matched to it carry.
    """
    lists = [*image_columns(data, cubes).values(), *spectra_columns(data, cubes)]
    kinds: dict[str, pa.DataType] = {data.id_column: pa.string()}
    kinds |= {name: pa.float64() for name in (data.ra_column, data.dec_column) if name}
    for name, kind in {**needed_columns(data), **dict.fromkeys(types, "other")}.items():
        if name in types:
            kinds.setdefault(name, of_elements(types[name]))
        else:
            kinds.setdefault(name, LIST if kind == "list" or name in lists else pa.float32())
    ordered = sorted(kinds, key=lambda name: pa.types.is_list(kinds[name]))  # stable
    return pa.schema([pa.field(name, kinds[name]) for name in ordered])


def of_elements(kind: pa.DataType) -> pa.DataType:
    """A list type whose elements are called as in the real datacubes; other types as they are, nulls as numbers."""
    if pa.types.is_list(kind):
        return pa.list_(pa.field("element", kind.value_type))
    return pa.float32() if pa.types.is_null(kind) else kind


def without_source(data: DataConfig, cubes: CubesConfig, types: Mapping[str, pa.DataType]) -> list[str]:
    """Columns that are null in every row."""
    filled = {
        data.id_column,
        data.ra_column,
        data.dec_column,
        *types,
        *image_columns(data, cubes).values(),
        *spectra_columns(data, cubes),
    }
    filled |= {g.wave for g in data.spectra.values() if g.wave and g.flux in filled and g.kind.value == "spectrum"}
    return [name for name in needed_columns(data) if name not in filled]


@contextmanager
def writer(path: Path, layout: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A datacube that is there when the block ends, and not before. Encoded as the real ones are."""
    floats = [
        f.name + (".list.element" if pa.types.is_list(f.type) else "")
        for f in layout
        if pa.types.is_floating(f.type.value_type if pa.types.is_list(f.type) else f.type)
    ]
    others = [f.name for f in layout if pa.types.is_string(f.type)]
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            layout,
            compression="zstd",
            use_dictionary=others,
            column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
        ) as out,
    ):
        yield out


def list_array(matrix: np.ndarray, present: np.ndarray) -> pa.Array:
    """A list column of ``matrix (n, width)``, null where not ``present``."""
    lengths = np.where(present, matrix.shape[1], 0)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    values = pa.array(np.ascontiguousarray(matrix[present], np.float32).reshape(-1))
    return pa.ListArray.from_arrays(offsets, values, type=LIST, mask=pa.array(~present))
