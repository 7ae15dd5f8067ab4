"""Checkpoints in the background: the copy is of one moment, writes come one after the other, errors are not lost."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from astromodal.errors import ArtifactError
from astromodal.files import io
from astromodal.runs.tracking import Tracker
from astromodal.training.callbacks import Callback
from astromodal.training.checkpoints import checkpoint
from astromodal.training.checkpoints.background import BackgroundWriter, Snapshot
from astromodal.training.checkpoints.checkpoint import load_checkpoint
from astromodal.training.loop import TrainingLoop
from tests.training.test_resume import assert_same
from tests.training.toys import ToyLoader, ToyObjective, options

WAIT = 30.0  # seconds until a test that hangs is failed


# ---------------------------------------------------------------------------------------- the copy


def test_later_changes_do_not_reach_the_copy() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": [{"c": torch.ones(2)}, 3, "x", None], "d": (1.5, True)}
    copy = Snapshot().take(state)
    state["a"].zero_()
    state["b"][0]["c"].fill_(9)
    state["b"].append("more")
    assert copy["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and copy["b"][0]["c"].tolist() == [1, 1]
    assert copy["b"][1:] == [3, "x", None] and copy["d"] == (1.5, True)


def test_a_copy_has_the_types_and_bits_of_the_state_and_needs_no_longer_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 300))
    model[2].weight = model[0].weight  # tied
    state = {
        "model": model.state_dict(),
        "t": torch.arange(12).reshape(3, 4).t(),
        "bits": torch.tensor([True]),
        "empty": torch.zeros(0, 3),
        "nothing": torch.zeros(0),
        "half": torch.ones(3).bfloat16(),
    }
    copy = Snapshot().take(state)
    assert type(copy["model"]) is OrderedDict and copy["model"]._metadata == state["model"]._metadata
    assert copy["model"]["0.weight"] is copy["model"]["2.weight"]
    for name, tensor in state["model"].items():
        assert torch.equal(copy["model"][name], tensor) and copy["model"][name].data_ptr() != tensor.data_ptr()
    for name in ("t", "bits", "empty", "nothing", "half"):
        assert copy[name].dtype == state[name].dtype and torch.equal(copy[name], state[name])
    io.save_torch(tmp_path / "a.pt", state), io.save_torch(tmp_path / "b.pt", copy)
    assert os.path.getsize(tmp_path / "b.pt") <= os.path.getsize(tmp_path / "a.pt") + 1000


def test_the_next_copy_takes_the_same_memory_and_survives_another_shape() -> None:
    snapshot = Snapshot()
    first = snapshot.take({"a": torch.zeros(5), "b": torch.zeros(3)})
    places = [first["a"].data_ptr(), first["b"].data_ptr()]
    second = snapshot.take({"a": torch.ones(5), "b": torch.full((3,), 2.0)})
    assert [second["a"].data_ptr(), second["b"].data_ptr()] == places
    assert second["a"].tolist() == [1] * 5 and second["b"].tolist() == [2] * 3
    third = snapshot.take({"new": torch.full((2, 2), 7.0), "a": torch.ones(5), "b": torch.ones(3)})
    assert [t.sum().item() for t in third.values()] == [28, 5, 3]
    assert len(snapshot.take({"a": torch.ones(4)})) == 1 and len(snapshot._buffers) == 1


# -------------------------------------------------------------------------------------- the writer


def test_it_returns_before_the_job_is_done_and_the_next_one_waits() -> None:
    release, done, begun = threading.Event(), [], []

    def job(state: dict) -> None:
        begun.append(state["n"])
        assert release.wait(WAIT)
        done.append(state["n"])

    with BackgroundWriter() as writer:
        writer.submit(job, {"n": 1})
        assert done == []  # submit() has returned, the job has not
        waiting = threading.Thread(target=writer.submit, args=(job, {"n": 2}))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive() and begun == [1]
        release.set()
        waiting.join(WAIT)
    assert done == [1, 2]  # the end of the block waited for the second


def test_an_error_of_the_job_is_raised_once_by_the_next_submit_or_wait_or_the_end() -> None:
    def broken(state: dict) -> None:
        raise ArtifactError("room on the disk", where="last.pt")

    writer = BackgroundWriter()
    writer.submit(broken, {})
    with pytest.raises(ArtifactError, match=r"last\.pt"):
        writer.submit(broken, {})
    writer.wait()
    writer.submit(broken, {})
    with pytest.raises(ArtifactError, match=r"last\.pt"):
        writer.wait()
    with pytest.raises(ArtifactError, match=r"last\.pt"), BackgroundWriter() as writer:
        writer.submit(broken, {})


def test_an_error_of_the_block_goes_before_one_of_the_writer(caplog: pytest.LogCaptureFixture) -> None:
    def broken(state: dict) -> None:
        raise ArtifactError("room on the disk", where="last.pt")

    with pytest.raises(KeyError), BackgroundWriter(logging.getLogger("astromodal")) as writer:
        writer.submit(broken, {})
        raise KeyError("first")
    assert "could not be written" in caplog.text and "last.pt" in caplog.text


# ---------------------------------------------------------------------------------------- the loop


def make(folder: Path, *callbacks: Callback, **training) -> TrainingLoop:
    torch.manual_seed(3)
    folder.mkdir(exist_ok=True)
    return TrainingLoop(
        ToyObjective(),
        ToyLoader(),
        output_dir=folder,
        tracker=Tracker(folder),
        callbacks=callbacks,
        resume="auto",
        config_record={"a": 1},
        **options(**({"epochs": 1, "save_every": 2, "ema_decay": 0.9} | training)),
    )


class Gate(Callback):
    """Holds every write until a step is reached; notes what is on the disk by then."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, release_at: int) -> None:
        self.last, self.release_at, self.open, self.before = (
            folder / "checkpoints/last.pt",
            release_at,
            threading.Event(),
            None,
        )
        real = checkpoint.save_torch

        def save(path: Path, obj: object) -> None:
            if "checkpoints" in str(path):
                assert self.open.wait(WAIT)
            real(path, obj)

        monkeypatch.setattr(checkpoint, "save_torch", save)

    def on_step_end(self, loop: TrainingLoop) -> None:
        if loop.global_step == self.release_at:
            self.before = self.last.exists()
            self.open.set()


