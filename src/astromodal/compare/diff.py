"""What differs between two runs: configuration, inputs, code, packages, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, ArtifactMissingError
from ..files.text_table import table
from ..metrics.bootstrap import paired_bootstrap
from ..vocabulary.modalities import MODALITIES
from .cohorts import compared_inputs
from .rundir import RECORD, Run, Skipped, read_run
from .runs_table import as_text, total_seconds

MAX_VALUE = 60  # characters of a value


def open_run(path: Path) -> Run:
    """The run of a directory.

    Raises:
        ArtifactMissingError: there is none.
        ArtifactError: it cannot be used.
    """
    if not (path / RECORD).is_file():
        what = f"no {RECORD}" if path.is_dir() else "nothing"
        raise ArtifactMissingError("a run directory", got=what, where=path, repair="runs/<stage>/<name>/<run_id>")
    run = read_run(path)
    if isinstance(run, Skipped):
        raise ArtifactError("a whole run directory", got=run.reason, where=path)
    return run


def diff_text(path_a: Path, path_b: Path) -> str:
    """Everything that differs, as text.

    Raises:
        ArtifactMissingError, ArtifactError: see :func:`open_run`.
    """
    a, b = open_run(path_a), open_run(path_b)
    same_inputs = compared_inputs(a) == compared_inputs(b) and a.stage == b.stage
    parts = [f"A: {path_a} ({a.stage}, {a.status})\nB: {path_b} ({b.stage}, {b.status})"]
    for title, mine, theirs in (
        ("configuration", _without_names(a), _without_names(b)),
        ("inputs (fingerprints)", a.inputs, b.inputs),
        ("code", code(a), code(b)),
    ):
        rows = differing(mine, theirs)
        parts.append(f"{title}: no difference" if not rows else f"{title}:\n{table(('', 'A', 'B'), rows)}")
    rows = metric_rows(a, b)
    comparable = "" if same_inputs else " (NOT comparable: judged on different data or tokens)"
    heading = ("", "best A", "best B", "B - A", "final A", "final B", "B - A")
    parts.append(f"metrics{comparable}:\n{table(heading, rows)}" if rows else "metrics: none in common")
    parts.append(_by_object(a, b) if same_inputs else "")
    return "\n\n".join(part for part in parts if part)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key and both values wherever these differ; ``(none)`` for a key that one side lacks.

    >>> differing({"x": 1, "y": None}, {"x": 1.5, "z": "a"})
    [('x', '1', '1.5'), ('y', 'null', '(none)'), ('z', '(none)', '"a"')]
    """
    keys = list(dict.fromkeys((*a, *b)))
    texts = [(key, *(as_text(side[key]) if key in side else "(none)" for side in (a, b))) for key in keys]
    return [(key, _short(x), _short(y)) for key, x, y in texts if x != y]


def _short(text: str) -> str:
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"


def _without_names(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key not in ("run_id", "run_dir")}


def code(run: Run) -> dict[str, Any]:
    """Revision, uncommitted changes, versions of the packages, number of processes."""
    git, versions = run.record.get("git"), run.record.get("versions")
    git, versions = (value if isinstance(value, Mapping) else {} for value in (git, versions))
    return {
        "git revision": git.get("revision"),
        "git dirty": git.get("dirty"),
        **versions,
        "processes": run.record.get("world_size"),
    }


def metric_rows(a: Run, b: Run) -> list[tuple[Any, ...]]:
    """Best and final figures of both runs with their differences; those of the summary where there are no others."""
    names = sorted((name for name in a.best if name in b.best), key=_headlines_first)
    rows: list[tuple[Any, ...]] = []
    for name in names:
        finals = (a.final.get(name), b.final.get(name))
        rows.append((name, *_pair(a.best[name], b.best[name]), *_pair(*finals)))
    if not names:
        common = [key for key in a.summary if a.metric(key) is not None and b.metric(key) is not None]
        rows = [(name, *_pair(a.metric(name), b.metric(name)), None, None, None) for name in common]
    rows += [
        (name, *_pair(x, y), None, None, None)
        for name, x, y in (
            ("best step", a.best_step, b.best_step),
            ("steps", a.steps, b.steps),
            ("seconds", total_seconds(a), total_seconds(b)),
            ("ms per step", a.median_of("perf/step_ms"), b.median_of("perf/step_ms")),
        )
        if x is not None or y is not None
    ]
    return rows


def _headlines_first(name: str) -> tuple[int, str]:
    heads = ("val/score", "val/ce", *(f"val/error_{modality}" for modality in MODALITIES))
    return heads.index(name) if name in heads else len(heads), name


def _pair(x: float | None, y: float | None) -> tuple[float | None, float | None, float | None]:
    return x, y, None if x is None or y is None else float(y - x)


def _by_object(a: Run, b: Run) -> str:
    """Paired bootstrap of the errors of the same objects, where both runs have them."""
    import numpy as np

    mine, theirs = a.object_errors, b.object_errors
    if mine is None or theirs is None:
        return "objects: object_errors.npz is not in both runs, so nothing is said about the noise of the held-out sky"
    _, i, j = np.intersect1d(mine["object_index"], theirs["object_index"], assume_unique=True, return_indices=True)
    rows: list[tuple[Any, ...]] = []
    for name in (key for key in mine if key in theirs and (key == "ce" or key.startswith("error_"))):
        x, y = theirs[name][j], mine[name][i]
        if np.isfinite(x - y).any():
            found = paired_bootstrap(x, y)
            verdict = "differs" if found.excludes_zero else "no difference"
            rows.append((name, found.difference, found.low, found.high, found.n_objects, verdict))
    if not rows:
        return "objects: none in common"
    return f"by object, B - A (95 %):\n{table(('', 'mean', 'low', 'high', 'objects', ''), rows)}"
