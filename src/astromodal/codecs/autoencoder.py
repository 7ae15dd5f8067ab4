"""Convolutional autoencoder of cutouts: C x S x S pixels to 2 x S/4 x S/4 latents and back, in patches of 4 pixels.

Laid out like the image tokenizer of AION-1 (Parker et al. 2025): spatial latents, one per patch of 4 x 4 pixels, so
that tokens keep their place on the sky. A patchify stem (pixel-unshuffle and a 1 x 1 convolution) does all further
work at S/4, where a convolution costs a sixteenth. The stem sees, beside the pixels, which share of each patch and
band is invalid: a missing band is thus not mistaken for empty sky.

Latents are bounded by tanh and get Gaussian noise in training. Together these are a channel of limited capacity: the
encoder has to spread what matters over [-1, 1] and cannot hide detail in digits that k-means with 2048 codes in the
plane (cells of about 2 / sqrt(2048) = 0.044) would throw away.

Shapes: B batch, C bands, S pixels on a side, Z latent channels, G = S / 4, W width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Codec

if TYPE_CHECKING:
    from ..config.schema import AutoencoderConfig

PATCH = 4  # pixels per latent position and direction, where no other patch is asked for
LATENT_NOISE = 0.02  # standard deviation, about half a cell of 2048 codes


def zero_bias(layer: nn.Conv1d | nn.Conv2d) -> None:
    """Begin without an offset."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))))))``, convolutions over 3 (x 3) positions; starts as the identity."""

    def __init__(self, width: int, convolution: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        groups = math.gcd(8, width)
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = convolution(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = convolution(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        zero_bias(self.conv2)

    def forward(self, x: Tensor) -> Tensor:  # (B, W, *grid) -> (B, W, *grid)
        x1 = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(x1)))


class Autoencoder(Codec):
    """The codec ``autoencoder``.

    Args:
        config: ``latent_channels``, ``width``, ``n_blocks``.
        array_shape: ``(C, S, S)``, S a multiple of the patch.
        patch: pixels per latent position and direction; default: ``config.patch_size``, which in the configurations of
            other codecs is that of spectra.

    Raises:
        ConfigError: the size is no multiple of the patch, or a count is below 1.
    """

    name = "autoencoder"

    def __init__(self, config: AutoencoderConfig, array_shape: tuple[int, ...], patch: int | None = None) -> None:
        super().__init__()
        n_bands, _, size = array_shape
        self.patch = patch = int(config.patch_size if patch is None else patch)
        if patch < 1 or size % patch or size < patch:
            raise ConfigError(
                f"cutouts whose size is a multiple of {patch}", got=size, where="data.images.size", repair="cut them"
            )
        for key, value in (("width", config.width), ("latent_channels", config.latent_channels), ("n_bands", n_bands)):
            if value < 1:
                raise ConfigError(f"{key} of 1 or more", got=value, where=f"tokenizer.image.codec.{key}")
        self.config, self.array_shape = config, array_shape
        width, pixels = config.width, n_bands * patch**2
        self.stem = nn.Conv2d(pixels + n_bands, width, 1)
        self.encoder = nn.Sequential(*(ResidualBlock(width) for _ in range(config.n_blocks)))
        self.to_latents = nn.Conv2d(width, config.latent_channels, 1)
        self.from_latents = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.decoder = nn.Sequential(*(ResidualBlock(width) for _ in range(config.n_blocks)))
        self.norm = nn.GroupNorm(math.gcd(8, width), width)
        self.to_pixels = nn.Conv2d(width, pixels, 1)
        zero_bias(self.to_pixels)
        with torch.no_grad():  # first guess near the sky level, where most pixels are
            self.to_pixels.weight.mul_(0.1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.array_shape[-1] // self.patch
        return self.config.latent_channels, side, side

    def encode(self, x: Tensor, valid: Tensor) -> Tensor:
        """``x`` and ``valid`` ``(B, C, S, S)`` to latents ``(B, Z, G, G)`` in (-1, 1)."""
        return torch.tanh(self.to_latents(self.features(x, valid)))

    def features(self, x: Tensor, valid: Tensor) -> Tensor:
        """``x`` and ``valid`` ``(B, C, S, S)`` to what latents are read from, ``(B, W, G, G)``."""
        invalid = F.avg_pool2d((~valid.bool()).to(x.dtype), self.patch)  # (B, C, G, G), 0 where all is well
        x = torch.where(valid.bool(), x, torch.zeros((), dtype=x.dtype, device=x.device))  # also stops NaN
        patches = torch.cat([F.pixel_unshuffle(x, self.patch), invalid], dim=1)
        patches = patches.contiguous(memory_format=torch.channels_last)
        return self.encoder(self.stem(patches))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, Z, G, G)`` to ``(B, C, S, S)``."""
        x = self.decoder(self.from_latents(latents.contiguous(memory_format=torch.channels_last)))
        return F.pixel_shuffle(self.to_pixels(F.silu(self.norm(x))), self.patch)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Reconstruction; in training mode through noisy latents."""
        latents = self.encode(x, valid)
        if self.training:
            latents = latents + LATENT_NOISE * torch.randn_like(latents)
        return self.decode(latents)
