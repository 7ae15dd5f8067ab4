"""Encode every object of the datacubes: field by field, batch by batch, into the files of :mod:`.store`.

Memory is bounded by one batch of ``data.batch_rows`` objects. A field is done when its manifest entry says so; it is
encoded again only if the cube, a tokenizer, the data configuration or its split changed. Fields are independent, so
several processes may work on different ones, and a failure in one leaves the others whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import errors
from ..data.findings import Findings, damage
from ..errors import ArtifactError, ArtifactMissingError, DataError, UserError
from ..parallel.workers import worker_pool
from ..provenance.manifest import fingerprint_arrays, fingerprint_config, fingerprint_file
from ..tokenizers.base import plain
from ..vocabulary.modalities import MODALITIES
from .field import encode_field
from .store import tokenizer_fingerprints
from .up_to_date import forget, known_fields, up_to_date

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..data.datacube import Datacube
    from ..runs.run import RunContext


class _NoBar:
    """A bar that nobody sees."""

    def update(self, n: int = 1, **values: Any) -> None: ...

    def close(self) -> None: ...


def encode_survey(
    cubes: Sequence[Datacube],
    tokenizers: Any,
    splits: Mapping[str, np.ndarray],
    data: DataConfig,
    store_root: str | Path,
    *,
    n_processes: int = 1,
    overwrite: bool = False,
    run: RunContext | None = None,
    log: logging.Logger | None = None,
    progress: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Encode all fields that are not up to date.

    Args:
        tokenizers: a ``TokenizerSet``; what it lacks is not encoded.
        splits: field → split of each row (n,) uint8, as ``data.splits`` assigns it.
        overwrite: encode fields again that are up to date.
        run: supplies ``log`` and ``progress``, unless they are given.

    Returns:
        ``{"fields": {field: summary}, "encoded": [names], "up_to_date": [names], "rows", "seconds", "bytes", "found",
        "warnings"}``.
        A field's summary has ``rows``, ``present`` (per part), ``found`` (:meth:`~.findings.Findings.field`),
        ``seconds`` and ``bytes``; ``found`` and ``warnings`` of all fields are those of :class:`~.findings.Findings`.

    Raises:
        ArtifactError: a cube changed since a tokenizer was fitted, or the layout differs (before anything is written).
        UserError: encoding of a field failed; fields that were done stay.
    """
    log = log or (run.log if run is not None else logging.getLogger(__name__))
    progress = progress or (run.progress if run is not None else lambda total, description: _NoBar())
    started = time.perf_counter()
    if not tokenizers:
        raise ArtifactMissingError("at least one fitted tokenizer", got="none", repair="run python train_tokenizers.py")
    _check_stages(tokenizers.image)
    for part in tokenizers.values():
        part.check(data, cubes)
    _check_splits(cubes, splits)
    folder = Path(store_root) / "tokens"
    wanted = {cube.field: field_inputs(cube, tokenizers, splits[cube.field], data) for cube in cubes}
    entries = known_fields(folder, log)
    done = {} if overwrite else up_to_date(folder, entries, wanted, log)
    todo = [cube for cube in cubes if cube.field not in done]
    if done:
        log.info("%d of %d fields are up to date: %s", len(done), len(cubes), ", ".join(sorted(done)))
    jobs = [_Job(cube, splits[cube.field], wanted[cube.field]) for cube in todo]
    others = set(entries) - set(wanted) if data.fields is None else set()

    def ended(field: str, summary: Mapping[str, Any]) -> None:
        forget(folder, others, log)  # not before something took their place: a failure changes nothing
        _say(log, field, summary)

    bar = progress(sum(cube.n_rows for cube in todo), "encoding")
    try:
        if n_processes > 1 and len(jobs) > 1:
            summaries = _in_processes(jobs, tokenizers, data, folder, min(n_processes, len(jobs)), ended, bar)
        else:
            summaries = _in_this_process(jobs, tokenizers, data, folder, ended, bar)
    finally:
        if hasattr(bar, "close"):
            bar.close()
    forget(folder, others, log)
    fields = {cube.field: summaries.get(cube.field) or done[cube.field] for cube in cubes}
    findings = Findings()
    for field, summary in fields.items():
        findings.add_field(field, summary["found"])
    for line in findings.warnings():
        log.warning("%s", line)
    return {
        "fields": fields,
        "encoded": sorted(summaries),
        "up_to_date": sorted(done),
        "rows": sum(summary["rows"] for summary in fields.values()),
        "bytes": sum(summary["bytes"] for summary in fields.values()),
        "seconds": time.perf_counter() - started,
        "found": findings.totals(),
        "warnings": findings.warnings(),
    }


