"""The table of cells in the plane: exactly what the distances in float64 say, whatever the entries look like."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.quantizers import NearestEntry, assign, grid
from astromodal.quantizers.grid import CellGrid


def slowly(X, entries):
    gaps = X[:, None].astype(np.float64) - entries[None].astype(np.float64)
    return (gaps**2).sum(2).argmin(1)


def entries_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    if kind == "dense core":
        return np.concatenate([0.02 * rng.normal(size=(300, 2)), rng.normal(size=(100, 2))])
    if kind == "offset":
        return rng.normal(size=(400, 2)) + np.array([3000.0, -500.0])
    if kind == "outlier":
        return np.concatenate([rng.normal(size=(300, 2)), [[1e6, -1e6]]])
    if kind == "lattice":  # ties on all the borders, coinciding coordinates
        return np.stack(np.meshgrid(np.arange(15.0), np.arange(20.0)), -1).reshape(-1, 2)
    if kind == "twice":  # every entry has a copy, which is never the nearest
        return np.tile(rng.normal(size=(150, 2)), (2, 1))
    return np.array([[0.0, 0.0], [1.0, 2.0]])


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(assign, "GRID_AFTER", 0)
    made = []
    monkeypatch.setattr(
        assign,
        "CellGrid",
        type(
            "Counted",
            (CellGrid,),
            {
                "__init__": lambda self, *args: made.append(1) or CellGrid.__init__(self, *args),
            },
        ),
    )
    return made


@pytest.mark.parametrize("kind", ["dense core", "offset", "outlier", "lattice", "twice", "two"])
def test_codes_are_those_of_the_distances(kind, always):
    rng = np.random.default_rng(0)
    entries = entries_of(kind, rng).astype(np.float32)
    low, high = entries.min(0), entries.max(0)
    X = np.concatenate(
        [
            rng.uniform(low, high, (1500, 2)),
            low + (high - low) * rng.uniform(-1, 2, (200, 2)),
            entries[rng.integers(len(entries), size=1500)] + 0.01 * rng.normal(size=(1500, 2)),
            entries,
            0.5 * (entries[:-1] + entries[1:]),
        ]
    ).astype(np.float32)
    assert np.array_equal(NearestEntry(entries).codes(X), slowly(X, entries))
    assert always


def test_most_rows_need_no_distance_and_few_the_tree(always):
    rng = np.random.default_rng(1)
    entries, X = (rng.normal(size=(n, 2)).astype(np.float32) for n in (500, 20_000))
    made = CellGrid(entries.astype(np.float64), NearestEntry(entries)._tree)
    codes, left_open = made.codes(X)
    assert len(left_open) < 0.05 * len(X)
    rest = np.setdiff1d(np.arange(len(X)), left_open)
    assert np.array_equal(codes[rest], slowly(X[rest], entries))
    cells = made._axes[0].cells(X[:, 0]) * (grid.SIDE + 1) + made._axes[1].cells(X[:, 1])
    assert (made._counts[cells] == 1).mean() > 0.4


def test_the_table_is_made_only_for_many_rows_in_a_plane_with_extent():
    rng = np.random.default_rng(2)
    index = NearestEntry(rng.normal(size=(50, 2)))
    X = rng.normal(size=(assign.GRID_AFTER // 2, 2)).astype(np.float32)
    before = index.codes(X)
    assert index._grid is None
    after = index.codes(X)  # now it was asked often enough
    assert index._grid is not None and np.array_equal(before, after)
    assert not CellGrid.suits(np.array([[0.0, 1.0], [0.0, 2.0]])) and not CellGrid.suits(np.eye(3))
