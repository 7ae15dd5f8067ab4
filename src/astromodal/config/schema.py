"""Every configuration key of the program: its type, its default and what it means.

These dataclasses are the schema that Hydra checks values against (``conf/`` holds the named options).
They import nothing heavy, so that ``--help`` and configuration errors stay fast. ``None`` means "off"
or "decide for me", as the comment says; counts begin with ``n_``, periods end with ``_every``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, List, Optional

from omegaconf import MISSING

# --------------------------------------------------------------------------------------- choices


class Transform(str, Enum):
    """Space in which a scalar column is binned and standardised."""

    identity = "identity"
    log10 = "log10"
    asinh = "asinh"


class SpectrumKind(str, Enum):
    """What one group of spectra holds."""

    spectrum = "spectrum"  # flux against wavelength, rebinned onto the group's grid
    coefficients = "coefficients"  # a fixed-length vector of basis coefficients, each standardised


class SplitMethod(str, Enum):
    """By what objects are divided into training, validation and test."""

    auto = "auto"  # sky if the cube has positions, else hash
    sky = "sky"  # cells of the sky
    field = "field"  # whole datacube files
    hash = "hash"  # the object's id


class Missing(str, Enum):
    """How a modality that an object lacks appears in its sequence."""

    absent = "absent"
    token = "token"


class Order(str, Enum):
    """Order of the parts of a sequence."""

    fixed = "fixed"  # as listed in sequence.modalities
    random = "random"  # drawn anew per object and epoch; needs next_types


class CEMode(str, Enum):
    """Vocabulary over which the cross-entropy is taken."""

    full = "full"
    block = "block"


class CEBalance(str, Enum):
    """Whether every token, or every modality, weighs the same in the cross-entropy."""

    token = "token"
    modality = "modality"


class LossForm(str, Enum):
    """Form of a reconstruction term; ``training/forms.py`` has formulas, papers and minimisers."""

    expectation = "expectation"  # squared error of the mean: the documented loss
    expectation_spread = "expectation_spread"  # that + beta * variance
    energy = "energy"  # energy score: proper
    crps = "crps"  # scalars: proper
    wasserstein = "wasserstein"  # scalars: W1 to the true entry
    hl_gauss = "hl_gauss"  # scalars: cross-entropy to a Gaussian around the true bin
    neighbour_ce = "neighbour_ce"  # cross-entropy to soft targets over the nearby codes


class ErrorUse(str, Enum):
    """What a reconstruction term does with the error of its target, where one is known."""

    ignore = "ignore"
    weight = "weight"  # positions weigh 1 / (1 + sigma^2): noisy targets pull less
    width = "width"  # soft targets are widened by sigma


SCALAR_FORMS = (LossForm.crps, LossForm.wasserstein, LossForm.hl_gauss)  # need entries in an order
WIDTH_FORMS = (LossForm.hl_gauss, LossForm.neighbour_ce)  # have targets that errors can widen


class Corruption(str, Enum):
    """What a denoising codec does to its input in training."""

    gaussian = "gaussian"  # adds noise
    masking = "masking"  # sets numbers to 0; of images and spectra: hides pixels
    flip = "flip"  # 0 becomes 1 and 1 becomes 0; for 0/1 data only


class Likelihood(str, Enum):
    """What a variational autoencoder takes its data for."""

    bernoulli = "bernoulli"  # numbers in [0, 1]
    gaussian = "gaussian"


class Precision(str, Enum):
    """Arithmetic of the forward and backward pass."""

    auto = "auto"  # bf16 where the GPU has it, float32 elsewhere
    float32 = "float32"
    bf16 = "bf16"
    fp16 = "fp16"


class Parallel(str, Enum):
    """What several processes under torchrun do with the model."""

    auto = "auto"  # ddp under torchrun; a single process otherwise
    ddp = "ddp"  # each holds the whole model and averages gradients
    fsdp = "fsdp"  # each holds a share of weights, gradients and optimizer state: for models that do not fit


class OnNonfinite(str, Enum):
    """What to do with a step whose loss or gradient is NaN or infinite."""

    stop = "stop"  # end the run and say which step, objects and term
    skip = "skip"  # drop the update, as fp16 does on overflow; gives up after 25 in a row


class MonitorMode(str, Enum):
    """Direction in which the monitored metric improves."""

    auto = "auto"  # by its name: accuracies, coverages and R2 rise, everything else falls
    min = "min"
    max = "max"


class ScheduleName(str, Enum):
    """Learning-rate schedule."""

    cosine = "cosine"
    constant = "constant"
    wsd = "wsd"


class OptimizerName(str, Enum):
    """Optimizer."""

    adamw = "adamw"
    adam = "adam"
    muon = "muon"
    riemannian_adam = "riemannian_adam"  # for geoopt's manifold parameters; needs the package geoopt


class WandbMode(str, Enum):
    """Weights & Biases: ``auto`` is online with an account configured, offline without one."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


