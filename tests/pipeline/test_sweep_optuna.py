"""Optuna's proposals under the contract of every sweep: checked first, continued after an interruption, one table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from astromodal import stages
from astromodal.errors import TrainingError
from astromodal.files.io import write_json
from astromodal.stages import wiring
from astromodal.sweeps import optuna_sweep, sweeper
from astromodal.sweeps.search_space import Space, read_space

from .test_sweep_resume import Stage, statuses

pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

OPTUNA = ("hydra/sweeper=astromodal_optuna", "hydra.sweeper.n_startup_trials=3")
RATE = "optimizer.learning_rate=tag(log,interval(1e-5,1e-1))"
SEARCH = (*OPTUNA, "hydra.sweeper.n_trials=5", RATE, "loss.sample_k=16,64")


class Search(Stage):
    """A run whose figure is least at a learning rate of 1e-3 and a sample_k of 64."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rates: list[float] = []
        self.fail_at: set[int] = set()  # which of the started ones

    def __call__(self, cfg) -> float:
        config = OmegaConf.to_object(cfg)
        with wiring.begin(cfg, config, "train_lm") as run:
            run.add_input("tokens", self.inputs["tokens"])
            self.rates.append(config.optimizer.learning_rate)
            if len(self.rates) - 1 in self.fail_at:
                raise TrainingError("a loss", got="none")
            figure = (math.log10(self.rates[-1]) + 3) ** 2 + (config.loss.sample_k != 64)
            write_json(run.dir / "summary.json", {"model": {"score": figure}})
            wiring.objective(run, "val/score", figure)
            return figure

    def recorded(self) -> list[str]:
        jobs = json.loads((self.job(0).parent / "sweep.json").read_text())["jobs"]
        return [" ".join(job["overrides"]) for job in jobs]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    fake = Search(tmp_path)
    monkeypatch.setenv("ASTROMODAL_RUN_ID", "s")
    monkeypatch.setattr(stages, "train_lm", fake)
    for module in (sweeper, optuna_sweep):
        monkeypatch.setattr(module, "job_inputs", lambda job: fake.inputs)
    return fake


def test_an_interrupted_search_goes_on_and_ends_as_if_nothing_had_happened(search: Search):
    outcome = search.run(*SEARCH)
    assert outcome.returncode == 0, outcome.stderr
    whole, rates = search.recorded(), list(search.rates)
    assert len(set(rates)) == len(statuses(outcome)) == 5 and all(1e-5 <= rate <= 1e-1 for rate in rates)
    assert "the best so far" in outcome.stdout
    for number in (3, 4):  # as if it had been killed within job 3
        (search.job(number) / "run.json").unlink()
    record = json.loads((search.job(0).parent / "sweep.json").read_text())
    write_json(search.job(0).parent / "sweep.json", record | {"jobs": record["jobs"][:4]})
    search.rates.clear()
    outcome = search.go_on()
    assert outcome.returncode == 0, outcome.stderr
    assert search.rates == rates[3:] and search.recorded() == whole
    assert [status for _, status in statuses(outcome)] == ["done before"] * 3 + ["done"] * 2
    search.rates.clear()
    assert search.go_on("hydra.sweeper.n_trials=6").returncode == 0 and len(search.rates) == 1  # it may be lengthened


def test_it_learns_from_what_was_reached_and_proposes_the_same_again():
    space = Space((), {"x": FloatDistribution(0.0, 1.0)})
    settings = SimpleNamespace(seed=1, sampler="tpe", n_startup_trials=8)

    def searched(figures: list[float]) -> list[dict]:
        study, proposed = optuna_sweep._study(), []
        for start in range(0, 32, 2):
            for trial in optuna_sweep._propose(study, space, start, 2, settings):
                proposed.append(trial.params)
                figures.append((trial.params["x"] - 0.3) ** 2)
                optuna_sweep._tell(study, trial, ("score", figures[-1]))
        return proposed

    figures: list[float] = []
    assert searched(figures) == searched([])
    assert sorted(figures[16:])[8] < 0.3 * sorted(figures[:8])[4]  # medians


def test_hydras_words_for_ranges_are_optunas(search: Search):
    sweeper = SimpleNamespace(params={"seed": "1,2"}, hydra_context=SimpleNamespace(config_loader=None))
    words = ["seed=range(1,8,3)", RATE, "model=small,tiny", "loss.weight_image=range(0.5,1.6,0.5)"]
    space = read_space(sweeper, [*words, "training.epochs=int(interval(1,9))", "name=x"])
    assert space.fixed == ("name=x",)
    assert dict(space.searched) == {
        "seed": IntDistribution(1, 7, step=3),  # the command line counts, not the preset
        "optimizer.learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
        "model": CategoricalDistribution(["small", "tiny"]),
        "loss.weight_image": FloatDistribution(0.5, 1.5, step=0.5),
        "training.epochs": IntDistribution(1, 9),
    }
    assert len(space.ends()) == 1 + 5 and space.overrides({"seed": 4, "model": "tiny"})[1:] == ("seed=4", "model=tiny")


def test_a_failed_trial_is_told_and_the_others_go_on(search: Search):
    search.fail_at = {1}
    outcome = search.run(*SEARCH)
    assert outcome.returncode == 1 and len(search.rates) == 5
    assert [status for _, status in statuses(outcome)].count("failed") == 1 and "1 of 5 jobs failed" in outcome.stderr


def test_fail_fast_begins_no_further_trial(search: Search):
    search.fail_at = {1}
    outcome = search.run(*SEARCH, "sweep.fail_fast=true")
    assert outcome.returncode == 1 and len(search.rates) == 2 and "1 of 2 jobs failed" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*SEARCH, "model.n_heads=4,7"), "job 3 of 4 (optimizer.learning_rate=1e-05 loss.sample_k=16 model.n_heads=7)"),
        ((*OPTUNA, "seed=1"), "swept values to search among"),
        ((*OPTUNA, "optimizer.learning_rate=interval(1,0)"), "values to search among"),
        ((*SEARCH, "hydra.sweeper.sampler=grid"), "one of tpe, random"),
        ((*SEARCH, "hydra.sweeper.n_trials=0"), "hydra.sweeper.n_trials"),
    ],
)
def test_a_mistake_anywhere_in_the_ranges_is_one_line_and_nothing_starts(search: Search, arguments, expected):
    outcome = search.run(*arguments)
    assert outcome.returncode == 1 and expected in outcome.stderr and len(outcome.stderr.strip().splitlines()) == 1
    assert search.rates == [] and not (search.folder / "runs").exists()


def test_without_optuna_it_is_one_line(search: Search, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optuna_sweep, "find_spec", lambda name: None)
    outcome = search.run(*SEARCH)
    assert outcome.returncode == 1 and "pip install optuna" in outcome.stderr


def test_fail_fast_without_optuna_begins_no_further_job_and_can_be_continued(search: Search):
    search.fail_at = {1}
    outcome = search.run("seed=1,2,3", "sweep.fail_fast=true")
    assert outcome.returncode == 1 and [status for _, status in statuses(outcome)] == ["done", "failed", "not run"]
    assert "1 of 3 jobs failed, 1 of 3 jobs not finished" in outcome.stderr
    search.fail_at = set()
    outcome = search.go_on("sweep.retry_failed=true")
    assert outcome.returncode == 0, outcome.stderr
    assert [status for _, status in statuses(outcome)] == ["done before", "done", "done"]
