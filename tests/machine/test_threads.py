"""CPUs are those that the scheduler gives: affinity and quota, not what the machine has; and a user's setting stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from astromodal.machine import threads


def write_group(root: Path, **files: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text)


def test_quotas_of_both_versions_and_of_every_level(tmp_path: Path) -> None:
    root, own = tmp_path / "fs", tmp_path / "self"
    own.write_text("0::/jobs/mine\n")
    assert threads.cpu_quota(root, own) == float("inf")
    write_group(root / "jobs" / "mine", cpu__max="max 100000")
    assert threads.cpu_quota(root, own) == float("inf")
    write_group(root / "jobs", cpu__max="150000 100000")  # the parent's binds as well
    assert threads.cpu_quota(root, own) == 1.5
    write_group(root, cpu__max="50000 100000")  # how a container sees its own
    assert threads.cpu_quota(root, own) == 0.5 and threads.available_cpus(root, own) == 1
    own.write_text("4:memory:/m\n3:cpu,cpuacct:/docker/x\n")
    write_group(root, cpu__max="")
    write_group(root / "cpu" / "docker" / "x", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert threads.cpu_quota(root, own) == float("inf")
    write_group(root / "cpu" / "docker" / "x", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert threads.cpu_quota(root, own) == 3.0


def test_cpus_are_those_of_the_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    nothing = tmp_path / "no", tmp_path / "nothing"
    assert threads.available_cpus(*nothing) == 6
    monkeypatch.setattr(threads, "available_cpus", lambda: 6)
    assert [threads.threads_each(n, {}) for n in (1, 2, 4, 100)] == [6, 3, 1, 1]
    assert [threads.threads_each(2, {"OMP_NUM_THREADS": n}) for n in ("2,1", "x", "9")] == [2, 3, 3]


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpu_quota", lambda: 2.0)
    monkeypatch.setattr(threads, "available_cpus", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    ours: dict[str, str] = {}
    threads.prepare_threads(ours)
    assert ours == {"GOMP_SPINCOUNT": threads.SPINS, "KMP_BLOCKTIME": threads.BLOCK_TIME, "OMP_NUM_THREADS": "2"}
    for own in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "5"}, {"KMP_BLOCKTIME": "200"}):
        theirs = own | {"OMP_NUM_THREADS": "7"}
        threads.prepare_threads(theirs)
        assert theirs == own | {"OMP_NUM_THREADS": "7"}
    monkeypatch.setattr(sys, "argv", ["train_lm.py", "-m", "hydra/launcher=parallel"])
    launcher: dict[str, str] = {}
    threads.prepare_threads(launcher)
    assert "OMP_NUM_THREADS" not in launcher


def test_a_configured_count_holds_for_all_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=told.append))
    environ = {"OMP_NUM_THREADS": "8"}
    threads.use_threads(None, environ)
    assert environ == {"OMP_NUM_THREADS": "8"} and not told
    threads.use_threads(3, environ)
    assert environ == {"OMP_NUM_THREADS": "3"} and told == [3]


def test_every_command_passes_here_before_torch(repo: Path) -> None:
    code = "import astromodal, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k not in threads.WAITING}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(repo / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [threads.SPINS, "False"]
