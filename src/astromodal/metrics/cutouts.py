"""What astronomers measure on cutouts, with errors, and how far two cutouts of one object differ in it.

Flux in circular apertures, and first and second moments under one round Gaussian weight per object (the same for all
cutouts that are compared, so that the weight's bias cancels): centroid, ellipticity ``(Mxx - Myy, 2 Mxy) / T`` and size
``sqrt(T / 2)``, with ``T = Mxx + Myy`` (Kaiser, Squires & Broadhurst 1995; Bernstein & Jarvis 2002). All are sums over
pixels, or ratios of such, so that the noise of the pixels, taken as independent, is carried through to first order:
nothing is simulated. Pixels that are not valid count on neither side; an aperture that lacks over a tenth has no flux.

Shapes: n objects, C bands, S pixels on a side, R apertures. Objects stand at pixel ``[S // 2, S // 2]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import DataError

RADII = (3.0, 6.0, 10.0)  # px
SNR_EDGES = (0.0, 5.0, 20.0, 100.0, np.inf)  # flux over its error in the middle aperture, of the bins of figures
FLOOR = 0.02  # share of a flux by which catalogues disagree anyhow: zero points
QUANTITIES = ("flux", "colour", "position", "ellipticity", "size")
LOST = 1e3  # errors: what can no longer be measured, or is further off than this
_SUBPIXELS = 8  # per direction, of which the apertures are made
_MIN_COVER = 0.9  # of an aperture's pixels
_MIN_SNR = 5.0  # of the weighted flux, for moments, and of both fluxes of a colour
_MIN_WIDTH, _USUAL_WIDTH = 1.5, 2.5  # px, of the weight


@dataclass(frozen=True)
class Measured:
    """What was measured on cutouts of n objects, and its standard errors; NaN where it cannot be."""

    flux: np.ndarray  # (n, C, R), sum over the aperture
    flux_error: np.ndarray
    position: np.ndarray  # (n, C, 2) centroid (x, y) from the central pixel, px
    position_error: np.ndarray
    ellipticity: np.ndarray  # (n, C, 2)
    ellipticity_error: np.ndarray
    size: np.ndarray  # (n, C) rms radius under the weight, px
    size_error: np.ndarray

    @property
    def snr(self) -> np.ndarray:
        """Signal-to-noise of the flux in the middle aperture ``(n, C)``, at least 0; NaN without."""
        middle = self.flux.shape[2] // 2
        with np.errstate(invalid="ignore"):
            return np.maximum(self.flux[..., middle] / self.flux_error[..., middle], 0.0)

    @classmethod
    def together(cls, parts: Sequence[Measured]) -> Measured:
        """The objects of all parts, one after another."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def aperture_masks(size: int, radii: Sequence[float] = RADII) -> np.ndarray:
    """Share of each pixel that lies in circles around the central one, ``(R, S, S)``.

    >>> bool(abs(aperture_masks(32, [6.0]).sum() / (np.pi * 36) - 1) < 2e-3)
    True
    """
    step = (np.arange(_SUBPIXELS) + 0.5) / _SUBPIXELS - 0.5
    fine = ((np.arange(size) - size // 2)[:, None] + step).ravel()
    square = fine[:, None] ** 2 + fine[None, :] ** 2
    inside = np.stack([square <= radius**2 for radius in radii])
    return inside.reshape(len(radii), size, _SUBPIXELS, size, _SUBPIXELS).mean((2, 4))


def weight_width(a: np.ndarray, b: np.ndarray, size: int) -> np.ndarray:
    """Width of the weight of each object ``(n,)``, px: its catalogued rms radius, within what a cutout can hold."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        width = np.sqrt((a**2 + b**2) / 2)
    return np.clip(np.where(np.isfinite(width) & (width > 0), width, _USUAL_WIDTH), _MIN_WIDTH, max(size / 16, 2.0))


def measure(
    image: np.ndarray, sigma: np.ndarray, valid: np.ndarray, width: np.ndarray, radii: Sequence[float] = RADII
) -> Measured:
    """Apertures and moments of cutouts without their sky.

    Args:
        image: flux ``(n, C, S, S)``.
        sigma: noise of its pixels, ``(n, C)`` or ``(n, C, S, S)``.
        valid: pixels that count, ``(n, C, S, S)``.
        width: standard deviation of the weight, ``(n,)``, px.

    Raises:
        DataError: shapes that do not belong together.
    """
    image = np.asarray(image)
    if image.ndim != 4 or valid.shape != image.shape or np.shape(width) != image.shape[:1]:
        raise DataError(
            "cutouts and valid pixels (n, C, S, S), widths (n,)",
            got=f"{image.shape}, {valid.shape} and {np.shape(width)}",
        )
    sigma = np.asarray(sigma, np.float64)
    sigma = np.broadcast_to(sigma[..., None, None] if sigma.ndim == 2 else sigma, image.shape)
    good = valid & np.isfinite(image) & np.isfinite(sigma) & (sigma > 0)
    flux = np.where(good, image, 0.0).astype(np.float64)
    variance = np.where(good, np.square(sigma), 0.0)
    return Measured(*_apertures(flux, variance, good, radii), *_moments(flux, variance, width))


def _apertures(
    flux: np.ndarray, variance: np.ndarray, good: np.ndarray, radii: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Flux and its error ``(n, C, R)``."""
    n, n_bands, size, _ = flux.shape
    masks = aperture_masks(size, radii).reshape(len(radii), -1)
    total, squares, cover = (
        values.reshape(n, n_bands, -1) @ mask.T
        for values, mask in ((flux, masks), (variance, masks**2), (good.astype(np.float32), masks.astype(np.float32)))
    )
    enough = cover >= _MIN_COVER * masks.sum(1)
    return np.where(enough, total, np.nan), np.where(enough, np.sqrt(squares), np.nan)


def _moments(flux: np.ndarray, variance: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, ...]:
    """Centroid, ellipticity and size, each followed by its error, from the middle half of the cutouts."""
    size = flux.shape[-1]
    middle = slice(size // 4, size - size // 4)
    flux, variance = flux[..., middle, middle], variance[..., middle, middle]
    grid = np.arange(size)[middle] - float(size // 2)
    profile = np.exp(-0.5 * (grid / np.asarray(width, np.float64)[:, None]) ** 2)
    weight = (profile[:, :, None] * profile[:, None, :])[:, None]  # (n, 1, s, s)
    flux, noise = flux * weight, variance * weight**2
    total = flux.sum((2, 3))
    seen = (total > 0) & (noise.sum((2, 3)) > 0)
    total = np.where(seen, total, np.nan)

    def error(slope: np.ndarray) -> np.ndarray:
        return np.sqrt((noise * slope**2).sum((2, 3))) / total

    position = np.stack([(flux.sum(2) * grid).sum(2), (flux.sum(3) * grid).sum(2)], -1) / total[..., None]
    x = grid[None, None, None, :] - position[..., 0, None, None]
    y = grid[None, None, :, None] - position[..., 1, None, None]
    square, plus, cross = x**2 + y**2, x**2 - y**2, 2 * x * y
    trace = (flux * square).sum((2, 3)) / total
    trace = np.where(trace > 0, trace, np.nan)
    shape = np.stack([(flux * part).sum((2, 3)) for part in (plus, cross)], -1) / (total * trace)[..., None]
    slopes = (part - shape[..., k, None, None] * square for k, part in enumerate((plus, cross)))
    shape_error = np.stack([error(slope) for slope in slopes], -1) / trace[..., None]
    radius = np.sqrt(trace / 2)
    radius_error = error(square - trace[..., None, None]) / (4 * radius)
    position_error = np.stack([error(x), error(y)], -1)
    return position, position_error, shape, shape_error, radius, radius_error


def pulls(reference: Measured, other: Measured) -> dict[str, np.ndarray]:
    """``(other - reference) / error`` by quantity; the errors are those of ``reference``.

    ``flux (n, C, R)``, ``colour (n, C - 1)`` (magnitudes, middle aperture, of neighbouring bands), ``position`` and
    ``ellipticity (n, C, 2)``, ``size (n, C)``. NaN where the reference does not tell (moments and colours below a
    signal-to-noise of 5); ``LOST`` where only the other one does not, or is further off.
    """
    bright = reference.snr >= _MIN_SNR
    result = {"flux": _pull(reference.flux, other.flux, reference.flux_error)}
    (colour, colour_error), (decoded, _) = (_colours(m) for m in (reference, other))
    result["colour"] = _pull(np.where(bright[:, 1:] & bright[:, :-1], colour, np.nan), decoded, colour_error)
    for name in ("position", "ellipticity", "size"):
        value = getattr(reference, name)
        known = bright.reshape(*bright.shape, *(1,) * (value.ndim - 2))
        value = np.where(known, value, np.nan)
        result[name] = _pull(value, getattr(other, name), getattr(reference, f"{name}_error"))
    return result


def _colours(measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Differences of magnitudes between neighbouring bands in the middle aperture and their errors, ``(n, C - 1)``."""
    middle = measured.flux.shape[2] // 2
    flux, error = measured.flux[..., middle], measured.flux_error[..., middle]
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = np.where(flux > 0, -2.5 * np.log10(flux), np.nan)
        share = np.where(flux > 0, 2.5 / np.log(10) * error / flux, np.nan)
    return np.diff(magnitude, axis=1), np.hypot(share[:, 1:], share[:, :-1])


def _pull(reference: np.ndarray, other: np.ndarray, error: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        pull = np.clip((other - reference) / error, -LOST, LOST)
        told = np.isfinite(reference) & (error > 0)
    return np.where(told, np.where(np.isfinite(pull), pull, LOST), np.nan)


def kept(reference: Measured, other: Measured, bands: Sequence[str]) -> dict[str, Any]:
    """What the other cutouts have kept of the reference, in units of the reference's errors.

    ``flux_within``: share of objects, bands and apertures whose flux is right within its error, and
    ``flux_within_or_floor`` within that or 2 % of the flux, whichever is more; ``by_snr`` and ``by_band``: for each
    quantity the share within one error (``within``), the median (``bias``) and half of the range of the middle 68 %
    (``scatter``); null where nothing could be measured.
    """
    pull, snr = pulls(reference, other), reference.snr
    with np.errstate(invalid="ignore"):
        allowed = np.maximum(1.0, FLOOR * np.abs(reference.flux) / reference.flux_error)
    told = ~np.isnan(pull["flux"])
    loose = float((np.abs(pull["flux"]) <= allowed)[told].mean()) if told.any() else None
    by_snr: list[dict[str, Any]] = []
    for low, high in (*pairwise(SNR_EDGES), (0.0, np.inf)):
        mine = (snr >= low) & (snr < high)
        if mine.any():
            row = {"from": low, "to": high if np.isfinite(high) else None, "n": int(mine.sum())}
            by_snr.append(row | {name: spread(pull[name][_of(mine, name)]) for name in QUANTITIES})
    by_band = {
        band: {name: spread(pull[name][:, i]) for name in QUANTITIES if i < pull[name].shape[1]}
        for i, band in enumerate(bands)
    }
    within = spread(pull["flux"])["within"]
    return {"flux_within": within, "flux_within_or_floor": loose, "by_snr": by_snr, "by_band": by_band}


def _of(mine: np.ndarray, quantity: str) -> np.ndarray:
    """Objects and bands ``(n, C)`` that the values of a quantity belong to; a colour's are the redder band's."""
    return mine[:, 1:] if quantity == "colour" else mine


def spread(values: np.ndarray) -> dict[str, Any]:
    """Share within one, median and half of the range of the middle 68 % of what is not NaN, and how many.

    >>> spread(np.array([0.5, -0.5, np.nan, 3.0, 0.0]))["within"]
    0.75
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return {"n": 0, "within": None, "bias": None, "scatter": None}
    low, median, high = np.quantile(values, [0.15865525, 0.5, 0.84134475])
    within = float((np.abs(values) <= 1).mean())
    return {"n": len(values), "within": within, "bias": float(median), "scatter": float((high - low) / 2)}
