"""Codecs on their own home problems, and the documented Python API of each: thin adapters over codecs and the loop.

``train_tokenizers.py experiment=<name>`` runs one; ``conf/recipe/`` has its settings.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.schema import Config
    from ..runs.run import RunContext

RECIPES: dict[str, str] = {
    "ebird_vae": "ebird.experiment",
    "spectrum_mae": "chemomae.experiment",
    "ternary_vae": "ternary.experiment",
}  # name -> module with run(config, run)
FIGURES: dict[str, str] = {
    "ebird_vae": "nats",  # per held-out checklist
    "spectrum_mae": "val_loss",  # the test spectra are not for choosing
    "ternary_vae": "hierarchy",  # Spearman of valuation and radius, -1 at best; the loss contains its weights
}  # what a sweep compares runs by; lower is better


def run_recipe(config: Config, run: RunContext) -> dict[str, Any]:
    """Run the recipe that ``config.recipe.name`` names; returns its final figures.

    Raises:
        ConfigError: there is no such recipe.
    """
    name = config.recipe.name
    if name not in RECIPES:
        raise ConfigError(f"a recipe of {', '.join(RECIPES)}", got=name, where="recipe.name")
    return importlib.import_module(f"{__name__}.{RECIPES[name]}").run(config, run)


def figure_of(name: str, figures: Mapping[str, Any]) -> tuple[str, float]:
    """Name and value of what a sweep of the recipe ``name`` minimises."""
    return f"{name}/{FIGURES[name]}", float(figures[FIGURES[name]])
