"""npz files: ordinary to NumPy, aligned, read in place; damage and objects are refused."""

import errno
import os
import struct
import zipfile

import numpy as np
import pytest

from astromodal.core import NpzWriter, load_npz, load_npz_key, open_npz, save_npz
from astromodal.errors import ArtifactError, ArtifactMissingError, UnsafeFileError
from astromodal.files import npz
from astromodal.files.file_array import FileArray

ARRAYS = {
    "tokens": np.arange(35, dtype=np.uint16).reshape(5, 7),
    "x": np.linspace(0, 1, 11),
    "fortran": np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(3, 4)),
    "present": np.array([True, False, True]),
    "ids": np.array(["a", "bcd", "é"]),
    "bytes": np.array([b"ab", b"c"]),
    "empty": np.empty((0, 4), np.int64),
    "one": np.array(3.5),
    "big_endian": np.arange(3, dtype=">i4"),
}


def _assert_same(found, expected=ARRAYS):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_what_is_saved_is_loaded_opened_and_read_by_plain_numpy(tmp_path):
    path = tmp_path / "a.npz"
    save_npz(path, ARRAYS)
    _assert_same(load_npz(path))
    _assert_same(open_npz(path))
    with np.load(path, allow_pickle=False) as plain:
        _assert_same({k: plain[k] for k in plain.files})
    assert zipfile.ZipFile(path).testzip() is None


def test_the_data_of_every_member_begins_at_a_multiple_of_64_bytes(tmp_path):
    path = tmp_path / "a.npz"
    save_npz(path, {f"{'n' * k}": np.arange(k + 1, dtype=np.uint8) for k in range(1, 80)})
    opened = open_npz(path)
    for k in range(1, 80):
        array = opened["n" * k]
        assert isinstance(array, FileArray) and array.offset % 64 == 0
        assert not array[:].flags.writeable
        np.testing.assert_array_equal(array, np.arange(k + 1))


def test_files_written_by_numpy_are_opened_or_read(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    np.savez_compressed(tmp_path / "b.npz", **ARRAYS)
    _assert_same(open_npz(tmp_path / "a.npz"))
    _assert_same(open_npz(tmp_path / "b.npz"))
    _assert_same(load_npz(tmp_path / "b.npz"))
    assert isinstance(open_npz(tmp_path / "a.npz")["tokens"], FileArray)
    assert not isinstance(open_npz(tmp_path / "b.npz")["tokens"], FileArray)


def test_equal_arrays_make_equal_files(tmp_path):
    save_npz(tmp_path / "a.npz", ARRAYS)
    save_npz(tmp_path / "b.npz", ARRAYS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_strided_arrays_are_saved_by_value(tmp_path):
    array = np.arange(24).reshape(4, 6)[::2, ::3]
    save_npz(tmp_path / "a.npz", {"x": array})
    np.testing.assert_array_equal(load_npz(tmp_path / "a.npz")["x"], array)


def test_appended_rows_are_the_same_file_as_whole_arrays(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 2048, (100, 6)).astype(np.uint16)
    flat = rng.normal(size=57)
    with NpzWriter(tmp_path / "a.npz") as writer:
        for first in range(0, 100, 13):
            writer.append("tokens", tokens[first : first + 13])
        writer.set("names", np.array(["u", "g"]))
        writer.append("flat", flat[:0])
        writer.append("flat", flat)
        assert not (tmp_path / "a.npz").exists()
    _assert_same(open_npz(tmp_path / "a.npz"), {"names": np.array(["u", "g"]), "tokens": tokens, "flat": flat})
    assert all(a.offset % 64 == 0 for a in open_npz(tmp_path / "a.npz").values())
    assert sorted(os.listdir(tmp_path)) == ["a.npz"]


def test_rows_of_another_shape_or_dtype_are_refused_and_nothing_is_left(tmp_path):
    for bad in (np.zeros((2, 4), np.uint16), np.zeros((2, 3), np.int64), np.array(["x"], dtype=object)):
        with pytest.raises(ArtifactError, match="tokens"), NpzWriter(tmp_path / "a.npz") as writer:
            writer.append("tokens", np.zeros((2, 3), np.uint16))
            writer.append("tokens", bad)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_while_appending_or_assembling_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save_npz(path, ARRAYS)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place, name in ((npz._Spool, "write"), (npz, "_npy_header"), (os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patch, pytest.raises(ArtifactError, match=r"room on the disk.*a\.npz"):
            patch.setattr(place, name, full)
            with NpzWriter(path) as writer:
                writer.append("x", np.zeros(5))
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.npz"]


def test_objects_are_refused_on_both_sides(tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    with pytest.raises(ArtifactError, match="object"):
        save_npz(tmp_path / "a.npz", {"x": np.array([Bomb()])})
    np.savez(tmp_path / "b.npz", x=np.array([Bomb()]), allow_pickle=True)
    trick = np.empty(1, dtype=[("a", "f4"), ("b", "O")])
    np.savez(tmp_path / "c.npz", x=trick, allow_pickle=True)
    for name in ("b.npz", "c.npz"):
        for read in (load_npz, open_npz, lambda p: load_npz_key(p, ("x",))):
            with pytest.raises(UnsafeFileError):
                read(tmp_path / name)
    assert not marker.exists()


def test_a_header_with_code_or_an_absurd_shape_is_damage(tmp_path):
    for k, header in enumerate(
        (b"__import__('os').abort()\n", b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }\n")
    ):
        path = tmp_path / f"{k}.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for read in (load_npz, open_npz):
            with pytest.raises(ArtifactError, match=r"\d\.npz"):
                read(path)


def test_every_truncation_and_any_other_file_is_one_clear_error(tmp_path):
    path = tmp_path / "a.npz"
    save_npz(path, ARRAYS)
    whole = path.read_bytes()
    for size in (0, 3, 40, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        for read in (load_npz, open_npz):
            with pytest.raises(ArtifactError, match=r"a\.npz"):
                read(path)
    flipped = bytearray(whole)
    flipped[map_offset(whole)] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(ArtifactError, match="CRC"):
        load_npz(path)
    with pytest.raises(ArtifactMissingError):
        open_npz(tmp_path / "nothing.npz")


def map_offset(whole):
    return whole.index(ARRAYS["tokens"].tobytes()) + 3


def test_the_first_candidate_that_is_there_is_taken_and_else_the_names_are_listed(tmp_path):
    save_npz(tmp_path / "a.npz", {"codebook": np.ones(2), "centers": np.zeros(2)})
    np.testing.assert_array_equal(load_npz_key(tmp_path / "a.npz", ("centroids", "codebook", "centers")), np.ones(2))
    with pytest.raises(ArtifactError, match=r"bin_centers.*codebook, centers"):
        load_npz_key(tmp_path / "a.npz", key_candidates=("bin_centers",))


def test_no_bit_of_a_file_can_flip_without_a_word(tmp_path):
    """Every bit of the first member with its headers, and of the directory: loaded as it was, or refused in a line."""
    path = tmp_path / "a.npz"
    save_npz(path, {name: ARRAYS[name] for name in ("tokens", "ids", "one")})
    whole, expected = path.read_bytes(), {name: ARRAYS[name] for name in ("tokens", "ids", "one")}
    refused = 0
    for bit in np.random.default_rng(0).choice(8 * len(whole), 600, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = load_npz(path)
        except ArtifactError as error:
            assert "a.npz" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            _assert_same(found, expected)
    assert refused > 300
