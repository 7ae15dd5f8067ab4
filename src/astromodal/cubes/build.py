"""Datacubes, field by field: several at once, a finished one kept, and a report of what was lost on the way.

The manifest beside the datacubes says of each field what it was made of (fingerprints of the configuration, of the
rows of all tables that go into it, and of the images and spectra that it needs). A field of which all that is the
same, and whose file is whole, is not built again; one that was being written when the process was killed is not there.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactMissingError, DataError
from ..files.io import FileLock
from ..parallel.each import each
from ..provenance.manifest import changed_files, fingerprint_file, merge_manifest, read_manifest, update_manifest
from .field import FORMAT, Job, Survey, build_field
from .prepare import prepare
from .report import total

if TYPE_CHECKING:
    from ..config.schema import CubesConfig, DataConfig, WorkersConfig

_STAGING = ".building-"


def build_survey(
    data: DataConfig,
    cubes: CubesConfig,
    template: str,
    *,
    workers: WorkersConfig | None = None,
    log: logging.Logger | None = None,
    progress: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Build all datacubes that are not up to date.

    Args:
        data: what a datacube looks like; ``data.fields`` chooses some of the fields.
        cubes: what it is made of.
        template: path of a datacube, with ``{field}``.
        workers: who builds; default: this process, one field after the other.

    Returns:
        A dict::

            {"fields": {field: {"rows", "counts", "fingerprint", …}}, "built": [names], "up_to_date": [names], "rows",
             "seconds", "inputs": {input: counts}, "samples": [for the plot], "tiles": {band: [tile]}}

    Raises:
        UserError: an input is not usable; fields that were done before stay as they are.
    """
    log, started = log or logging.getLogger(__name__), time.perf_counter()
    folder = _folder(template)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".building"), _staging(folder) as staging:
        survey, fields, inputs = prepare(data, cubes, staging, log)
        jobs = _jobs(fields, data, cubes, template, folder, log)
        log.info("%d fields, %d objects", len(jobs), sum(job.last - job.first for job in jobs))
        results: dict[str, dict[str, Any]] = {}
        bar = progress(sum(job.last - job.first for job in jobs), "building", unit="object") if progress else None
        try:
            shared_out = each(_build, jobs, workers, shared=(survey,), named=_named, done="built")
            for job, result in shared_out:
                results[job.field] = _record(folder, job, result)
                _say(log, job.field, results[job.field])
                if bar is not None:
                    bar.update(result["rows"])
        finally:
            if bar is not None and hasattr(bar, "close"):
                bar.close()
            merge_manifest(folder)
        return {
            "fields": {job.field: results[job.field]["summary"] for job in jobs},
            "built": sorted(name for name, r in results.items() if r["built"]),
            "up_to_date": sorted(name for name, r in results.items() if not r["built"]),
            "rows": sum(r["rows"] for r in results.values()),
            "inputs": total(inputs, [results[job.field] for job in jobs]),
            "samples": [results[job.field]["sample"] for job in jobs],
            "tiles": survey.tiles,
            "seconds": time.perf_counter() - started,
        }


def _build(job: Job, survey: Survey) -> dict[str, Any]:
    return build_field(survey, job)


def _named(job: Job) -> str:
    return f"field {job.field}"


def _folder(template: str) -> Path:
    if "{field}" not in template:
        raise DataError("a path with {field}", got=template, where="paths.datacube_template")
    return Path(template.split("{field}")[0] + "x").parent


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder for what is needed until the end; those of processes that were killed are removed."""
    for old in folder.glob(f"{_STAGING}*"):
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _jobs(
    fields: Sequence[tuple[str, int, int]],
    data: DataConfig,
    cubes: CubesConfig,
    template: str,
    folder: Path,
    log: logging.Logger,
) -> list[Job]:
    """What there is to do, with what is known of datacubes that are there and whole.

    Raises:
        DataError: a datacube that is none of ours, or of another division of the sky, would be lost, or read too.
    """
    try:
        entries = dict(read_manifest(folder).get("entries", {}))
    except ArtifactMissingError:
        entries = {}
    names = {name for name, _, _ in fields}
    if data.fields is not None:
        for name in data.fields:
            if name not in names:
                raise DataError(
                    "data.fields of fields that the catalogue has",
                    got=name,
                    where="data.fields",
                    repair=f"such as {sorted(names)[0]}",
                )
    others = sorted(name for name in set(entries) - names if Path(template.replace("{field}", name)).is_file())
    if others:
        raise DataError(
            "no datacubes of fields that the catalogue does not have",
            got=", ".join(others[:3]),
            where=folder,
            repair="remove them, or write to another folder: data.root=…",
        )
    jobs = []
    for name, first, last in fields:
        if data.fields is not None and name not in data.fields:
            continue
        path = Path(template.replace("{field}", name))
        entry = entries.get(name)
        if path.is_file() and entry is None and not cubes.overwrite:
            raise DataError(
                f"no datacube of field {name} that was not built here",
                got="one",
                where=path,
                repair="write to another folder: data.root=…, or cubes.overwrite=true",
            )
        if entry is not None and not cubes.overwrite:
            changed = not path.is_file() or changed_files(folder, entry["files"], remember=True)
            if changed and path.is_file():
                log.warning("field %s is built again: %s is not what was written", name, path.name)
            entry = None if changed else entry
        jobs.append(Job(name, first, last, path, None if cubes.overwrite else entry))
    return jobs


def _record(folder: Path, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """Enter a field that was built into the manifest; adds its summary to the result."""
    if job.known is not None and not result["built"]:
        return result | {"summary": job.known["summary"]}
    fingerprint = fingerprint_file(job.path)
    summary = {
        "rows": result["rows"],
        "counts": result["counts"],
        "fingerprint": fingerprint,
        "bytes": job.path.stat().st_size,
        "seconds": round(result["seconds"], 3),
    }
    update_manifest(
        folder,
        job.field,
        {
            "format": FORMAT,
            "inputs": result["inputs"],
            "summary": summary,
            "files": {job.path.relative_to(folder).as_posix(): fingerprint},
        },
    )
    return result | {"summary": summary}


def _say(log: logging.Logger, field: str, result: dict[str, Any]) -> None:
    if not result["built"]:
        log.info("field %s: %d objects, up to date", field, result["rows"])
        return
    found = ", ".join(
        f"{key} {counts.get('found', counts.get('matched'))}"
        for key, counts in result["counts"].items()
        if "found" in counts or "matched" in counts
    )
    log.info(
        "field %s: %d objects in %.1f s%s", field, result["rows"], result["seconds"], f"; {found}" if found else ""
    )
