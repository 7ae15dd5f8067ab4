"""Masked autoencoder of spectra: P pixels to L latent vectors, one per ``pixels_per_latent`` pixels, and back.

The encoder is a transformer over patches. A latent token begins as a linear map of the pixels it stands for, so that
this is an autoencoder of patches from the first step on, and sees the whole spectrum, so that it need not repeat what
its neighbours say. In training some blocks are hidden from the encoder and asked of the decoder: redshifted lines and
the slope of the continuum have to be understood, and gaps in real spectra are nothing new. ``visible_weight`` is
what an error at a visible pixel counts beside one at a hidden pixel: 0 is the usual objective of a masked
autoencoder, 1 (the default here) suits a tokenizer, which has to give back what it was shown.

Latents are bounded by tanh and get Gaussian noise in training, a channel of limited capacity: the encoder cannot hide
detail in digits that a quantizer would throw away (as in :mod:`.autoencoder`).

Pixels beyond the end, which only fill up the last block, count as invalid. Large values are compressed before the
encoder sees them (``COMPRESSION * asinh(x / COMPRESSION)``), so that a cosmic ray does not drown a spectrum.

Shapes: B batch, P pixels, L latent positions, Z latent channels, N blocks, T tokens of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..models.trainable import Batch
from .base import Codec
from .masking import hidden_blocks, visible_mask, visible_tokens
from .reconstruction import ReconstructionObjective
from .spectrum_transformer import LatentDecoder, SpectrumEncoder, check_counts

if TYPE_CHECKING:
    from ..config.schema import MaskedAutoencoderConfig
    from ..models.trainable import Objective

PIXELS_PER_LATENT = 32  # where neither the codec nor the group of spectra says another number
COMPRESSION = 10.0  # in units of a spectrum's scale: below it the encoder sees values as they are


class MaskedAutoencoder(Codec):
    """The codec ``masked_autoencoder``.

    Args:
        config: see :class:`~astromodal.config.schema.codecs.MaskedAutoencoderConfig`.
        array_shape: ``(1, P)``.

    Raises:
        ConfigError: more than one channel, a count below 1, more hidden blocks than blocks, or a width that the heads
            do not divide.
    """

    name = "masked_autoencoder"

    def __init__(self, config: MaskedAutoencoderConfig, array_shape: tuple[int, ...]) -> None:
        super().__init__()
        n_channels, n_pixels = array_shape
        if n_channels != 1:
            raise ConfigError("spectra of one channel", got=n_channels, where="the codec masked_autoencoder")
        self.config, self.array_shape = config, array_shape
        per_latent = PIXELS_PER_LATENT if config.pixels_per_latent is None else config.pixels_per_latent
        check_counts(pixels=n_pixels, pixels_per_latent=per_latent, latent_channels=config.latent_channels)
        check_counts(patch_size=config.patch_size, n_blocks=config.n_blocks)
        if not 0 <= config.n_mask < config.n_blocks:
            raise ConfigError(f"n_mask from 0 to below n_blocks = {config.n_blocks}", got=config.n_mask)
        n_latents = -(-n_pixels // per_latent)
        patch = largest_divisor(per_latent, config.patch_size)
        n_tokens = -(-n_pixels // patch)
        self.n_blocks = min(config.n_blocks, n_tokens)
        self.n_mask = config.n_mask * self.n_blocks // config.n_blocks
        self.tokens_per_block = -(-n_tokens // self.n_blocks)
        n_tokens = self.n_blocks * self.tokens_per_block
        self.block_size = self.tokens_per_block * patch
        self.padding = n_tokens * patch - n_pixels
        self.encoder = SpectrumEncoder(n_tokens, patch, n_latents, config.width, config.n_layers, config.n_heads)
        self.per_latent = per_latent
        self.own_pixels = torch.nn.Linear(2 * per_latent, config.width)
        self.to_latents = torch.nn.Linear(config.width, config.latent_channels)
        self.decoder = LatentDecoder(
            n_latents, config.latent_channels, per_latent, config.width, config.decoder_layers, config.n_heads
        )

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self.config.latent_channels, self.encoder.n_latents

    def encode(self, x: Tensor, valid: Tensor, hidden: Tensor | None = None) -> Tensor:
        """``x`` and ``valid`` ``(B, 1, P)`` to latents ``(B, Z, L)``, without a look at ``hidden`` (B, N)."""
        valid = F.pad(valid.bool().squeeze(1), (0, self.padding))  # (B, T p), False at the end
        x = torch.where(valid, F.pad(x.squeeze(1), (0, self.padding)), 0.0)  # also stops NaN
        x = COMPRESSION * torch.asinh(x / COMPRESSION)
        seen = valid if hidden is None else valid & visible_mask(hidden, self.block_size)
        kept = None if hidden is None else visible_tokens(hidden, self.n_mask, self.tokens_per_block)
        summary = self.encoder(x, valid, kept, self._start(x, seen))
        return torch.tanh(self.to_latents(summary)).transpose(1, 2)

    def _start(self, x: Tensor, seen: Tensor) -> Tensor:
        """What each latent token begins with, (B, L, W): a linear map of the pixels it stands for, as far as seen."""
        fill = (0, max(0, self.encoder.n_latents * self.per_latent - x.shape[1]))
        pixels = F.pad(torch.where(seen, x, 0.0), fill)[:, : self.encoder.n_latents * self.per_latent]
        unseen = 1.0 - F.pad(seen.to(x.dtype), fill)[:, : pixels.shape[1]]
        both = [values.unflatten(1, (-1, self.per_latent)) for values in (pixels, unseen)]
        return self.own_pixels(torch.cat(both, dim=2))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, Z, L)`` to ``(B, 1, P)``."""
        return self.decoder(latents.transpose(1, 2))[:, None, : self.array_shape[1]]

    def forward(self, x: Tensor, valid: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Reconstruction; in training mode through noisy latents."""
        latents = self.encode(x, valid, hidden)
        if self.training:
            latents = latents + self.config.latent_noise * torch.randn_like(latents)
        return self.decode(latents)

    def visible(self, hidden: Tensor) -> Tensor:
        """Which pixels (B, P) are visible when blocks (B, N) are hidden."""
        return visible_mask(hidden, self.block_size)[:, : self.array_shape[1]]

    def objective(self, channels: Sequence[str]) -> Objective:
        return MaskedObjective(self, channels)


class MaskedObjective(ReconstructionObjective):
    """Weighted squared error with hidden blocks; validation sees everything, as the tokenizer will.

    Masks are a function of the seed that torch had when the objective was made, the step and ``row`` (B,) of the
    batch: the object's number, or, where batches lack it, the place in the step.
    """

    model: MaskedAutoencoder

    def __init__(self, model: MaskedAutoencoder, channels: Sequence[str]) -> None:
        super().__init__(model, channels)
        self.seed = torch.initial_seed() & (2**63 - 1)

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Add ``hidden`` (B, N), let visible pixels weigh as configured, and add ``weight_total``."""
        codec, first = self.model, 0
        for batch in batches:
            n = len(batch["x"])
            rows = batch["row"].numpy() if "row" in batch else np.arange(first, first + n)
            hidden = torch.from_numpy(hidden_blocks(self.seed, step, rows, codec.n_blocks, codec.n_mask))
            batch["hidden"], first = hidden, first + n
            if codec.config.visible_weight != 1.0:
                factor = torch.where(codec.visible(hidden), codec.config.visible_weight, 1.0)
                batch["weight"] = batch["weight"] * factor[:, None]
        return super().prepare(batches, step)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x, shown = self.shown(batch)
        error = self.model(x, shown, batch["hidden"]).float() - x
        loss = (batch["weight"] * error.square()).sum() / batch["weight_total"]
        return loss, {"loss": loss.detach()}


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of ``number`` that is at most ``limit``.

    >>> largest_divisor(32, 8), largest_divisor(5, 8), largest_divisor(33, 8)
    (8, 5, 3)
    """
    return max(d for d in range(1, min(number, limit) + 1) if math.gcd(d, number) == d)
