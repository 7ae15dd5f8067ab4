"""Units as files state them, against those that the configuration states; astropy knows how they convert.

Wavelengths in air become wavelengths in vacuum.
"""

from __future__ import annotations

import numpy as np

from ..data.sources.units import NONE, conversion
from ..errors import DataError


def factor(found: object, wanted: object, where: object, repair: str) -> float:
    """What values in the unit ``found`` are multiplied by to be in ``wanted``; 1 where one of them is not known.

    Raises:
        DataError: they do not convert.

    >>> round(factor("nm", "Angstrom", "a column", ""), 6), factor(None, "Angstrom", "a column", "")
    (10.0, 1.0)
    >>> factor("10**-17 erg/(s cm2 Angstrom)", "W/m2/nm", "a file", "")
    1e-19
    """
    if not found or not wanted or str(found).strip() in NONE:
        return 1.0
    try:
        return conversion(str(found).strip(), str(wanted), 1, "", where) or 1.0
    except DataError as error:
        raise DataError(f"a unit that converts to {wanted}", got=found, where=where, repair=repair) from error


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
