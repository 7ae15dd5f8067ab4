"""What a sweep of a recipe, or of the tokenizers, is compared by: a number, whatever the sweeper."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig

from astromodal.config.families import RECIPES
from astromodal.config.launching import launch
from astromodal.errors import ConfigError
from astromodal.recipes import figure_of
from astromodal.runs.tables import tokenizer_error


def test_every_recipe_has_a_figure():
    assert all(row.facts["figure"] for row in RECIPES.values())
    assert figure_of("ternary_vae", {"hierarchy": -0.8, "coverage": 1.0}) == ("ternary_vae/hierarchy", -0.8)


def test_the_figure_of_tokenizers_is_the_mean_of_those_that_were_fitted():
    spectrum = {"groups": {"b": {"fraction_of_variance": 0.2}, "r": {"fraction_of_variance": math.nan}}}
    assert tokenizer_error({"spectrum": spectrum, "image": {"variance_fraction": 0.4}}) == pytest.approx(0.3)
    assert tokenizer_error({"image": {"variance_fraction": math.nan}}) is None


@pytest.mark.parametrize(
    "target, refused",
    [
        ("hydra_plugins.hydra_optuna_sweeper.x.OptunaSweeper", True),
        ("hydra_plugins.astromodal_sweeper.AstromodalSweeper", False),
    ],
)
def test_a_sweeper_from_outside_gets_a_figure_or_one_line(monkeypatch, target, refused):
    monkeypatch.setattr(launch, "_is_sweep", lambda: True)
    hydra = SimpleNamespace(sweeper=SimpleNamespace(_target_=target))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: hydra))
    assert launch._comparable(0.5, "encode") == 0.5
    if refused:
        with pytest.raises(ConfigError, match=r"a figure of encode\.py"):
            launch._comparable(None, "encode")
    else:
        assert launch._comparable(None, "encode") is None
