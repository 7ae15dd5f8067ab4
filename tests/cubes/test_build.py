"""Datacubes built from FITS files made here, read again through the program's own reader."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS

from astromodal.config.schema import WorkersConfig
from astromodal.cubes.build import build_survey
from astromodal.cubes.fits_files import OpenFiles
from astromodal.data.datacube import discover
from astromodal.data.images import read_images
from astromodal.data.photometry import counts_to_nanomaggies
from astromodal.data.spectra import read_spectra
from tests.cubes import made

TEMPLATE = "datacube_{field}.parquet"


def build(folder: Path, cubes, data=None, **options):
    """Build into ``folder/cubes``; returns the result, and one batch per field with all columns."""
    data = data or made.data(folder / "cubes")
    result = build_survey(data, cubes, str(folder / "cubes" / TEMPLATE), **options)
    found = {
        c.field: next(iter(c.batches(c.columns, rows=10_000))) for c in discover(data, str(folder / "cubes" / TEMPLATE))
    }
    return result, found, data


def ids(batch) -> list[str]:
    return batch.column("id").to_pylist()


def two_tiles(root: Path, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles ``a`` and ``b`` of both bands over the western and the eastern objects; returns the sources."""
    ra, dec = made.positions()
    flux = np.linspace(1000.0, 3000.0, len(ra))
    for tile, at in (("a", made.RA + 25 / 3600), ("b", made.RA + 75 / 3600)):
        for band, zero_point in (("G", 25.0), ("R", 26.0)):
            made.write_tile(
                root / f"{tile}_{band}.fits.fz",
                at,
                made.DEC + 30 / 3600,
                (ra, dec, flux),
                shape=(180, 150),
                zero_point=zero_point,
                compress=True,
                **options,
            )
    return ra, dec, flux


IMAGES = {
    "path": "{tile}_{band}.fits.fz",
    "zero_point_key": "MAGZERO",
    "bands": {"g": {"name": "G"}, "r": {"name": "R"}},
}


