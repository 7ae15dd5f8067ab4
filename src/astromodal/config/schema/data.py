"""The section ``data``: columns, spectra, cutouts, splits, and the built-in synthetic sky."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Dict, List, Optional

from ..ranges import ranged
from .run import MISSING


class Transform(str, Enum):
    """Space in which a scalar column is binned and standardised."""

    identity = "identity"
    log10 = "log10"
    asinh = "asinh"


class SpectrumKind(str, Enum):
    """What one group of spectra holds."""

    spectrum = "spectrum"  # flux against wavelength, rebinned onto the group's grid
    coefficients = "coefficients"  # a fixed-length vector of basis coefficients, each standardised


class Layout(str, Enum):
    """How the files of a survey are arranged."""

    auto = "auto"  # paths.datacube_template where it matches, else what data.root looks like
    files = "files"  # a file per field: Parquet, FITS, ECSV, VOTable, CSV
    folders = "folders"  # a folder of Parquet part files per field
    hats = "hats"  # a HATS catalogue or collection: a tile of the sky is a field


class SplitMethod(str, Enum):
    """By what objects are divided into training, validation and test."""

    auto = "auto"  # sky if the cube has positions, else hash
    sky = "sky"  # cells of the sky
    field = "field"  # whole datacube files
    hash = "hash"  # the object's id


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
    mask: Optional[str] = None  # list column like flux: what is true, or not 0, is a bad pixel
    wave_min: float = 0.0  # grid: centre of the first pixel, in wave_unit
    wave_max: float = 0.0  # grid: centre of the last pixel
    wave_step: float = 1.0  # grid: pixel width
    n_coefficients: int = 0  # length, for kind=coefficients
    wave_unit: str = "Angstrom"
    unit: str = "1e-17 erg/s/cm2/Angstrom"  # of the flux
    tokenize: bool = True  # false: only where tokenizer.spectrum.groups names it


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
    size: int = ranged(96, least=1)  # pixels on a side
    pixel_scale: float = ranged(0.55, above=0)  # arcsec per pixel
    a: Optional[str] = "a_pixel_det"  # rms along the major axis, px
    b: Optional[str] = "b_pixel_det"  # rms along the minor axis, px
    theta: Optional[str] = "theta_det"  # position angle from +x, deg
    zero_point_file: Optional[str] = None  # CSV with columns field,band,zero_point


@dataclass
class SplitConfig:
    """Who stands in which split: decided by position or id, never by row order."""

    method: SplitMethod = SplitMethod.auto
    cell_deg: float = ranged(0.25, above=0)  # side of a sky cell
    val_fraction: float = ranged(0.1, least=0, below=1)
    test_fraction: float = ranged(0.1, least=0, below=1)
    seed: int = 0  # of the assignment, apart from the run's seed


@dataclass
class SyntheticConfig:
    """The built-in synthetic sky."""

    n_fields: int = ranged(6, least=1)
    n_objects_per_field: int = ranged(400, least=1)
    seed: int = 0
    n_processes: int = ranged(1, least=1)
    image_fraction: float = 0.35  # objects with cutouts
    spectrum_fraction: float = 0.15  # objects with a DESI-like spectrum
    xp_fraction: float = 0.25  # objects with a Gaia-XP-like spectrum
    corrupt_rows_per_field: int = 2  # rows with a damaged value, as real files have them


@dataclass
class DataConfig:
    """One survey: where its datacubes are and what their columns mean."""

    name: str = MISSING
    root: str = MISSING  # folder with the datacubes, a HATS catalogue, or one file
    layout: Layout = Layout.auto  # how the files are arranged
    hdu: Optional[str] = None  # extension of FITS files with the table, by name or number; null: the first table
    fields: Optional[List[str]] = None  # subset of fields; null: all
    cone: Optional[List[float]] = None  # only what lies in it: right ascension, declination, radius in degrees
    id_column: str = "id"
    ra_column: Optional[str] = "ra"  # deg; null: no positions
    dec_column: Optional[str] = "dec"
    batch_rows: int = ranged(64, least=1)  # rows read at once: memory against speed
    scalars: Dict[str, ScalarConfig] = field(default_factory=dict)
    spectra: Dict[str, SpectrumGroupConfig] = field(default_factory=dict)
    images: Optional[ImageConfig] = None
    splits: SplitConfig = field(default_factory=SplitConfig)
    synthetic: Optional[SyntheticConfig] = None  # set: missing datacubes are generated
