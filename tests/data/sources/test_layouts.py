"""Which files make up which field, and what is refused or left alone."""

from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.data.sources.hats import Tile
from astromodal.data.sources.layouts import find_fields
from astromodal.errors import DataError
from tests.data.sources.holdings import N, fields, read, rows, survey


def write(path, first: int = 0, n: int = N) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows(n, first)), path)


def hats(folder, tiles=((0, 4), (1, 44), (1, 20045)), suffix=".parquet", listed=True) -> None:
    """A catalogue with N rows in each tile, beside what a catalogue has of other files."""
    for k, (order, pixel) in enumerate(tiles):
        place = folder / "dataset" / f"Norder={order}" / f"Dir={pixel // 10000 * 10000}"
        if suffix == "/":
            write(place / f"Npix={pixel}" / "part0.parquet", k * N, N // 2)
            write(place / f"Npix={pixel}" / "part1.parquet", k * N + N // 2, N // 2)
            (place / f"Npix={pixel}" / "_SUCCESS").touch()
        else:
            write(place / f"Npix={pixel}{suffix}", k * N)
    for name in ("_metadata", "_common_metadata"):
        (folder / "dataset" / name).write_bytes(b"PAR1 not to be read")
    write(folder / "dataset" / "index" / "part.0.parquet")
    (folder / "hats.properties").write_text(
        "#HATS catalog\nobs_collection=x\ndataproduct_type=object\nhats_col_ra=ra\n"
    )
    if listed:
        lines = [f"{order},{pixel}" for order, pixel in tiles]
        (folder / "partition_info.csv").write_text("\n".join(["Norder,Npix", *lines]) + "\n")


NAMES = ["Norder0_Npix4", "Norder1_Npix20045", "Norder1_Npix44"]


@pytest.mark.parametrize("suffix", [".parquet", ".parq", "/"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_hats_catalogue_is_a_field_per_tile(tmp_path, suffix, listed):
    hats(tmp_path, suffix=suffix, listed=listed)
    cubes = fields(survey(tmp_path))
    assert [cube.field for cube in cubes] == NAMES
    assert sorted(read(cubes), key=lambda r: r["id"]) == rows(3 * N)
    chosen = fields(survey(tmp_path, fields=["Norder1_Npix44"], layout="hats"))
    assert read(chosen) == rows(N, N)
    with pytest.raises(DataError, match=r"existing fields, got Norder1_Npix45.*nearest: Norder1_Npix44"):
        fields(survey(tmp_path, fields=["Norder1_Npix45"]))


def test_a_collection_leads_to_its_catalogue_and_margins_are_left_alone(tmp_path):
    hats(tmp_path / "cat")
    hats(tmp_path / "cat_10arcs")
    (tmp_path / "cat_10arcs" / "hats.properties").write_text("dataproduct_type=margin\n")
    (tmp_path / "collection.properties").write_text("hats_primary_table_url=cat\nall_margins=cat_10arcs\n")
    assert len(fields(survey(tmp_path))) == 3
    with pytest.raises(DataError, match=r"got one of the type margin .*cat_10arcs.*data.root"):
        fields(survey(tmp_path / "cat_10arcs"))
    (tmp_path / "collection.properties").write_text("hats_primary_table_url=cut\n")
    with pytest.raises(DataError, match=r"the catalogue of a HATS collection, got cut"):
        fields(survey(tmp_path))


def test_the_list_of_partitions_is_honoured(tmp_path, caplog):
    hats(tmp_path)
    (tmp_path / "partition_info.csv").write_text("Norder,Npix,num_rows\n0,4,10\n1,44,10\n")
    with caplog.at_level(logging.WARNING):
        assert [cube.field for cube in fields(survey(tmp_path))] == ["Norder0_Npix4", "Norder1_Npix44"]
    assert "1 tiles of" in caplog.text and "left alone" in caplog.text
    (tmp_path / "partition_info.csv").write_text("Norder,Npix\n0,4\n3,7\n")
    with pytest.raises(DataError, match=r"tile Norder=3/Npix=7 of partition_info.csv, got no such file \(1 of 2 tiles"):
        fields(survey(tmp_path))
    (tmp_path / "partition_info.csv").write_text("order,pixel\n0,4\n")
    with pytest.raises(DataError, match=r"columns Norder and Npix.*partition_info.csv"):
        fields(survey(tmp_path))


def test_an_older_catalogue_has_its_tiles_beside_its_list(tmp_path):
    hats(tmp_path / "new")
    for path in (tmp_path / "new" / "dataset").glob("Norder=*"):
        path.rename(tmp_path / path.name)
    (tmp_path / "new" / "partition_info.csv").rename(tmp_path / "partition_info.csv")
    (tmp_path / "point_map.fits").touch()
    assert sorted(cube.field for cube in fields(survey(tmp_path))) == NAMES


def test_names_of_tiles_are_those_of_the_format():
    assert Tile(8, 123456).folder == "Norder=8/Dir=120000"


def test_folders_of_part_files_are_fields(tmp_path):
    for k, field in enumerate(("healpix=12", "healpix=3")):
        write(tmp_path / field / "001-of-002.parquet", k * N, 4)
        write(tmp_path / field / "002-of-002.parquet", k * N + 4, N - 4)
        (tmp_path / field / "_SUCCESS").touch()
    (tmp_path / "empty").mkdir()
    cubes = fields(survey(tmp_path))
    assert [c.field for c in cubes] == ["healpix=12", "healpix=3"] and read(cubes) == rows(2 * N)
    assert cubes[0].path.name == "healpix=12"


def test_files_of_any_name_are_fields_and_others_are_said_to_be_left_alone(tmp_path, caplog):
    write(tmp_path / "east.parquet")
    write(tmp_path / "west.parq", N)
    (tmp_path / "zero_points.csv").write_text("field,band,zero_point\n")
    (tmp_path / "notes.txt").touch()
    with caplog.at_level(logging.WARNING):
        assert read(fields(survey(tmp_path))) == rows(2 * N)
    assert "1 files of" in caplog.text and "zero_points.csv" in caplog.text
    assert read(fields(survey(tmp_path / "west.parq"))) == rows(N, N)
    assert [c.field for c in fields(survey(tmp_path / "west.parq"))] == ["west"]
    write(tmp_path / "west.pq")
    with pytest.raises(DataError, match=r"one file per field, got west.parq and west.pq"):
        fields(survey(tmp_path))


def test_the_template_comes_first_and_a_layout_can_be_asked_for(tmp_path):
    write(tmp_path / "datacube_A.parquet")
    write(tmp_path / "B" / "part-0.parquet", N)
    write(tmp_path / "other.parquet", 2 * N)
    assert [c.field for c in fields(survey(tmp_path))] == ["A"]
    assert [c.field for c in fields(survey(tmp_path, layout="folders"))] == ["B"]
    (tmp_path / "datacube_A.parquet").unlink()
    with pytest.raises(DataError, match=r"one arrangement of files, got folders and files .*data.layout=files"):
        fields(survey(tmp_path))
    assert [c.field for c in fields(survey(tmp_path, layout="files"))] == ["other"]
    with pytest.raises(DataError, match=r"the arrangement data.layout=hats, got none"):
        fields(survey(tmp_path, layout="hats"))


def test_nothing_there_says_what_to_set(tmp_path):
    with pytest.raises(DataError, match=r"files datacube_{field}.parquet, got none.*set data.root=.*inspect"):
        find_fields(survey(tmp_path), str(tmp_path / "datacube_{field}.parquet"))
    with pytest.raises(DataError, match=r"no such folder"):
        find_fields(survey(tmp_path / "x"), str(tmp_path / "x" / "datacube_{field}.parquet"))
