"""The end of a sweep as text: each job with status, objective and time; then what has failed, with the traceback."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import errors
from ..files.text_table import table
from ..machine.program import program
from ..runs.progress import format_seconds
from ..runs.run import in_use
from .plan import Action, Planned, run_record

_OURS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, ValueError)}
_ENDED = {"DONE": "done", "FAILED": "failed", "INTERRUPTED": "interrupted", "RUNNING": "interrupted"}


@dataclass(frozen=True)
class Outcome:
    """How one job stands at the end of the command."""

    number: int
    status: str
    label: str
    objective: tuple[str, float] | None  # name and value of what the sweep is compared by
    seconds: float | None
    error: str = ""  # one line
    trace: str = ""  # of errors that are not the user's to repair
    note: str = ""


def outcome_of(planned: Planned, folder: Path, raised: str | None = None) -> Outcome:
    """Read from the job's folder; ``raised`` (empty: nothing) stands in where a job has left no record."""
    place = folder / planned.place
    record = run_record(place)
    status = planned.action.value
    if planned.action in (Action.run, Action.resume):
        status = _ENDED.get(str(record.get("status")), "not run")
        if status == "interrupted" and in_use(place):
            status = Action.busy.value
        if status == "not run" and raised is not None:
            status = "failed" if raised else "done"
    error = record.get("error") or {} if status in ("failed", Action.failed.value) else {}
    line = f"{error['type']}: {error.get('message', '')}" if error.get("type") else (raised or "")
    ended = status in ("done", Action.done.value)
    return Outcome(
        planned.number,
        status,
        planned.job.label,
        objective_of(record) if ended else None,
        None if status == Action.duplicate.value else record.get("seconds"),
        error=" ".join(line.split()) if "failed" in status else "",
        trace=error.get("traceback", "") if error.get("type") not in _OURS else "",
        note=planned.note,
    )


def objective_of(record: Mapping[str, Any]) -> tuple[str, float] | None:
    """As a finished run has written it down; None where it has none, or no number."""
    found = record.get("objective") or {}
    value = found.get("value")
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return str(found.get("name")), float(value)


def sweep_table(outcomes: Sequence[Outcome], folder: Path, again: str) -> str:
    """Table, errors and the command that compares the runs."""
    names = list(dict.fromkeys(o.objective[0] for o in outcomes if o.objective)) or ["objective"]
    header, rows = ("job", "status", " or ".join(names), "time", "swept"), []
    for o in outcomes:
        score = "" if o.objective is None else f"{o.objective[1]:.4f}"
        time = "" if o.seconds is None else format_seconds(o.seconds)
        number = "" if o.status == Action.duplicate.value else o.number
        rows.append((number, o.status, score, time, f"{o.label}{f'  ({o.note})' if o.note else ''}"))
    lines = ["", table(header, rows, n_left=len(header)), ""]
    for o in (o for o in outcomes if o.error):
        lines.append(f"job {o.number} ({o.label}) {o.status}: {o.error}")
        lines += [f"    {line}" for line in o.trace.rstrip().splitlines()]
    states = [o.status for o in outcomes]
    lines.append(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    if any(state in ("interrupted", "not run") for state in states):
        lines.append(f"to go on: {again}")
    if any("done" in state for state in states):
        lines.append(f"compare: {program()} compare {folder}")
    return "\n".join(lines)
