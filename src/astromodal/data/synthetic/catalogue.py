"""Catalogue columns: magnitudes, Gaia, VISTA, redshifts, shapes; with the gaps and sentinels of real ones."""

from __future__ import annotations

import numpy as np

from . import sed
from .cutouts import second_moments
from .passbands import GAIA, GAIA_ZERO_POINTS, SPLUS, VISTA, VISTA_VEGA, WAVE, magnitude, nanomaggies, photometry_matrix

_BANDS = {**SPLUS, **{f"gaia_{k}": b for k, b in GAIA.items()}, **{f"vista_{k}": b for k, b in VISTA.items()}}
_MATRIX = photometry_matrix(_BANDS)
CALIBRATION = 0.01  # relative error of any flux: what no exposure time removes
GAIA_LIMIT = 20.5  # G
XP_LIMIT = 19.0  # G; deeper than Gaia's 17.65, so that small skies have enough


def photometry(p: sed.Parameters) -> dict[str, np.ndarray]:
    """Noiseless fluxes in nanomaggies: ``splus (n, 12)``, ``gaia (n, 3)``, ``vista (n, 4)``."""
    flux = sed.spectrum(WAVE, p) @ _MATRIX.T
    return {"splus": flux[:, :12], "gaia": flux[:, 12:15], "vista": flux[:, 15:]}


def splus_noise(flux: np.ndarray) -> np.ndarray:
    """1-sigma errors of S-PLUS fluxes ``(n, 12)``, nanomaggies: a fifth of the 5-sigma depth, and the calibration."""
    limit = nanomaggies(np.array([band.depth for band in SPLUS.values()]))
    return np.sqrt((limit / 5) ** 2 + (CALIBRATION * flux) ** 2)


def splus_columns(rng: np.random.Generator, flux: np.ndarray) -> dict[str, np.ndarray]:
    """``mag_pstotal_*`` and ``err_mag_pstotal_*``; 99 and 99 where the measured flux is not positive."""
    sigma = splus_noise(flux)
    measured = flux + sigma * rng.standard_normal(flux.shape)
    detected = measured > 0
    mag = np.where(detected, magnitude(measured), 99.0)
    error = np.where(detected, np.minimum(2.5 / np.log(10) * sigma / np.where(detected, measured, 1.0), 98.0), 99.0)
    columns: dict[str, np.ndarray] = {}
    for k, band in enumerate(SPLUS):
        columns[f"mag_pstotal_{band}"], columns[f"err_mag_pstotal_{band}"] = mag[:, k], error[:, k]
    return columns


def gaia_columns(rng: np.random.Generator, p: sed.Parameters, flux: np.ndarray) -> dict[str, np.ndarray]:
    """Astrometry, fluxes [electrons / s] and stellar parameters for what Gaia sees; parallaxes may be negative."""
    n, mag_g = len(flux), np.nan_to_num(magnitude(flux[:, 0]), nan=25.0)
    seen = mag_g < GAIA_LIMIT
    is_star = p["kind"] == sed.STAR
    error = 0.02 * 10 ** (0.2 * np.clip(mag_g - 15.0, 0, None)) * rng.lognormal(0, 0.15, n)  # mas
    columns: dict[str, np.ndarray] = {}
    true = {
        "parallax": np.where(is_star, 1e3 / np.where(is_star, p["distance"], 1.0), 0.0),
        "pmra": np.where(is_star, p["pmra"], 0.0),
        "pmdec": np.where(is_star, p["pmdec"], 0.0),
    }
    for name, value in true.items():
        columns[f"gaia_{name}"] = np.where(seen, value + error * rng.standard_normal(n), np.nan)
        columns[f"gaia_{name}_error"] = np.where(seen, error, np.nan)
    for k, band in enumerate(GAIA):
        electrons = flux[:, k] * 10 ** (0.4 * (GAIA_ZERO_POINTS[band] - 22.5))
        photons, floor = (2.0, 1.0) if band == "g" else (8.0, 30.0)
        sigma = np.sqrt(photons * electrons + (0.003 * electrons) ** 2 + floor)
        columns[f"gaia_phot_{band}_mean_flux"] = np.where(seen, electrons + sigma * rng.standard_normal(n), np.nan)
        columns[f"gaia_phot_{band}_mean_flux_error"] = np.where(seen, sigma, np.nan)
    fitted = seen & is_star & (mag_g < 19.0) & (rng.random(n) < 0.9)
    for name, key, error in (("teff", "temperature", 95.0), ("logg", "log_g", 0.15), ("mh", "metallicity", 0.2)):
        value = np.where(fitted, p[key] + error * rng.standard_normal(n), np.nan)
        columns[f"gaia_{name}_gspphot"] = value
    return columns


def vista_columns(rng: np.random.Generator, flux: np.ndarray, covered: np.ndarray) -> dict[str, np.ndarray]:
    """Vega magnitudes; null outside of the footprint, sentinel -99 where a covered object is too faint."""
    columns: dict[str, np.ndarray] = {}
    for k, (band, passband) in enumerate(VISTA.items()):
        sigma = np.sqrt((nanomaggies(passband.depth) / 5) ** 2 + (CALIBRATION * flux[:, k]) ** 2)
        measured = flux[:, k] + sigma * rng.standard_normal(len(flux))
        detected = measured > 2 * sigma
        mag = np.where(detected, magnitude(np.where(detected, measured, 1.0)) - VISTA_VEGA[band], -99.0)
        error = np.where(detected, 2.5 / np.log(10) * sigma / np.where(detected, measured, 1.0), -99.0)
        columns[f"vista_{band}apermag6"] = np.where(covered, mag, np.nan)
        columns[f"vista_{band}apermag6err"] = np.where(covered, error, np.nan)
    return columns


def redshift_columns(rng: np.random.Generator, p: sed.Parameters, has_spectrum: np.ndarray) -> dict[str, np.ndarray]:
    """``specz_z`` of objects with a spectrum; the error is often missing, and sometimes the sentinel -9999."""
    n = len(p["kind"])
    error = np.where(p["kind"] == sed.QUASAR, 1e-3, 5e-5) * (1 + p["redshift"])
    columns = {"specz_z": np.where(has_spectrum, p["redshift"] + error * rng.standard_normal(n), np.nan)}
    told = has_spectrum & (rng.random(n) < 0.7)
    columns["specz_e_z"] = np.where(told, np.where(rng.random(n) < 0.02, -9999.0, error), np.nan)
    return columns


def shape_columns(rng: np.random.Generator, p: sed.Parameters, fwhm: float) -> dict[str, np.ndarray]:
    """Second moments in pixels on the detection image, ellipticity, and 2 r50 / seeing."""
    n = len(p["kind"])
    noise = 0.02 + 0.10 * 10 ** (0.3 * (p["mag_r"] - 21.0))
    major, minor = second_moments(p, fwhm)
    measured = np.sort(np.stack([major, minor]) * np.exp(noise * rng.standard_normal((2, n))), axis=0)
    minor, major = measured
    angle = p["angle"] + np.degrees(noise / np.clip(1 - p["axis_ratio"], 0.02, 1)) * rng.standard_normal(n)
    return {
        "a_pixel_det": major,
        "b_pixel_det": minor,
        "theta_det": (angle + 90.0) % 180.0 - 90.0,
        "ellipticity_det": 1 - minor / major,
        "elongation_det": major / minor,
        "fwhm_n_det": np.sqrt(1 + (2 * p["radius"] / fwhm) ** 2) * np.exp(0.5 * noise * rng.standard_normal(n)),
    }
