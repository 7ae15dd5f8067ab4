"""Which weights are meant by a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astromodal.ask.trained import find_weights
from astromodal.errors import ArtifactMissingError


def make_run(root: Path, name: str, ended: str, status: str = "DONE", store: str = "artifacts/a", weights=True) -> Path:
    folder = root / "train_lm" / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": status, "ended": ended}))
    (folder / "config.json").write_text(json.dumps({"paths": {"store": store}}))
    if weights:
        (folder / "best_model.pt").write_bytes(b"")
        (folder / "final_model.pt").write_bytes(b"")
    return folder


def test_auto_is_the_newest_run_that_ended_well_on_these_tokens(tmp_path):
    make_run(tmp_path, "default/one", "2026-01-01T00:00:00")
    two = make_run(tmp_path, "sweeps/s/3", "2026-01-02T00:00:00")
    make_run(tmp_path, "default/failed", "2026-01-03T00:00:00", status="FAILED")
    other = make_run(tmp_path, "mine/other", "2026-01-04T00:00:00", store="artifacts/b")
    damaged = make_run(tmp_path, "default/damaged", "2026-01-05T00:00:00")
    (damaged / "run.json").write_text("{")
    assert find_weights("auto", tmp_path, "artifacts/a") == two / "best_model.pt"
    assert find_weights("auto", tmp_path) == other / "best_model.pt"
    with pytest.raises(ArtifactMissingError, match=r"tokens of artifacts/c.*run python train_lm\.py"):
        find_weights("auto", tmp_path, "artifacts/c")


def test_a_run_or_a_file_is_taken_as_it_is(tmp_path):
    folder = make_run(tmp_path, "default/one", "2026-01-01T00:00:00", status="RUNNING")
    assert find_weights(str(folder), tmp_path) == folder / "best_model.pt"
    (folder / "best_model.pt").unlink()
    assert find_weights(str(folder), tmp_path) == folder / "final_model.pt"
    assert find_weights(str(folder / "run.json"), tmp_path) == folder / "run.json"  # refused when it is read
    empty = make_run(tmp_path, "default/empty", "2026-01-01T00:00:00", weights=False)
    for wrong, message in ((empty, "best_model.pt"), (tmp_path / "no", "nothing")):
        with pytest.raises(ArtifactMissingError, match=message):
            find_weights(str(wrong), tmp_path)
