"""Catalogues that are written: every row in its tile, read back by our own reader and by LSDB's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units

from astromodal.data.sources import hats_out
from astromodal.data.sources.hats import Tile, is_catalogue, properties_of, tiles
from astromodal.data.sources.hats_out import divide, limits, write_hats
from astromodal.errors import ConfigError, DataError

healpix = pytest.importorskip("astropy_healpix")
N = 3000


def sky(n: int = N) -> pa.Table:
    """Objects all over the sky, half of them in one square degree; some without a place."""
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    ra[: n // 2], dec[: n // 2] = 40 + rng.random(n // 2), -5 + rng.random(n // 2)
    ra[[5, 6, 7]] = [np.nan, 360.0, -10.0]
    dec[8] = 95.0
    places = pa.array(ra, mask=np.arange(n) == 9)
    return pa.table(
        {
            "id": [f"o{i}" for i in range(n)],
            "ra": places,
            "dec": dec,
            "x": np.arange(n),
            "list": pa.array([[i, i + 1] if i % 3 else None for i in range(n)]),
        }
    )


def pieces(table: pa.Table, rows: int = 700):
    return lambda: iter(table.to_batches(max_chunksize=rows))


def write(folder, table: pa.Table, max_rows: int = 200) -> dict:
    return write_hats(folder, "my survey", pieces(table), ("ra", "dec"), max_rows, {"obs_title": "all\nof it"})


@pytest.mark.parametrize("held", [1000, 1 << 20])
def test_every_row_with_a_place_is_in_its_tile_in_order(tmp_path, monkeypatch, held):
    monkeypatch.setattr(hats_out, "HELD_ROWS", held)
    table = sky()
    done = write(tmp_path / "out", table)
    found, said = tiles(tmp_path / "out")
    assert done == {"rows": N - 3, "tiles": len(found), "no_position": 3} and not said and len(found) > 12
    seen = []
    for tile, (path,) in found.items():
        got = pq.read_table(path, partitioning=None)
        assert 0 < len(got) <= 200
        pixels = got["_healpix_29"].to_numpy()
        assert (np.diff(pixels) >= 0).all() and pixels[0] >= limits(tile)[0] and pixels[-1] < limits(tile)[1]
        wanted = healpix.HEALPix(nside=2**tile.order, order="nested").lonlat_to_healpix(
            got["ra"].to_numpy() * units.deg, got["dec"].to_numpy() * units.deg
        )
        assert set(wanted.tolist()) == {tile.pixel}
        seen += got.drop_columns(["_healpix_29"]).to_pylist()
    kept = [row for i, row in enumerate(table.to_pylist()) if i not in (5, 8, 9)]
    assert sorted(seen, key=lambda r: r["x"]) == kept
    largest = max(t.order for t in found)
    assert (
        largest > 3 and min(t.order for t in found) < largest
    )  # large where there is little, small where there is much


def test_what_it_says_of_itself(tmp_path):
    write(tmp_path / "out", sky(300))
    said = properties_of(tmp_path / "out")
    assert is_catalogue(tmp_path / "out") and said["obs_collection"] == "my-survey" and said["obs_title"] == "all of it"
    assert (said["hats_nrows"], said["hats_col_ra"], said["dataproduct_type"]) == ("297", "ra", "object")
    assert pq.read_schema(tmp_path / "out/dataset/_common_metadata").names[0] == "_healpix_29"
    assert pq.read_metadata(tmp_path / "out/dataset/_metadata").num_rows == 297
    assert not list(tmp_path.glob(".*"))


def test_a_failure_leaves_nothing_and_a_folder_that_is_there_is_left_alone(tmp_path):
    def broken():
        yield from sky(100).to_batches()
        if list(tmp_path.glob(".out*")):  # the second time
            raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        write_hats(tmp_path / "out", "x", broken, ("ra", "dec"), 50, {})
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="a new folder"):
        write(tmp_path / "out", sky(100))
    with pytest.raises(DataError, match="got none of 4"):
        write(tmp_path / "new", sky(100).slice(5, 1).append_column("y", pa.array([1])).take([0, 0, 0, 0]))
    assert not (tmp_path / "new").exists()


def test_tiles_cover_what_is_there_once():
    rng = np.random.default_rng(1)
    pixels = np.sort(rng.integers(0, 12 << 58, 500))
    found = divide(pixels, 20)
    counts = [np.diff(np.searchsorted(pixels, limits(tile)))[0] for tile in found]
    assert sum(counts) == 500 and max(counts) <= 20
    parents = [np.diff(np.searchsorted(pixels, limits(Tile(t.order - 1, t.pixel // 4))))[0] for t in found if t.order]
    assert min(parents) > 20  # none could have been larger
    assert divide(np.zeros(50, np.int64), 20) == [Tile(hats_out.FINEST, 0)]


def test_lsdb_reads_it(tmp_path):
    lsdb = pytest.importorskip("lsdb")
    write(tmp_path / "out", sky())
    read = lsdb.read_hats(str(tmp_path / "out"))
    assert len(read) == N - 3 and len(read.cone_search(40.5, -4.5, 3600).compute()) > 1000
