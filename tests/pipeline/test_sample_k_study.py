"""The command on a tiny run: what it prints and writes, what it leaves alone, and its one-line errors."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from astromodal.__main__ import main

from .conftest import Outcome, contents

FEW = ("--draws", "2", "--steps", "1", "--rounds", "1", "--device", "cpu")


def study(folder: Path, *arguments: str) -> Outcome:
    """The command, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["sample-k", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def run_dir(pipeline, tmp_path_factory) -> Path:
    """A copy of the tiny run, which may be written into."""
    return Path(shutil.copytree(pipeline.runs("train_lm")[-1], tmp_path_factory.mktemp("copy") / "run"))


def test_it_measures_prints_and_draws_and_touches_nothing_else(pipeline, run_dir, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1])
    before, store = contents(run_dir), contents(pipeline.store)
    outcome = study(pipeline.folder, str(run_dir), "--k", "8", "100000", *FEW)
    assert outcome.returncode == 0, outcome.stderr
    assert contents(pipeline.store) == store
    out = run_dir / "sample_k_study"
    after = contents(run_dir)
    assert {k: v for k, v in after.items() if k in before} == before
    assert set(after) - set(before) == {f"sample_k_study/sample_k_study.{kind}" for kind in ("json", "md", "png")}

    result = json.loads((out / "sample_k_study.json").read_text())
    few, every = result["rows"]
    assert set(result["facts"]["positions"]) == {"image", "scalar", "spectrum"}
    assert min(result["facts"]["positions"].values()) > 0  # steps are added until every modality is there
    assert few["total"]["cosine"] < 1 and few["drawn"]["image"] <= 8
    assert every["total"]["cosine"] == pytest.approx(1, abs=1e-5) and not any(every["sampled"].values())
    assert set(result["costs"]) == {"8", "100000", "all"} and result["costs"]["all"]["loss_ms"] > 0
    assert math.isclose(result["theory"]["total"][0], few["total"]["error_predicted"], rel_tol=1e-6)

    assert "The smallest k whose total-gradient cosine exceeds 0.99 is" in outcome.stdout
    assert result["verdict"] in outcome.stdout and result["verdict"] in (out / "sample_k_study.md").read_text()
    assert (out / "sample_k_study.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    axes = [axis for axis in drawn[0].axes if axis.get_ylabel() != "memory of the loss [MB]"]
    assert len(axes) == 3 and all("sample_k" in axis.get_xlabel() and axis.get_ylabel() for axis in axes)


def test_another_checkpoint_folder_and_place_to_be(pipeline, tmp_path):
    """A run in its own place finds its tokens from anywhere; with --out nothing at all is written into it."""
    run_dir = pipeline.runs("train_lm")[-1]
    before = contents(run_dir)
    outcome = study(
        tmp_path,
        str(run_dir),
        "--checkpoint",
        str(run_dir / "final_model.pt"),
        "--out",
        "there",
        "--k",
        "4",
        "--cosine",
        "0.999999",
        *FEW,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "No k of these is enough" in outcome.stdout
    result = json.loads((tmp_path / "there" / "sample_k_study.json").read_text())
    assert result["checkpoint"] == f"{run_dir.name}/final_model.pt"
    assert contents(run_dir) == before and [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "expected a run directory of train_lm.py, got no run.json (nowhere)"),
        (["RUN", "--checkpoint", "gone.pt"], "expected a checkpoint, got none (gone.pt)"),
        (["RUN", "--checkpoint", "vocab_spec.json"], "vocab_spec.json"),
        (["TOKENIZERS"], "expected a run of train_lm, got one of train_tokenizers"),
        (["RUN", "--k", "0"], "expected --k of 1 or more"),
        (["RUN", "--k", "many"], "argument --k: invalid int value: 'many'"),
        (["RUN", "--draws", "0"], "expected --draws of 1 or more, got 0"),
        (["RUN", "--cosine", "2"], "expected --cosine between 0 and 1"),
        (["RUN", "--device", "cuda:77"], "expected a device of this machine, got cuda:77"),
        ([], "the following arguments are required: RUN_DIR"),
    ],
)
def test_mistakes_are_one_line(pipeline, run_dir, arguments, said):
    places = {
        "RUN": str(run_dir),
        "TOKENIZERS": str(pipeline.runs("train_tokenizers")[-1]),
        "vocab_spec.json": str(run_dir / "vocab_spec.json"),
    }
    assert said in study(pipeline.folder, *(places.get(a, a) for a in arguments)).error()


def test_a_run_with_another_tokenizer_is_refused(pipeline, run_dir, tmp_path):
    other = Path(shutil.copytree(run_dir, tmp_path / "other"))
    record = json.loads((other / "run.json").read_text())
    record["inputs"] |= {"sequences": "1" * 32, "image_tokenizer": "0" * 32}
    (other / "run.json").write_text(json.dumps(record))
    outcome = study(pipeline.folder, str(other), *FEW)
    assert f"expected the image_tokenizer of the run, {'0' * 32}" in outcome.error()
    assert "the sequences are not those that the run was trained on" in outcome.stderr


def test_help_works_from_a_checkout_and_imports_nothing_heavy(repo):
    command_line = [sys.executable, "-m", "src.astromodal", "sample-k", "--help"]
    result = subprocess.run(command_line, cwd=repo, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert " sample-k [-h]" in result.stdout.splitlines()[0]
    code = (
        "import argparse, sys; from src.astromodal.commands import sample_k as command\n"
        "parser = argparse.ArgumentParser(); command.add_arguments(parser); parser.parse_args(['somewhere'])\n"
        "print({'torch', 'hydra', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "set()", result.stderr
