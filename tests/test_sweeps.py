"""Sweep files and presets name keys that exist, and never minimise a quantity that contains what they sweep."""

from __future__ import annotations

import pytest
import yaml

from astromodal.config.explain import all_keys

KEYS = set(all_keys())


def sweeps(repo):
    return sorted((repo / "sweeps").glob("*.yaml"))


def test_there_are_sweeps_and_presets(repo):
    assert sweeps(repo) and list((repo / "conf" / "hparams").glob("*.yaml"))


def test_sweep_files_run_the_real_command_over_keys_that_exist(repo):
    for path in sweeps(repo):
        sweep = yaml.safe_load(path.read_text())
        assert (repo / sweep["program"]).is_file(), path
        assert set(sweep["parameters"]) <= KEYS, path
        assert "${args_no_hyphens}" in sweep["command"], path
        assert sweep["metric"]["name"].startswith("val/") and sweep["metric"]["name"] != "val/loss", path


@pytest.mark.parametrize("preset", ["loss_weights", "sample_k", "seeds"])
def test_presets_sweep_keys_that_exist_and_compose(repo, preset, script, tmp_path):
    text = yaml.safe_load((repo / "conf" / "hparams" / f"{preset}.yaml").read_text())
    assert set(text["hydra"]["sweeper"]["params"]) <= KEYS
    result = script("train_lm", f"hparams={preset}", "--cfg", "hydra", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "sweeper" in result.stdout
