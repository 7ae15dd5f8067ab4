"""A run that was killed and started again ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from astromodal.config.schema import OptimizerConfig, OptimizerName
from astromodal.errors import ArtifactError, ConfigError
from astromodal.machine.signals import Stopped, stops_raised
from astromodal.runs.tracking import Tracker
from astromodal.training.callbacks import Callback, EarlyStopping
from astromodal.training.checkpoints.checkpoint import load_checkpoint
from astromodal.training.loop import LoopResult, TrainingLoop
from tests.training.toys import ToyLoader, ToyNet, ToyObjective, options


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program may catch it."""


class NoisyCallback(Callback):
    """Draws from Python's and NumPy's generators, so that losing their state would show."""

    def __init__(self) -> None:
        self.drawn = 0.0

    def on_step_end(self, loop: TrainingLoop) -> None:
        self.drawn += random.random() + float(np.random.rand())

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> dict[str, float]:
        return {"drawn": self.drawn}

    def state_dict(self) -> dict[str, float]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.drawn = state["drawn"]


class KillAt(Callback):
    def __init__(self, step: int, in_validation: bool = False) -> None:
        self.step, self.in_validation = step, in_validation

    def on_step_end(self, loop: TrainingLoop) -> None:
        if loop.global_step == self.step and not self.in_validation:
            raise Killed

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> None:
        if loop.global_step >= self.step and self.in_validation:
            raise Killed


def make(folder: Path, *extra: Callback, loader=None, optimizer=None, model_seed: int = 3, **training) -> TrainingLoop:
    torch.manual_seed(model_seed)
    settings = {
        "epochs": 3,
        "grad_accum_steps": 3,
        "ema_decay": 0.9,
        "save_every": 2,
        "log_every": 3,
        "val_every": 3,
        "keep_last": 2,
    } | training
    arguments = options(**settings)
    if optimizer is not None:
        arguments["optimizer"] = optimizer
    return TrainingLoop(
        ToyObjective(),
        loader or ToyLoader(),
        val_loader=ToyLoader(20, 4, 9, False),
        tracker=Tracker(folder),
        output_dir=folder,
        callbacks=[NoisyCallback(), *extra],
        seed=5,
        resume="auto",
        **arguments,
    )


def outcome(folder: Path) -> tuple[dict, list, list]:
    """Final state, history and records, without times."""
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    state["callbacks"] = {k: v for k, v in state["callbacks"].items() if "Kill" not in k}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    records = [{k: v for k, v in r.items() if k != "time" and not k.startswith("perf/")} for r in records]
    return state, json.loads((folder / "training_history.json").read_text()), records


def assert_same(a, b, path: str = "") -> None:
    assert type(a) is type(b), path
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b or (a != a and b != b), f"{path}: {a} != {b}"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make(folder).fit()
    return folder


def assert_same_run(a: Path, b: Path) -> None:
    for x, y in zip(outcome(a), outcome(b), strict=True):
        assert_same(x, y)
    for name in ("best_model.pt", "final_model.pt", "checkpoints/best.pt"):
        assert_same(torch.load(a / name, weights_only=True), torch.load(b / name, weights_only=True))
    names = [sorted(p.name for p in (folder / "checkpoints").glob("*.pt")) for folder in (a, b)]
    assert names[0] == names[1]


def run_killed(folder: Path, *kills: Callback, **kwargs) -> LoopResult:
    for kill in kills:
        with pytest.raises(Killed):
            make(folder, kill, **kwargs).fit()
    return make(folder, **kwargs).fit()


@pytest.mark.parametrize("step", range(1, 12))
def test_a_run_killed_at_any_step_ends_bit_identical(uninterrupted: Path, tmp_path: Path, step: int) -> None:
    result = run_killed(tmp_path, KillAt(step))
    assert result.steps == 12
    assert_same_run(uninterrupted, tmp_path)


def test_a_run_killed_many_times_and_in_validations_ends_bit_identical(uninterrupted: Path, tmp_path: Path) -> None:
    run_killed(tmp_path, KillAt(3), KillAt(3, in_validation=True), KillAt(7), KillAt(9, in_validation=True), KillAt(11))
    assert_same_run(uninterrupted, tmp_path)


def test_a_fresh_model_with_other_initial_weights_does_not_matter_after_a_resume(uninterrupted, tmp_path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, KillAt(5)).fit()
    make(tmp_path, model_seed=99).fit()
    assert_same_run(uninterrupted, tmp_path)


