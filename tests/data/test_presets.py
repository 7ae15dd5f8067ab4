"""The surveys that have a file in conf/data: small files with the documented columns go in, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from astromodal.data.datacube import Datacube, discover, needed_columns
from astromodal.data.findings import lost_rows
from astromodal.data.images import read_images
from astromodal.data.inspect.survey import look, parse
from astromodal.data.scalars import read_scalars
from astromodal.data.spectra import grid, read_spectra
from tests.conftest import REPO

N = 5
RNG = np.random.default_rng(0)
MMU = np.arange(3600.0, 9824.1, 0.8).astype(np.float32)


def spectra(wave: np.ndarray, name: str = "wavelength") -> list[dict]:
    """A nested spectrum per row; the third has no signal in a pixel that is flagged."""
    flux = 1 + RNG.random((N, len(wave)))
    flux[2, 7] = 1e9
    mask = np.zeros((N, len(wave)), int)
    mask[2, 7] = 4
    return [
        {name: wave.tolist(), "flux": f.tolist(), "ivar": np.ones(len(wave)).tolist(), "mask": m.tolist()}
        for f, m in zip(flux, mask, strict=True)
    ]


def hats(folder: Path, columns: dict) -> str:
    place = folder / "dataset" / "Norder=0" / "Dir=0"
    place.mkdir(parents=True)
    pq.write_table(pa.table(columns), place / "Npix=4.parquet")
    (folder / "hats.properties").write_text("dataproduct_type=object\n")
    return str(folder)


def desi_dr1_hats(folder: Path) -> str:
    arms = {"b": (3600.0, 2751), "r": (5760.0, 2326), "z": (7520.0, 2881)}
    columns = {
        "TARGETID": 39627785483846048 + np.arange(N),
        "TARGET_RA": np.full(N, 45.0),
        "TARGET_DEC": np.zeros(N),
        "Z": np.linspace(0, 3, N),
        "ZERR": np.full(N, 1e-4),
    }
    for arm, (first, n) in arms.items():
        columns[f"spectra_{arm}"] = pa.array(spectra(first + 0.8 * np.arange(n)))
    return hats(folder, columns)


def mmu_desi(folder: Path) -> str:
    rows = [row | {"mask": [bool(m) for m in row["mask"]], "lsf_sigma": [1.0]} for row in spectra(MMU, "lambda")]
    fluxes = {f"{kind}_{band}": RNG.normal(size=N) for kind in ("FLUX", "FIBERFLUX") for band in "GRZ"}
    columns = {
        "object_id": [str(i) for i in range(N)],
        "ra": np.zeros(N),
        "dec": np.zeros(N),
        "Z": np.full(N, 0.1),
        "ZERR": np.full(N, 1e-4),
        "EBV": np.full(N, 0.02),
        "spectrum": pa.array(rows),
    } | fluxes
    return hats(folder, columns)


def mmu_sdss(folder: Path) -> str:
    wave = 10 ** np.arange(3.58, 3.96, 1e-4)
    rows = spectra(wave, "lambda")
    for row in rows[:2]:  # padded, as shorter spectra are
        row["lambda"][-50:], row["mask"][-50:] = [-1.0] * 50, [1] * 50
    rows = [row | {"mask": [bool(m) for m in row["mask"]]} for row in rows]
    columns = {
        "object_id": [str(i) for i in range(N)],
        "ra": np.zeros(N),
        "dec": np.zeros(N),
        "Z": np.full(N, 0.1),
        "Z_ERR": np.full(N, 1e-4),
        "VDISP": np.full(N, 150.0),
        "VDISP_ERR": np.full(N, 9.0),
        "spectrum": pa.array(rows),
    }
    return hats(folder, columns | {f"SPECTROFLUX_{band}": RNG.normal(size=N) for band in "UGRIZ"})


def mmu_legacysurvey(folder: Path) -> str:
    bands = ["DES-G", "DES-R", "DES-I", "DES-Z"]
    flux = RNG.normal(size=(N, 4, 160, 160)).astype(np.float32)
    images = [
        {"band": [b.lower() for b in bands] if i % 2 else bands, "flux": cut.tolist()} for i, cut in enumerate(flux)
    ]
    kind = pa.struct({"band": pa.list_(pa.string()), "flux": pa.list_(pa.list_(pa.list_(pa.float32())))})
    names = [f"FLUX_{band}" for band in ("G", "R", "I", "Z", "W1", "W2")] + ["SHAPE_R", "SHAPE_E1", "SHAPE_E2", "EBV"]
    columns = {
        "object_id": [str(i) for i in range(N)],
        "ra": np.zeros(N),
        "dec": np.zeros(N),
        "image": pa.array(images, kind),
    }
    return hats(folder, columns | {name: np.full(N, 0.1) for name in names})


def mmu_gaia(folder: Path) -> str:
    parts = {
        "astrometry": {name: 1.0 for n in ("parallax", "pmra", "pmdec") for name in (n, f"{n}_error")},
        "photometry": {
            name: 100.0 for b in ("g", "bp", "rp") for name in (f"phot_{b}_mean_flux", f"phot_{b}_mean_flux_error")
        },
        "radial_velocity": {"radial_velocity": 99.0, "radial_velocity_error": 1.0},
        "gspphot": {"teff_gspphot": 5000.0, "logg_gspphot": 4.0, "mh_gspphot": 0.0},
        "spectral_coefficients": {"coeff": RNG.normal(size=110).tolist(), "coeff_error": [0.1] * 110},
    }
    columns = {"object_id": 2**60 + np.arange(N), "ra": np.zeros(N), "dec": np.zeros(N)}
    return hats(folder, columns | {name: pa.array([part] * N) for name, part in parts.items()})


def gaia_dr3(folder: Path) -> str:
    """Units as the archive's VOTables spell them."""
    units = {"parallax": "mas", "pmra": "mas.yr**-1", "pmdec": "mas.yr**-1", "radial_velocity": "km.s**-1"}
    units |= {f"phot_{b}_mean_flux": "'electron'.s**-1" for b in ("g", "bp", "rp")}
    found = Table({"source_id": 2**60 + np.arange(N), "ra": np.zeros(N), "dec": np.zeros(N)})
    for name, unit in units.items():
        for column in (name, f"{name}_error"):
            found[column] = np.full(N, 5.0)
            found[column].unit = unit.replace("'", "")
    for name, unit in (("teff_gspphot", "K"), ("logg_gspphot", "dex(cm.s**-2)"), ("mh_gspphot", "dex")):
        found[name] = np.full(N, {"K": 5000.0}.get(unit, 1.0))
        found[name].unit = unit
    found.write(folder / "result.ecsv")
    return str(folder / "result.ecsv")


