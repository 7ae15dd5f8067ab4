"""Arrays that stay in their file: indexed as NumPy's, whole or cut short."""

import os
import pickle

import numpy as np
import pytest

from astromodal.core import open_npz, save_npz
from astromodal.errors import ArtifactError
from astromodal.files import file_array
from astromodal.files.file_array import FileArray

RNG = np.random.default_rng(0)
TABLE = RNG.integers(0, 60000, (500, 7)).astype(np.uint16)
FLAT = RNG.normal(size=3000)
TEXT = np.array([f"object {i}" for i in range(500)])
FLAGS = RNG.random(500) < 0.5


@pytest.fixture
def opened(tmp_path):
    save_npz(tmp_path / "a.npz", {"table": TABLE, "flat": FLAT, "text": TEXT, "flags": FLAGS})
    return open_npz(tmp_path / "a.npz", "make it again")


ROWS = RNG.integers(0, 500, 40)
INDICES = [
    np.s_[3:17],
    np.s_[:],
    np.s_[490:600],
    np.s_[7:7],
    np.s_[::3],
    np.s_[100:10:-7],
    np.s_[5],
    np.s_[-1],
    np.s_[3:90, 2],
    np.s_[:, [1, 4]],
    np.s_[:, 1:3],
    ROWS,
    ROWS.tolist(),
    ROWS - 500,
    FLAGS,
    np.zeros(0, np.int64),
    (ROWS, 3),
    (5, 3),
    (ROWS, ROWS % 7),
    np.s_[...],
    np.s_[..., 0],
    ROWS.reshape(8, 5),
]


@pytest.mark.parametrize("block", [64, 1 << 22])
def test_every_way_to_index_gives_what_numpy_gives(opened, monkeypatch, block):
    monkeypatch.setattr(file_array, "_BLOCK", block)
    monkeypatch.setattr(file_array, "_GAP", 30)
    table = opened["table"]
    assert isinstance(table, FileArray) and (table.shape, table.ndim, table.size) == ((500, 7), 2, 3500)
    for index in INDICES:
        found, expected = table[index], TABLE[index]
        assert np.array_equal(found, expected) and found.dtype == expected.dtype and found.shape == expected.shape, (
            index
        )
    for index in (-501, 500, [3, 500]):
        with pytest.raises(IndexError):
            table[index]


def test_it_stands_for_an_array_in_expressions_and_functions(opened):
    flat, flags = opened["flat"], opened["flags"]
    assert np.array_equal(opened["text"] == "object 7", TEXT == "object 7")
    assert np.array_equal(flags & ~flags[:], np.zeros(500, bool)) and np.isfinite(flat).all()
    assert flat.sum() == FLAT.sum() and np.asarray(flat, np.float32).dtype == np.float32
    assert opened["text"].tolist() == list(TEXT) == list(opened["text"])
    has = np.zeros(500, bool)
    has |= flags
    assert np.array_equal(has, FLAGS)
    with pytest.raises(ValueError, match="read-only"):
        flat[:4][0] = 1.0
    assert np.array(flat).flags.writeable


def test_ragged_rows_are_padded_with_zeros(opened):
    starts, lengths = np.array([10, 2990, 0, 5]), np.array([3, 10, 0, 7])
    found = opened["flat"].ragged(starts, lengths, 12)
    for row, start, n in zip(found, starts, lengths, strict=True):
        assert np.array_equal(row, np.pad(FLAT[start : start + n], (0, 12 - n)))
    assert opened["flat"].ragged(starts[:0], lengths[:0], 0).shape == (0, 0)


def test_columns_of_the_same_rows_are_read_once(opened, monkeypatch):
    table, calls = opened["table"], []
    real = table.file.read_into
    monkeypatch.setattr(table.file, "read_into", lambda *a: calls.append(1) or real(*a))
    for j in range(7):
        assert np.array_equal(table[100:200, j], TABLE[100:200, j])
    assert np.array_equal(table[np.arange(120, 140)], TABLE[120:140]) and len(calls) == 1


def test_a_file_that_is_cut_short_while_it_is_used_is_one_line(opened, tmp_path):
    os.truncate(tmp_path / "a.npz", 5000)
    with pytest.raises(
        ArtifactError, match=r"expected \d+ bytes, got a file cut to 5000 .*a\.npz.*to repair: make it again"
    ):
        opened["flat"][:]


def test_a_failing_disk_is_one_line(opened, monkeypatch):
    def fails(*_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(ArtifactError, match=r"got Input/output error .*a\.npz"):
        opened["flat"][:]


def test_a_file_that_another_one_replaces_stays_what_it_was(opened, tmp_path):
    save_npz(tmp_path / "a.npz", {"flat": np.zeros(3000)})
    assert np.array_equal(opened["flat"], FLAT)
    with pytest.raises(TypeError, match="open the file again"):
        pickle.dumps(opened["flat"])