def test_a_torch_loader_that_shuffles_by_the_global_generator_is_resumed_exactly(tmp_path: Path) -> None:
    data = ToyLoader()

    def loader() -> DataLoader:
        return DataLoader(TensorDataset(data.x, data.y), batch_size=4, shuffle=True, collate_fn=collate)

    make(tmp_path / "whole", loader=loader()).fit()
    for kill in (KillAt(3), KillAt(7), None):
        loop = make(tmp_path / "cut", *([kill] if kill else []), loader=loader())
        if kill:
            with pytest.raises(Killed):
                loop.fit()
    loop.fit()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_torch_loader_with_its_own_generator_is_resumed_exactly(tmp_path: Path) -> None:
    data = ToyLoader()

    def loader() -> DataLoader:
        return DataLoader(
            TensorDataset(data.x, data.y),
            batch_size=4,
            shuffle=True,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(4),
        )

    make(tmp_path / "whole", loader=loader()).fit()
    with pytest.raises(Killed):
        make(tmp_path / "cut", KillAt(7), loader=loader()).fit()
    make(tmp_path / "cut", loader=loader()).fit()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_muon_is_resumed_exactly(tmp_path: Path) -> None:
    muon = OptimizerConfig(name=OptimizerName.muon, learning_rate=0.01)
    make(tmp_path / "whole", optimizer=muon).fit()
    with pytest.raises(Killed):
        make(tmp_path / "cut", KillAt(7), optimizer=muon).fit()
    make(tmp_path / "cut", optimizer=muon).fit()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_new_run_in_a_used_folder_keeps_the_earlier_one(tmp_path: Path, caplog) -> None:
    make(tmp_path).fit()
    before = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for n in (1, 2):
        loop = make(tmp_path)
        loop.resume, loop.init_from = None, tmp_path / "best_model.pt"
        loop.fit()
        assert f"which is kept in earlier_{n}" in caplog.text
    kept = tmp_path / "earlier_1"
    assert {p.relative_to(kept): p.read_bytes() for p in kept.rglob("*") if p.is_file()} == before
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in kept.iterdir()} | {"earlier_1", "earlier_2"}
    make(tmp_path).fit()  # a resume moves nothing
    assert not (tmp_path / "earlier_3").exists()


def test_skipped_batches_are_not_loaded_again(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, KillAt(7)).fit()
    loader = ToyLoader()
    make(tmp_path, loader=loader).fit()
    assert loader.n_loaded == 10 + (10 - 6)  # from step 6 on: micro-batches 6 … 9 of epoch 1, and epoch 2


def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {"x": torch.stack([x for x, _ in rows]), "y": torch.stack([y for _, y in rows])}


class SignalAt(Callback):
    def __init__(self, step: int, number: int, in_validation: bool = False) -> None:
        self.step, self.number, self.in_validation = step, number, in_validation

    def on_step_end(self, loop: TrainingLoop) -> None:
        if loop.global_step == self.step and not self.in_validation:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_signal_finishes_the_step_saves_and_exits(uninterrupted, tmp_path, number: int, code: int, step: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as exit_:
        make(tmp_path, SignalAt(step, number)).fit()
    assert exit_.value.code == code
    assert signal.getsignal(number) == before
    assert load_checkpoint(tmp_path / "checkpoints/last.pt")["global_step"] == step
    make(tmp_path).fit()
    assert_same_run(uninterrupted, tmp_path)


def test_a_signal_after_the_last_step_ends_what_would_follow_the_training(uninterrupted: Path, tmp_path: Path) -> None:
    loop = make(tmp_path)
    save = loop.save

    def save_and_stop() -> None:
        save()
        if loop.done:
            os.kill(os.getpid(), signal.SIGTERM)

    loop.save = save_and_stop
    with pytest.raises(Stopped, match="SIGTERM"), stops_raised():
        loop.fit()
    assert_same_run(uninterrupted, tmp_path)  # the training is whole, with the weights of its end


def test_a_signal_in_a_validation_repeats_the_validation_after_the_resume(uninterrupted: Path, tmp_path: Path) -> None:
    loop = make(tmp_path)
    original = loop.objective.evaluate

    def evaluate(batch):
        if loop.global_step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batch)

    loop.objective.evaluate = evaluate
    with pytest.raises(SystemExit):
        loop.fit()
    state = load_checkpoint(tmp_path / "checkpoints/last.pt")
    assert state["global_step"] == 6 and state["loop"]["pending"]
    make(tmp_path).fit()
    assert_same_run(uninterrupted, tmp_path)


def test_a_damaged_last_checkpoint_falls_back_to_the_newest_whole_one(uninterrupted, tmp_path, caplog) -> None:
    with pytest.raises(Killed):
        make(tmp_path, KillAt(7)).fit()
    last = tmp_path / "checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[:200])
    with caplog.at_level("WARNING"):
        make(tmp_path).fit()
    assert "last.pt cannot be used" in caplog.text and "continuing from" in caplog.text
    assert_same_run(uninterrupted, tmp_path)


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, KillAt(7)).fit()
    for path in (tmp_path / "checkpoints").glob("*.pt"):
        path.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="damaged"):
        make(tmp_path).fit()