def gaia_xp(folder: Path) -> str:
    found = Table({"source_id": 2**60 + np.arange(N)})
    for arm in ("bp", "rp"):
        found[f"{arm}_coefficients"] = RNG.normal(size=(N, 55))
        found[f"{arm}_coefficient_errors"] = np.full((N, 55), 0.1, np.float32)
    found.write(folder / "XP_CONTINUOUS.fits")
    return str(folder)


def gaia_xp_sampled(folder: Path) -> str:
    found = Table(
        {
            "source_id": 2**60 + np.arange(N),
            "ra": np.zeros(N),
            "dec": np.zeros(N),
            "flux": 1e-17 * (1 + RNG.random((N, 343))),
            "flux_error": np.full((N, 343), 1e-18),
        }
    )
    found["flux"].unit = found["flux_error"].unit = "W m-2 nm-1"
    found.write(folder / "XP_SAMPLED.xml", format="votable")
    return str(folder)


def splus_dr4(folder: Path) -> str:
    names = ["u", "J0378", "J0395", "J0410", "J0430", "g", "J0515", "r", "J0660", "i", "J0861", "z"]
    found = Table({"ID": [f"iDR4_{i}" for i in range(N)], "RA": np.zeros(N), "DEC": np.zeros(N)})
    for name in names:
        found[f"{name}_PStotal"], found[f"e_{name}_PStotal"] = [17.0, 18, 19, 99, 20], np.full(N, 0.1)
    found.write(folder / "STRIPE82-0001.csv")
    return str(folder)


