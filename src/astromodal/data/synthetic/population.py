"""Who is in the sky: parameters of stars, galaxies and quasars, drawn per field from its own seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from .passbands import SPLUS
from .sed import C_KMS, GALAXY, QUASAR, STAR

if TYPE_CHECKING:
    from ...config.schema import DataConfig, SyntheticConfig

CLASSES = ("star", "galaxy", "quasar")
TILE_DEG = 1.4  # side of a field
TILES_PER_ROW = 256  # once around the sky
FRACTIONS = (0.50, 0.42, 0.08)  # of the classes, in a catalogue limited in r
# r magnitudes: limit - an exponential of this mean. Star counts are flat, those of galaxies and quasars steep.
_FAINTEST, _SPREAD, _RANGE = np.array([21.5, 22.0, 22.0]), np.array([3.5, 1.7, 1.2]), np.array([7.5, 8.0, 6.5])
DUPLICATES = 0.01  # share of a field that the next one observes again, within an arcsecond
ZERO_POINT_SIGMA = {band: 0.025 if band in ("u", "J0395") else 0.015 if band == "J0378" else 0.010 for band in SPLUS}


def field_name(index: int) -> str:
    """``SYN-0001`` for field 0."""
    return f"SYN-{index + 1:04d}"


def field_generator(seed: int, field: int, purpose: int = 0) -> np.random.Generator:
    """Generator of one field and purpose: nothing depends on which process makes which field."""
    return np.random.default_rng([seed, field, purpose, 0x5EED])


def draw_field(seed: int, field: int, n: int) -> dict[str, np.ndarray]:
    """True parameters of the ``n`` objects of a field, arrays ``(n,)``.

    ``kind`` (0 star, 1 galaxy, 2 quasar), ``mag_r`` [AB], ``a_v`` [mag], ``temperature`` [K], ``log_g`` [cgs],
    ``metallicity`` [dex], ``redshift``, ``young`` (share of the young population), ``slope``, ``radius`` (half-light,
    arcsec), ``axis_ratio``, ``angle`` [deg], ``sersic`` (0 exponential disc, 1 bulge), ``distance`` [pc], ``ra``,
    ``dec`` [deg], ``pmra``, ``pmdec`` [mas/yr]. What does not apply is NaN, ``redshift`` of stars is that of their
    radial velocity. The first objects are the last of the field before, seen a second time.
    """
    p = _draw(seed, field, n)
    n_shared = min(max(int(DUPLICATES * n), 1), n // 2) if field else 0
    if n_shared:
        before = _draw(seed, field - 1, n)
        for key, values in p.items():
            values[:n_shared] = before[key][-n_shared:]
        shift = field_generator(seed, field, 6).normal(0, 0.2 / 3600, (2, n_shared))  # astrometric errors
        p["ra"][:n_shared] = (p["ra"][:n_shared] + shift[0]) % 360.0
        p["dec"][:n_shared] += shift[1]
    return p


def _draw(seed: int, field: int, n: int) -> dict[str, np.ndarray]:
    """The objects of a field as if it had no neighbour."""
    rng = field_generator(seed, field)
    kind = rng.choice([STAR, GALAXY, QUASAR], size=n, p=FRACTIONS)
    above_limit = np.minimum(rng.exponential(1.0, n) * _SPREAD[kind], _RANGE[kind])
    p: dict[str, np.ndarray] = {"kind": kind, "mag_r": _FAINTEST[kind] - above_limit}
    dust = field_generator(seed, field, 1).uniform(0.03, 0.3)
    p["a_v"] = dust * rng.lognormal(0.0, 0.25, n)
    p |= _stars(rng, p["mag_r"], p["a_v"])
    p |= _extragalactic(rng, p["mag_r"], kind)
    p["ra"], p["dec"] = _tile(seed, field, n)
    return _only_where_it_applies(p)


def _stars(rng: np.random.Generator, mag_r: np.ndarray, a_v: np.ndarray) -> dict[str, np.ndarray]:
    n = len(mag_r)
    temperature = np.clip(10 ** rng.normal(3.72, 0.10, n), 3000, 14000)
    giant = (rng.random(n) < 0.3 * 10 ** (-0.15 * (mag_r - 14.0))) & (temperature < 6000)  # the halo ends
    log_g = np.where(giant, rng.normal(2.5, 0.5, n), rng.normal(4.5, 0.12, n))
    absolute = 4.4 - 2.5 * 6.0 * np.log10(temperature / 5772.0) - np.where(giant, 2.5 * (4.5 - log_g), 0.0)
    distance = 10 ** ((mag_r - absolute - 0.84 * a_v + 5) / 5)
    speed = rng.normal(0, 40.0, (2, n))  # km/s, tangential
    return {
        "temperature": temperature,
        "log_g": np.clip(log_g, 0.5, 5.2),
        "metallicity": np.clip(rng.normal(-0.4, 0.4, n), -2.5, 0.5),
        "distance": distance,
        "pmra": speed[0] / (4.74 * distance) * 1e3,
        "pmdec": speed[1] / (4.74 * distance) * 1e3,
        "velocity": rng.normal(0, 60.0, n),
    }


def _extragalactic(rng: np.random.Generator, mag_r: np.ndarray, kind: np.ndarray) -> dict[str, np.ndarray]:
    n = len(mag_r)
    z_galaxy = np.clip(rng.gamma(3.0, 1.0, n) / 3.0 * 0.16 * 10 ** (0.12 * (mag_r - 19.0)), 0.003, 0.75)
    z_quasar = rng.uniform(0.3, 4.0, n) ** 0.95
    young = np.clip(rng.beta(1.3, 1.8, n), 0.01, 0.99)
    bulge = np.clip(rng.normal(0.75 - 0.8 * young, 0.15, n), 0, 1)
    radius = rng.lognormal(np.log(1.1), 0.4, n) * 10 ** (-0.09 * (mag_r - 19.0))
    return {
        "redshift": np.where(kind == QUASAR, z_quasar, z_galaxy),
        "young": young,
        "slope": rng.normal(-1.5, 0.25, n),
        "radius": np.clip(radius, 0.2, 5.0),
        "axis_ratio": np.clip(1 - rng.beta(2.0, 3.0, n) * (1 - 0.5 * bulge), 0.2, 1.0),
        "angle": rng.uniform(-90, 90, n),
        "sersic": bulge,
    }


def _tile(seed: int, field: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in tiles along the equator, the first around RA 0; the last objects stand at the edge to the next.

    Each 256 tiles are a row around the sky; the next ones lie north and south of it.
    """
    rng = field_generator(seed, field, 2)
    east, dec = rng.uniform(-0.5, 0.5, n), rng.uniform(-0.5, 0.5, n) * TILE_DEG
    n_shared = max(int(DUPLICATES * n), 1)
    east[-n_shared:] = 0.5 - 0.01 * (east[-n_shared:] + 0.5)
    row, place = divmod(field, TILES_PER_ROW)
    north = (row + 1) // 2 * (1 if row % 2 else -1)
    return ((place + east) * TILE_DEG) % 360.0, dec + north * TILE_DEG


