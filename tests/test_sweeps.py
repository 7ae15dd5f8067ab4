"""Sweep files and presets draw points that the program accepts, and never minimise what contains what they sweep.

W&B's own engine (package ``sweeps``) checks the files and draws from them, without network. It asks for numpy below 2
and works with 2 as well: ``pip install --no-deps sweeps`` and ``pip install jsonschema jsonref``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from astromodal.config.checks.validate import validate
from astromodal.config.launching.register import conf_dir, register
from astromodal.config.reading.explain import all_keys
from tests.pipeline.conftest import launch_stage
from tests.sweep_points import REPO, command, draw, overrides_of, read

KEYS = set(all_keys())
FILES = sorted((REPO / "sweeps").glob("*.yaml"))
PRESETS = sorted(path.stem for path in (REPO / "conf" / "hparams").glob("*.yaml"))
QUESTIONS = {"loss_weights", "sample_k", "optimizer", "tokenizer_size", "loss_and_learning_rate", "prediction"}


def composed(stage: str, overrides: list[str]) -> Any:
    """The configuration of a single run, checked as its script does."""
    register()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        cfg = compose(stage, [*overrides, "run_dir=runs/x"])
    validate(cfg, stage, overrides)
    return cfg


def value_of(cfg: Any, key: str) -> Any:
    return OmegaConf.select(cfg, key)


def is_group(key: str) -> bool:
    return any((REPO / "conf" / key.replace(".", "/")).glob("*.yaml"))


# ------------------------------------------------------------------------------------------ the files


def test_there_is_a_file_for_each_question():
    assert {path.stem for path in FILES} >= QUESTIONS
    methods = {read(path)["method"] for path in FILES}
    assert methods == {"grid", "random", "bayes"}
    assert any(read(path).get("early_terminate", {}).get("type") == "hyperband" for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_runs_the_real_command_and_minimises_nothing_that_it_sweeps(path):
    sweep = read(path)
    stage = Path(sweep["program"]).stem
    assert (REPO / sweep["program"]).is_file()
    assert sweep["command"][:3] == ["${env}", "python", "${program}"] and "${args_no_hyphens}" in sweep["command"]
    assert f"wandb sweep sweeps/{path.name}" in path.read_text()
    metric = sweep["metric"]["name"]
    assert metric not in ("loss", "train/loss", "val/loss") and not metric.startswith("train/")
    assert metric.startswith(("val/", "prediction/") if stage == "train_lm" else "image/")


# ------------------------------------------------------------------------------------- W&B's own engine


@pytest.fixture(scope="module")
def engine():
    return pytest.importorskip("sweeps", reason="W&B's sweep engine: pip install --no-deps sweeps")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_meets_the_schema_of_weights_and_biases(engine, path):
    assert engine.schema_violations_from_proposed_config(read(path)) == []


def test_the_schema_would_find_a_mistake(engine):
    sweep = read(REPO / "sweeps" / "loss_and_learning_rate.yaml")
    assert engine.schema_violations_from_proposed_config(sweep | {"method": "guess"})
    assert engine.schema_violations_from_proposed_config(sweep | {"early_terminate": {"type": "hyperband", "eta": "x"}})


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_points_drawn_by_weights_and_biases_are_configurations_of_the_program(engine, path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    sweep = read(path)
    points = draw(engine, sweep, 6)
    assert len(points) == 6 and len({json.dumps(p, default=float, sort_keys=True) for p in points}) == 6
    for point in points[-2:]:
        cfg = composed(Path(sweep["program"]).stem, overrides_of(command(sweep, point)))
        for key, value in point.items():
            found = value_of(cfg, key)  # a group would be replaced by the value in W&B's copy of the configuration
            assert not isinstance(found, DictConfig) and getattr(found, "name", found) == pytest.approx(value), key


def test_a_grid_ends_and_holds_every_combination(engine):
    sweep = read(REPO / "sweeps" / "sample_k.yaml")
    points = draw(engine, sweep, 100)
    wanted = math.prod(len(entry["values"]) for entry in sweep["parameters"].values())
    assert len(points) == len({tuple(sorted(p.items())) for p in points}) == wanted == 12


def test_every_tokenizer_of_a_sweep_has_a_folder_of_its_own(engine, monkeypatch):
    sweep = read(REPO / "sweeps" / "tokenizer_size.yaml")
    stores = set()
    for run, point in zip("ab", draw(engine, sweep, 2), strict=True):
        monkeypatch.setenv("WANDB_RUN_ID", run)
        stores.add(composed("train_tokenizers", overrides_of(command(sweep, point))).paths.store)
    assert stores == {"artifacts/synthetic/a", "artifacts/synthetic/b"}


def test_hyperband_stops_who_is_behind_within_the_validations_of_a_default_run(engine):
    sweep = read(REPO / "sweeps" / "loss_and_learning_rate.yaml")
    n_validations = composed("train_lm", []).training.epochs
    assert composed("train_lm", []).training.val_every is None

    def runs(n: int) -> list:
        return [
            engine.SweepRun(
                name=str(k),
                state=engine.RunState.running if k == 5 else engine.RunState.finished,
                history=[{"val/score": 0.5 + 0.1 * k - 0.01 * step} for step in range(n)],
            )
            for k in range(6)
        ]

    stopped = {n: [run.name for run in engine.stop_runs(sweep, runs(n))] for n in range(1, n_validations + 1)}
    assert stopped[1] == [] and stopped[2] == ["5"]  # the worst one, and not before there is something to judge by


# ------------------------------------------------------------------------------------------ presets


def jobs(preset: str, *more: str) -> list[list[str]]:
    """Overrides of the jobs of ``-m hparams=<preset> …``, as Hydra's own sweeper puts them together."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = read(REPO / "conf" / "hparams" / f"{preset}.yaml")["hydra"]["sweeper"]["params"]
    given = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()] + list(more))
    return [list(job) for batch in BasicSweeper.split_arguments(given, None) for job in batch]


def test_there_are_the_documented_presets():
    assert {"loss_weights", "sample_k", "seeds", "model_size"} <= set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_sweep_keys_that_exist_and_compose(preset, tmp_path):
    text = read(REPO / "conf" / "hparams" / f"{preset}.yaml")
    assert all(key in KEYS or is_group(key) for key in text["hydra"]["sweeper"]["params"])
    result = launch_stage("train_lm", f"hparams={preset}", "--cfg", "hydra", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "sweeper" in result.stdout


@pytest.mark.parametrize("preset", PRESETS)
def test_the_ends_of_a_preset_are_configurations_of_the_program(preset):
    made = jobs(preset)
    assert len({tuple(job) for job in made}) == len(made) > 2
    for job in (made[0], made[-1]):
        composed("train_lm", job)


def test_model_sizes_combine_with_any_override():
    made = jobs("model_size", "seed=0,1", "training.epochs=2")
    assert len(made) == 6 and all("training.epochs=2" in job for job in made)
    cfg = composed("train_lm", made[-1])
    assert (cfg.model.d_model, cfg.model.n_layers, cfg.seed, cfg.training.epochs) == (768, 12, 1, 2)
    assert composed("train_lm", made[0]).model.d_model < 768
