"""The training loop: accumulation, precision, averages, records, guards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from astromodal.config.schema import HardwareConfig, Precision, ScheduleConfig
from astromodal.errors import ConfigError, DataError, TrainingError
from astromodal.training.loop import TrainingLoop
from tests.training.toys import CPU, MemoryTracker, ToyLoader, ToyNet, ToyObjective, options


def loop_with(objective=None, loader=None, **kwargs) -> TrainingLoop:
    torch.manual_seed(0)  # of the model's weights
    known = {"val_loader", "tracker", "output_dir", "callbacks", "metric_prefix", "log", "progress", "seed"}
    extra = {k: kwargs.pop(k) for k in list(kwargs) if k in known}
    settings = options(**kwargs)
    loader = ToyLoader() if loader is None else loader
    return TrainingLoop(objective or ToyObjective(ToyNet(dropout=0.0)), loader, **extra, **settings)


def weights(loop: TrainingLoop) -> Tensor:
    return torch.cat([p.detach().flatten() for p in loop.model.parameters()])


# -------------------------------------------------------------------------------- what it computes


def test_it_equals_the_obvious_loop() -> None:
    loop = loop_with(epochs=3)
    torch.manual_seed(0)
    model, loader = ToyNet(dropout=0.0), ToyLoader()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        weight_decay=0.05,
    )
    step = 0
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            step += 1
            cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 28))
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (step / 2 if step < 2 else cosine)
            ((model(batch["x"]) - batch["y"]) ** 2).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert loop.fit().steps == 30
    expected = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights(loop), expected, rtol=1e-4, atol=1e-6)


def test_accumulated_micro_batches_equal_the_large_batch() -> None:
    large = loop_with(loader=ToyLoader(42, 12), epochs=3)
    small = loop_with(loader=ToyLoader(42, 4), epochs=3, grad_accum_steps=3)
    assert small.fit().steps == large.fit().steps == 12  # the last, smaller group of an epoch is a step too
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-6)


def test_the_horizon_of_the_schedule_is_what_the_run_takes() -> None:
    tracker = MemoryTracker()
    loop_with(epochs=2, grad_accum_steps=3, tracker=tracker).fit()
    rates = tracker.column("optim/lr")
    assert len(rates) == 8 and rates[1] == 0.025 and rates[2] == 0.05
    assert rates[8] == pytest.approx(0.005)
    tracker = MemoryTracker()
    loop_with(epochs=2, max_steps=5, tracker=tracker).fit()
    assert max(tracker.column("optim/lr")) == 5 and tracker.column("optim/lr")[5] == pytest.approx(0.005)


def test_max_steps_may_be_more_than_the_epochs() -> None:
    result = loop_with(epochs=1, max_steps=25).fit()
    assert result.steps == 25 and result.epochs == 2 and [r["epoch"] for r in result.history] == [1, 2, 3]


def test_a_warm_up_longer_than_the_run_is_shortened_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    settings = options(epochs=2) | {"schedule": ScheduleConfig(warmup_steps=2000)}
    with caplog.at_level("INFO"):
        loop = TrainingLoop(ToyObjective(), ToyLoader(), **settings)
        loop.fit()
    assert "warmup_steps=2000" in caplog.text and "shortened to 2" in caplog.text


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    def train(seed: int) -> Tensor:
        loop = loop_with(ToyObjective(ToyNet(dropout=0.5)), seed=seed)
        loop.model.load_state_dict(start)
        loop.fit()
        return weights(loop)

    start = ToyNet().state_dict()
    start = {k: v.clone() for k, v in start.items()}
    assert torch.equal(train(1), train(1)) and not torch.equal(train(1), train(2))


# -------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp16, Precision.auto])
def test_every_precision_trains_on_the_cpu(precision: Precision) -> None:
    settings = options(epochs=15) | {"hardware": HardwareConfig(device="cpu", precision=precision, cpu_bf16=True)}
    tracker = MemoryTracker()
    TrainingLoop(ToyObjective(ToyNet(dropout=0.0)), ToyLoader(), tracker=tracker, **settings).fit()
    losses = tracker.column("train/loss")
    assert losses[150] < 0.3 * losses[min(losses)]  # fp16 skips its first steps, until the scale fits


class Overflowing(ToyObjective):
    """Its gradient is too large for fp16 at chosen steps."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__(ToyNet(dropout=0.0))
        self.bad, self.step = bad, 0

    def prepare(self, batches, step):
        self.step = step
        return super().prepare(batches, step)

    def forward(self, batch):
        loss, stats = super().forward(batch)
        return (loss * math.inf if self.step in self.bad else loss), stats


def fp16_loop(bad: set[int], **kwargs) -> tuple[TrainingLoop, MemoryTracker]:
    tracker = MemoryTracker()
    settings = options(**kwargs) | {"hardware": HardwareConfig(device="cpu", precision=Precision.fp16)}
    return TrainingLoop(Overflowing(bad), ToyLoader(), tracker=tracker, **settings), tracker


