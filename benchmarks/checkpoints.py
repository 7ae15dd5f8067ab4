"""How long training stands still for a checkpoint: written at once, and in the background.

    python benchmarks/checkpoints.py --megabytes 100 --rounds 3

Trains a small network on random numbers with AdamW and a moving average, so that the state is four times the
weights, and saves every few steps; both ways in turn, in one process and on one thread. Prints the median and the
largest time of :meth:`TrainingLoop.save` and the time per step of the whole run, in which writing in the background
takes its share of the processor.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from astromodal.config.schema import HardwareConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from astromodal.training.loop import TrainingLoop


class Regression(nn.Module):
    """Squared error of a network with one large matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.Linear(width, 1))

    def prepare(self, batches: list[dict], step: int) -> list[dict]:
        return batches

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return (self.model(batch["x"]).squeeze(-1) - batch["y"]).square().mean(), {}


class Timed(TrainingLoop):
    """Notes how long every save takes."""

    def save(self) -> None:
        begin = time.perf_counter()
        super().save()
        self.times = [*getattr(self, "times", []), time.perf_counter() - begin]


def run(
    width: int, batches: list[dict], every: int | None, in_background: bool, device: str
) -> tuple[list, float, int]:
    """Seconds of each save, seconds of the whole run, and bytes of a checkpoint."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        loop = Timed(
            Regression(width),
            batches,
            optimizer=OptimizerConfig(),
            schedule=ScheduleConfig(warmup_steps=10),
            training=TrainingConfig(
                epochs=1,
                log_every=len(batches),
                save_every=every,
                keep_last=1,
                ema_decay=0.999,
                checkpoint_async=in_background,
            ),
            hardware=HardwareConfig(device=device),
            output_dir=Path(folder),
        )
        begin = time.perf_counter()
        loop.fit()
        seconds = time.perf_counter() - begin
        return loop.times, seconds, (Path(folder) / "checkpoints/last.pt").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100.0, help="size of the state")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--every", type=int, default=4, help="steps between checkpoints")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    width = int((1e6 * arguments.megabytes / 16) ** 0.5)  # one width x width matrix dominates; 4 copies of 4 bytes
    x = torch.randn(arguments.steps, arguments.batch, 64)
    batches = [{"x": b, "y": b.sum(1)} for b in x]
    saves: dict[bool, list[float]] = {True: [], False: []}
    first: dict[bool, list[float]] = {True: [], False: []}
    runs: dict[bool | None, list[float]] = {True: [], False: [], None: []}
    for number in range(arguments.rounds + 1):
        for kind in (None, False, True):
            every = None if kind is None else arguments.every
            times, seconds, size = run(width, batches, every, bool(kind), arguments.device)
            if number:  # the first round warms up
                runs[kind].append(seconds)
                if kind is not None:
                    first[kind].append(times[0])
                    saves[kind] += times[1:-1]
    print(
        f"state {size / 1e6:.0f} MB, {arguments.steps} steps, a checkpoint every {arguments.every}, {arguments.device}"
    )
    for kind, name in ((False, "at once"), (True, "in the background")):
        times = sorted(saves[kind])
        figures = f"{1e3 * statistics.median(times):7.1f} ms (largest {1e3 * times[-1]:.1f}"
        figures += f", the first of a run {1e3 * statistics.median(first[kind]):.1f})"
        print(f"{name:18s} save() {figures}; run {statistics.median(runs[kind]):.2f} s")
    print(f"{'only at the end':18s} run {statistics.median(runs[None]):.2f} s")


if __name__ == "__main__":
    main()
