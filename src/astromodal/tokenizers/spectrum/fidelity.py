"""What decoded spectra have kept: judged against the noiseless truth where that is known, and by what they are for.

Four questions. How far from the truth, in units of the noise (a good code is far below 1, because it denoises), and how
far from the data (chi^2 per good pixel; far below 1 it has coded noise). How much of the flux of lines is left, and
where they stand. Whether the colour of the continuum is right. And whether the redshift that the spectrum gives away by
cross-correlation is found in what is decoded of it as often as in the original.

Shapes: n objects, P pixels of a group, m lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np

from ...data.rebin import rebin
from ...data.synthetic import sed
from ...data.synthetic.sed import C_KMS
from ...errors import DataError
from ...metrics.lines import LineFits, fit_lines
from ...metrics.redshifts import cross_correlate
from ...metrics.scalars import NMAD
from ...metrics.spectra import chi2_per_pixel, errors_by_snr, signal_to_noise

LINE_EDGES = (3.0, 8.0, 25.0, np.inf)  # flux over the least error of a line
GALAXY_LIMIT, QUASAR_LIMIT = 300.0, 3000.0  # km/s: a redshift this near is right; the broad lines tell less
SURE = 25.0  # of chi^2: a redshift ahead of any other by so much is taken for found (Redrock's surveys ask 9 to 40)
_STEP = 2e-4  # of ln wavelength: 60 km/s
_COLOUR_SHARE = 0.02  # error of a mean flux, as a share: fainter spectra have no colour to speak of


@dataclass(frozen=True)
class Arm:
    """One group of spectra of n objects, in its physical unit."""

    wave: np.ndarray  # (P,) Angstrom
    flux: np.ndarray  # (n, P) as observed
    ivar: np.ndarray  # (n, P)
    decoded: np.ndarray  # (n, P)
    truth: np.ndarray | None = None  # (n, P) without noise

    def of(self, rows: np.ndarray) -> Arm:
        """The same of some objects."""
        truth = None if self.truth is None else self.truth[rows]
        return Arm(self.wave, self.flux[rows], self.ivar[rows], self.decoded[rows], truth)

    @property
    def noiseless(self) -> np.ndarray:
        """The truth ``(n, P)``.

        Raises:
            DataError: it is not known.
        """
        if self.truth is None:
            raise DataError("spectra without noise, to judge by", got="observed ones alone")
        return self.truth


Arms = Mapping[str, Arm]


def pixel_errors(arms: Arms) -> list[dict[str, Any]]:
    """:func:`~astromodal.metrics.spectra.errors_by_snr` over all arms together; objects are told apart by the
    signal-to-noise of the truth, where it is known."""
    parts = list(arms.values())
    seen = [a.flux if a.truth is None else a.truth for a in parts]
    snr = signal_to_noise(np.concatenate(seen, axis=1), np.concatenate([a.ivar for a in parts], axis=1))
    found = [chi2_per_pixel(a.flux, a.decoded, a.ivar) for a in parts]
    n = reduce(np.add, (number for _, number in found))
    of_all = reduce(np.add, (np.nan_to_num(value) * number for value, number in found)) / np.maximum(n, 1)
    if any(a.truth is None for a in parts):
        return errors_by_snr(snr, of_all, n)
    off = [chi2_per_pixel(a.noiseless, a.decoded, a.ivar) for a in parts]
    from_truth = reduce(np.add, (np.nan_to_num(value) * number for value, number in off)) / np.maximum(n, 1)
    return errors_by_snr(snr, of_all, n, from_truth)


def lines_kept(arms: Arms, redshift: np.ndarray, rest: Sequence[float], width: float = sed.NEBULAR_WIDTH) -> list[dict]:
    """By the lines' signal-to-noise: the share of their true flux that is left (median), its scatter (1.4826 MAD), and
    how far fluxes and places are off in units of their least errors. Without a truth the data stand for it.

    Args:
        redshift: ``(n,)``.
        rest: wavelengths of the lines.
        width: standard deviation of the lines, km/s.
    """
    pairs: list[tuple[LineFits, LineFits, LineFits]] = []
    for arm in arms.values():
        for wave in rest:
            centre = wave * (1 + redshift)
            at = (centre, centre * width / C_KMS)
            true = arm.flux if arm.truth is None else arm.truth
            fits = [fit_lines(arm.wave, f, arm.ivar, *at) for f in (true, arm.decoded, arm.flux)]
            pairs.append((fits[0], fits[1], fits[2]))
    truth, decoded, seen = (
        {f.name: np.concatenate([getattr(p[k], f.name) for p in pairs]) for f in fields(LineFits)} for k in range(3)
    )
    snr, rows = truth["flux"] / truth["flux_error"], []
    for low, high in pairwise(LINE_EDGES):
        mine = (snr >= low) & (snr < high)
        if mine.any():
            kept = (decoded["flux"] / truth["flux"])[mine]
            off = ((decoded["flux"] - truth["flux"]) / truth["flux_error"])[mine]
            moved = ((decoded["shift"] - truth["shift"]) / truth["shift_error"])[mine]
            rows.append(
                {
                    "from": low,
                    "to": high,
                    "n": int(mine.sum()),
                    "kept": float(np.median(kept)),
                    "scatter": _spread(kept),
                    "mean": float(np.mean(kept)),
                    "scatter_of_data": _spread((seen["flux"] / truth["flux"])[mine]),
                    "flux_bias": float(np.median(off)),
                    "flux_scatter": _spread(off),
                    "place_bias": float(np.median(moved)),
                    "place_scatter": _spread(moved),
                }
            )
    return rows


def colours_kept(arms: Arms) -> dict[str, float]:
    """Colour between the first and the last arm, decoded minus true, mag, of objects bright enough to have one.

    Without a truth the data stand for it: a mean flux over an arm has next to no noise. NaN where there is no object.
    """
    first, *_, last = arms.values()
    means = []
    for arm in (first, last):
        weight, true = arm.ivar.sum(1), arm.flux if arm.truth is None else arm.truth
        for flux in (arm.decoded, true):
            total = (arm.ivar * np.where(arm.ivar > 0, flux, 0.0)).sum(1)
            means.append(np.divide(total, weight, out=np.zeros_like(weight), where=weight > 0))
        means.append(np.divide(1.0, np.sqrt(weight), out=np.full_like(weight, np.inf), where=weight > 0))
    decoded_b, true_b, error_b, decoded_z, true_z, error_z = means
    bright = (true_b > error_b / _COLOUR_SHARE) & (true_z > error_z / _COLOUR_SHARE) & (decoded_b > 0) & (decoded_z > 0)
    decoded_b, true_b, decoded_z, true_z = (mean[bright] for mean in (decoded_b, true_b, decoded_z, true_z))
    off = -2.5 * np.log10(decoded_b / decoded_z * true_z / true_b)
    bias = float(np.median(off)) if len(off) else float("nan")
    return {"n": int(bright.sum()), "bias": bias, "scatter": _spread(off)}


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation."""
    return float(NMAD * np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


# ------------------------------------------------------------------------------------------ redshifts


def galaxy_templates(wave: np.ndarray) -> np.ndarray:
    """Rest-frame spectra ``(K, W)`` of galaxies from old to young."""
    young = np.array([0.02, 0.2, 0.5, 0.95])
    p = {"redshift": np.zeros(len(young)), "young": young}
    shape = sed.galaxy(wave, p)
    return shape / shape.mean(1, keepdims=True)


def quasar_templates(wave: np.ndarray) -> np.ndarray:
    """The rest-frame spectrum ``(1, W)`` of a quasar, without the forest."""
    shape = sed.quasar(wave, {"redshift": np.zeros(1), "slope": np.full(1, -1.5)})
    return shape / np.median(shape)


def redshifts(
    arms: Arms,
    flux: Sequence[np.ndarray],
    templates: Callable[[np.ndarray], np.ndarray],
    low: float,
    high: float,
    width: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Redshift (n,) by cross-correlation, the fall of chi^2 (n,), and how much more it is than at another redshift.

    Args:
        flux: of each arm ``(n, P)``; the inverse variances are the arms' own, whatever is judged.
        templates: function of rest wavelengths.
        low, high: redshifts between which is looked.
        width: km/s, of what counts as continuum.
    """
    first = np.log(min(a.wave[0] for a in arms.values()))
    n_pixels = int((np.log(max(a.wave[-1] for a in arms.values())) - first) / _STEP) + 1
    totals, weights = [], []
    for arm, values in zip(arms.values(), flux, strict=True):
        n, size = arm.flux.shape
        wave, offsets = np.tile(np.log(arm.wave), n), np.arange(n + 1) * size
        good = np.where(np.isfinite(values), arm.ivar, 0.0)
        mean, ivar, _ = rebin(np.nan_to_num(values).ravel(), good.ravel(), wave, offsets, first, _STEP, n_pixels)
        totals.append(ivar * mean)
        weights.append(ivar)
    total, weight = reduce(np.add, totals), reduce(np.add, weights)
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    least, most = (int(np.log1p(z) / _STEP) for z in (low, high))
    rest = np.exp(first + _STEP * (np.arange(n_pixels + most - least) - most))
    shift, gain, lead = cross_correlate(mean, weight, templates(rest), width / C_KMS / _STEP)
    return np.expm1((shift + least) * _STEP), gain, lead


def velocity(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Difference of two redshifts, km/s."""
    return C_KMS * (found - true) / (1 + true)


def galaxy_redshifts(arms: Arms, flux: Sequence[np.ndarray], high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As :func:`redshifts`, with galaxies' templates."""
    return redshifts(arms, flux, galaxy_templates, 0.0, high, 6000.0)


def quasar_redshifts(arms: Arms, flux: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As :func:`redshifts`, with a quasar's template."""
    return redshifts(arms, flux, quasar_templates, 0.2, 4.5, 25000.0)


def galaxy_redshifts_kept(arms: Arms, true: np.ndarray, high: float = 0.8) -> dict[str, float]:
    """Success of galaxies' redshifts, from the data and from what is decoded, against the true ones ``(n,)``."""
    seen, decoded = (galaxy_redshifts(arms, flux, high)[0] for flux in _both(arms))
    return _kept(true, seen, decoded, GALAXY_LIMIT)


def quasar_redshifts_kept(arms: Arms, true: np.ndarray) -> dict[str, float]:
    """The same of quasars."""
    seen, decoded = (quasar_redshifts(arms, flux)[0] for flux in _both(arms))
    return _kept(true, seen, decoded, QUASAR_LIMIT)


def redshifts_agreeing(arms: Arms, high: float) -> dict[str, dict[str, float]]:
    """Redshifts from what is decoded against those from the data, whatever the true ones are, of galaxies and quasars.

    Judged are objects whose data has one redshift that lowers chi^2 by ``SURE`` more than any other, each by the
    templates that fit it better: ``n``, ``n_agree`` within the limit, ``bias`` and ``scatter`` of these, km/s.
    """
    seen_flux, decoded_flux = _both(arms)
    seen = galaxy_redshifts(arms, seen_flux, high), quasar_redshifts(arms, seen_flux)
    decoded = galaxy_redshifts(arms, decoded_flux, high), quasar_redshifts(arms, decoded_flux)
    fall, found = np.stack([gain for _, gain, _ in seen]), {}
    for k, (name, limit) in enumerate((("galaxy", GALAXY_LIMIT), ("quasar", QUASAR_LIMIT))):
        sure = (fall.argmax(0) == k) & (seen[k][2] > SURE)
        off = velocity(decoded[k][0], seen[k][0])[sure]
        agree = off[np.abs(off) < limit]
        if len(off):
            bias = float(np.median(agree)) if len(agree) else float("nan")
            found[name] = {"n": len(off), "n_agree": len(agree), "bias": bias, "scatter": _spread(agree)}
    return found


def _both(arms: Arms) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [a.flux for a in arms.values()], [a.decoded for a in arms.values()]


def _kept(true: np.ndarray, seen: np.ndarray, decoded: np.ndarray, limit: float) -> dict[str, float]:
    right, still = (np.abs(velocity(z, true)) < limit for z in (seen, decoded))
    return {
        "n": len(true),
        "n_from_data": int(right.sum()),
        "n_from_decoded": int(still.sum()),
        "n_agree": int((np.abs(velocity(decoded, seen)) < limit)[right].sum()),
        "ratio": float(still.sum() / max(right.sum(), 1)),
        "scatter_data": _spread(velocity(seen, true)[right]),
        "scatter_decoded": _spread(velocity(decoded, true)[still]),
    }
