"""Quantities that callbacks set over time: where they are found, what is logged, and that feedback holds a target."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from astromodal.errors import ConfigError
from astromodal.training.callbacks import (
    Controller,
    FeedbackValue,
    ScheduledValue,
    ramp,
    set_quantity,
)
from astromodal.training.loop import TrainingLoop
from tests.training.toys import MemoryTracker, ToyLoader, ToyNet, ToyObjective, options


class Weighted(ToyObjective):
    def __init__(self) -> None:
        super().__init__(ToyNet(dropout=0.0))
        self.scale, self.used = 1.0, []
        self.register_buffer("weights", torch.ones(3))
        self.settings = {"beta": 0.5}

    def forward(self, batch):
        self.used.append(self.scale)
        loss, stats = super().forward(batch)
        return self.scale * loss, stats


def loop_with(*callbacks, objective=None, tracker=None, **training) -> TrainingLoop:
    torch.manual_seed(0)
    return TrainingLoop(
        objective or Weighted(),
        ToyLoader(),
        val_loader=ToyLoader(8),
        callbacks=callbacks,
        tracker=tracker,
        **options(**training),
    )


def test_a_scheduled_value_is_set_before_each_step_and_logged() -> None:
    tracker = MemoryTracker()
    loop = loop_with(ScheduledValue("scale", lambda step: step / 10), tracker=tracker, epochs=1)
    loop.fit()
    assert loop.objective.used[:10] == [k / 10 for k in range(1, 11)]
    assert tracker.column("optim/scale") == {k: k / 10 for k in range(1, 11)}


def test_ramps() -> None:
    line, half_cosine = ramp(1.0, 3.0, 4, delay=2), ramp(0.0, 1.0, 4, shape="cosine")
    assert [line(k) for k in (0, 2, 3, 4, 6, 100)] == [1.0, 1.0, 1.5, 2.0, 3.0, 3.0]
    assert [half_cosine(k) for k in (0, 2, 4)] == pytest.approx([0.0, 0.5, 1.0])
    assert half_cosine(1) == pytest.approx(0.5 * (1 - math.cos(math.pi / 4)))
    for wrong in ({"n_steps": 0}, {"n_steps": 3, "shape": "spiral"}):
        with pytest.raises(ConfigError, match="ramp"):
            ramp(0.0, 1.0, **wrong)


def test_a_quantity_may_be_an_attribute_a_tensor_an_element_a_key_or_a_setting_of_the_loop() -> None:
    loop = loop_with()
    weights, given = loop.objective.weights, loop.training
    for name, value in (("scale", 2), ("weights.1", 5), ("settings.beta", 0.25), ("training.grad_clip", 0.5)):
        set_quantity(loop, name, value)
    assert loop.objective.scale == 2.0 and loop.objective.settings == {"beta": 0.25}
    assert loop.objective.weights is weights and weights.tolist() == [1.0, 5.0, 1.0]
    assert loop.training.grad_clip == 0.5 and given.grad_clip == 1.0  # the caller's configuration is left alone
    set_quantity(loop, "weights", 7)
    assert weights.tolist() == [7.0, 7.0, 7.0]
    assert loop.quantities["training.grad_clip"] == 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scal", "did you mean 'scale'"),
        ("weights.3", r"weights\.3"),
        ("settings.gamma", "settings"),
        ("model", "a number"),
        ("training.monitor", "a number"),
    ],
)
def test_a_quantity_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_quantity(loop_with(), name, 1.0)


def test_a_compiled_objective_is_not_compiled_again_when_a_buffer_changes(monkeypatch) -> None:
    class Buffered(ToyObjective):
        def __init__(self) -> None:
            super().__init__(ToyNet(dropout=0.0))
            self.register_buffer("scale", torch.tensor(1.0))

        def forward(self, batch):
            loss, stats = super().forward(batch)
            return self.scale * loss, stats | {"scale": self.scale.clone()}

    import torch._dynamo.testing

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: real(module, backend=counter))
    tracker = MemoryTracker()
    arguments = options(epochs=1)
    arguments["hardware"] = arguments["hardware"].__class__(device="cpu", compile=True)
    callbacks = [ScheduledValue("scale", lambda step: step / 10)]
    TrainingLoop(Buffered(), ToyLoader(), callbacks=callbacks, tracker=tracker, **arguments).fit()
    assert counter.frame_count == 1
    assert tracker.column("train/scale") == pytest.approx({k: k / 10 for k in range(1, 11)})
    torch._dynamo.reset()


def test_the_controller_holds_a_quantity_that_falls_with_its_value() -> None:
    controller = Controller(target=1.0, tolerance=0.1, gain=0.3)
    measured = [4.0]
    for _ in range(100):
        measured.append(4.0 / controller.update(measured[-1]))
    assert abs(measured[-1] - 1.0) <= 0.1 + 1e-9 and controller.value == pytest.approx(4.0, rel=0.12)
    settled = controller.value
    controller.update(1.05), controller.update(math.nan), controller.update(math.inf)
    assert controller.value == settled
    for _ in range(1000):
        controller.update(1e9)
    assert controller.value == controller.limits[1]


def test_the_sign_of_the_gain_and_impossible_settings() -> None:
    assert Controller(1.0, 0.1, gain=-0.1).update(9.0) == pytest.approx(math.exp(-0.1))
    assert Controller(1.0, 0.1, gain=0.1).update(-9.0) == pytest.approx(math.exp(-0.1))
    with pytest.raises(ConfigError, match="tolerance"):
        Controller(1.0, 0.0)
    with pytest.raises(ConfigError, match="limits"):
        Controller(1.0, 0.1, value=2.0, limits=(0.1, 1.0))


def test_feedback_reads_training_means_at_the_log_interval_and_validations() -> None:
    seen: list[tuple[str, float]] = []

    def recorder(name: str) -> SimpleNamespace:
        def update(measured: float) -> float:
            seen.append((name, measured))
            return 2.0

        return SimpleNamespace(value=1.0, update=update, state_dict=dict, load_state_dict=lambda state: None)

    tracker = MemoryTracker()
    loop = loop_with(
        FeedbackValue("scale", "train/squared", recorder("train")),
        FeedbackValue("settings.beta", "val/loss", recorder("val")),
        tracker=tracker,
        epochs=1,
        log_every=5,
    )
    loop.fit()
    squared = tracker.column("train/squared")
    assert seen == [("train", squared[5]), ("train", squared[10]), ("val", tracker.column("val/loss")[10])]
    assert loop.objective.used[4:6] == [1.0, 2.0] and loop.objective.settings["beta"] == 2.0
    assert tracker.column("optim/scale") == {5: 1.0, 10: 2.0}


def test_feedback_on_a_metric_that_nobody_measures_is_refused() -> None:
    with pytest.raises(ConfigError, match="train/kl"):
        loop_with(FeedbackValue("scale", "train/kl", Controller(1.0, 0.1)), epochs=1).fit()