# ------------------------------------------------------------------------------------------ data


@dataclass
class ScalarConfig:
    """One catalogue column."""

    column: Optional[str] = None  # Parquet column; null: the entry's own name
    error: Optional[str] = None  # Parquet column with the 1-sigma error, in the same unit
    unit: str = ""  # physical unit, for reports
    transform: Transform = Transform.identity  # space of bins and standardisation
    softening: float = 1.0  # asinh(x / softening)
    min: Optional[float] = None  # physical range: what lies outside is missing
    max: Optional[float] = None
    fit_min: Optional[float] = None  # quality range: applies to fitting, not to encoding
    fit_max: Optional[float] = None
    max_error: Optional[float] = None  # rows with a larger error do not take part in fitting
    sentinels: List[float] = field(default_factory=lambda: [-99.0, 99.0, -999.0, -9999.0])  # values that mean "missing"
    nondetection: Optional[float] = None  # value that means "observed, not detected"


@dataclass
class SpectrumGroupConfig:
    """One group of spectra: an arm, or a vector of coefficients."""

    kind: SpectrumKind = SpectrumKind.spectrum
    flux: str = MISSING  # list column with flux or coefficients
    ivar: Optional[str] = None  # list column with inverse variance; either this or error
    error: Optional[str] = None  # list column with 1-sigma errors
    wave: Optional[str] = None  # list column with wavelengths
    wave_min: float = 0.0  # grid: centre of the first pixel, in wave_unit
    wave_max: float = 0.0  # grid: centre of the last pixel
    wave_step: float = 1.0  # grid: pixel width
    n_coefficients: int = 0  # length, for kind=coefficients
    wave_unit: str = "Angstrom"
    unit: str = "1e-17 erg/s/cm2/Angstrom"  # of the flux


@dataclass
class BandConfig:
    """One photometric band of the cutouts."""

    column: str = MISSING  # list column with size*size pixels
    pivot: float = 0.0  # pivot wavelength, Angstrom
    zero_point: float = 22.5  # AB magnitude of one count; data.images.zero_point_file overrides it per field


@dataclass
class ImageConfig:
    """The cutouts: the order of ``bands`` is the order of the channels."""

    bands: Dict[str, BandConfig] = field(default_factory=dict)
    size: int = 96  # pixels on a side
    pixel_scale: float = 0.55  # arcsec per pixel
    a: Optional[str] = "a_pixel_det"  # rms along the major axis, px
    b: Optional[str] = "b_pixel_det"  # rms along the minor axis, px
    theta: Optional[str] = "theta_det"  # position angle from +x, deg
    zero_point_file: Optional[str] = None  # CSV with columns field,band,zero_point


@dataclass
class SplitConfig:
    """Who stands in which split: decided by position or id, never by row order."""

    method: SplitMethod = SplitMethod.auto
    cell_deg: float = 0.25  # side of a sky cell
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0  # of the assignment, apart from the run's seed


@dataclass
class SyntheticConfig:
    """The built-in synthetic sky."""

    n_fields: int = 6
    n_objects_per_field: int = 400
    seed: int = 0
    n_processes: int = 1
    image_fraction: float = 0.35  # objects with cutouts
    spectrum_fraction: float = 0.15  # objects with a DESI-like spectrum
    xp_fraction: float = 0.25  # objects with a Gaia-XP-like spectrum
    corrupt_rows_per_field: int = 2  # rows with a damaged value, as real files have them


