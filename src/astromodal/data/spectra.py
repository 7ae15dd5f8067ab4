"""Spectra of a datacube batch on their group's wavelength grid, in units of their own robust scale.

A position of the result means a wavelength, whatever the sampling of the source: ragged and log-linear spectra are
rebinned with their inverse variances. The scale is kept, so that absolute flux survives (as a scalar token), and the
precision ``sqrt(ivar) * scale`` is the signal-to-noise ratio of a pixel as bright as the scale. A masked pixel
(ivar 0, NaN, inf, not covered) has precision 0 and flux 0.

A spectrum without ivar gets ``has_ivar = False`` and the precision 1 in every valid pixel: all pixels weigh the same,
and no noise is claimed. Its scatter is no estimate of the noise (published spectra are often smoothed), so none is
made; a tokenizer replaces the 1 by its own mean feature.

Shapes: n objects, P pixels of the grid (or coefficients).
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from .columns import list_column_ragged, list_column_to_matrix
from .masks import masked_values
from .rebin import fill_masked, masked_median, rebin
from .wavelengths import OUTSIDE, arrange, row_ends, why_outside

if TYPE_CHECKING:
    from ..config.schema import DataConfig, SpectrumGroupConfig

SHORT_GAP = 8  # pixels: masked ones between valid ones that the scale is taken as if known
ON_GRID = 0.01  # pixels: wavelengths this close to the grid's are the grid's (float32 leaves 0.001 at 10^4)


@dataclass
class SpectrumBatch:
    """One group of spectra of ``n`` rows; rows that are not present hold 0, and NaN as scale."""

    flux: np.ndarray  # (n, P) float32, in units of scale; 0 where masked
    precision: np.ndarray  # (n, P) float32, sqrt(ivar) * scale; 0 where masked
    scale: np.ndarray  # (n,) float64, in the flux unit of the group, > 0
    present: np.ndarray  # (n,) bool
    has_ivar: np.ndarray  # (n,) bool
    counts: dict[str, int] = dataclass_field(default_factory=dict)  # what was found, and how often

    def __len__(self) -> int:
        return len(self.scale)

    def only(self, rows: np.ndarray) -> SpectrumBatch:
        """Some of the rows, by a mask or by numbers; without the counts."""
        return SpectrumBatch(
            self.flux[rows], self.precision[rows], self.scale[rows], self.present[rows], self.has_ivar[rows]
        )


def n_pixels(group: SpectrumGroupConfig) -> int:
    """Pixels of a group's grid, or its number of coefficients.

    Raises:
        ConfigError: the grid is empty or its ends are not a whole number of steps apart.
    """
    if _kind(group) == "coefficients":
        if group.n_coefficients < 1:
            raise ConfigError("n_coefficients of 1 or more", got=group.n_coefficients, where=f"spectra of {group.flux}")
        return int(group.n_coefficients)
    where = f"data.spectra with flux {group.flux}"
    if not (group.wave_step > 0 and group.wave_max > group.wave_min):
        got = f"{group.wave_min}, {group.wave_max}, {group.wave_step}"
        raise ConfigError("wave_min < wave_max and wave_step > 0", got=got, where=where)
    steps = (group.wave_max - group.wave_min) / group.wave_step
    if abs(steps - round(steps)) > 1e-3:
        raise ConfigError("wave_max - wave_min a multiple of wave_step", got=f"{steps:.4f} steps", where=where)
    return round(steps) + 1


def grid(group: SpectrumGroupConfig) -> np.ndarray:
    """Pixel centres in ``wave_unit``, ``(P,)`` float64; for coefficients their numbers 0, 1, …"""
    index = np.arange(n_pixels(group), dtype=np.float64)
    return index if _kind(group) == "coefficients" else group.wave_min + group.wave_step * index


def spectrum_columns(group: SpectrumGroupConfig) -> list[str]:
    """Parquet columns that :func:`read_spectra` needs."""
    return [column for column in (group.flux, group.ivar, group.error, group.wave) if column]


def _kind(group: SpectrumGroupConfig) -> str:
    return str(getattr(group.kind, "value", group.kind))


def _group(data: DataConfig, name: str) -> SpectrumGroupConfig:
    if name not in data.spectra:
        raise ConfigError(f"a group of {', '.join(data.spectra)}", got=name, where="data.spectra")
    return data.spectra[name]


def read_spectra(batch: Any, data: DataConfig, group: str) -> SpectrumBatch:
    """Spectra of one group.

    Args:
        batch: a :class:`~astromodal.data.datacube.Batch` or Arrow batch with :func:`spectrum_columns`.

    Falling wavelengths are turned round. A row that cannot be used (lengths that disagree, wavelengths out of order or
    outside of the grid, no valid pixel, no signal) is not present and counted: a few damaged rows do not stop a survey.

    Raises:
        DataError: a column does not hold lists of numbers.
        ConfigError: unknown group, or a grid that cannot be.
    """
    config = _group(data, group)
    if config.ivar and config.error:
        raise ConfigError("either ivar or error", got="both", where=f"data.spectra.{group}")
    read = _coefficients if _kind(config) == "coefficients" else _gridded
    rows, flux, ivar, has_ivar, counts = read(batch, config)
    counts["masked"] = masked_values(batch, spectrum_columns(config))
    valid = ivar > 0
    if _kind(config) == "coefficients":
        largest = np.abs(flux).max(axis=1, keepdims=True, initial=0.0)  # the squares of 1e-170 would be 0
        share = np.divide(flux, largest, out=np.zeros_like(flux), where=largest > 0)
        scale = largest[:, 0] * np.sqrt(np.square(share).sum(axis=1))  # the norm; masked ones are 0
    else:
        scale = _robust_scale(flux, ivar, has_ivar)
    seen = valid.any(axis=1)
    usable = seen & np.isfinite(scale) & (scale > 0)
    outside = sum(number for reason, number in counts.items() if reason.startswith(OUTSIDE))
    counts["no_valid_pixel"] = int((~seen).sum()) - outside
    counts["no_signal"] = int((seen & ~usable).sum())
    rows, flux, ivar, valid, scale, has_ivar = (x[usable] for x in (rows, flux, ivar, valid, scale, has_ivar))
    counts["no_ivar"] = int((~has_ivar).sum())
    counts["masked_pixels"] = int(valid.size - valid.sum())
    precision = np.where(has_ivar[:, None], np.sqrt(ivar) * scale[:, None], 1.0)
    n, size = batch.num_rows, n_pixels(config)
    result = SpectrumBatch(
        np.zeros((n, size), np.float32),
        np.zeros((n, size), np.float32),
        np.full(n, np.nan),
        np.zeros(n, bool),
        np.zeros(n, bool),
        counts,
    )
    result.flux[rows] = np.where(valid, flux / scale[:, None], 0.0)
    result.precision[rows] = np.where(valid, precision, 0.0)
    result.scale[rows], result.present[rows], result.has_ivar[rows] = scale, True, has_ivar
    return result


def _robust_scale(flux: np.ndarray, ivar: np.ndarray, has_ivar: np.ndarray) -> np.ndarray:
    """Ivar-weighted median of the absolute flux, not below the median noise; ``(n,)``.

    Short gaps are interpolated first: how many pixels are masked must not change the unit of the others. A spectrum
    with less than half of its weight away from 0 takes the mean of its absolute flux. There is no absolute floor:
    fluxes may be of order 1e-18.
    """
    valid = ivar > 0
    flux, ivar = (fill_masked(x, valid, SHORT_GAP) for x in (flux, ivar))
    valid = np.isfinite(ivar) & (ivar > 0)
    scale = masked_median(np.abs(flux), valid, ivar)
    number = np.maximum(valid.sum(axis=1), 1)
    mean = np.abs(flux).sum(axis=1, where=valid) / number
    scale = np.where(scale > 0, scale, mean)
    noise = 1.0 / np.sqrt(np.where(valid.any(axis=1), masked_median(ivar, valid), np.inf))
    return np.where(has_ivar, np.maximum(scale, noise), scale)


def _inverse_variance(error: np.ndarray) -> np.ndarray:
    """``1 / error^2`` in float64 (float32 overflows at errors of 1e-20); 0 for errors that are not positive."""
    error = error.astype(np.float64)
    good = np.isfinite(error) & (error > 0)
    with np.errstate(over="ignore"):
        return _clean_ivar(np.where(good, np.square(1.0 / np.where(good, error, 1.0)), 0.0))


def _clean_ivar(ivar: np.ndarray) -> np.ndarray:
    ivar = ivar.astype(np.float64)
    return np.where(np.isfinite(ivar) & (ivar > 0), ivar, 0.0)


def _impossible(raw: np.ndarray) -> int:
    """How many errors or inverse variances are none; 0 and NaN are how files mask."""
    return int(((raw < 0) | np.isinf(raw)).sum())


Read = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, int]]  # rows (m,), flux, ivar (m, P), has_ivar


def _coefficients(batch: Any, config: SpectrumGroupConfig) -> Read:
    """Vectors of fixed length of the m rows that have one; ivar is 1 where no error is known, 0 where masked."""
    size = n_pixels(config)
    column = batch.column(config.flux)
    flux, present = list_column_to_matrix(column, size, f"column {config.flux}", strict=False)
    rows = np.flatnonzero(present)
    counts = {"length_mismatch": len(present) - column.null_count - len(rows)}
    flux = flux[rows].astype(np.float64)
    good = np.isfinite(flux)
    counts |= {"pixels": int(good.sum()), "invalid_pixels": int((~good).sum())}
    ivar, has_ivar = np.ones_like(flux), np.zeros(len(rows), bool)
    if name := config.error or config.ivar:
        raw, has = list_column_to_matrix(batch.column(name), size, f"column {name}", strict=False)
        has_ivar = has[rows]
        known = _inverse_variance(raw[rows]) if config.error else _clean_ivar(raw[rows])
        counts["bad_ivar"] = _impossible(raw[rows])
        ivar = np.where(has_ivar[:, None], known, 1.0)
    return rows, np.where(good, flux, 0.0), np.where(good, ivar, 0.0), has_ivar, counts


def _like(batch: Any, name: str | None, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A list column laid out like the flux: flat values (NaN where a row differs), has (n,), mismatch (n,)."""
    n, total = len(lengths), int(lengths.sum())
    if not name:
        return np.full(total, np.nan), np.zeros(n, bool), np.zeros(n, bool)
    flat, offsets, has = list_column_ragged(batch.column(name), f"column {name}")
    own = np.diff(offsets)
    mismatch = has & (own != lengths)
    if (own == lengths).all():
        return flat, has, mismatch
    out = np.full(total, np.nan, flat.dtype)
    fits = has & ~mismatch
    out[np.repeat(fits, lengths)] = flat[np.repeat(fits, own)]
    return out, fits, mismatch


