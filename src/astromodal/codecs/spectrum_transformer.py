"""Transformer over the patches of a spectrum that are visible, summed up in a few latent tokens.

As in the masked autoencoder of images (He et al. 2022, arXiv:2111.06377), hidden patches are left out of the sequence
before anything is computed on them. The summary is read off G extra tokens (one: the class token), which alone are
computed in the last layer: what becomes of the patches after it is of no use to anybody.

Shapes: B batch, T tokens (patches), p values per patch, G latent tokens, W width, H heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError

POSITION_SCALE = 0.3  # of patches, which positions at full strength drown: training stays at the mean for longer


class Block(nn.Module):
    """Attention and a two-layer network, each on the normalised input and added to it."""

    def __init__(self, width: int, n_heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, n_out: int | None = None) -> Tensor:
        """``(B, L, W)`` to ``(B, n_out, W)``: of the first ``n_out`` positions alone, all of them by default."""
        normed = self.norm1(x)
        if n_out is None:
            q, k, v = self._heads(self.qkv(normed), 3)
        else:
            width = x.shape[-1]
            x, first = x[:, :n_out], normed[:, :n_out]
            (q,) = self._heads(F.linear(first, self.qkv.weight[:width], self.qkv.bias[:width]), 1)
            k, v = self._heads(F.linear(normed, self.qkv.weight[width:], self.qkv.bias[width:]), 2)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate).transpose(1, 2).flatten(2)
        x = x + F.dropout(self.out(mixed), rate, rate > 0)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), rate, rate > 0)

    def _heads(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        """``(B, L, n W)`` to n tensors ``(B, H, L, W / H)``."""
        return x.unflatten(-1, (n, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class SpectrumEncoder(nn.Module):
    """Visible patches to G vectors.

    Args:
        n_tokens: T; patch_size: p.
        n_latents: G.
        missing: learn what an invalid value means; without it all values must be valid.

    Raises:
        ConfigError: a count below 1, or a width that the heads do not divide.
    """

    def __init__(
        self,
        n_tokens: int,
        patch_size: int,
        n_latents: int,
        width: int,
        n_layers: int,
        n_heads: int,
        hidden: int | None = None,
        dropout: float = 0.0,
        missing: bool = True,
    ) -> None:
        super().__init__()
        check_counts(n_tokens=n_tokens, patch_size=patch_size, width=width, n_layers=n_layers, n_heads=n_heads)
        if width % n_heads:
            raise ConfigError(f"a width that {n_heads} heads divide", got=width)
        self.patch_size, self.n_latents = patch_size, n_latents
        self.to_tokens = nn.Linear(patch_size, width)
        self.missing = nn.Linear(patch_size, width, bias=False) if missing else None
        scale = POSITION_SCALE if patch_size > 1 else 1.0  # a single value means nothing without its place
        self.position = nn.Parameter(scale * sinusoids(n_tokens, width))
        places = sinusoids(n_latents, width) * (scale if n_latents == 1 else 1.0)  # one alone has no place
        self.latent_position = nn.Parameter(places + 0.02 * torch.randn(n_latents, width))
        self.blocks = nn.ModuleList(Block(width, n_heads, hidden or 4 * width, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, kept: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        """``x`` (B, T p) to (B, G, W).

        Args:
            valid: ``(B, T p)`` bool: which values to trust; default: all.
            kept: ``(B, T_visible)``: indices of the patches to look at; default: all.
            start: ``(B, G, W)``, what the latent tokens begin with beside their positions; default: nothing.
        """
        if valid is not None:
            x = torch.where(valid, x, 0.0)
        h = self.to_tokens(self._patches(x, kept))
        if self.missing is not None and valid is not None:
            h = h + self.missing(self._patches((~valid).to(x.dtype), kept))
        h = h + (self.position if kept is None else F.embedding(kept, self.position))
        first = self.latent_position.expand(len(x), -1, -1) if start is None else self.latent_position + start
        h = torch.cat([first.to(h.dtype), h], dim=1)
        for block in self.blocks[:-1]:
            h = block(h)
        return self.norm(self.blocks[-1](h, self.n_latents))

    def _patches(self, values: Tensor, kept: Tensor | None) -> Tensor:
        """``(B, T p)`` to the kept patches, ``(B, T_visible, p)``."""
        patches = values.unflatten(1, (-1, self.patch_size))
        if kept is None:
            return patches
        return patches.gather(1, kept[..., None].expand(-1, -1, self.patch_size))


class LatentDecoder(nn.Module):
    """G latent vectors to the pixels under each, after they have seen each other.

    Args:
        latent_channels: Z; pixels: values that one latent vector stands for.
    """

    def __init__(
        self, n_latents: int, latent_channels: int, pixels: int, width: int, n_layers: int, n_heads: int
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(latent_channels, width)
        self.position = nn.Parameter(sinusoids(n_latents, width))
        self.blocks = nn.ModuleList(Block(width, n_heads, 4 * width) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.to_pixels = nn.Linear(width, pixels)
        nn.init.zeros_(self.to_pixels.bias)
        with torch.no_grad():  # first guess near the continuum, which is 0 or 1 in units of a spectrum's scale
            self.to_pixels.weight.mul_(0.1)

    def forward(self, latents: Tensor) -> Tensor:  # (B, G, Z) -> (B, G * pixels)
        h = self.expand(latents) + self.position
        for block in self.blocks:
            h = block(h)
        return self.to_pixels(self.norm(h)).flatten(1)


def sinusoids(n: int, width: int) -> Tensor:
    """Where learned positions begin, ``(n, W)``: sines and cosines of periods from 2 pi to 10^4 (Vaswani et al. 2017).

    A spectrum is smooth, so neighbours should look alike from the first step on.
    """
    rates = torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
    phase = torch.arange(n)[:, None] * rates
    return torch.stack([torch.sin(phase), torch.cos(phase)], dim=-1).flatten(1)[:, :width].clone()


def check_counts(**values: int) -> None:
    """Raise ConfigError unless each value is 1 or more."""
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} of 1 or more", got=value)
