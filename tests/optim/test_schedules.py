"""Learning-rate schedules and the documented function."""

from __future__ import annotations

import math

import pytest

from astromodal.config.schema import ScheduleConfig, ScheduleName
from astromodal.errors import ConfigError
from astromodal.optim.schedules import build_schedule, fitted_warmup
from astromodal.training import cosine_schedule_with_warmup


def test_the_documented_function_agrees_with_the_cosine_schedule_at_every_step() -> None:
    factor = build_schedule(ScheduleConfig(warmup_steps=7, min_lr_ratio=0.1), 50)
    for step in range(60):
        documented = cosine_schedule_with_warmup(
            step=step, base_lr=2e-4, warmup_steps=7, total_steps=50, min_lr_ratio=0.1
        )
        assert documented == pytest.approx(2e-4 * factor(step), rel=1e-12, abs=0)


def test_cosine_rises_to_the_peak_and_falls_to_the_floor() -> None:
    factor = build_schedule(ScheduleConfig(warmup_steps=10, min_lr_ratio=0.1), 110)
    assert factor(0) == 0 and factor(1) == pytest.approx(0.1) and factor(10) == 1
    assert factor(60) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert factor(110) == pytest.approx(0.1) and factor(500) == pytest.approx(0.1)
    values = [factor(k) for k in range(10, 111)]
    assert values == sorted(values, reverse=True)


def test_constant_stays_at_the_peak_after_warm_up() -> None:
    factor = build_schedule(ScheduleConfig(name=ScheduleName.constant, warmup_steps=4), 20)
    assert [factor(k) for k in (0, 1, 4, 20, 100)] == [0, 0.25, 1, 1, 1]


def test_wsd_falls_only_over_the_last_part_of_the_run() -> None:
    config = ScheduleConfig(name=ScheduleName.wsd, warmup_steps=10, min_lr_ratio=0.2, decay_fraction=0.2)
    factor = build_schedule(config, 100)
    assert factor(5) == 0.5 and factor(10) == 1 and factor(80) == 1
    assert factor(90) == pytest.approx(0.6) and factor(100) == pytest.approx(0.2) and factor(200) == pytest.approx(0.2)


def test_a_warm_up_longer_than_the_run_is_a_tenth_of_it() -> None:
    assert fitted_warmup(2000, 100) == 10
    assert fitted_warmup(100, 100) == 10
    assert fitted_warmup(99, 100) == 99
    assert fitted_warmup(0, 1) == 0
    assert build_schedule(ScheduleConfig(warmup_steps=2000), 100)(10) == 1


def test_no_warm_up_begins_at_the_peak() -> None:
    assert build_schedule(ScheduleConfig(warmup_steps=0), 10)(1) > 0.97


@pytest.mark.parametrize(("key", "value"), [("warmup_steps", -1), ("min_lr_ratio", 1.5), ("decay_fraction", 0.0)])
def test_impossible_values_are_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"schedule.{key}"):
        build_schedule(ScheduleConfig(**{key: value}), 10)
