"""Bundles to and from a hub, tried on one that stands in on this machine."""

from __future__ import annotations

import json
import sys

import pytest

from astromodal import load
from astromodal.__main__ import main
from astromodal.bundles import hub as module
from astromodal.errors import ArtifactError, ArtifactMissingError, ConfigError

from .conftest import HARDWARE
from .stand_in_hub import COMMIT, standing_in


@pytest.fixture
def hub(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    with standing_in() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def test_what_is_pushed_is_what_is_loaded(trained, model, hub, tmp_path, capsys):
    main(["export", str(trained.run), "--to", str(tmp_path / "bundle"), "--push", "org/name"])
    assert "pushed: " in capsys.readouterr().out
    files = hub.repositories["org/name"]
    assert set(files) == {
        p.relative_to(tmp_path / "bundle").as_posix() for p in (tmp_path / "bundle").rglob("*") if p.is_file()
    }
    files["harm.py"] = b"raise SystemExit"
    for name in ("hf://org/name", f"hf://org/name@{COMMIT}"):
        found = load(name, check=True, **HARDWARE)
    assert "harm.py" not in hub.asked
    rows = {"id": [1], "mag_r": [20.0]}
    assert found.predict(rows, "specz_z")["specz_z_mean"] == model.predict(rows, "specz_z")["specz_z_mean"]


def test_what_the_hub_does_not_have_is_one_line(hub, tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"the bundle hf://org/none on the hub.*check the name"):
        load("hf://org/none")
    hub.repositories["org/other"] = {"README.md": b"another program's model"}
    with pytest.raises(ArtifactMissingError, match="on the hub"):
        load("hf://org/other")
    manifest = {"format": 1, "files": {"../../x": {"bytes": 1, "sha256": "0" * 64}}}
    hub.repositories["org/harm"] = {"manifest.json": json.dumps(manifest).encode()}
    with pytest.raises(ArtifactError, match="names of files within the folder"):
        load("hf://org/harm")
    manifest["files"] = {"model.safetensors": {"bytes": 1 << 50, "sha256": "0" * 64}}
    hub.repositories["org/huge"] = {"manifest.json": json.dumps(manifest).encode()}
    with pytest.raises(ArtifactError, match="a bundle of at most"):
        load("hf://org/huge")


def test_without_the_package_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'astromodal\[hub\]'"):
        load("hf://org/name")
    with pytest.raises(ConfigError, match="hf://<org>/<name>"):
        module.parse("hf://name")