def test_resuming_a_finished_run_says_so_and_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path).fit()
    before = outcome(tmp_path)
    with caplog.at_level("INFO"):
        result = make(tmp_path, epochs=2).fit()
    assert "nothing to do" in caplog.text and result.steps == 12
    for a, b in zip(before, outcome(tmp_path), strict=True):
        assert_same(a, b)


def test_fewer_epochs_than_are_done_are_said_and_change_nothing(tmp_path: Path, caplog) -> None:
    make(tmp_path).fit()
    before = outcome(tmp_path)
    with caplog.at_level("INFO"):
        result = make(tmp_path, epochs=1).fit()
    assert "nothing to do: 12 steps are done, more than the 4 asked for" in caplog.text and result.steps == 12
    for a, b in zip(before, outcome(tmp_path), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("n_forward", [1, 2, 14, 15, 30])
def test_a_run_killed_between_micro_batches_ends_bit_identical(uninterrupted, tmp_path, n_forward: int) -> None:
    """A step has three micro-batches (the last of an epoch one); the process dies in the n-th forward pass."""
    loop, count = make(tmp_path), 0
    real = loop.objective.forward

    def forward(batch):
        nonlocal count
        count += 1
        if count == n_forward:
            raise Killed
        return real(batch)

    loop.objective.forward = forward
    with pytest.raises(Killed):
        loop.fit()
    assert count == n_forward
    make(tmp_path).fit()
    assert_same_run(uninterrupted, tmp_path)


def test_the_checkpoint_knows_the_dashboard_run_and_a_change_of_it_is_said(tmp_path: Path, caplog) -> None:
    class Dashboard(Tracker):
        id = "train_lm-1"
        wandb_id = property(lambda self: self.id)

    def with_dashboard(id_: str) -> TrainingLoop:
        loop = make(tmp_path, *([KillAt(7)] if id_ == "train_lm-1" else []))
        loop.records.tracker = Dashboard(tmp_path)
        loop.tracker.id = id_
        return loop

    with pytest.raises(Killed):
        with_dashboard("train_lm-1").fit()
    assert load_checkpoint(tmp_path / "checkpoints/last.pt")["loop"]["wandb_id"] == "train_lm-1"
    with_dashboard("train_lm-2").fit()
    assert "the run was train_lm-1 and goes on as train_lm-2" in caplog.text


def test_early_stopping_state_survives(tmp_path: Path) -> None:
    def stopping() -> EarlyStopping:
        return EarlyStopping("val/drawn", patience=4, mode="min")

    make(tmp_path / "whole", stopping(), epochs=9).fit()
    with pytest.raises(Killed):
        make(tmp_path / "cut", stopping(), KillAt(10), epochs=9).fit()
    result = make(tmp_path / "cut", stopping(), epochs=9).fit()
    assert result.stopped_early and result.steps == 15  # best at 3; then 6, 9, 12, 15
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert make(tmp_path / "cut", stopping(), epochs=9).fit().steps == 15


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, KillAt(7)).fit()
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate: 0.05 -> 0.1"):
        make(tmp_path, optimizer=OptimizerConfig(learning_rate=0.1)).fit()
    with pytest.raises(ConfigError, match=r"training\.grad_accum_steps: 3 -> 2"):
        make(tmp_path, grad_accum_steps=2).fit()


def test_more_epochs_may_be_asked_for_on_resume(tmp_path: Path) -> None:
    make(tmp_path, epochs=1).fit()
    result = make(tmp_path, epochs=2).fit()
    assert result.steps == 8 and [r["epoch"] for r in result.history] == [1, 2]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, KillAt(7)).fit()
    loop = TrainingLoop(ToyObjective(ToyNet(width=16)), ToyLoader(), output_dir=tmp_path, resume="auto", **options())
    loop.saver.config_record = {}
    with pytest.raises(ArtifactError, match=r"first\.weight"):
        loop.fit()


@pytest.mark.parametrize("n_replaces", range(1, 27, 2))
def test_a_run_killed_before_any_rename_ends_bit_identical(uninterrupted, tmp_path, monkeypatch, n_replaces) -> None:
    """Every file is written by a rename; the process dies just before the n-th."""
    real, count = os.replace, 0

    def replace(*args, **kwargs):
        nonlocal count
        count += 1
        if count == n_replaces:
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            make(tmp_path).fit()
    make(tmp_path).fit()
    assert_same_run(uninterrupted, tmp_path)
