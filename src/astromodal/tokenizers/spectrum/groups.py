"""One group of spectra: how its features are made and weighted, and the codebook over them, learned from a stream.

Spectra whose noise is known are smoothed as far as it lets them be (:mod:`.denoise`) before they are cut into patches;
coefficients, which have no neighbours, are drawn towards their mean as their errors ask for (Wiener).
A pixel counts in a code's choice and in its entry by its inverse variance, in units of the spectrum's scale, up to
where the noise no longer matters (:func:`.patches.pixel_weights`); a masked or padded one does not count at all.

Shape legend: n objects, P pixels, p pixels per patch, L patches, C codes, D numbers of a patch.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from ...config.checks.levels import patch_width
from ...config.schema import SpectrumGroupConfig, SpectrumKind, SpectrumTokenizerConfig
from ...data.spectra import SpectrumBatch
from ...errors import ConfigError
from ...machine.random import keyed_words
from ...quantizers import Quantizer, Sample, build_quantizer, check_dimensions, with_at_most
from .denoise import denoise
from .patches import cut, join, n_patches, patch_features, pixel_weights
from .sigma import patch_sigma

MIN_ROWS_PER_CODE = 4
MIN_CODES = 16
MIN_SIGNAL = 0.02  # of the variance of a coefficient: so much is taken for true, however noisy all are


@dataclasses.dataclass
class GroupCodec:
    """What is learned for one group: how features are made, and the codebook over them."""

    n_pixels: int
    patch_size: int
    center: np.ndarray  # (P,) subtracted from the normalised flux: 0 for spectra
    spread: np.ndarray  # (P,) the flux is divided by: 1 for spectra
    neutral: float  # precision that pixels of spectra without ivar count as
    precision_weight: float  # of log1p(precision) beside the flux; 0: flux alone
    false_features: float  # that noise may leave per width in a spectrum (:mod:`.denoise`); 0: nothing is smoothed
    quantizer: Quantizer
    signal: np.ndarray  # (P,) variance of the true coefficients in units of ``spread`` squared; inf: nothing is shrunk
    linear: ClassVar[bool] = True  # the flux is linear in the entries

    @property
    def length(self) -> int:
        return n_patches(self.n_pixels, self.patch_size)

    @functools.cached_property
    def scales(self) -> tuple[float, ...]:
        """Of each stage: square root of its codebook's total variance, in which errors of its tokens are taken."""
        return tuple(book.scale for book in self.quantizer.codebooks)

    def clean(self, batch: SpectrumBatch) -> Clean:
        """What is coded of the spectra of a batch, all of them present."""
        clean = cleaned(batch, self.false_features)
        if np.isfinite(self.signal).any():
            kept = kept_share(clean.precision * self.spread, clean.has_ivar[:, None], self.signal)
            clean.flux = self.center + kept * (clean.flux - self.center)
            clean.variance = clean.variance * np.square(kept)
        return clean

    def features(self, clean: Clean) -> tuple[np.ndarray, np.ndarray]:
        """Feature vectors (n, L, D), and the weight of each number."""
        raw = patch_features((clean.flux - self.center) / self.spread, clean.precision * self.spread, self.patch_size)
        return weighted_vectors(raw, clean.has_ivar, self.neutral, self.precision_weight)

    def flux(self, entries: np.ndarray) -> np.ndarray:
        """Flux (n, P) float32 in units of each spectrum's scale, from feature vectors (n, L, D)."""
        return join(entries[..., : self.patch_size], self.n_pixels) * self.spread + self.center

    def sigma(self, clean: Clean, stage: int, codes: np.ndarray | None = None) -> np.ndarray:
        """Standard errors (n, L) float16 of one stage's tokens, in units of its codebook, whatever the codes."""
        precision, variance = clean.precision * self.spread, clean.variance / np.square(self.spread)
        return patch_sigma(precision, clean.has_ivar, self.patch_size, self.scales[stage], variance)


@dataclasses.dataclass
class Clean:
    """Spectra (n, P) as they are coded, in units of their scales."""

    flux: np.ndarray  # without what noise may have put there
    precision: np.ndarray  # of the pixels as observed: what they weigh
    variance: np.ndarray  # of the noise that is left in ``flux``
    has_ivar: np.ndarray  # (n,)


def cleaned(batch: SpectrumBatch, false_features: float) -> Clean:
    """Spectra of a batch, smoothed where their noise is known; with 0 ``false_features`` as they are."""
    valid = (batch.precision > 0) & np.isfinite(batch.flux)
    flux, precision = batch.flux.copy(), np.where(valid, batch.precision, np.float32(0))
    variance = np.divide(1.0, np.square(precision, dtype=np.float64), out=np.full(flux.shape, np.inf), where=valid)
    known = np.flatnonzero(batch.has_ivar)
    if false_features and len(known):
        smooth, left = denoise(flux[known], precision[known], false_features)
        flux[known] = np.where(valid[known], smooth, flux[known])
        variance[known] = left
    return Clean(flux, precision, variance, batch.has_ivar)


