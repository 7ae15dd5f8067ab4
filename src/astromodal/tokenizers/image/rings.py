"""Fluxes of a cutout in rings around its object, one token for each ring and band.

A grid of latents spends its codes on sky and object alike, and the flux of an aperture, a sum over many of them, is
wrong by many times its error. A few numbers say it directly: the flux between the given radii, in each band, as the
level of ``arcsinh(flux / (SOFTENING * error))``, evenly spaced between bounds found in the training cutouts: a small
part of the error where it is faint, some tenths of a per cent where it is bright. The decoded cutout is made to have
these fluxes: each ring is scaled, and what is left of the difference is spread over its pixels.

Pixels that are not valid are those of the decoded grid, so that a band that is missing says nothing.

Shapes: n objects, C bands, S pixels on a side, R rings, K = C * R tokens (band by band).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ...errors import ConfigError
from ...metrics.cutouts import aperture_masks
from ...vocabulary.codebook import Codebook
from ..spectrum.sigma import as_sigma

SOFTENING = 30.0  # errors of a ring's flux at which its scale turns from linear to logarithmic
N_LEVELS = 2048
_BELOW, _ABOVE = 0.5, 2.0  # of the bounds beyond the training cutouts, in arcsinh: 2 are two magnitudes
_SEEN, _FACTOR = 5.0, 2.0  # decoded flux over its error from which a ring is scaled, and by how much at most


class FluxRings:
    """Fluxes of rings to codes and back.

    Args:
        radii: outer radii of the rings, px.
        sigma: usual noise of a pixel in each band ``(C,)``, 0 for one that is not known.
        size: S.
        bounds: of the levels, once fitted; counts: of the levels in training ``(N_LEVELS,)``.

    Raises:
        ConfigError: radii that do not grow, or do not fit into the cutout.
    """

    def __init__(
        self,
        radii: Sequence[float],
        sigma: np.ndarray,
        size: int,
        bounds: tuple[float, float] = (0.0, 1.0),
        counts: np.ndarray | None = None,
    ) -> None:
        edges = [0.0, *map(float, radii)]
        if not all(a < b for a, b in pairwise(edges)) or edges[-1] > size / 2:
            raise ConfigError(
                f"radii that grow, up to {size / 2:g} px", got=list(radii), where="tokenizer.image.flux_radii"
            )
        half = int(np.ceil(edges[-1])) + 1
        self._middle = slice(max(size // 2 - half, 0), size // 2 + half + 1)
        masks = np.diff(aperture_masks(size, radii), axis=0, prepend=0.0)[:, self._middle, self._middle]
        self._masks = masks.astype(np.float32)  # (R, s, s)
        self._inverse = np.linalg.inv(np.einsum("rxy,qxy->rq", masks, masks))
        sigma = np.where(np.asarray(sigma, np.float64) > 0, sigma, 1.0)
        self.error = sigma[:, None] * np.sqrt(np.square(masks).sum((1, 2)))  # (C, R) of the flux
        self.bounds = bounds
        self.counts = np.zeros(N_LEVELS) if counts is None else counts

    @property
    def n_tokens(self) -> int:
        """K."""
        return self.error.size

    @property
    def codebook(self) -> Codebook:
        """The levels ``(N_LEVELS, 1)``."""
        return Codebook(np.linspace(*self.bounds, N_LEVELS, dtype=np.float32)[:, None], self.counts)

    def values(self, flux: np.ndarray, valid: np.ndarray | None = None, other: np.ndarray | None = None) -> np.ndarray:
        """Scaled fluxes ``(n, K)`` float64 of cutouts ``(n, C, S, S)``; ``other``: what stands for invalid pixels."""
        flux = flux[..., self._middle, self._middle]
        if valid is not None and other is not None:
            flux = np.where(valid[..., self._middle, self._middle], flux, other[..., self._middle, self._middle])
        return np.arcsinh(self._fluxes(flux) / (SOFTENING * self.error)).reshape(len(flux), -1)

    def incomplete(self, valid: np.ndarray) -> np.ndarray:
        """Objects ``(n,)`` of which a ring has a pixel that is not valid."""
        return ~np.all(valid[..., self._middle, self._middle], axis=(1, 2, 3))

    def _fluxes(self, middle: np.ndarray) -> np.ndarray:
        """Fluxes ``(n, C, R)`` of the middles of cutouts."""
        flat = middle.reshape(*middle.shape[:2], -1)
        return (flat @ self._masks.reshape(len(self._masks), -1).T).astype(np.float64)

    def fit(self, values: np.ndarray) -> None:
        """Bounds and counts of the levels from scaled fluxes ``(n, K)`` of the training cutouts."""
        self.bounds = float(values.min()) - _BELOW, float(values.max()) + _ABOVE
        self.counts = np.bincount(self.encode(values).ravel(), minlength=N_LEVELS).astype(np.float64)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Codes ``(n, K)`` uint16 of scaled fluxes; beyond the bounds, the last."""
        low, high = self.bounds
        return np.clip(np.rint((values - low) / (high - low) * (N_LEVELS - 1)), 0, N_LEVELS - 1).astype(np.uint16)

    def clipped(self, values: np.ndarray) -> np.ndarray:
        """Bands ``(n, C)`` in which the scaled flux of a ring lies beyond the levels."""
        beyond = (values < self.bounds[0]) | (values > self.bounds[1])
        return np.asarray(beyond.reshape(len(values), *self.error.shape).any(-1))

    def sigma(self, values: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Errors ``(n, K)`` of the tokens in units of the codebook.

        Args:
            noise: variance of the sky noise over its usual one ``(n, C)``; NaN for a band without a valid pixel.
        """
        scaled = values.reshape(len(values), *self.error.shape)
        error = np.sqrt(np.where(np.isnan(noise), np.inf, noise))[..., None] / (
            SOFTENING * np.cosh(scaled) * self.codebook.scale
        )
        return as_sigma(error.reshape(values.shape))

    def applied(self, flux: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Cutouts ``(n, C, S, S)`` whose rings have the fluxes of ``codes (n, K)``."""
        low, high = self.bounds
        levels = low + codes.astype(np.float64) * (high - low) / (N_LEVELS - 1)
        wanted = SOFTENING * self.error * np.sinh(levels.reshape(len(codes), *self.error.shape))
        middle = flux[..., self._middle, self._middle].astype(np.float64)
        has = self._fluxes(middle)
        seen = (has > _SEEN * self.error) & (wanted > 0)
        factor = np.where(seen, np.clip(wanted / np.where(seen, has, 1.0), 1 / _FACTOR, _FACTOR), 1.0)
        middle *= 1.0 + np.einsum("ncr,rxy->ncxy", factor - 1.0, self._masks)
        missing = (wanted - self._fluxes(middle)) @ self._inverse
        result = flux.copy()
        result[..., self._middle, self._middle] = middle + np.einsum("ncr,rxy->ncxy", missing, self._masks)
        return result

    def state(self) -> dict[str, Any]:
        """What was fitted, as tensors and plain values."""
        return {"bounds": list(self.bounds), "counts": torch.from_numpy(self.counts)}
