"""Codecs, which make latents of cutouts and spectra: the options of ``tokenizer.<modality>.codec``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Optional

from ..ranges import ranged


class Corruption(str, Enum):
    """What a denoising codec does to its input in training."""

    gaussian = "gaussian"  # adds noise
    masking = "masking"  # sets numbers to 0; of images and spectra: hides pixels
    flip = "flip"  # 0 becomes 1 and 1 becomes 0; for 0/1 data only


class Likelihood(str, Enum):
    """What a variational autoencoder takes its data for."""

    bernoulli = "bernoulli"  # numbers in [0, 1]
    gaussian = "gaussian"


@dataclass
class CodecTrainingConfig:
    """How a codec is trained."""

    epochs: int = 20
    max_steps: Optional[int] = None  # upper limit, whatever the epochs say
    batch_size: int = ranged(32, least=1)
    learning_rate: float = ranged(1.0e-3, above=0)
    weight_decay: float = 0.01
    warmup_steps: int = 50
    min_lr_ratio: float = 0.05
    grad_clip: float = 1.0
    max_fit_objects: int = 20_000  # cutouts kept (float16, on disk) for training


@dataclass
class AutoencoderConfig:
    """Image codec: convolutional autoencoder to latent_channels numbers for each patch."""

    name: str = "autoencoder"
    patch_size: int = ranged(4, least=1)  # pixels on a side per latent position
    latent_channels: int = ranged(2, least=1)
    width: int = ranged(64, least=1)
    n_blocks: int = 2  # residual blocks on each side
    training: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)


@dataclass
class VAEConfig:
    """Codec: denoising variational autoencoder; the latents are posterior means."""

    name: str = "vae"
    latent_channels: int = ranged(2, least=1)
    width: int = ranged(64, least=1)
    n_blocks: int = 2  # residual blocks on each side
    patch_size: int = ranged(16, least=1)  # spectra: pixels per latent position (images: 4 x 4)
    beta: float = ranged(1.0, least=0)  # weight of the KL divergence; more: fewer bits per latent
    free_bits: float = ranged(0.0, least=0)  # nats per latent number that cost nothing
    kl_warmup_steps: int = ranged(0, least=0)  # optimizer steps over which beta rises from 0
    corruption: Corruption = Corruption.gaussian  # of the input in training; the target stays clean
    noise_std: float = ranged(0.1, least=0)  # corruption=gaussian: standard deviation, in normalised units
    corruption_rate: float = ranged(0.1, least=0, most=1)  # corruption=masking: share of the pixels
    training: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)


@dataclass
class PatchesConfig:
    """Spectrum codec that learns nothing: patches of flux are quantised as they are, by the weights of their pixels."""

    name: str = "patches"


@dataclass
class MaskedAutoencoderConfig:
    """Spectrum codec: transformer over patches, some blocks hidden in training, to (latent_channels, L) latents."""

    name: str = "masked_autoencoder"
    patch_size: int = ranged(32, least=1)  # pixels per token of the encoder, at most; divides pixels_per_latent
    pixels_per_latent: Optional[int] = ranged(None, least=1)  # null: the group's tokenizer.spectrum.patch_size
    latent_channels: int = ranged(4, least=1)
    width: int = ranged(96, least=1)
    n_layers: int = ranged(2, least=1)  # of the encoder
    n_heads: int = 4
    decoder_layers: int = ranged(1, least=0)
    n_blocks: int = 16  # contiguous blocks that a spectrum is divided into
    n_mask: int = 1  # blocks hidden from the encoder in training
    visible_weight: float = ranged(1.0, least=0)  # of an error at a visible pixel; 1 at a hidden one
    latent_noise: float = ranged(0.02, least=0)  # standard deviation, in training; latents lie in (-1, 1)
    training: CodecTrainingConfig = field(
        default_factory=lambda: CodecTrainingConfig(epochs=100, max_steps=2000, learning_rate=2.0e-3)
    )


@dataclass
class TernaryCodecConfig:
    """Codec of cutouts and spectra: the latents are trits (-1, 0, 1), which the quantizer fsq codes without loss."""

    name: str = "ternary_vae"
    latent_channels: int = ranged(9, least=1)  # trits per latent position: 3**9 = 19,683 codes
    width: int = ranged(64, least=1)
    n_blocks: int = 2  # residual blocks on each side
    patch_size: int = ranged(16, least=1)  # spectra: pixels per latent position (images: 4 x 4)
    balance: float = 0.0  # weight of the term that keeps the three values equally frequent
    training: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)
