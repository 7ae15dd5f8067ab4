"""What is to be done with each job of a sweep: run it, go on with it, or leave it as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..files.io import read_json
from ..runs.run import in_use
from .jobs import Job
from .record import SweepRecord


class Action(StrEnum):
    """Decided before anything is started."""

    run = "run"
    resume = "resume"  # its folder holds an attempt that has not ended
    done = "done before"
    failed = "failed before"
    busy = "running elsewhere"
    duplicate = "duplicate"  # of an earlier job of the same sweep


TO_START = (Action.run, Action.resume)


@dataclass
class Planned:
    """A job, the number of its folder, and what is to be done with it."""

    job: Job
    number: int
    action: Action
    place: str  # name of its folder within the sweep's
    note: str = ""


def run_record(folder: Path) -> dict[str, Any]:
    """``run.json`` of a folder; empty where there is none, or a damaged one."""
    try:
        record = read_json(folder / "run.json")
    except ArtifactError:
        return {}
    return record if isinstance(record, dict) else {}


def same_inputs(record: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether a run has read what it would read now; one that has not come to read anything has."""
    read = record.get("inputs") or {}
    return all(read.get(name, fingerprint) == fingerprint for name, fingerprint in inputs.items())


def state_of(folder: Path, inputs: Mapping[str, str], retry_failed: bool) -> Action | None:
    """What to do with the job of a folder; None if it belongs to inputs that are no longer there."""
    record = run_record(folder)
    if not record:
        return Action.run
    if in_use(folder):
        return Action.busy
    if not same_inputs(record, inputs):
        return None
    if record.get("status") == "DONE":
        return Action.done
    if record.get("status") == "FAILED" and not retry_failed:
        return Action.failed
    return Action.resume


def make_plan(
    jobs: Sequence[Job],
    record: SweepRecord,
    folder: Path,
    inputs_of: Callable[[Job], Mapping[str, str]],
    retry_failed: bool = False,
) -> list[Planned]:
    """Decide for each job; new ones are entered in ``record``.

    A job is known by its configuration and inputs: one whose inputs have changed since gets a folder of its own, and
    no two jobs ever get the same one.
    """
    plan: list[Planned] = []
    first: dict[str, Planned] = {}
    for job in jobs:
        if job.fingerprint in first:
            twin = first[job.fingerprint]
            plan.append(Planned(job, twin.number, Action.duplicate, twin.place, f"of job {twin.number}"))
            continue
        planned = None
        known = record.numbers(job.fingerprint)
        for number in known:
            place = record.place(number)
            action = state_of(folder / place, inputs_of(job), retry_failed)
            if action is not None:
                planned = Planned(job, number, action, place)
                break
        if planned is None:
            number, note = record.next_number(), "its inputs have changed" if known else ""
            planned = Planned(job, number, Action.run, record.add(number, job.swept, job.fingerprint, job.folder), note)
        first[job.fingerprint] = planned
        plan.append(planned)
    return plan
