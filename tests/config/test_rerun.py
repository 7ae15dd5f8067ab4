"""``--experimental-rerun``: the recorded overrides, and nothing that a file might execute."""

from __future__ import annotations

from pathlib import Path

import pytest

from astromodal.config.launching.rerun import rerun
from astromodal.errors import ArtifactError, ArtifactMissingError, ConfigError

RECORDED = "- seed=3\n- model=tiny\n- data.root='/My Data'\n- run_id=old\n- resume=auto\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(RECORDED)
    (tmp_path / ".hydra" / "config.pickle").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    return tmp_path


@pytest.mark.parametrize("path", ["", ".hydra", ".hydra/config.pickle"])
def test_the_recorded_overrides_are_run_again_in_a_run_of_their_own(run, path, monkeypatch):
    monkeypatch.chdir(run)
    kept = ["seed=3", "model=tiny", "data.root='/My Data'"]
    assert rerun(["--experimental-rerun", str(run / path)], "train_lm") == kept
    assert rerun([f"--experimental-rerun={run / path}", "seed=4"], "train_lm") == ["seed=4", *kept[1:]]
    assert not (run / "executed").exists()


def test_a_run_of_an_older_version_is_run_again_under_the_keys_of_this_one(run):
    old = [
        "training.resume=auto",
        "training.init_from=runs/a",
        "evaluate.judge=False",
        "++evaluate.baselines=[marginal]",
    ]
    (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in old))
    kept = ["init_from=runs/a", "evaluate.judge=null", "++evaluate.judge.baselines=[marginal]"]
    assert rerun(["--experimental-rerun", str(run)], "evaluate") == kept


def test_without_the_flag_nothing_changes():
    assert rerun(["-m", "seed=0,1"], "train_lm") == ["-m", "seed=0,1"]


def test_what_cannot_be_run_again_is_one_line(run, tmp_path: Path):
    with pytest.raises(ConfigError, match="no path"):
        rerun(["--experimental-rerun"], "train_lm")
    with pytest.raises(ArtifactMissingError, match=r"overrides\.yaml"):
        rerun(["--experimental-rerun", str(tmp_path / "nowhere")], "train_lm")
    overrides = run / ".hydra" / "overrides.yaml"
    overrides.write_text("- hydra.callbacks.x._target_=os.system\n")
    with pytest.raises(ConfigError, match="_target_"):
        rerun(["--experimental-rerun", str(run)], "train_lm")
    for text in ("a: 1\n", "- [1]\n", "- !!python/object/apply:os.getcwd []\n", "- [\n"):
        overrides.write_text(text)
        with pytest.raises(ArtifactError, match="a list of overrides"):
            rerun(["--experimental-rerun", str(run)], "train_lm")
