"""What torchrun starts: one run id and one directory for all processes, and one line for what cannot be."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from astromodal.config.launching import run_id
from tests.pipeline.conftest import launch_stage


@pytest.mark.parametrize("option", ["ddp", "fsdp"])
def test_several_processes_without_torchrun_are_refused_with_the_command(tmp_path: Path, option: str) -> None:
    done = launch_stage("train_lm", f"hardware={option}", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not list(tmp_path.glob("runs/*/*/*"))
    assert "torchrun --nproc-per-node" in done.stderr


def test_stages_for_one_process_refuse_several_and_only_the_first_says_so(script, tmp_path: Path) -> None:
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    first, second = (script("train_tokenizers", cwd=tmp_path, env=launched | {"RANK": rank}) for rank in "01")
    assert (first.returncode, second.returncode) == (1, 1)
    assert first.stderr.count("\n") == 1 and "hardware.n_processes" in first.stderr and second.stderr == ""


def test_all_processes_of_torchrun_take_the_id_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    server = torch.distributed.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20)
    )
    launched = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(server.port),
    }
    assert run_id.shared("run_id", "first", launched | {"RANK": "0"}) == "first"
    assert run_id.shared("run_id", "second", launched | {"RANK": "1"}) == "first"
    again = launched | {"TORCHELASTIC_RESTART_COUNT": "1"}
    assert (
        run_id.shared("run_id", "third", again | {"RANK": "0"})
        == run_id.shared("run_id", "-", again | {"RANK": "1"})
        == "third"
    )
    assert run_id.shared("run_id", "alone", {"RANK": "0"}) == "alone"
