"""``-m … preview=true``: what each job of a sweep would cost, which are done already, and the sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..files.text_table import say, table
from ..language_model.preview import COLUMNS, cost_row, preview_jobs
from ..runs.progress import format_seconds
from .jobs import Job
from .plan import TO_START, make_plan, run_record, same_inputs
from .record import SweepRecord


def preview_sweep(jobs: Sequence[Job], folder: Path, inputs_of: Callable[[Job], Mapping[str, str]]) -> None:
    """Print the table; nothing is started and nothing written."""
    first = jobs[0].config
    resumed = first.sweep.resume is not None
    record = SweepRecord.read(folder) if resumed else SweepRecord(str(first.stage), str(first.run_id))
    plan = make_plan(jobs, record, folder, inputs_of, first.sweep.retry_failed)
    finished = finished_runs(Path(first.paths.runs) / str(first.stage))
    todo = [p for p in plan if p.action in TO_START]
    header = ("job", *COLUMNS, "swept")
    rows: list[tuple[str, ...]] = []
    seconds = tokens = 0.0
    twins = 0
    costs = dict(zip((p.number for p in todo), preview_jobs([p.job.config for p in todo]), strict=True))
    for p in plan:
        note = "" if p.action in TO_START else f"{p.action.value} {p.note}".strip()
        cells: tuple[str, ...] = ("",) * len(COLUMNS)
        if p.action in TO_START:
            training: Any = OmegaConf.to_object(p.job.config.training)
            cost = costs[p.number]
            cells = cost_row(cost, training)
            seconds, tokens = seconds + cost.seconds(training), tokens + cost.n_tokens(training)
            twin = _twin(finished.get(p.job.fingerprint, ()), inputs_of(p.job))
            if twin is not None:
                twins, note = twins + 1, f"the same as the finished run {twin}"
        rows.append((str(p.number), *cells, p.job.label + (f"  ({note})" if note else "")))
    device = next((cost.device for cost in costs.values()), "")
    say(f"\n{table(header, rows, n_left=len(header))}\n")
    say(f"{len(todo)} jobs to run, {len(plan) - len(todo)} not, {twins} the same as finished runs")
    say(
        f"{tokens:.3g} tokens, {format_seconds(seconds)} one after the other on {device or 'nothing'}; "
        "nothing was started"
    )


def finished_runs(root: Path) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
    """Finished runs below ``runs/<stage>`` by the fingerprint of their configuration."""
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path in (p for depth in (2, 3) for p in sorted(root.glob("*/" * depth + "run.json"))):
        record = run_record(path.parent)
        if record.get("status") == "DONE" and record.get("config_fingerprint"):
            found.setdefault(record["config_fingerprint"], []).append((path.parent, record))
    return found


def _twin(candidates: Iterable[tuple[Path, dict[str, Any]]], inputs: Mapping[str, str]) -> Path | None:
    """A finished run that has read the same."""
    return next((path for path, record in candidates if same_inputs(record, inputs)), None)
