"""Fixtures shared by all tests: the repository, the real data (where present), a run of an entry script."""

from __future__ import annotations

import functools
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.composed_once import remember_compositions

remember_compositions()
REPO = Path(__file__).resolve().parents[1]
STAGES = ("train_tokenizers", "encode", "train_lm", "evaluate")
# Minutes long, and the first two do not wait for each other: pytest-xdist hands out files in this order.
FIRST = ("test_bad_input.py", "test_real_data.py", "test_distributed.py", "test_sweep_resume.py", "test_evaluate.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, short ones at the end, so that no process works on alone when the others are done."""
    rank = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(FIRST) + ("pipeline" not in item.path.parts)))


def pytest_collection_finish() -> None:
    """Leave modules and tests out of what the garbage collector looks through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What a test writes need not survive a power cut: 10 to 20 ms a file. Scripts that tests start do wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def cpus_compute_in_float32() -> Iterator[None]:
    """Whatever this CPU is faster in: what ``hardware.precision=auto`` finds must not decide what a test sees."""
    from astromodal.training import arithmetic

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "slowdown", functools.wraps(arithmetic.slowdown.__wrapped__)(lambda: 4.0))
        yield


@pytest.fixture(autouse=True)
def log_reaches_the_tests() -> None:
    """A command that a test runs in its own process ends the log at the run's, for good; a notebook wants it quiet."""
    log = logging.getLogger("astromodal")
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder with real datacubes; tests that need it are skipped without it."""
    folder = Path(os.environ.get("ASTROMODAL_REALDATA", REPO.parent / "shared" / "realdata"))
    if not (folder / "splus").is_dir():
        pytest.skip(f"no real data in {folder}; set ASTROMODAL_REALDATA to a folder with splus/ and kids/")
    return folder


def run_script(stage: str, *arguments: str, cwd: Path, timeout: float = 600, env: dict | None = None):
    """Run ``<stage>.py`` of the repository in ``cwd`` with W&B off; returns the completed process."""
    environment = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"} | (env or {})
    environment.pop("ASTROMODAL_RUN_ID", None) if not (env and "ASTROMODAL_RUN_ID" in env) else None
    return subprocess.run(
        [sys.executable, str(REPO / f"{stage}.py"), *arguments],
        cwd=cwd,
        env=environment,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def script():
    """The function :func:`run_script`, as a fixture."""
    return run_script
