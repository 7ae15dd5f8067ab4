"""Units of a table's columns: what has one is brought to the survey's, or refused.

A column without a unit is taken to be in the survey's, as the columns of datacubes are.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError

if TYPE_CHECKING:
    from ..config.schema import DataConfig

_SPELLED = {"px": "pix", "Å": "Angstrom"}  # names that astropy does not know


class Expected(NamedTuple):
    """The unit that the survey has a column in: ``unit`` to the power ``power``."""

    unit: str
    power: int = 1


def expected_units(data: DataConfig) -> dict[str, Expected]:
    """Unit of each column that a configuration names; cutouts, whose zero points say what a count is, have none."""
    found: dict[str, Expected] = {}
    for name, scalar in data.scalars.items():
        found[scalar.column or name] = Expected(scalar.unit)
        if scalar.error:
            found[scalar.error] = Expected(scalar.unit)
    for group in data.spectra.values():
        pairs = ((group.flux, Expected(group.unit)), (group.error, Expected(group.unit)),
                 (group.ivar, Expected(group.unit, -2)), (group.wave, Expected(group.wave_unit)))  # fmt: skip
        found |= {column: expected for column, expected in pairs if column}
    if data.images is not None:
        shape = ((data.images.a, "px"), (data.images.b, "px"), (data.images.theta, "deg"))
        found |= {column: Expected(unit) for column, unit in shape if column}
    return found


def parse(text: Any) -> Any:
    """A unit of astropy; None for what it does not know.

    >>> parse("1e-17 erg/s/cm2/Angstrom") == parse("1e-17 erg / (s cm2 Angstrom)"), parse("Gaia internal")
    (True, None)
    """
    from astropy import units

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return units.Unit(_SPELLED.get(text, text) if isinstance(text, str) else text)
    except (ValueError, TypeError):
        return None


def factor(column: str, found: Any, expected: Expected | None) -> float:
    """What values of a column are to be multiplied with to be in the survey's unit.

    Args:
        found: the column's unit: text, or a unit of astropy.

    Raises:
        DataError: it cannot be brought to the survey's.

    >>> factor("wave", "nm", Expected("Angstrom"))
    10.0
    """
    if expected is None or (expected.power == 1 and str(found) == expected.unit):
        return 1.0
    wanted = expected.unit if expected.power == 1 else f"({expected.unit})^{expected.power}"
    own, target = parse(found), parse(expected.unit)
    if own is not None and target is not None:
        scale = _scale(own, target if expected.power == 1 else target**expected.power)
        if scale is not None:
            return scale
    raise DataError(f"column {column} in {wanted or 'no unit'}, as the survey has it", got=str(found),
                    where="the table", repair="convert it, or drop the unit if it is in the survey's")  # fmt: skip


def _scale(own: Any, target: Any) -> float | None:
    from astropy import units

    magnitudes = [getattr(unit, "function_unit", unit) for unit in (own, target)]
    if magnitudes == [units.mag, units.mag]:  # mag(AB) and mag: the survey's system is not written in its unit
        return 1.0
    try:
        return float(f"{own.to(target):.15g}")  # nm to Å is 10, not 9.999999999999998
    except (units.UnitConversionError, TypeError, AttributeError):
        return None


def factors(found: Mapping[str, Any], data: DataConfig) -> dict[str, float]:
    """:func:`factor` of each column that has a unit, where it is not 1.

    Raises:
        DataError: a unit cannot be brought to the survey's.
    """
    expected = expected_units(data)
    every = {column: factor(column, unit, expected.get(column)) for column, unit in found.items()}
    return {column: value for column, value in every.items() if value != 1.0}
