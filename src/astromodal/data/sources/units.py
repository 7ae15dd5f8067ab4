"""Units that a file states, compared with those of the configuration: converted where they differ, and said.

What a file does not state is taken to be in the configured unit, as ever; so is a unit that astropy does not know, and
that is said. Only a unit that cannot be converted is an error. astropy is imported when there is something to compare.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...errors import DataError
from ..columns import numbers
from ..scalars import is_one_of
from .nested import as_lists, is_list

if TYPE_CHECKING:
    from ...config.schema import DataConfig

log = logging.getLogger(__name__)
NONE = {"", "-", "--", "---", "1", "none", "unitless", "dimensionless"}  # ways of stating no unit
_FORMATS = ("generic", "fits", "vounit", "cds", "ogip")


def wanted_units(data: DataConfig) -> dict[str, tuple[str, int]]:
    """Column → the unit that the configuration takes it to be in, and the power of it (-2 of an inverse variance)."""
    wanted: dict[str, tuple[str, int]] = {}
    pairs = [(data.ra_column, "deg", 1), (data.dec_column, "deg", 1)]
    for group in data.spectra.values():
        pairs += [(group.flux, group.unit, 1), (group.error, group.unit, 1), (group.ivar, group.unit, -2)]
        pairs += [(group.wave, group.wave_unit, 1)]
    for name, scalar in data.scalars.items():
        pairs += [(scalar.column or name, scalar.unit, 1), (scalar.error, scalar.unit, 1)]
    for column, unit, power in pairs:
        if column and unit:
            wanted.setdefault(column, (unit, power))
    return wanted


def factors(data: DataConfig, stated: Mapping[str, str], where: object) -> tuple[dict[str, float], list[str]]:
    """What to multiply columns with to have the configured units, and what there is to say about units.

    Raises:
        DataError: a stated unit cannot be converted into the configured one.
    """
    found: dict[str, float] = {}
    said = []
    for column, (unit, power) in wanted_units(data).items():
        given = str(stated.get(column) or "").strip()
        if given.lower() in NONE or (given == unit and power == 1):
            continue
        factor = conversion(given, unit, power, column, where)
        target = unit if power == 1 else f"({unit})^{power}"
        if factor is None:
            said.append(f"column {column}: unit {given!r} of the file is not compared with {target!r} of data=…")
        elif abs(factor - 1.0) > 1e-9:
            found[column] = factor
            said.append(f"column {column}: {given} in the file, {target} in data=…: values times {factor:.6g}")
    return found, said


def conversion(given: str, wanted: str, power: int, column: str, where: object) -> float | None:
    """Conversion factor of one unit into a power of another; None where astropy knows one of them not.

    Raises:
        DataError: it cannot be converted.
    """
    mine, theirs = parse_unit(wanted), parse_unit(given)
    if mine is None or theirs is None:
        return None
    if _logarithmic(mine) and _logarithmic(theirs) and _scale(mine) == _scale(theirs):
        return 1.0  # mag and mag(AB), dex and dex(cm/s2): the reference is not what a column's unit is converted by
    try:
        return float(f"{theirs.to(mine**power):.12g}")  # nm are 10 Å, and not 9.999999999999998
    except Exception as error:  # UnitConversionError, and TypeError of powers of logarithmic units
        raise DataError(
            f"column {column} in {wanted if power == 1 else f'({wanted})^{power}'}",
            got=f"unit {given}",
            where=where,
            repair=f"set the unit of {column} in data=… (an empty one is not compared), or its column",
        ) from error


def parse_unit(text: str) -> Any:
    """An astropy unit; None for what is none in any of the notations that files use (Gaia's has quotes in it)."""
    text = text.replace("'", "").strip()
    text = f"dex{text[3:]}" if text.startswith("log(") else text
    from astropy import units
    from astropy.units import photometric

    names = {
        "Ang": units.AA,
        "ang": units.AA,
        "Angstroms": units.AA,
        "angstroms": units.AA,
        "degrees": units.deg,
        "px": units.pix,
        "e-": units.electron,
        "magnitude": units.mag,
    }
    with warnings.catch_warnings(), units.add_enabled_units(photometric), units.set_enabled_aliases(names):
        warnings.simplefilter("ignore")
        for notation in _FORMATS:
            try:
                return units.Unit(text, format=notation)
            except (ValueError, TypeError):
                continue
    return None


def _logarithmic(unit: Any) -> bool:
    return hasattr(unit, "function_unit") or _scale(unit) in ("mag", "dex", "dB")


def _scale(unit: Any) -> str:
    return str(getattr(unit, "function_unit", unit))


def scaled(array: pa.Array, factor: float, marks: Sequence[float]) -> pa.Array:
    """Numbers, or lists of numbers, times a factor, as float64; ``marks`` (sentinels) and nulls stay what they are."""
    if pa.types.is_null(array.type):
        return array
    if is_list(array.type):
        offsets, flat, null = as_lists(array)
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), scaled(flat, factor, marks), mask=null)
    values = numbers(array).astype(np.float64)
    with np.errstate(over="ignore"):
        result = np.where(is_one_of(values, marks), values, values * factor) if len(marks) else values * factor
    return pa.array(result, mask=array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None)


def parquet_units(metadata: Mapping[bytes, bytes], schema: pa.Schema) -> dict[str, str]:
    """Units of columns as Parquet files state them: per field, as astropy's tables, as VOTable in the footer."""
    found = {
        f.name: f.metadata[key].decode("utf-8", "replace")
        for f in schema
        for key in (b"unit", b"units")
        if f.metadata and key in f.metadata
    }
    for key, read in _FOOTERS.items():
        if key in metadata:
            try:
                found |= {name: unit for name, unit in read(metadata[key]) if unit}
            except Exception as error:  # a note beside the data, written by whoever: it is no reason to stop
                log.warning("units in the footer of a Parquet file cannot be read (%s): they are not compared", error)
    return found


def _astropy_footer(text: bytes) -> list[tuple[str, str]]:
    from astropy.table.meta import get_header_from_yaml

    header = get_header_from_yaml(text.decode().split("\n"))
    return [(column["name"], str(column.get("unit") or "")) for column in header["datatype"]]


def _votable_footer(text: bytes) -> list[tuple[str, str]]:
    from astropy.io import votable

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = votable.parse(io.BytesIO(text)).get_first_table()
    return [(field.name, str(field.unit or "")) for field in table.fields]


_FOOTERS: dict[bytes, Callable[[bytes], list[tuple[str, str]]]] = {
    b"table_meta_yaml": _astropy_footer,
    b"IVOA.VOTable-Parquet.content": _votable_footer,
}
