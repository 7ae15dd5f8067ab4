"""A small sky as an archive would deliver it: FITS images with WCS, spectra of DESI and SDSS, Gaia XP, catalogues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from omegaconf import OmegaConf

from astromodal.config.schema import CubesConfig, DataConfig

SIZE, SCALE = 16, 0.5  # px, arcsec
RA, DEC = 359.999, -0.01  # the sky is around 0 h, where right ascension wraps
DATA = {
    "name": "made",
    "root": "cubes",
    "scalars": {"mag_r": {"unit": "mag", "min": 5, "max": 35}, "z": {"column": "specz_z"}, "parallax": {"unit": "mas"}},
    "spectra": {
        "desi_b": {"flux": "flux_b", "ivar": "ivar_b", "wave": "wave_b", "wave_min": 3600.0, "wave_max": 3680.0},
        "desi_r": {"flux": "flux_r", "ivar": "ivar_r", "wave": "wave_r", "wave_min": 3672.0, "wave_max": 3752.0},
        "xp": {"kind": "coefficients", "flux": "xp", "error": "xp_error", "n_coefficients": 5},
        "sampled": {
            "flux": "s_flux",
            "error": "s_error",
            "wave": "s_wave",
            "wave_min": 336.0,
            "wave_max": 344.0,
            "wave_step": 2.0,
            "wave_unit": "nm",
            "unit": "W/m2/nm",
        },
    },
    "images": {
        "size": SIZE,
        "pixel_scale": SCALE,
        "a": None,
        "b": None,
        "theta": None,
        "bands": {"g": {"column": "cut_g", "zero_point": 22.5}, "r": {"column": "cut_r", "zero_point": 25.0}},
    },
}


def data(root: Path | str = "cubes", **changes) -> DataConfig:
    """``data`` of the made sky."""
    merged = OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.create(DATA), {"root": str(root)}, changes)
    return OmegaConf.to_object(merged)


def cubes(root: Path, **sections) -> CubesConfig:
    """``cubes`` with the catalogue of :func:`write_catalogue`."""
    catalogue = {"path": "catalogue.fits", "id": "name", "ra": "RAJ2000", "dec": "DEJ2000"}
    sections["catalogue"] = catalogue | sections.get("catalogue", {})
    merged = OmegaConf.merge(OmegaConf.structured(CubesConfig), {"root": str(root)}, sections)
    return OmegaConf.to_object(merged)


def positions(n: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Objects on a grid with jitter, 20 arcsec apart: nobody is near another."""
    rng = np.random.default_rng(seed)
    k = np.arange(n)
    ra = RA + (k % 6 * 20 + rng.uniform(-3, 3, n)) / 3600
    dec = DEC + (k // 6 * 20 + rng.uniform(-3, 3, n)) / 3600
    return ra % 360, dec


def write_catalogue(root: Path, n: int = 24, **columns) -> Table:
    """``catalogue.fits``: names, positions, a magnitude in big-endian, a field."""
    root.mkdir(parents=True, exist_ok=True)
    ra, dec = positions(n)
    table = Table(
        {
            "name": [f"o{i:03d}" for i in range(n)],
            "RAJ2000": ra,
            "DEJ2000": dec,
            "mag_r": np.linspace(15, 22, n).astype(">f4"),
            "patch": np.where(np.arange(n) < n // 2, "west", "east"),
            "TARGETID": 1000 + np.arange(n),
            "PLATE": np.full(n, 266),
            "FIBER": np.arange(n),
        }
        | columns
    )
    table["RAJ2000"].unit = table["DEJ2000"].unit = "deg"
    table.write(root / "catalogue.fits", overwrite=True)
    return table


def wcs_at(ra: float, dec: float, n_x: int, n_y: int, scale: float = SCALE, turn: float = 20.0) -> WCS:
    """A tangential projection, turned by some degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra, dec], [n_x / 2 + 0.5, n_y / 2 + 0.5]
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    return wcs


def draw(wcs: WCS, shape: tuple[int, int], ra: np.ndarray, dec: np.ndarray, flux: np.ndarray, width: float = 1.2):
    """An image with Gaussian sources of known flux (counts) at known positions, without noise."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for a, d, f in zip(ra, dec, flux, strict=True):
        x0, y0 = wcs.world_to_pixel_values(a, d)
        image += f * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * width**2)) / (2 * np.pi * width**2)
    return image.astype(np.float32)


