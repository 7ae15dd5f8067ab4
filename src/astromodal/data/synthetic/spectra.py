"""DESI-like arms and Gaia-XP-like spectra: what the instruments' noise leaves of the true spectrum.

Shapes: n objects, P pixels.
"""

from __future__ import annotations

import numpy as np

from . import sed
from .passbands import magnitude

ARMS = {"b": (3600.0, 2751), "r": (5760.0, 2326), "z": (7520.0, 2881)}  # first pixel, pixels; 0.8 Angstrom each
ARM_STEP = 0.8
_SKY_LINES = (
    (5577.3, 9.0),
    (5890.0, 2.5),
    (6300.3, 4.0),
    (6363.8, 2.0),
    (7276.0, 2.0),
    (7750.0, 2.5),
    (7913.0, 3.0),
    (8344.0, 3.0),
    (8430.0, 3.5),
    (8885.0, 4.0),
    (8958.0, 3.5),
    (9375.0, 4.0),
    (9440.0, 4.0),
)
MASKED = 0.015  # share of pixels with zero inverse variance

XP_WAVE = np.arange(336.0, 1020.1, 2.0)  # nm
N_COEFFICIENTS = 55
_XP_UNIT = 1e-2  # from erg/s/cm2/Angstrom to W/m2/nm
_COEFFICIENT_UNIT = 1e19  # the internal units of the basis: coefficients of 1 to 1e4, as the real ones


def arm_wave(arm: str) -> np.ndarray:
    """Wavelengths of an arm, Angstrom, ``(P,)``."""
    first, n = ARMS[arm]
    return first + ARM_STEP * np.arange(n)


def arm_noise(wave: np.ndarray) -> np.ndarray:
    """1-sigma noise, 1e-17 erg/s/cm2/Angstrom, ``(P,)``: throughput falls at the ends, sky lines shine."""
    sigma = 0.55 + 1.6 * np.exp(-(wave - 3600.0) / 220.0) + 0.25 * np.clip((wave - 7500.0) / 2300.0, 0, None)
    for centre, strength in _SKY_LINES:
        sigma = sigma + 0.4 * strength * np.exp(-0.5 * ((wave - centre) / 3.0) ** 2)
    return sigma


def noiseless_arm(arm: str, p: sed.Parameters) -> np.ndarray:
    """Flux in 1e-17 erg/s/cm2/Angstrom, ``(n, P)``."""
    return sed.spectrum(arm_wave(arm), p) * 1e17


def observe_arm(rng: np.random.Generator, arm: str, p: sed.Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Flux and inverse variance ``(n, P)``; masked pixels have ivar 0 and a meaningless flux."""
    true = noiseless_arm(arm, p)
    sigma = np.sqrt(arm_noise(arm_wave(arm)) ** 2 + 0.01 * np.maximum(true, 0))
    flux = true + sigma * rng.standard_normal(true.shape)
    ivar = sigma**-2
    masked = rng.random(true.shape) < MASKED
    ivar[masked] = 0.0
    flux[masked] += rng.normal(0, 30.0, int(masked.sum()))
    return flux, ivar


def noiseless_xp(p: sed.Parameters) -> np.ndarray:
    """Sampled XP spectra in W/m2/nm at :data:`XP_WAVE`, smeared to the instrument's resolution, ``(n, 343)``."""
    return sed.spectrum(_FINE, p) @ _SMEAR * _XP_UNIT


def xp_noise(flux: np.ndarray, mag_g: np.ndarray) -> np.ndarray:
    """1-sigma errors of sampled XP spectra, W/m2/nm: S/N about 60 at G = 15, falling with flux, worse at both ends."""
    snr = 60.0 * 10 ** (-0.2 * (mag_g - 15.0))
    edge = 1 + 4 * np.exp(-(XP_WAVE - 336.0) / 15.0) + 3 * np.exp(-(1020.0 - XP_WAVE) / 15.0)
    return flux.mean(1, keepdims=True) / snr[:, None] * edge


def observe_xp(rng: np.random.Generator, p: sed.Parameters, mag_g: np.ndarray) -> dict[str, np.ndarray]:
    """Sampled flux with errors, and 55 + 55 coefficients with errors, all from one noisy spectrum."""
    true = noiseless_xp(p)
    error = xp_noise(true, mag_g)
    flux = true + error * rng.standard_normal(true.shape)
    observed = {"gaiaxp_flux": flux, "gaiaxp_flux_error": error}
    for name, basis in (("bp", _BP), ("rp", _RP)):
        observed[f"gaiaxp_{name}_coefficients"] = flux @ basis * _COEFFICIENT_UNIT
        observed[f"gaiaxp_{name}_coefficient_errors"] = np.sqrt(error**2 @ basis**2) * _COEFFICIENT_UNIT
    return observed


def gaia_magnitude(flux: np.ndarray) -> np.ndarray:
    """G magnitude from nanomaggies, faint where there is no flux."""
    return np.nan_to_num(magnitude(flux), nan=25.0)


def _smear_matrix() -> tuple[np.ndarray, np.ndarray]:
    """Fine wavelengths (Angstrom), and the matrix to XP pixels: a Gaussian of 4 nm in the blue to 9 in the red."""
    fine = np.arange(3100.0, 10600.0, 5.0)
    sigma = 40.0 + 50.0 * (XP_WAVE - 336.0) / 684.0
    kernel = np.exp(-0.5 * ((fine[:, None] - 10 * XP_WAVE[None]) / sigma[None]) ** 2)
    return fine, kernel / kernel.sum(0)


def _basis(low: float, high: float) -> np.ndarray:
    """55 orthonormal functions on the pixels of one photometer, smooth ones first, ``(343, 55)``."""
    inside = (low <= XP_WAVE) & (high >= XP_WAVE)
    x = 2 * (XP_WAVE[inside] - low) / (high - low) - 1
    functions = np.polynomial.chebyshev.chebvander(x, N_COEFFICIENTS - 1) * np.exp(-(x[:, None] ** 2))
    basis = np.zeros((len(XP_WAVE), N_COEFFICIENTS))
    q, r = np.linalg.qr(functions)
    basis[inside] = q * np.sign(np.diag(r))
    return basis


_FINE, _SMEAR = _smear_matrix()
_BP, _RP = _basis(336.0, 680.0), _basis(620.0, 1020.0)
