"""What two processes (gloo, CPU) do for the tests of data parallelism; started once by ``test_distributed.py``.

Every case trains the same small language model on the same global steps. In the single process a step is one batch of
``ROWS`` sequences, or two micro-batches of half of them; two processes get uneven shares of it, of the last one of an
epoch the second process gets nothing.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from astromodal.config.schema import HardwareConfig, OptimizerConfig, OptimizerName, Parallel, Precision, ValuesConfig
from astromodal.errors import ConfigError, UserError
from astromodal.loss.language_model import LanguageModelObjective
from astromodal.loss.standardize import as_codebooks
from astromodal.models import CausalTransformerLM
from astromodal.models.values import token_values
from astromodal.parallel import distributed
from astromodal.training.callbacks import Callback
from astromodal.training.loop import TrainingLoop
from astromodal.vocabulary.vocab import build_vocab_spec
from tests.training.toys import MemoryTracker, ToyLoader, ToyNet, ToyObjective, options

ROWS, LENGTH, N_STEPS = 6, 11, 4
VOCAB = build_vocab_spec(v_image=16, v_scalar=8, v_spectra=8, spectrum_groups=("xp",), scalar_columns=("mag",))


class Killed(BaseException):
    """Stands for SIGKILL."""


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, loop: TrainingLoop) -> None:
        if loop.global_step == self.step:
            raise Killed


class Steps:
    """``N_STEPS`` global steps of ``ROWS`` sequences, of which this process gets the rows of ``cuts``.

    Args:
        cuts: first row and end of each micro-batch, per step (the last entry is for the last step).
    """

    def __init__(self, *cuts: list[tuple[int, int]]) -> None:
        self.cuts, self.epoch = cuts, 0

    def __len__(self) -> int:
        return sum(len(self._cut(step)) for step in range(N_STEPS))

    def _cut(self, step: int) -> list[tuple[int, int]]:
        return self.cuts[-1] if step == N_STEPS - 1 else self.cuts[0]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for step in range(N_STEPS):
            whole = batch(100 * self.epoch + step)
            for first, stop in self._cut(step):
                yield {name: value[first:stop].clone() for name, value in whole.items()}


WHOLE = Steps([(0, ROWS)])
HALVES = Steps([(0, 3), (3, ROWS)])
UNEVEN = (Steps([(0, 4)], [(0, ROWS)]), Steps([(4, ROWS)], [(ROWS, ROWS)]))  # the last share is empty
UNEVEN_HALVES = (Steps([(0, 2), (3, 5)], [(0, 3), (3, 6)]), Steps([(2, 3), (5, 6)], [(3, 3), (6, 6)]))


def batch(seed: int) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(seed)
    parts = [
        np.full((ROWS, 1), 1),
        generator.integers(VOCAB.base_image, VOCAB.base_image + 16, (ROWS, 5)),
        generator.integers(VOCAB.base_scalar, VOCAB.base_scalar + 8, (ROWS, 2)),
        generator.integers(VOCAB.base_spectrum, VOCAB.base_spectrum + 8, (ROWS, 3)),
    ]
    types = np.repeat([0, 1, 3, 2], [1, 5, 2, 3])[None].repeat(ROWS, 0)
    mask = np.arange(LENGTH) < generator.integers(6, LENGTH + 1, (ROWS, 1))
    tokens = np.where(mask, np.concatenate(parts, 1), 0)
    arrays = {"tokens": tokens, "types": types, "attn_mask": mask, "object_index": 1000 * seed + np.arange(ROWS)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def language_model(recompute: bool = False, dropout: float = 0.0) -> LanguageModelObjective:
    generator = np.random.default_rng(0)
    torch.manual_seed(distributed.this_rank())  # the first process's weights count
    books = as_codebooks(
        VOCAB,
        generator.normal(size=(16, 2)).astype(np.float32),
        generator.normal(size=(8, 4)).astype(np.float32),
        np.linspace(-1, 1, 8).astype(np.float32),
        per_column=True,
    )
    values = token_values(VOCAB, books, ValuesConfig(head=True, n_features=4))
    model = CausalTransformerLM(
        VOCAB.vocab_size,
        VOCAB.n_types + 1,
        16,
        2,
        2,
        32,
        dropout,
        LENGTH,
        activation_checkpointing=recompute,
        values=values,
    )
    return LanguageModelObjective(model, VOCAB, books, {"sample_k": 5, "ledger_every": None}, 0)


def build(
    folder: Path | None,
    loader: Any,
    *,
    parallel: str = "auto",
    objective: Any = None,
    val: Any = None,
    resume: str | None = "auto",
    optimizer: OptimizerConfig | None = None,
    compiled: bool = False,
    precision: str = "float32",
    callbacks: tuple = (),
    **training: Any,
) -> tuple[TrainingLoop, MemoryTracker]:
    tracker = MemoryTracker()
    hardware = HardwareConfig(
        device="cpu",
        parallel=Parallel(parallel),
        rank_timeout_s=20.0,
        compile=compiled,
        precision=Precision(precision),  # not what this CPU is best at: the tolerances are those of float32
    )
    distributed.join_process_group(torch.device("cpu"), 20.0)  # before the weights are drawn
    settings = options(**({"epochs": 2, "ema_decay": 0.9, "save_every": 3, "val_every": 3} | training))
    settings |= {"hardware": hardware, "optimizer": optimizer or OptimizerConfig(learning_rate=0.01)}
    loop = TrainingLoop(
        objective or language_model(),
        loader,
        val_loader=val,
        tracker=tracker,
        output_dir=folder,
        callbacks=callbacks,
        resume=resume,
        **settings,
    )
    return loop, tracker


def single(folder: Path | None, loader: Any = WHOLE, **kwargs: Any) -> tuple[TrainingLoop, MemoryTracker]:
    """The reference: one process."""
    loop, tracker = build(
        folder, loader, val=copy.copy(WHOLE), batch_size=ROWS // kwargs.get("grad_accum_steps", 1), **kwargs
    )
    loop.fit()
    return loop, tracker


def double(folder: Path | None, loaders: tuple = UNEVEN, **kwargs: Any) -> tuple[TrainingLoop, MemoryTracker]:
    """This process's part of the same run."""
    rank = distributed.this_rank()
    loop, tracker = build(
        folder,
        loaders[rank],
        val=copy.copy(UNEVEN[rank]),
        batch_size=ROWS // 2 // kwargs.get("grad_accum_steps", 1),
        **kwargs,
    )
    with contextlib.suppress(Killed):
        loop.fit()
    return loop, tracker


