"""A cone on the sky, and catalogues elsewhere: only what lies in it, numbered anew; what is copied, and when."""

from __future__ import annotations

import logging
import pickle
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.data.datacube import Datacube
from astromodal.data.sources import remote
from astromodal.data.sources.hats_out import write_hats
from astromodal.data.sources.subset import in_cone
from astromodal.errors import ConfigError, DataError
from tests.data.sources.holdings import N, fields, objects, read, rows, survey


def in_reach(cone: list[float], n: int = 3 * N) -> list[dict]:
    """The rows within a cone, by the spherical law of cosines."""
    found = []
    for row in rows(n):
        a, b, c = np.radians([row["dec"], cone[1], row["ra"] - cone[0]])
        cosine = np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(c)
        if np.degrees(np.arccos(min(1.0, cosine))) <= cone[2]:
            found.append(row)
    return found


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate("ABC"):
        table = pa.Table.from_pylist(rows(N, k * N))
        pq.write_table(table, tmp_path / f"datacube_{name}.parquet", row_group_size=3)
    return tmp_path


def test_only_what_lies_in_the_cone_is_there(folder, caplog):
    cone = [21.0, -11.0, 6.0]
    with caplog.at_level(logging.INFO):
        cubes = fields(survey(folder, cone=cone))
    want = in_reach(cone)
    assert 4 < len(want) < 12 and [cube.field for cube in cubes] == ["A", "B"]
    assert read(cubes) == want == read(pickle.loads(pickle.dumps(cubes)))
    assert f"{len(want)} of 30 objects, in 2 of 3 fields" in caplog.text
    cube = cubes[1]
    assert [int(r) for b in cube.batches(["id"]) for r in b.rows] == list(range(cube.n_rows))
    mask = np.zeros(cube.n_rows, bool)
    mask[[0, -1]] = True
    got = [
        (int(r), int(i))
        for b in cube.batches(["id"], row_mask=mask)
        for r, i in zip(b.rows, cube.batch_ids(b), strict=True)
    ]
    assert got == [(0, int(cube.ids()[0])), (cube.n_rows - 1, int(cube.ids()[-1]))]


def test_another_cone_is_another_survey(folder):
    first, same, other = (fields(survey(folder, cone=[21.0, -11.0, r]))[0].fingerprint() for r in (6.0, 6.1, 12.0))
    assert first == same != other and other != fields(survey(folder))[0].fingerprint()


def test_a_cone_of_a_table_and_across_zero(tmp_path):
    objects().write(tmp_path / "A.fits")
    got = read(fields(survey(tmp_path, cone=[12.0, -2.0, 2.0])))
    assert [row["id"] for row in got] == [row["id"] for row in in_reach([12.0, -2.0, 2.0], N)]
    places = np.array([[359.9, 0.0], [0.1, 0.0], [180.0, 0.0], [np.nan, 0.0]])
    assert in_cone(places, [0.0, 0.0, 0.2]).tolist() == [True, True, False, False]


def test_an_empty_cone_and_one_without_positions_are_refused(folder):
    with pytest.raises(DataError, match=r"objects in data.cone, got none of 30"):
        fields(survey(folder, cone=[200.0, 80.0, 1.0]))
    for wrong in ([1.0, 2.0], [1.0, 91.0, 1.0], [1.0, 2.0, 0.0]):
        with pytest.raises(ConfigError, match=r"data.cone=\[ra,dec,radius\] in degrees"):
            fields(survey(folder, cone=wrong))
    with pytest.raises(DataError, match=r"positions .* for data.cone"):
        fields(survey(folder, ra_column=None, dec_column=None, cone=[20.0, 0.0, 1.0]))


@pytest.mark.parametrize("cone", [[21.0, -11.0, 6.0], [359.9, 0.0, 3.0], [40.0, -89.5, 8.0]])
def test_tiles_that_a_cone_does_not_touch_are_not_opened(tmp_path, monkeypatch, cone):
    pytest.importorskip("astropy_healpix")
    rng = np.random.default_rng(0)
    held = [
        row | {"ra": rng.uniform(0, 360), "dec": float(np.degrees(np.arcsin(rng.uniform(-1, 1))))} for row in rows(4000)
    ]
    held[0] |= {"ra": cone[0], "dec": cone[1]}
    table = pa.Table.from_pylist(held)
    write_hats(tmp_path / "cat", "cat", lambda: iter(table.to_batches()), ("ra", "dec"), 60, {})
    data, opened = survey(tmp_path / "cat", cone=cone), []
    find = Datacube.positions
    monkeypatch.setattr(Datacube, "positions", lambda cube: opened.append(cube.field) or find(cube))
    near = {int(i) for cube in fields(data) for i in cube.ids()}
    few = len(opened)
    monkeypatch.setitem(sys.modules, "astropy_healpix", None)
    assert {int(i) for cube in fields(data) for i in cube.ids()} == near and len(near) > 1
    assert 0 < few < (len(opened) - few) / 2


# ------------------------------------------------------------------------------------------ elsewhere


def test_a_catalogue_elsewhere_is_not_copied_as_a_whole():
    with pytest.raises(ConfigError, match=r"data.cone or data.fields, for a catalogue elsewhere"):
        fields(survey("hats+https://host/catalogue"))


def test_without_lsdb_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "lsdb", None)
    with pytest.raises(ConfigError, match=r"lsdb.*got not installed .*pip install lsdb"):
        fields(survey("hats+https://host/catalogue", fields=["Norder0_Npix4"]))
    assert not list(tmp_path.rglob("hats-*"))


@pytest.mark.parametrize("by", ["cone", "fields"])
def test_what_is_needed_is_copied_once(monkeypatch, tmp_path, by):
    pytest.importorskip("lsdb")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = pa.Table.from_pylist([row | {"more": 1} for row in rows(3 * N)])
    write_hats(tmp_path / "cat", "cat", lambda: iter(table.to_batches()), ("ra", "dec"), 10, {})
    cone = [21.0, -11.0, 6.0]
    local = fields(survey(tmp_path / "cat"))
    chosen = {"cone": cone} if by == "cone" else {"fields": [local[0].field]}
    data = survey(f"hats+{tmp_path / 'cat'}", **chosen)
    want = in_reach(cone) if by == "cone" else read(local[:1])
    got = sorted(read(fields(data)), key=lambda row: row["id"])
    assert got == sorted(want, key=lambda row: row["id"]) and "more" not in fields(data)[0].columns
    copy = remote.local_copy(data, [])
    assert copy != remote.local_copy(survey(f"hats+{tmp_path / 'cat'}", fields=[local[1].field]), [])
    (tmp_path / "cat").rename(tmp_path / "gone")
    assert len(read(fields(data))) == len(want)  # the copy
