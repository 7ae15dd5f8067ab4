"""One group of spectra: how its features are made, and the codebook over them, learned from a stream.

Shape legend: n objects, P pixels, p pixels per patch, L patches, C codes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from ..config.schema import SpectrumGroupConfig, SpectrumKind, SpectrumTokenizerConfig
from ..data.spectra import SpectrumBatch
from ..errors import ConfigError
from ..quantizers import Quantizer, Reservoir, build_quantizer, check_dimensions, with_at_most
from .patches import cut, join, n_patches, patch_features
from .sigma import patch_sigma

MIN_ROWS_PER_CODE = 4
MAX_PRECISION = 3.0  # per pixel, in units of the spectrum's scale: where weights in the fit level off
MIN_CODES = 16


@dataclasses.dataclass
class GroupCodec:
    """What is learned for one group: how features are made, and the codebook over them."""

    n_pixels: int
    patch_size: int
    center: np.ndarray  # (P,) subtracted from the normalised flux: 0 for spectra
    spread: np.ndarray  # (P,) the flux is divided by: 1 for spectra
    neutral: float  # log1p(precision) of spectra that come without ivar
    quantizer: Quantizer

    @property
    def length(self) -> int:
        return n_patches(self.n_pixels, self.patch_size)

    @functools.cached_property
    def scales(self) -> tuple[float, ...]:
        """Of each stage: square root of its codebook's total variance, in which errors of its tokens are taken."""
        return tuple(book.scale for book in self.quantizer.codebooks)

    def features(
        self, flux: np.ndarray, precision: np.ndarray, has_ivar: np.ndarray, precision_weight: float
    ) -> np.ndarray:
        """Feature vectors (n, L, 2 p) of normalised spectra (n, P)."""
        raw = patch_features((flux - self.center) / self.spread, precision * self.spread, self.patch_size)
        return weigh(raw, has_ivar, self.neutral, precision_weight)

    def flux(self, entries: np.ndarray) -> np.ndarray:
        """Flux (n, P) float32 in units of each spectrum's scale, from feature vectors (n, L, 2 p)."""
        return join(entries[..., : self.patch_size], self.n_pixels) * self.spread + self.center

    def sigma(self, precision: np.ndarray, has_ivar: np.ndarray, stage: int) -> np.ndarray:
        """Standard errors (n, L) float16 of one stage's tokens, in units of that stage's codebook."""
        return patch_sigma(precision * self.spread, has_ivar, self.patch_size, self.scales[stage])


def weigh(raw: np.ndarray, has_ivar: np.ndarray, neutral: float, precision_weight: float) -> np.ndarray:
    """Turn the precisions in patches (n, L, 2 p) into ``weight * log1p``; the neutral value without ivar; in place."""
    precision = raw[..., raw.shape[-1] // 2 :]
    logs = np.log1p(precision)
    logs[~has_ivar] = np.where(precision[~has_ivar] > 0, np.float32(neutral), 0.0)
    precision[:] = precision_weight * logs
    return raw


def fit_group(
    batches: Iterable[SpectrumBatch],
    group: str,
    group_config: SpectrumGroupConfig,
    config: SpectrumTokenizerConfig,
    seed: int,
) -> tuple[GroupCodec | None, int]:
    """Codec of one group from a stream of batches, and the number of patches seen; None without a spectrum.

    A reservoir of ``quantizer.max_fit_rows`` patches bounds the memory. Codes are at most a quarter of the patches:
    a code that stands for one training patch teaches a transformer nothing.

    Raises:
        ConfigError: the patch size is below 1, or the quantizer is made for vectors of another width.
    """
    patch_size = int(config.patch_sizes.get(group, config.patch_size))
    if patch_size < 1:
        raise ConfigError("a patch_size of 1 or more", got=patch_size, where=f"spectrum group {group}")
    where = f"spectrum group {group}, {patch_size} pixels of flux and precision per patch"
    repair = "use tokenizer/spectrum/quantizer=kmeans, or a codec with as many latent_channels as there are levels"
    check_dimensions(config.quantizer, 2 * patch_size, where, repair)
    sample, n_pixels = None, 0
    for batch in batches:
        seen, n_pixels = batch.present, batch.flux.shape[1]
        if sample is None:  # per row: features, has ivar, position of the patch
            sample = Reservoir(config.quantizer.max_fit_rows, 2 * patch_size + 2, [seed, n_pixels])
        sample.add(_rows(batch.flux[seen], batch.precision[seen], batch.has_ivar[seen], patch_size))
    if sample is None or not len(sample.rows):
        return None, 0
    raw, has_ivar = sample.rows[:, :-2], sample.rows[:, -2] > 0
    position = sample.rows[:, -1].astype(np.int64)
    center, spread = np.zeros(n_pixels, np.float32), np.ones(n_pixels, np.float32)
    if group_config.kind == SpectrumKind.coefficients:
        center, spread = standardisation(raw, position, n_pixels)
        shift, unit = (cut(x[None], patch_size, "edge")[0][position] for x in (center, spread))
        raw = np.concatenate([(raw[:, :patch_size] - shift) / unit, raw[:, patch_size:] * unit], axis=1)
    neutral = _neutral(raw[has_ivar, patch_size:])
    X = weigh(raw[:, None].copy(), has_ivar, neutral, config.precision_weight)[:, 0]
    n_codes = max(MIN_CODES, len(X) // MIN_ROWS_PER_CODE)
    weights = _weights(raw[:, patch_size:], has_ivar) if group_config.kind == SpectrumKind.spectrum else None
    quantizer = build_quantizer(with_at_most(config.quantizer, n_codes), seed).fit(X, weights)
    return GroupCodec(n_pixels, patch_size, center, spread, neutral, quantizer), sample.n_seen


def _weights(precision: np.ndarray, has_ivar: np.ndarray) -> np.ndarray:
    """Weight of each patch in the fit, (n,): its inverse variance, up to a signal-to-noise of ``MAX_PRECISION``.

    Noise is most of the variance of faint spectra; unweighted, it takes most of the codes (docs/decisions.md).
    """
    weights = (np.minimum(precision, MAX_PRECISION).astype(np.float64) ** 2).mean(1)
    known = weights[has_ivar]
    weights[~has_ivar] = known.mean() if len(known) else 1.0  # without ivar: like an average patch
    return np.maximum(weights, 1e-2)


def _rows(flux: np.ndarray, precision: np.ndarray, has_ivar: np.ndarray, patch_size: int) -> np.ndarray:
    """Patches of spectra as rows for the reservoir, (n L, 2 p + 2)."""
    raw = patch_features(flux, precision, patch_size)
    n, length, _ = raw.shape
    known = np.broadcast_to(has_ivar[:, None, None], (n, length, 1))
    position = np.broadcast_to(np.arange(length, dtype=np.float32)[:, None], (n, length, 1))
    return np.concatenate([raw, known, position], axis=2).reshape(n * length, -1)


def _neutral(precision: np.ndarray) -> float:
    """``log1p`` of the median known precision; of 1 where none is known."""
    known = precision[precision > 0]
    return float(np.log1p(np.median(known) if len(known) else 1.0))


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
