"""Small files that claim, inflate to, nest or repeat more than they hold: refused at once, and without memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from astromodal.config.reading.yaml_files import load_run_config, load_yaml
from astromodal.core import load_codebook, load_joblib, load_npz, load_torch, open_npz, read_json, read_jsonl
from astromodal.errors import ArtifactError, ConfigError, UnsafeFileError, UserError
from astromodal.files.io import save_torch
from astromodal.files.npz import load_npz_key, save_npz

PRIME = (1 << 61) - 1  # integers that differ by it have one hash


def refuse(read, path: Path, kind: type = UserError, mb: float = 60) -> str:
    """``read(path)`` is one line within seconds of the processor (allocations are traced) and ``mb`` megabytes."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(kind) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    seconds = time.process_time() - start
    assert seconds < 3 and peak < mb * 1e6, (seconds, peak)
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ joblib


def lists_of_two(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value, value]
    return value


def colliding_keys(n: int) -> bytes:
    """A pickle of a dict whose keys all have one hash."""
    return b"}(" + b"".join(b"L%dL\nN" % (k * PRIME) for k in range(n)) + b"u."


JOBLIB = {
    "shared lists": pickle.dumps(lists_of_two(40), 2),
    "shared dicts": b"}" + b"q\x00}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u" + b"q\x00}(X\x01\x00\x00\x00ah\x00"
    b"X\x01\x00\x00\x00bh\x00u" * 40 + b".",
    "nested": b"]" * 50_000 + b"a" * 49_999 + b".",
    "one hash": colliding_keys(20_000),
    "one hash in a set": b"\x8f(" + b"".join(b"L%dL\n" % (k * PRIME) for k in range(20_000)) + b"\x90.",
    "one hash in a memo": b"N" + b"".join(b"p%d\n" % (k * PRIME) for k in range(20_000)) + b".",
    "floats as keys": b"}(" + b"".join(b"G" + struct.pack(">d", 2.0**k) + b"N" for k in range(9)) + b"u.",
    "a long text": b"\x8d" + struct.pack("<Q", 1 << 40) + b"ab.",
    "a long bytearray": b"\x96" + struct.pack("<Q", 1 << 38) + b"ab.",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "copied often": b"X\x40\x42\x0f\x00"
    + b"a" * 1_000_000
    + b"q\x000X\x06\x00\x00\x00latin1q\x010]("
    + b"c_codecs\nencode\nh\x00h\x01\x86R" * 1000
    + b"e.",
    "zlib": zlib.compress(pickle.dumps({"a": "x" * 60_000_000}, 4), 9),
    "gzip": gzip.compress(pickle.dumps({"a": b"\0" * 60_000_000}, 4), 9),
}


@pytest.mark.parametrize("name", list(JOBLIB))
def test_joblib_files_cost_what_they_weigh(name, tmp_path):
    path = tmp_path / "a.joblib"
    path.write_bytes(JOBLIB[name])
    for read in (load_joblib, load_codebook):
        assert "a.joblib" in refuse(read, path, ArtifactError)


def test_long_arrays_of_nothing_are_refused(tmp_path):
    buffer = io.BytesIO()
    joblib.dump({"x": np.zeros((3, 0), np.float32)}, buffer, protocol=4)
    data = buffer.getvalue().replace(b"K\x03K\x00\x86", b"\x8a\x05\x00\x00\x00\x00\x04K\x00\x86")
    assert data != buffer.getvalue()
    (tmp_path / "a.joblib").write_bytes(data)
    refuse(load_joblib, tmp_path / "a.joblib", ArtifactError)


def test_what_is_mentioned_twice_is_no_bomb(tmp_path):
    shared = list(range(50))
    joblib.dump({str(k): shared for k in range(20)}, tmp_path / "a.joblib")
    assert load_joblib(tmp_path / "a.joblib")["7"] == shared


# --------------------------------------------------------------------------------------------- npz


