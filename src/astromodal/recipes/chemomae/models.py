"""``ChemoMAE``: a spectrum, part of it hidden, to one latent vector and back to the whole spectrum.

Shapes: B batch, L values of a spectrum, N blocks, Z latent channels, W width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...codecs.masking import hidden_blocks, masked_mse, masked_sse, visible_mask, visible_tokens
from ...codecs.spectrum_transformer import SpectrumEncoder, check_counts
from ...errors import ArtifactError, ConfigError
from ...training.checkpoints.checkpoint import load_model_state, load_with_keys

__all__ = ["ChemoMAE", "masked_mse", "masked_sse"]


class ChemoMAE(nn.Module):
    """Masked autoencoder of one-dimensional spectra.

    A spectrum is divided into ``n_blocks`` contiguous blocks, of which ``n_mask`` are hidden, other ones for every
    spectrum. The encoder computes on the visible tokens alone; its class token becomes the latent vector, and a small
    network paints the whole spectrum from that.

    Args:
        seq_len: L, a multiple of ``n_blocks``.
        latent_dim: Z.
        n_mask: hidden blocks; fewer than ``n_blocks``.
        patch_size: values per token; divides the length of a block. 1 is one token per wavelength.
        d_model, nhead, num_layers, dim_feedforward, dropout: of the encoder; ``dim_feedforward`` is 4 W by default.
        decoder_num_layers: linear layers of the decoder, with GELU between them.
        latent_normalize: give the latent vector length 1.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    def __init__(
        self,
        seq_len: int = 256,
        latent_dim: int = 64,
        n_blocks: int = 16,
        n_mask: int = 12,
        *,
        patch_size: int = 1,
        d_model: int = 256,
        nhead: int = 4,
        num_layers: int = 4,
        dim_feedforward: int | None = None,
        dropout: float = 0.0,
        decoder_num_layers: int = 2,
        latent_normalize: bool = True,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_counts(seq_len=seq_len, latent_dim=latent_dim, n_blocks=n_blocks, decoder_num_layers=decoder_num_layers)
        if seq_len % n_blocks:
            raise ConfigError(f"a seq_len that n_blocks = {n_blocks} divides", got=seq_len, where="ChemoMAE")
        self.block_size = seq_len // n_blocks
        if patch_size < 1 or self.block_size % patch_size:
            raise ConfigError(
                f"a patch_size that divides blocks of {self.block_size} values", got=patch_size, where="ChemoMAE"
            )
        if not 0 <= n_mask < n_blocks:
            raise ConfigError(f"n_mask from 0 to below n_blocks = {n_blocks}", got=n_mask, where="ChemoMAE")
        self.seq_len, self.latent_dim, self.n_blocks, self.n_mask = seq_len, latent_dim, n_blocks, n_mask
        self.tokens_per_block, self.latent_normalize = self.block_size // patch_size, latent_normalize
        self.encoder = SpectrumEncoder(
            seq_len // patch_size, patch_size, 1, d_model, num_layers, nhead, dim_feedforward, dropout, missing=False
        )
        self.to_latent = nn.Linear(d_model, latent_dim)
        self.decoder = _mlp(latent_dim, seq_len, decoder_num_layers)

    def forward(self, x: Tensor, visible_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``(x_recon, z, visible_mask)`` of shapes (B, L), (B, Z), (B, L).

        Args:
            x: ``(B, L)``.
            visible_mask: ``(B, L)`` bool, blocks wholly visible or wholly hidden; drawn from torch's global generator
                if none is given.

        Raises:
            ValueError: another shape, or a mask that cuts through a block.
        """
        self._check(x)
        if visible_mask is None:
            seed = int(torch.randint(2**62, ()))
            hidden = torch.from_numpy(hidden_blocks(seed, 0, np.arange(len(x)), self.n_blocks, self.n_mask))
            return self.from_hidden(x, hidden.to(x.device))
        hidden = self._hidden_of(x, visible_mask)
        counts = hidden.sum(1)
        if bool((counts == self.n_mask).all()):
            return self.from_hidden(x, hidden)
        z = torch.empty(len(x), self.latent_dim, dtype=x.dtype, device=x.device)
        for count in counts.unique().tolist():  # rows of one count make one rectangle
            rows = counts == count
            z = z.index_put((rows.nonzero()[:, 0],), self._latent(x[rows], hidden[rows], count).to(z.dtype))
        return self.decoder(z), z, visible_mask

    def from_hidden(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`forward`, with the ``n_mask`` hidden blocks of each row given as ``(B, N)``."""
        self._check(x)
        z = self._latent(x, hidden, self.n_mask)
        return self.decoder(z), z, visible_mask(hidden, self.block_size)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, Z) of whole spectra (B, L), nothing hidden."""
        self._check(x)
        return self._finish(self.encoder(x))

    def reconstruct(self, x: Tensor, visible_mask: Tensor | None = None) -> Tensor:
        """Spectra (B, L) from their visible part."""
        return self(x, visible_mask)[0]

    @classmethod
    def load(cls, path: str | Path) -> ChemoMAE:
        """The network of a weights file of the trainer (``best_model.pt``), in evaluation mode.

        Raises:
            ArtifactError: a file without the weights and the settings of this network.
        """
        content = load_with_keys(path, ("model_state_dict", "config"), "weights of ChemoMAE", "use best_model.pt")
        try:
            model = cls(**content["config"]["model"]["settings"])
        except (KeyError, TypeError) as error:
            raise ArtifactError("weights of ChemoMAE with its settings", got=repr(error), where=path) from error
        load_model_state(model, content["model_state_dict"], path)
        return model.eval()

    # ---------------------------------------------------------------------------------- internals

    def _latent(self, x: Tensor, hidden: Tensor, n_hidden: int) -> Tensor:
        return self._finish(self.encoder(x, kept=visible_tokens(hidden, n_hidden, self.tokens_per_block)))

    def _finish(self, summary: Tensor) -> Tensor:
        z = self.to_latent(summary[:, 0])
        return F.normalize(z, dim=1) if self.latent_normalize else z

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.seq_len:
            raise ValueError(f"expected x of shape (B, {self.seq_len}), got {tuple(x.shape)}")

    def _hidden_of(self, x: Tensor, visible: Tensor) -> Tensor:
        """Hidden blocks (B, N) of a mask over values (B, L)."""
        if visible.shape != x.shape or visible.dtype != torch.bool:
            raise ValueError(
                f"expected visible_mask of bool {tuple(x.shape)}, got {visible.dtype} {tuple(visible.shape)}"
            )
        blocks = visible.unflatten(1, (self.n_blocks, self.block_size))
        if bool((blocks.all(2) != blocks.any(2)).any()):
            raise ValueError(f"expected blocks of {self.block_size} values wholly visible or hidden, got parts of one")
        hidden = ~blocks.all(2)
        if bool(hidden.all(1).any()):
            raise ValueError("expected at least one visible block per spectrum, got a row without")
        return hidden


def _mlp(n_in: int, n_out: int, n_layers: int) -> nn.Sequential:
    """Linear layers of width ``n_out`` with GELU between them."""
    layers: list[nn.Module] = [nn.Linear(n_in, n_out)]
    for _ in range(n_layers - 1):
        layers += [nn.GELU(), nn.Linear(n_out, n_out)]
    return nn.Sequential(*layers)
