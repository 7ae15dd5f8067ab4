"""Fixtures shared by all tests: the repository, the real data (where present), a run of an entry script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.composed_once import remember_compositions

remember_compositions()
REPO = Path(__file__).resolve().parents[1]
STAGES = ("train_tokenizers", "encode", "train_lm", "evaluate")


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
        cwd=cwd, env=environment, timeout=timeout, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def script():
    """The function :func:`run_script`, as a fixture."""
    return run_script
