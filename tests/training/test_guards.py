"""Steps that are not finite: reported with everything that made them, stopped at or skipped."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from astromodal.config.schema import HardwareConfig, Precision
from astromodal.errors import ArtifactError, ArtifactMissingError, TrainingError
from astromodal.runs.tracking import Tracker
from astromodal.training.callbacks import Callback
from astromodal.training.loop import TrainingLoop
from astromodal.training.watch.guards import MAX_SKIPPED, load_bundle, replay
from tests.training.test_resume import Killed, assert_same_run
from tests.training.toys import MemoryTracker, ToyLoader, ToyNet, ToyObjective, options


class Broken(ToyObjective):
    """One micro-batch (the second of its step) has a bad loss at chosen steps."""

    def __init__(self, bad: set[int], value: float = math.nan) -> None:
        super().__init__()
        self.bad, self.value = bad, value

    def prepare(self, batches: list[dict], step: int) -> list[dict]:
        return [
            b | {"bad": step in self.bad and i == 1, "object_index": torch.arange(4) + 100 * step + 10 * i}
            for i, b in enumerate(super().prepare(batches, step))
        ]

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        loss, stats = super().forward(batch)
        factor = self.value if batch["bad"] else 1.0
        return loss * factor, stats | {"image": loss.detach() * factor, "fine": loss.detach() * 0}


def make(folder: Path | None, objective: ToyObjective, *callbacks: Callback, **training) -> TrainingLoop:
    torch.manual_seed(3)
    objective.model.load_state_dict(ToyNet().state_dict())
    settings = {"epochs": 3, "grad_accum_steps": 2, "ema_decay": 0.9, "save_every": 1, "log_every": 1} | training
    tracker = MemoryTracker() if folder is None else Tracker(folder)
    val = ToyLoader(8, 4, 9, False) if "val_every" in training else None
    return TrainingLoop(
        objective,
        ToyLoader(),
        val_loader=val,
        output_dir=folder,
        tracker=tracker,
        callbacks=callbacks,
        seed=5,
        resume="auto" if folder else None,
        **options(**settings),
    )


def weights(loop: TrainingLoop) -> Tensor:
    return torch.cat([p.detach().flatten() for p in loop.model.parameters()])


# -------------------------------------------------------------------------------------- the bundle


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_bundle_holds_the_step_and_computes_it_again_to_the_bit(tmp_path: Path, value: float) -> None:
    loop = make(tmp_path, Broken({7}, value))
    with pytest.raises(
        TrainingError, match=r"image (nan|inf).*step 7, objects 710 … 713.*debug/step_00000007/bundle\.pt"
    ):
        loop.fit()
    path = tmp_path / "debug/step_00000007/bundle.pt"
    bundle = load_bundle(path)
    assert torch.load(path, weights_only=True).keys() == bundle.keys()
    assert bundle["step"] == 7 and bundle["before_update"] and bundle["precision"] == "float32"
    assert bundle["micro_batches"] == [1] and bundle["object_index"] == [[710, 711, 712, 713]]
    assert bundle["batches"][0]["x"].shape == (4, 4) and bundle["batches"][0]["bad"] is True
    assert not math.isfinite(bundle["terms"][0]["image"]) and math.isfinite(bundle["terms"][0]["squared"])
    assert bundle["bad_weights"] == [] and not math.isfinite(bundle["gradient_norm"])
    assert all(torch.equal(bundle["model"][k], v) for k, v in loop.model.state_dict().items())
    torch.manual_seed(99)  # the random state, and so the dropout, is the bundle's own
    (terms,) = replay(Broken(set(), value), bundle)
    assert terms == pytest.approx(bundle["terms"][0], nan_ok=True, abs=0, rel=0)


def test_names_of_bad_gradients_are_those_of_the_parameters_behind_the_fault(tmp_path: Path) -> None:
    class BadHead(ToyObjective):
        def __init__(self) -> None:
            super().__init__()
            self.model.head.bias.register_hook(lambda grad: grad * math.nan)

    loop = make(tmp_path, BadHead())
    with pytest.raises(TrainingError, match="gradient norm nan"):
        loop.fit()
    bundle = load_bundle(tmp_path / "debug/step_00000001/bundle.pt")
    assert bundle["bad_gradients"] == ["head.bias"] and bundle["bad_weights"] == []
    assert bundle["micro_batches"] == [0, 1]  # no loss is bad: all of the step


def test_a_statistic_that_is_not_finite_is_found_at_the_next_record(tmp_path: Path) -> None:
    class BadStatistic(ToyObjective):
        def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
            loss, stats = super().forward(batch)
            return loss, stats | {"odd": loss.detach() * math.inf}

    with pytest.raises(TrainingError, match=r"odd inf.*at or before step 4.*load_bundle"):
        make(tmp_path, BadStatistic(), log_every=4, save_every=None).fit()
    bundle = load_bundle(tmp_path / "debug/step_00000004/bundle.pt")
    assert not bundle["before_update"] and bundle["terms"][0]["odd"] == math.inf


def test_without_a_run_directory_or_room_for_the_bundle_the_error_is_the_same(tmp_path, monkeypatch, caplog) -> None:
    with pytest.raises(TrainingError, match="step 2, objects 210") as caught:
        make(None, Broken({2})).fit()
    assert "load_bundle" not in str(caught.value)
    from astromodal.training.watch import debug_bundle

    def full(path: Path, obj: object) -> None:
        raise ArtifactError("room on the disk", where=path)

    monkeypatch.setattr(debug_bundle, "save_torch", full)
    with pytest.raises(TrainingError, match="step 2, objects 210"):
        make(tmp_path, Broken({2})).fit()
    assert "could not be kept" in caplog.text


def test_other_files_are_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError):
        load_bundle(tmp_path / "bundle.pt")
    torch.save({"model": {}}, tmp_path / "weights.pt")
    with pytest.raises(ArtifactError, match="a debug bundle, got a file without step, batches, terms, rng"):
        load_bundle(tmp_path / "weights.pt")


# ------------------------------------------------------------------------------------------- skip


class Watch(Callback):
    """Weights, average and position after every step."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Tensor, Tensor, int, int]] = {}

    def on_step_end(self, loop: TrainingLoop) -> None:
        shadow = torch.cat([s.flatten() for s in loop.ema.state_dict()["shadow"].values()])
        self.seen[loop.global_step] = (weights(loop), shadow.clone(), loop.n_updates, loop.ema.n_updates)


