"""Tables staged: rows that are asked for, positions in degrees, units, marks, ids in any type."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from astromodal.config.schema import CatalogueConfig
from astromodal.cubes.matching import circle
from astromodal.cubes.staging import DEC, ID, RA, Staged, stage
from astromodal.errors import DataError


def staged(folder: Path, table: Table, **settings) -> Staged:
    table.write(folder / "t.ecsv", format="ascii.ecsv", overwrite=True)
    units = settings.pop("units_wanted", {})
    return stage("t", CatalogueConfig(path="t.ecsv", **settings), folder, folder, wanted_units=units, key="cubes.t")


def test_rows_are_chosen_by_text_integers_floats_and_truth(tmp_path: Path):
    table = Table(
        {
            "s": ["main", "sv3", "main", "main"],
            "i": [1, 2, 3, 4],
            "f": [0.0, 0.0, 0.5, 0.0],
            "b": [True, True, True, False],
        }
    )
    found = staged(tmp_path, table, id="i", only=["s=main", "f=0", "b=true", "i=1|2|3"])
    assert found.table.column(ID).to_pylist() == ["1"] and found.counts == {"files": 1, "rows": 4, "left_out": 3}
    with pytest.raises(DataError, match="COLUMN=VALUE"):
        staged(tmp_path, table, id="i", only=["s"])


def test_positions_come_in_degrees_whatever_the_unit(tmp_path: Path):
    table = Table({"h": [1.0, 23.5, np.nan], "r": [0.1, -0.2, 0.3]}, units={"h": "hourangle", "r": "rad"})
    found = staged(tmp_path, table, ra="h", dec="r")
    assert (
        np.allclose(found.table.column(RA).to_pylist()[:2], [15.0, 352.5]) and found.table.column(RA)[2].as_py() is None
    )
    assert np.allclose(found.table.column(DEC).to_numpy(), np.rad2deg([0.1, -0.2, 0.3]))
    again = pickle.loads(pickle.dumps(found))
    assert again.near(352.5, np.rad2deg(-0.2), 1e-6).tolist() == [1]  # and the row without position never
    assert again.near(0.0, 0.0, 180.0).tolist() == [0, 1]


def test_units_are_converted_and_marks_are_not(tmp_path: Path):
    table = Table({"p": MaskedColumn([1.0, -99.0, 5.0], mask=[False, False, True])}, units={"p": "arcsec"})
    found = staged(tmp_path, table, columns={"parallax": "p"}, units_wanted={"parallax": ("mas", [-99.0])})
    assert found.table.column("parallax").to_pylist() == [1000.0, -99.0, None]


def test_a_row_that_is_not_there_is_null(tmp_path: Path):
    found = staged(tmp_path, Table({"i": [7, 8], "x": [0.5, 1.5]}), id="i", columns={"x": "x"})
    assert found.take(np.array([1, -1, 0]), ["x"]).column("x").to_pylist() == [1.5, None, 0.5]
    rows, number = found.with_ids(np.array(["8", "9"]))
    assert rows.tolist() == [1, -1] and number.tolist() == [1, 0]


def test_a_circle_holds_all_positions_also_around_zero_hours():
    ra, dec = np.array([359.9, 0.1, 0.0, np.nan]), np.array([0.0, 0.0, 0.3, 0.0])
    centre = circle(ra, dec)
    assert centre is not None and min(centre[0], 360 - centre[0]) < 0.05 and 0.15 < centre[2] < 0.25
    assert circle(np.array([0.0, 90, 180, 270]), np.zeros(4)) == (0.0, 0.0, 180.0)
    assert circle(np.array([np.nan]), np.array([0.0])) is None
