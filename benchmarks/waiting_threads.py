"""What waiting threads cost: a training step under each setting of OpenMP, on a quiet and on a loaded machine.

    python benchmarks/waiting_threads.py                             # demo-sized steps, seven settings
    python benchmarks/waiting_threads.py --spins 100 30000 --rounds 8  # other lengths of spinning

Every setting has a process of its own, because OpenMP reads them once. The processes take a few steps each in turn,
alone and beside busy processes that this script starts and stops, so that what else happens on the machine is shared
by all. Medians; ratios are to torch's default (spinning for some milliseconds) within the same round. What a loaded
machine takes away: of C cores and B busy processes, the fair share left to C threads is C / (C + B), and at worst B
cores are gone; a step should not cost more than that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "src"), str(Path(__file__).resolve().parent)]

from astromodal.machine.threads import BLOCK_TIME, SPINS, WAITING, available_cpus  # noqa: E402 (found by the line above)

BUSY = "while True: pass"


def settings(spins: list[int]) -> dict[str, dict[str, str]]:
    """Environment by name."""
    found = {"default": {"KMP_BLOCKTIME": "200"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
    for n in sorted({*spins, int(SPINS)}):
        found[f"spins {n}"] = {"GOMP_SPINCOUNT": str(n), "KMP_BLOCKTIME": BLOCK_TIME}
    return found | {"one thread less": {"OMP_NUM_THREADS": str(max(available_cpus() - 1, 1))}}


class Child:
    """A process that trains under one setting, when it is told to."""

    def __init__(self, environment: dict[str, str], options: argparse.Namespace) -> None:
        clean = {k: v for k, v in os.environ.items() if k not in (*WAITING, "OMP_NUM_THREADS")}
        command = [sys.executable, __file__, "--child", *(str(n) for n in (options.width, options.batch))]
        self.process = subprocess.Popen(
            command, env=clean | environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.take(1)  # kernels chosen, threads started

    def take(self, n_steps: int) -> float:
        """Milliseconds of a step."""
        self.process.stdin.write(f"{n_steps}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def train(width: int, batch: int) -> None:
    """The child: numbers of steps from standard input, milliseconds of a step to standard output."""
    import tempfile

    import torch
    from training_case import Size, build_objective, build_vocab, write_sequences

    from astromodal.config.schema import OptimizerConfig, OptimizerName
    from astromodal.optim.optimizers import build_optimizer
    from astromodal.sequences import BucketSampler, SequenceLoader

    size = Size(d_model=width, n_layers=4, n_heads=4, batch_size=batch, image_codes=256)
    vocab = build_vocab(size)
    objective = build_objective(size, vocab)
    optimizer = build_optimizer(objective.model, OptimizerConfig(name=OptimizerName.muon), "float32")
    with tempfile.TemporaryDirectory() as folder:
        data = write_sequences(Path(folder), size, vocab, 4 * batch)
        batch_ = next(iter(SequenceLoader(data, BucketSampler(data.lengths, batch))))
    for line in sys.stdin:
        start = time.perf_counter()
        for step in range(int(line)):
            loss, _ = objective(objective.prepare([batch_], step + 1)[0])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        print(1e3 * (time.perf_counter() - start) / int(line), flush=True)


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """Block beside ``n`` processes that never wait."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", type=int, nargs="+", default=[300, 1000, 10_000], help="turns of GOMP_SPINCOUNT")
    parser.add_argument("--busy", type=int, default=1, help="busy processes of the loaded machine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of each setting, in each round and load")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(*options.child)
        return
    children = {name: Child(environment, options) for name, environment in settings(options.spins).items()}
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for n in (0, options.busy):
            with busy(n):
                for name, child in children.items():
                    times.setdefault((name, n), []).append(child.take(options.steps))
    for child in children.values():
        child.process.communicate()
    cores, n = available_cpus(), options.busy
    print(
        f"{cores} cores; milliseconds a step, in brackets over the default's, quiet and beside {n} busy "
        f"processes; fair share {1 + n / cores:.2f}"
    )
    for name in children:
        cells = []
        for load in (0, n):
            own, default = times[name, load], times["default", load]
            ratio = statistics.median(a / b for a, b in zip(own, default, strict=True))
            cells.append(f"{statistics.median(own):8.1f} ({ratio:.3f})")
        cost = statistics.median(b / a for a, b in zip(times[name, 0], times[name, n], strict=True))
        print(f"  {name:16s} quiet {cells[0]}   loaded {cells[1]}   loaded over quiet {cost:.2f}")


if __name__ == "__main__":
    main()