def test_training_goes_on_while_a_checkpoint_is_written_and_the_checkpoint_is_of_its_step(
    tmp_path, monkeypatch
) -> None:
    gate = Gate(tmp_path, monkeypatch, release_at=4)  # the write of step 2 is held until step 4 was computed
    states = {}
    real = checkpoint.CheckpointStore.save

    def save(self, state, **kwargs):
        path = real(self, state, **kwargs)
        states[state["global_step"]] = load_checkpoint(path)
        return path

    monkeypatch.setattr(checkpoint.CheckpointStore, "save", save)
    make(tmp_path, gate).fit()
    assert gate.before is False and list(states) == [2, 4, 6, 8, 10]
    monkeypatch.undo()

    class Stop(Callback):
        def on_step_end(self, loop: TrainingLoop) -> None:
            if loop.global_step == 2:
                loop.stop("far enough")

    make(tmp_path / "sync", Stop(), checkpoint_async=False).fit()
    at_once = load_checkpoint(tmp_path / "sync/checkpoints/last.pt")
    for key in ("model", "optimizer", "ema", "rng", "sampler", "scheduler"):
        assert_same(states[2][key], at_once[key], key)


@pytest.mark.parametrize("n_steps", [3, 10])
def test_files_are_those_of_writing_at_once(tmp_path: Path, n_steps: int) -> None:
    for name, in_background in (("a", True), ("b", False)):
        make(tmp_path / name, checkpoint_async=in_background, max_steps=n_steps).fit()
    names = sorted(p.name for p in (tmp_path / "a/checkpoints").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b/checkpoints").iterdir()) and "last.pt" in names
    for name in names:
        assert_same(*(load_checkpoint(tmp_path / folder / "checkpoints" / name) for folder in "ab"))


def test_a_full_disk_ends_the_run_at_the_next_save_and_names_the_file(tmp_path: Path, monkeypatch) -> None:
    real = checkpoint.save_torch

    def save(path: Path, obj: dict) -> None:
        if obj.get("global_step") == 4:
            monkeypatch.setattr(os, "fsync", full)
        real(path, obj)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_torch", save)
    loop = make(tmp_path)
    with pytest.raises(ArtifactError, match=r"room on the disk.*step_00000004\.pt"):
        loop.fit()
    assert loop.global_step == 6
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "checkpoints/last.pt")["global_step"] == 2
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert make(tmp_path).fit().steps == 10


def test_a_full_disk_at_the_last_save_is_raised_at_the_end(tmp_path: Path, monkeypatch) -> None:
    def save(path: Path, obj: dict) -> None:
        raise ArtifactError("room on the disk", where=path)

    monkeypatch.setattr(checkpoint, "save_torch", save)
    with pytest.raises(ArtifactError, match=r"last\.pt"):
        make(tmp_path, save_every=None).fit()
    assert not (tmp_path / "final_model.pt").exists()


def test_a_signal_during_a_write_waits_for_it_and_saves_the_step(tmp_path: Path, monkeypatch) -> None:
    gate = Gate(tmp_path, monkeypatch, release_at=3)

    class Terminate(Callback):
        def on_step_end(self, loop: TrainingLoop) -> None:
            if loop.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        make(tmp_path, Terminate(), gate).fit()
    assert stop.value.code == 143 and load_checkpoint(tmp_path / "checkpoints/last.pt")["global_step"] == 3
    assert not any(thread.name == "checkpoint" for thread in threading.enumerate())


def test_records_are_on_the_disk_before_the_checkpoint_that_counts_on_them(tmp_path: Path, monkeypatch) -> None:
    events: list[tuple[str, int]] = []
    fsync, replace, metrics = os.fsync, os.replace, tmp_path / "metrics.jsonl"

    def noting_fsync(handle: int) -> None:
        fsync(handle)
        if metrics.exists() and os.path.samestat(os.fstat(handle), os.stat(metrics)):
            events.append(("records", len(metrics.read_bytes().splitlines())))

    def noting_replace(source: str, target: str) -> None:
        replace(source, target)
        if Path(target).name == "last.pt":
            events.append(("checkpoint", load_checkpoint(target)["global_step"]))

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    make(tmp_path, save_every=4).fit()
    assert [kind for kind, _ in events] == ["records", "checkpoint"] * 3
    for (_, n_records), (_, step) in zip(events[::2], events[1::2], strict=True):
        assert n_records >= step  # one record per step
