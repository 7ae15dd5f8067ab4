"""The section ``cubes``: what ``build_datacubes.py`` makes datacubes of. What they look like, ``data`` says."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Dict, List, Optional

from ..ranges import ranged
from .run import MISSING


class Ambiguous(str, Enum):
    """What becomes of an object with more than one counterpart within the radius."""

    nearest = "nearest"  # the nearest one is taken, and the object counted
    drop = "drop"  # none is taken


class SpectraFormat(str, Enum):
    """How files hold spectra."""

    desi = "desi"  # coadd-*.fits, spectra-*.fits: FIBERMAP, B_WAVELENGTH, B_FLUX, B_IVAR, B_MASK, …
    sdss = "sdss"  # spec-PLATE-MJD-FIBER.fits: loglam, flux, ivar, and_mask
    table = "table"  # a table per object, a row per pixel: FITS, ECSV, VOTable, CSV, Parquet


class Medium(str, Enum):
    """In what wavelengths were measured."""

    header = "header"  # what the file says (VACUUM, AIRORVAC, CTYPE1=AWAV); vacuum where it says nothing
    vacuum = "vacuum"
    air = "air"  # converted to vacuum


@dataclass
class CatalogueConfig:
    """A table of objects: FITS, ECSV, VOTable, CSV or Parquet."""

    path: Optional[str] = None  # file, or pattern of files with the same columns; relative to cubes.root
    hdu: Optional[str] = None  # FITS: name or number of the extension; null: the first table
    id: Optional[str] = None  # column with the objects' ids
    ra: Optional[str] = None  # columns with the position: degrees, or the unit that the file states
    dec: Optional[str] = None
    columns: Dict[str, str] = field(default_factory=dict)  # name in the datacube: name in this table
    units: Dict[str, str] = field(default_factory=dict)  # name in the datacube: unit, where the file's is wrong
    only: List[str] = field(default_factory=list)  # rows to take: COLUMN=VALUE, or COLUMN=VALUE|VALUE


@dataclass
class MatchedConfig(CatalogueConfig):
    """A further catalogue, joined to the first one."""

    catalogue_id: Optional[str] = None  # column of the first catalogue with this table's id; null: nearest on the sky
    radius: float = 1.0  # arcsec
    ambiguous: Ambiguous = Ambiguous.nearest


@dataclass
class BandSourceConfig:
    """Where one band comes from."""

    name: str = MISSING  # what {band} stands for in paths and extensions
    plane: Optional[int] = None  # of images with three axes, from 0
    zero_point: Optional[float] = None  # AB mag of one count; null: cubes.images.zero_point


@dataclass
class ImageSourceConfig:
    """Tiles with WCS, or a stamp per object. Words in braces: see ``conf/cubes/default.yaml``."""

    path: Optional[str] = (
        None  # null: no images; with {tile}: tiles; with a column of the catalogue such as {id}: a stamp per object
    )
    hdu: Optional[str] = None  # name or number; "*": every image of the file is a tile; null: the first image
    weight: Optional[str] = None  # file with weights or inverse variances: pixels of 0 and below are invalid
    weight_hdu: Optional[str] = None  # null: as hdu; without weight: an extension of the image's own file
    mask: Optional[str] = None  # file with flags
    mask_hdu: Optional[str] = None
    mask_bits: Optional[int] = None  # sum of the flags that make a pixel invalid; null: any
    zero_point: Optional[float] = None  # AB mag of one count; null: counts stay as they are
    zero_point_key: Optional[str] = None  # keyword of the image's header (or of its file's first) that says so
    bands: Dict[str, BandSourceConfig] = field(default_factory=dict)  # by the names of data.images.bands; empty: all


@dataclass
class SpectraSourceConfig:
    """Files with spectra."""

    format: SpectraFormat = SpectraFormat.desi
    path: Optional[str] = None  # pattern of files; with a column of the catalogue such as {id}: a file per object
    hdu: Optional[str] = None  # of format=table
    catalogue_id: Optional[str] = None  # format=desi: column of the catalogue with TARGETID; null: nearest on the sky
    radius: float = 1.0  # arcsec
    ambiguous: Ambiguous = Ambiguous.nearest
    groups: List[str] = field(default_factory=list)  # of data.spectra: one per arm, or cut by wavelength
    flux: str = "flux"  # columns of format=table
    ivar: Optional[str] = None
    error: Optional[str] = None
    wave: Optional[str] = None  # null: on the grid of data.spectra
    log_wave: bool = False  # wave is the decimal logarithm
    mask: Optional[str] = None
    mask_bits: Optional[int] = None  # sum of the flags that make a pixel invalid; null: any
    flux_unit: Optional[str] = None  # null: what the file states, else that of data.spectra
    wave_unit: Optional[str] = None
    medium: Medium = Medium.header


@dataclass
class FieldsConfig:
    """What becomes one file."""

    column: Optional[str] = None  # column of the catalogue with the name of the field
    # a tile of this HEALPix order (nested): 5 is 3.4 square degrees
    healpix_order: Optional[int] = ranged(None, least=0)
    name: str = "ALL"  # of the only field, with neither


@dataclass
class CubesConfig:
    """``build_datacubes.py``."""

    root: str = "."  # folder that the paths below are relative to
    catalogue: CatalogueConfig = field(default_factory=CatalogueConfig)
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    images: ImageSourceConfig = field(default_factory=ImageSourceConfig)
    spectra: Dict[str, SpectraSourceConfig] = field(default_factory=dict)
    matches: Dict[str, MatchedConfig] = field(default_factory=dict)
    chunk_rows: int = ranged(256, least=1)  # rows held at once, and of a row group
    overwrite: bool = False  # build again what is up to date