def test_a_skipped_fp16_step_moves_neither_schedule_nor_average() -> None:
    loop, tracker = fp16_loop({5, 6}, epochs=1, ema_decay=0.9)
    loop.fit()
    rates, losses, scales = (tracker.column(n) for n in ("optim/lr", "train/loss", "optim/loss_scale"))
    assert {5, 6} <= set(range(1, 11)) - set(losses) and all(map(math.isfinite, losses.values()))
    assert loop.global_step == 10 and loop.n_updates == loop.ema.n_updates == len(losses)
    for step in range(1, 11):
        n_before = sum(k < step for k in losses)
        assert rates[step] == pytest.approx(0.05 * loop.schedule(n_before + 1))
    assert scales[6] == scales[4] / 4


def test_fp16_that_only_overflows_is_given_up() -> None:
    loop, _ = fp16_loop(set(range(1000)), epochs=9)
    with pytest.raises(TrainingError, match="step 25"):
        loop.fit()


def test_a_device_that_is_not_there_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="hardware=cpu"):
        TrainingLoop(ToyObjective(), ToyLoader(), **(options() | {"hardware": HardwareConfig(device="cuda:7")}))
    with pytest.raises(ConfigError, match=r"hardware\.device"):
        TrainingLoop(ToyObjective(), ToyLoader(), **(options() | {"hardware": HardwareConfig(device="abacus")}))


def test_a_compiled_loop_trains_the_same_and_saves_plain_names(tmp_path: Path, monkeypatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: real(module, backend="eager"))
    compiled = TrainingLoop(
        ToyObjective(ToyNet(dropout=0.0)),
        ToyLoader(),
        output_dir=tmp_path,
        **(options() | {"hardware": HardwareConfig(device="cpu", compile=True)}),
    )
    plain = loop_with()
    plain.model.load_state_dict(compiled.model.state_dict())
    compiled.fit(), plain.fit()
    torch.testing.assert_close(weights(compiled), weights(plain))
    ToyNet().load_state_dict(torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["model"])


# ---------------------------------------------------------------------------------------- records


def test_logged_losses_are_means_over_the_interval() -> None:
    every, each = MemoryTracker(), MemoryTracker()
    loop_with(log_every=4, tracker=every).fit()
    loop_with(log_every=1, tracker=each).fit()
    single = each.column("train/loss")
    assert list(every.column("train/loss")) == [4, 8, 12, 16, 20]
    for last, mean in every.column("train/loss").items():
        assert mean == pytest.approx(sum(single[k] for k in range(last - 3, last + 1)) / 4)
    names = {"train/loss", "train/squared", "optim/lr", "optim/grad_norm", "perf/step_ms", "perf/data_fraction"}
    assert set(every.records[0][1]) == names
    assert 0 <= every.records[0][1]["perf/data_fraction"] <= 1


def test_real_tokens_are_counted() -> None:
    class Masked(ToyLoader):
        def __iter__(self):
            for batch in super().__iter__():
                mask = torch.ones(len(batch["x"]), 8, dtype=torch.bool)
                mask[:, 6:] = False
                yield batch | {"attn_mask": mask}

    tracker = MemoryTracker()
    loop_with(loader=Masked(), tracker=tracker, log_every=20).fit()
    values = tracker.records[0][1]
    assert values["perf/tokens_per_second"] == pytest.approx(4 * 6 / (1e-3 * values["perf/step_ms"]), rel=1e-6)


def test_history_has_one_record_per_epoch_and_is_written_as_json(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    result = loop_with(epochs=3, val_loader=ToyLoader(8), output_dir=tmp_path, tracker=tracker).fit()
    history = json.loads((tmp_path / "training_history.json").read_text())
    assert history == result.history
    assert [set(r) >= {"epoch", "train_loss", "val_loss", "lr"} for r in history] == [True] * 3
    losses = tracker.column("train/loss")
    assert history[1]["train_loss"] == pytest.approx(sum(losses[k] for k in range(11, 21)) / 10)
    assert history[1]["val_loss"] == tracker.column("val/loss")[20]
    assert [r["epoch"] for r in history] == [1, 2, 3] and history[-1]["lr"] == pytest.approx(0.005)


def test_a_prefix_separates_the_metrics_of_several_loops() -> None:
    tracker = MemoryTracker()
    loop_with(tracker=tracker, metric_prefix="image/", val_loader=ToyLoader(8)).fit()
    assert all(name.startswith("image/") for _, values in tracker.records for name in values)


def test_progress_counts_every_step() -> None:
    class Bar:
        n, closed, values = 0, False, {}

        def update(self, n: int = 1, **values) -> None:
            self.n += n
            self.values = values or self.values

        def close(self) -> None:
            self.closed = True

    bar = Bar()
    loop_with(progress=lambda total, desc: bar, log_every=5).fit()
    assert bar.n == 20 and bar.closed and "loss" in bar.values


# ------------------------------------------------------------------------------------- validation


def test_validation_is_weighted_by_rows_and_the_same_twice() -> None:
    loop = loop_with(epochs=1)
    loop.fit()
    data = ToyLoader(10, 4, 7, False)  # batches of 4, 4, 2
    with torch.no_grad():
        expected = float(((loop.model(data.x) - data.y) ** 2).mean())
    first = loop.evaluate(data)
    assert first == loop.evaluate(data) and first["loss"] == pytest.approx(expected, rel=1e-6)
    assert loop.evaluate(ToyLoader(10, 5, 7, False))["loss"] == pytest.approx(expected, rel=1e-6)


def test_validating_more_often_does_not_change_training() -> None:
    often = loop_with(ToyObjective(ToyNet(dropout=0.3)), val_loader=ToyLoader(8), val_every=1)
    never = loop_with(ToyObjective(ToyNet(dropout=0.3)))
    never.model.load_state_dict(often.model.state_dict())
    often.fit(), never.fit()
    assert torch.equal(weights(often), weights(never))


def test_validation_uses_the_averaged_weights_without_dropout() -> None:
    loop = loop_with(ToyObjective(ToyNet(dropout=0.5)), epochs=2, ema_decay=0.5)
    loop.fit()
    data, own = ToyLoader(8, 8, 7, False), weights(loop)
    loop.model.eval()
    with loop.ema.applied(), torch.no_grad():
        expected = float(((loop.model(data.x) - data.y) ** 2).mean())
    assert loop.evaluate(data)["loss"] == pytest.approx(expected, rel=1e-6)
    assert torch.equal(weights(loop), own)


def test_max_val_batches_limits_the_validation() -> None:
    loop = loop_with(epochs=1, val_loader=ToyLoader(40), max_val_batches=3)
    loop.fit()
    assert loop.objective.n_evaluations == 3


def test_an_unknown_monitor_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="val/loss"):
        loop_with(val_loader=ToyLoader(8), monitor="val/lsos").fit()


