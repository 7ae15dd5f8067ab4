"""Jumps of the training loss: when they are reported, once, and the same after a resume."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from astromodal.files.io import read_jsonl
from astromodal.runs.tracking import Tracker
from astromodal.training.callbacks import Callback
from astromodal.training.loop import TrainingLoop
from astromodal.training.watch.spikes import LEAST_SPREAD, N_LEAST, WINDOW, SpikeWatch
from tests.training.test_resume import Killed
from tests.training.toys import MemoryTracker, ToyLoader, ToyObjective, options


def reported(watch: SpikeWatch, losses: list[float]) -> dict[int, float]:
    found = {i: watch.update(loss) for i, loss in enumerate(losses)}
    return {i: height for i, height in found.items() if height is not None}


def test_the_level_is_the_median_plus_factor_times_the_mad_of_the_window() -> None:
    rng = np.random.default_rng(0)
    losses = list(3 * np.exp(-np.arange(150) / 60) + 0.2 * rng.standard_normal(150) + 4 * rng.random(150) ** 8)
    expected, inside = {}, False
    for i, loss in enumerate(losses):
        window = np.asarray(losses[max(0, i - WINDOW) : i])
        above = False
        if len(window) >= N_LEAST:
            middle = np.median(window)
            mad = max(np.median(np.abs(window - middle)), LEAST_SPREAD * abs(middle))
            above = loss > middle + 2.5 * mad
            if above and not inside:
                expected[i] = (loss - middle) / mad
        inside = above
    assert reported(SpikeWatch(2.5), losses) == pytest.approx(expected) and 2 <= len(expected) <= 40


def test_an_event_is_reported_once_and_the_next_one_again() -> None:
    calm = [1.0 + 0.01 * (i % 5) for i in range(20)]
    assert list(reported(SpikeWatch(10), [*calm, 9.0, 8.0, 7.0, *calm[:5], 9.0])) == [20, 28]


def test_a_loss_that_stays_high_becomes_the_level() -> None:
    watch = SpikeWatch(10)
    assert list(reported(watch, [1.0] * 50 + [5.0] * 60)) == [50]
    assert not watch.in_spike and list(reported(watch, [50.0])) == [0]


@pytest.mark.parametrize(
    "losses",
    [
        [2.0] * 40,
        [2.0 + 1e-7 * (i % 3) for i in range(40)],
        [0.0] * 40,
        list(np.linspace(9, 1, 80)),
        [1.0, 1.0, 1.0, 500.0],
    ],
)
def test_constant_falling_and_short_histories_have_no_spikes(losses: list[float]) -> None:
    assert reported(SpikeWatch(10), losses) == {}


def test_off_sees_nothing_and_nan_is_not_its_business() -> None:
    assert reported(SpikeWatch(None), [1.0] * 20 + [99.0]) == {}
    watch = SpikeWatch(10)
    assert reported(watch, [1.0] * 20 + [math.nan, math.inf]) == {} and watch.losses == [1.0] * 20


@pytest.mark.parametrize("cut", range(18, 26))
def test_a_restored_watch_goes_on_as_the_old_one(cut: int) -> None:
    losses = [1.0 + 0.01 * (i % 7) for i in range(20)] + [9.0, 8.0, 1.0, 1.0, 7.0, 1.0, 1.0]
    whole, first, second = SpikeWatch(10), SpikeWatch(10), SpikeWatch(10)
    expected = reported(whole, losses)
    found = reported(first, losses[:cut])
    second.load_state_dict(first.state_dict())
    found |= {cut + i: h for i, h in reported(second, losses[cut:]).items()}
    assert found == expected and list(found) == [20, 24] and second.state_dict() == whole.state_dict()


class Jumping(ToyObjective):
    """The loss is a hundred times as large at chosen steps."""

    def prepare(self, batches: list[dict], step: int) -> list[dict]:
        return [b | {"factor": 100.0 if step in (21, 22, 31) else 1.0} for b in super().prepare(batches, step)]

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        loss, stats = super().forward(batch)
        return loss * batch["factor"], stats


def make(folder: Path | None, *callbacks: Callback, **training) -> TrainingLoop:
    torch.manual_seed(0)
    tracker = MemoryTracker() if folder is None else Tracker(folder)
    return TrainingLoop(
        Jumping(),
        ToyLoader(),
        output_dir=folder,
        tracker=tracker,
        callbacks=callbacks,
        resume="auto" if folder else None,
        **options(**({"epochs": 4, "save_every": 7, "grad_clip": 0.01} | training)),
    )


def test_the_loop_says_it_once_per_event_and_records_its_height(caplog: pytest.LogCaptureFixture) -> None:
    loop = make(None)
    loop.fit()
    heights = loop.tracker.column("optim/spike")
    assert list(heights) == [21, 31] and min(heights.values()) > 10
    assert caplog.text.count("the loss jumped") == 2 and "step 21: the loss jumped" in caplog.text
    loop = make(None, spike_factor=None)
    loop.fit()
    assert loop.tracker.column("optim/spike") == {}


@pytest.mark.parametrize("step", [21, 22])
def test_a_resumed_run_reports_the_same(tmp_path: Path, step: int) -> None:
    class KillAt(Callback):
        def on_step_end(self, loop: TrainingLoop) -> None:
            if loop.global_step == step:
                raise Killed

    make(tmp_path / "whole").fit()
    with pytest.raises(Killed):
        make(tmp_path / "cut", KillAt()).fit()
    make(tmp_path / "cut").fit()
    records = {n: read_jsonl(tmp_path / n / "metrics.jsonl") for n in ("whole", "cut")}
    whole, cut = ([(r["step"], r["optim/spike"]) for r in found if "optim/spike" in r] for found in records.values())
    assert whole == cut and [s for s, _ in cut] == [21, 31]
