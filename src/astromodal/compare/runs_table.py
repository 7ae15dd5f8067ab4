"""The runs table: one row per run directory, with everything that tells runs apart and everything they achieved.

Files: ``runs.csv`` for people and spreadsheets, ``runs.parquet`` with the same columns and types.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.spreadsheets import write_tables
from .rundir import Run, Skipped, find_run_dirs, read_run

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("run_id", "run_dir", "name", "stage", "seed")  # columns of their own, or different in every run
PLACES = ("resume", "tokenizer_id", "paths.", "tracking.", "data.root")  # change where a run stands, not what it does


@dataclass(frozen=True)
class RunsTable:
    """Runs that can be used and directories that cannot."""

    runs: list[Run]
    skipped: list[Skipped]

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per directory; those that cannot be used have a path, a status and a reason."""
        keys = differing_keys(self.runs, places=True)
        rows = [run_row(run, keys) for run in self.runs]
        return rows + [{"path": str(s.path), "status": s.status, "reason": s.reason} for s in self.skipped]

    def table(self) -> pa.Table:
        """:meth:`rows` with typed columns: numbers where all values are, else text (JSON for lists and mixtures)."""
        import pyarrow as pa

        rows = self.rows()
        names = [name for name, _ in _FIXED] + sorted({k for row in rows for k in row} - {name for name, _ in _FIXED})
        types = dict(_FIXED)
        columns = {}
        for name in sorted(names, key=_place):
            values = [row.get(name) for row in rows]
            columns[name] = pa.array(*_typed(values, types.get(name)))
        return pa.table(columns)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """``runs.csv`` and ``runs.parquet``, each written atomically."""
        return write_tables(self.table(), folder / "runs")


def read_runs_table(paths: Iterable[str | Path], stage: str | None = None) -> RunsTable:
    """Every run directory at and below ``paths``.

    Args:
        stage: leave out runs of other stages (directories that cannot be read stay).

    Raises:
        ArtifactMissingError: a path that does not exist.
    """
    found = [_usable(read_run(path)) for path in find_run_dirs(paths)]
    runs = [entry for entry in found if isinstance(entry, Run) and stage in (None, entry.stage)]
    return RunsTable(runs, [entry for entry in found if isinstance(entry, Skipped)])


def _usable(entry: Run | Skipped) -> Run | Skipped:
    """A run of which a row can be made: whatever else its files hold, it must not end the comparison of the others."""
    if isinstance(entry, Run):
        try:
            run_row(entry, list(entry.config))
        except Exception as error:
            return Skipped(entry.path, "unreadable", f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
    return entry


def differing_keys(runs: Sequence[Run], *, places: bool = False) -> list[str]:
    """Configuration keys that have several values among ``runs``; without ``places`` only those that decide a result.

    The order is that of the configuration.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config)
    wanted = [key for key in keys if key not in NAMES and (places or not key.startswith(PLACES))]
    return [key for key in wanted if len({as_text(run.config.get(key)) for run in runs}) > 1]


def as_text(value: Any) -> str:
    """A configuration value as one line of JSON, which tells ``"1"`` from ``1``."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------ rows

_FIXED = (
    ("path", str),
    ("run_id", str),
    ("name", str),
    ("job", str),
    ("stage", str),
    ("status", str),
    ("reason", str),
    ("created", str),
    ("seed", int),
    ("git_revision", str),
    ("git_dirty", bool),
    ("steps", int),
    ("best_step", int),
    ("seconds", float),
    ("ms_per_step", float),
    ("world_size", int),
)
_GROUPS = ("input.", "config.", "peak_memory", "energy", "best/", "final/", "summary/", "grad_share/")


def _place(name: str) -> tuple[int, int]:
    """Where a column stands: the fixed ones, then the groups."""
    fixed = [key for key, _ in _FIXED]
    if name in fixed:
        return 0, fixed.index(name)
    return 1 + next((i for i, prefix in enumerate(_GROUPS) if name.startswith(prefix)), len(_GROUPS)), 0


def run_row(run: Run, keys: Sequence[str]) -> dict[str, Any]:
    """The row of one run, with these configuration keys."""
    record, git = run.record, run.record.get("git")
    git = git if isinstance(git, Mapping) else {}
    row: dict[str, Any] = {
        "path": str(run.path),
        "status": run.status,
        "reason": _reason(record.get("error")) if run.status in ("failed", "killed") else None,
        "git_revision": git.get("revision"),
        "git_dirty": git.get("dirty"),
        "seed": run.seed,
        "steps": run.steps,
        "best_step": run.best_step,
        "seconds": total_seconds(run),
        "ms_per_step": run.median_of("perf/step_ms"),
    }
    row |= {key: record.get(key) for key in ("run_id", "name", "job", "stage", "created", "world_size")}
    row |= {f"input.{name}": value for name, value in run.inputs.items()}
    row |= {f"config.{key}": run.config.get(key) for key in keys}
    row |= run.recorded("peak_memory") | run.recorded("energy")
    row |= {f"best/{key}": value for key, value in run.best.items()}
    row |= {f"final/{key}": value for key, value in run.final.items()}
    if not run.best:
        row |= {f"summary/{key}": value for key, value in run.summary.items() if isinstance(value, int | float)}
    return row | {key: run.median_of(key) for record in run.records for key in record if key.startswith("grad_share/")}


def total_seconds(run: Run) -> float | None:
    """Seconds of all attempts of a run that was resumed."""
    attempts = run.record.get("attempts")
    attempts = attempts if isinstance(attempts, list) else []
    parts = [part.get("seconds") for part in (*attempts, run.record) if isinstance(part, Mapping)]
    known = [part for part in parts if isinstance(part, int | float)]
    return float(sum(known)) if known else None


def _reason(error: Any) -> str | None:
    if not isinstance(error, Mapping):
        return None
    return " ".join(f"{error.get('type')}: {error.get('message')}".split())[:500]


def _typed(values: list[Any], wanted: type | None) -> tuple[list[Any], Any]:
    """Values of one type, and its Arrow type."""
    import pyarrow as pa

    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    for kind, arrow in ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64())):
        allowed = {int, float} if kind is float else {kind}
        if (kinds and kinds <= allowed) or (not kinds and wanted is kind):
            fits = kind is bool or all(-(2**63) <= value < 2**63 or isinstance(value, float) for value in known)
            if fits:
                return [None if value is None else kind(value) for value in values], arrow
    return [None if v is None else v if isinstance(v, str) else as_text(v) for v in values], pa.string()
