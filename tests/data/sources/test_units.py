"""Units of a header against those of the configuration: the same, converted, unknown, impossible."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from astromodal.config.schema import ScalarConfig, SpectrumGroupConfig
from astromodal.data.columns import list_column_ragged, numbers
from astromodal.data.datacube import Datacube
from astromodal.data.scalars import read_scalars
from astromodal.data.sources.units import factors
from astromodal.errors import DataError
from tests.data.sources.holdings import fields, objects, rows, survey


def with_units(**units: str) -> Table:
    found = objects()
    for name, unit in units.items():
        found[name].unit = unit
    return found


def group(**changes) -> dict[str, SpectrumGroupConfig]:
    return {"s": SpectrumGroupConfig(**({"flux": "flux", "wave": "wave", "wave_min": 4.0, "wave_max": 7.0} | changes))}


@pytest.mark.parametrize("ending", ["fits", "ecsv", "vot", "parquet"])
def test_units_of_the_header_are_converted_into_those_of_the_configuration_and_said(tmp_path, ending):
    found = with_units(wave="nm", flux="W m-2 nm-1", ra="arcmin", mag="mag")
    found.write(tmp_path / f"A.{ending}", **({"format": "votable"} if ending == "vot" else {}))
    data = survey(tmp_path, spectra=group(unit="1e-17 erg/s/cm2/Angstrom"), scalars={"mag": ScalarConfig(unit="mag")})
    cube = fields(data)[0]
    batch = next(cube.batches(["wave", "flux", "ra", "mag", "dec"], rows=9))
    assert list_column_ragged(batch.column("wave"))[0][:4].tolist() == [40.0, 50.0, 60.0, 70.0]
    np.testing.assert_allclose(list_column_ragged(batch.column("flux"))[0][4:8], np.array([1, 2, 3, 4.5]) * 1e19)
    np.testing.assert_allclose(numbers(batch.column("ra"))[:2] * 60, [10.0, 11.0])
    np.testing.assert_allclose(cube.positions()[:2, 0] * 60, [10.0, 11.0])
    assert numbers(batch.column("mag"))[0] == 15.0 and numbers(batch.column("dec"))[1] == -1.0
    said = " ".join(cube.said)
    assert len(cube.said) == 3 and "wave: nm in the file, Angstrom in data=…: values times 10" in said


def test_inverse_variances_are_converted_by_the_square(tmp_path):
    with_units(wave="1e-2 s2 cm4 Angstrom2 / erg2", flux="10 erg/(s cm2 Angstrom)").write(tmp_path / "A.ecsv")
    data = survey(tmp_path, spectra=group(ivar="wave", wave=None, unit="erg/s/cm2/Angstrom"))
    batch = next(fields(data)[0].batches(["wave", "flux"], rows=9))
    assert list_column_ragged(batch.column("wave"))[0][:2].tolist() == [0.04, 0.05]
    assert list_column_ragged(batch.column("flux"))[0][4] == 10.0


def test_a_unit_that_cannot_be_converted_names_column_file_and_repair(tmp_path):
    with_units(mag="Jy").write(tmp_path / "A.fits")
    with pytest.raises(
        DataError, match=r"column mag in mag, got unit Jy \(.*A.fits, extension 1\); to repair: set the unit of mag"
    ):
        fields(survey(tmp_path, scalars={"mag": ScalarConfig(unit="mag")}))
    assert fields(survey(tmp_path))[0].said == []  # data=… has no unit to compare


@pytest.mark.parametrize(
    ("given", "wanted", "said"),
    [
        ("mag(AB)", "mag", None),
        ("dex(cm/s2)", "dex", None),
        ("Ang", "Angstrom", None),
        ("nanomaggy", "nanomaggy", None),
        ("mas.yr**-1", "mas/yr", None),
        ("'electron'.s**-1", "electron/s", None),
        ("pix", "px", None),
        ("", "mag", None),
        ("1E-17 erg/cm^2/s/Ang", "1e-17 erg/s/cm2/Angstrom", None),
        ("10**-17 erg/(s cm2 Angstrom)", "1e-17 erg/s/cm2/Angstrom", None),
        ("sheep", "mag", "'sheep' of the file is not compared"),
        ("mJy", "Jy", "values times 0.001"),
        ("km/s", "Gaia internal", "not compared with 'Gaia internal'"),
    ],
)
def test_spellings_of_one_unit_agree_and_unknown_ones_are_said(given, wanted, said):
    data = survey("x", scalars={"m": ScalarConfig(column="mag", unit=wanted)})
    found, words = factors(data, {"mag": given}, "A")
    assert words == [] if said is None else said in words[0]
    assert bool(found) == ("times" in (said or ""))


def test_sentinels_are_no_values_to_convert(tmp_path):
    found = Table({"id": [1, 2, 3, 4], "p": [1.0, -99.0, 2.0, 99.0]})
    found["p"].unit = "arcsec"
    found.write(tmp_path / "A.fits")
    data = survey(
        tmp_path,
        spectra={},
        ra_column=None,
        dec_column=None,
        scalars={"p": ScalarConfig(unit="mas", sentinels=[-99.0], nondetection=99.0)},
    )
    batch = next(Datacube(tmp_path / "A.fits", data).batches(["id", "p"], rows=9))
    got = read_scalars(batch, data, data.scalars)
    assert got.values[:, 0].tolist()[::2] == [1000.0, 2000.0]
    assert (got.reasons["p"]["sentinel"], got.reasons["p"]["nondetected"]) == (1, 1)


def field_metadata(table: pa.Table) -> pa.Table:
    at = table.schema.names.index("wave")
    return table.cast(table.schema.set(at, table.schema.field(at).with_metadata({"unit": "nm"})))


def votable_footer(table: pa.Table) -> pa.Table:
    """As VOParquet has it: a VOTable without rows in the footer."""
    from astropy.io import votable

    columns = with_units(wave="nm")["id", "wave"][:0]
    buffer = io.BytesIO()
    votable.writeto(votable.from_table(columns), buffer)
    return table.replace_schema_metadata({"IVOA.VOTable-Parquet.content": buffer.getvalue()})


def damaged_footer(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({"IVOA.VOTable-Parquet.content": "<VOTABLE", "table_meta_yaml": "{"})


@pytest.mark.parametrize(("state", "times"), [(field_metadata, 10.0), (votable_footer, 10.0), (damaged_footer, 1.0)])
def test_units_in_parquet_are_those_of_its_fields_or_of_its_footer(tmp_path, state, times, caplog):
    pq.write_table(state(pa.Table.from_pylist(rows())), tmp_path / "A.parquet")
    batch = next(fields(survey(tmp_path))[0].batches(["wave"], rows=9))
    assert list_column_ragged(batch.column("wave"))[0][:2].tolist() == [4.0 * times, 5.0 * times]
    assert ("cannot be read" in caplog.text) == (state is damaged_footer)
