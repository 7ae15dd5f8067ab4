"""The same rows from FITS, ECSV, VOTable and CSV; masks, byte orders, and files that are damaged."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy import table
from astropy.io import fits

from astromodal.config.schema import ScalarConfig
from astromodal.data.sources.tables import TableSource, as_arrow
from astromodal.errors import DataError
from tests.data.sources.holdings import N, fields, objects, read, rows, survey


def write_fits(folder: Path) -> None:
    objects().write(folder / "A.fits")


def write_fits_heap(folder: Path) -> None:
    """Arrays of any length, in the heap: a row without a spectrum has none. An integer is missing where it is TNULL."""
    lists = {name: np.array([np.array(row[name] or [], float) for row in rows()], object) for name in ("flux", "wave")}
    columns = [fits.Column(name, "PD()", array=values) for name, values in lists.items()]
    rest = [
        fits.Column("id", "K", array=[r["id"] for r in rows()]),
        fits.Column("ra", "D", array=[r["ra"] for r in rows()]),
        fits.Column("dec", "E", array=[r["dec"] for r in rows()]),
        fits.Column("mag", "J", null=-7, array=[-7 if r["mag"] is None else r["mag"] for r in rows()]),
    ]
    image, cat = fits.ImageHDU(np.zeros((2, 2))), fits.BinTableHDU.from_columns([*rest, *columns])
    fits.HDUList([fits.PrimaryHDU(), image, cat]).writeto(folder / "A.fit")


def write_ecsv(folder: Path) -> None:
    objects().write(folder / "A.ecsv")


def write_packed_ecsv(folder: Path) -> None:
    """As Gaia's archive delivers its tables: ECSV that is called CSV, packed."""
    objects().write(folder / "plain.ecsv")
    (folder / "A.csv.gz").write_bytes(gzip.compress((folder / "plain.ecsv").read_bytes()))
    (folder / "plain.ecsv").unlink()


def write_votable(folder: Path) -> None:
    objects().write(folder / "A.vot", format="votable")


def write_csv(folder: Path) -> None:
    """Lists in text, in both of the ways of Gaia's files."""
    lines = ["id,ra,dec,mag,flux,wave"]
    for i, row in enumerate(rows()):
        lists = ["null" if row[name] is None else str(row[name]) for name in ("flux", "wave")]
        lists = [f'"({text[1:-1]})"' if i % 2 and text != "null" else f'"{text}"' for text in lists]
        lines.append(",".join([str(row["id"]), str(row["ra"]), str(row["dec"]), str(row["mag"] or ""), *lists]))
    (folder / "A.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "write", [write_fits, write_fits_heap, write_ecsv, write_packed_ecsv, write_votable, write_csv]
)
def test_every_format_of_table_gives_the_same_rows(tmp_path, write):
    write(tmp_path)
    cubes = fields(survey(tmp_path))
    assert [cube.field for cube in cubes] == ["A"]
    got = read(pickle.loads(pickle.dumps(cubes)))
    if got[5]["flux"] is not None:  # astropy has no missing arrays, only arrays of masked values
        assert all(np.isnan(got[5].pop(name)).all() for name in ("flux", "wave"))
        got[5] |= {"flux": None, "wave": None}
    assert got == rows()
    mask = np.zeros(N, bool)
    mask[[2, 8]] = True
    assert [int(r) for b in cubes[0].batches(["id"], row_mask=mask) for r in b.rows] == [2, 8]


def test_fits_columns_of_every_kind():
    columns = [
        fits.Column("unsigned", "J", bzero=2**31, array=np.array([1, 2**31 + 1, 3], np.uint32)),
        fits.Column("matrix", "6E", dim="(3,2)", array=np.arange(18.0).reshape(3, 2, 3)),
        fits.Column("text", "5A", array=["ab", "c  ", ""]),
        fits.Column("logical", "L", array=[True, False, True]),
        fits.Column("bits", "3X", array=np.eye(3, dtype=bool)),
        fits.Column("byte", "B", array=np.arange(3, dtype=np.uint8)),
    ]
    data = fits.BinTableHDU.from_columns(columns).data
    got = {c.name: as_arrow(data[c.name]).to_pylist() for c in columns}
    assert got == {
        "unsigned": [1, 2**31 + 1, 3],
        "text": ["ab", "c", ""],
        "logical": [True, False, True],
        "matrix": [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17]],
        "bits": np.eye(3, dtype=bool).tolist(),
        "byte": [0, 1, 2],
    }


def test_what_is_missing_in_scaled_integers_is_known_by_the_stored_number(tmp_path):
    stored = fits.BinTableHDU.from_columns(
        [fits.Column("id", "J", array=[1, 2, 3]), fits.Column("v", "I", array=[10, -99, 30])]
    )
    stored.header["TSCAL2"], stored.header["TZERO2"], stored.header["TNULL2"] = 0.5, 1.0, -99
    stored.writeto(tmp_path / "A.fits")
    batch, _ = next(TableSource(tmp_path / "A.fits").batches(["v"], 9))
    assert batch.column("v").to_pylist() == [6.0, None, 16.0]


def test_complex_numbers_are_refused_only_where_they_are_asked_for(tmp_path):
    found = objects()
    found["z"] = np.full(N, 1 + 2j)
    found.write(tmp_path / "A.fits")
    assert len(read(fields(survey(tmp_path)))) == N
    with pytest.raises(DataError, match=r"a number in column z"):
        fields(survey(tmp_path, scalars={"z": ScalarConfig(), "mag": ScalarConfig()}))


