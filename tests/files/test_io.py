"""JSON, joblib, torch files and codebooks: round trips, damage, and files that try to run something."""

import builtins
import collections
import io as std_io
import json
import os
import pickle

import joblib
import numpy as np
import pytest
import torch

from astromodal.core import (
    append_jsonl,
    load_codebook,
    load_joblib,
    load_torch,
    read_json,
    read_jsonl,
    save_joblib,
    save_npz,
    save_torch,
    truncate_jsonl,
    write_json,
)
from astromodal.errors import ArtifactError, ArtifactMissingError, UnsafeFileError

VALUES = {
    "centroids": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.empty((0, 3)),
    "one": np.array(2.5),
    "names": np.array(["u", "J0378"]),
    "flags": np.array([True, False]),
    "swapped": np.arange(3, dtype=">f8"),
    "n": 3,
    "scale": 0.5,
    "kind": "kmeans",
}


def _assert_values(found):
    assert list(found) == list(VALUES)
    for key, value in VALUES.items():
        np.testing.assert_array_equal(found[key], value)
        assert np.shape(found[key]) == np.shape(value)


def test_json_is_always_valid_and_holds_numpy_values(tmp_path):
    write_json(tmp_path / "a.json", {"x": np.float32(0.5), "nan": [float("nan"), np.inf], "n": np.arange(2), "é": None})
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert read_json(tmp_path / "a.json") == {"x": 0.5, "nan": [None, None], "n": [0, 1], "é": None}


def test_damaged_and_missing_json_are_told_apart(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ArtifactError, match=r"a\.json") as caught:
        read_json(tmp_path / "a.json")
    assert not isinstance(caught.value, ArtifactMissingError)
    with pytest.raises(ArtifactMissingError):
        read_json(tmp_path / "b.json")


def test_lines_are_appended_and_cut_off_beyond_a_step(tmp_path):
    path = tmp_path / "m.jsonl"
    assert truncate_jsonl(path, 3) == 0
    for step in (1, 2, 3, 4, 4, 5):
        append_jsonl(path, {"step": step, "loss": float("nan")})
    with open(path, "a") as file:
        file.write('{"step": 6, "lo')
    assert len(read_jsonl(path)) == 6
    assert truncate_jsonl(path, 4) == 2
    assert [line["step"] for line in read_jsonl(path)] == [1, 2, 3, 4, 4]
    assert read_jsonl(path)[0]["loss"] is None
    assert truncate_jsonl(path) == 0


def test_what_save_joblib_writes_is_read_by_both_readers(tmp_path):
    save_joblib(tmp_path / "a.joblib", VALUES)
    _assert_values(load_joblib(tmp_path / "a.joblib"))
    _assert_values(joblib.load(tmp_path / "a.joblib"))


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("zlib", 9)])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_plain_joblib_are_read(tmp_path, compress, protocol):
    rest = {
        "np": np.float64(1.5),
        "list": [1, (2, None)],
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "big": np.zeros(300_000),
    }
    joblib.dump(VALUES | rest, tmp_path / "a.joblib", compress=compress, protocol=protocol)
    found = load_joblib(tmp_path / "a.joblib")
    assert {k: found.pop(k) for k in list(rest) if k != "big"} == {k: v for k, v in rest.items() if k != "big"}
    np.testing.assert_array_equal(found.pop("big"), rest["big"])
    _assert_values(found)
    found["centroids"][0] = 0  # arrays are the caller's own


