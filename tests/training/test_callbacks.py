"""Early stopping, best values, and the hook for further validation metrics."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from astromodal.errors import ConfigError
from astromodal.training.callbacks import Best, Callback, EarlyStopping, metric_mode
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
    loop = TrainingLoop(ToyObjective(), ToyLoader(), val_loader=ToyLoader(8), tracker=tracker, callbacks=[callback],
                        output_dir=tmp_path, **options(epochs=3, monitor="val/mag_error", patience=1))  # fmt: skip
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
    loop = TrainingLoop(ToyObjective(), ToyLoader(), val_loader=ToyLoader(8), tracker=tracker, callbacks=[StopAt7()],
                        output_dir=tmp_path, **options(epochs=3))  # fmt: skip
    result = loop.fit()
    assert result.steps == 7 and result.stopped_early and list(tracker.column("val/loss")) == [7]
    assert (tmp_path / "final_model.pt").exists()