def write_tile(
    path: Path,
    ra: float,
    dec: float,
    sources: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    shape=(200, 260),
    zero_point: float | None = None,
    compress: bool = False,
    weight: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    scale: float = SCALE,
) -> np.ndarray:
    """A tile; returns its pixels."""
    wcs = wcs_at(ra, dec, shape[1], shape[0], scale)
    image, header = draw(wcs, shape, *sources), wcs.to_header()
    if zero_point is not None:
        header["MAGZERO"] = zero_point
    path.parent.mkdir(parents=True, exist_ok=True)
    if compress:
        kind = {"compression_type": "GZIP_2", "quantize_level": 0.0}  # without loss
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(image, header, name="SCI", **kind)]
        if weight is not None:
            hdus.append(fits.CompImageHDU(weight, header, name="WHT", **kind))
    else:
        hdus = [fits.PrimaryHDU(image, header)]
        if weight is not None:
            hdus.append(fits.ImageHDU(weight, header, name="WHT"))
    if mask is not None:
        hdus.append(fits.ImageHDU(mask, header, name="MASK"))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return image


def write_desi(path: Path, target: np.ndarray, ra: np.ndarray, dec: np.ndarray, seed: int = 0, **extra) -> dict:
    """A file as DESI's: FIBERMAP, and per arm wavelength, flux, ivar, mask; returns what is in it."""
    rng, n = np.random.default_rng(seed), len(target)
    fibermap = Table(
        {
            "TARGETID": target,
            "TARGET_RA": ra,
            "TARGET_DEC": dec,
            "OBJTYPE": ["TGT"] * n,
            "COADD_FIBERSTATUS": np.zeros(n, np.int32),
        }
        | extra
    )
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(fibermap, name="FIBERMAP")]
    inside = {}
    for arm, first, last, compressed in (("B", 3600.0, 3680.0, True), ("R", 3672.0, 3752.0, False)):
        wave = np.linspace(first, last, 81)
        flux, ivar = rng.normal(5, 1, (n, 81)).astype("f4"), rng.uniform(0.5, 2, (n, 81)).astype("f4")
        mask = (rng.random((n, 81)) < 0.1).astype(np.uint32) * 2**31
        inside[arm] = {"wave": wave, "flux": flux, "ivar": ivar, "mask": mask}
        flux_hdu = fits.ImageHDU(flux, name=f"{arm}_FLUX")
        flux_hdu.header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
        wave_hdu = fits.ImageHDU(wave, name=f"{arm}_WAVELENGTH")
        wave_hdu.header["BUNIT"] = "Angstrom"
        hdus += [
            wave_hdu,
            flux_hdu,
            fits.ImageHDU(ivar, name=f"{arm}_IVAR"),
            (fits.CompImageHDU if compressed else fits.ImageHDU)(mask, name=f"{arm}_MASK"),
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return inside


def write_sdss(path: Path, ra: float, dec: float, seed: int = 0, **header) -> dict:
    """A file as SDSS's spec-PLATE-MJD-FIBER.fits."""
    rng = np.random.default_rng(seed)
    loglam = 3.5562 + 1e-4 * np.arange(200)  # 3599 to 3769 Angstrom
    columns = {
        "flux": rng.normal(3, 1, 200).astype("f4"),
        "loglam": loglam.astype("f4"),
        "ivar": rng.uniform(1, 2, 200).astype("f4"),
        "and_mask": (rng.random(200) < 0.1).astype(np.int32) * 2**23,
    }
    primary = fits.PrimaryHDU()
    for key, value in ({"PLUG_RA": ra, "PLUG_DEC": dec, "VACUUM": True} | header).items():
        primary.header[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([primary, fits.BinTableHDU(Table(columns), name="COADD")]).writeto(path, overwrite=True)
    return columns
