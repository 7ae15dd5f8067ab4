"""Tokenizers fitted on the training objects: the stage ``train_tokenizers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..config.reading.containers import to_object
from ..config.schema import Config
from ..runs import tables
from ..vocabulary.modalities import MODALITIES
from . import drawn
from .wiring import begin, objective, open_survey, say_next


def train_tokenizers(cfg: DictConfig) -> float | None:
    """Fit the configured tokenizers on the training objects, save them, report their quality on held-out objects.

    With ``recipe`` set, train that codec on its home problem instead.

    Returns:
        What a sweep may minimise: squared error over variance, mean over the tokenizers; a recipe's own figure.
    """
    config = to_object(cfg, Config)
    with begin(cfg, config, "train_tokenizers") as run:
        if config.recipe is not None:
            from ..recipes import figure_of, run_recipe

            figures = run_recipe(config, run)
            run.tracker.summary(figures)
            return objective(run, *figure_of(config.recipe.name, figures))
        cubes, splits = open_survey(config, run)
        root = Path(config.paths.store) / "tokenizers"
        fitted: dict[str, Any] = {}
        reports: dict[str, dict[str, Any]] = {}
        for name in MODALITIES.in_sequence():
            settings = getattr(config.tokenizer, name)
            modality = MODALITIES[name]
            if settings is None or not modality.in_survey(config.data):
                continue
            run.log.info("fitting the %s tokenizer", name)
            hardware = (config.hardware,) if modality.on_device else ()
            fitted[name] = modality.tokenizer_class()(settings, *hardware)
            fitted[name].workers = config.hardware.workers
            reports[name] = fitted[name].fit(cubes, splits, config.data, run, config.seed)
        for name, tokenizer in fitted.items():  # only now: a fit that fails leaves all tokenizers as they were
            tokenizer.save(root / MODALITIES[name].folder, run.id)
            run.add_output(f"{name}_tokenizer", tokenizer.fingerprint)
            drawn.plot_tokenizer(run, name, reports[name])
        run.tracker.summary(tables.tokenizer_summary(reports))
        run.log.info("%s", tables.tokenizer_table(reports))
        say_next(run, cfg, f"tokenizers in {root}")
        return objective(run, "tokenizers/error", tables.tokenizer_error(reports))