def npy(shape: tuple, descr: str = "<f8", data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression, compresslevel=9) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def overlapping(path: Path, n: int) -> None:
    """n names for the bytes of one member."""
    write_zip(path, {f"a{k}.npy": npy((1000,), data=bytes(8000)) if not k else b"" for k in range(n)})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        place = archive.start_dir
    for _ in range(n):
        data[place + 16 : place + 28] = struct.pack("<III", first.CRC, first.compress_size, first.file_size)
        data[place + 42 : place + 46] = struct.pack("<I", 0)
        place += 46 + sum(struct.unpack("<HHH", data[place + 28 : place + 34]))
    path.write_bytes(data)


NPZ = {
    "inflated": lambda p: write_zip(p, {"x.npy": npy((8_000_000,), data=bytes(64_000_000))}, zipfile.ZIP_DEFLATED),
    "many inflated": lambda p: write_zip(
        p, {f"{k}.npy": npy((250_000,), data=bytes(2_000_000)) for k in range(20)}, zipfile.ZIP_DEFLATED
    ),
    "overlapping": lambda p: overlapping(p, 300),
    "a long shape": lambda p: write_zip(p, {"x.npy": npy((1 << 40,))}),
    "a long shape of nothing": lambda p: write_zip(p, {"x.npy": npy((1 << 40, 0))}),
    "a long shape of empty texts": lambda p: write_zip(p, {"x.npy": npy((1 << 33,), "<U0")}),
    "a number of ten thousand digits": lambda p: write_zip(p, {"x.npy": npy((10**4000,) * 2)}),
    "a sparse file": lambda p: (p.touch(), os.truncate(p, 1 << 40)),
}


@pytest.mark.parametrize("name", list(NPZ))
def test_npz_files_cost_what_they_weigh(name, tmp_path):
    path = tmp_path / "x.npz"
    NPZ[name](path)
    for read in (load_npz, open_npz, load_codebook, lambda p: load_npz_key(p, ("x", "a0", "0"))):
        assert "x.npz" in refuse(read, path, ArtifactError)


def test_compressed_arrays_of_real_data_are_read(tmp_path):
    values = np.zeros((2000, 100), np.float32)  # 0.8 MB, compressed 900-fold
    np.savez_compressed(tmp_path / "a.npz", x=values)
    np.testing.assert_array_equal(load_npz(tmp_path / "a.npz")["x"], values)
    save_npz(tmp_path / "b.npz", {"x": values, "none": np.zeros((0, 3)), "no columns": np.zeros((2000, 0))})
    assert open_npz(tmp_path / "b.npz")["no columns"].shape == (2000, 0)


@pytest.mark.parametrize("data", [npy((1 << 40,)), npy((1 << 40, 0)), npy((1 << 40,), "<U0"), npy((2, 1 << 33))])
def test_npy_files_cost_what_they_weigh(data, tmp_path):
    (tmp_path / "a.npy").write_bytes(data)
    refuse(load_codebook, tmp_path / "a.npy", ArtifactError)


# ------------------------------------------------------------------------------------------- torch


def torch_file(path: Path, change) -> None:
    """A file of weights whose pickle is changed by ``change(bytes) -> bytes``."""
    save_torch(path, {"model": {"w": torch.zeros(4)}, "config": {"a": 1}})
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    changed = change(members[name])
    assert changed != members[name]
    write_zip(path, members | {name: changed})


def replaced(old: bytes, new: bytes):
    return lambda data: data.replace(old, new)


TORCH = {  # K\x04 is 4 as the number of values in the storage, then as the shape
    "a storage of 10^9 values": replaced(b"K\x04tq", b"J\x00\xca\x9a\x3btq"),
    "a tensor of 10^9 values": replaced(b"K\x04\x85", b"J\x00\xca\x9a\x3b\x85"),
    "a tensor of one value 10^9 times": lambda d: d.replace(b"K\x04\x85", b"J\x00\xca\x9a\x3b\x85").replace(
        b"K\x01\x85", b"K\x00\x85"
    ),
    "a tensor beyond its storage": replaced(b"QK\x00K\x04\x85", b"QK\x02K\x04\x85"),
    "shared lists": lambda d: pickle.dumps(lists_of_two(40), 2),
    "one hash": lambda d: colliding_keys(20_000),
    "nested": lambda d: b"]" * 50_000 + b"a" * 49_999 + b".",
}


