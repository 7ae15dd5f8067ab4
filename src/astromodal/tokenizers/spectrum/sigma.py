"""How far noise may have moved the target of a token: its standard error in units of its codebook.

Codebooks are compared in units of their own spread (``core/codebook.py``): the total variance of the training objects'
codes is 1. In these units ``sigma`` is the standard error of what was tokenised, so sigma^2 is noise variance over
signal variance, for any column and any group of spectra, and 1 means "as uncertain as the population is wide".

Scalars: the catalogue's error, carried through the column's transform. Spectra: the noise that is left in all flux
features of a patch together, weighted as they are in the choice of the code. It belongs to the observation, not to the
code: a code is the mean of many patches, so this is an upper bound of what noise does to the target. 0 stands for
"exact": no error is known, or none that can be used.

Latents of a network: what noise does to them is found out by adding it once more to a sample of the training objects
(:class:`NoiseGain`), per code, as a network may answer to noise on a bright object in another way than to noise on sky.

Shapes: n objects, c columns, P pixels, p pixels per patch, L patches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...config.schema import ScalarConfig
from ...data.scalars import ScalarBatch, transform_error
from .patches import cut, pixel_weights

MAX_SIGMA = 100.0  # a target this uncertain says nothing: 10^4 times less weight than an exact one


def as_sigma(sigma: np.ndarray) -> np.ndarray:
    """Errors as they are stored: float16, at most ``MAX_SIGMA``, 0 where they are no positive number.

    >>> as_sigma(np.array([0.25, -1.0, np.nan, np.inf])).tolist()
    [0.25, 0.0, 0.0, 100.0]
    """
    return np.where(sigma > 0, np.minimum(sigma, MAX_SIGMA), 0.0).astype(np.float16)


def scalar_sigma(
    batch: ScalarBatch, configs: Mapping[str, ScalarConfig], scale: np.ndarray, present: np.ndarray
) -> np.ndarray:
    """Errors (n, c) of the columns' tokens.

    An error above ``max_error`` is not believed, but the value is at least so uncertain: ``max_error`` takes its place.

    Args:
        scale: standard deviation of each column in its transformed space, (c,).
        present: which tokens there are, (n, c); others have no error.
    """
    sigma = np.zeros(batch.values.shape, dtype=np.float64)
    for j, config in enumerate(configs.values()):
        errors = batch.errors[:, j].astype(np.float64)
        if batch.uncertain is not None and config.max_error is not None:
            errors = np.where(batch.uncertain[:, j], config.max_error, errors)
        sigma[:, j] = transform_error(batch.values[:, j].astype(np.float64), errors, config) / scale[j]
    return as_sigma(np.where(present, sigma, 0.0))


def patch_sigma(
    precision: np.ndarray, has_ivar: np.ndarray, patch_size: int, scale: float, variance: np.ndarray | None = None
) -> np.ndarray:
    """Errors (n, L) of the tokens of spectra with ``precision`` (n, P) in the units of the flux features.

    The noise variances of a patch are averaged by the weights that its pixels have in the choice of the code, and
    multiplied by their number: a pixel that hardly counts moves no token, however noisy it is. Masked and padded
    pixels, whose flux is that of the code, are taken as noisy as the others. A patch without a valid pixel is filled
    from other patches: ``MAX_SIGMA``. Spectra without ivar have no known noise: 0.

    Args:
        variance: of the noise that is left in what is coded (n, P); default 1 / precision^2.
    """
    weights = pixel_weights(precision.astype(np.float64))
    valid, none = weights > 0, np.zeros(weights.shape)
    if variance is None:
        variance = np.divide(1.0, np.square(precision, dtype=np.float64), out=none.copy(), where=valid)
    noise = np.multiply(weights, variance, out=none, where=valid)
    noise, weights = cut(noise, patch_size, 0.0).sum(2), cut(weights, patch_size, 0.0).sum(2)
    mean = np.divide(noise * patch_size, weights, out=np.full(noise.shape, np.inf), where=weights > 0)
    sigma = np.where(has_ivar[:, None], np.sqrt(mean) / scale, 0.0)
    return as_sigma(np.where(weights > 0, sigma, MAX_SIGMA))


class NoiseGain:
    """How much a latent vector moves when what it is made of is noisy: per code, from draws of the noise.

    The gain of a code is the mean, over the vectors with this code, of the squared change over the noise variance of
    their pixels; a rare code's is drawn to that of all (as by ``_PRIOR`` more vectors).
    """

    _PRIOR = 8.0

    def __init__(self, n_codes: int) -> None:
        self._sum, self._n = np.zeros(n_codes), np.zeros(n_codes)

    def add(self, codes: np.ndarray, change: np.ndarray, noise: np.ndarray) -> None:
        """Vectors by their codes ``(m,)``: squared length of their change, and the variance of the noise that was added
        to their pixels; what is not finite does not count."""
        used = np.isfinite(change) & np.isfinite(noise) & (noise > 0)
        n_codes = len(self._n)
        self._sum += np.bincount(codes[used], change[used] / noise[used], n_codes)
        self._n += np.bincount(codes[used], minlength=n_codes)

    def per_code(self) -> np.ndarray:
        """``(C,)`` float32; all 0, unknown, without any vector."""
        of_all = self._sum.sum() / max(self._n.sum(), 1)
        return ((self._sum + self._PRIOR * of_all) / (self._n + self._PRIOR)).astype(np.float32)


def latent_sigma(gain: np.ndarray | None, codes: np.ndarray, noise: np.ndarray, scale: float) -> np.ndarray:
    """Errors ``(n, L)`` of tokens of a stage whose codebook has this ``scale``; 0, unknown, without gains.

    Args:
        gain: of :meth:`NoiseGain.per_code`, of the first stage's codes.
        codes: of the first stage, ``(n, L)``.
        noise: variance of the pixels' noise, ``(n, L)``; NaN where it is not known, inf where nothing was observed.
    """
    if gain is None:
        return np.zeros(codes.shape, np.float16)
    noise = np.broadcast_to(noise, codes.shape)
    sigma = np.sqrt(gain[codes] * np.where(np.isinf(noise), np.nan, noise)) / scale
    return as_sigma(np.where(np.isinf(noise), MAX_SIGMA, sigma))