def test_sources_of_known_flux_come_back_as_nanomaggies(tmp_path: Path):
    root = tmp_path / "fits"
    table = made.write_catalogue(root)
    flux = two_tiles(root)[2]
    result, batches, data = build(tmp_path, made.cubes(root, images=IMAGES))
    batch = batches["ALL"]
    images = read_images(batch, data, "ALL")
    order = [table["name"].tolist().index(name) for name in ids(batch)]
    assert images.band_present.all() and sorted(order) == list(range(24))
    for band, zero_point in ((0, 25.0), (1, 26.0)):  # of the tiles, not those of data.images
        whole = images.valid[:, band].all((1, 2))
        total = images.flux[:, band].sum((1, 2))
        expected = flux[order] * counts_to_nanomaggies(zero_point)
        assert whole.sum() >= 12 and np.allclose(total[whole], expected[whole], rtol=0.002)
        centre = images.flux[whole, band].reshape(-1, made.SIZE, made.SIZE)
        y, x = np.mgrid[: made.SIZE, : made.SIZE]
        for axis in (x, y):  # at pixel [8, 8] to half a pixel
            assert np.abs((centre * axis).sum((1, 2)) / centre.sum((1, 2)) - made.SIZE // 2).max() <= 0.51
    assert result["inputs"]["images.g"]["found"] == 24 and result["inputs"]["images.g"]["tiles"] == 2


def test_a_cutout_is_astropys_with_nan_beyond_the_edge(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec, _ = two_tiles(root)
    result, batches, _ = build(tmp_path, made.cubes(root, images=IMAGES | {"zero_point_key": None}))
    batch, edges, whole = batches["ALL"], 0, 0
    names, cuts = ids(batch), batch.column("cut_r").to_pylist()
    for i in range(24):
        found = np.array(cuts[names.index(f"o{i:03d}")], np.float32).reshape(made.SIZE, made.SIZE)
        same = []
        for tile in "ab":
            with fits.open(root / f"{tile}_R.fits.fz") as hdus:
                place = WCS(hdus["SCI"].header).world_to_pixel_values(ra[i], dec[i])
                try:
                    cut = Cutout2D(hdus["SCI"].data, np.rint(place), made.SIZE, mode="partial", fill_value=np.nan).data
                except ValueError:
                    continue
                same.append(np.array_equal(cut, found, equal_nan=True))
        assert any(same)
        edges, whole = edges + bool(np.isnan(found).any()), whole + bool(np.isfinite(found).all())
    assert edges == result["inputs"]["images.r"]["edge"] > 0 and whole > 6


@pytest.mark.parametrize("compress", [False, True])
def test_weights_and_masks_make_pixels_invalid_and_are_counted(tmp_path: Path, compress: bool):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    weight, mask = np.ones((260, 320), np.float32), np.zeros((260, 320), np.int16)
    weight[:, 100:110] = 0
    mask[120:130] = 4
    mask[:, 200:210] = 2  # another flag
    made.write_tile(
        root / "t_r.fits",
        made.RA + 50 / 3600,
        made.DEC + 30 / 3600,
        (ra, dec, np.full(24, 500.0)),
        shape=(260, 320),
        weight=weight,
        mask=mask,
        compress=compress,
    )
    images = {
        "path": "{tile}_{band}.fits",
        "weight_hdu": "WHT",
        "mask_hdu": "MASK",
        "mask_bits": 4,
        "bands": {"r": {"name": "r"}},
    }
    result, batches, _ = build(tmp_path, made.cubes(root, images=images))
    cuts = np.array(batches["ALL"].column("cut_r").to_pylist(), np.float32)
    wcs = made.wcs_at(made.RA + 50 / 3600, made.DEC + 30 / 3600, 320, 260)
    expected = 0
    for name, cut in zip(ids(batches["ALL"]), cuts, strict=True):
        x, y = (int(np.rint(v)) - 8 for v in wcs.world_to_pixel_values(ra[int(name[1:])], dec[int(name[1:])]))
        bad = ((weight == 0) | (mask == 4))[y : y + 16, x : x + 16]
        assert np.array_equal(np.isnan(cut.reshape(16, 16)), bad)
        expected += bad.sum()
    assert result["inputs"]["images.r"]["masked"] == expected > 0 and result["inputs"]["images.r"]["edge"] == 0
    assert batches["ALL"].column("cut_g").null_count == 24  # no source: null


def test_stamps_are_cut_where_their_wcs_says_or_in_the_middle(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    for i in range(20):  # four objects have none
        for band, plane in (("g", 0), ("r", 1)):
            wcs = made.wcs_at(ra[i] + 1.0 / 3600, dec[i], 21, 25)  # not centred
            image = made.draw(wcs, (25, 21), ra[[i]], dec[[i]], np.array([100.0 * (plane + 1)]))
            header = wcs.to_header() if i % 2 else None
            if not i % 2:  # without WCS, centred, smaller than the datacube's
                image = made.draw(
                    made.wcs_at(ra[i], dec[i], 11, 11), (11, 11), ra[[i]], dec[[i]], np.array([100.0 * (plane + 1)])
                )
            folder = root / "stamps"
            folder.mkdir(exist_ok=True)
            fits.PrimaryHDU(image, header).writeto(folder / f"266-{i:03d}-{band}.fits")
    images = {"path": "stamps/{PLATE}-{FIBER:03d}-{band}.fits", "zero_point": 25.0}
    result, batches, data = build(tmp_path, made.cubes(root, images=images))
    read = read_images(batches["ALL"], data, "ALL")
    numbers = np.array([int(name[1:]) for name in ids(batches["ALL"])])
    assert np.array_equal(read.present, numbers < 20) and result["inputs"]["images.g"]["no_file"] == 4
    total = read.flux.sum((2, 3))[read.present]
    assert np.allclose(total, [10.0, 20.0], rtol=0.01)  # 100 counts of zero point 25 are 10 nanomaggies
    peak = read.flux[read.present].reshape(20, 2, -1).argmax(2)
    assert (np.abs(np.array(np.unravel_index(peak, (16, 16))) - 8) <= 0).mean() > 0.9
    assert result["inputs"]["images.r"]["edge"] == 10  # those that are smaller


def test_a_plane_and_an_extension_of_stamps(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root, n=12)
    for i in range(12):
        cube = np.full((2, 16, 16), 7.0, np.float32)
        cube[:, 8, 8] = i, 100 + i
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(cube, name="CUBE")]).writeto(root / f"o{i:03d}.fits")
    bands = {"g": {"name": "g", "plane": 0}, "r": {"name": "r", "plane": 1}}
    _, batches, _ = build(tmp_path, made.cubes(root, images={"path": "{id}.fits", "hdu": "cube", "bands": bands}))
    numbers = [int(name[1:]) for name in ids(batches["ALL"])]
    for band, add in (("g", 0), ("r", 100)):
        cuts = np.array(batches["ALL"].column(f"cut_{band}").to_pylist()).reshape(-1, 16, 16)
        assert cuts[:, 8, 8].tolist() == [n + add for n in numbers]


# ------------------------------------------------------------------------------------------ spectra


@pytest.mark.parametrize("by", ["id", "position"])
def test_spectra_of_desi_come_with_their_masks_and_units(tmp_path: Path, by: str):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    some = np.array([3, 20, 7, 11, 15])
    extra = {"OBJTYPE": ["TGT", "TGT", "SKY", "TGT", "TGT"], "COADD_FIBERSTATUS": np.array([0, 0, 0, 8, 0], np.int32)}
    inside = made.write_desi(root / "d" / "coadd-1.fits", 1000 + some, ra[some] + 0.2 / 3600, dec[some], **extra)
    source = {"path": "**/coadd-*.fits", "groups": ["desi_b", "desi_r"]}
    source |= {"catalogue_id": "TARGETID"} if by == "id" else {"radius": 1.0}
    result, batches, data = build(tmp_path, made.cubes(root, spectra={"desi": source}))
    read = {arm: read_spectra(batches["ALL"], data, f"desi_{arm}") for arm in "br"}
    place = {name: k for k, name in enumerate(ids(batches["ALL"]))}
    for row, number in enumerate(some):
        k, has = place[f"o{number:03d}"], row in (0, 1, 4)
        assert read["b"].present[k] == read["r"].present[k] == has
        if has:
            for arm in "br":
                truth, got = inside[arm.upper()], read[arm]
                good = truth["mask"][row] == 0
                assert np.array_equal(got.precision[k] > 0, good)
                assert np.allclose((got.flux[k] * got.scale[k])[good], truth["flux"][row][good], rtol=1e-5)
                assert np.allclose((got.precision[k] / got.scale[k])[good] ** 2, truth["ivar"][row][good], rtol=1e-5)
    counts = result["inputs"]["spectra.desi"]
    assert (counts["matched"], counts["unmatched"], counts["not_targets"], counts["bad_fibers"]) == (3, 21, 1, 1)
    assert (
        counts["desi_b.masked"] == sum((inside["B"]["mask"][r] > 0).sum() for r in (0, 1, 4)) and counts["unused"] == 0
    )


def test_exposures_of_one_target_are_averaged_by_their_ivar(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    some = np.array([5, 9, 5, 5])
    inside = made.write_desi(root / "spectra-1.fits", 1000 + some, ra[some], dec[some])
    result, batches, _ = build(
        tmp_path, made.cubes(root, spectra={"desi": {"path": "spectra-*.fits", "groups": ["desi_b", "desi_r"]}})
    )
    k = ids(batches["ALL"]).index("o005")
    b = inside["B"]
    ivar = np.where(b["mask"] > 0, 0, b["ivar"]).astype(float)[[0, 2, 3]]
    flux = (ivar * b["flux"][[0, 2, 3]]).sum(0) / np.maximum(ivar.sum(0), 1e-30)
    assert np.allclose(batches["ALL"].column("flux_b")[k].as_py(), flux, rtol=1e-5)
    assert np.allclose(batches["ALL"].column("ivar_b")[k].as_py(), ivar.sum(0), rtol=1e-5)
    assert result["inputs"]["spectra.desi"]["exposures"] == 2


@pytest.mark.parametrize("named", [True, False])
def test_a_spectrum_of_sdss_is_cut_by_the_grids_of_the_groups(tmp_path: Path, named: bool):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    truth = {i: made.write_sdss(root / f"spec-0266-{i:04d}.fits", ra[i], dec[i], seed=i) for i in (2, 13)}
    path = "spec-{PLATE:04d}-{FIBER:04d}.fits" if named else "spec-*.fits"
    source = {"format": "sdss", "path": path, "groups": ["desi_b", "desi_r"]}
    result, batches, data = build(tmp_path, made.cubes(root, spectra={"boss": source}))
    batch = batches["ALL"]
    for i, columns in truth.items():
        k = ids(batch).index(f"o{i:03d}")
        wave = 10 ** columns["loglam"].astype(float)
        inside = (wave >= 3671) & (wave <= 3753)
        assert np.allclose(batch.column("wave_r")[k].as_py(), wave[inside], rtol=1e-6)
        assert np.allclose(batch.column("flux_r")[k].as_py(), columns["flux"][inside])
        masked = np.array(batch.column("ivar_r")[k].as_py()) == 0
        assert np.array_equal(masked, columns["and_mask"][inside] != 0)
    assert read_spectra(batch, data, "desi_b").present.sum() == 2 == result["inputs"]["spectra.boss"]["matched"]


def test_the_first_source_that_has_a_spectrum_is_the_one(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    columns = made.write_sdss(root / "spec-1.fits", ra[2], dec[2])
    made.write_sdss(root / "spec-2.fits", ra[4], dec[4])
    Table({"f": np.arange(81.0), "w": np.linspace(3600, 3680, 81)}).write(root / "o002.fits")  # without errors
    both = {
        "mine": {"format": "table", "path": "{id}.fits", "groups": ["desi_b"], "flux": "f", "wave": "w"},
        "boss": {"format": "sdss", "path": "spec-*.fits", "groups": ["desi_b", "desi_r"]},
    }
    result, batches, _ = build(tmp_path, made.cubes(root, spectra=both))
    k, other = (ids(batches["ALL"]).index(name) for name in ("o002", "o004"))
    read = {name: batches["ALL"].column(name).to_pylist() for name in ("flux_b", "ivar_b", "flux_r")}
    assert read["flux_b"][k] == list(range(81)) and read["ivar_b"][k] is None  # and not that of the other
    assert None not in (read["flux_r"][k], read["ivar_b"][other])  # the arm that the first one lacks
    assert np.isin(np.float32(read["flux_r"][k]), columns["flux"]).all()
    assert result["inputs"]["spectra.boss"]["had_already"] == 1


def test_a_table_per_object_in_air_and_other_units(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    air = np.linspace(362.0, 366.0, 41)  # nm
    for name in ("o003", "o010"):
        table = Table(
            {"w": air, "f": np.full(41, 2e-19), "e": np.full(41, 1e-20)}, units={"w": "nm", "f": "W m-2 nm-1"}
        )
        table.write(root / f"{name}.ecsv", format="ascii.ecsv")
    source = {
        "format": "table",
        "path": "{id}.ecsv",
        "groups": ["desi_b"],
        "flux": "f",
        "error": "e",
        "wave": "w",
        "medium": "air",
    }
    _, batches, _ = build(tmp_path, made.cubes(root, spectra={"mine": source}))
    k = ids(batches["ALL"]).index("o010")
    wave = np.array(batches["ALL"].column("wave_b")[k].as_py())
    assert np.allclose(wave - 10 * air, 1.04, atol=0.02)  # in vacuum they are longer by 1.04 Angstrom here
    assert np.allclose(batches["ALL"].column("flux_b")[k].as_py(), 2.0)  # 1e-17 erg/s/cm2/Angstrom are 1e-19 W/m2/nm
    assert np.allclose(batches["ALL"].column("ivar_b")[k].as_py(), 100.0)


XP_COLUMNS = {"xp": "bp_coefficients", "xp_error": "bp_coefficient_errors", "parallax": "parallax"}


@pytest.mark.parametrize("form", ["csv", "ecsv", "fits", "xml", "parquet"])
def test_gaia_xp_coefficients_of_every_format(tmp_path: Path, form: str):
    root = tmp_path / "fits"
    rng = np.random.default_rng(0)
    source_id = 5853498713190525696 + np.arange(24)  # beyond what a float holds
    made.write_catalogue(root, gaia_id=np.where(np.arange(24) % 3, source_id, 0))
    values, errors = rng.normal(size=(24, 5)), rng.uniform(0.1, 1, (24, 5))
    table = Table(
        {
            "source_id": source_id[::-1],
            "bp_coefficients": values[::-1],
            "bp_coefficient_errors": errors[::-1],
            "parallax": np.arange(24.0)[::-1],
        },
        units={"parallax": "arcsec"},
    )
    path = root / f"XP_CONTINUOUS.{form}"
    if form == "csv":  # as Gaia's archive writes arrays; a csv has no units
        lines = ["source_id,bp_coefficients,bp_coefficient_errors,parallax"]
        for row in table:
            lists = ['"(' + ", ".join(map(repr, map(float, row[c]))) + ')"' for c in table.colnames[1:3]]
            lines.append(f"{row['source_id']},{','.join(lists)},{1000 * row['parallax']}")
        path.write_text("\n".join(lines) + "\n")
    else:
        kind = {"ecsv": "ascii.ecsv", "fits": "fits", "xml": "votable", "parquet": "parquet"}[form]
        if form == "parquet":
            table["parallax"] = 1000 * table["parallax"].value
            table["parallax"].unit = None
        table.write(path, format=kind)
    match = {"path": path.name, "id": "source_id", "catalogue_id": "gaia_id", "columns": XP_COLUMNS}
    result, batches, data = build(tmp_path, made.cubes(root, matches={"gaia": match}))
    batch = batches["ALL"]
    numbers = np.array([int(name[1:]) for name in ids(batch)])
    xp = read_spectra(batch, data, "xp")
    assert np.array_equal(xp.present, numbers % 3 > 0) and xp.has_ivar[xp.present].all()
    assert np.allclose((xp.flux * xp.scale[:, None])[xp.present], values[numbers][xp.present], rtol=1e-5)
    parallax = np.array(batch.column("parallax").to_pylist(), float)[xp.present]
    assert np.allclose(parallax, 1000.0 * numbers[xp.present])  # arcsec became mas
    assert (result["inputs"]["matches.gaia"]["matched"], result["inputs"]["matches.gaia"]["unused"]) == (16, 8)


def test_a_file_in_which_nobody_has_a_list_goes_before_one_that_has(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    (root / "XP_1.csv").write_text("source,bp\no001,\no002,\n")
    (root / "XP_2.csv").write_text('source,bp\no003,"[1, 2, 3, 4, 5]"\no004,"[]"\n')
    match = {"path": "XP_*.csv", "id": "source", "catalogue_id": "name", "columns": {"xp": "bp"}}
    _, batches, _ = build(tmp_path, made.cubes(root, matches={"gaia": match}))
    xp = dict(zip(ids(batches["ALL"]), batches["ALL"].column("xp").to_pylist(), strict=True))
    assert [xp[f"o00{i}"] for i in (1, 3, 4)] == [None, [1.0, 2.0, 3.0, 4.0, 5.0], None]


def test_sampled_spectra_without_wavelengths_lie_on_the_grid(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    flux = np.random.default_rng(1).normal(3e-17, 1e-18, (24, 5))
    Table({"ra": ra, "dec": dec, "flux": flux, "flux_error": 0.1 * flux}).write(root / "XP_SAMPLED.fits")
    match = {
        "path": "XP_SAMPLED.fits",
        "ra": "ra",
        "dec": "dec",
        "columns": {"s_flux": "flux", "s_error": "flux_error"},
    }
    _, batches, data = build(tmp_path, made.cubes(root, matches={"sampled": match}))
    read = read_spectra(batches["ALL"], data, "sampled")
    numbers = [int(name[1:]) for name in ids(batches["ALL"])]
    assert read.present.all() and np.allclose(read.flux * read.scale[:, None], flux[numbers], rtol=1e-5)
    assert np.allclose(read.precision, np.abs(read.flux) ** 0 * read.scale[:, None] / (0.1 * flux[numbers]), rtol=1e-4)


# ---------------------------------------------------------------------------------------- matching


def test_the_nearest_one_to_one_and_what_is_ambiguous(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    other = Table(
        {
            "a": [ra[0] + 0.5 / 3600, ra[0] + 0.1 / 3600, ra[1], ra[2] + 5 / 3600, np.nan],
            "d": [dec[0], dec[0], dec[1], dec[2], 0],
            "z": [9.0, 1.0, 2.0, 3.0, 4.0],
        }
    )
    other.write(root / "z.fits")
    match = {"path": "z.fits", "ra": "a", "dec": "d", "columns": {"specz_z": "z"}, "radius": 1.0}
    result, batches, _ = build(tmp_path, made.cubes(root, matches={"z": match}))
    z = dict(zip(ids(batches["ALL"]), batches["ALL"].column("specz_z").to_pylist(), strict=True))
    assert (z["o000"], z["o001"], z["o002"]) == (1.0, 2.0, None)  # the second is nearer than the first
    counts = result["inputs"]["matches.z"]
    assert (counts["matched"], counts["ambiguous"], counts["unused"]) == (2, 1, 3)
    result, batches, _ = build(tmp_path, made.cubes(root, matches={"z": match | {"ambiguous": "drop"}}))
    z = dict(zip(ids(batches["ALL"]), batches["ALL"].column("specz_z").to_pylist(), strict=True))
    assert (z["o000"], z["o001"]) == (None, 2.0)


def test_a_row_is_not_given_to_objects_of_two_fields(tmp_path: Path):
    root = tmp_path / "fits"
    table = made.write_catalogue(root)
    table["RAJ2000"][12] = (table["RAJ2000"][11] + 0.8 / 3600) % 360  # an eastern object beside a western one
    table["DEJ2000"][12] = table["DEJ2000"][11]
    table.write(root / "catalogue.fits", overwrite=True)
    Table({"a": [table["RAJ2000"][11] + 0.5 / 3600], "d": [table["DEJ2000"][11]], "z": [1.0]}).write(root / "z.fits")
    match = {"path": "z.fits", "ra": "a", "dec": "d", "columns": {"specz_z": "z"}, "radius": 1.0}
    result, batches, _ = build(tmp_path, made.cubes(root, matches={"z": match}, fields={"column": "patch"}))
    z = {
        name: value
        for b in batches.values()
        for name, value in zip(ids(b), b.column("specz_z").to_pylist(), strict=True)
    }
    assert z["o012"] == 1.0 and z["o011"] is None  # the nearer one, in the other field
    assert result["inputs"]["matches.z"]["taken"] == 1 and sorted(batches) == ["east", "west"]


def test_tiles_of_the_sky_hold_everyone_once(tmp_path: Path):
    pytest.importorskip("astropy_healpix")
    root = tmp_path / "fits"
    made.write_catalogue(root)
    _, batches, _ = build(tmp_path, made.cubes(root, fields={"healpix_order": 10}))
    assert len(batches) > 1 and all(name.startswith("Norder10-Npix") for name in batches)
    assert sorted(name for b in batches.values() for name in ids(b)) == [f"o{i:03d}" for i in range(24)]


# ------------------------------------------------------------------------------ resuming, processes


def whole(root: Path) -> dict:
    """Sections with images, spectra and a match."""
    made.write_catalogue(root)
    ra, dec, _ = two_tiles(root)
    made.write_desi(root / "coadd-1.fits", np.arange(24), ra, dec)
    Table({"a": ra[:5], "d": dec[:5], "z": np.arange(5.0)}).write(root / "z.fits", overwrite=True)
    return {
        "images": IMAGES,
        "spectra": {"desi": {"path": "coadd-*.fits", "groups": ["desi_b", "desi_r"]}},
        "matches": {"z": {"path": "z.fits", "ra": "a", "dec": "d", "columns": {"specz_z": "z"}}},
        "fields": {"column": "patch"},
        "chunk_rows": 5,
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.parquet"))}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """A folder with ``fits`` and the ``cubes`` built of it; the sections; the result. Read only."""
    folder = tmp_path_factory.mktemp("built")
    sections = whole(folder / "fits")
    sections["catalogue"] = {"columns": {"plate": "PLATE"}}
    return folder, sections, build(folder, made.cubes(folder / "fits", **sections))[0]


def test_killed_and_resumed_gives_the_same_bytes(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from astromodal.cubes.field import Field

    folder, sections, _ = built
    chunk, n = Field._chunk, []

    def dies(self, rows):
        n.append(len(rows))
        if len(n) == 5:  # in the second field
            raise KeyboardInterrupt
        return chunk(self, rows)

    monkeypatch.setattr(Field, "_chunk", dies)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, made.cubes(folder / "fits", **sections))
    left = [p.name for p in (tmp_path / "cubes").iterdir()]
    assert [name for name in left if name.endswith(".parquet")] == ["datacube_east.parquet"]
    assert not [name for name in left if "tmp" in name or name.startswith(".building-")]
    monkeypatch.setattr(Field, "_chunk", chunk)
    result, *_ = build(tmp_path, made.cubes(folder / "fits", **sections))
    assert (result["built"], result["up_to_date"]) == (["west"], ["east"])
    assert contents(folder / "cubes") == contents(tmp_path / "cubes")


def test_processes_make_the_same_bytes(built, tmp_path: Path):
    folder, sections, one = built
    two, *_ = build(tmp_path, made.cubes(folder / "fits", **sections), workers=WorkersConfig(n_jobs=2))
    assert contents(folder / "cubes") == contents(tmp_path / "cubes") and one["inputs"] == two["inputs"]


def test_what_has_changed_is_built_again_and_nothing_else(built, tmp_path: Path):
    shutil.copytree(built[0], tmp_path, dirs_exist_ok=True)
    root, sections = tmp_path / "fits", built[1]

    def again(**changes) -> list[str]:
        return build(tmp_path, made.cubes(root, **(sections | changes)))[0]["built"]

    assert again() == []
    table = Table.read(root / "catalogue.fits")
    table["mag_r"][0] += 1  # of the western field
    table.write(root / "catalogue.fits", overwrite=True)
    (tmp_path / "cubes" / "datacube_east.parquet").write_bytes(b"PAR1")  # not what was written
    assert again() == ["east", "west"]
    with fits.open(root / "b_G.fits.fz", mode="update") as hdus:
        hdus["SCI"].data[40, 40] = 5
    assert "east" in again() and again() == []
    assert again(chunk_rows=7) == ["east", "west"]  # a setting


def test_the_report_is_a_table_and_a_picture_of_the_sky(built, tmp_path: Path):
    from astromodal.cubes import report

    said = report.text(built[2])
    assert "spectra.desi    24       24          0" in said and "24 objects in 2 fields" in said
    path = report.plot_sky(built[2], tmp_path / "sky.png")
    assert path is not None and path.stat().st_size > 5000


def test_columns_and_row_groups_are_those_of_the_real_cubes(built):
    file = pq.ParquetFile(built[0] / "cubes" / "datacube_west.parquet")
    names = file.schema_arrow.names
    assert names[:3] == ["id", "ra", "dec"] and "plate" in names and "mag_r" in names
    group = file.metadata.row_group(0)
    assert group.num_rows == 5 and group.column(group.num_columns - 1).compression == "ZSTD"
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in encodings["cut_r.list.element"] and "BYTE_STREAM_SPLIT" in encodings["ra"]


def test_weights_that_match_the_pattern_of_the_tiles_are_no_tiles(tmp_path: Path):
    root = tmp_path / "fits"
    made.write_catalogue(root)
    ra, dec = made.positions()
    where = (made.RA + 50 / 3600, made.DEC + 30 / 3600, (ra, dec, np.full(24, 500.0)))
    for name in ("r_a.fits", "r_a.wht.fits"):
        made.write_tile(root / name, *where, shape=(260, 320))
    with fits.open(root / "r_a.wht.fits", mode="update") as hdus:
        hdus[0].data[:] = 1e6
    images = {"path": "{band}_{tile}.fits", "weight": "{band}_{tile}.wht.fits", "bands": {"r": {"name": "r"}}}
    result, batches, _ = build(tmp_path, made.cubes(root, images=images))
    assert result["inputs"]["images.r"]["tiles"] == 1
    assert np.nanmax(np.array(batches["ALL"].column("cut_r").to_pylist(), np.float32)) < 500


def test_what_is_kept_of_files_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("astromodal.cubes.fits_files.KEPT_BYTES", 250)
    made_of: list[str] = []

    def make(name: str) -> np.ndarray:
        made_of.append(name)
        return np.zeros(100, np.uint8)

    with OpenFiles() as files:
        for name in "abacab":
            files.kept(name, lambda name=name: make(name))
    assert "".join(made_of) == "abcb"  # two have room: of a, b, c the one that was asked for last goes last