@dataclass
class DataConfig:
    """One survey: where its datacubes are and what their columns mean."""

    name: str = MISSING
    root: str = MISSING  # folder with the datacubes
    fields: Optional[List[str]] = None  # subset of fields; null: all that match paths.datacube_template
    id_column: str = "id"
    ra_column: Optional[str] = "ra"  # deg; null: no positions
    dec_column: Optional[str] = "dec"
    batch_rows: int = 64  # rows read at once: memory against speed
    scalars: Dict[str, ScalarConfig] = field(default_factory=dict)
    spectra: Dict[str, SpectrumGroupConfig] = field(default_factory=dict)
    images: Optional[ImageConfig] = None
    splits: SplitConfig = field(default_factory=SplitConfig)
    synthetic: Optional[SyntheticConfig] = None  # set: missing datacubes are generated


# ------------------------------------------------------------------------------------ tokenizers


@dataclass
class KMeansConfig:
    """Vector quantizer: k-means codebook."""

    name: str = "kmeans"
    n_codes: int = 2048
    max_fit_rows: int = 400_000  # reservoir of training vectors
    max_iter: int = 50
    tol: float = 1e-4  # relative fall of the inertia below which Lloyd stops


@dataclass
class ResidualKMeansConfig:
    """Vector quantizer: k-means codebooks in stages, each over what the ones before it left over."""

    name: str = "residual_kmeans"
    n_stages: int = 3  # codes per vector
    n_codes: int = 1024  # of each stage
    max_fit_rows: int = 400_000  # reservoir of training vectors
    max_iter: int = 50
    tol: float = 1e-4


@dataclass
class FSQConfig:
    """Vector quantizer without a learned codebook: each number of a vector is rounded to a few levels."""

    name: str = "fsq"
    levels: List[int] = field(default_factory=lambda: [8, 5, 5, 5])  # one per number of a vector; their product: codes
    max_fit_rows: int = 400_000  # reservoir of training vectors, for the bounds


@dataclass
class CodecTrainingConfig:
    """How a codec is trained."""

    epochs: int = 20
    max_steps: Optional[int] = None  # upper limit, whatever the epochs say
    batch_size: int = 32
    learning_rate: float = 1.0e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    min_lr_ratio: float = 0.05
    grad_clip: float = 1.0
    max_fit_objects: int = 20_000  # cutouts kept (float16, on disk) for training


@dataclass
class AutoencoderConfig:
    """Image codec: convolutional autoencoder to (latent_channels, size/4, size/4)."""

    name: str = "autoencoder"
    latent_channels: int = 2
    width: int = 64
    n_blocks: int = 2  # residual blocks on each side
    training: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)


@dataclass
class VAEConfig:
    """Codec: denoising variational autoencoder; the latents are posterior means."""

    name: str = "vae"
    latent_channels: int = 2
    width: int = 64
    n_blocks: int = 2  # residual blocks on each side
    patch_size: int = 16  # spectra: pixels per latent position (images: 4 x 4)
    beta: float = 1.0  # weight of the KL divergence; more: fewer bits per latent
    free_bits: float = 0.0  # nats per latent number that cost nothing
    kl_warmup_steps: int = 0  # optimizer steps over which beta rises from 0
    corruption: Corruption = Corruption.gaussian  # of the input in training; the target stays clean
    noise_std: float = 0.1  # corruption=gaussian: standard deviation, in normalised units
    corruption_rate: float = 0.1  # corruption=masking: share of the pixels
    training: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)


@dataclass
class PatchesConfig:
    """Spectrum codec that learns nothing: patches of (flux, precision) are quantised as they are."""

    name: str = "patches"


@dataclass
class MaskedAutoencoderConfig:
    """Spectrum codec: transformer over patches, some blocks hidden in training, to (latent_channels, L) latents."""

    name: str = "masked_autoencoder"
    patch_size: int = 32  # pixels per token of the encoder, at most; divides pixels_per_latent
    pixels_per_latent: Optional[int] = None  # null: the group's tokenizer.spectrum.patch_size
    latent_channels: int = 4
    width: int = 96
    n_layers: int = 2  # of the encoder
    n_heads: int = 4
    decoder_layers: int = 1
    n_blocks: int = 16  # contiguous blocks that a spectrum is divided into
    n_mask: int = 1  # blocks hidden from the encoder in training
    visible_weight: float = 1.0  # of an error at a visible pixel; 1 at a hidden one
    latent_noise: float = 0.02  # standard deviation, in training; latents lie in (-1, 1)
    training: CodecTrainingConfig = field(
        default_factory=lambda: CodecTrainingConfig(epochs=100, max_steps=2000, learning_rate=2.0e-3)
    )