@pytest.mark.parametrize("name", list(TORCH))
def test_files_of_weights_cost_what_they_weigh(name, tmp_path):
    torch_file(tmp_path / "a.pt", TORCH[name])
    assert "a.pt" in refuse(load_torch, tmp_path / "a.pt", ArtifactError)


def test_packed_or_old_files_of_weights_are_refused(tmp_path):
    save_torch(tmp_path / "a.pt", {"w": torch.zeros(1 << 20)})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    write_zip(tmp_path / "b.pt", members, zipfile.ZIP_DEFLATED)
    assert "not stored as it is" in refuse(load_torch, tmp_path / "b.pt", ArtifactError)
    torch.save({"w": torch.zeros(3)}, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    refuse(load_torch, tmp_path / "c.pt", ArtifactError)
    write_zip(tmp_path / "d.pt", members | {n.upper(): b"" for n in members if n.endswith("data.pkl")})
    assert "two parts called" in refuse(load_torch, tmp_path / "d.pt", ArtifactError)


def test_everything_that_training_saves_is_read_back(tmp_path):
    """Optimizer and generator states, half and odd dtypes, views, expanded and empty tensors, parameters."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "view": base[1:, ::2],
        "transposed": base.t(),
        "same": base,
        "expanded": torch.zeros(1).expand(5),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 7),
        "parameter": torch.nn.Parameter(base.clone()),
        "size": base.shape,
        "float": 1e300,
        "int": 1 << 70,
        "none": None,
        "text": "é",
        "bytes": b"\xff",
        **{
            str(d): torch.zeros(3, dtype=d)
            for d in (torch.bfloat16, torch.float16, torch.uint16, torch.bool, torch.complex64, torch.int8)
        },
    }
    save_torch(tmp_path / "a.pt", state)
    found = load_torch(tmp_path / "a.pt")
    assert list(found) == list(state) and found["int"] == 1 << 70 and found["bytes"] == b"\xff"
    for name in ("view", "transposed", "expanded", "empty", "parameter", "torch.uint16"):
        assert torch.equal(found[name], state[name])
    found["optimizer"]["state"][0]["exp_avg"].add_(1)


# --------------------------------------------------------------------------------------- text files


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x]"] + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, levels)]
    return "\n".join(lines)


YAML = {
    "anchors": laughs(12),
    "merged anchors": "a: &a {x: 1}\n" + "\n".join(f"b{k}: {{<<: *a}}" for k in range(20_000)),
    "a text mentioned often": f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 5000)}]",
    "an anchor within itself": "a: &a [*a]",
    "nested": "a: " + "[" * 5000 + "]" * 5000,
    "one hash": "\n".join(f"{k * PRIME}: 1" for k in range(20_000)),
    "long": "a: 1\n" * 300_000,
    "not UTF-8": "a: \xff",
    "not YAML": "a: [",
    "a list": "[1]",
}


@pytest.mark.parametrize("name", list(YAML))
def test_yaml_files_cost_what_they_weigh(name, tmp_path):
    (tmp_path / "config.yaml").write_bytes(YAML[name].encode("latin1"))
    for read in (load_yaml, load_run_config):
        assert "config.yaml" in refuse(read, tmp_path / "config.yaml", ConfigError)


def test_yaml_of_people_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x {b: 1}\nc: *x\nd: ${a.b}\n", encoding="utf-8-sig")
    assert load_yaml(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": 1}
    assert "resolved values" in refuse(load_run_config, tmp_path / "a.yaml", ConfigError)


def test_json_files_cost_what_they_weigh(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    for read in (read_json, read_jsonl):
        path.write_text("[" * 100_000 + "\n")
        refuse(read, path, ArtifactError)
        path.write_text("1" * 100_000 + "\n")
        refuse(read, path, ArtifactError)
        os.truncate(path, 1 << 40)
        refuse(read, path, ArtifactError)


def test_an_object_in_a_file_of_weights_is_still_unsafe(tmp_path):
    torch_file(tmp_path / "a.pt", lambda d: pickle.dumps(json.loads, 2))
    refuse(load_torch, tmp_path / "a.pt", UnsafeFileError)
