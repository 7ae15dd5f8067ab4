"""The end of a sweep as text: each job with its status, score and time; then what has failed, with the traceback."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import errors
from ..core.io import read_json
from ..core.progress import format_seconds
from ..core.runs import in_use
from ..core.text_table import table
from ..errors import ArtifactError
from .plan import Action, Planned, run_record

_OURS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, ValueError)}
_ENDED = {"DONE": "done", "FAILED": "failed", "INTERRUPTED": "interrupted", "RUNNING": "interrupted"}


@dataclass(frozen=True)
class Outcome:
    """How one job stands at the end of the command."""

    number: int
    status: str
    label: str
    score: float | None
    seconds: float | None
    error: str = ""  # one line
    trace: str = ""  # of errors that are not the user's to repair
    note: str = ""


def outcome_of(planned: Planned, folder: Path, raised: str | None = None) -> Outcome:
    """Read from the job's folder; ``raised`` (empty: nothing) stands in where a job has left no record."""
    place = folder / str(planned.number)
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
        planned.number, status, planned.job.label, _score(place) if ended else None,
        None if status == Action.duplicate.value else record.get("seconds"),
        error=" ".join(line.split()) if "failed" in status else "",
        trace=error.get("traceback", "") if error.get("type") not in _OURS else "",
        note=planned.note,
    )  # fmt: skip


def _score(folder: Path) -> float | None:
    """``val/score`` of a finished training run."""
    try:
        score = read_json(folder / "summary.json")["model"]["score"]
    except (ArtifactError, KeyError, TypeError):
        return None
    return float(score) if isinstance(score, (int, float)) and math.isfinite(score) else None


def sweep_table(outcomes: Sequence[Outcome], folder: Path, again: str) -> str:
    """Table, errors and the command that compares the runs."""
    header, rows = ("job", "status", "val/score", "time", "swept"), []
    for o in outcomes:
        score = "" if o.score is None else f"{o.score:.4f}"
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
        lines.append(f"compare: python -m astromodal.report {folder}")
    return "\n".join(lines)
