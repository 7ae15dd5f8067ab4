"""Reading a run directory: nothing but its own files, and a reason where these cannot be used.

A run directory is a folder with ``run.json``; one that has only what comes after it (``.hydra``, ``config.json``,
``metrics.jsonl``) was damaged or never begun, and is reported as such.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from types import NoneType
from typing import Any, TypeGuard

import numpy as np

from ..config.reading.older import migrated
from ..errors import ArtifactError, ArtifactMissingError
from ..files.io import load_npz, read_jsonl, read_mapping
from ..runs.run import in_use
from ..runs.tables import flatten
from ..training.callbacks.stopping import metric_mode

RECORD = "run.json"
OBJECT_ERRORS = "object_errors.npz"
_TRACES = (RECORD, "config.json", "metrics.jsonl", ".hydra")
_LARGEST = sys.float_info.max
_STATUS = {"DONE": "done", "FAILED": "failed", "INTERRUPTED": "killed"}


@dataclass(frozen=True)
class Skipped:
    """A run directory that cannot be used."""

    path: Path
    status: str  # half-written, or unreadable
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """What a run directory holds, checked for form.

    Attributes:
        record: ``run.json``.
        config: configuration, one level, dots between the names.
        records: lines of ``metrics.jsonl``.
        summary: ``summary.json``, one level, slashes between the names.
    """

    path: Path
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    records: list[dict[str, Any]] = field(repr=False)
    summary: Mapping[str, Any] = field(repr=False)
    status: str = "done"

    @property
    def stage(self) -> str:
        return str(self.record.get("stage"))

    @property
    def label(self) -> str:
        """``name/run_id`` and, in a sweep, the number of the job."""
        job = self.record.get("job")
        return f"{self.record.get('name')}/{self.record.get('run_id')}" + ("" if job is None else f"/{job}")

    @property
    def inputs(self) -> dict[str, str]:
        found = self.record.get("inputs")
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}

    @property
    def seed(self) -> Any:
        return self.record.get("seed", self.config.get("seed"))

    @cached_property
    def validations(self) -> list[dict[str, Any]]:
        """Records of validations, one per step (of two with the same step the later one counts), in order."""
        found: dict[float, dict[str, Any]] = {}
        for record in self.records:
            values = {key: value for key, value in record.items() if _is_validation(key) and _is_number(value)}
            if values and _is_number(record.get("step")):
                found.setdefault(record["step"], {"step": record["step"]}).update(values)
        return [found[step] for step in sorted(found)]

    @cached_property
    def final(self) -> dict[str, float]:
        """Metrics of the last validation."""
        return _without_step(self.validations[-1]) if self.validations else {}

    @cached_property
    def best_step(self) -> float | None:
        """The step whose weights the run kept: as it says itself, else the best of its ``training.monitor``."""
        if _is_number(self.summary.get("best_step")):
            return self.summary["best_step"]
        monitor = str(self.config.get("training.monitor"))
        known = [record for record in self.validations if monitor in record]
        if not known:
            return None
        mode = self.config.get("training.monitor_mode", "auto")
        mode = mode if mode in ("min", "max") else metric_mode(monitor)
        return (min if mode == "min" else max)(known, key=lambda record: record[monitor])["step"]

    @cached_property
    def best(self) -> dict[str, float]:
        """Metrics of the weights that the run kept: those of its best step, not each metric's own best."""
        at = next((record for record in self.validations if record["step"] == self.best_step), None)
        if at is not None:
            return _without_step(at)
        model = {k.removeprefix("model/"): v for k, v in self.summary.items() if k.startswith("model/")}
        return {f"val/{key}": value for key, value in model.items() if _is_number(value)}

    def metric(self, name: str) -> float | None:
        """The best figure of that name, else the one in the summary (stages without validations)."""
        value = self.best.get(name, self.summary.get(name))
        return float(value) if _is_number(value) else None

    def median_of(self, name: str) -> float | None:
        """Median over the records of a logged quantity, without its first (which warms up) where there are more."""
        values = [record[name] for record in self.records if _is_number(record.get(name))]
        return float(median(values[1:] or values)) if values else None

    @property
    def steps(self) -> float | None:
        if _is_number(self.summary.get("steps")):
            return self.summary["steps"]
        return max((record["step"] for record in self.records if _is_number(record.get("step"))), default=None)

    def recorded(self, prefix: str) -> dict[str, float]:
        """Figures of the run whose name begins so: of ``run.json``, the summary, or ``perf/`` (``peak_memory``, …)."""
        found: dict[str, float] = {}
        for source in (*self.records, self.summary, flatten(self.record)):
            for key, value in source.items():
                group, _, name = key.rpartition("/")
                if group in ("", "perf") and name.startswith(prefix) and _is_number(value):
                    found[name] = float(value)
        return found

    @cached_property
    def object_errors(self) -> dict[str, np.ndarray] | None:
        """Arrays of ``object_errors.npz``, in the order of ``object_index``; ``None`` where there are none to use."""
        try:
            arrays = load_npz(self.path / OBJECT_ERRORS)
        except (ArtifactError, OSError):
            return None
        index = arrays.get("object_index")
        if index is None or index.ndim != 1 or len(np.unique(index)) != len(index):
            return None
        order = np.argsort(index)
        kept = {k: a[order] for k, a in arrays.items() if a.shape == index.shape and a.dtype.kind in "iuf"}
        return kept if "ce" in kept else None