def test_other_compressions_and_every_truncation_are_one_clear_error(tmp_path):
    path = tmp_path / "a.joblib"
    for compress in (0, 3):
        joblib.dump(VALUES, path, compress=compress)
        whole = path.read_bytes()
        for size in (0, 1, 30, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(ArtifactError, match=r"a\.joblib"):
                load_joblib(path)
    joblib.dump(VALUES, path, compress=("bz2", 3))
    with pytest.raises(ArtifactError, match="zlib or gzip"):
        load_joblib(path)
    with pytest.raises(ArtifactMissingError):
        load_joblib(tmp_path / "b.joblib")


class _Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def _bombs(marker):
    touch = f"touch {marker}"
    nested = np.empty(1, dtype=object)
    nested[0] = _Call(os.system, touch)
    structured = np.zeros(1, dtype=[("a", "f4"), ("b", "O")])
    structured["b"][0] = _Call(os.system, touch)
    return {
        "os.system": {"x": _Call(os.system, touch)},
        "eval": {"x": _Call(builtins.eval, f"__import__('os').system({touch!r})")},
        "getattr": _Call(builtins.getattr, "text", "upper"),
        "object array": {"centroids": nested},
        "structured array": {"centroids": structured},
        "class": {"x": collections.OrderedDict},
        "instance": {"x": collections.Counter("a")},
        "partial": {"x": _Call(__import__("functools").partial, os.system, touch)},
        "dtype": {"x": np.dtype("f4")},
        "datetime": {"x": np.array(["2020-01-01"], dtype="M8[D]")},
        "matrix": {"x": np.ma.masked_array([1, 2], [0, 1])},
    }


@pytest.mark.parametrize("name", list(_bombs("x")))
@pytest.mark.parametrize("compress", [0, 3])
def test_a_joblib_file_with_anything_but_plain_arrays_is_refused_and_runs_nothing(tmp_path, name, compress):
    marker = tmp_path / "ran"
    joblib.dump(_bombs(marker)[name], tmp_path / "a.joblib", compress=compress)
    for read in (load_joblib, load_codebook):
        with pytest.raises(UnsafeFileError, match=r"a\.joblib"):
            read(tmp_path / "a.joblib")
    assert not marker.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch ran'\no.",
        b"cbuiltins\nset\n(S'ab'\ntR}S'x'\nK\x01sb.",  # BUILD on a builtin
        b"cnumpy\nndarray\n)R.",
        b"cnumpy\nndarray\n)\x81.",
        b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR.",
        b"cnumpy\ndtype\n(S'O'\nI00\nI01\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb.",
        b"cnumpy\ndtype\n(S'f4'\nI00\nI01\ntR(I3\nS'|'\n(S'f4'\n(I9\nttNNI-1\nI-1\nI0\ntb.",
        b"\x82\x01.",
        b"Pname\n.",
        b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n(tR.",
        b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n.",
        b"cjoblib.numpy_pickle\nNDArrayWrapper\n)\x81.",
        b"cnumpy.core.multiarray\n_reconstruct\n.",
    ],
)
def test_hand_written_streams_that_reach_for_objects_are_refused(tmp_path, monkeypatch, stream):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.joblib").write_bytes(stream)
    with pytest.raises(UnsafeFileError):
        load_joblib(tmp_path / "a.joblib")
    assert os.listdir(tmp_path) == ["a.joblib"]


def test_an_array_that_claims_to_be_huge_costs_no_memory(tmp_path):
    buffer = std_io.BytesIO()
    joblib.dump({"x": np.zeros(3, np.float32)}, buffer, protocol=4)
    data = buffer.getvalue().replace(b"shape\x94K\x03\x85", b"shape\x94J\xff\xff\xff\x7f\x85")
    assert data != buffer.getvalue()
    (tmp_path / "a.joblib").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"a\.joblib"):
        load_joblib(tmp_path / "a.joblib")


def test_random_damage_never_does_worse_than_a_clear_error(tmp_path):
    joblib.dump({"x": np.arange(9.0), "n": 3, "s": {1}}, tmp_path / "a.joblib")
    whole = (tmp_path / "a.joblib").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            damaged[position] = rng.integers(256)
        (tmp_path / "b.joblib").write_bytes(damaged)
        try:
            load_joblib(tmp_path / "b.joblib")
        except ArtifactError as error:
            assert "\n" not in str(error)


def test_objects_are_not_saved(tmp_path):
    for bad in ({"x": np.array([None])}, {"x": [1]}, {"x": object()}):
        with pytest.raises(ArtifactError, match="key x"):
            save_joblib(tmp_path / "a.joblib", bad)
    assert os.listdir(tmp_path) == []


