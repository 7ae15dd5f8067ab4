"""Codecs on their own home problems, and the public Python API of each: thin adapters over codecs and the loop.

``train_tokenizers.py experiment=<name>`` runs one; ``conf/recipe/`` has its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config.families import RECIPES
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.schema import Config
    from ..runs.run import RunContext


def run_recipe(config: Config, run: RunContext) -> dict[str, Any]:
    """Run the recipe that ``config.recipe.name`` names; returns its final figures.

    Raises:
        ConfigError: there is no such recipe.
    """
    name = config.recipe.name
    if name not in RECIPES:
        raise ConfigError(f"a recipe of {', '.join(RECIPES)}", got=name, where="recipe.name")
    return RECIPES[name].made()(config, run)


def figure_of(name: str, figures: Mapping[str, Any]) -> tuple[str, float]:
    """Name and value of what a sweep of the recipe ``name`` minimises."""
    figure = RECIPES[name].facts["figure"]
    return f"{name}/{figure}", float(figures[figure])