def kept_share(precision: np.ndarray, has_ivar: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """What is kept of how far coefficients are from their means: signal over signal and noise, float32; 1 if unknown.

    Args:
        precision: 1 / error in units of the coefficients' spreads, 0 where masked.
        signal: variance of the true ones in these units.
    """
    known = (precision > 0) & has_ivar & np.isfinite(signal)
    ratio = np.square(precision, dtype=np.float64) * np.where(np.isfinite(signal), signal, 1.0)
    return np.where(known, ratio / (1.0 + ratio), 1.0).astype(np.float32)


def weighted_vectors(
    raw: np.ndarray, has_ivar: np.ndarray, neutral: float, precision_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Feature vectors (…, D) and the weights of their numbers, from fluxes and precisions in patches (…, 2 p).

    Args:
        has_ivar: leading axes of ``raw``, or its first; valid pixels without ivar have the precision ``neutral``.
    """
    flux, precision = np.split(raw, 2, axis=-1)
    known = has_ivar.reshape(has_ivar.shape + (1,) * (raw.ndim - has_ivar.ndim))
    precision = np.where(known, precision, np.where(precision > 0, np.float32(neutral), np.float32(0)))
    weights = pixel_weights(precision)
    if not precision_weight:
        return np.ascontiguousarray(flux), weights
    logs = np.float32(precision_weight) * np.log1p(precision)
    return np.concatenate([flux, logs], axis=-1), np.concatenate([weights, weights], axis=-1)


class PatchSample:
    """A uniform sample of the patches of a group's spectra, ``quantizer.max_fit_rows`` at most.

    It is that of all parts of the survey if the samples of the parts are merged, in whatever order.
    """

    def __init__(self, group: str, group_config: SpectrumGroupConfig, config: SpectrumTokenizerConfig) -> None:
        self.patch_size = patch_size_of(group, config)
        # coefficients have no neighbours
        self.smoothed = config.denoise if group_config.kind == SpectrumKind.spectrum else 0.0
        self.n_pixels = 0
        # per row: flux and precision, has ivar, position of the patch
        self.sample = Sample(config.quantizer.max_fit_rows, 2 * self.patch_size + 2)

    def add(self, batch: SpectrumBatch, ids: np.ndarray, seed: int) -> None:
        """Offer a batch, with the hashes (n,) of the objects' ids."""
        self.n_pixels = batch.flux.shape[1]
        clean = cleaned(batch.only(batch.present), self.smoothed)
        rows = _rows(clean.flux, clean.precision, clean.has_ivar, self.patch_size)
        positions = np.arange(n_patches(self.n_pixels, self.patch_size))
        self.sample.add(rows, keyed_words(seed, ids[batch.present][:, None], positions).reshape(-1))

    def merge(self, other: PatchSample) -> None:
        """Take in the sample of another part."""
        self.n_pixels = self.n_pixels or other.n_pixels
        self.sample.merge(other.sample)


def patch_size_of(group: str, config: SpectrumTokenizerConfig) -> int:
    """Pixels per patch of a group."""
    return int(config.patch_sizes.get(group, config.patch_size))


def check_group(group: str, config: SpectrumTokenizerConfig) -> None:
    """Refuse what cannot be fitted, before anything is read.

    Raises:
        ConfigError: the patch size is below 1, or the quantizer is made for vectors of another width.
    """
    patch_size = patch_size_of(group, config)
    if patch_size < 1:
        raise ConfigError("a patch_size of 1 or more", got=patch_size, where=f"spectrum group {group}")
    of = "flux and precision" if config.precision_weight else "flux"
    where = f"spectrum group {group}, {patch_size} pixels of {of} per patch"
    repair = "use tokenizer/spectrum/quantizer=kmeans, or a codec with as many latent_channels as there are levels"
    check_dimensions(config.quantizer, patch_width(patch_size, config.precision_weight), where, repair)


def fit_group(
    drawn: PatchSample, group_config: SpectrumGroupConfig, config: SpectrumTokenizerConfig, seed: int
) -> tuple[GroupCodec | None, int]:
    """Codec of one group from a sample of its patches, and the number of patches seen; None without a spectrum.

    Codes are at most a quarter of the patches: a code that stands for one training patch teaches a transformer nothing.
    """
    if not drawn.sample.n_seen:
        return None, 0
    patch_size, n_pixels, rows = drawn.patch_size, drawn.n_pixels, drawn.sample.rows
    raw, has_ivar, position = rows[:, :-2], rows[:, -2] > 0, rows[:, -1].astype(np.int64)
    center, spread = np.zeros(n_pixels, np.float32), np.ones(n_pixels, np.float32)
    signal = np.full(n_pixels, np.inf, np.float32)
    if group_config.kind == SpectrumKind.coefficients:
        center, spread = standardisation(raw, position, n_pixels)
        shift, unit = (cut(x[None], patch_size, "edge")[0][position] for x in (center, spread))
        flux, precision = (raw[:, :patch_size] - shift) / unit, raw[:, patch_size:] * unit
        if config.denoise:
            signal = true_variance(flux, np.where(has_ivar[:, None], precision, 0.0), position, n_pixels)
            own = cut(signal[None], patch_size, "edge")[0][position]
            flux = flux * kept_share(precision, has_ivar[:, None], own)
        raw = np.concatenate([flux, precision], axis=1)
    neutral = usual_precision(raw[has_ivar, patch_size:])
    X, weights = weighted_vectors(raw, has_ivar, neutral, config.precision_weight)
    n_codes = max(MIN_CODES, len(X) // MIN_ROWS_PER_CODE)
    quantizer = build_quantizer(with_at_most(config.quantizer, n_codes), seed).fit(X, weights)
    learned = (center, spread, neutral, config.precision_weight, drawn.smoothed, quantizer, signal)
    return GroupCodec(n_pixels, patch_size, *learned), drawn.sample.n_seen


def _rows(flux: np.ndarray, precision: np.ndarray, has_ivar: np.ndarray, patch_size: int) -> np.ndarray:
    """Patches of spectra as rows for the sample, (n L, 2 p + 2)."""
    raw = patch_features(flux, precision, patch_size)
    n, length, _ = raw.shape
    known = np.broadcast_to(has_ivar[:, None, None], (n, length, 1))
    position = np.broadcast_to(np.arange(length, dtype=np.float32)[:, None], (n, length, 1))
    return np.concatenate([raw, known, position], axis=2).reshape(n * length, -1)


def usual_precision(precision: np.ndarray) -> float:
    """Median known precision; 1 where none is known."""
    known = precision[precision > 0]
    return float(np.median(known)) if len(known) else 1.0


def true_variance(flux: np.ndarray, precision: np.ndarray, position: np.ndarray, n_pixels: int) -> np.ndarray:
    """Variance (P,) float32 of the true standardised coefficients: that of the observed ones without their noise.

    Patches weigh less the noisier they are; inf where no error is known.

    Args:
        flux, precision: ``(rows, p)`` patches at their positions (rows,); precision 0 where unknown.
    """
    patch_size, signal = flux.shape[1], np.full(n_pixels, np.inf, np.float32)
    known = precision > 0
    noise = np.divide(1.0, np.square(precision, dtype=np.float64), out=np.ones(precision.shape), where=known)
    weight = np.where(known, 1.0 / np.square(1.0 + noise), 0.0)
    excess = weight * (np.square(np.clip(flux, -5, 5)) - noise)
    for index in np.unique(position):  # over patch positions, a handful
        mine, place = position == index, slice(index * patch_size, min((index + 1) * patch_size, n_pixels))
        n = place.stop - place.start
        total, mass = excess[mine, :n].sum(0), weight[mine, :n].sum(0)
        signal[place] = np.where(mass > 0, np.maximum(total / np.maximum(mass, 1e-30), MIN_SIGNAL), np.inf)
    return signal


def standardisation(raw: np.ndarray, position: np.ndarray, n_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Robust mean and standard deviation (P,) of each coefficient from patches (rows, 2 p) at their positions.

    Values beyond five robust deviations (1.4826 MAD) of the median are clipped before the moments are taken.
    """
    patch_size = raw.shape[1] // 2
    center, spread = np.zeros(n_pixels, np.float32), np.ones(n_pixels, np.float32)
    for index in np.unique(position):  # over patch positions, a handful
        flux = raw[position == index, :patch_size].astype(np.float64)
        valid = raw[position == index, patch_size:] > 0
        flux = np.where(valid, flux, np.nan)[:, : n_pixels - index * patch_size]
        for k in np.flatnonzero(np.isfinite(flux).any(0)):
            values = flux[np.isfinite(flux[:, k]), k]
            median = np.median(values)
            reach = 5 * 1.4826 * np.median(np.abs(values - median))
            values = np.clip(values, median - reach, median + reach) if reach > 0 else values
            pixel = index * patch_size + k
            center[pixel], spread[pixel] = values.mean(), values.std() or 1.0
    return center, spread