def test_torch_files_hold_tensors_and_plain_values_and_nothing_else(tmp_path):
    path, marker = tmp_path / "a.pt", tmp_path / "ran"
    save_torch(path, {"model": {"w": torch.arange(3.0)}, "step": 3, "config": {"a": None}})
    found = load_torch(path)
    assert torch.equal(found["model"]["w"], torch.arange(3.0)) and found["step"] == 3
    for bomb in (_Call(os.system, f"touch {marker}"), _Call(builtins.eval, "1"), {"x": np.array([None])}):
        torch.save({"model": bomb}, path)
        with pytest.raises(UnsafeFileError, match=r"a\.pt"):
            load_torch(path)
    path.write_bytes(pickle.dumps(_Call(os.system, f"touch {marker}"), 2))
    with pytest.raises(ArtifactError, match=r"a\.pt"):
        load_torch(path)
    assert not marker.exists()


def test_a_damaged_or_missing_torch_file_is_one_clear_error(tmp_path):
    path = tmp_path / "a.pt"
    save_torch(path, {"w": torch.arange(300.0)})
    whole = path.read_bytes()
    for data in (b"", b"garbage that is no file of weights", whole[:100], whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"a\.pt") as caught:
            load_torch(path)
        assert "\n" not in str(caught.value) and not isinstance(caught.value, UnsafeFileError)
    with pytest.raises(ArtifactMissingError):
        load_torch(tmp_path / "b.pt")


def test_a_full_disk_while_torch_writes_is_one_clear_error(tmp_path):
    import subprocess
    import sys

    code = (
        "import resource, signal, sys, torch\nfrom astromodal.core import save_torch\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save_torch(sys.argv[1], torch.zeros(10**6))\n"
        "except Exception as e: print(type(e).__name__, str(e)[:25])\n"
    )
    env = os.environ | {"PYTHONPATH": os.path.join(os.path.dirname(__import__("astromodal").__file__), "..")}
    out = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.pt"], env=env, capture_output=True, text=True
    ).stdout
    assert out == "ArtifactError expected room on the disk\n" and os.listdir(tmp_path) == []


def test_a_codebook_is_found_in_every_documented_kind_of_file(tmp_path):
    book = np.arange(12, dtype=np.float64).reshape(6, 2)
    joblib.dump({"counts": np.ones(6), "centers": book}, tmp_path / "a.joblib")
    joblib.dump(book, tmp_path / "b.joblib", compress=3)
    save_npz(tmp_path / "c.npz", {"codebook": book})
    np.save(tmp_path / "d.npy", book)
    for name in ("a.joblib", "b.joblib", "c.npz", "d.npy"):
        found = load_codebook(tmp_path / name, key_candidates=("centroids", "codebook", "centers"))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, book)
    np.save(tmp_path / "e.npy", book[:, 0])
    assert load_codebook(tmp_path / "e.npy").shape == (6, 1)


def test_a_codebook_that_is_none_is_refused(tmp_path):
    for k, bad in enumerate((np.array([[np.nan]]), np.zeros((2, 2, 2)), np.zeros((0, 2)), np.array([["a"]]))):
        np.save(tmp_path / f"{k}.npy", bad)
        with pytest.raises(ArtifactError, match="finite codebook"):
            load_codebook(tmp_path / f"{k}.npy")
    save_joblib(tmp_path / "a.joblib", {"other": np.ones(2)})
    with pytest.raises(ArtifactError, match=r"centroids or codebook.*got other"):
        load_codebook(tmp_path / "a.joblib")
    np.save(tmp_path / "o.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(UnsafeFileError):
        load_codebook(tmp_path / "o.npy")
    (tmp_path / "o.npy").write_bytes(json.dumps([1]).encode())
    with pytest.raises(ArtifactError, match="npy"):
        load_codebook(tmp_path / "o.npy")
