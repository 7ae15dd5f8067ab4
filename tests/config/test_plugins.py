"""Modules of the user that add to the schema: where they are named, and what they may add."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from omegaconf import OmegaConf

from astromodal.config.growth import grow
from astromodal.config.plugins import check_imported, import_plugins, plugins_of
from astromodal.config.schema import STAGE_GROUPS, Config
from astromodal.errors import ConfigError
from astromodal.provenance.config_record import config_record


@pytest.mark.parametrize("form", ["--config-dir={}", "--config-dir {}", "hydra.searchpath=[file://{}]"])
def test_the_command_line_and_the_files_that_it_chooses_name_plugins(tmp_path, form):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nplugins: [one, two.three]  # mine\n")
    (tmp_path / "experiment" / "other.yaml").write_text("plugins: [four]\n")
    arguments = form.format(tmp_path).split()
    assert plugins_of([*arguments, "experiment=mine", "plugins=[five]"]) == ["one", "two.three", "five"]
    assert plugins_of([*arguments, "experiment=demo", "name=plugins"]) == []


def test_a_module_that_is_not_there_or_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "fails_here.py").write_text("raise ValueError('mine')")
    for name, said in (("not_there_at_all", "ModuleNotFoundError"), ("fails_here", "ValueError: mine")):
        with pytest.raises(ConfigError, match=rf"got {name}: {said}.*plugins") as caught:
            import_plugins([name])
        assert "\n" not in str(caught.value)


def test_a_plugin_that_was_named_too_late_is_refused():
    check_imported(["astromodal"])
    with pytest.raises(ConfigError, match=r"named elsewhere.*plugins=\[never_imported\]"):
        check_imported(["never_imported"])


def test_a_section_grows_in_place_and_keeps_its_own_keys():
    @dataclasses.dataclass
    class Section:
        a: int = 1
        b: list = dataclasses.field(default_factory=lambda: [1])

    grow(Section, c=(float, 0.5))
    grow(Section, d=(dict, dataclasses.field(default_factory=dict)))
    assert Section() == Section(1, [1], 0.5, {}) != Section(c=0.4) and Section().b is not Section().b
    assert list(OmegaConf.structured(Section)) == ["a", "b", "c", "d"]
    assert OmegaConf.to_object(OmegaConf.structured(Section(c=2.0))).c == 2.0


def test_runs_without_plugins_are_recognised_as_before_there_were_any():
    cfg = dict.fromkeys(STAGE_GROUPS["encode"], 1) | {"hardware": {"workers": 1}}
    assert "plugins" not in config_record(OmegaConf.create(cfg | {"plugins": []}), "encode")
    assert config_record(OmegaConf.create(cfg | {"plugins": ["one"]}), "encode")["plugins"] == ["one"]
    assert Config.__dataclass_fields__["plugins"].default_factory() == []
