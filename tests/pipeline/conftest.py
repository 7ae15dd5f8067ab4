"""A tiny synthetic survey that went through the stages once; the scripts' ``launch`` without a new process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

SURVEY = (
    "data.synthetic.n_fields=2",
    "data.synthetic.n_objects_per_field=60",
    "data.synthetic.image_fraction=0.4",
    "data.synthetic.spectrum_fraction=0.3",
    "tracking=off",
    "hardware=cpu",
    "hardware.n_threads=1",
)
TOKENIZERS = (
    "tokenizer.scalar.n_bins=16",
    "tokenizer.spectrum.quantizer.n_codes=16",
    "tokenizer.image.codec.width=8",
    "tokenizer.image.codec.n_blocks=1",
    "tokenizer.image.codec.training.max_steps=4",
    "tokenizer.image.quantizer.n_codes=16",
)
MODEL = ("model=tiny", "model.d_model=32", "model.n_layers=1", "model.n_heads=2", "model.d_ff=64", "training.epochs=1")
EXTRA = {"train_tokenizers": TOKENIZERS, "encode": (), "train_lm": MODEL}


@dataclass(frozen=True)
class Outcome:
    """How a stage ended, as a shell would see it."""

    returncode: int
    stdout: str
    stderr: str

    def error(self) -> str:
        """The one error line; fails unless the stage ended as section 3 of the design says."""
        lines = self.stderr.rstrip().splitlines()
        assert self.returncode == 1, self.stderr
        assert "Traceback" not in self.stderr, self.stderr
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.stderr
        return lines[-1]


def launch_stage(stage: str, *arguments: str, cwd: Path, draw: Callable[..., None] = lambda *_: None) -> Outcome:
    """What ``<stage>.py`` does with these arguments, in this process: the same ``launch``, with output captured.

    Args:
        draw: in place of the plots, which take most of the time; the runs of ``pipeline`` make them all.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from astromodal import stages
    from astromodal.config.launching import launch, run_id
    from astromodal.stages import drawn

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [f"{stage}.py", *arguments]),
        mock.patch.object(run_id, "_run_id", None),
        mock.patch.object(logging.getLogger("astromodal"), "propagate", True),  # launching turns it off for good
        mock.patch.dict(os.environ, {"WANDB_MODE": "offline"}),
        mock.patch.object(drawn, "plot_lm", draw),  # a mock would remember its arguments, the model too
        mock.patch.object(drawn, "plot_tokenizer", draw),
    ):
        try:
            launch.launch(stage, lambda cfg: getattr(stages, stage)(cfg), "")
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
    return Outcome(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Workplace:
    """A folder in which stages run on the tiny survey."""

    folder: Path

    def run(self, stage: str, *overrides: str) -> Outcome:
        """The stage with the tiny settings, then ``overrides``."""
        return launch_stage(stage, *SURVEY, *EXTRA[stage], *overrides, cwd=self.folder)

    @property
    def store(self) -> Path:
        return self.folder / "artifacts" / "synthetic" / "default"

    @property
    def cubes(self) -> Path:
        return self.folder / "artifacts" / "synthetic" / "cubes"

    def runs(self, stage: str) -> list[Path]:
        """Run directories, oldest first."""
        return sorted(p.parent for p in (self.folder / "runs" / stage).glob("*/*/run.json"))

    def record(self, stage: str) -> dict:
        """``run.json`` of the newest run."""
        return json.loads((self.runs(stage)[-1] / "run.json").read_text())


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below ``folder``; locks come and go."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory, script) -> Workplace:
    """The three scripts, each once, on the tiny survey. Read only: tests that write take ``workplace``.

    Processes of pytest-xdist share it: the first one to come makes it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    place = Workplace((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pipeline")
    with open(place.folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = place.folder / "done"
        if not done.exists():
            place.folder.mkdir(exist_ok=True)
            for stage in EXTRA:
                result = script(stage, *SURVEY, *EXTRA[stage], cwd=place.folder)
                assert result.returncode == 0, result.stderr
            done.touch()
    return place


@pytest.fixture
def workplace(pipeline: Workplace, tmp_path: Path) -> Workplace:
    """A copy of the cubes and artifacts of ``pipeline``, without its runs."""
    shutil.copytree(pipeline.folder / "artifacts", tmp_path / "place" / "artifacts")
    return Workplace(tmp_path / "place")