@dataclass
class TernaryCodecConfig:
    """Codec of cutouts and spectra: the latents are trits (-1, 0, 1), which the quantizer fsq codes without loss."""

    name: str = "ternary_vae"
    latent_channels: int = 9  # trits per latent position: 3**9 = 19,683 codes
    width: int = 64
    n_blocks: int = 2  # residual blocks on each side
    patch_size: int = 16  # spectra: pixels per latent position (images: 4 x 4)
    balance: float = 0.0  # weight of the term that keeps the three values equally frequent
    training: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)


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
    epochs: int = 40
    batch_size: int = 512
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

    n_checklists: int = 8000  # before incomplete ones and other protocols are dropped
    n_species: int = 200
    n_habitats: int = 8
    layout: str = "new"  # new, old: names of the columns since 2025, and before


@dataclass
class EbirdVAERecipeConfig:
    """The denoising VAE of species checklists."""

    name: str = "ebird_vae"
    path: Optional[str] = None  # eBird's file of observations, plain or .gz; null: made-up checklists
    sampling_path: Optional[str] = None  # eBird's file of sampling events, for checklists without species
    nrows: Optional[int] = None  # read only the first so many rows
    made_up: MadeUpChecklistsConfig = field(default_factory=MadeUpChecklistsConfig)
    min_species_observations: int = 30  # species on fewer checklists are left out
    val_size: float = 0.2
    latent_dimension: int = 16
    hidden_dimension: int = 512
    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 1.0e-3
    noise_std: float = 0.1  # corruption=gaussian
    corruption: Corruption = Corruption.gaussian
    corruption_rate: float = 0.1  # corruption=masking and flip: share of the input
    beta: float = 1.0  # weight of the KL divergence
    free_bits: float = 0.0  # nats per latent that cost nothing
    kl_warmup_epochs: int = 0  # epochs over which beta rises from 0
    resume_from: Optional[str] = None  # run directory or checkpoint of an unfinished run, to go on from


@dataclass
class ScalarTokenizerConfig:
    """Quantile bins per catalogue column."""

    n_bins: int = 1024
    min_values_per_bin: int = 8  # at most n_valid / 8 bins
    max_fit_values: int = 2_000_000  # reservoir per column


@dataclass
class SpectrumTokenizerConfig:
    """One codebook per group of spectra over patches of (flux, precision)."""

    groups: Optional[List[str]] = None  # null: all groups of data.spectra
    patch_size: int = 32  # pixels per token
    patch_sizes: Dict[str, int] = field(default_factory=dict)  # per group, instead of patch_size
    precision_weight: float = 0.25  # weight of log1p(precision) beside the flux in a feature
    codec: Any = None  # null, or name patches: features are patches; else the latents of a network
    quantizer: Any = MISSING


@dataclass
class ImageTokenizerConfig:
    """Codec and quantizer of the cutouts."""

    softening: float = 3.0  # arcsinh(flux / (softening * sky sigma)), per band
    ellipse_scale: float = 6.0  # semi-axes of the mask, in units of (a, b)
    min_radius: float = 8.0  # px: never a smaller mask
    outside_weight: float = 0.1  # loss weight of valid pixels outside of the ellipse
    min_valid_fraction: float = 0.25  # fewer valid pixels: the image counts as missing
    batch_size: int = 64  # for encoding
    codec: Any = MISSING
    quantizer: Any = MISSING


