"""When to stop, best values, checkpoints and metrics of a loop of one's own, and the hooks of the training loop."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from astromodal.config.schema import MonitorMode
from astromodal.errors import ConfigError
from astromodal.training.callbacks import (
    Best,
    Callback,
    CallbackList,
    CheckpointCallback,
    CoveragePlateau,
    EarlyStopping,
    MetricsCallback,
    metric_mode,
)
from astromodal.training.callbacks.hooks import look_up
from astromodal.training.loop import TrainingLoop
from tests.training.toys import MemoryTracker, ToyLoader, ToyObjective, options


def fake_loop(step: int, total: int = 100) -> SimpleNamespace:
    loop = SimpleNamespace(global_step=step, total_steps=total, stopped=None)
    loop.stop = lambda reason: setattr(loop, "stopped", reason)
    return loop


def validations(stopping: EarlyStopping, values: list[float], name: str = "score") -> int | None:
    """Index of the validation after which it asked to stop."""
    for i, value in enumerate(values):
        loop = fake_loop(i + 1)
        stopping.on_validation_end(loop, {name: value})
        if loop.stopped:
            return i
    return None


def test_it_stops_after_patience_validations_without_improvement() -> None:
    assert validations(EarlyStopping("val/score", 2), [3, 2, 2.5, 1, 1.5, 1.2, 0.1]) == 5
    assert validations(EarlyStopping("val/score", 2), [3, 2, 1, 0.5]) is None


def test_min_delta_is_what_an_improvement_must_exceed() -> None:
    assert validations(EarlyStopping("val/score", 2, min_delta=0.5), [3, 2.9, 2.6]) == 2


def test_accuracies_are_to_rise() -> None:
    assert metric_mode("val/accuracy_image") == "max" and metric_mode("val/ce") == "min"
    assert metric_mode("val/specz_r2") == "max"
    assert validations(EarlyStopping("val/accuracy", 1), [0.1, 0.2, 0.15], "accuracy") == 2
    assert validations(EarlyStopping("val/x", 1, mode="max"), [1, 2, 1], "x") == 2


def test_nan_is_no_improvement() -> None:
    assert validations(EarlyStopping("val/score", 2), [math.nan, math.nan]) == 1


def test_start_ratio_delays_the_counting() -> None:
    assert validations(EarlyStopping("val/score", 1, start_ratio=0.05), [1, 2, 2, 2, 2]) == 4


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="patience"):
        EarlyStopping("val/score", 0)
    with pytest.raises(ConfigError, match="mode"):
        Best("val/score", "sideways")
    with pytest.raises(ConfigError, match="val/nonsense"):
        EarlyStopping("val/nonsense", 1).on_validation_end(fake_loop(1), {"score": 1.0})


class Physical(Callback):
    """Adds a metric in physical units, as the stages do."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.n_steps = 0

    def on_step_end(self, loop: TrainingLoop) -> None:
        self.n_steps += 1

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> dict[str, float]:
        assert not loop.objective.training
        return {"mag_error": 1.0 / loop.global_step}

    def on_epoch_end(self, loop: TrainingLoop, record: dict) -> None:
        self.epochs.append(record["epoch"])


def test_a_callbacks_metrics_are_recorded_and_can_be_monitored(tmp_path) -> None:
    callback, tracker = Physical(), MemoryTracker()
    loop = TrainingLoop(
        ToyObjective(),
        ToyLoader(),
        val_loader=ToyLoader(8),
        tracker=tracker,
        callbacks=[callback],
        output_dir=tmp_path,
        **options(epochs=3, monitor="val/mag_error", patience=1),
    )
    result = loop.fit()
    assert tracker.column("val/mag_error") == {10: 0.1, 20: 0.05, 30: 1 / 30}
    assert result.best_metric == 1 / 30 and not result.stopped_early
    assert callback.epochs == [1, 2, 3] and callback.n_steps == 30
    assert result.history[0]["val/mag_error"] == 0.1


def test_a_callback_can_stop_the_run_and_the_last_step_is_validated(tmp_path) -> None:
    class StopAt7(Callback):
        def on_step_end(self, loop: TrainingLoop) -> None:
            if loop.global_step == 7:
                loop.stop("seven is enough")

    tracker = MemoryTracker()
    loop = TrainingLoop(
        ToyObjective(),
        ToyLoader(),
        val_loader=ToyLoader(8),
        tracker=tracker,
        callbacks=[StopAt7()],
        output_dir=tmp_path,
        **options(epochs=3),
    )
    result = loop.fit()
    assert result.steps == 7 and result.stopped_early and list(tracker.column("val/loss")) == [7]
    assert (tmp_path / "final_model.pt").exists()


