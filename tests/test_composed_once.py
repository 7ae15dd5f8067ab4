"""What the tests remember of Hydra's compositions is what Hydra composes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf, omegaconf
from omegaconf._utils import get_omega_conf_dumper

from astromodal.config.launching.register import conf_dir, register
from tests import composed_once


def composed(overrides: list[str]) -> DictConfig:
    register()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return compose("train_lm", ["run_dir=x", "run_id=y", "tokenizer_id=z", *overrides], return_hydra_config=True)


def described(node) -> object:
    """Values, types and flags of a configuration, down to each entry."""
    kind = (OmegaConf.get_type(node), node._metadata.ref_type, node._metadata.optional, node._metadata.flags)
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        return kind, {key: described(node._get_node(key)) for key in node}
    return kind, OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()


@pytest.mark.parametrize(
    "overrides",
    [[], ["model=tiny", "data.scalars.specz_z.min=0.5"], ["experiment=demo", "loss=smoothed", "~model/values"]],
)
def test_a_remembered_composition_is_that_of_hydra(overrides, monkeypatch):
    first, again = composed(overrides), composed(overrides)
    with monkeypatch.context() as patch:
        patch.setattr(config_loader_impl, "create_defaults_list", composed_once.real_defaults_list)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", composed_once.real_composition)
        real = composed(overrides)
    assert described(first) == described(again) == described(real)
    first.loss.weight_image = 77.0
    assert composed(overrides).loss.weight_image == real.loss.weight_image


def test_yaml_is_written_as_by_omegaconf(monkeypatch):
    cfg = composed(["data.root='1e-3'", "name='yes, or: no'", "data.fields=['01','é','null','${seed}',x y]"])
    ours = OmegaConf.to_yaml(cfg)
    monkeypatch.setattr(omegaconf, "get_omega_conf_dumper", get_omega_conf_dumper)
    assert ours == OmegaConf.to_yaml(cfg)


def test_what_files_of_users_say_now_counts(tmp_path: Path):
    (tmp_path / "data").mkdir()
    for name in ("first", "other", "first"):
        (tmp_path / "data" / "mine.yaml").write_text(f"name: {name}\nscalars: {{}}\n")
        assert composed([f"hydra.searchpath=[file://{tmp_path}]", "data=mine"]).data.name == name
