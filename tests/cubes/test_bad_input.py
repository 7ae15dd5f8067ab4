"""Input that cannot be used: one line that says file, extension or column, and repair; what was written is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from astromodal.cubes.build import build_survey
from astromodal.errors import UserError
from tests.cubes import made

TEMPLATE = "datacube_{field}.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made.write_catalogue(tmp_path / "fits")
    return tmp_path / "fits"


def refused(root: Path, data=None, template: str = TEMPLATE, **sections) -> str:
    """The line of the error; nothing but it is left."""
    folder = root.parent / "cubes"
    before = {p.name: p.read_bytes() for p in folder.glob("*") if p.is_file()} if folder.is_dir() else {}
    with pytest.raises(UserError) as raised:
        build_survey(data or made.data(folder), made.cubes(root, **sections), str(folder / template))
    left = {p.name: p.read_bytes() for p in folder.glob("*")} if folder.is_dir() else {}
    assert {name: value for name, value in left.items() if not name.endswith(".lock")} == before
    line = str(raised.value)
    assert "\n" not in line and len(line) < 500
    return line


def tile(root: Path, name: str = "a_r.fits", **options) -> Path:
    ra, dec = made.positions()
    made.write_tile(root / name, made.RA + 50 / 3600, made.DEC + 30 / 3600, (ra, dec, np.full(24, 9.0)), **options)
    return root / name


TILES = {"path": "{tile}_{band}.fits", "bands": {"r": {"name": "r"}}}
DESI = {"path": "coadd-*.fits", "groups": ["desi_b", "desi_r"]}


def test_the_catalogue(root: Path):
    line = refused(root, catalogue={"ra": "RAJ200"})
    assert "column RAJ200" in line and "RAJ2000" in line and "catalogue.fits" in line
    assert "no ra" in refused(root, catalogue={"ra": None}) and "cubes.catalogue.ra=" in refused(
        root, catalogue={"ra": None}
    )
    assert "none.fits" in refused(root, catalogue={"path": "none.fits"})
    assert "a table in extension 7" in refused(root, catalogue={"hdu": "7"})
    assert "type string" in refused(root, catalogue={"dec": "patch"})


def test_ids_that_repeat(root: Path):
    table = Table.read(root / "catalogue.fits")
    table["name"][[3, 7]] = "o001"
    table.write(root / "catalogue.fits", overwrite=True)
    line = refused(root)
    assert "o001 3 times" in line and "column name" in line and "cubes.catalogue.only" in line


def test_no_positions_in_any_row_and_declinations_that_are_none(root: Path):
    table = Table.read(root / "catalogue.fits")
    table["RAJ2000"] = np.nan
    table.write(root / "catalogue.fits", overwrite=True)
    assert "RAJ2000" in refused(root)
    table["DEJ2000"] = np.linspace(0, 100, 24)
    table.write(root / "catalogue.fits", overwrite=True)
    assert "declinations of -90 to 90" in refused(root)


def test_a_file_that_is_cut_off_or_not_fits(root: Path):
    path = tile(root)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "a complete FITS file" in (line := refused(root, images=TILES)) and "a_r.fits" in line
    path.write_bytes(b"<html>404</html>" * 400)
    assert "a complete FITS file" in refused(root, images=TILES)
    inside = root / "coadd-1.fits"
    ra, dec = made.positions()
    made.write_desi(inside, np.arange(24), ra, dec)
    inside.write_bytes(inside.read_bytes()[:-8000])
    assert "coadd-1.fits" in refused(root, spectra={"desi": DESI})


def test_a_missing_extension_and_wavelengths_that_disagree(root: Path):
    ra, dec = made.positions()
    path = root / "coadd-1.fits"
    made.write_desi(path, np.arange(24), ra, dec)
    with fits.open(path) as hdus:
        fits.HDUList([h.copy() for h in hdus if h.name != "R_IVAR"]).writeto(root / "coadd-2.fits")
        hdus["B_WAVELENGTH"].data = hdus["B_WAVELENGTH"].data[:-1]
        hdus.writeto(root / "coadd-3.fits")
    line = refused(root, spectra={"desi": DESI | {"path": "coadd-2.fits"}})
    assert "an extension R_IVAR" in line and "coadd-2.fits" in line
    line = refused(root, spectra={"desi": DESI | {"path": "coadd-3.fits"}})
    assert "(80,) wavelengths" in line and "extensions B_" in line
    assert "as many arms" in refused(root, spectra={"desi": DESI | {"groups": ["desi_b"]}})
    assert (
        "desi_r" in (line := refused(root, spectra={"desi": DESI | {"groups": ["desi_b", "desi_q"]}}))
        and "desi_q" in line
    )
    assert "extension FIBERMAP" in refused(root, spectra={"desi": DESI | {"path": "catalogue.fits"}})


def test_wcs_and_pixels_that_do_not_fit(root: Path):
    path = tile(root, scale=0.25)
    line = refused(root, images=TILES)
    assert "pixels of 0.5 arcsec, got 0.25" in line and "data.images.pixel_scale=0.25" in line
    fits.PrimaryHDU(np.zeros((20, 20), np.float32)).writeto(path, overwrite=True)
    assert "a WCS with two axes on the sky" in refused(root, images=TILES)
    header = made.wcs_at(10.0, 0.0, 20, 20).to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---SIN", "DEC--SIN"
    header["CRPIX1"] = 9e5  # the image is beyond the horizon of the projection
    fits.PrimaryHDU(np.zeros((20, 20), np.float32), header).writeto(path, overwrite=True)
    assert "projects" in refused(root, images=TILES)
    fits.PrimaryHDU(np.zeros((20, 20), np.float32), made.wcs_at(180.0, 45.0, 20, 20).to_header()).writeto(
        path, overwrite=True
    )
    line = refused(root, images=TILES)
    assert "images where the objects of the catalogue are" in line and "ra 180.000, dec 45.000" in line


def test_zero_points_weights_and_words(root: Path):
    tile(root)
    assert "keyword MAGZERO, got None" in refused(root, images=TILES | {"zero_point_key": "MAGZERO"})
    assert "a_w.fits" in refused(root, images=TILES | {"weight": "{tile}_w.fits"})
    fits.PrimaryHDU(np.ones((9, 9), np.float32)).writeto(root / "a_w.fits")
    assert "weight image of (200, 260) pixels" in refused(root, images=TILES | {"weight": "{tile}_w.fits"})
    line = refused(root, images=TILES | {"path": "{NAME}_{band}.fits"})
    assert "got NAME" in line and "column" in line
    assert "got x" in refused(root, images=TILES | {"bands": {"x": {"name": "r"}}})
    assert "images of band g" in refused(root, images=TILES | {"bands": {"g": {"name": "g"}}})
    assert "values for {PLATE:3s}_{band}.fits" in refused(root, images=TILES | {"path": "{PLATE:3s}_{band}.fits"})


def test_units_that_do_not_convert_and_columns_with_two_sources(root: Path):
    Table({"n": ["o001"], "plx": [1.0]}, units={"plx": "km"}).write(root / "g.fits")
    match = {"path": "g.fits", "id": "n", "catalogue_id": "name", "columns": {"parallax": "plx"}}
    line = refused(root, matches={"gaia": match})
    assert "a unit that converts to mas, got km" in line and "cubes.matches.gaia.units.parallax" in line
    line = refused(
        root, matches={"gaia": match | {"units": {"parallax": "mas"}}}, catalogue={"columns": {"parallax": "mag_r"}}
    )
    assert "parallax from cubes.catalogue and cubes.matches.gaia" in line
    assert "no id" in refused(root, matches={"gaia": match | {"id": None}})


def test_a_datacube_of_someone_else_and_another_division(root: Path):
    folder = root.parent / "cubes"
    folder.mkdir()
    (folder / "datacube_ALL.parquet").write_bytes(b"mine")
    line = refused(root)
    assert "datacube_ALL.parquet" in line and "data.root=" in line
    (folder / "datacube_ALL.parquet").unlink()
    build_survey(made.data(folder), made.cubes(root), str(folder / TEMPLATE))
    assert "got ALL" in refused(root, fields={"column": "patch"})
    assert "got nowhere" in refused(root, data=made.data(folder, fields=["nowhere"]))


def test_a_damaged_image_leaves_what_was_written(root: Path):
    for name in ("west", "east"):
        tile(root, f"{name}_r.fits", compress=True)
    folder = root.parent / "cubes"
    sections = {"images": TILES | {"path": "{field}_{band}.fits"}, "fields": {"column": "patch"}}
    build_survey(made.data(folder), made.cubes(root, **sections), str(folder / TEMPLATE))
    content = bytearray((root / "east_r.fits").read_bytes())
    content[20_000:60_000] = bytes(40_000)
    (root / "east_r.fits").write_bytes(content)
    line = refused(root, **sections)  # asserts that the folder is as it was
    assert line.startswith("field east was not built: ") and "east_r.fits, extension 1" in line
