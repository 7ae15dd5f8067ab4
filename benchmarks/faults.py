"""Kill a training run at random instants, resume it, and compare what it ends with to the bit.

    python benchmarks/faults.py --kills 50               # SIGKILL at instants drawn over the run's wall time
    python benchmarks/faults.py --calls kill             # SIGKILL at every fsync, rename, removal, in copies and writes
    python benchmarks/faults.py --calls full             # the same calls fail as on a full disk instead

The run is a small language model with its real loss, accumulation, dropout, validation, moving average, early
stopping and checkpoints in the background every few steps, in a run directory with its record and lock. Each attempt
is a child forked after the imports, so an attempt costs a second and its death is a real one. After the last resume
weights, optimizer, average, random states, history and metrics (times apart) have to be those of a run that was never
interrupted. The exit code is 1 if any is not.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # optimizers import it when they are made; so no child has to
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from fault_calls import KINDS, Calls
from fault_outcome import differences, outcome

from astromodal.config.schema import (
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    Precision,
    ScheduleConfig,
    TrainingConfig,
)
from astromodal.errors import UserError
from astromodal.loss.language_model import LanguageModelObjective
from astromodal.loss.standardize import Codebooks
from astromodal.models import CausalTransformerLM
from astromodal.runs.run import RunContext
from astromodal.training.callbacks import Callback
from astromodal.training.loop import TrainingLoop
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import BOS, EOS, build_vocab_spec

VOCAB = build_vocab_spec(7, 6, {"blue": 5}, scalar_columns=("mag", "z"), n_bins=(6, 3))
PHASES = ("before the first step", "in a step", "in a validation", "after a step")


class Sequences:
    """Shuffled batches of short sequences (two scalars, a spectrum, an image), a function of seed and epoch."""

    def __init__(self, n_rows: int, seed: int, shuffle: bool, phase: mmap.mmap, number: int) -> None:
        rng = np.random.default_rng(seed)
        column, blue = VOCAB.first_column_type, VOCAB.block("blue").start
        blocks = [  # first token, codes, length, type
            (VOCAB.base_scalar, 6, 1, column),
            (VOCAB.base_scalar, 3, 1, column + 1),
            (blue, 5, 4, VOCAB.type_of_group("blue")),
            (VOCAB.base_image, 7, 9, 1),
        ]
        parts = [np.full((n_rows, 1), BOS)] + [b + rng.integers(0, n, (n_rows, k)) for b, n, k, _ in blocks]
        self.tokens = torch.as_tensor(np.concatenate([*parts, np.full((n_rows, 1), EOS)], axis=1))
        types = [0] + [t for _, _, k, t in blocks for _ in range(k)] + [0]
        self.types = torch.tensor(types).expand(n_rows, -1)
        self.seed, self.shuffle, self.epoch, self.start = seed, shuffle, 0, 0
        self.phase, self.number = phase, number

    def __len__(self) -> int:
        return len(self.tokens) // 4

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def start_at(self, n_batches: int) -> None:
        self.start = n_batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.arange(len(self.tokens))
        if self.shuffle:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(self.seed + 1000 * self.epoch))
        start, self.start = self.start, 0
        for rows in order.split(4)[start:]:
            self.phase[0] = self.number
            tokens = self.tokens[rows]
            yield {"tokens": tokens, "types": self.types[rows], "attn_mask": tokens > 0, "object_index": rows}


class AfterStep(Callback):
    """Tells the parent that a step is over."""

    def __init__(self, phase: mmap.mmap) -> None:
        self.phase = phase

    def on_step_end(self, loop: TrainingLoop) -> None:
        self.phase[0] = 3


def train(folder: Path, epochs: int, phase: mmap.mmap) -> None:
    """The run, from its beginning or from where it was left."""
    rng = np.random.default_rng(0)
    codebooks = Codebooks(
        Codebook(rng.normal(size=(7, 2)), rng.integers(1, 9, 7)),
        {"blue": Codebook(rng.normal(size=(5, 3)), rng.integers(1, 9, 5))},
        ScalarCodebook(("mag", "z"), np.asarray([[-2, -1, 0, 1, 2, 4], [0, 0.5, 3, 0, 0, 0]]), np.ones((2, 6)), (6, 3)),
    )
    torch.manual_seed(0)
    model = CausalTransformerLM(VOCAB.vocab_size, VOCAB.n_types, 32, 2, 2, 64, dropout=0.1, max_len=32)
    training = TrainingConfig(
        epochs=epochs,
        grad_accum_steps=2,
        log_every=2,
        val_every=4,
        save_every=3,
        keep_last=2,
        ema_decay=0.9,
        monitor="val/score",
        patience=50,
        checkpoint_async=True,
        num_workers=0,
    )
    config = {"run_id": "faults", "run_dir": str(folder), "name": "faults", "tracking": {"wandb": "disabled"}}
    with RunContext.open(config, "train_lm", resume=(folder / "run.json").exists()) as run:
        loop = TrainingLoop(
            LanguageModelObjective(model, VOCAB, codebooks, LossConfig(sample_k=5), 1),
            Sequences(40, 1, True, phase, 1),
            val_loader=Sequences(16, 2, False, phase, 2),
            training=training,
            optimizer=OptimizerConfig(learning_rate=1e-2),
            schedule=ScheduleConfig(warmup_steps=2),
            # what is faster is measured anew by a run that was killed before its first checkpoint
            hardware=HardwareConfig(device="cpu", n_threads=1, precision=Precision.float32),
            tracker=run.tracker,
            log=run.log,
            output_dir=folder,
            callbacks=[AfterStep(phase)],
            seed=5,
            resume="auto",
        )
        loop.fit()


# ------------------------------------------------------------------------------------------ children


class Attempts:
    """Starts attempts of the run as children of this process."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.phase = mmap.mmap(-1, 1)  # shared with the children

    def start(self, folder: Path, around: Callable[[Path], contextlib.AbstractContextManager] | None = None) -> int:
        """Process id of an attempt in ``folder``; ``around`` is a context of the child's work."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.phase[0] = 0
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        code = 1
        with open(f"{folder}.log", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                with around(folder) if around else contextlib.nullcontext():
                    train(folder, self.epochs, self.phase)
                code = 0
            except UserError as error:
                print("error:", error)
                code = 3
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def run(self, folder: Path, around: Callable | None = None) -> int:
        """Exit code of a whole attempt, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.start(folder, around), 0)[1])

    def kill(self, folder: Path, after: float) -> str | None:
        """Kill an attempt ``after`` seconds; what it was doing, or ``None`` if it ended before."""
        process = self.start(folder)
        time.sleep(after)
        os.kill(process, signal.SIGKILL)  # of a child that has ended but was not waited for: no effect
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == -signal.SIGKILL:
            writing = any((folder / "checkpoints").glob(".*.tmp.pt")) if (folder / "checkpoints").exists() else False
            return PHASES[self.phase[0]] + (", a checkpoint half written" if writing else "")
        if code:
            raise SystemExit(f"a child ended with code {code}:\n{Path(f'{folder}.log').read_text()[-3000:]}")
        return None


