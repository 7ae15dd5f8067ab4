"""Weights with NaN or infinity: a run that ends with them has failed, and none are loaded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from astromodal.errors import ArtifactError, TrainingError
from astromodal.files.io import load_torch, save_torch
from astromodal.training.callbacks import Callback
from astromodal.training.checkpoints.checkpoint import CheckpointStore, load_checkpoint, load_weights
from astromodal.training.loop import TrainingLoop
from tests.training.test_guards import make
from tests.training.toys import ToyNet, ToyObjective

LAST = 15  # 40 rows in batches of 4, two of them a step, three epochs


class Spoil(Callback):
    """Does to the weights at one step what a last update may do, with a loss that was finite before it."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_step_end(self, loop: TrainingLoop) -> None:
        if loop.global_step == self.step:
            with torch.no_grad():
                loop.model.first.weight[0, 0] = self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [LAST, 5])
def test_a_run_whose_weights_are_not_finite_fails_and_names_the_last_good_ones(tmp_path: Path, value, step) -> None:
    loop = make(tmp_path, ToyObjective(), Spoil(step, value), save_every=4, val_every=4)
    with pytest.raises(TrainingError, match=f"finite weights.*first.weight.*step {step}.*best.pt") as caught:
        loop.fit()
    assert "\n" not in str(caught.value) and loop.global_step == step
    assert not (tmp_path / "final_model.pt").exists()
    for name in ("last.pt", "best.pt"):
        state = load_checkpoint(tmp_path / "checkpoints" / name)
        assert state["global_step"] < step and all(v.isfinite().all() for v in state["model"].values())


def test_without_anything_saved_the_line_says_so() -> None:
    loop = make(None, ToyObjective(), Spoil(LAST, math.nan))
    with pytest.raises(TrainingError, match="no checkpoint"):
        loop.fit()


def spoiled(folder: Path) -> None:
    """A finished run whose last checkpoint and weights an earlier program has written with NaN."""
    make(folder, ToyObjective()).fit()
    for path in (folder / "checkpoints" / "last.pt", folder / "final_model.pt"):
        state = load_torch(path)
        (state.get("model") or state["model_state_dict"])["head.bias"][0] = math.nan
        save_torch(path, state)


def test_weights_that_are_not_finite_are_not_loaded(tmp_path: Path) -> None:
    spoiled(tmp_path)
    for path in (tmp_path / "final_model.pt", tmp_path / "checkpoints" / "last.pt"):
        with pytest.raises(ArtifactError, match=f"finite weights, got NaN or infinity in head.bias.*{path.name}"):
            load_weights(ToyNet(), path)
    with pytest.raises(ArtifactError, match="finite weights"):
        load_checkpoint(tmp_path / "checkpoints" / "last.pt")


def test_a_resume_passes_over_them_to_the_newest_finite_checkpoint(tmp_path: Path) -> None:
    spoiled(tmp_path)
    state = CheckpointStore(tmp_path).load()
    assert state["global_step"] == LAST and torch.isfinite(state["model"]["head.bias"]).all()  # step_00000015.pt