def test_the_hooks_are_called_in_order() -> None:
    calls: list[str] = []

    class Listing(Callback):
        def __getattribute__(self, name: str):
            if name.startswith("on_"):
                calls.append(name)
            return super().__getattribute__(name)

    TrainingLoop(
        ToyObjective(), ToyLoader(8), val_loader=ToyLoader(8), callbacks=[Listing()], **options(epochs=1, log_every=2)
    ).fit()
    assert calls == [
        "on_fit_start",
        "on_epoch_start",
        "on_step_begin",
        "on_step_end",
        "on_step_begin",
        "on_log",
        "on_step_end",
        "on_validation_end",
        "on_epoch_recorded",
        "on_epoch_end",
    ]


def test_logged_values_are_those_of_the_record() -> None:
    seen: dict[int, dict] = {}

    class Reading(Callback):
        def on_log(self, loop: TrainingLoop, values: dict[str, float]) -> None:
            seen[loop.global_step] = dict(values)

    tracker = MemoryTracker()
    TrainingLoop(
        ToyObjective(), ToyLoader(), tracker=tracker, callbacks=[Reading()], **options(epochs=1, log_every=5)
    ).fit()
    assert list(seen.items()) == tracker.records and list(seen) == [5, 10]


# ---------------------------------------------------------------------------------- from configuration


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"patience": 2}, 20),  # val/mag_error falls without end
        ({"patience": 2, "monitor_mode": MonitorMode.max}, 6),  # the first is the highest: then two that are not
        ({"patience": 2, "monitor_mode": "max", "early_stop_start_ratio": 0.5}, 12),  # counting begins at step 10
        ({"patience": 2, "min_delta": 0.02}, 18),  # 1/10 - 1/14 is the last gain of more: 1/14 - 1/18 is 0.016
    ],
)
def test_early_stopping_is_a_matter_of_configuration(settings: dict, steps: int) -> None:
    settings = options(epochs=2, val_every=2, monitor="val/mag_error", **settings)
    loop = TrainingLoop(ToyObjective(), ToyLoader(), val_loader=ToyLoader(8), callbacks=[Physical()], **settings)
    assert loop.fit().steps == steps


def test_a_wrong_start_ratio_is_refused() -> None:
    with pytest.raises(ConfigError, match="early_stop_start_ratio"):
        TrainingLoop(ToyObjective(), ToyLoader(), **options(patience=1, early_stop_start_ratio=1.5))


# ------------------------------------------------------------------------------- a loop of one's own


def test_start_ratio_in_a_loop_of_ones_own() -> None:
    stopping = EarlyStopping(patience=1, start_ratio=0.5, total_epochs=10)
    epochs = []
    for epoch in range(10):
        stopping.on_epoch_end(epoch, {"val_loss": 1.0})
        epochs.append(stopping.should_stop())
    assert epochs.index(True) == 4  # the fifth epoch ends the first half
    with pytest.raises(ConfigError, match="total_epochs"):
        EarlyStopping(start_ratio=0.5).on_epoch_end(0, {"val_loss": 1.0})


def test_epochs_without_a_validation_do_not_count() -> None:
    stopping = EarlyStopping(patience=2)
    for epoch in range(9):
        stopping.on_epoch_end(epoch, {"val_loss": 1.0} if epoch % 3 == 0 else {"train_loss": 1.0})
    assert stopping.n_bad == 2


@pytest.mark.parametrize(
    ("monitor", "value"),
    [("val_loss", 1.0), ("val/loss", 1.0), ("loss", 1.0), ("ce", None), ("val_coverage", 0.5), ("coverage", 0.5)],
)
def test_metrics_are_found_with_and_without_their_prefix(monitor: str, value: float | None) -> None:
    assert look_up({"val/loss": 1.0, "coverage": 0.5}, monitor) == value


def test_a_language_models_validation_loss_is_its_cross_entropy() -> None:
    assert look_up({"ce": 2.0, "score": 1.0}, "val_loss") == 2.0
    assert look_up({"ce": 2.0}, "loss") is None and look_up({"val_loss": None, "ce": 2.0}, "val_loss") == 2.0


def coverages(plateau: CoveragePlateau, values: list[float]) -> int | None:
    for epoch, value in enumerate(values):
        plateau.on_epoch_end(epoch, {"coverage": value})
        if plateau.should_stop():
            return epoch
    return None


def test_a_plateau_above_the_target_stops_and_one_below_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    assert coverages(CoveragePlateau(2, 0.9, 0.01), [0.5, 0.93, 0.935, 0.934]) == 3
    assert not caplog.records
    assert coverages(CoveragePlateau(2, 0.9, 0.01), [0.5, 0.5, 0.5, 0.5, 0.5]) is None
    assert [r.getMessage() for r in caplog.records] == ["coverage has stopped rising at 0.5, under the target of 0.9"]


