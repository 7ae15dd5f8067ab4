"""Atomic writes under faults, a real kill, and locks between processes."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from astromodal.core import FileLock, atomic_path, write_json
from astromodal.errors import ArtifactError
from astromodal.files import atomic, io, json_files


def _run(code, *args, **kwargs):
    src = os.path.dirname(os.path.dirname(os.path.dirname(atomic.__file__)))
    env = os.environ | {"PYTHONPATH": src}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], env=env, stdout=subprocess.PIPE, text=True, **kwargs
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_no_temporary_and_one_clear_error(tmp_path, monkeypatch, place, code):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    class FullFile:
        def __init__(self, path, *args, **kwargs):
            self.file = open(path, "wb")  # noqa: SIM115

        def write(self, data):
            self.file.write(b"part")
            full()

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

    if place == "write":
        monkeypatch.setattr(json_files, "open", FullFile, raising=False)
    else:
        monkeypatch.setattr(os, place, full)
    with pytest.raises(ArtifactError, match=r"room on the disk.*a\.json.*to repair") as caught:
        write_json(path, {"a": 1})
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_real_limit_of_the_file_size_is_met_like_a_full_disk(tmp_path):
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from astromodal.core import save_npz, save_joblib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "for save, name in ((save_npz, '/a.npz'), (save_joblib, '/a.joblib')):\n"
        "    try: save(sys.argv[1] + name, {'x': np.zeros(10**6)})\n"
        "    except Exception as e: print(type(e).__name__, str(e)[:25])\n"
    )
    out, _ = _run(code, tmp_path).communicate(timeout=60)
    assert out.splitlines() == ["ArtifactError expected room on the disk"] * 2
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="can be written to"):
        write_json(tmp_path / "file" / "a.json", {})
    (tmp_path / "folder" / "a.json").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="can be written to"):
        write_json(tmp_path / "folder" / "a.json", {})
    assert os.listdir(tmp_path / "folder") == ["a.json"]

    def denied(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ArtifactError, match="can be written to"):
        write_json(tmp_path / "a.json", {})


@pytest.mark.parametrize("place", ["open", "fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "line"),
    [
        (errno.ESTALE, r"a file server that answers, got Stale file handle .*mounted"),
        (errno.EXDEV, r"a folder on one file system, got Invalid cross-device link .*choose a folder"),
        (errno.EBUSY, r"a file that nothing else holds, got Device or resource busy .*close what uses it"),
        (errno.EROFS, r"a folder that can be written to, got Read-only file system"),
        (errno.EMFILE, r"fewer open files, got Too many open files .*ulimit -n"),
    ],
)
def test_what_a_system_can_answer_to_a_write_is_one_line(tmp_path, monkeypatch, place, code, line):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fails(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(ArtifactError, match=line) as caught:
        patch.setattr(os, place, fails)
        write_json(path, {"a": 1})
    message = str(caught.value)
    assert "a.json" in message and "to repair: " in message and "\n" not in message
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_is_removed_during_a_write_is_one_line(tmp_path):
    with (
        pytest.raises(ArtifactError, match=r"it is gone: something removed or moved it .*run.*to repair"),
        atomic_path(tmp_path / "run" / "a.json") as temporary,
    ):
        shutil.rmtree(tmp_path / "run")
        temporary.write_text("new")
    with pytest.raises(ArtifactError, match="it is gone"):
        json_files.append_jsonl(tmp_path / "run" / "metrics.jsonl", {"a": 1})


@pytest.mark.parametrize(
    "read", [io.read_json, io.read_jsonl, io.load_npz, io.open_npz, io.load_joblib, io.load_codebook]
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, read):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(ArtifactError, match=r"^expected a .*a\.json") as caught:
        read(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_read_only_parent_folder_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(ArtifactError, match="can be written to"):
            write_json(tmp_path / "a.json", {})
    finally:
        tmp_path.chmod(0o755)
    assert io.read_json(tmp_path / "a.json") == {"old": 1}


def test_errors_of_the_block_itself_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.json"):
        (tmp_path / "nothing").read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.json"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_symbolic_link_stays_one_and_the_mode_follows_the_umask(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", [1])
    assert (tmp_path / "link.json").is_symlink() and io.read_json(tmp_path / "real.json") == [1]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "real.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file_and_the_next_write_cleans_up(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    code = (
        "import sys, time\nfrom astromodal.core import atomic_path\n"
        "with atomic_path(sys.argv[1]) as p:\n"
        "    f = open(p, 'w'); f.write('part'); f.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    process = _run(code, path)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert io.read_json(path) == {"old": 1}
    (leftover,) = [n for n in os.listdir(tmp_path) if n != "a.json"]
    os.utime(tmp_path / leftover, (time.time() - 3600,) * 2)
    write_json(path, {"new": 1})
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_temporary_of_a_living_writer_is_not_cleaned_up(tmp_path):
    path = tmp_path / "a.json"
    with atomic_path(path) as temporary:
        temporary.write_text("slow")
        os.utime(temporary, (time.time() - 3600,) * 2)
        write_json(path, "quick")
        assert temporary.exists()
    assert path.read_text() == "slow"


def test_a_second_process_is_refused_while_the_lock_is_held_and_a_kill_frees_it(tmp_path):
    target = tmp_path / "run"
    code = (
        "import sys, time\nfrom astromodal.core import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)\n"
    )
    process = _run(code, target)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ArtifactError, match=rf"process {process.pid}.*run\.lock"):
        FileLock(target).acquire()
    process.kill()
    process.wait(timeout=30)
    with FileLock(target), pytest.raises(ArtifactError, match=f"process {os.getpid()}"):
        FileLock(target, wait_seconds=0.05).acquire()
    assert os.listdir(tmp_path) == []
    with FileLock(target):
        pass
