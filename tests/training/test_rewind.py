"""Records and checkpoints after resumes: every step once, nothing ahead of where the run stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astromodal.files.io import load_torch, read_jsonl
from astromodal.runs.tracking import Tracker
from astromodal.training.checkpoints.checkpoint import load_checkpoint
from astromodal.training.loop import TrainingLoop
from tests.training.test_resume import KillAt, Killed, assert_same, assert_same_run, make
from tests.training.toys import ToyLoader, ToyObjective, options


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make(folder, keep_last=9).fit()
    return folder


def steps_of(folder: Path) -> list[tuple[int, bool]]:
    """Step of each record, and whether it is one of a validation."""
    return [(r["step"], "val/loss" in r) for r in read_jsonl(folder / "metrics.jsonl")]


def test_two_resumes_in_a_row_record_every_step_once(whole: Path, tmp_path: Path) -> None:
    for step in (7, 8, 11):
        with pytest.raises(Killed):
            make(tmp_path, KillAt(step), keep_last=9).fit()
    make(tmp_path, keep_last=9).fit()
    steps = steps_of(tmp_path)
    assert len(set(steps)) == len(steps) and steps == steps_of(whole)
    assert [r["epoch"] for r in json.loads((tmp_path / "training_history.json").read_text())] == [1, 2, 3]
    assert_same_run(whole, tmp_path)


def test_a_run_killed_before_its_first_checkpoint_leaves_no_record_behind(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, KillAt(5), val_every=None, save_every=None, epochs=9, grad_accum_steps=1, log_every=1).fit()
    assert not (tmp_path / "checkpoints/last.pt").exists() and steps_of(tmp_path)
    make(tmp_path, keep_last=9).fit()
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("step", [2, 6, 10])
def test_going_on_from_an_earlier_checkpoint_ends_bit_identical(whole: Path, tmp_path: Path, step: int) -> None:
    """Also when the run is killed again at once: its newest checkpoint is then the earlier one, and its records end
    there."""
    make(tmp_path, keep_last=9).fit()
    name = f"step_{step:08d}.pt"
    loop = make(tmp_path, KillAt(step + 1), keep_last=9)
    loop.resume = tmp_path / "checkpoints" / name
    with pytest.raises(Killed):
        loop.fit()
    assert load_checkpoint(tmp_path / "checkpoints/last.pt")["global_step"] == step
    assert max(s for s, _ in steps_of(tmp_path)) <= step + 1
    names = {p.name for p in (tmp_path / "checkpoints").glob("step_*.pt")}
    assert names == {f"step_{k:08d}.pt" for k in range(2, step + 1, 2)}
    make(tmp_path, keep_last=9).fit()
    assert_same_run(whole, tmp_path)
    assert steps_of(tmp_path) == steps_of(whole)
    aside = {p.name for p in (tmp_path / "checkpoints/superseded").iterdir()}
    assert {f"step_{k:08d}.pt" for k in range(step + 2, 13, 2)} <= aside


def test_what_is_set_aside_is_whole_and_the_best_weights_go_with_their_checkpoint(tmp_path: Path) -> None:
    make(tmp_path, keep_last=9).fit()
    best = load_torch(tmp_path / "best_model.pt")
    reached = load_checkpoint(tmp_path / "checkpoints/best.pt")["global_step"]
    assert reached > 4 and load_checkpoint(tmp_path / "checkpoints/step_00000004.pt")["loop"]["best"]["step"] == 3
    loop = make(tmp_path, KillAt(5), keep_last=9)
    loop.resume = tmp_path / "checkpoints/step_00000004.pt"
    with pytest.raises(Killed):
        loop.fit()
    aside = tmp_path / "checkpoints/superseded"
    assert not (tmp_path / "best_model.pt").exists() and not (tmp_path / "checkpoints/best.pt").exists()
    assert_same(load_torch(aside / "best_model.pt"), best)
    assert load_checkpoint(aside / "best.pt")["global_step"] == reached
    assert load_checkpoint(tmp_path / "checkpoints/last.pt")["loop"]["best"] == {"value": None, "step": None}


def test_old_numbered_checkpoints_do_not_crowd_out_the_new_ones(tmp_path: Path) -> None:
    make(tmp_path, keep_last=3).fit()
    loop = make(tmp_path, keep_last=3, epochs=2)  # 8 steps
    loop.resume = tmp_path / "checkpoints/step_00000008.pt"
    loop.training.epochs = 3
    loop.fit()
    names = sorted(p.name for p in (tmp_path / "checkpoints").glob("step_*.pt"))
    assert names == ["step_00000008.pt", "step_00000010.pt", "step_00000012.pt"]


def test_looking_at_an_earlier_checkpoint_changes_no_file(tmp_path: Path) -> None:
    make(tmp_path, keep_last=9).fit()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    loop = TrainingLoop(
        ToyObjective(), ToyLoader(), tracker=Tracker(tmp_path), output_dir=tmp_path, **options(ema_decay=0.9)
    )
    loop.load_checkpoint(tmp_path / "checkpoints/step_00000004.pt")
    loop.evaluate(ToyLoader(8))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_resume_into_another_directory_leaves_the_first_as_it_is(whole: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    loop = make(tmp_path, keep_last=9)
    loop.resume = whole / "checkpoints/step_00000004.pt"
    loop.fit()
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before
    assert min(s for s, _ in steps_of(tmp_path)) > 4


def test_the_history_is_never_half_written(tmp_path: Path, monkeypatch) -> None:
    import os

    seen: list[int] = []
    real = os.replace

    def replace(source, target, **kwargs):
        if str(target).endswith("training_history.json"):
            seen.append(len(json.loads(Path(source).read_text())))  # whole before it gets its name
        return real(source, target, **kwargs)

    monkeypatch.setattr(os, "replace", replace)
    make(tmp_path).fit()
    assert seen == [0, 1, 2, 3]


def test_tensorboard_shows_every_step_once_after_resumes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for kill in (7, 8, 11, None):
        loop = make(tmp_path, *([KillAt(kill)] if kill else []))
        loop.records.tracker = Tracker(tmp_path, tensorboard=True)
        if kill:
            with pytest.raises(Killed):
                loop.fit()
        else:
            loop.fit()
            loop.tracker.close()
    records = read_jsonl(tmp_path / "metrics.jsonl")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "val/loss", "optim/lr"):
        recorded = [(r["step"], r[name]) for r in records if name in r]
        shown = [(e.step, e.value) for e in events.Scalars(name)]
        assert [s for s, _ in shown] == [s for s, _ in recorded]
        assert [v for _, v in shown] == pytest.approx([v for _, v in recorded], rel=1e-6)
