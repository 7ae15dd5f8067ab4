"""Checkpoint files: contents, order, damage, safety."""

from __future__ import annotations

import json
import os
import pickle
import random
from enum import Enum
from pathlib import Path

import pytest
import torch
from torch import nn

from astromodal.errors import ArtifactError, ArtifactMissingError, ConfigError, UnsafeFileError
from astromodal.files.io import FileLock, load_torch, save_torch
from astromodal.training.checkpoints.checkpoint import (
    KEYS,
    CheckpointStore,
    load_checkpoint,
    load_model_state,
    load_weights,
)
from astromodal.training.checkpoints.resume import check_resumable, config_differences, find_resume
from astromodal.training.loop import TrainingLoop
from tests.training.test_resume import assert_same
from tests.training.toys import ToyLoader, ToyNet, ToyObjective, options


class Colour(Enum):
    red = 1


def fitted(folder: Path, **training) -> TrainingLoop:
    loop = TrainingLoop(
        ToyObjective(),
        ToyLoader(),
        val_loader=ToyLoader(8, 4, 1, False),
        output_dir=folder,
        config_record={"name": "toy", "path": Path("x"), "colour": Colour.red, "nested": {"a": (1, 2)}},
        **options(epochs=2, **training),
    )
    loop.fit()
    return loop


def test_a_checkpoint_holds_the_documented_keys_and_needs_no_pickle(tmp_path: Path) -> None:
    fitted(tmp_path, ema_decay=0.9)
    state = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert set(KEYS) <= set(state)
    assert state["global_step"] == 20 and state["epoch"] == 2
    assert state["config"] == {"name": "toy", "path": "x", "colour": "red", "nested": {"a": [1, 2]}}
    assert [record["epoch"] for record in state["history"]] == [1, 2]


def test_weights_files_load_into_a_plain_model_with_torch_alone(tmp_path: Path) -> None:
    loop = fitted(tmp_path, ema_decay=0.9)
    for name in ("best_model.pt", "final_model.pt"):
        saved = torch.load(tmp_path / name, weights_only=True)
        assert set(saved) == {"model_state_dict", "config"}
        ToyNet().load_state_dict(saved["model_state_dict"])
    final = torch.load(tmp_path / "final_model.pt", weights_only=True)["model_state_dict"]
    with loop.ema.applied():
        assert all(torch.equal(final[k], v) for k, v in loop.model.state_dict().items())


def test_best_model_holds_the_weights_that_were_validated(tmp_path: Path) -> None:
    loop = fitted(tmp_path, ema_decay=0.9, val_every=3)
    model = ToyNet()
    load_weights(model, tmp_path)
    again = TrainingLoop(ToyObjective(model), ToyLoader(), **options()).evaluate(ToyLoader(8, 4, 1, False))
    assert again["loss"] == loop.best.value


def test_only_the_newest_numbered_checkpoints_are_kept(tmp_path: Path) -> None:
    fitted(tmp_path, save_every=3, keep_last=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "best.pt",
        "last.pt",
        "step_00000015.pt",
        "step_00000018.pt",
    ]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_of_a_wrapped_or_compiled_model_load_into_a_plain_one(prefix: str) -> None:
    source, target = ToyNet(), ToyNet()
    load_model_state(target, {prefix + k: v for k, v in source.state_dict().items()})
    assert torch.equal(source.first.weight, target.first.weight)


def test_weights_of_a_whole_objective_load_into_its_model() -> None:
    source, target = ToyObjective(), ToyNet()
    load_model_state(target, {"_orig_mod." + k: v for k, v in source.state_dict().items()})
    assert torch.equal(source.model.first.weight, target.first.weight)


def test_weights_of_another_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(ArtifactError, match=r"\(8, 4\).*\(16, 4\)"):
        load_model_state(ToyNet(), ToyNet(width=16).state_dict())
    with pytest.raises(ArtifactError, match="missing"):
        load_model_state(nn.Sequential(nn.Linear(2, 2)), {"0.weight": torch.zeros(2, 2)})


def test_a_weights_file_is_no_checkpoint_and_says_what_to_do(tmp_path: Path) -> None:
    fitted(tmp_path)
    with pytest.raises(ArtifactError, match="init_from"):
        load_checkpoint(tmp_path / "final_model.pt")
    with pytest.raises(ArtifactMissingError):
        load_checkpoint(tmp_path / "none.pt")


def test_a_malicious_checkpoint_executes_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save({key: Evil() for key in KEYS}, folder / "last.pt")
    (folder / "best.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeFileError):
        load_checkpoint(folder / "last.pt")
    with pytest.raises(ArtifactError):
        CheckpointStore(tmp_path).load()
    with pytest.raises(ArtifactError):
        load_weights(ToyNet(), folder / "last.pt")
    assert not (tmp_path / "owned").exists()


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = fitted(tmp_path)
    before = (tmp_path / "checkpoints/last.pt").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    loop.position.global_step += 1
    with pytest.raises(ArtifactError, match="room on the disk"):
        loop.save()
    assert (tmp_path / "checkpoints/last.pt").read_bytes() == before
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_single_flipped_bit_is_noticed_or_does_no_harm(tmp_path: Path) -> None:
    fitted(tmp_path, ema_decay=0.9)
    path = tmp_path / "checkpoints/last.pt"
    whole, raw = load_checkpoint(path), path.read_bytes()
    draws, n_refused = random.Random(0), 0
    for place in draws.sample(range(len(raw)), 80):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << draws.randrange(8)]) + raw[place + 1 :])
        try:
            assert_same(load_checkpoint(path), whole)
        except ArtifactError:
            n_refused += 1
    assert n_refused > 20