def test_small_steps_add_up_and_the_target_may_have_been_reached_before() -> None:
    assert coverages(CoveragePlateau(3, 0.0, 0.01), [0.004 * k for k in range(30)]) is None
    assert coverages(CoveragePlateau(2, 0.9, 0.01), [0.95, 0.6, 0.6]) == 2
    assert coverages(CoveragePlateau(2, None, 0.0), [0.1, 0.1, 0.1]) == 2
    assert coverages(CoveragePlateau(2, None, 0.0), [0.1, math.nan, math.nan]) == 2


def test_a_plateau_may_be_only_reported_and_a_missing_metric_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    plateau = CoveragePlateau(1, 0.5, 0.01, report_only=True)
    assert coverages(plateau, [0.9, 0.9, 0.9]) is None and plateau.plateaued
    plateau.on_epoch_end(3, {"val_loss": 1.0})
    plateau.on_epoch_end(4, {"val_loss": 1.0})
    assert [r.getMessage() for r in caplog.records] == [
        "coverage has stopped rising at 0.9",
        "no metric coverage to watch among val_loss",
    ]
    for wrong in ({"patience": 0}, {"min_improvement": -1.0}):
        with pytest.raises(ConfigError):
            CoveragePlateau(**wrong)


def test_a_plateau_ends_the_training_loop() -> None:
    class Coverage(Callback):
        def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> dict[str, float]:
            return {"coverage_image": min(1.0, loop.global_step / 12)}

    callbacks = [Coverage(), CoveragePlateau(2, monitor="val/coverage_image")]
    loop = TrainingLoop(
        ToyObjective(), ToyLoader(), val_loader=ToyLoader(8), callbacks=callbacks, **options(epochs=3, val_every=2)
    )
    assert loop.fit().steps == 16 and "val/coverage_image has stopped rising at 1" in loop.stop_reason


def test_a_checkpoint_callback_saves_the_documented_keys_of_the_bare_model(tmp_path) -> None:
    class Config:
        def to_dict(self):
            return {"latent_dim": 16}

    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    callback = CheckpointCallback(
        tmp_path,
        save_interval=2,
        keep_last=1,
        model=torch.compile(model, backend="eager"),
        optimizer=optimizer,
        config=Config(),
    )
    for epoch in range(4):
        callback.on_epoch_start(epoch)
        callback.on_epoch_end(epoch, {"val_loss": 1.0 / (epoch + 1)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "checkpoint_epoch_4.pt"]
    saved = torch.load(tmp_path / "checkpoint_epoch_4.pt", weights_only=True)
    assert saved["epoch"] == 4 and saved["metrics"] == {"val_loss": 0.25} and saved["config"] == {"latent_dim": 16}
    plain = nn.Linear(2, 1)
    plain.load_state_dict(saved["model_state_dict"])
    assert torch.equal(plain.weight, model.weight)
    torch.optim.Adam(plain.parameters()).load_state_dict(saved["optimizer_state_dict"])


def test_impossible_checkpoint_settings_are_refused() -> None:
    for wrong in ({"save_interval": 0}, {"save_every": 0}, {"keep_last": 0}, {"modle": None}, {"mode": "up"}):
        with pytest.raises(ConfigError):
            CheckpointCallback("x", **wrong)


def test_metrics_are_means_over_the_interval_and_over_the_epoch(caplog: pytest.LogCaptureFixture) -> None:
    tracker = MemoryTracker()
    callback = MetricsCallback(log_interval=2, tracker=tracker)
    with caplog.at_level("INFO"):
        for epoch in range(2):
            callback.on_epoch_start(epoch)
            for batch in range(5):
                logs = {"loss": torch.tensor(float(batch), requires_grad=True), "text": "x"}
                callback.on_batch_end(batch, logs | ({"kl": 3.0} if batch == 1 else {}))
            callback.on_epoch_end(epoch, {"val_loss": 0.5})
    assert tracker.column("train/loss") == {2: 0.5, 4: 2.5, 7: 0.5, 9: 2.5}
    assert tracker.column("train/kl") == {2: 3.0, 7: 3.0}
    assert callback.history[1] == {"epoch": 2, "train_loss": 2.0, "train_kl": 3.0, "val_loss": 0.5}
    assert "epoch 1, batch 2: loss 0.5, kl 3" in caplog.text
    with pytest.raises(ConfigError, match="log_interval"):
        MetricsCallback(0)


def test_a_list_asks_all_its_callbacks() -> None:
    class Asks(Callback):
        def __init__(self, answer: bool) -> None:
            self.answer, self.asked = answer, 0

        def should_stop(self) -> bool:
            self.asked += 1
            return self.answer

    callbacks = CallbackList([Asks(True), Asks(False)])
    callbacks.append(Asks(False))
    assert callbacks.should_stop() and [c.asked for c in callbacks] == [1, 1, 1] and len(callbacks) == 3
    assert not CallbackList().should_stop()
