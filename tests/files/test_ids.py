"""One spelling for an id, however a table stored it."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from astromodal.core import find_duplicates, hash_ids, normalize_ids
from astromodal.errors import DataError
from astromodal.files import ids

SAME = [
    [123, 7],
    np.array([123, 7], np.int16),
    np.array([123, 7], np.uint64),
    np.array([123.0, 7.0]),
    np.array([123.0, 7.0], np.float32),
    [b"123", b"7"],
    np.array([" 123 ", "7\t"]),
    np.array([b"123   ", b" 7"]),
    np.array([123, "7"], dtype=object),
    np.array([b"123", " 7"], dtype=object),
    pa.array([123, 7]),
    pa.array(["123 ", "7"]),
    pa.array([b"123", b"7"], pa.binary()),
    pa.array([b"123", b"7  "], pa.large_binary()),
    pa.array([b"123", b"7  "], pa.binary(3)),
    pa.array(["123", "7"]).dictionary_encode(),
    pa.chunked_array([["123"], [" 7"]]),
    pa.chunked_array([[123], [7]]),
    pa.array([123.0, 7.0]),
]


@pytest.mark.parametrize("values", SAME, ids=range(len(SAME)))
def test_integers_floats_bytes_and_padded_text_are_the_same_ids(values):
    found = normalize_ids(values)
    assert found.dtype == np.dtype("<U3") and found.tolist() == ["123", "7"]


def test_text_that_looks_like_a_number_stays_as_it_is():
    assert normalize_ids(["007", "7", "123.0", "-1", "SPLUS J01+02"]).tolist() == [
        "007",
        "7",
        "123.0",
        "-1",
        "SPLUS J01+02",
    ]
    assert normalize_ids([2**62 + 1, -5]).tolist() == [str(2**62 + 1), "-5"]
    assert normalize_ids(np.array([2**64 - 1], np.uint64)).tolist() == [str(2**64 - 1)]
    assert normalize_ids([1.5, 2.0]).tolist() == ["1.5", "2"]


@pytest.mark.parametrize(
    "empty", [[], pa.array([], pa.string()), pa.array([], pa.int64()), pa.chunked_array([], pa.string())]
)
def test_no_ids_are_no_ids(empty):
    assert normalize_ids(empty if not isinstance(empty, list) else np.array([], "U3")).shape == (0,)
    assert len(find_duplicates(np.array([], "U3"))[0]) == 0 and hash_ids(np.array([], "U3")).shape == (0,)


@pytest.mark.parametrize(
    "bad",
    [
        [1.0, np.nan],
        ["a", ""],
        ["a", "  "],
        np.array(["a", None], object),
        pa.array([1, None]),
        pa.array(["a", None]),
        [2.0**60],
        [True, False],
        np.zeros((2, 2)),
        np.array([1, None, "a"], object),
        [b"\xff\xfe"],
        pa.array([b"\xff"]),
        np.array([1 + 2j]),
        pa.array([True]),
    ],
    ids=range(14),
)
def test_ids_that_are_missing_or_not_exact_are_refused(bad):
    with pytest.raises(DataError):
        normalize_ids(bad)


def test_hashes_do_not_depend_on_the_type_the_width_or_the_process():
    for values in SAME:
        np.testing.assert_array_equal(hash_ids(values), hash_ids(["123", "7"]))
    assert hash_ids(["123", "a long identifier"])[0] == hash_ids(["123"])[0]
    code = "from astromodal.core import hash_ids; print(*hash_ids(['123', 'é']))"
    src = str(ids.__file__).rsplit("/astromodal/", 1)[0]
    outs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": src, "PYTHONHASHSEED": s}, capture_output=True, text=True
        ).stdout
        for s in ("1", "2")
    }
    assert outs == {" ".join(map(str, hash_ids(["123", "é"]))) + "\n"}


def test_hashes_of_consecutive_ids_are_distinct_and_spread_evenly():
    hashes = hash_ids(np.arange(200_000))
    assert len(np.unique(hashes)) == 200_000
    for shift in (0, 32, 56):
        counts = np.bincount(((hashes >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
        chi2 = ((counts - 200_000 / 256) ** 2 / (200_000 / 256)).sum()
        assert 170 < chi2 < 360  # 255 degrees of freedom, sd 22.6


def _slow_duplicates(values):
    seen, rows, first = {}, [], []
    for row, value in enumerate(values):
        if value in seen:
            rows.append(row)
            first.append(seen[value])
        else:
            seen[value] = row
    return rows, first


def test_duplicates_are_those_of_a_slow_loop(monkeypatch):
    rng = np.random.default_rng(0)
    for n in (1, 2, 50, 3000):
        values = normalize_ids(rng.integers(0, n, n))
        rows, first = find_duplicates(values)
        assert (rows.tolist(), first.tolist()) == _slow_duplicates(values)
    monkeypatch.setattr(ids, "hash_ids", lambda text: np.array([len(t) for t in text], np.uint64))  # collisions
    rows, first = ids.find_duplicates(values)
    assert (rows.tolist(), first.tolist()) == _slow_duplicates(values)
