"""A sweep from its command to its table.

All jobs are checked, compared with what the sweep's folder already holds, and only then handed to Hydra's launcher,
each with the number of its folder. What is said at the end is read from the folders, so that it does not depend on
how a launcher reports a job that died.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..config.launching.next_command import folder_flags, script_of
from ..config.launching.run_id import shared
from ..config.reading.explain import explain
from ..config.reading.text_values import quoted
from ..errors import ArtifactError, UserError
from ..files.locks import FileLock
from ..files.text_table import say
from ..parallel.rank import is_main, world_size
from ..provenance.fingerprints import fingerprint_config
from .inputs import job_inputs
from .jobs import Job, compose_jobs
from .plan import TO_START, Action, Planned, make_plan
from .record import FILE, SweepRecord
from .table import Outcome, outcome_of, sweep_table


def run_sweep(sweeper: Any, arguments: Sequence[str]) -> list[Any]:
    """Everything between ``-m`` and the exit code.

    Args:
        sweeper: Hydra's ``BasicSweeper``, set up.
        arguments: overrides of the command line.

    Raises:
        ConfigError: a job that cannot work; nothing was started.
        ArtifactError: another process runs this sweep, or its folder holds another one.
        UserError: one or more jobs have failed; the others were run.
    """
    jobs = compose_jobs(sweeper, arguments)
    folder, first = Path(sweeper.config.hydra.sweep.dir), jobs[0].config
    inputs = remembering(job_inputs)
    if first.preview:
        from .preview import preview_sweep

        if is_main():
            preview_sweep(jobs, folder, inputs)
        return []
    if not is_main():  # under torchrun the first process decides and writes
        return launch(sweeper, _shared_plan(jobs, []), fail_fast=first.sweep.fail_fast)
    with FileLock(folder / ".sweep"):
        record = record_of(first, folder)
        plan = make_plan(jobs, record, folder, inputs, first.sweep.retry_failed)
        OmegaConf.save(sweeper.config, folder / "multirun.yaml")
        record.write(folder)
        _say_plan(plan, folder)
        _shared_plan(jobs, plan)
        returned: list[Any] = []
        with concluding(sweeper, plan, folder, str(first.stage), returned):
            launch(sweeper, plan, returned, first.sweep.fail_fast)
        return returned


@contextmanager
def concluding(
    sweeper: Any, plan: Sequence[Planned], folder: Path, stage: str, returned: Sequence[Any]
) -> Iterator[None]:
    """After a block that launches jobs the table, whatever happened; ``plan`` and ``returned`` may grow in it.

    Raises:
        UserError: not all jobs have ended well.
    """
    broken: BaseException | None = None
    try:
        yield
    except BaseException as error:  # of the launcher, or an interruption; the table comes first
        broken = error
    errors = errors_of(plan, returned)
    outcomes = [outcome_of(p, folder, errors.get(p.number)) for p in plan]
    flags = folder_flags(sweeper.config.hydra)
    again = f"{_starter()} {shlex.join([script_of(stage), *flags, '-m', f'sweep.resume={folder}'])}"
    say(sweep_table(outcomes, folder, again))
    if broken is not None and not isinstance(broken, Exception):
        raise broken
    failed = [o for o in outcomes if o.status in ("failed", Action.failed.value)]
    unfinished = [o for o in outcomes if o.status in ("interrupted", "not run")]
    if failed or unfinished or broken is not None:
        raise UserError.plain(_verdict(failed, unfinished, len(outcomes), broken, again)) from broken


def _starter() -> str:
    """What starts a script as this one was started."""
    n = world_size()
    return "python" if n == 1 else f"torchrun --nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', n)}"


def _verdict(
    failed: Sequence[Outcome], unfinished: Sequence[Outcome], n: int, broken: BaseException | None, again: str
) -> str:
    """The one line that ends a sweep in which not all is well."""
    parts = []
    if failed:
        parts.append(f"{len(failed)} of {n} jobs failed")
    if unfinished:
        parts.append(f"{len(unfinished)} of {n} jobs not finished")
    if broken is not None:
        parts.append(f"the launcher stopped: {explain(broken) or f'{type(broken).__name__}: {broken}'}")
    again += " sweep.retry_failed=true" if failed and not unfinished else ""
    return f"{', '.join(parts) or 'the sweep stopped'}; to go on: {again}"


def launch(
    sweeper: Any, plan: Sequence[Planned], returned: list[Any] | None = None, fail_fast: bool = False
) -> list[Any]:
    """Hand the jobs to the launcher, at most ``max_batch_size`` at a time.

    Args:
        returned: what the jobs return is added to it as they end.
        fail_fast: after a batch with a failed job no other one is begun; without ``max_batch_size`` a batch is as many
            jobs as the launcher runs at once.
    """
    todo, returned = [p for p in plan if p.action in TO_START], [] if returned is None else returned
    size = sweeper.max_batch_size or (_at_once(sweeper) if fail_fast else len(todo))
    for start in range(0, len(todo), max(size, 1)):
        part = todo[start : start + size]
        # The launcher counts from what it is told; the folder keeps the number that the sweep's record has.
        batch = [[*p.job.overrides, f"hydra.sweep.subdir={quoted(p.place)}"] for p in part]
        done = sweeper.launcher.launch(batch, initial_job_idx=part[0].number)
        returned += done
        failed = any(isinstance(result._return_value, BaseException) for result in done)
        if fail_fast and shared(f"failed{start}", str(failed), os.environ) == "True":
            break
    return returned


def _at_once(sweeper: Any) -> int:
    """Jobs that the launcher runs beside each other."""
    n = sweeper.config.hydra.launcher.get("n_jobs", 1) or 1
    return n if n > 0 else os.cpu_count() or 1


def errors_of(plan: Sequence[Planned], returned: Sequence[Any]) -> dict[int, str]:
    """What each job has raised, by number: also that of a job that ended before it had a record; empty for none."""
    found = {}
    started = [p for p in plan if p.action in TO_START]
    for planned, result in zip(started, returned, strict=False):
        error = result._return_value  # the property would raise it
        is_error = isinstance(error, BaseException)
        found[planned.number] = f"{type(error).__name__}: {' '.join(str(error).split())}" if is_error else ""
    return found


def record_of(config: Any, folder: Path) -> SweepRecord:
    """The record of the sweep to go on with, or a new one.

    Raises:
        ArtifactError: the folder holds a sweep, but this one does not ask to go on with it.
    """
    if config.sweep.resume is not None:
        return SweepRecord.read(folder)
    if (folder / FILE).exists():
        raise ArtifactError(
            "a folder of its own for the sweep",
            got="one that holds a sweep",
            where=folder,
            repair=f"-m sweep.resume={folder}, or another ASTROMODAL_RUN_ID",
        )
    return SweepRecord(str(config.stage), str(config.run_id))


def _shared_plan(jobs: Sequence[Job], plan: Sequence[Planned]) -> list[Planned]:
    """The plan of the first process, in all that torchrun has started: another one may look when a job has begun."""
    told = shared("sweep", json.dumps([(p.number, p.action.value, p.place) for p in plan]), os.environ)
    return [
        Planned(job, number, Action(action), place)
        for job, (number, action, place) in zip(jobs, json.loads(told), strict=True)
    ]


def remembering(inputs_of: Any) -> Any:
    """``inputs_of``, asked once per set of places: the jobs of a sweep mostly read the same."""
    known: dict[tuple, Mapping[str, str]] = {}

    def remembered(job: Job) -> Mapping[str, str]:
        config = job.config
        key = (config.paths.store, config.paths.datacube_template, fingerprint_config(config.data))
        if key not in known:
            known[key] = inputs_of(job)
        return known[key]

    return remembered


def _say_plan(plan: Sequence[Planned], folder: Path) -> None:
    counts = {action: sum(p.action == action for p in plan) for action in Action}
    told = ", ".join(f"{n} {action.value}" for action, n in counts.items() if n)
    say(f"sweep of {len(plan)} jobs in {folder}: {told}")
