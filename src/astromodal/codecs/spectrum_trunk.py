"""Encoder and decoder of spectra between patches of pixels and features on a line: what 1-D codecs can share.

A patchify stem (one linear map of each patch) does all further work at P / patch_size positions; residual blocks let
neighbouring patches see each other. As with cutouts, the stem also gets the share of each patch that is invalid.

Shapes: B batch, C channels, P pixels, L = ceil(P / patch_size) positions, Z latent channels, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .autoencoder import ResidualBlock, zero_bias


class SpectrumTrunk(nn.Module):
    """``features``, ``to_latents`` and ``decode``, as :class:`~astromodal.codecs.autoencoder.Autoencoder` has them.

    Args:
        array_shape: ``(C, P)``; the last patch is filled up with invalid pixels.
        patch_size: pixels per latent position; a shorter spectrum is one patch, so that one setting serves all groups.

    Raises:
        ConfigError: a size below 1.
    """

    def __init__(self, array_shape: tuple[int, ...], patch_size: int, width: int, latents: int, n_blocks: int) -> None:
        super().__init__()
        n_channels, self.n_pixels = array_shape
        for key, value in (("width", width), ("latent_channels", latents), ("patch_size", patch_size)):
            if value < 1:
                raise ConfigError(f"{key} of 1 or more", got=value, where=f"tokenizer.spectrum.codec.{key}")
        self.patch_size, self.n_latents = min(patch_size, self.n_pixels), latents
        self.length = -(-self.n_pixels // self.patch_size)
        pixels = n_channels * self.patch_size
        self.stem = nn.Conv1d(pixels + n_channels, width, 1)
        self.encoder = nn.Sequential(*(ResidualBlock(width, nn.Conv1d) for _ in range(n_blocks)))
        self.to_latents = nn.Conv1d(width, latents, 1)
        self.from_latents = nn.Conv1d(latents, width, 3, padding=1)
        self.decoder = nn.Sequential(*(ResidualBlock(width, nn.Conv1d) for _ in range(n_blocks)))
        self.norm = nn.GroupNorm(math.gcd(8, width), width)
        self.to_pixels = nn.Conv1d(width, pixels, 1)
        zero_bias(self.to_pixels)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """``(Z, L)``."""
        return self.n_latents, self.length

    def _patches(self, x: Tensor) -> Tensor:
        """``(B, C, P)`` to ``(B, C, patch_size, L)``, filled up with 0."""
        x = F.pad(x, (0, self.length * self.patch_size - self.n_pixels))
        return x.unflatten(-1, (self.length, self.patch_size)).transpose(-1, -2)

    def features(self, x: Tensor, valid: Tensor) -> Tensor:
        """``x`` and ``valid`` ``(B, C, P)`` to what latents are read from, ``(B, W, L)``."""
        valid = valid.bool()
        x = torch.where(valid, x, torch.zeros((), dtype=x.dtype, device=x.device))  # also stops NaN
        invalid = 1.0 - self._patches(valid.to(x.dtype)).mean(2)  # (B, C, L)
        return self.encoder(self.stem(torch.cat([self._patches(x).flatten(1, 2), invalid], dim=1)))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, Z, L)`` to ``(B, C, P)``."""
        x = self.to_pixels(F.silu(self.norm(self.decoder(self.from_latents(latents)))))  # (B, C * patch_size, L)
        x = x.unflatten(1, (-1, self.patch_size)).transpose(-1, -2).flatten(-2)
        return x[..., : self.n_pixels]