def test_a_flipped_bit_in_the_last_checkpoint_falls_back_to_the_newest_whole_one(tmp_path: Path, caplog) -> None:
    fitted(tmp_path, save_every=6)
    path = tmp_path / "checkpoints/last.pt"
    raw = bytearray(path.read_bytes())
    weights = load_checkpoint(path)["model"]["first.weight"]
    raw[raw.index(weights.numpy().tobytes()) + 2] ^= 16
    path.write_bytes(raw)
    assert not torch.equal(torch.load(path, weights_only=True)["model"]["first.weight"], weights)  # without a word
    assert CheckpointStore(tmp_path).load()["global_step"] == 20
    assert "last.pt cannot be used" in caplog.text and "continuing from best.pt, step 20" in caplog.text
    (tmp_path / "checkpoints/best.pt").unlink()
    assert CheckpointStore(tmp_path).load()["global_step"] == 18


def test_a_kill_before_old_checkpoints_were_removed_leaves_none_after_the_resume(tmp_path: Path, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    def killed(self: Path, **kwargs) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            fitted(tmp_path, save_every=5, keep_last=2, checkpoint_async=False)
    numbered = CheckpointStore(tmp_path).numbered
    assert [p.stem for p in numbered()] == ["step_00000015", "step_00000010", "step_00000005"]
    loop = TrainingLoop(
        ToyObjective(),
        ToyLoader(),
        output_dir=tmp_path,
        resume="auto",
        **options(epochs=2, save_every=None, keep_last=2),
    )
    loop.saver.config_record = load_checkpoint(tmp_path / "checkpoints/last.pt")["config"]
    loop.fit()
    assert [p.stem for p in numbered()] == ["step_00000015", "step_00000010"]


@pytest.mark.parametrize("key", ["checkpoint_async", "on_nonfinite", "spike_factor", "keep_last", "log_every"])
def test_what_decides_no_result_may_change_on_a_resume(key: str) -> None:
    old, new = ({"training": {key: value, "batch_size": 4}} for value in (1, 2))
    check_resumable(old, new)
    with pytest.raises(ConfigError, match=r"training\.batch_size: 4 -> 8"):
        check_resumable(old, {"training": {key: 2, "batch_size": 8}})


def test_init_from_begins_with_the_weights_of_a_run_directory_or_a_file(tmp_path: Path) -> None:
    fitted(tmp_path / "a")
    for source in (tmp_path / "a", tmp_path / "a/final_model.pt", tmp_path / "a/checkpoints/last.pt"):
        loop = TrainingLoop(ToyObjective(), ToyLoader(), init_from=source, **options(ema_decay=0.9, max_steps=1))
        expected = ToyNet()
        load_weights(expected, source)
        loop._begin()
        assert loop.global_step == 0
        assert torch.equal(loop.model.first.weight, expected.first.weight)
        assert torch.equal(loop.ema.state_dict()["shadow"]["first.weight"], expected.first.weight)


def test_differences_of_configuration_leave_out_what_may_change() -> None:
    old = {"loss": {"weight_image": 0.1}, "training": {"epochs": 5, "batch_size": 16}, "name": "a", "tracking": {}}
    new = {"loss": {"weight_image": 0.2}, "training": {"epochs": 9, "batch_size": 16}, "name": "b", "seed": 1}
    assert config_differences(old, new) == ["loss.weight_image: 0.1 -> 0.2", "seed: None -> 1"]


def test_resume_auto_finds_the_newest_unfinished_run_with_the_same_configuration(tmp_path: Path) -> None:
    def run(name: str, status: str, fingerprint: str, mtime: float | None) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"status": status, "config_fingerprint": fingerprint}))
        if mtime is not None:
            save_torch(folder / "checkpoints/last.pt", {})
            os.utime(folder / "checkpoints/last.pt", (mtime, mtime))
        return folder

    run("default/1", "FAILED", "same", 100.0)
    wanted = run("default/2", "RUNNING", "same", 200.0)
    run("default/3", "DONE", "same", 300.0)
    run("default/4", "FAILED", "other", 400.0)
    run("default/5", "FAILED", "same", None)
    (tmp_path / "default/6").mkdir()
    (tmp_path / "default/6/run.json").write_text("{")
    assert find_resume(tmp_path, "same") == wanted
    in_sweep = run("sweeps/s/0", "FAILED", "same", 500.0)
    assert find_resume(tmp_path, "same") == in_sweep
    assert find_resume(tmp_path, "none") is None
    assert load_torch(wanted / "checkpoints/last.pt") == {}


def test_a_run_that_is_still_going_on_is_not_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "default/1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "RUNNING", "config_fingerprint": "same"}))
    save_torch(folder / "checkpoints/last.pt", {})
    with FileLock(folder / ".run"):
        assert find_resume(tmp_path, "same") is None
    assert find_resume(tmp_path, "same") == folder
