"""Probes of a real run: the command finds its files, and its mean embeddings are those of ``evaluate.py``."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from astromodal.__main__ import main
from astromodal.ask import catalogue as cat
from astromodal.files.io import read_json
from astromodal.probe.similarity import nearest_in_file
from astromodal.tokens import TokenStore

from .conftest import SURVEY, Workplace, launch_stage

LABEL = "mag_pstotal_r"


@pytest.fixture(scope="module")
def probed(pipeline: Workplace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Path]:
    """A copy of ``pipeline`` and the folder of its probes, with embeddings of every object."""
    folder = tmp_path_factory.mktemp("probes") / "place"
    shutil.copytree(pipeline.folder, folder)
    place = Workplace(folder)
    run = place.runs("train_lm")[-1]
    with contextlib.chdir(folder):
        main(
            [
                "probe",
                str(run.relative_to(folder)),
                "--label",
                LABEL,
                "--epochs",
                "1",
                "--max-train",
                "40",
                "--embed-all",
                "--device",
                "cpu",
            ]
        )
    return place, run / "probes"


def test_the_command_finds_tokens_and_tokenizers_of_a_run(probed):
    place, folder = probed
    (found,) = read_json(folder / "probes.json")["labels"]
    assert found["unit"] == "mag" and LABEL not in found["given"] and found["probes"]["marginal"]["mae"]["value"] > 0.1
    table, meaning = cat.read_catalogue(folder / "embeddings.parquet")
    assert table["id"].to_pylist() == [i for field in TokenStore(place.store) for i in field.ids]
    run = read_json(folder.parent / "run.json")
    assert meaning["model"] == run["outputs"]["model"] == found["model"] and meaning["given"] == found["given"]
    query = table["id"][7].as_py()
    for how in ("mean", "attention"):
        assert np.isfinite(nearest_in_file(folder, [query], 5, how).cosines).all()


def test_mean_embeddings_are_those_that_evaluate_writes(probed):
    place, folder = probed
    mine, meaning = cat.read_catalogue(folder / "embeddings.parquet")
    given = ",".join(meaning["given"])
    outcome = launch_stage(
        "evaluate",
        *SURVEY,
        "evaluate.judge=null",
        "evaluate.embeddings=[mean]",
        f"evaluate.given=[{given}]",
        "evaluate.predict=[]",
        f"evaluate.run={folder.parent}",
        cwd=place.folder,
    )
    assert outcome.returncode == 0, outcome.stderr
    theirs, _ = cat.read_catalogue(place.runs("evaluate")[-1] / "embeddings.parquet")
    assert theirs["id"] == mine["id"]
    pairs = zip(mine["embedding_mean"].to_pylist(), theirs["embedding_mean"].to_pylist(), strict=True)
    together = [pair for pair in pairs if pair[0] is not None]
    assert len(together) > 100
    np.testing.assert_allclose(*zip(*together, strict=True), rtol=1e-4, atol=1e-5)