@dataclass
class TokenizerConfig:
    """Which tokenizers are trained; a null one is left as it is."""

    scalar: Optional[ScalarTokenizerConfig] = None
    spectrum: Optional[SpectrumTokenizerConfig] = None
    image: Optional[ImageTokenizerConfig] = None


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
    epochs: int = 200
    batch_size: int = 64
    learning_rate: float = 1.0e-3
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    grad_clip: Optional[float] = 1.0
    ema_decay: Optional[float] = 0.99  # null: off
    loss_type: str = "mse"  # mse | sse
    reduction: str = "mean"  # mean | sum | batch_mean
    early_stop_patience: Optional[int] = 50  # epochs; null: off
    early_stop_start_ratio: float = 0.5  # share of the epochs before which patience does not count
    resume_from: Optional[str] = None  # run directory or checkpoint of an unfinished run, to go on from


# ------------------------------------------------------------------- vocabulary, sequence, model


@dataclass
class VocabConfig:
    """Sizes of the vocabulary's blocks; null takes the size from the tokenizer."""

    image: Optional[int] = None
    scalar: Optional[int] = None
    spectrum: Optional[int] = None


@dataclass
class SequenceConfig:
    """From tokens to sequences."""

    modalities: List[str] = field(default_factory=lambda: ["scalar", "spectrum", "image"])
    order: Order = Order.fixed
    missing: Missing = Missing.absent
    next_types: bool = True  # tell a position the type of the token it has to predict


@dataclass
class ModelConfig:
    """The causal transformer."""

    d_model: int = 768
    n_layers: int = 12
    n_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.1
    max_len: int = 2048
    tie_head: bool = True  # head shares the token embedding
    activation_checkpointing: bool = False  # blocks are computed again in the backward pass: less memory, more time


# ------------------------------------------------------------------- loss, optimizer, schedule


@dataclass
class LossFormConfig:
    """Form of one modality's reconstruction term, and the numbers that some of the forms read."""

    form: LossForm = LossForm.expectation
    beta: float = 1.0  # expectation_spread: weight of the variance; 1: expected squared distance
    sigma_bins: float = 0.75  # hl_gauss: sigma of the target, in widths of the true bin
    n_neighbours: int = 16  # neighbour_ce: codes that share a target, the true one included
    temperature: float = 1.0  # neighbour_ce: sigma of the target, in median distances between nearest codes
    errors: ErrorUse = ErrorUse.ignore  # scalars and spectra: errors of the targets, in the weight or in the width


@dataclass
class LossConfig:
    """Cross-entropy plus the reconstruction loss (predicted entries against the true entry, standardised)."""

    use_ce: bool = True
    ce: CEMode = CEMode.full
    ce_balance: CEBalance = CEBalance.token
    enabled: bool = True  # reconstruction terms
    sample_k: Optional[int] = 4096  # positions per modality and step; null: all
    ce_sample_k: Optional[int] = None  # positions of the cross-entropy per step; null: all
    weight_image: float = 0.1
    weight_scalar: float = 0.1
    weight_spectrum: float = 0.1
    share_image: Optional[float] = None  # of the gradient, beside cross-entropy; its weight adapts; null: weight_image
    share_scalar: Optional[float] = None
    share_spectrum: Optional[float] = None
    share_rate: float = 0.3  # of the way to the weight that gives the share, per measurement
    ledger_every: Optional[int] = 100  # steps between measurements of the gradient's shares; null: off
    standardize: bool = True  # codebooks to zero mean and unit total variance
    image: LossFormConfig = field(default_factory=LossFormConfig)
    scalar: LossFormConfig = field(default_factory=LossFormConfig)
    spectrum: LossFormConfig = field(default_factory=LossFormConfig)


@dataclass
class OptimizerConfig:
    """Optimizer and its constants."""

    name: OptimizerName = OptimizerName.adamw
    learning_rate: float = 2.0e-4
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1.0e-8
    muon_learning_rate: float = 0.02  # of the matrices, with name=muon
    muon_momentum: float = 0.95


@dataclass
class ScheduleConfig:
    """Learning rate against step; the horizon is the number of steps the run will take."""

    name: ScheduleName = ScheduleName.cosine
    warmup_steps: int = 2000
    min_lr_ratio: float = 0.1
    decay_fraction: float = 0.2  # of the run, with name=wsd