def _gridded(batch: Any, config: SpectrumGroupConfig) -> Read:
    """Flux and ivar on the grid of the m rows that can be used; ivar is 1 where none is known, 0 where masked."""
    centres = grid(config)
    flux, offsets, present = list_column_ragged(batch.column(config.flux), f"column {config.flux}")
    lengths = np.diff(offsets)
    raw, has_ivar, mismatch = _like(batch, config.ivar or config.error, lengths)
    wave, has_wave, wrong = _like(batch, config.wave, lengths)
    if config.wave:
        mismatch = present & (mismatch | wrong | ~has_wave)
    else:  # on the grid by definition
        mismatch = present & (mismatch | (lengths != len(centres)))
    counts = {"length_mismatch": int(mismatch.sum())}
    usable = present & ~mismatch
    pixels, rows = np.flatnonzero(np.repeat(usable, lengths)), np.flatnonzero(usable)
    lengths = lengths[usable]
    if config.wave:
        taken, lengths, ordered, found = arrange(wave[pixels], lengths, config.wave_min > 0)
        pixels, rows, lengths, counts = pixels[taken], rows[ordered], lengths[ordered], counts | found
    has_ivar = has_ivar[rows]
    flux, raw, wave = flux[pixels].astype(np.float64), raw[pixels], wave[pixels]
    finite = np.isfinite(flux)
    counts |= {"pixels": int(finite.sum()), "invalid_pixels": int((~finite).sum())}
    known = _inverse_variance(raw) if config.error else _clean_ivar(raw)
    counts["bad_ivar"] = _impossible(raw)
    ivar = np.where(finite, np.where(np.repeat(has_ivar, lengths), known, 1.0), 0.0)
    out_flux, out_ivar = _onto_grid(np.where(finite, flux, 0.0), ivar, wave, lengths, config, counts)
    # without ivar the number of pixels in an average is no precision
    out_ivar[~has_ivar] = out_ivar[~has_ivar] > 0
    return rows, out_flux, out_ivar, has_ivar, counts


