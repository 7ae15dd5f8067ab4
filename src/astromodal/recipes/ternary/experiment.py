"""``train_tokenizers.py experiment=ternary_vae``: all ternary operations through the one training loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...config.schema import (
    Config,
    HardwareConfig,
    OptimizerConfig,
    OptimizerName,
    ScheduleConfig,
    TernaryVAERecipeConfig,
    TrainingConfig,
)
from ...errors import ConfigError
from ...files.io import plain, read_jsonl
from ...machine.random import seed_everything
from ...runs.run import RunContext
from ...runs.tracking import NullTracker
from ...training.callbacks.hooks import Callback
from ...training.callbacks.quantities import FeedbackValue, ScheduledValue
from ...training.loop import LoopResult, TrainingLoop
from .figures import plot_hierarchy, plot_learning
from .hyperbolic_vae import TernaryVAE
from .losses import create_registry_from_training_config
from .measures import Geometry, best_hierarchy, measure
from .models import CurriculumScheduler, HomeostasisController
from .objective import MeasureGeometry, TernaryObjective
from .operations import OperationLoader


def run(config: Config, run: RunContext) -> dict[str, Any]:
    """Train, measure, draw; returns coverage, hierarchy and the last validation's means."""
    recipe: TernaryVAERecipeConfig = config.recipe
    loop = build_loop(recipe, config.seed, config.hardware, output_dir=run.dir, tracker=run.tracker, log=run.log)
    result = loop.fit()
    model = loop.model
    assert isinstance(model, TernaryVAE)  # build_loop made it
    found = measure(model)
    say(found, model.n_trits, run.log)
    losses, folder = recipe.losses, run.dir / "plots"
    drawn = {
        "hierarchy": plot_hierarchy(found, losses.inner_radius, losses.outer_radius, folder / "hierarchy.png"),
        "learning": plot_learning(read_jsonl(run.dir / "metrics.jsonl"), folder / "learning.png"),
    }
    for name, path in drawn.items():
        if path:
            run.tracker.image(name, path, result.steps)
    return figures_of(found, result)


def build_loop(
    recipe: TernaryVAERecipeConfig,
    seed: int,
    hardware: HardwareConfig,
    *,
    output_dir: Path | None = None,
    tracker: NullTracker | None = None,
    log: logging.Logger | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainingLoop:
    """The loop of a recipe; the initial weights are those of the seed.

    Raises:
        ConfigError: a setting that cannot work.
    """
    seed_everything(seed)
    settings = recipe.optimizer
    if settings.name == OptimizerName.muon:
        raise ConfigError("adamw, adam or riemannian_adam", got="muon", where="recipe.optimizer.name")
    geometry, network = recipe.geometry, recipe.network
    model = TernaryVAE(
        3**recipe.n_trits,
        geometry.latent_dim,
        geometry.curvature,
        width=network.width,
        n_layers=network.n_layers,
        n_points=geometry.n_points,
        riemannian=settings.name == OptimizerName.riemannian_adam,
    )
    registry = create_registry_from_training_config(recipe)
    loader = OperationLoader(recipe.n_trits, recipe.batch_size, seed=seed)
    everything = OperationLoader(recipe.n_trits, 4 * recipe.batch_size, shuffle=False)
    return TrainingLoop(
        TernaryObjective(model, registry),
        loader,
        training=TrainingConfig(
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            grad_clip=recipe.grad_clip,
            log_every=len(loader),
            val_every=5 * len(loader),
            save_every=None,
        ),
        optimizer=OptimizerConfig(
            name=settings.name, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, beta2=0.99
        ),
        schedule=ScheduleConfig(warmup_steps=settings.warmup_steps, min_lr_ratio=settings.min_lr_ratio),
        hardware=hardware,
        val_loader=everything,
        tracker=tracker,
        log=log,
        output_dir=output_dir,
        callbacks=[*controllers(recipe, len(loader)), MeasureGeometry(), *callbacks],
        seed=seed,
        config_record={"recipe": {k: v for k, v in plain(asdict(recipe)).items() if k != "resume_from"}, "seed": seed},
        resume=recipe.resume_from,
    )


def controllers(recipe: TernaryVAERecipeConfig, steps_per_epoch: int) -> list[Callback]:
    """The curriculum of the ranking, and the controller of the KL divergence."""
    c, h = recipe.curriculum, recipe.homeostasis
    curriculum = CurriculumScheduler(c.start_difficulty, c.end_difficulty, c.warmup_epochs, shape=c.shape)
    found: list[Callback] = [
        ScheduledValue("registry.difficulty", lambda step: curriculum.get_difficulty((step - 1) // steps_per_epoch))
    ]
    if h.enabled:
        controller: Any = HomeostasisController(h.target_kl, h.kl_tolerance)
        found.append(FeedbackValue("registry.beta", "train/kl_nats", controller))
    return found


def figures_of(found: Geometry, result: LoopResult) -> dict[str, Any]:
    """The final figures of a run."""
    last = {k.removeprefix("val/"): v for k, v in result.history[-1].items() if k.startswith("val/")}
    kept = {k: last[k] for k in ("loss", "reconstruction", "kl_nats", "ranking", "radial") if k in last}
    return {"coverage": found.coverage, "hierarchy": found.hierarchy, "steps": result.steps, **kept}


def say(found: Geometry, n_trits: int, log: logging.Logger) -> None:
    """Coverage and hierarchy in two lines."""
    n = len(found.right)
    log.info(
        "coverage  %.2f %%: %d of %d operations are decoded exactly from the posterior mean",
        100 * found.coverage,
        int(found.right.sum()),
        n,
    )
    log.info(
        "hierarchy %.4f: Spearman correlation of 3-adic valuation and hyperbolic radius; best possible %.4f",
        found.hierarchy,
        best_hierarchy(n_trits),
    )
