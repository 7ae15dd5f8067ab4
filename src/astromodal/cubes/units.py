"""Units as files state them, against those that the configuration states; astropy knows how they convert.

Wavelengths in air become wavelengths in vacuum.
"""

from __future__ import annotations

import warnings

import numpy as np

from ..errors import DataError


def unit_of(text: object) -> object:
    """A unit of astropy; ``None`` where the text is empty or names none (``Gaia internal``, ``counts``).

    >>> unit_of("1e-17 erg/s/cm2/Angstrom") == unit_of("10**-17 erg/(s cm2 Angstrom)"), unit_of("Gaia internal")
    (True, None)
    """
    from astropy import units

    spelt = str(text or "").strip().replace("10**-17", "1e-17").replace("Ang ", "Angstrom ")
    if spelt.endswith("/Ang"):
        spelt += "strom"
    if not spelt:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return units.Unit(spelt)
    except (ValueError, TypeError):
        return None


def factor(found: object, wanted: object, where: object, repair: str) -> float:
    """What values in the unit ``found`` are multiplied by to be in ``wanted``; 1 where one of them is not known.

    Raises:
        DataError: they do not convert.

    >>> round(factor("nm", "Angstrom", "a column", ""), 6), factor(None, "Angstrom", "a column", "")
    (10.0, 1.0)
    """
    from astropy import units

    have, want = unit_of(found), unit_of(wanted)
    if have is None or want is None or have == want or "mag" in str(found) and "mag" in str(wanted):
        return 1.0  # magnitudes are magnitudes, whatever their zero point is called
    if isinstance(have, units.function.FunctionUnitBase) or isinstance(want, units.function.FunctionUnitBase):
        have, want = (getattr(u, "function_unit", u) for u in (have, want))
    try:
        return float(have.to(want))
    except units.UnitConversionError as error:
        raise DataError(f"a unit that converts to {wanted}", got=f"{found}", where=where, repair=repair) from error


def air_to_vacuum(wave: np.ndarray) -> np.ndarray:
    """Wavelengths in vacuum of wavelengths in standard air, both in Angstrom; below 2000 as they are.

    The refractive index is that of Ciddor (1996, Applied Optics 35, 1566), as a function of the wavelength in vacuum;
    three rounds settle it to better than 1e-6 Angstrom.

    >>> air_to_vacuum(np.array([6562.80, 5006.84, 1215.0])).round(2).tolist()
    [6564.61, 5008.24, 1215.0]
    """
    wave = np.asarray(wave, np.float64)
    vacuum = wave
    for _ in range(3):
        with np.errstate(divide="ignore", invalid="ignore"):
            sigma2 = np.square(1e4 / vacuum)  # wave number in 1/micron, squared
            vacuum = wave * (1.0 + 0.05792105 / (238.0185 - sigma2) + 0.00167917 / (57.362 - sigma2))
    return np.where(wave < 2000.0, wave, vacuum)
