"""Inspecting: what is found in files that nobody has described, and proposals that read them."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from astromodal.__main__ import main
from astromodal.config.schema import DataConfig
from astromodal.data.datacube import discover
from astromodal.data.inspect import survey
from astromodal.data.inspect.roles import role_of
from astromodal.data.inspect.statistics import suspected_marks
from astromodal.data.scalars import read_scalars
from astromodal.data.spectra import read_spectra
from astromodal.errors import DataError

N, SIDE, PIXELS = 60, 10, 50


def columns(seed: int = 0) -> dict[str, pa.Array]:
    """A survey with names as archives have them."""
    rng = np.random.default_rng(seed)
    some = rng.random(N) < 0.6

    def lists(values: np.ndarray) -> pa.Array:
        rows = values.reshape(N, -1).astype(np.float32)
        return pa.array([row if ok else None for row, ok in zip(rows, some, strict=True)], pa.list_(pa.float32()))

    wave = np.broadcast_to(np.arange(3600.0, 3600 + 0.8 * PIXELS, 0.8)[:PIXELS], (N, PIXELS))
    mag = np.where(rng.random(N) < 0.1, 99.0, rng.uniform(15, 22, N))
    return {
        "TARGETID": pa.array(39_627_000_000_000_000 + seed * N + np.arange(N)),
        "TARGET_RA": pa.array(rng.uniform(0, 360, N)),
        "TARGET_DEC": pa.array(rng.uniform(-30, 30, N)),
        "mag_r": pa.array(mag),
        "mag_r_err": pa.array(rng.uniform(0.01, 0.1, N)),
        "Z": pa.array(rng.exponential(0.5, N)),
        "ZERR": pa.array(rng.uniform(1e-5, 1e-4, N)),
        "ZWARN": pa.array(rng.integers(0, 3, N)),
        "SPECTYPE": pa.array(["GALAXY"] * N),
        "EMPTY": pa.nulls(N, pa.float32()),
        "flux_w1": pa.array(rng.lognormal(5, 3, N)),
        "pmra": pa.array(rng.standard_t(1, N) * 5),
        "b_wave": lists(wave),
        "b_flux": lists(rng.normal(size=(N, PIXELS))),
        "b_ivar": lists(np.ones((N, PIXELS))),
        "b_mask": pa.array([np.zeros(PIXELS, int).tolist()] * N, pa.list_(pa.int32())),
        "xp_coefficients": lists(rng.normal(size=(N, 12))),
        "xp_coefficient_errors": lists(np.ones((N, 12))),
        "cutout_g": lists(rng.normal(size=(N, SIDE, SIDE))),
        "cutout_r": lists(rng.normal(size=(N, SIDE, SIDE))),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("survey")
    for k in range(2):
        pq.write_table(pa.table(columns(k)), root / f"part{k}.parquet")
    return root


@pytest.fixture(scope="module")
def found(folder):
    return survey.look(str(folder), "mine", "auto", None, 1000)


def test_roles_are_found_by_names_types_and_values(found):
    g = found.guess
    assert (g.id.name, g.ra.name, g.dec.name) == ("TARGETID", "TARGET_RA", "TARGET_DEC")
    errors = {name: error.name if error else None for name, (_, error) in g.scalars.items()}
    assert errors == {"mag_r": "mag_r_err", "Z": "ZERR", "flux_w1": None, "pmra": None}
    assert set(g.left_out) == {"ZWARN", "SPECTYPE", "EMPTY"}
    b, xp = g.spectra["b"], g.spectra["xp"]
    assert [c.name for c in (b.flux, b.wave, b.ivar, b.mask)] == ["b_flux", "b_wave", "b_ivar", "b_mask"]
    assert xp.error.name == "xp_coefficient_errors" and xp.wave is None
    assert {band: name for band, (name, _) in g.images.items()} == {"g": "cutout_g", "r": "cutout_r"}


def test_the_proposal_reads_the_survey(found, folder):
    assert found.doubts and not any("expected" in doubt for doubt in found.doubts)
    data = survey.parse(found.text)
    assert isinstance(data, DataConfig) and data.name == "mine"
    assert data.scalars["flux_w1"].transform.value == "log10" and data.scalars["pmra"].transform.value == "asinh"
    assert (data.images.size, data.images.bands["g"].pivot) == (SIDE, 4770)
    cubes = discover(data, f"{folder}/datacube_{{field}}.parquet")
    assert [cube.field for cube in cubes] == ["part0", "part1"]
    columns = ["b_flux", "b_wave", "b_ivar", "xp_coefficients", "xp_coefficient_errors", "mag_r", "mag_r_err"]
    batch = next(cubes[0].batches(columns, rows=N))
    spectra = read_spectra(batch, data, "b")
    assert spectra.flux.shape[1] == PIXELS and spectra.present.sum() == spectra.present.sum() > 20
    assert not spectra.counts["rebinned"] and read_spectra(batch, data, "xp").has_ivar.any()
    mags = read_scalars(batch, data, {"mag_r": data.scalars["mag_r"]})
    assert mags.reasons["mag_r"]["sentinel"] > 0 and mags.present.sum() > 40


def test_every_line_of_the_proposal_with_a_value_is_valid_and_said(found):
    read = yaml.safe_load(found.text)
    assert read["spectra"]["b"]["wave_step"] == pytest.approx(0.8) and read["images"]["pixel_scale"] == 1.0
    assert "NOT KNOWN" in found.text and "suspected sentinels: 99" in found.text
    assert "ZWARN: whole numbers with 3 values: a code" in found.text


def test_the_command_says_writes_and_does_not_overwrite(folder, tmp_path, capsys):
    target = tmp_path / "conf" / "data" / "mine.yaml"
    main(["inspect", str(folder), "--write", str(target)])
    said = capsys.readouterr().out
    assert "2 fields (part0, part1), 120 rows" in said and "python train_lm.py data=mine" in said
    assert "sentinels? 99" in said and "list of 50 (wave)" in said
    before = target.read_text()
    with pytest.raises(SystemExit, match="1"):
        main(["inspect", str(folder), "--write", str(target)])
    assert "--force" in capsys.readouterr().err and target.read_text() == before
    main(["inspect", str(folder), "--write", str(target), "--force", "--rows", "20"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere"], "no such file"),
        (["inspcet"], "inspect"),
        (["inspect"], "PATH"),
        (["inspect", ".", "--rows", "0"], "--rows"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        main(arguments)
    line = capsys.readouterr().err.strip()
    assert message in line and "\n" not in line


def test_a_survey_without_ids_is_a_doubt_and_not_a_failure(tmp_path):
    pq.write_table(pa.table({"x": [1.0, 2.0, 2.5], "name": ["a", "a", "b"]}), tmp_path / "a.parquet")
    got = survey.look(str(tmp_path), "mine", "auto", None, 100)
    assert "set data.id_column" in got.doubts[0] and survey.parse(got.text).ra_column is None


def test_ids_that_repeat_beyond_the_sample_are_a_doubt(folder, tmp_path):
    for path in folder.iterdir():
        shutil.copy(path, tmp_path)
    shutil.copy(tmp_path / "part0.parquet", tmp_path / "part2.parquet")
    assert "twice" in " ".join(survey.look(str(tmp_path), "mine", "auto", None, 60).doubts)


def test_nested_columns_light_curves_and_images_of_several_bands(tmp_path):
    image = {"band": ["DES-G", "DES-R"], "flux": np.ones((2, SIDE, SIDE)).tolist()}
    curve = [{"mjd": 1.0, "mag": 2.0}] * 9
    spectrum = {
        "flux": [1.0, 2.0, 1.5] * 4,
        "lambda": list(range(4000, 4012)),
        "ivar": [1.0] * 12,
        "lsf_sigma": [1.0] * 12,
    }
    rows = [
        {
            "object_id": str(i),
            "image": image,
            "spectrum": spectrum,
            "lc": curve,
            "astrometry": {"ra": i, "dec": 0.5 * i},
        }
        for i in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    got = survey.look(str(tmp_path), "mine", "auto", None, 100)
    assert (got.guess.ra.name, got.guess.id.name) == ("astrometry.ra", "object_id")
    assert {b: n for b, (n, _) in got.guess.images.items()} == {
        "DES_G": "image.flux[DES-G]",
        "DES_R": "image.flux[DES-R]",
    }
    assert [g.wave.name for g in got.guess.spectra.values()] == ["spectrum.lambda"]
    assert "light curve" in got.guess.left_out["lc.mag"] and "spectrum.lsf_sigma" in got.guess.left_out
    assert survey.parse(got.text).images.size == SIDE and not any("expected" in doubt for doubt in got.doubts)


def test_units_of_a_table_are_taken_over(tmp_path):
    from astropy.table import Table

    t = Table(
        {
            "source_id": np.arange(9),
            "parallax": np.linspace(-1, 9, 9),
            "flux": np.ones((9, 30)),
            "wavelength": np.tile(np.arange(300.0, 360, 2), (9, 1)),
        }
    )
    t["parallax"].unit, t["flux"].unit, t["wavelength"].unit = "mas", "W m-2 nm-1", "nm"
    t.write(tmp_path / "a.fits")
    data = survey.parse(survey.look(str(tmp_path / "a.fits"), "mine", "auto", None, 100).text)
    group = next(iter(data.spectra.values()))
    assert data.scalars["parallax"].unit == "mas" and (group.wave_unit, group.wave_step) == ("nm", 2.0)
    assert discover(data, f"{data.root}/datacube_{{field}}.parquet")[0].said == []


def test_other_tables_and_images_of_a_fits_file_are_named(tmp_path):
    from astropy.io import fits
    from astropy.table import Table

    tables = [
        fits.BinTableHDU(Table({"TARGETID": np.arange(9), "Z": np.linspace(0, 1, 9)}), name=n)
        for n in ("FIBERMAP", "SCORES")
    ]
    images = [fits.ImageHDU(np.zeros((9, 5)), name=n) for n in ("B_FLUX", "B_IVAR")]
    fits.HDUList([fits.PrimaryHDU(), *tables, *images]).writeto(tmp_path / "coadd.fits")
    said = " ".join(survey.look(str(tmp_path / "coadd.fits"), "mine", "auto", None, 100).doubts)
    assert "other tables of coadd.fits: SCORES (9 rows); --hdu" in said
    assert "B_FLUX, B_IVAR; python build_datacubes.py" in said
    assert "FIBERMAP (9 rows)" in " ".join(survey.look(str(tmp_path), "mine", "auto", "SCORES", 100).doubts)


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([15, 16, 99, 17, -99, 99], [-99, 99]),
        ([0, 0, 0, 0.1, 0.2], []),
        ([1, 2, 3, 1e20], [1e20]),
        ([1, 2, 50], []),
        ([-9999, -9999, 5, 6, 7], [-9999]),
        ([1, 2, 3, 4, 77, 77, 77], [77]),
        ([98, 99, 100, 97], []),
        ([5, 5, 5], []),
    ],
)
def test_sentinels_stand_apart(values, marks):
    assert suspected_marks(np.array(values, float)) == marks


def test_roles_in_names():
    assert role_of("spectrum.ivar")[0] == "ivar" and role_of("desi_flux_b") == ("value", ("desi", "b"))
    assert role_of("lsf_sigma")[0] == "none" and role_of("x")[0] == ""


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"complete Parquet file.*a.parquet"):
        survey.look(str(tmp_path), "mine", "auto", None, 100)
