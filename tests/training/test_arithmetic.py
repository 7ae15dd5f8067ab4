"""bf16 on a CPU where it pays: measured, agreed on, kept by a resume whatever a later measurement says."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import torch

from astromodal.config.schema import (
    HardwareConfig,
    OptimizerConfig,
    OptimizerName,
    Precision,
    ScheduleConfig,
    ScheduleName,
)
from astromodal.training import arithmetic
from astromodal.training.arithmetic import Choice, choose
from astromodal.training.checkpoints.checkpoint import load_checkpoint
from astromodal.training.loop import TrainingLoop
from astromodal.training.precision import MixedPrecision
from tests.training.toys import ToyLoader, ToyNet, ToyObjective, options

CPU = torch.device("cpu")
CONSTANT = ScheduleConfig(name=ScheduleName.constant, warmup_steps=0)
MUON = OptimizerConfig(name=OptimizerName.muon, muon_learning_rate=0.05)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch):
    """Say what a measurement finds; returns a list that grows with every measurement."""
    asked: list[bool] = []

    def set_ratio(ratio: float) -> list[bool]:
        monkeypatch.setattr(arithmetic, "slowdown", lambda: asked.append(True) or ratio)
        return asked

    return set_ratio


@pytest.mark.parametrize(
    ("wanted", "ratio", "precision"),
    [
        ("auto", 0.5, "bf16"),
        ("auto", 0.9, "float32"),  # within the noise of a measurement
        ("auto", 5.0, "float32"),
        ("bf16", 0.5, "bf16"),
        ("bf16", 5.0, "float32"),
        ("fp16", 5.0, "fp16"),
        ("float32", 0.5, "float32"),
    ],
)
def test_low_precision_where_it_pays(measured, wanted: str, ratio: float, precision: str) -> None:
    asked = measured(ratio)
    hardware = HardwareConfig(precision=Precision(wanted))
    assert choose(hardware, CPU).precision == MixedPrecision.of(hardware, CPU).name == precision
    assert bool(asked) == (wanted in ("auto", "bf16"))
    for answer in (True, False):  # the key answers, whatever was measured
        hardware.cpu_bf16 = answer
        told = choose(hardware, CPU, OptimizerName.muon)
        assert told.muon == ("bf16" if answer else "float32")
        assert told.precision == (told.muon if wanted in ("auto", "bf16") else wanted)


def test_muon_in_float32_where_bf16_is_slow(measured) -> None:
    measured(5.0)
    plain = HardwareConfig(precision=Precision.float32)
    assert choose(plain, CPU, OptimizerName.muon).muon == "float32"
    assert choose(plain, torch.device("cuda"), OptimizerName.muon).muon == "bf16"
    asked = measured(0.5)
    asked.clear()
    assert choose(plain, CPU, OptimizerName.adamw) == Choice("cpu", "float32", "float32", "bf16") and not asked
    assert choose(plain, CPU, OptimizerName.muon).muon == "bf16"
    # where bits are to be repeated, a clock decides nothing
    asked.clear()
    repeated = HardwareConfig(precision=Precision.bf16, deterministic=True)
    assert choose(repeated, CPU, OptimizerName.muon) == Choice("cpu", "bf16", "float32", "float32") and not asked


def test_the_measurement_is_short_and_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    start = time.thread_time()
    assert 0.01 < arithmetic.slowdown.__wrapped__() < 1000
    assert time.thread_time() - start < 1.0 and torch.get_num_threads() == before


def make(folder: Path, hardware: HardwareConfig, epochs: int) -> TrainingLoop:
    torch.manual_seed(0)
    settings = options(epochs=epochs) | {"hardware": hardware, "optimizer": MUON, "schedule": CONSTANT}
    return TrainingLoop(ToyObjective(ToyNet()), ToyLoader(), output_dir=folder, resume="auto", **settings)


def test_a_resume_keeps_what_the_first_attempt_chose(measured, tmp_path: Path, caplog) -> None:
    hardware = HardwareConfig(device="cpu")  # precision auto
    measured(5.0)
    make(tmp_path / "whole", hardware, 2).fit()
    make(tmp_path / "cut", hardware, 1).fit()
    measured(0.5)  # on a day on which the clock says otherwise
    resumed = make(tmp_path / "cut", hardware, 2)
    assert resumed.precision.name == "bf16"
    with caplog.at_level(logging.INFO):
        resumed.fit()
    assert (
        resumed.network.choice == Choice("cpu", "auto", "float32", "float32") and "products in float32" in caplog.text
    )
    whole, cut = (load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "cut"))
    assert all(torch.equal(value, cut["model"][name]) for name, value in whole["model"].items())
    assert whole["loop"]["choice"] == cut["loop"]["choice"]
    asked_again = make(tmp_path / "cut", HardwareConfig(device="cpu", precision=Precision.bf16, cpu_bf16=True), 3)
    asked_again.fit()
    assert asked_again.precision.name == asked_again.network.choice.muon == "bf16"


def test_a_refused_precision_is_said(measured, tmp_path: Path, caplog) -> None:
    measured(5.0)
    make(tmp_path, HardwareConfig(device="cpu", precision=Precision.bf16), 1).fit()
    assert "hardware.precision=bf16: in float32, which this CPU is faster in" in caplog.text
