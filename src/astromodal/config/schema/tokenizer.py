"""The section ``tokenizer``: quantizers, which make codes of vectors, and the three tokenizers.

Their codecs are in ``codecs.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from ..ranges import ranged
from .run import MISSING


@dataclass
class KMeansConfig:
    """Vector quantizer: k-means codebook."""

    name: str = "kmeans"
    n_codes: int = ranged(2048, least=2)
    max_fit_rows: int = 400_000  # sample of training vectors
    max_iter: int = 50
    tol: float = 1e-4  # relative fall of the inertia below which Lloyd stops


@dataclass
class ResidualKMeansConfig:
    """Vector quantizer: k-means codebooks in stages, each over what the ones before it left over."""

    name: str = "residual_kmeans"
    n_stages: int = ranged(3, least=1)  # codes per vector
    n_codes: int = ranged(1024, least=2)  # of each stage
    max_fit_rows: int = 400_000  # sample of training vectors
    max_iter: int = 50
    tol: float = 1e-4
    n_tried: int = ranged(1, least=1)  # first codes tried with what follows them, to take the best; 1: stage by stage


@dataclass
class FSQConfig:
    """Vector quantizer without a learned codebook: each number of a vector is rounded to a few levels."""

    name: str = "fsq"
    levels: List[int] = field(default_factory=lambda: [8, 5, 5, 5])  # one per number of a vector; their product: codes
    max_fit_rows: int = 400_000  # sample of training vectors, for the bounds


@dataclass
class ScalarTokenizerConfig:
    """Quantile bins per catalogue column."""

    n_bins: int = ranged(1024, least=2)
    min_values_per_bin: int = ranged(8, least=1)  # at most n_valid / 8 bins
    max_fit_values: int = 200_000  # sample per column: some 200 per bin


@dataclass
class SpectrumTokenizerConfig:
    """One codebook per group of spectra over patches of flux, weighted by the precision."""

    groups: Optional[List[str]] = None  # null: all groups of data.spectra
    patch_size: int = ranged(32, least=1)  # pixels per token
    patch_sizes: Dict[str, int] = field(default_factory=dict)  # per group, instead of patch_size
    precision_weight: float = ranged(0.0, least=0)  # of log1p(precision) as numbers beside the flux; 0: flux alone
    # features that noise may leave at each width of a spectrum; 0: patches as observed
    denoise: float = ranged(1.0, least=0)
    codec: Any = None  # null, or name patches: features are patches; else the latents of a network
    quantizer: Any = MISSING


@dataclass
class ImageTokenizerConfig:
    """Codec and quantizer of the cutouts."""

    softening: float = ranged(3.0, above=0)  # arcsinh(flux / (softening * sky sigma)), per band
    ellipse_scale: float = 6.0  # semi-axes of the mask, in units of (a, b)
    min_radius: float = 8.0  # px: never a smaller mask
    outside_weight: float = 0.1  # loss weight of valid pixels outside of the ellipse
    min_valid_fraction: float = ranged(0.25, least=0, most=1)  # fewer valid pixels: the image counts as missing
    flux_radii: List[float] = field(default_factory=list)  # px, of rings whose flux in each band is a token; []: none
    batch_size: int = 64  # for encoding
    codec: Any = MISSING
    quantizer: Any = MISSING


@dataclass
class TokenizerConfig:
    """Which tokenizers are trained; a null one is left as it is."""

    scalar: Optional[ScalarTokenizerConfig] = None
    spectrum: Optional[SpectrumTokenizerConfig] = None
    image: Optional[ImageTokenizerConfig] = None