def kids_dr4(folder: Path) -> str:
    found = Table({"ID": [f"KIDSDR4 J{i}" for i in range(N)], "RAJ2000": np.zeros(N), "DECJ2000": np.zeros(N)})
    for name in ("u", "g", "r", "i", "Z", "Y", "J", "H", "Ks"):
        found[f"MAG_GAAP_{name}"], found[f"MAGERR_GAAP_{name}"] = [17.0, 18, 19, 99, -99], np.full(N, 0.1)
        found[f"MAG_GAAP_{name}"].unit = "mag"
    found.write(folder / "KiDS_DR4.0_180.0_-0.5_ugriZYJHKs_cat.fits")
    return str(folder)


PRESETS = [
    desi_dr1_hats,
    mmu_desi,
    mmu_sdss,
    mmu_legacysurvey,
    mmu_gaia,
    gaia_dr3,
    gaia_xp,
    gaia_xp_sampled,
    splus_dr4,
    kids_dr4,
]


@pytest.mark.parametrize("write", PRESETS, ids=lambda write: write.__name__)
def test_a_preset_reads_its_layout_and_loses_nothing(tmp_path, write):
    data = parse((REPO / "conf" / "data" / f"{write.__name__}.yaml").read_text())
    data.root = write(tmp_path)
    (cube,) = discover(data, f"{data.root}/datacube_{{field}}.parquet")
    batch = next(cube.batches(list(needed_columns(data)), rows=N))
    said = look(data.root, "mine", "auto", None, N).said
    assert any(f"all columns of data={write.__name__} are here" in text for text in said)
    assert cube.n_rows == N and len(set(cube.ids())) == N and cube.said == []
    for name in data.spectra:
        got = read_spectra(batch, data, name)
        assert got.present.all() and got.has_ivar.all() and not lost_rows(got.counts), got.counts
        assert got.counts.get("pixels_outside", 0) == 0 and got.flux.max() < 100
        assert got.flux.shape == (N, len(grid(data.spectra[name])))
    scalars = read_scalars(batch, data, data.scalars)
    marked = {"splus_dr4": 1, "kids_dr4": 2}.get(write.__name__, 0)  # 99, and -99
    assert (scalars.present.sum(0) == N - marked).all() and (scalars.nondetected.sum(0) == min(marked, 1)).all()
    if data.images is not None:
        images = read_images(batch, data, cube.field)
        assert images.band_present.all() and images.flux.shape == (N, 4, 160, 160)
    if write is desi_dr1_hats or write is mmu_desi:
        assert read_spectra(batch, data, next(iter(data.spectra))).counts["masked"] == 1


def test_every_file_of_conf_data_is_tested_here_or_has_data_of_its_own():
    own = {"splus", "kids_viking", "synthetic"}
    assert {path.stem for path in (REPO / "conf" / "data").glob("*.yaml")} == {w.__name__ for w in PRESETS} | own


def test_bands_come_in_the_order_of_the_configuration_whatever_the_rows_say(tmp_path):
    data = parse((REPO / "conf" / "data" / "mmu_legacysurvey.yaml").read_text())
    data.root = mmu_legacysurvey(tmp_path)
    path = next(tmp_path.rglob("*.parquet"))
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[0] = {key: values[::-1] for key, values in images[0].items()}
    turned = table.set_column(
        table.schema.names.index("image"), "image", pa.array(images, table.schema.field("image").type)
    )
    before = read_images(next(Datacube(path, data).batches(list(needed_columns(data)), rows=N)), data, "x").flux.copy()
    pq.write_table(turned, path)
    after = read_images(next(Datacube(path, data).batches(list(needed_columns(data)), rows=N)), data, "x").flux
    np.testing.assert_array_equal(after, before)
