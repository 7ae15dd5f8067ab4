"""Two processes (gloo, CPU) train to the weights of one process on the same global batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from astromodal.training.loop import TrainingLoop
from tests.training.toys import ToyLoader, ToyNet, ToyObjective, options

REPO = Path(__file__).resolve().parents[2]


class RankLoader(ToyLoader):
    """Every second row of each global batch."""

    def __init__(self, rank: int, n_ranks: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rank, self.n_ranks = rank, n_ranks

    def __iter__(self):
        for batch in super().__iter__():
            yield {key: value[self.rank :: self.n_ranks] for key, value in batch.items()} | {"n": len(batch["x"])}


class GlobalObjective(ToyObjective):
    """Shares of a step over all ranks."""

    def prepare(self, batches, step):
        total = float(sum(b["n"] for b in batches))
        return [{k: v for k, v in b.items() if k != "n"} | {"total": torch.tensor(total)} for b in batches]

    def evaluate(self, batch):
        return super().evaluate({k: v for k, v in batch.items() if k != "n"})


def train(folder: Path, rank: int, n_ranks: int, epochs: int = 2) -> TrainingLoop:
    torch.manual_seed(rank)  # ranks begin with different weights: rank 0's count
    if n_ranks == 1:
        torch.manual_seed(0)
    loop = TrainingLoop(GlobalObjective(ToyNet(dropout=0.0)), RankLoader(rank, n_ranks, n_rows=40, batch_size=8),
                        val_loader=RankLoader(rank, n_ranks, n_rows=16, batch_size=8, seed=9, shuffle=False),
                        output_dir=folder, resume="auto",
                        **options(epochs=epochs, grad_accum_steps=2, ema_decay=0.9))  # fmt: skip
    loop.fit()
    return loop


def launch(folder: Path, epochs: int) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                         "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{REPO}"}  # fmt: skip
    command = [sys.executable, __file__, str(folder), str(epochs)]
    ranks = [subprocess.Popen(command, env=base | {"RANK": str(r), "LOCAL_RANK": str(r)}, cwd=REPO,
                              stderr=subprocess.PIPE, text=True) for r in range(2)]  # fmt: skip
    for process in ranks:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    launch(tmp_path / "two", 2)
    one = train(tmp_path / "one", 0, 1)
    two, single = (torch.load(tmp_path / n / "checkpoints/last.pt", weights_only=True) for n in ("two", "one"))
    for key, value in single["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-4, atol=1e-6)
    assert two["global_step"] == one.global_step == 6 and len(two["rng"]) == 2
    for a, b in zip(two["history"], one.history, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def main() -> None:
    from astromodal.training import distributed

    loop = train(Path(sys.argv[1]), int(os.environ["RANK"]), 2, int(sys.argv[2]))
    if distributed.this_rank() == 1:
        assert not loop.is_main
    distributed.leave_process_group()


if __name__ == "__main__":
    main()
