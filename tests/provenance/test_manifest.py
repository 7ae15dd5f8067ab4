"""Manifests: what a folder was made from, and what no longer fits."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from omegaconf import OmegaConf

from astromodal.core import (
    check_manifest,
    fingerprint_arrays,
    fingerprint_config,
    fingerprint_file,
    git_state,
    package_versions,
    read_manifest,
    update_manifest,
    write_manifest,
)
from astromodal.errors import ArtifactError, ArtifactMissingError
from astromodal.provenance import manifest, remembered
from astromodal.provenance.manifest import merge_manifest
from astromodal.provenance.remembered import changed_files, fingerprint_files


def _folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bin").write_bytes(b"a" * 1000)
    (tmp_path / "sub" / "b.bin").write_bytes(b"b")
    return write_manifest(
        tmp_path,
        kind="test",
        config={"k": np.int64(3)},
        inputs={"cube": "00ff"},
        files=[tmp_path / "a.bin", "sub/b.bin"],
        run_id="r1",
        extra={"note": "n"},
    )


def test_a_manifest_names_files_inputs_code_and_versions(tmp_path):
    written = _folder(tmp_path)
    found = read_manifest(tmp_path)
    assert found == json.loads(json.dumps(written))
    assert set(found["files"]) == {"a.bin", "sub/b.bin"} and found["config"] == {"k": 3} and found["note"] == "n"
    assert found["versions"]["numpy"] == np.__version__ and set(found["git"]) == {"revision", "dirty"}
    assert check_manifest(tmp_path, verify_files=True) == found


def test_the_fingerprint_depends_on_content_and_configuration_alone(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    assert _folder(tmp_path / "x")["fingerprint"] == _folder(tmp_path / "y")["fingerprint"]
    other = write_manifest(tmp_path / "y", kind="test", config={"k": 4}, inputs={}, files=["a.bin"], run_id=None)
    assert other["fingerprint"] != read_manifest(tmp_path / "x")["fingerprint"]


def test_a_changed_or_missing_file_and_an_edited_manifest_are_refused_with_both_fingerprints(tmp_path):
    _folder(tmp_path)
    before = fingerprint_file(tmp_path / "a.bin")
    (tmp_path / "a.bin").write_bytes(b"A" * 1000)
    with pytest.raises(ArtifactError, match=rf"{before}.*got {fingerprint_file(tmp_path / 'a.bin')}"):
        check_manifest(tmp_path, verify_files=True)
    check_manifest(tmp_path, verify_files=False)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(ArtifactMissingError, match=r"a\.bin"):
        check_manifest(tmp_path, verify_files=False)
    (tmp_path / "a.bin").write_bytes(b"a" * 1000)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"k": 3', '"k": 4'))
    with pytest.raises(ArtifactError, match="edited"):
        check_manifest(tmp_path, verify_files=True)
    path.write_text('{"schema_version": 99}')
    with pytest.raises(ArtifactError, match="schema_version"):
        read_manifest(tmp_path)
    with pytest.raises(ArtifactMissingError):
        read_manifest(tmp_path / "sub")


def test_a_file_rewritten_within_one_tick_has_its_own_fingerprint(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    stat = path.stat()
    first = fingerprint_file(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint_file(path) != first


def test_a_file_is_read_once_per_change_in_this_process_and_in_later_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(remembered, "_RACY_SECONDS", -1.0)  # the files need not grow old
    monkeypatch.setattr(remembered, "_KEPT_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, memory = tmp_path / "a", remembered.memory_of(tmp_path)
    path.write_bytes(b"one")
    assert changed_files(tmp_path, {"a": "00"}, remember=True) == {"a": (expected := fingerprint_file(path))}
    with monkeypatch.context() as patch:
        patch.setattr(remembered, "_hash", lambda *_: pytest.fail("read again"))
        assert fingerprint_file(path) == expected
        remembered._remembered.clear()  # another process
        assert fingerprint_files([path], memory)[0] == expected
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as cp -p and rsync -t do
    assert fingerprint_files([path], memory)[0] != expected
    path.write_bytes(b"one")
    whole = memory.read_bytes()
    for bit in range(0, 8 * len(whole), 7):  # whatever happens to the memory, it only costs time
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        memory.write_bytes(damaged)
        remembered._remembered.clear()
        assert fingerprint_files([path], memory)[0] == expected
    with pytest.raises(ArtifactMissingError):
        fingerprint_file(tmp_path / "nothing")


@pytest.mark.parametrize("limit", ["_RACY_SECONDS", "_KEPT_BYTES"])
def test_a_file_that_is_small_or_changed_a_moment_ago_is_not_remembered(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(remembered, {"_RACY_SECONDS": "_KEPT_BYTES", "_KEPT_BYTES": "_RACY_SECONDS"}[limit], -1)
    (tmp_path / "a").write_bytes(b"one")
    fingerprint_files([tmp_path / "a"], tmp_path / "memory.json")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("place", ["/proc/nowhere", "file"])
def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", place if place[0] == "/" else str(tmp_path / place))
    monkeypatch.setattr(remembered, "_RACY_SECONDS", -1.0)
    monkeypatch.setattr(remembered, "_KEPT_BYTES", 0)
    written = _folder(tmp_path)
    remembered._remembered.clear()
    assert check_manifest(tmp_path, verify_files=True, remember=True)["fingerprint"] == written["fingerprint"]


def test_a_manifest_without_its_fingerprint_or_of_another_shape_is_one_line(tmp_path):
    _folder(tmp_path)
    path = tmp_path / "manifest.json"
    whole = json.loads(path.read_text())
    del whole["checksum"]  # as versions before this one wrote them
    for change in ({"fingerprint": None}, {"files": []}, {"entries": 3}, {"schema_version": "1"}):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(ArtifactError, match=r"expected .*manifest\.json.*to repair: mend it"):
            check_manifest(tmp_path, verify_files=True, repair="mend it")
    path.write_text("[1, 2]")
    with pytest.raises(ArtifactError, match="a JSON object, got list"):
        read_manifest(tmp_path)
    path.write_text(json.dumps(whole))
    check_manifest(tmp_path, verify_files=True)


def test_array_fingerprints_see_values_shape_dtype_and_name():
    base = {"a": np.arange(6), "b": np.zeros(0)}
    same = {"b": np.zeros(0), "a": np.arange(12)[::2] // 2}
    assert fingerprint_arrays(base) == fingerprint_arrays(same)
    others = [
        {**base, "a": np.arange(6).reshape(2, 3)},
        {**base, "a": np.arange(6, dtype=np.int32)},
        {"c": np.arange(6), "b": np.zeros(0)},
        {**base, "a": np.arange(1, 7)},
    ]
    assert len({fingerprint_arrays(o) for o in [base, *others]}) == 5


def test_configuration_fingerprints_do_not_see_the_order_or_kind_of_container():
    @dataclasses.dataclass
    class Part:
        a: int = 1
        b: tuple = (1, 2)

    assert fingerprint_config(Part()) == fingerprint_config({"b": [1, 2], "a": 1})
    assert fingerprint_config(OmegaConf.create({"b": [1, 2], "a": 1})) == fingerprint_config(Part())
    assert fingerprint_config(Part(a=2)) != fingerprint_config(Part())


def test_entries_written_by_several_processes_at_once_are_all_kept(tmp_path):
    code = (
        "import sys\nfrom astromodal.core import update_manifest\n"
        "for k in range(10):\n"
        "    update_manifest(sys.argv[1], f'{sys.argv[2]}-{k}', {'fingerprint': sys.argv[2], 'files': {}})\n"
    )
    env = os.environ | {"PYTHONPATH": str(remembered.__file__).rsplit("/astromodal/", 1)[0]}
    runs = [subprocess.Popen([sys.executable, "-c", code, tmp_path, str(k)], env=env) for k in range(3)]
    assert [r.wait(timeout=60) for r in runs] == [0, 0, 0]
    assert len(read_manifest(tmp_path)["entries"]) == 30
    update_manifest(tmp_path, "0-0", None)
    assert "0-0" not in read_manifest(tmp_path)["entries"] and not (tmp_path / "manifest.json").exists()
    merge_manifest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert len(read_manifest(tmp_path)["entries"]) == 29 and "0-0" not in read_manifest(tmp_path)["entries"]
    (tmp_path / "f").write_bytes(b"1")
    update_manifest(tmp_path, "bad", {"files": {"f": "00"}})
    with pytest.raises(ArtifactError, match="fingerprint 00"):
        check_manifest(tmp_path, verify_files=True)


def test_git_state_and_versions_answer_without_a_repository():
    assert set(git_state()) == {"revision", "dirty"}
    assert {"python", "numpy", "torch", "astromodal"} <= set(package_versions())


def test_an_entry_written_while_others_are_merged_is_not_lost(tmp_path, monkeypatch):
    update_manifest(tmp_path, "a", {"n": 1})
    update_manifest(tmp_path, "b", {"n": 1})
    write = manifest.write_sealed

    def meanwhile(path, content):
        if path.name == "manifest.json":
            monkeypatch.undo()
            update_manifest(tmp_path, "a", {"n": 2})
            assert read_manifest(tmp_path)["entries"] == {"a": {"n": 2}, "b": {"n": 1}}
        return write(path, content)

    monkeypatch.setattr(manifest, "write_sealed", meanwhile)
    merge_manifest(tmp_path)
    assert read_manifest(tmp_path)["entries"] == {"a": {"n": 2}, "b": {"n": 1}}
    merge_manifest(tmp_path)
    assert read_manifest(tmp_path)["entries"] == {"a": {"n": 2}, "b": {"n": 1}}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_merge_that_was_killed_loses_nothing(tmp_path, monkeypatch):
    update_manifest(tmp_path, "a", {"n": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "write_sealed", killed)
    with pytest.raises(KeyboardInterrupt):
        merge_manifest(tmp_path)
    monkeypatch.undo()
    assert read_manifest(tmp_path)["entries"] == {"a": {"n": 1}}
    update_manifest(tmp_path, "a", None)
    assert read_manifest(tmp_path).get("entries") == {}
    merge_manifest(tmp_path)
    assert read_manifest(tmp_path)["entries"] == {}