def _only_where_it_applies(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    star, galaxy, quasar = (p["kind"] == k for k in (STAR, GALAXY, QUASAR))
    for key in ("temperature", "log_g", "metallicity", "distance", "pmra", "pmdec"):
        p[key] = np.where(star, p[key], np.nan)
    p["young"] = np.where(galaxy, p["young"], np.nan)
    p["slope"] = np.where(quasar, p["slope"], np.nan)
    for key, point in (("radius", 0.0), ("axis_ratio", 1.0), ("angle", 0.0), ("sersic", 0.0)):
        p[key] = np.where(galaxy, p[key], point)
    p["redshift"] = np.where(star, p.pop("velocity") / C_KMS, p["redshift"])
    return p


def zero_points(seed: int, field: int) -> dict[str, float]:
    """AB magnitude of one count in each band of a field."""
    rng = field_generator(seed, field, 3)
    return {name: round(band.zero_point + rng.normal(0, ZERO_POINT_SIGMA[name]), 4) for name, band in SPLUS.items()}


def synthetic_of(data: DataConfig) -> SyntheticConfig:
    """The section ``data.synthetic``.

    Raises:
        DataError: the survey is no synthetic one.
    """
    if data.synthetic is None:
        raise DataError("a synthetic survey", got=f"data={data.name}", where="data.synthetic", repair="data=synthetic")
    return data.synthetic