@dataclass
class TrainingConfig:
    """The loop."""

    batch_size: int = 16  # sequences per micro-batch
    epochs: int = 5
    max_steps: Optional[int] = None  # optimizer steps; null: as the epochs say
    grad_accum_steps: int = 1
    grad_clip: Optional[float] = 1.0
    log_every: int = 50  # steps
    val_every: Optional[int] = None  # steps; null: at the end of each epoch
    max_val_batches: Optional[int] = None  # null: the whole validation split
    save_every: Optional[int] = 5000  # steps
    keep_last: int = 3  # step checkpoints kept
    checkpoint_async: bool = True  # written in the background; holds one more copy of the state in CPU memory
    monitor: str = "val/score"  # decides what is best; never contains the loss weights
    monitor_mode: MonitorMode = MonitorMode.auto  # whether it is to fall or to rise
    patience: Optional[int] = None  # validations without improvement before stopping
    min_delta: float = 0.0  # what an improvement has to exceed to count for patience
    early_stop_start_ratio: float = 0.0  # share of the run before which patience does not count
    ema_decay: Optional[float] = None
    on_nonfinite: OnNonfinite = OnNonfinite.stop  # skip waits for the GPU at every step
    spike_factor: Optional[float] = 10.0  # report a logged loss this many MADs above its median; null: off
    num_workers: int = 0  # loader processes; 0 is fastest for memory-mapped tokens
    pin_memory: bool = True
    persistent_workers: bool = True
    prefetch_factor: int = 2


# ---------------------------------------------------------------------- hardware, paths, tracking


