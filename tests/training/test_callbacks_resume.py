"""Every callback goes on exactly where it was: killed in TrainingLoop, or saved within a loop of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from astromodal.errors import ConfigError
from astromodal.files.io import load_torch, save_torch
from astromodal.runs.tracking import Tracker
from astromodal.training.callbacks import (
    Callback,
    CallbackList,
    CheckpointCallback,
    Controller,
    CoveragePlateau,
    EarlyStopping,
    FeedbackValue,
    MetricsCallback,
    ScheduledValue,
    ramp,
)
from astromodal.training.checkpoints.checkpoint import copy_checkpoint
from astromodal.training.loop import TrainingLoop
from tests.training.test_resume import KillAt, Killed, assert_same, assert_same_run
from tests.training.toys import ToyLoader, ToyNet, ToyObjective, options


class Weighted(ToyObjective):
    """Its loss depends on two quantities that callbacks set."""

    def __init__(self) -> None:
        super().__init__(ToyNet())
        self.scale = 1.0
        self.register_buffer("beta", torch.tensor(1.0))

    def forward(self, batch):
        error, stats = super().forward(batch)
        penalty = sum((p**2).sum() for p in self.model.parameters())
        return self.scale * error + 0.01 * self.beta * penalty, stats | {"norm": penalty.detach()}


class Rising(Callback):
    """A coverage that rises for some validations."""

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> dict[str, float]:
        return {"coverage": min(loop.global_step, 9) / 10}


def watchers(folder: Path) -> list[Callback]:
    return [
        Rising(),
        EarlyStopping("val/coverage", patience=3),
        CoveragePlateau(2, threshold=None, monitor="val/coverage", report_only=True),
        CheckpointCallback(folder / "mine", 1, monitor="val/loss", save_every=4, keep_last=2),
        CheckpointCallback(folder / "checkpoints", None, monitor="val/coverage"),
        MetricsCallback(),
        ScheduledValue("scale", ramp(0.2, 1.0, 8)),
        FeedbackValue("beta", "train/norm", Controller(0.5, 0.1, gain=0.5)),
        FeedbackValue("training.grad_clip", "val/loss", Controller(1.0, 0.1, gain=-0.3)),
    ]


def loop_in(folder: Path, *extra: Callback) -> TrainingLoop:
    torch.manual_seed(3)
    settings = options(epochs=6, grad_accum_steps=3, ema_decay=0.9, save_every=3, log_every=2, val_every=3)
    return TrainingLoop(
        Weighted(),
        ToyLoader(),
        val_loader=ToyLoader(8, 4, 9, False),
        tracker=Tracker(folder),
        output_dir=folder,
        callbacks=[*watchers(folder), *extra],
        resume="auto",
        seed=5,
        **settings,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = loop_in(folder).fit()
    assert result.stopped_early and result.steps == 18  # coverage is best at step 9, then 12, 15, 18
    return folder


@pytest.mark.parametrize("steps", [(2,), (5, 10, 11), (8, 13, 17)])
def test_callbacks_of_a_killed_run_go_on_exactly(whole: Path, tmp_path: Path, steps: tuple[int, ...]) -> None:
    for step in steps:
        with pytest.raises(Killed):
            loop_in(tmp_path, KillAt(step)).fit()
    loop_in(tmp_path).fit()
    assert_same_files(whole, tmp_path)


def assert_same_files(whole: Path, cut: Path) -> None:
    """The run, and every checkpoint that a callback has left."""
    assert_same_run(whole, cut)
    for folder in ("mine", "checkpoints"):
        names = [sorted(p.name for p in (root / folder).glob("*.pt")) for root in (whole, cut)]
        assert names[0] == names[1]
        for name in names[0]:
            a, b = (load_torch(root / folder / name) for root in (whole, cut))
            for state in (a, b):
                state["callbacks"] = {k: v for k, v in state["callbacks"].items() if "Kill" not in k}
            assert_same(a, b, name)


def test_what_the_callbacks_have_left_behind(whole: Path) -> None:
    mine = sorted(p.name for p in (whole / "mine").iterdir())
    assert mine == [
        "best.pt",
        "checkpoint_epoch_3.pt",
        "checkpoint_epoch_4.pt",
        "checkpoint_step_00000012.pt",
        "checkpoint_step_00000016.pt",
    ]
    assert load_torch(whole / "mine/checkpoint_epoch_3.pt")["epoch"] == 3
    best = load_torch(whole / "checkpoints/best_val_coverage.pt")
    assert best["global_step"] == 9


def test_a_copy_that_a_kill_prevented_is_made_after_the_resume(whole: Path, tmp_path: Path, monkeypatch) -> None:
    def dies(source: Path, target: Path) -> None:
        if target.name == "checkpoint_epoch_3.pt":
            raise Killed
        copy_checkpoint(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("astromodal.training.checkpoints.callback.copy_checkpoint", dies)
        with pytest.raises(Killed):
            loop_in(tmp_path).fit()
    assert not (tmp_path / "mine/checkpoint_epoch_3.pt").exists()
    loop_in(tmp_path).fit()
    assert_same_files(whole, tmp_path)


def test_a_checkpoint_callback_resumes_from_each_of_its_files(whole: Path, tmp_path: Path) -> None:
    for name in ("mine/checkpoint_epoch_3.pt", "mine/checkpoint_step_00000016.pt"):
        loop = loop_in(tmp_path / name.replace("/", "-"))
        loop.resume = whole / name
        result = loop.fit()
        assert result.steps == 18
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                loop.model.state_dict().values(),
                load_torch(whole / "checkpoints/last.pt")["model"].values(),
                strict=True,
            )
        )


def test_a_checkpoint_callback_serialises_nothing_twice(tmp_path: Path, monkeypatch) -> None:
    written: list[str] = []

    def counting(path, obj):
        written.append(Path(path).name)
        save_torch(path, obj)

    monkeypatch.setattr("astromodal.training.checkpoints.checkpoint.save_torch", counting)
    monkeypatch.setattr("astromodal.training.checkpoints.callback.save_torch", counting)
    callback = CheckpointCallback(tmp_path / "mine", 1, save_best=False, save_every=10)
    loop = TrainingLoop(ToyObjective(), ToyLoader(), callbacks=[callback], output_dir=tmp_path, **options(epochs=3))
    loop.fit()
    assert written == ["last.pt"] * 3 + ["final_model.pt"]
    assert len(list((tmp_path / "mine").iterdir())) == 6


def test_a_checkpoint_callback_needs_the_loops_checkpoints() -> None:
    with pytest.raises(ConfigError, match="output_dir"):
        TrainingLoop(ToyObjective(), ToyLoader(), callbacks=[CheckpointCallback("x")], **options()).fit()


def test_a_missing_state_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Killed):
        TrainingLoop(
            ToyObjective(), ToyLoader(), output_dir=tmp_path, callbacks=[KillAt(12)], **options(save_every=5)
        ).fit()
    loop = TrainingLoop(
        ToyObjective(),
        ToyLoader(),
        output_dir=tmp_path,
        callbacks=[MetricsCallback()],
        resume="auto",
        **options(save_every=5),
    )
    loop.fit()
    assert "no state of MetricsCallback" in caplog.text


# ----------------------------------------------------------------------------------- a loop of one's own


def own_callbacks(folder: Path, model) -> CallbackList:
    return CallbackList(
        [
            EarlyStopping(patience=3),
            CheckpointCallback(folder, 2, save_every=7, keep_last=2, model=model),
            MetricsCallback(log_interval=2, path=folder / "history.json"),
            CoveragePlateau(2, 0.5, 0.05),
        ]
    )


def own_loop(callbacks: CallbackList, stop_after: int | None = None, start: int = 0) -> int:
    """Batches 0, 1, … of epochs of five; returns the number of the next batch."""
    for n in range(start, 60):
        epoch, batch = divmod(n, 5)
        if batch == 0:
            callbacks.on_epoch_start(epoch)
        callbacks.on_batch_end(batch, {"loss": torch.tensor(1.0 / (n + 1)), "kl": float(n)})
        if batch == 4:
            coverage = min(0.1 * epoch, 0.45)
            callbacks.on_epoch_end(epoch, {"val_loss": abs(epoch - 4.0), "coverage": coverage})
            if callbacks.should_stop():
                return n + 1
        if n + 1 == stop_after:
            return n + 1
    return 60


@pytest.mark.parametrize("stop_after", [1, 8, 20, 38])
def test_a_loop_of_ones_own_can_be_interrupted_anywhere(tmp_path: Path, stop_after: int, caplog) -> None:
    model = torch.nn.Linear(2, 2)
    whole = own_callbacks(tmp_path / "whole", model)
    assert own_loop(whole) == 40  # best in epoch 4, patience 3
    first = own_callbacks(tmp_path / "cut", model)
    reached = own_loop(first, stop_after)
    save_torch(tmp_path / "state.pt", first.state_dict())
    second = own_callbacks(tmp_path / "cut", model)
    second.load_state_dict(load_torch(tmp_path / "state.pt"))
    own_loop(second, start=reached)
    assert second.state_dict() == whole.state_dict()
    assert (tmp_path / "cut/history.json").read_text() == (tmp_path / "whole/history.json").read_text()
    names = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("cut", "whole")]
    assert (
        names[0]
        == names[1]
        == [
            "best.pt",
            "checkpoint_epoch_6.pt",
            "checkpoint_epoch_8.pt",
            "checkpoint_step_00000028.pt",
            "checkpoint_step_00000035.pt",
            "history.json",
        ]
    )
    with pytest.raises(ConfigError, match="MetricsCallback_0"):
        CallbackList([MetricsCallback()]).load_state_dict({})
