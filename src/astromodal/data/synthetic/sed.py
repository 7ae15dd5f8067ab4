"""The physical model: from an object's parameters to its spectrum, at any wavelengths.

Stars are black bodies with Balmer lines, metal lines, molecular bands and blanketing; galaxies are a mixture of an old
population (4000 Å break) and a young one with emission lines, redshifted; quasars are a power law with broad lines and
absorption by the intergalactic medium. Small enough to be differentiated numerically, rich enough that magnitudes,
spectra and images of an object tell the same story.

Shapes: n objects, W wavelengths. All spectra are f_lambda in erg/s/cm2/Angstrom outside of the atmosphere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .passbands import SPLUS, WAVE, nanomaggies, photometry_matrix

STAR, GALAXY, QUASAR = 0, 1, 2
Parameters = Mapping[str, np.ndarray]

_BALMER = (6564.6, 4862.7, 4341.7, 4102.9, 3971.2, 3890.2)
_METAL = (
    (3934.8, 0.9, 9.0),
    (3969.6, 0.8, 9.0),
    (4305.6, 0.35, 12.0),
    (5176.6, 0.45, 16.0),
    (5895.6, 0.35, 7.0),
    (8500.4, 0.30, 6.0),
    (8544.4, 0.45, 7.0),
    (8664.5, 0.40, 7.0),
)  # centre, depth, sigma [Angstrom]
_TIO = ((4950.0, 90.0), (5450.0, 90.0), (6180.0, 110.0), (7100.0, 120.0), (7700.0, 130.0), (8450.0, 120.0))
# Emission of star-forming galaxies: rest wavelength, equivalent width relative to H-alpha
_NEBULAR = ((3728.5, 0.5), (4862.7, 0.25), (4960.3, 0.15), (5008.2, 0.45), (6564.6, 1.0), (6585.3, 0.3), (6725.0, 0.25))
NEBULAR = tuple(wave for wave, _ in _NEBULAR)
NEBULAR_WIDTH = 220.0  # km/s, standard deviation
# Broad lines of quasars: rest wavelength, equivalent width [Angstrom] (Vanden Berk et al. 2001, rounded)
_BROAD = ((1215.7, 90.0), (1549.5, 28.0), (1908.7, 21.0), (2799.1, 34.0), (4862.7, 46.0), (6564.6, 195.0))
C_KMS = 299792.458  # speed of light, km/s


def spectrum(wave: np.ndarray, p: Parameters) -> np.ndarray:
    """Spectra ``(n, W)`` of objects with parameters ``p`` (arrays ``(n,)``), scaled to their apparent r magnitude."""
    scale = nanomaggies(p["mag_r"]) / (shape(WAVE, p) @ _R_BAND)
    return shape(wave, p) * scale[:, None]


def shape(wave: np.ndarray, p: Parameters) -> np.ndarray:
    """Spectra up to their brightness, reddened."""
    flux = np.empty((len(p["kind"]), len(wave)))
    for kind, model in ((STAR, star), (GALAXY, galaxy), (QUASAR, quasar)):
        rows = np.flatnonzero(p["kind"] == kind)
        if len(rows):
            flux[rows] = model(wave, {key: values[rows] for key, values in p.items()})
    return flux * 10 ** (-0.4 * p["a_v"][:, None] * extinction(wave))


def extinction(wave: np.ndarray) -> np.ndarray:
    """A(λ) / A(V): a power law close to Cardelli, Clayton & Mathis (1989) for R_V = 3.1."""
    return (wave / 5500.0) ** -1.35


def planck(wave: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """Black body B_λ up to a factor, 1 at 5500 Å, ``(n, W)``."""
    x = 1.4387769e8 / (wave * temperature[:, None])
    reference = 1.4387769e8 / (5500.0 * temperature[:, None])
    return (5500.0 / wave) ** 5 * np.expm1(reference) / np.expm1(x)


def _gaussian(wave: np.ndarray, centre: np.ndarray | float, sigma: np.ndarray | float) -> np.ndarray:
    return np.exp(-0.5 * ((wave - centre) / sigma) ** 2)


def star(wave: np.ndarray, p: Parameters) -> np.ndarray:
    """Temperature [K], log g [cgs], metallicity [dex]."""
    temperature, log_g, metallicity = (p[key][:, None] for key in ("temperature", "log_g", "metallicity"))
    flux = planck(wave, p["temperature"])
    hot = np.exp(-(((np.log10(temperature) - 3.97) / 0.13) ** 2))  # Balmer lines are strongest at A0
    width = 6.0 + 3.0 * np.clip(log_g - 2.0, 0, 3) * hot
    depth = 0.05 + 0.6 * hot
    for k, centre in enumerate(_BALMER):
        flux = flux * (1 - depth * 0.92**k * _gaussian(wave, centre, width))
    flux = flux * (1 - 0.35 * hot / (1 + np.exp((wave - 3700.0) / 40.0)))  # Balmer jump
    cool = 1 / (1 + np.exp((temperature - 6000.0) / 700.0))
    strength = np.clip(cool * 10 ** (0.35 * metallicity), 0, 1)
    for centre, line_depth, sigma in _METAL:
        flux = flux * (1 - line_depth * strength * _gaussian(wave, centre, sigma))
    blanketing = 0.9 * cool * 10 ** (0.3 * metallicity) * np.clip((4700.0 - wave) / 1000.0, 0, None)
    flux = flux * np.exp(-np.clip(blanketing, 0, 4))
    dwarf = 1 / (1 + np.exp((temperature - 3900.0) / 150.0)) * (0.7 + 0.1 * (log_g - 4.0))
    for centre, sigma in _TIO:
        flux = flux * (1 - np.clip(0.55 * dwarf, 0, 0.9) * _gaussian(wave, centre, sigma))
    return flux


def galaxy(wave: np.ndarray, p: Parameters) -> np.ndarray:
    """Redshift and the share of the young population at 5500 Å (rest frame), 0 to 1."""
    rest = wave / (1 + p["redshift"][:, None])
    young = p["young"][:, None]
    n = len(rest)
    old = planck(rest, np.full(n, 4700.0)) * (0.45 + 0.55 / (1 + np.exp(-(rest - 4000.0) / 35.0)))
    for centre, depth, sigma in _METAL[:5]:
        old = old * (1 - 0.6 * depth * _gaussian(rest, centre, 1.4 * sigma))
    blue = (np.maximum(rest, 900.0) / 5500.0) ** -1.8 * (0.75 + 0.25 / (1 + np.exp(-(rest - 3700.0) / 40.0)))
    flux = (1 - young) * old + young * blue
    continuum = flux
    for centre, share in _NEBULAR:
        sigma = centre * NEBULAR_WIDTH / C_KMS
        peak = 90.0 * young**1.5 * share / (np.sqrt(2 * np.pi) * sigma)
        flux = flux + continuum * peak * _gaussian(rest, centre, sigma)
    return flux


def quasar(wave: np.ndarray, p: Parameters) -> np.ndarray:
    """Redshift and spectral slope (f_λ ∝ λ^slope)."""
    z = p["redshift"][:, None]
    rest = wave / (1 + z)
    continuum = (rest / 3000.0) ** p["slope"][:, None] * np.where(rest > 5000.0, (rest / 5000.0) ** 0.9, 1.0)
    flux = continuum
    for centre, width in _BROAD:
        sigma = centre * 2500.0 / C_KMS
        flux = flux + continuum * width / (np.sqrt(2 * np.pi) * sigma) * _gaussian(rest, centre, sigma)
    tau = 0.0036 * (wave / 1215.7) ** 3.46  # effective optical depth of the forest (Meiksin 2006, its leading term)
    # edges have the width of the proximity zone: with sharp ones a spectrum could not be differentiated by redshift
    forest = np.exp(-tau * _below(rest, 1215.7, 3.0))
    return flux * forest * (1 - 0.95 * _below(rest, 912.0, 4.0))


def _below(wave: np.ndarray, edge: float, width: float) -> np.ndarray:
    """1 far below ``edge``, 0 far above it."""
    return 0.5 * (1 - np.tanh((wave - edge) / (2 * width)))


_R_BAND = photometry_matrix({"r": SPLUS["r"]})[0]
