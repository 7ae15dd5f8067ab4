"""Two processes (gloo, CPU), whole or sharded models: they train to the weights of one process on the same steps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from astromodal.config.schema import HardwareConfig, OptimizerConfig, OptimizerName, Parallel
from astromodal.errors import ConfigError
from astromodal.training.checkpoints.checkpoint import load_checkpoint
from astromodal.training.loop import TrainingLoop
from tests.training import two_processes
from tests.training.test_resume import assert_same
from tests.training.toys import ToyLoader, ToyObjective, options
from tests.training.two_processes import HALVES, KillAt, Killed, _losses, build, single
from tests.warm_start import WarmProcess

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")


def start(folder: Path, *cases: str) -> list[WarmProcess]:
    """Two processes as torchrun would start them, but without anything that watches over them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{REPO}",
    }
    command = [two_processes.__file__, folder, *cases]
    environments = [base | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [WarmProcess(command, cwd=REPO, env=environment) for environment in environments]


def half(folder: Path) -> None:
    """A run of a single process that is killed at its sixth step; its last checkpoint is of the fifth."""
    with pytest.raises(Killed):
        single(folder, callbacks=(KillAt(6),), save_every=5)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the results of all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    for parallel in ("ddp", "fsdp"):
        half(folder / "the_other_half" / parallel)
    errors = finish(start(folder), 300)
    assert len(list(folder.glob("*/result_*.json"))) == 2 * len(two_processes.CASES), "\n".join(errors)
    return folder


def finish(processes: list[WarmProcess], seconds: float) -> list[str]:
    """What they wrote to stderr; none of them outlives the test."""
    try:
        return [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()


def result(ranks: Path, case: str, rank: int = 0) -> Any:
    found = json.loads((ranks / case / f"result_{rank}.json").read_text())
    assert "error" not in found, found["error"]
    return found["value"]


def assert_equal_runs(losses: dict, folder: Path, reference: tuple, tolerance: float = 1e-5) -> None:
    """Losses, gradient norms and validations at every step, weights, average, optimizer state and history."""
    loop, tracker = reference
    expected = _losses(tracker)
    assert len(expected["train/loss"]) >= 3 and len(expected["val/ce"]) >= 1
    for name, values in expected.items():
        assert losses[name] == pytest.approx(values, rel=tolerance), name
    state = load_checkpoint(folder / "checkpoints/last.pt")
    own = {"model": loop.model.state_dict(), "ema": loop.ema.state_dict()["shadow"]}
    for name, value in own["model"].items():
        torch.testing.assert_close(state["model"][name], value, rtol=1e-3, atol=10 * tolerance)
        if name in own["ema"]:  # buffers are not averaged
            torch.testing.assert_close(state["ema"]["shadow"][name], own["ema"][name], rtol=1e-3, atol=10 * tolerance)
    assert len(own["ema"]) > len(own["model"]) / 2
    for a, b in zip(state["history"], loop.history, strict=True):
        assert a == pytest.approx(b, rel=10 * tolerance)
    assert state["global_step"] == loop.global_step == 8 and len(state["rng"]) == 2


# ----------------------------------------------------------------------------------- equal to one process


@pytest.fixture(scope="module")
def reference() -> tuple:
    return single(None, resume=None)


@pytest.mark.parametrize("case", ["ddp", "fsdp", "ddp_recomputed"])
def test_uneven_shares_and_an_empty_one_equal_one_process(ranks: Path, reference: tuple, case: str) -> None:
    losses = result(ranks, case)
    assert_equal_runs(losses, ranks / case, reference)
    other = result(ranks, case, 1)
    assert other["train/loss"] == []  # only the first process records


@pytest.mark.parametrize("case", ["ddp_accumulated", "fsdp_accumulated_and_recomputed"])
def test_accumulated_micro_batches_equal_one_process(ranks: Path, case: str) -> None:
    assert_equal_runs(result(ranks, case), ranks / case, single(None, HALVES, resume=None, grad_accum_steps=2))


def test_sharded_weights_train_in_bf16_too(ranks: Path, reference: tuple) -> None:
    losses, expected = result(ranks, "fsdp_bf16"), _losses(reference[1])
    assert losses["train/ce"] == pytest.approx(expected["train/ce"], rel=0.02)


def test_sharded_weights_and_optimizer_state_are_divided(ranks: Path) -> None:
    found = [result(ranks, "fsdp", rank) for rank in range(2)]
    n = found[0]["all"]
    assert sum(f["held"] for f in found) == n and sum(f["state"] for f in found) == 2 * n
    assert max(f["held"] for f in found) < 0.6 * n


def test_muon_on_shards_equals_one_process_within_its_bf16_products(ranks: Path) -> None:
    _, tracker = single(None, resume=None, optimizer=OptimizerConfig(name=OptimizerName.muon))
    expected, found = tracker.column("train/loss"), result(ranks, "fsdp_muon")["train/loss"]
    assert found == pytest.approx(list(expected.values()), rel=2e-3)


@pytest.mark.slow
def test_compiled_processes_train_the_same_and_do_not_compile_per_shape(tmp_path: Path, reference: tuple) -> None:
    finish(start(tmp_path, "compiled"), 900)
    for parallel, found in result(tmp_path, "compiled").items():
        assert_equal_runs(found, tmp_path / "compiled" / parallel, reference)
        assert found["graphs"] <= 8


def test_the_surplus_of_one_process_is_left_out_and_nothing_hangs(ranks: Path) -> None:
    found = [result(ranks, "more_micro_batches_on_one_process", rank) for rank in range(2)]
    assert [f["batches"] for f in found] == [5, 4]
    assert [(f["n_batches"], f["steps"]) for f in found] == [(4, 8)] * 2


# --------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_resumed_run_of_two_processes_is_bit_identical(ranks: Path, parallel: str) -> None:
    result(ranks, "killed_and_resumed")
    folder = ranks / "killed_and_resumed" / parallel
    whole, cut = (load_checkpoint(folder / name / "checkpoints/last.pt") for name in ("whole", "cut"))
    assert whole["global_step"] == 8 and len(whole["sampler"]) == 2
    assert_same(whole, cut)
    for name in ("best_model.pt", "final_model.pt"):
        assert_same(*(torch.load(folder / run / name, weights_only=True) for run in ("whole", "cut")))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_process_goes_on_with_the_run_of_two(ranks: Path, reference: tuple, tmp_path: Path, parallel: str) -> None:
    result(ranks, "half_a_run")
    shutil.copytree(ranks / "half_a_run" / parallel, tmp_path, dirs_exist_ok=True)
    assert load_checkpoint(tmp_path / "checkpoints/last.pt")["global_step"] == 5
    loop, tracker = single(tmp_path)
    expected = reference[1].column("train/loss")
    assert list(tracker.column("train/loss")) == [6, 7, 8]
    assert tracker.column("train/loss") == pytest.approx({k: expected[k] for k in (6, 7, 8)}, rel=1e-5)
    assert [r["train_loss"] for r in loop.history] == pytest.approx([r["train_loss"] for r in reference[0].history])
    for a, b in zip(loop.model.parameters(), reference[0].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_go_on_with_the_run_of_one(ranks: Path, reference: tuple, parallel: str) -> None:
    found = result(ranks, "the_other_half")[parallel]
    expected = list(reference[1].column("train/loss").values())
    assert found["train/loss"] == pytest.approx(expected[5:], rel=1e-5)
    state = load_checkpoint(ranks / "the_other_half" / parallel / "checkpoints/last.pt")
    for name, value in reference[0].model.state_dict().items():
        torch.testing.assert_close(state["model"][name], value, rtol=1e-3, atol=1e-4)
    losses = [r["train_loss"] for r in reference[0].history]
    assert [r["train_loss"] for r in state["history"]] == pytest.approx(losses)  # the epoch that was cut included


def test_another_number_of_processes_has_to_keep_the_sequences_per_step(ranks: Path, tmp_path: Path) -> None:
    shutil.copytree(ranks / "half_a_run" / "ddp", tmp_path, dirs_exist_ok=True)
    loop, _ = build(tmp_path, HALVES, batch_size=3)
    with pytest.raises(ConfigError, match=r"6 sequences per step, as 2 .*training\.grad_accum_steps=2"):
        loop.fit()


# -------------------------------------------------------------------------------------- what cannot be


def test_what_cannot_be_sharded_is_refused_with_the_remedy(ranks: Path) -> None:
    no_blocks, fp16 = result(ranks, "refusals")
    assert "ToyNet" in no_blocks and "hardware=ddp" in no_blocks
    assert "fp16" in fp16 and "hardware.precision=bf16" in fp16


@pytest.mark.parametrize("parallel", [Parallel.ddp, Parallel.fsdp])
def test_several_processes_without_torchrun_are_refused_with_the_command(parallel: Parallel) -> None:
    hardware = HardwareConfig(device="cpu", parallel=parallel)
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node"):
        TrainingLoop(ToyObjective(), ToyLoader(), **(options() | {"hardware": hardware}))


# -------------------------------------------------------------------------------- one run after another


def test_each_run_of_a_sweep_has_a_group_of_its_own_also_after_one_that_failed(ranks: Path) -> None:
    expected = [entry for job in range(3) for entry in ([f"{job} 0", f"{job} 1"], False)]
    assert result(ranks, "one_group_after_another") == expected
    assert result(ranks, "one_group_after_another", 1) == [*expected, 1]  # alone it ends, with exit code 1


# ------------------------------------------------------------------------------------- a process that dies


@pytest.mark.parametrize("stop", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_other_with_one_line_and_the_run_goes_on(tmp_path: Path, stop: signal.Signals) -> None:
    """Killed: its connections close. Stopped: nothing tells but the missing signs of life."""
    last = tmp_path / "endless" / "checkpoints" / "last.pt"
    first, second = start(tmp_path, "endless")
    try:
        deadline = time.monotonic() + 240
        while not last.exists():
            assert time.monotonic() < deadline and first.poll() is None, first.communicate()[1]
            time.sleep(0.1)
        begin = time.monotonic()
        second.send_signal(stop)
        error = first.communicate(timeout=120)[1]
        took = time.monotonic() - begin
    finally:
        first.kill(), second.kill()
        first.wait(), second.wait()
    lines = [line for line in error.splitlines() if "resume=auto" in line]
    assert first.returncode == 1 and len(lines) == 1 and took < 60, error
    step = load_checkpoint(last)["global_step"]
    loop, _ = build(
        last.parents[1], ToyLoader(), objective=ToyObjective(), batch_size=32, epochs=10**6, max_steps=step + 3
    )
    assert loop.fit().steps == step + 3