# ------------------------------------------------------------------------------------------- the cases

CASES: dict[str, Callable[[Path, int], Any]] = {}


def case(function: Callable[[Path, int], Any]) -> Callable[[Path, int], Any]:
    CASES[function.__name__] = function
    return function


def _losses(tracker: MemoryTracker) -> dict[str, list[float]]:
    names = ("train/loss", "train/ce", "train/image", "optim/grad_norm", "val/loss", "val/ce", "val/score")
    return {name: list(tracker.column(name).values()) for name in names}


@case
def ddp(folder: Path, rank: int) -> Any:
    return _losses(double(folder, parallel="ddp")[1])


@case
def ddp_accumulated(folder: Path, rank: int) -> Any:
    return _losses(double(folder, UNEVEN_HALVES, grad_accum_steps=2)[1])


@case
def fsdp_bf16(folder: Path, rank: int) -> Any:
    return _losses(double(folder, parallel="fsdp", precision="bf16")[1])


@case
def fsdp(folder: Path, rank: int) -> Any:
    loop, tracker = double(folder, parallel="fsdp")
    held = sum(p.to_local().numel() for p in loop.model.parameters())
    state = sum(v.to_local().numel() for s in loop.optimizer.state.values() for v in s.values() if v.ndim)
    return _losses(tracker) | {"held": held, "state": state, "all": sum(p.numel() for p in loop.model.parameters())}


@case
def fsdp_accumulated_and_recomputed(folder: Path, rank: int) -> Any:
    return _losses(
        double(folder, UNEVEN_HALVES, parallel="fsdp", grad_accum_steps=2, objective=language_model(recompute=True))[1]
    )


@case
def ddp_recomputed(folder: Path, rank: int) -> Any:
    return _losses(double(folder, parallel="ddp", objective=language_model(recompute=True))[1])


@case
def fsdp_muon(folder: Path, rank: int) -> Any:
    return _losses(double(folder, parallel="fsdp", optimizer=OptimizerConfig(name=OptimizerName.muon))[1])


