"""Passbands of the synthetic sky, and AB photometry through them.

The S-PLUS bands (Mendes de Oliveira et al. 2019) are smooth top-hats of the right pivot and width; what matters here is
that photometry, cutouts and spectra of an object come from one and the same spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

C_ANGSTROM = 2.99792458e18  # speed of light, Angstrom / s
# The wavelengths (Angstrom) at which spectra are integrated: 5 Angstrom in the optical, coarser beyond.
WAVE = np.concatenate([np.arange(3000.0, 10800.0, 5.0), np.arange(10800.0, 24000.0, 40.0)])


@dataclass(frozen=True)
class Band:
    """A passband: pivot and full width at half maximum in Angstrom, 5-sigma depth in AB mag."""

    pivot: float
    width: float
    depth: float
    zero_point: float = 0.0  # AB magnitude of one count


# Depths and zero points are typical of the survey's main part; real ones differ per field.
SPLUS = {
    "u": Band(3533, 352, 20.9, 21.1),
    "J0378": Band(3773, 151, 20.3, 20.3),
    "J0395": Band(3941, 103, 19.9, 20.2),
    "J0410": Band(4095, 201, 20.1, 21.2),
    "J0430": Band(4292, 201, 20.2, 21.2),
    "g": Band(4758, 1545, 21.3, 23.3),
    "J0515": Band(5133, 207, 20.3, 21.4),
    "r": Band(6252, 1465, 21.2, 23.3),
    "J0660": Band(6614, 147, 20.9, 21.0),
    "i": Band(7671, 1506, 20.9, 23.0),
    "J0861": Band(8607, 410, 19.9, 21.5),
    "z": Band(8941, 1270, 20.3, 22.5),
}
GAIA = {"g": Band(6218, 4200, 21.0), "bp": Band(5110, 2450, 20.7), "rp": Band(7770, 2800, 20.7)}
GAIA_ZERO_POINTS = {"g": 25.80, "bp": 25.35, "rp": 25.10}  # AB magnitude of 1 electron / s
VISTA = {
    "y": Band(10210, 925, 20.8),
    "j": Band(12540, 1725, 20.6),
    "h": Band(16460, 2905, 20.0),
    "ks": Band(21490, 3105, 19.6),
}
VISTA_VEGA = {"y": 0.60, "j": 0.92, "h": 1.38, "ks": 1.83}  # AB minus Vega


def transmission(band: Band, wave: np.ndarray) -> np.ndarray:
    """Smooth top-hat, half transmission at ``pivot ± width / 2``."""
    return np.exp(-np.log(2.0) * np.abs((wave - band.pivot) / (band.width / 2)) ** 8)


def photometry_matrix(bands: dict[str, Band]) -> np.ndarray:
    """Matrix ``(n_bands, len(WAVE))`` from f_lambda on :data:`WAVE` (erg/s/cm2/Angstrom) to flux in nanomaggies.

    Photon-weighted mean f_nu: ∫ f_λ T λ dλ / ∫ T c/λ dλ (Fukugita et al. 1996, eq. 7); 3631 Jy is 0 mag AB.
    """
    step = np.gradient(WAVE)
    rows = []
    for band in bands.values():
        response = transmission(band, WAVE) * step
        rows.append(response * WAVE / (response * C_ANGSTROM / WAVE).sum())
    return np.array(rows) / 3631e-23 * 1e9


def magnitude(flux: np.ndarray) -> np.ndarray:
    """AB magnitude of a flux in nanomaggies; NaN where it is not positive.

    >>> magnitude(np.array([1.0, 100.0, 0.0])).tolist()
    [22.5, 17.5, nan]
    """
    return 22.5 - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))


def nanomaggies(mag: np.ndarray | float) -> np.ndarray | float:
    """Inverse of :func:`magnitude`."""
    return 10 ** (0.4 * (22.5 - mag))
