"""Cutouts in 12 bands: every object a sum of elliptical Gaussians that carries exactly its flux, on a noisy sky.

A disc or bulge is three Gaussians (a short multi-Gaussian expansion, Emsellem et al. 1994), the point spread function
two; their covariances add, so that the convolution is exact. Objects stand at pixel [48, 48], y upwards.

Shapes: n objects, C bands, S pixels on a side, K components.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .passbands import SPLUS

SIZE, CENTRE, PIXEL = 96, 48, 0.55  # px, px, arcsec / px
APERTURE_PIXELS = 25.0  # pixels over which the noise of a depth is spread: an aperture of 3.1 arcsec
# share and sigma / half-light radius of the components
_DISC = ((0.25, 0.41), (0.50, 0.93), (0.25, 1.63))
_BULGE = ((0.40, 0.42), (0.35, 1.17), (0.25, 2.77))
_PSF = ((0.85, 1.0), (0.15, 2.0))  # share, sigma relative to the core
_POISSON = 0.002  # variance that a nanomaggy of the object itself adds, nanomaggies


def seeing(rng: np.random.Generator) -> np.ndarray:
    """Full width at half maximum of the point spread function in each band of a field, arcsec, ``(C,)``."""
    return np.clip(
        rng.normal(1.4, 0.12)
        + 0.25 * (5500.0 / np.array([b.pivot for b in SPLUS.values()]) - 1)
        + rng.normal(0, 0.04, len(SPLUS)),
        1.0,
        2.2,
    )


def sky_sigma() -> np.ndarray:
    """Noise of the sky per pixel, nanomaggies, ``(C,)``: a 5-sigma depth is reached in the aperture."""
    depth = np.array([band.depth for band in SPLUS.values()])
    return 10 ** (0.4 * (22.5 - depth)) / 5 / np.sqrt(APERTURE_PIXELS)


def second_moments(p: Mapping[str, np.ndarray], fwhm: float) -> tuple[np.ndarray, np.ndarray]:
    """Rms along major and minor axis in pixels, PSF included, ``(n,)`` each."""
    psf = (fwhm / 2.3548 / PIXEL) ** 2 * sum(share * width**2 for share, width in _PSF)
    mixed = sum(
        (p["sersic"] * b[0] + (1 - p["sersic"]) * d[0]) * (p["sersic"] * b[1] + (1 - p["sersic"]) * d[1]) ** 2
        for d, b in zip(_DISC, _BULGE, strict=True)
    )
    major = mixed * (p["radius"] / PIXEL) ** 2
    return np.sqrt(psf + major), np.sqrt(psf + major * p["axis_ratio"] ** 2)


def render(
    flux: np.ndarray, p: Mapping[str, np.ndarray], fwhm: np.ndarray, dx: np.ndarray, dy: np.ndarray
) -> np.ndarray:
    """Noiseless cutouts in nanomaggies per pixel, ``(n, C, S, S)`` float32.

    Args:
        flux: total flux ``(n, C)``, nanomaggies.
        p: ``radius`` [arcsec], ``axis_ratio``, ``angle`` [deg from +x], ``sersic`` (0 disc, 1 bulge), each ``(n,)``.
        fwhm: of the point spread function, ``(C,)``, arcsec.
        dx, dy: offset from the central pixel, px, ``(n,)``.
    """
    grid = np.arange(SIZE, dtype=np.float32) - CENTRE
    x = (grid[None, None, :] - dx[:, None, None]).astype(np.float32)
    y = (grid[None, :, None] - dy[:, None, None]).astype(np.float32)
    xx, yy, xy = x * x, y * y, x * y
    image = np.zeros((len(flux), flux.shape[1], SIZE, SIZE), dtype=np.float32)
    for band in range(flux.shape[1]):
        for weight, a, b, c, norm in _components(p, fwhm[band]):
            exponent = a[:, None, None] * xx + c[:, None, None] * yy + b[:, None, None] * xy
            np.exp(exponent, out=exponent)
            image[:, band] += (flux[:, band] * weight * norm).astype(np.float32)[:, None, None] * exponent
    return image


def _components(p: Mapping[str, np.ndarray], fwhm: float) -> list[tuple[np.ndarray, ...]]:
    """Weight, quadratic form (a x² + b x y + c y²) and normalisation of each Gaussian, arrays ``(n,)``."""
    cos, sin = np.cos(np.radians(p["angle"])), np.sin(np.radians(p["angle"]))
    extended = p["radius"] > 0
    result = []
    for psf_share, psf_width in _PSF:
        psf = (fwhm / 2.3548 / PIXEL * psf_width) ** 2
        for (disc, disc_size), (bulge, bulge_size) in zip(_DISC, _BULGE, strict=True):
            size = p["sersic"] * bulge_size + (1 - p["sersic"]) * disc_size
            share = p["sersic"] * bulge + (1 - p["sersic"]) * disc
            major = (size * p["radius"] / PIXEL) ** 2
            minor = major * p["axis_ratio"] ** 2
            vx = psf + major * cos**2 + minor * sin**2
            vy = psf + major * sin**2 + minor * cos**2
            vxy = (major - minor) * sin * cos
            det = vx * vy - vxy**2
            form = [(value / det).astype(np.float32) for value in (-0.5 * vy, vxy, -0.5 * vx)]
            weight = psf_share * np.where(extended, share, 1 / 3)
            result.append((weight, *form, 1 / (2 * np.pi * np.sqrt(det))))
    return result


def scene(rng: np.random.Generator, flux: np.ndarray, p: Mapping[str, np.ndarray], fwhm: np.ndarray) -> np.ndarray:
    """Noiseless cutouts: the object a fraction of a pixel off centre, up to three neighbours; nMgy per pixel."""
    n = len(flux)
    image = render(flux, p, fwhm, rng.uniform(-0.3, 0.3, n), rng.uniform(-0.3, 0.3, n))
    for _ in range(3):
        rows = np.flatnonzero(rng.random(n) < 0.3)
        if len(rows):
            image[rows] += _neighbours(rng, flux[rows], fwhm)
    return image


def pixel_noise(image: np.ndarray) -> np.ndarray:
    """Noise of each pixel of noiseless cutouts ``(n, C, S, S)``, of sky and photons, nanomaggies."""
    sigma = sky_sigma()[None, :, None, None].astype(np.float32)
    return np.sqrt(sigma**2 + np.float32(_POISSON) * np.maximum(image, 0))


def observe(rng: np.random.Generator, flux: np.ndarray, p: Mapping[str, np.ndarray], fwhm: np.ndarray) -> np.ndarray:
    """Cutouts as taken: :func:`scene` with sky and photon noise, and defects."""
    image = scene(rng, flux, p, fwhm)
    image += pixel_noise(image) * rng.standard_normal(image.shape, dtype=np.float32)
    return _defects(rng, image)


def digitize(counts: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Counts ``(n, C, S, S)`` rounded in place to a power of two, a sixteenth of the sky noise ``(C,)`` or less."""
    step = np.exp2(np.floor(np.log2(sigma / 16))).astype(np.float32)[None, :, None, None]
    counts /= step
    np.rint(counts, out=counts)
    counts *= step
    return counts


