"""The options of ``recipe``: a codec on its home problem, apart from the tokenizers.

Operations on trits (``ternary_vae``), species checklists (``ebird_vae``), one-dimensional spectra (``spectrum_mae``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from ..ranges import ranged
from .codecs import Corruption
from .training import OptimizerName


@dataclass
class TernaryGeometryConfig:
    """The Poincaré ball that the latent of the ternary VAE lies on."""

    latent_dim: int = 16
    curvature: float = 1.0  # c: the ball has curvature -c
    n_points: int = 16  # learned points of the ball whose distances the decoder sees; 0: none


@dataclass
class TernaryNetworkConfig:
    """Encoder and decoder of the ternary VAE."""

    width: int = 128
    n_layers: int = 2  # hidden layers on each side


@dataclass
class TernaryOptimizerConfig:
    """Optimizer of the ternary VAE: adamw, adam, or riemannian_adam, for which the points lie on geoopt's ball."""

    name: OptimizerName = OptimizerName.adamw
    learning_rate: float = 3.0e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    min_lr_ratio: float = 0.02


@dataclass
class TernaryLossWeights:
    """Weights of the loss terms of the ternary VAE; 0 switches one off."""

    reconstruction: float = 1.0
    kl: float = 0.05  # times the controller's beta
    ranking: float = 0.5  # times the curriculum's difficulty
    radial: float = 3.0
    repulsion: float = 0.1
    entropy: float = 0.1


@dataclass
class TernaryLossSettings:
    """Constants of the loss terms of the ternary VAE; radii and distances are hyperbolic."""

    free_bits: float = 0.02  # nats per latent dimension that the KL divergence does not cost
    margin: float = 0.2  # of the ranking
    outer_radius: float = 5.0  # of operations with valuation 0
    inner_radius: float = 2.0  # of operation 0
    radial_balance: float = 0.5  # 0: operations count alike in the radial term; 1: valuations do
    repulsion_scale: float = 1.0  # distance over which the repulsion falls to 1/e


@dataclass
class CurriculumConfig:
    """Difficulty against epoch, from start to end."""

    shape: str = "linear"  # linear, cosine, exponential
    start_difficulty: float = 0.1
    end_difficulty: float = 1.0
    warmup_epochs: int = 5


@dataclass
class HomeostasisConfig:
    """Controller that keeps the KL divergence within target_kl +- kl_tolerance by its weight."""

    enabled: bool = True
    target_kl: float = 17.0  # nats per operation; without loss at least log(19683) = 9.9
    kl_tolerance: float = 2.0


@dataclass
class TernaryVAERecipeConfig:
    """The ternary VAE on all operations of n_trits trits."""

    name: str = "ternary_vae"
    n_trits: int = 9  # 3**9 = 19,683 operations
    epochs: int = ranged(40, least=1)
    batch_size: int = ranged(512, least=1)
    grad_clip: Optional[float] = 1.0
    resume_from: Optional[str] = None  # run directory or checkpoint of an unfinished run, to go on from
    geometry: TernaryGeometryConfig = field(default_factory=TernaryGeometryConfig)
    network: TernaryNetworkConfig = field(default_factory=TernaryNetworkConfig)
    optimizer: TernaryOptimizerConfig = field(default_factory=TernaryOptimizerConfig)
    loss_weights: TernaryLossWeights = field(default_factory=TernaryLossWeights)
    losses: TernaryLossSettings = field(default_factory=TernaryLossSettings)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    homeostasis: HomeostasisConfig = field(default_factory=HomeostasisConfig)


@dataclass
class MadeUpChecklistsConfig:
    """Made-up checklists in eBird's format, with known habitats behind them."""

    n_checklists: int = ranged(8000, least=1)  # before incomplete ones and other protocols are dropped
    n_species: int = ranged(200, least=2)
    n_habitats: int = ranged(8, least=1)
    layout: str = "new"  # new, old: names of the columns since 2025, and before


@dataclass
class EbirdVAERecipeConfig:
    """The denoising VAE of species checklists."""

    name: str = "ebird_vae"
    path: Optional[str] = None  # eBird's file of observations, plain or .gz; null: made-up checklists
    sampling_path: Optional[str] = None  # eBird's file of sampling events, for checklists without species
    nrows: Optional[int] = ranged(None, least=1)  # read only the first so many rows
    made_up: MadeUpChecklistsConfig = field(default_factory=MadeUpChecklistsConfig)
    min_species_observations: int = ranged(30, least=1)  # species on fewer checklists are left out
    val_size: float = ranged(0.2, above=0, below=1)
    latent_dimension: int = ranged(16, least=1)
    hidden_dimension: int = ranged(512, least=1)
    epochs: int = ranged(50, least=1)
    batch_size: int = ranged(128, least=1)
    learning_rate: float = ranged(1.0e-3, above=0)
    noise_std: float = ranged(0.1, least=0)  # corruption=gaussian
    corruption: Corruption = Corruption.gaussian
    corruption_rate: float = ranged(0.1, least=0, most=1)  # corruption=masking and flip: share of the input
    beta: float = ranged(1.0, least=0)  # weight of the KL divergence
    free_bits: float = ranged(0.0, least=0)  # nats per latent that cost nothing
    kl_warmup_epochs: int = ranged(0, least=0)  # epochs over which beta rises from 0
    resume_from: Optional[str] = None  # run directory or checkpoint of an unfinished run, to go on from


@dataclass
class SpectrumMAERecipeConfig:
    """``experiment=spectrum_mae``: the masked autoencoder on a set of one-dimensional spectra."""

    name: str = "spectrum_mae"
    path: Optional[str] = None  # Parquet file, or a pattern of several; null: made-up absorbance spectra
    column: str = "spectrum"  # list column with the spectra; gaiaxp_flux in datacubes
    normalize: str = "snv"  # each spectrum to mean 0 and standard deviation 1; none
    n_synthetic: int = 800  # made-up spectra
    val_fraction: float = 0.15
    test_fraction: float = 0.2  # where the file does not say which rows are for training
    n_blocks: int = 20  # contiguous blocks; values beyond the last whole one are left out
    n_mask: int = 15  # hidden blocks
    patch_size: int = 35  # values per token, at most; divides the length of a block
    latent_dim: int = 16
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    dropout: float = 0.0
    latent_normalize: bool = False  # latent vectors of length 1
    epochs: int = ranged(200, least=1)
    batch_size: int = ranged(64, least=1)
    learning_rate: float = ranged(1.0e-3, above=0)
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    grad_clip: Optional[float] = 1.0
    ema_decay: Optional[float] = 0.99  # null: off
    loss_type: str = "mse"  # mse | sse
    reduction: str = "mean"  # mean | sum | batch_mean
    early_stop_patience: Optional[int] = 50  # epochs; null: off
    early_stop_start_ratio: float = 0.5  # share of the epochs before which patience does not count
    resume_from: Optional[str] = None  # run directory or checkpoint of an unfinished run, to go on from