def test_positions_and_times_of_astropys_own_classes_are_columns(tmp_path):
    from astropy.coordinates import SkyCoord

    place = SkyCoord([row["ra"] for row in rows()], [row["dec"] for row in rows()], unit="deg")
    found = objects()
    found["place"] = place
    found.remove_columns(["ra", "dec"])
    found.write(tmp_path / "A.ecsv")
    cube = fields(survey(tmp_path, ra_column="place.ra", dec_column="place.dec"))[0]
    np.testing.assert_allclose(cube.positions(), [[row["ra"], row["dec"]] for row in rows()])


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (["[1 2 3]", "(4, 5)", "[]"], [[1, 2, 3], [4, 5], []]),
        (["[1, null]", "", "(nan)"], None),
        (["[1. 2.", "x"], ...),
        (["[1, 2, ... 9]"], ...),
        (["(a, b)"], ...),
        (["[1]", "no list"], ...),
    ],
)
def test_text_is_a_list_only_where_all_of_it_is(text, want):
    got = as_arrow(np.array(text)).to_pylist()
    if want is None:
        assert got[0] == [1, None] and got[1] is None and np.isnan(got[2][0])
    else:
        assert got == (text if want is ... else want)


def test_null_in_text_is_a_missing_value_of_any_type(tmp_path):
    """Gaia's bulk files: ECSV that is called CSV, with null for what is missing."""
    header = [
        "# %ECSV 1.0",
        "# ---",
        "# delimiter: ','",
        "# datatype:",
        "# - {name: source_id, datatype: int64}",
        "# - {name: parallax, datatype: float64, unit: mas}",
        "# - {name: nb, datatype: int16}",
    ]
    lines = [*header, "source_id,parallax,nb", "1,1.5,null", '2,"null",4']
    (tmp_path / "GaiaSource_000000.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    source = TableSource(tmp_path / "GaiaSource_000000.csv.gz")
    batch, _ = next(source.batches(["source_id", "parallax", "nb"], 9))
    assert batch.to_pydict() == {"source_id": [1, 2], "parallax": [1.5, None], "nb": [None, 4]}
    assert source.units() == {"parallax": "mas"}


def test_an_extension_is_chosen_by_name_or_number(tmp_path):
    other, cat = fits.BinTableHDU(table.Table({"x": [1.0]}), name="OTHER"), fits.BinTableHDU(objects(), name="Cat")
    fits.HDUList([fits.PrimaryHDU(), other, cat]).writeto(tmp_path / "A.fits")
    for hdu in ("cat", "2"):
        assert fields(survey(tmp_path, hdu=hdu))[0].n_rows == N
    with pytest.raises(DataError, match=r"column id, got no such column.*A.fits, extension OTHER"):
        fields(survey(tmp_path))
    with pytest.raises(DataError, match=r"a table in extension zcat, got extensions 0 PRIMARY, 1 OTHER, 2 C.*data.hdu"):
        fields(survey(tmp_path, hdu="zcat"))
    images = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2)), name="SCI")])
    images.writeto(tmp_path / "A.fits", overwrite=True)
    with pytest.raises(DataError, match=r"expected a table, got extensions 0 PRIMARY, 1 SCI.*build_datacubes"):
        fields(survey(tmp_path))


@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
@pytest.mark.parametrize("write", [write_fits, write_fits_heap, write_ecsv, write_packed_ecsv, write_votable])
def test_a_truncated_table_is_one_line_with_the_file(tmp_path, write, share):
    write(tmp_path)
    path = next(tmp_path.iterdir())
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"{path.name}") as error:
        cubes = fields(survey(tmp_path))
        assert read(cubes) == rows()  # text that ends between two rows is whole, as far as anyone can tell
    assert "\n" not in str(error.value)


def test_a_fits_table_is_read_some_rows_at_a_time(tmp_path):
    table.Table({"id": np.arange(2000), "flux": np.ones((2000, 500), np.float32)}).write(tmp_path / "A.fits")
    sizes = [batch.nbytes for batch, _ in TableSource(tmp_path / "A.fits").batches(["flux"], 100)]
    assert len(sizes) == 20 and max(sizes) < 100 * 500 * 4 * 1.1


def test_a_file_that_changed_since_is_refused(tmp_path):
    write_csv(tmp_path)
    cube = fields(survey(tmp_path))[0]
    before = cube.fingerprint()
    text = (tmp_path / "A.csv").read_text().splitlines()
    (tmp_path / "A.csv").write_text("\n".join(text[:-1]) + "\n")
    with pytest.raises(DataError, match=r"10 rows, got 9 .*A.csv, changed since"):
        cube.ids()
    assert cube.fingerprint() != before


def test_parquet_alone_needs_no_astropy(tmp_path):
    """It takes half a second to import, and more memory."""
    import subprocess
    import sys

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows()), tmp_path / "A.parquet")
    code = (
        "import sys; from tests.data.sources.holdings import *; read(fields(survey(sys.argv[1])));"
        "assert 'astropy' not in sys.modules"
    )
    path = [str(p) for p in (Path(__file__).parents[3], Path(__file__).parents[3] / "src")]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {code}", str(tmp_path)], check=True)