def _onto_grid(
    flux: np.ndarray,
    ivar: np.ndarray,
    wave: np.ndarray,
    lengths: np.ndarray,
    config: SpectrumGroupConfig,
    counts: dict[str, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Flat pixels to ``(m, P)``: rows that are on the grid already are copied, the others rebinned."""
    centres = grid(config)
    size = len(centres)
    out_flux, out_ivar = np.zeros((len(lengths), size)), np.zeros((len(lengths), size))
    same = lengths == size
    if config.wave and same.any():
        distance = np.abs(wave[np.repeat(same, lengths)].reshape(-1, size) - centres).max(axis=1)
        same[same] = distance <= ON_GRID * config.wave_step
    pixels = np.repeat(same, lengths)
    out_flux[same], out_ivar[same] = flux[pixels].reshape(-1, size), ivar[pixels].reshape(-1, size)
    counts["rebinned"], counts["pixels_outside"] = int((~same).sum()), 0
    if not same.all():
        starts = np.concatenate([[0], np.cumsum(lengths[~same])])
        out_flux[~same], out_ivar[~same], outside = rebin(
            flux[~pixels], ivar[~pixels], wave[~pixels], starts, config.wave_min, config.wave_step, size
        )
        wholly = (outside > 0) & ~(out_ivar[~same] > 0).any(1)
        counts["pixels_outside"] = int(outside[~wholly].sum())
        if wholly.any():
            seen, row = ivar[~pixels] > 0, np.repeat(np.arange(len(wholly)), lengths[~same])
            low, high = row_ends(wave[~pixels][seen], row[seen], len(wholly))
            counts |= why_outside(low[wholly], high[wholly], config.wave_min, config.wave_max)
    return out_flux, out_ivar
