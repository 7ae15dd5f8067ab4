"""What the generator knows: the true parameters, and the smallest error with which they can be measured.

The bound is that of Cramér and Rao with weak priors: for observables o(θ) with independent Gaussian errors σ, the
information is J' diag(σ⁻²) J plus the priors' precision, and the variance of the wanted parameter, with all others
unknown, is at least the element of the inverse (e.g. Tegmark, Taylor & Heavens 1997, eq. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigError, DataError
from . import catalogue, sed, spectra
from .population import draw_field, field_name, synthetic_of

if TYPE_CHECKING:
    from ...config.schema import DataConfig

# parameter -> (step of the finite difference, width of the prior), in the units of the parameter
_LOG_T = "log_temperature"
_FREE: dict[int, dict[str, tuple[float, float]]] = {
    sed.STAR: {
        _LOG_T: (1e-4, 0.15),
        "mag_r": (1e-4, 2.0),
        "log_g": (1e-3, 0.8),
        "metallicity": (1e-3, 0.5),
        "a_v": (1e-4, 0.1),
    },
    sed.GALAXY: {"redshift": (1e-5, 0.15), "mag_r": (1e-4, 2.0), "young": (1e-4, 0.3), "a_v": (1e-4, 0.1)},
    sed.QUASAR: {"redshift": (1e-5, 1.2), "mag_r": (1e-4, 2.0), "slope": (1e-4, 0.25), "a_v": (1e-4, 0.1)},
}
_OBSERVABLES = ("photometry", "spectrum", "xp")
_CHUNK = 64


def field_index(data: DataConfig, field: str | int) -> int:
    """Number of a field by its name.

    Raises:
        DataError: there is no such field.
    """
    names = [field_name(i) for i in range(synthetic_of(data).n_fields)]
    if field not in (names if isinstance(field, str) else range(len(names))):
        raise DataError(f"a field from {names[0]} to {names[-1]}", got=field)
    return names.index(field) if isinstance(field, str) else int(field)


def true_parameters(data: DataConfig, field: str | int) -> dict[str, np.ndarray]:
    """Parameters of all objects of a field, made again from the seed; see :func:`.population.draw_field`."""
    config = synthetic_of(data)
    return draw_field(config.seed, field_index(data, field), config.n_objects_per_field)


def noise_limited_error(
    data: DataConfig,
    quantity: str,
    *,
    field: str | int = 0,
    given: Sequence[str] = ("photometry",),
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Smallest possible standard deviation of an unbiased estimate, per object of a field, ``(n,)``.

    Args:
        quantity: ``redshift`` (galaxies and quasars) or ``temperature`` (stars), in its own unit (K).
        given: which observables are known, of ``photometry`` (12 magnitudes), ``spectrum`` (three arms), ``xp``. They
            are taken as observed for every object, also for those that the survey has no spectrum of.
        rows: objects to work it out for, indices of the field; default all.

    Returns:
        NaN for objects that do not have the quantity, or are not among ``rows``.

    Raises:
        ConfigError: an unknown quantity or observable.
    """
    if quantity not in ("redshift", "temperature"):
        raise ConfigError("redshift or temperature", got=quantity)
    given = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))  # one observation of each
    if not given or set(given) - set(_OBSERVABLES):
        raise ConfigError(f"observables of {', '.join(_OBSERVABLES)}", got=", ".join(given) or "none")
    p = true_parameters(data, field)
    error = np.full(len(p["kind"]), np.nan)
    kinds = (sed.STAR,) if quantity == "temperature" else (sed.GALAXY, sed.QUASAR)
    wanted = np.ones(len(error), bool) if rows is None else np.isin(np.arange(len(error)), rows)
    for kind in kinds:
        mine = np.flatnonzero((p["kind"] == kind) & wanted)
        for part in np.array_split(mine, max(len(mine) // _CHUNK, 1)):
            if len(part):
                error[part] = _bound({k: v[part] for k, v in p.items()}, kind, quantity, given)
    return error


def information(p: dict[str, np.ndarray], kind: int, given: Sequence[str]) -> np.ndarray:
    """Fisher matrices ``(n, k, k)`` of the free parameters of objects of one kind, without the priors."""
    free = _FREE[kind]
    n, k = len(p["kind"]), len(free)
    matrix = np.zeros((n, k, k))
    for what in given:
        sigma = _observe(p, what)[1]
        slopes = []
        for name, (step, _) in free.items():
            up, down = (_observe(_shifted(p, name, s), what)[0] for s in (step, -step))
            slopes.append((up - down) / (2 * step) / sigma)
        jacobian = np.stack(slopes, axis=1)  # (n, k, observables)
        matrix += jacobian @ jacobian.transpose(0, 2, 1)
    return matrix


def _bound(p: dict[str, np.ndarray], kind: int, quantity: str, given: Sequence[str]) -> np.ndarray:
    free = _FREE[kind]
    precision = information(p, kind, given) + np.diag([width**-2 for _, width in free.values()])
    wanted = _LOG_T if quantity == "temperature" else quantity
    variance = np.linalg.inv(precision)[:, list(free).index(wanted), list(free).index(wanted)]
    return np.sqrt(variance) * (p["temperature"] * np.log(10) if quantity == "temperature" else 1.0)


def _shifted(p: dict[str, np.ndarray], name: str, step: float) -> dict[str, np.ndarray]:
    if name == _LOG_T:
        return p | {"temperature": p["temperature"] * 10**step}
    return p | {name: p[name] + step}


def _observe(p: dict[str, np.ndarray], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless observables and their errors, both ``(n, m)``, in units in which they are of order 1."""
    if what == "photometry":
        flux = catalogue.photometry(p)["splus"]
        return flux, catalogue.splus_noise(flux)
    if what == "xp":
        flux = spectra.noiseless_xp(p) * 1e18
        mag_g = spectra.gaia_magnitude(catalogue.photometry(p)["gaia"][:, 0])
        return flux, spectra.xp_noise(flux, mag_g)
    flux = np.concatenate([spectra.noiseless_arm(arm, p) for arm in spectra.ARMS], axis=1)
    noise = np.concatenate([spectra.arm_noise(spectra.arm_wave(arm)) for arm in spectra.ARMS])
    return flux, np.sqrt(noise**2 + 0.01 * np.maximum(flux, 0)) / np.sqrt(1 - spectra.MASKED)
