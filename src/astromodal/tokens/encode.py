"""Encode every object of the datacubes: field by field, batch by batch, into the files of :mod:`.store`.

Memory is bounded by one batch of ``data.batch_rows`` objects. A field is done when its manifest entry says so; it is
encoded again only if the cube, a tokenizer, the data configuration or its split changed. Fields are independent, so
several processes may work on different ones, and a failure in one leaves the others whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.findings import Findings, damage
from ..errors import ArtifactMissingError, DataError
from ..parallel.each import each, in_this_process
from ..provenance.manifest import fingerprint_arrays, fingerprint_config, fingerprint_file, merge_manifest
from ..tokenizers.base import plain
from ..vocabulary.modalities import MODALITIES
from .field import encode_field
from .store import tokenizer_fingerprints
from .up_to_date import forget, known_fields, up_to_date

if TYPE_CHECKING:
    from ..config.schema import DataConfig, WorkersConfig
    from ..data.datacube import Datacube
    from ..runs.run import RunContext
    from ..tokenizers import TokenizerSet


class _NoBar:
    """A bar that nobody sees."""

    def update(self, n: int = 1, **values: Any) -> None: ...

    def close(self) -> None: ...


def encode_survey(
    cubes: Sequence[Datacube],
    tokenizers: TokenizerSet,
    splits: Mapping[str, np.ndarray],
    data: DataConfig,
    store_root: str | Path,
    *,
    workers: WorkersConfig | None = None,
    overwrite: bool = False,
    whole: Sequence[str] | None = None,
    run: RunContext | None = None,
    log: logging.Logger | None = None,
    progress: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Encode all fields that are not up to date.

    Args:
        tokenizers: a ``TokenizerSet``; what it lacks is not encoded.
        splits: field → split of each row (n,) uint8, as ``data.splits`` assigns it.
        workers: who encodes; default: this process, one field after the other.
        overwrite: encode fields again that are up to date.
        whole: names of all fields of the survey, where ``cubes`` are one process's share of them.
        run: supplies ``log`` and ``progress``, unless they are given.

    Returns:
        A dict::

            {"fields": {field: summary}, "encoded": [names], "up_to_date": [names], "rows", "seconds", "bytes",
             "found", "warnings"}

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
    jobs = [_Job(cube, splits, wanted[cube.field]) for cube in todo]
    others = set(entries) - set(whole or wanted) if data.fields is None else set()

    summaries: dict[str, dict[str, Any]] = {}
    bar = progress(sum(cube.n_rows for cube in todo), "encoding")
    try:
        here = in_this_process(workers, len(jobs))  # then the bar moves with every batch
        shared = (tokenizers, data, folder.absolute(), *([bar.update] if here else []))
        for job, summary in each(_encode, jobs, workers, shared=shared, done="encoded"):
            summaries[job.field] = summary
            if not here:
                bar.update(summary["rows"])
            forget(folder, others, log)  # not before something took their place: a failure changes nothing
            _say(log, job.field, summary)
        forget(folder, others, log)
    finally:
        if hasattr(bar, "close"):
            bar.close()
        merge_manifest(folder)
    fields = {cube.field: summaries.get(cube.field) or done[cube.field] for cube in cubes}
    found = totals(fields, log)
    return found | {
        "encoded": sorted(summaries),
        "up_to_date": sorted(done),
        "seconds": time.perf_counter() - started,
    }


def totals(fields: Mapping[str, Mapping[str, Any]], log: logging.Logger) -> dict[str, Any]:
    """``fields``, ``rows``, ``bytes``, ``found`` and ``warnings`` of all fields, from their summaries."""
    findings = Findings()
    for field, summary in fields.items():
        findings.add_field(field, summary["found"])
    for line in findings.warnings():
        log.warning("%s", line)
    return {
        "fields": dict(fields),
        "rows": sum(summary["rows"] for summary in fields.values()),
        "bytes": sum(summary["bytes"] for summary in fields.values()),
        "found": findings.totals(),
        "warnings": findings.warnings(),
    }


def of_all_shares(store_root: str | Path, fields: Sequence[str], log: logging.Logger) -> dict[str, Any] | None:
    """As :func:`encode_survey` returns it, from what all processes have written; None if a field is not there."""
    entries = known_fields(Path(store_root) / "tokens", log)
    if any(field not in entries for field in fields):
        return None
    summaries = {field: entries[field]["summary"] for field in fields}
    seconds = sum(summary["seconds"] for summary in summaries.values())  # of all processes together
    return totals(summaries, log) | {"encoded": sorted(fields), "up_to_date": [], "seconds": seconds}


def field_inputs(cube: Datacube, tokenizers: TokenizerSet, split: np.ndarray, data: DataConfig) -> dict[str, str]:
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


def _check_splits(cubes: Sequence[Datacube], splits: Mapping[str, np.ndarray]) -> None:
    for cube in cubes:
        n = len(splits[cube.field]) if cube.field in splits else None
        if n != cube.n_rows:
            raise DataError(f"a split for each of {cube.n_rows} rows", got=n, where=f"field {cube.field}")


# ------------------------------------------------------------------------------------- one field


class _Job:
    """One field to be encoded. The split of its rows travels with it, but is not held while it waits."""

    def __init__(self, cube: Datacube, splits: Mapping[str, np.ndarray], inputs: dict[str, str]) -> None:
        self.cube, self.inputs = cube, inputs
        self.field, self._splits = cube.field, splits

    def __str__(self) -> str:
        return f"field {self.field}"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_splits": {self.field: self.split}}

    @property
    def split(self) -> np.ndarray:
        """Of each row, ``(n,)`` uint8."""
        return np.asarray(self._splits[self.field], np.uint8)


def _encode(
    job: _Job, tokenizers: TokenizerSet, data: DataConfig, folder: Path, update: Callable[[int], Any] = lambda n: None
) -> dict[str, Any]:
    return encode_field(job.cube, job.split, job.inputs, tokenizers, data, folder, update)


def _say(log: logging.Logger, field: str, summary: Mapping[str, Any]) -> None:
    present = ", ".join(f"{name} {n}" for name, n in summary["present"].items())
    log.info("field %s: %d objects in %.1f s, present: %s", field, summary["rows"], summary["seconds"], present)
    if damaged := damage(summary["found"]["counts"]):
        log.warning("field %s: damaged values were skipped: %s", field, damaged)