def remove_leftovers(folder: Path) -> None:
    """Temporaries of dead writers, so that the next kill's can be told from them (they would go after a minute)."""
    for path in folder.rglob(".*.tmp*"):
        path.unlink()


# -------------------------------------------------------------------------------------------- trials


class Trials:
    """Counts trials and shows those that did not end as the whole run did."""

    def __init__(self, attempts: Attempts, root: Path) -> None:
        self.attempts, self.root, self.n, self.n_same = attempts, root, 0, 0
        self.seconds = 0.0
        begin = time.perf_counter()
        if attempts.run(root / "whole") != 0:
            raise SystemExit((root / "whole.log").read_text()[-3000:])
        self.seconds = time.perf_counter() - begin
        self.whole = outcome(root / "whole")

    def finish(self, folder: Path, what: str) -> None:
        """Resume to the end, compare, and remove what is the same."""
        self.n += 1
        code = self.attempts.run(folder)
        odd = (
            [f"the resume ended with code {code}, see {folder}.log"]
            if code
            else differences(self.whole, outcome(folder))
        )
        self.n_same += not odd
        if odd:
            print(f"NOT THE SAME after {what}: {'; '.join(odd[:5])} ({len(odd)} in all); kept in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
            Path(f"{folder}.log").unlink()


def random_kills(trials: Trials, n_trials: int, seed: int) -> None:
    """Each trial: a kill at a random instant; after it, with probability one half each time, another one."""
    draws, met = random.Random(seed), collections.Counter()
    for number in range(n_trials):
        folder, killed = trials.root / f"kill{number}", []
        while not killed or draws.random() < 0.5:
            what = trials.attempts.kill(folder, draws.uniform(0.0, trials.seconds))
            if what is None and not killed:  # it was over before: draw again
                shutil.rmtree(folder)
                continue
            if what is None:
                break
            killed.append(what)
            remove_leftovers(folder)
        met.update(killed)
        trials.finish(folder, f"kills {killed}")
    print(f"{sum(met.values())} kills: " + ", ".join(f"{n} {what}" for what, n in met.most_common()))


def at_calls(trials: Trials, fault: str, kinds: list[str], n_writes: int) -> None:
    """A fault at each call of each kind; of writes, which are many, at ``n_writes`` of them, each cut in the middle."""
    calls = trials.root / "calls.json"
    if trials.attempts.run(trials.root / "counted", lambda folder: Calls(folder, record=calls)):
        raise SystemExit((trials.root / "counted.log").read_text()[-3000:])
    counts = json.loads(calls.read_text())
    print("calls of one run: " + ", ".join(f"{counts[kind]} {kind}" for kind in KINDS), flush=True)
    codes = collections.Counter()
    for kind in kinds:
        n = counts[kind]
        every = max(1, n // n_writes) if kind == "write" else 1
        for number in range(0, n, every):
            folder = trials.root / f"{kind}{number}"
            where = dict(kind=kind, number=number, fault=fault)
            code = trials.attempts.run(folder, lambda folder, where=where: Calls(folder, **where))
            codes[code] += 1
            if folder.exists():
                remove_leftovers(folder)
            trials.finish(folder, f"{fault} at {kind} {number} (exit code {code})")
    print("exit codes after the fault: " + ", ".join(f"{n} times {code}" for code, n in codes.most_common()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="trials, each with one or more kills")
    parser.add_argument("--calls", choices=("kill", "full"), help="faults at calls instead of random kills")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="with --calls: which")
    parser.add_argument("--writes", type=int, default=40, help="with --calls: how many of the writes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work, instead of a temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="faults-", dir=arguments.folder))
    begin = time.perf_counter()
    trials = Trials(Attempts(arguments.epochs), root)
    steps = trials.whole["checkpoints/last.pt"]["global_step"]  # type: ignore[index]
    print(f"the run: {steps} steps, {trials.seconds:.2f} s without interruption", flush=True)
    if arguments.calls:
        at_calls(trials, arguments.calls, arguments.kinds, arguments.writes)
    else:
        random_kills(trials, arguments.kills, arguments.seed)
    print(f"{trials.n_same} of {trials.n} ended bit-identical; {time.perf_counter() - begin:.0f} s")
    if trials.n_same == trials.n:
        shutil.rmtree(root)
    return int(trials.n_same < trials.n)


if __name__ == "__main__":
    sys.exit(main())