def _neighbours(rng: np.random.Generator, flux: np.ndarray, fwhm: np.ndarray) -> np.ndarray:
    """One star or small galaxy somewhere in each cutout, with colours of its own."""
    m, n_bands = len(flux), flux.shape[1]
    tilt = np.linspace(-1, 1, n_bands)[None] * rng.normal(0, 0.6, (m, 1))
    own = 10 ** (0.4 * (22.5 - rng.uniform(17.5, 21.5, (m, 1)))) * 10 ** (0.4 * tilt)
    radius, angle = rng.uniform(9, 45, m), rng.uniform(0, 2 * np.pi, m)
    shape: dict[str, np.ndarray] = {
        "radius": rng.uniform(0, 1.5, m) * (rng.random(m) < 0.5),
        "axis_ratio": rng.uniform(0.4, 1, m),
        "angle": rng.uniform(-90, 90, m),
        "sersic": rng.random(m),
    }
    return render(own, shape, fwhm, radius * np.cos(angle), radius * np.sin(angle))


def _defects(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """NaN beyond the edge of a chip in 3 % of the cutouts, from a random column on, in all bands."""
    edge = np.where(rng.random(len(image)) < 0.03, rng.integers(0, SIZE - 20, len(image)), SIZE)
    beyond = np.arange(SIZE)[None] >= edge[:, None]
    image[np.broadcast_to(beyond[:, None, None], image.shape)] = np.nan
    return image
