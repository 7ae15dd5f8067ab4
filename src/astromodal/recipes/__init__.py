"""Codecs on their own home problems, and the documented Python API of each: thin adapters over codecs and the loop.

``train_tokenizers.py experiment=<name>`` runs one; ``conf/recipe/`` has its settings.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.schema import Config
    from ..core.runs import RunContext

RECIPES: dict[str, str] = {
    "ebird_vae": "ebird.experiment",
    "spectrum_mae": "chemomae.experiment",
    "ternary_vae": "ternary.experiment",
}  # name -> module with run(config, run)


def run_recipe(config: Config, run: RunContext) -> dict[str, Any]:
    """Run the recipe that ``config.recipe.name`` names; returns its final figures.

    Raises:
        ConfigError: there is no such recipe.
    """
    name = config.recipe.name
    if name not in RECIPES:
        raise ConfigError(f"a recipe of {', '.join(RECIPES)}", got=name, where="recipe.name")
    return importlib.import_module(f"{__name__}.{RECIPES[name]}").run(config, run)