def _is_number(value: Any) -> TypeGuard[float]:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and -_LARGEST <= value <= _LARGEST  # an integer of a thousand digits is no float


def _is_validation(key: str) -> bool:
    return key.startswith("val/") or "/val/" in key


def _without_step(record: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in record.items() if key != "step"}


# --------------------------------------------------------------------------------------- finding, reading


def find_run_dirs(paths: Iterable[str | Path]) -> list[Path]:
    """Run directories at and below ``paths``, each once, sorted; what lies within one is not searched.

    Raises:
        ArtifactMissingError: a path that does not exist.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise ArtifactMissingError("a folder with runs", got="nothing", where=path, repair="runs/train_lm")
        for folder in _walk(path):
            found.setdefault(folder.resolve(), folder)
    return sorted(found.values(), key=str)


def _walk(path: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(path):
        if any(name in _TRACES for name in (*files, *inner)):
            inner.clear()
            yield Path(folder)
        inner[:] = sorted(name for name in inner if not name.startswith("."))


def read_run(path: str | Path, *, needs_metric: bool = True) -> Run | Skipped:
    """The run of a directory, or why it cannot be used; never an exception for what lies in the directory.

    Args:
        needs_metric: a finished run without a validation and without a summary cannot be used.
    """
    path = Path(path)
    if not (path / RECORD).is_file():
        return Skipped(path, "half-written", f"no {RECORD}")
    try:
        record, config = read_mapping(path / RECORD), read_mapping(path / "config.json")
        config = _flat_config(migrated(config, path / "config.json"))
        _check_form(record, config, path)
        records = read_jsonl(path / "metrics.jsonl") if (path / "metrics.jsonl").is_file() else []
        if not all(isinstance(line, dict) for line in records):
            raise ArtifactError("one JSON object per line", got="another value", where=path / "metrics.jsonl")
        summary = flatten(read_mapping(path / "summary.json")) if (path / "summary.json").is_file() else {}
    except ArtifactMissingError as error:
        return Skipped(path, "half-written", str(error))
    except (ArtifactError, OSError) as error:
        return Skipped(path, "unreadable", " ".join(str(error).split()))
    run = Run(path, record, config, records, summary, _status(path, record["status"]))
    if needs_metric and run.status == "done" and not run.best and not run.summary:
        return Skipped(path, "half-written", "done, but without a single metric")
    return run


_FORMS: dict[str, tuple[tuple[type, ...], str]] = {
    "text": ((str,), "run_id stage status"),
    "text or null": ((str, NoneType), "name job created started ended command sweep_id wandb_id wandb_mode"),
    "an integer or null": ((int, NoneType), "seed world_size"),
    "a number or null": ((int, float, NoneType), "seconds"),
    "an object or null": ((dict, NoneType), "inputs outputs git objective error"),
    "a list or null": ((list, NoneType), "attempts"),
}


def _check_form(record: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Refuse a record whose entries are of other types than a run writes.

    Raises:
        ArtifactError: naming the first.
    """
    found = {"seed": config.get("seed"), **record}
    for expected, (types, names) in _FORMS.items():
        for name in names.split():
            value = found.get(name)
            if not isinstance(value, types) or isinstance(value, bool):
                raise ArtifactError(f"{expected} for {name}", got=repr(value)[:80], where=path / RECORD)
    score = (record.get("objective") or {}).get("name")
    if not isinstance(score, (str, NoneType)):
        raise ArtifactError("text for objective.name", got=repr(score)[:80], where=path / RECORD)


def _flat_config(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping) and bool(value)
        flat |= _flat_config(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _status(path: Path, recorded: str) -> str:
    """``done``, ``failed``, ``killed``, or ``running``: a run that does not say how it ended but holds its lock."""
    if recorded in _STATUS:
        return _STATUS[recorded]
    return "running" if in_use(path) else "killed"