@dataclass
class HardwareConfig:
    """What the run may use."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Precision = Precision.auto
    tf32: bool = True
    compile: bool = False
    deterministic: bool = False
    parallel: Parallel = Parallel.auto  # several processes, under torchrun
    rank_timeout_s: Optional[float] = 60.0  # a process without a sign of life for so long ends the run; null: off
    n_threads: Optional[int] = None  # null: all cores
    n_processes: int = 1  # worker processes of encode.py


@dataclass
class PathsConfig:
    """Where things are read and written."""

    datacube_template: str = MISSING
    store: str = MISSING
    runs: str = "runs"


@dataclass
class TrackingConfig:
    """Weights & Biases and TensorBoard; metrics.jsonl is written in any case."""

    wandb: WandbMode = WandbMode.auto
    tensorboard: bool = False  # event files in <run>/tensorboard/; needs the package tensorboard
    project: str = "astromodal"
    entity: Optional[str] = None
    group: Optional[str] = None  # null: the sweep's id in a sweep
    tags: List[str] = field(default_factory=list)
    notes: Optional[str] = None
    lineage: bool = True  # tokenizers -> tokens -> model as artifacts of W&B: names and fingerprints, no files


# -------------------------------------------------------------------------------------- the whole


@dataclass
class SweepConfig:
    """Sweeps: what ``-m`` runs."""

    resume: Optional[str] = None  # folder of a sweep to go on with; its own command need not be repeated
    retry_failed: bool = False  # also run again what has failed


@dataclass
class EncodeConfig:
    """``encode.py``."""

    overwrite: bool = False  # encode again what is up to date


class EvaluateInput(str, Enum):
    """What ``evaluate.py`` reads."""

    auto = "auto"  # the token files of paths.store where there are any, else the datacubes
    tokens = "tokens"
    datacubes = "datacubes"  # encoded with the run's tokenizers, one field at a time, and not kept


class Calibrate(str, Enum):
    """Which of the corrections beside the weights ``evaluate.py`` applies (``evaluation/recalibration.py``)."""

    off = "off"
    temperature = "temperature"  # to the posterior, and so to all that is made of it
    conformal = "conformal"  # to the posterior, and then to its quantiles


class Baseline(str, Enum):
    """What a model is judged against, on the same objects and inputs."""

    marginal = "marginal"  # the distribution of the training objects, whatever is given
    boosting = "boosting"  # scikit-learn's gradient boosting: the mean, and each quantile
    neighbours = "neighbours"  # of the inputs


@dataclass
class JudgeConfig:
    """How a catalogue of predictions is compared with what was observed."""

    baselines: List[Baseline] = field(default_factory=lambda: list(Baseline))  # boosting: a minute of CPU per column
    max_training_rows: int = 20_000  # that a baseline learns a column from
    n_resamples: int = 500  # of the bootstrap by object
    n_bins: int = 6  # of magnitude and of signal-to-noise
    magnitude: Optional[str] = None  # column that errors are shown by; null: the first magnitude in r, else the first
    redshifts: List[str] = field(default_factory=lambda: ["specz_z", "photz_z", "redshift"])  # with photo-z figures
    calibrate: bool = True  # fit a temperature and conformal shifts, show their effect, save them beside the weights
    max_calibration_rows: int = 10_000  # posteriors that a temperature is fitted to
    max_examples: int = 3000  # objects of each column that are drawn


@dataclass
class EvaluateConfig:
    """``evaluate.py``. Names are modalities (scalar, spectrum, image), groups of spectra, or columns."""

    run: str = "auto"  # run directory of train_lm.py, or a file of weights; auto: the newest finished run
    input: EvaluateInput = EvaluateInput.auto
    splits: Optional[List[str]] = None  # train, val, test; null: every object
    fraction: float = 1.0  # of these objects, chosen by a hash of their id
    given: Optional[List[str]] = None  # null: all else that the object has; [before]: what stands before; []: nothing
    predict: Optional[List[str]] = None  # null: every scalar column
    any_order: bool = False  # ask a model trained with sequence.order=fixed also against its order
    quantiles: List[float] = field(default_factory=lambda: [0.025, 0.16, 0.84, 0.975])
    posterior: bool = False  # the whole binned posterior of every asked column
    n_samples: int = 16  # per object, of an asked spectrum or cutout
    temperature: float = 1.0  # of the samples; below 1: nearer to the likeliest code
    top_p: float = 1.0  # samples are drawn from the likeliest codes that together have this probability
    embeddings: List[str] = field(default_factory=list)  # mean, last: hidden states of what is given
    calibration: Calibrate = Calibrate.off  # correct the posteriors by what calibration.json beside the weights holds
    batch_size: int = 64  # sequences at once
    judge: Optional[JudgeConfig] = field(default_factory=JudgeConfig)  # null: do not compare with what was observed


class ObjectiveFigure(str, Enum):
    """What ``train_lm.py`` returns to a sweep, of the best weights on validation objects; lower is better."""

    score = "score"  # val/score: error / variance in codebook space, mean over the modalities
    prediction = "prediction"  # prediction/score: CRPS / CRPS of the marginal of what ``evaluate`` asks


@dataclass
class Config:
    """The whole configuration, shared by the stages; ``STAGE_GROUPS`` says which stage reads what."""

    stage: str = MISSING  # set by the script
    name: str = "default"  # of the run: runs/<stage>/<name>/<run_id>
    run_id: str = MISSING  # ASTROMODAL_RUN_ID, WANDB_RUN_ID, torchrun's, or the time
    run_dir: str = MISSING  # where the run writes
    seed: int = 0  # of everything random in the run
    tokenizer_id: str = MISSING  # folder of the tokenizers and tokens in artifacts/<data.name>/
    resume: Optional[str] = None  # auto (newest unfinished run with this configuration), a run directory, a checkpoint
    init_from: Optional[str] = None  # weights to start a new run from (fine-tuning)
    objective: ObjectiveFigure = (
        ObjectiveFigure.score
    )  # of a sweep; prediction: answers evaluate.given, evaluate.predict
    preview: bool = False  # train_lm.py: say what it would cost, and stop
    sweep: SweepConfig = field(default_factory=SweepConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    recipe: Any = None  # train_tokenizers.py: a codec on its home problem, instead of the tokenizers
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    vocab: VocabConfig = field(default_factory=VocabConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


_SHARED = ("stage", "name", "run_id", "run_dir", "seed", "tokenizer_id", "paths", "data", "hardware", "tracking",
           "sweep")  # fmt: skip
STAGE_GROUPS: dict[str, tuple[str, ...]] = {
    "train_tokenizers": (*_SHARED, "tokenizer", "recipe"),
    "encode": (*_SHARED, "encode"),
    "train_lm": (
        *_SHARED,
        "resume",
        "init_from",
        "preview",
        "objective",
        "evaluate",
        "vocab",
        "sequence",
        "model",
        "loss",
        "optimizer",
        "schedule",
        "training",
    ),
    "evaluate": (*_SHARED, "evaluate"),
}