def test_a_skipped_step_moves_nothing_but_the_count(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    loop = make(None, Broken({5, 6, 9}), watch, on_nonfinite="skip")
    loop.fit()
    assert loop.global_step == 15 and loop.n_updates == loop.ema.n_updates == 12
    for step in (5, 6, 9):
        before, after = watch.seen[step - 1], watch.seen[step]
        assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1]) and before[2:] == after[2:]
    moved = [s for s in range(2, 16) if not torch.equal(watch.seen[s - 1][0], watch.seen[s][0])]
    assert moved == [s for s in range(2, 16) if s not in (5, 6, 9)]
    rates, skipped, losses = (loop.tracker.column(name) for name in ("optim/lr", "optim/skipped", "train/loss"))
    assert rates[7] == pytest.approx(0.05 * loop.schedule(5))  # the fifth update
    assert skipped == {s: 1 + (s > 5) + (s > 8) for s in range(5, 16)}
    assert set(losses) == set(range(1, 16)) - {5, 6, 9} and all(map(math.isfinite, losses.values()))
    assert caplog.text.count("update skipped") == 3 and "step 9, objects 910 … 913: loss nan" in caplog.text


def test_the_optimizer_is_as_if_the_skipped_step_had_not_been() -> None:
    """Oracle: the same run with that step's gradient never computed."""

    class Without(TrainingLoop):
        def _train_step(self, batches: list[dict]) -> None:
            if self.global_step + 1 == 4:
                for batch in batches:  # draws as the forward pass does
                    self.objective(batch)
                self.position.global_step += 1
                return
            super()._train_step(batches)

    skipping = make(None, Broken({4}), on_nonfinite="skip")
    skipping.fit()
    objective = Broken(set())
    torch.manual_seed(3)
    objective.model.load_state_dict(ToyNet().state_dict())
    other = Without(
        objective,
        ToyLoader(),
        seed=5,
        **options(epochs=3, grad_accum_steps=2, ema_decay=0.9, save_every=1, log_every=1),
    )
    other.fit()
    assert torch.equal(weights(skipping), weights(other))


def test_overflows_of_fp16_are_counted_too_and_leave_no_bundle(tmp_path: Path) -> None:
    arguments = options(epochs=1, log_every=1) | {"hardware": HardwareConfig(device="cpu", precision=Precision.fp16)}
    loop = TrainingLoop(
        Broken({4, 5}),
        ToyLoader(),
        output_dir=tmp_path,
        tracker=MemoryTracker(),
        **{**arguments, "training": replace(arguments["training"], grad_accum_steps=2)},
    )
    loop.fit()
    skipped = loop.tracker.column("optim/skipped")
    assert loop.total_skipped >= 2 and skipped[5] == skipped[3] + 2 if 3 in skipped else skipped[5] == 2
    assert not (tmp_path / "debug").exists()


def test_it_gives_up_after_many_skipped_steps_in_a_row_and_keeps_few_bundles(tmp_path: Path) -> None:
    loop = make(tmp_path, Broken(set(range(3, 99))), epochs=20, on_nonfinite="skip")
    with pytest.raises(TrainingError, match=rf"step {MAX_SKIPPED + 2}.*{MAX_SKIPPED}th skipped step in a row"):
        loop.fit()
    assert sorted(p.name for p in (tmp_path / "debug").iterdir()) == [f"step_{n:08d}" for n in (3, 4, 5)]
    assert torch.isfinite(weights(loop)).all()


@pytest.mark.parametrize("step", [5, 6, 7])
def test_a_run_with_skipped_steps_is_resumed_exactly(tmp_path: Path, step: int) -> None:
    class KillAt(Callback):
        def on_step_end(self, loop: TrainingLoop) -> None:
            if loop.global_step == step:
                raise Killed

    kwargs = {"val_every": 4, "on_nonfinite": "skip"}
    make(tmp_path / "whole", Broken({5, 6, 12}), **kwargs).fit()
    with pytest.raises(Killed):
        make(tmp_path / "cut", Broken({5, 6, 12}), KillAt(), **kwargs).fit()
    loop = make(tmp_path / "cut", Broken({5, 6, 12}), **kwargs)
    loop.fit()
    assert loop.total_skipped == 3
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_stopped_may_go_on_with_skip(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        make(tmp_path, Broken({7})).fit()
    loop = make(tmp_path, Broken({7}), on_nonfinite="skip")
    assert loop.fit().steps == 15 and loop.total_skipped == 1