@case
def more_micro_batches_on_one_process(folder: Path, rank: int) -> Any:
    loaders = (Steps([(0, 4)], [(0, 2), (2, 4)]), Steps([(4, ROWS)]))
    loop, _ = double(folder, loaders)
    return {"steps": loop.global_step, "batches": len(loaders[rank]), "n_batches": loop.feed.n_batches}


@case
def killed_and_resumed(folder: Path, rank: int) -> Any:
    """Dropout makes the state of the generators count."""
    for parallel in ("ddp", "fsdp"):
        for name, steps in (("whole", [99]), ("cut", [2, 5, 99])):
            for step in steps:
                double(
                    folder / parallel / name,
                    parallel=parallel,
                    callbacks=(KillAt(step),),
                    objective=language_model(dropout=0.2),
                    save_every=1,
                )


@case
def half_a_run(folder: Path, rank: int) -> Any:
    """For a single process to go on with."""
    for parallel in ("ddp", "fsdp"):
        double(folder / parallel, parallel=parallel, callbacks=(KillAt(6),), save_every=5)


@case
def the_other_half(folder: Path, rank: int) -> Any:
    """Of a run that a single process has begun (see the fixture)."""
    return {parallel: _losses(double(folder / parallel, parallel=parallel)[1]) for parallel in ("ddp", "fsdp")}


def compiled(folder: Path, rank: int) -> Any:
    """The last steps of an epoch are ragged: shapes must not be compiled one by one (half a minute each)."""
    from torch._dynamo.utils import counters

    real, found = torch.compile, {}
    torch.compile = lambda module, **options: real(module, backend="eager", **options)
    try:
        for parallel in ("ddp", "fsdp"):
            torch._dynamo.reset(), counters.clear()
            tracker = double(folder / parallel, parallel=parallel, compiled=True, objective=language_model(True))[1]
            found[parallel] = _losses(tracker) | {"graphs": counters["stats"]["unique_graphs"]}
    finally:
        torch.compile = real
    return found


@case
def refusals(folder: Path, rank: int) -> Any:
    found = []
    fp16 = HardwareConfig(device="cpu", parallel=Parallel.fsdp, precision="fp16")
    for objective, hardware in (
        (ToyObjective(ToyNet()), HardwareConfig(device="cpu", parallel=Parallel.fsdp)),
        (language_model(), fp16),
    ):
        try:
            TrainingLoop(objective, WHOLE, **(options() | {"hardware": hardware}))
        except ConfigError as error:
            found.append(str(error))
    return found


@case
def one_group_after_another(folder: Path, rank: int) -> Any:
    """As the jobs of a sweep have them; the second one fails, and to the last one only the second process comes."""
    device, found = torch.device("cpu"), []
    distributed.leave_process_group()
    for job in range(3):
        with contextlib.suppress(ConfigError), distributed.process_group(device, 20.0, f"job {job}", True):
            found.append(distributed.gather(f"{job} {rank}"))
            if job == 1:
                raise ConfigError("a job that works", got="another")
        found.append(distributed.initialised())
    if rank == 1:
        with mock.patch.object(distributed, "MEETING", timedelta(seconds=0.5)):
            try:
                distributed.join_process_group(device, 20.0, "job 3")
            except SystemExit as stop:
                found.append(stop.code)
    distributed.join_process_group(device, 20.0, "the cases that follow")
    return found


def endless(folder: Path, rank: int) -> Any:
    """Trains until something happens; not among the cases that are always run."""
    settings = {"objective": ToyObjective(), "resume": None, "epochs": 10**6, "save_every": 5, "val_every": None}
    try:
        build(folder, ToyLoader(), **settings)[0].fit()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        os._exit(1)


def main() -> None:
    """Run every case; ``<folder>/<case>/result_<rank>.json`` has what it returned, or how it failed."""
    root, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    distributed.join_process_group(torch.device("cpu"), 20.0)
    for name in sys.argv[2:] or CASES:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            result = {"value": (CASES | {"endless": endless, "compiled": compiled})[name](folder, rank)}
        except Exception:
            result = {"error": traceback.format_exc()}
        (folder / f"result_{rank}.json").write_text(json.dumps(result))
        if any("error" in r for r in distributed.gather(result)):
            break  # the processes may no longer be in step
    distributed.leave_process_group()


if __name__ == "__main__":
    main()