def field_inputs(cube: Datacube, tokenizers: Any, split: np.ndarray, data: DataConfig) -> dict[str, str]:
    """Fingerprints of everything that a field's token files depend on."""
    images = data.images
    meaning = {name: plain(getattr(data, name)) for name in ("id_column", "scalars", "spectra", "images")}
    outside = [MODALITIES[name].section for name in MODALITIES.outside() if name in tokenizers]
    meaning |= {section: plain(getattr(data, section)) for section in outside}
    inputs = {
        "cube": cube.fingerprint(),
        **tokenizer_fingerprints(tokenizers),
        "splits": fingerprint_arrays({"split": np.asarray(split, np.uint8)}),
        "data": fingerprint_config(meaning),
    }
    if images is not None and images.zero_point_file:
        inputs["zero_points"] = fingerprint_file(images.zero_point_file)
    return inputs


def _check_stages(image: Any) -> None:
    """Token files and vocabulary have one code per position of the image grid."""
    n_stages = 1 if image is None else getattr(image, "n_stages", 1)
    if n_stages > 1:
        raise ArtifactError(
            "an image tokenizer with one code per position",
            got=f"one with {n_stages} stages, which sequences cannot hold",
            repair="run python train_tokenizers.py tokenizer=image tokenizer/image/quantizer=kmeans (or fsq)",
        )


def _check_splits(cubes: Sequence[Datacube], splits: Mapping[str, np.ndarray]) -> None:
    for cube in cubes:
        n = len(splits[cube.field]) if cube.field in splits else None
        if n != cube.n_rows:
            raise DataError(f"a split for each of {cube.n_rows} rows", got=n, where=f"field {cube.field}")


# ------------------------------------------------------------------------------------- processes


class _Job:
    """One field to be encoded."""

    def __init__(self, cube: Datacube, split: np.ndarray, inputs: dict[str, str]) -> None:
        self.cube, self.split, self.inputs = cube, np.asarray(split, np.uint8), inputs
        self.field = cube.field


def _in_this_process(
    jobs: list[_Job],
    tokenizers: Any,
    data: DataConfig,
    folder: Path,
    ended: Callable[[str, Any], None],
    bar: Any,
) -> dict[str, dict[str, Any]]:
    summaries: dict[str, dict[str, Any]] = {}
    for job in jobs:
        try:
            summary = encode_field(job.cube, job.split, job.inputs, tokenizers, data, folder, bar.update)
        except UserError as error:
            raise _failed(job.field, type(error).__name__, str(error), len(summaries)) from error
        summaries[job.field] = summary
        ended(job.field, summary)
    return summaries


_worker: dict[str, Any] = {}


def _start_worker(tokenizers: Any, data: DataConfig, folder: Path) -> None:
    _worker.update(tokenizers=tokenizers, data=data, folder=folder)


def _work(job: _Job) -> tuple[dict[str, Any] | None, str, str]:
    """Summary, or name and text of the error: errors with several arguments do not survive pickling."""
    settings = (_worker["tokenizers"], _worker["data"], _worker["folder"])
    try:
        return encode_field(job.cube, job.split, job.inputs, *settings), "", ""
    except UserError as error:
        return None, type(error).__name__, str(error)


def _in_processes(
    jobs: list[_Job],
    tokenizers: Any,
    data: DataConfig,
    folder: Path,
    n_processes: int,
    ended: Callable[[str, Any], None],
    bar: Any,
) -> dict[str, dict[str, Any]]:
    """As :func:`_in_this_process`; after a failure running fields are finished and no new one is begun."""
    summaries: dict[str, dict[str, Any]] = {}
    failure: UserError | None = None
    with worker_pool(n_processes, _start_worker, (tokenizers, data, folder)) as pool:
        futures: dict[Future, _Job] = {pool.submit(_work, job): job for job in jobs}
        for future in as_completed(futures):
            job = futures[future]
            if future.cancelled():
                continue
            try:
                summary, kind, text = future.result()
            except BrokenProcessPool as error:
                raise _failed(
                    job.field, "ArtifactError", "a worker process died (out of memory?)", len(summaries)
                ) from error
            if summary is None:
                failure = failure or _failed(job.field, kind, text, 0)
                for other in futures:
                    other.cancel()
                continue
            summaries[job.field] = summary
            bar.update(summary["rows"])
            ended(job.field, summary)
    if failure is not None:
        raise failure
    return summaries


def _failed(field: str, kind: str, text: str, n_done: int) -> UserError:
    """The error of a field, of the same class, with the field's name."""
    cls = getattr(errors, kind, UserError)
    done = f" ({n_done} fields were encoded before and are kept)" if n_done else ""
    return cls.plain(f"field {field} was not encoded: {text}{done}")


def _say(log: logging.Logger, field: str, summary: Mapping[str, Any]) -> None:
    present = ", ".join(f"{name} {n}" for name, n in summary["present"].items())
    log.info("field %s: %d objects in %.1f s, present: %s", field, summary["rows"], summary["seconds"], present)
    if damaged := damage(summary["found"]["counts"]):
        log.warning("field %s: damaged values were skipped: %s", field, damaged)