# ----------------------------------------------------------------------------------------- guards


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_term_and_objects_and_leaves_the_weights(value: float) -> None:
    class Broken(ToyObjective):
        def prepare(self, batches, step):
            extra = {"bad": step == 7, "object_index": torch.arange(100, 104)}
            return [b | extra for b in super().prepare(batches, step)]

        def forward(self, batch):
            loss, stats = super().forward(batch)
            factor = value if batch["bad"] else 1.0
            return loss * factor, stats | {"image": loss.detach() * factor}

    loop = loop_with(Broken(ToyNet(dropout=0.0)), log_every=50)
    with pytest.raises(TrainingError, match=r"image (nan|inf).*step 7, objects 100 … 103.*learning_rate"):
        loop.fit()
    assert torch.isfinite(weights(loop)).all() and loop.global_step == 6


def test_a_gradient_that_is_not_finite_is_noticed() -> None:
    class BadGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return grad * math.nan

    class Broken(ToyObjective):
        def forward(self, batch):
            loss, stats = super().forward(batch)
            return BadGradient.apply(loss), stats

    with pytest.raises(TrainingError, match="gradient norm nan"):
        loop_with(Broken()).fit()


def test_a_state_that_is_already_lost_is_never_saved(tmp_path: Path) -> None:
    loop = loop_with(output_dir=tmp_path)
    loop.fit()
    before = (tmp_path / "checkpoints/last.pt").read_bytes()
    loop.meters.step.add({"loss": torch.tensor(math.nan)})
    loop.meters.step.end_step()
    with pytest.raises(TrainingError):
        loop.save()
    assert (tmp_path / "checkpoints/last.pt").read_bytes() == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_says_which_settings_to_lower(error: Exception) -> None:
    class Hungry(ToyObjective):
        def forward(self, batch):
            raise error

    with pytest.raises(TrainingError, match=r"training\.batch_size \(now 16\).*grad_accum_steps.*loss\.sample_k"):
        loop_with(Hungry()).fit()


def test_other_errors_are_left_as_they_are() -> None:
    class Wrong(ToyObjective):
        def forward(self, batch):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        loop_with(Wrong()).fit()


def test_an_empty_loader_and_a_wrong_length_are_refused() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        loop_with(loader=ToyLoader(0))

    class Short(ToyLoader):
        def __len__(self) -> int:
            return 11

    with pytest.raises(DataError, match="11 batches"):
        loop_with(loader=Short()).fit()
    with pytest.raises(DataError, match="validation"):
        loop_with(val_loader=[]).fit()


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"max_steps": 0}, {"log_every": 0}, {"grad_accum_steps": 0}])
def test_impossible_lengths_are_refused(setting: dict) -> None:
    with pytest.raises(ConfigError):
        loop_with(**setting).fit()


def test_without_a_run_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = loop_with(val_loader=ToyLoader(8), save_every=1).fit()
    assert result.best_step is not None and not list(tmp_path.iterdir())
    assert CPU.device == "cpu"


def test_a_statistic_is_averaged_over_the_steps_that_have_it() -> None:
    from astromodal.training.watch.recording import over_steps_that_have_it

    means = {"loss": 2.0, "image": 0.2, "seen_image": 0.25, "spectrum": 0.0, "seen_spectrum": 0.0}
    assert over_steps_that_have_it(means) == {"loss": 2.0, "image": 0.8}
