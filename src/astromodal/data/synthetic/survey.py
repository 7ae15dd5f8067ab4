"""The folder of a synthetic sky: written when it is first needed, left alone while its parameters stay the same."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config.schema import SyntheticConfig, WorkersConfig
from ...errors import ArtifactError, DataError
from ...files.atomic import writing
from ...files.io import write_text
from ...files.locks import FileLock
from ...parallel.each import each
from ...provenance.manifest import read_manifest, write_manifest
from .population import field_name, synthetic_of, zero_points
from .write import write_field

if TYPE_CHECKING:
    from ...config.schema import DataConfig

VERSION = 1  # of the generator: another one makes old cubes be written anew
ZERO_POINTS = "zero_points.csv"
KIND = "synthetic_survey"
_WAIT_SECONDS = 3600.0  # for another process that writes the same sky

log = logging.getLogger(__name__)


def ensure_survey(data: DataConfig, template: str, workers: WorkersConfig | None = None) -> list[Path]:
    """Write the fields of ``data.synthetic`` that are not there yet, or were made with other parameters.

    More fields leave those that exist as they are. A folder whose writing was interrupted is written again, a field
    whose size is not that of the manifest too.

    Args:
        data: ``DataConfig`` with ``synthetic`` set.
        template: path with ``{field}``.
        workers: who writes the fields, at least ``data.synthetic.n_processes`` of them at the same time.

    Returns:
        The paths of all fields.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    config = synthetic_of(data)
    paths = [Path(template.format(field=field_name(i))) for i in range(config.n_fields)]
    folder = paths[0].parent
    wanted = {k: v for k, v in asdict(config).items() if k not in ("n_processes", "n_fields")} | {"version": VERSION}
    with writing(folder / "manifest.json"):
        finished = _state(folder, wanted, paths)[1]
    if finished:
        return paths
    with FileLock(folder / "synthetic", wait_seconds=_WAIT_SECONDS):
        to_write, finished = _state(folder, wanted, paths)  # again: another process may have been at it
        if not finished:
            others = set(folder.glob(Path(template).name.format(field="SYN-*"))) - set(paths)
            with writing(folder):
                (folder / "manifest.json").unlink(missing_ok=True)  # comes last: without it the folder is unfinished
                for path in others:  # of a larger sky: they would be taken for part of this one
                    path.unlink()
            _write_fields(config, {i: paths[i] for i in to_write}, workers or WorkersConfig())
            _write_zero_points(folder / ZERO_POINTS, config)
            files = [path.name for path in paths] + [ZERO_POINTS]
            sizes = {name: _size(folder / name) for name in files}
            write_manifest(folder, kind=KIND, config=wanted, inputs={}, files=files, run_id="", extra={"sizes": sizes})
    return paths


def check_place(data: DataConfig, template: str) -> None:
    """Refuse to generate a sky among files of others, or in a folder that nobody has made.

    ``artifacts/<data.name>/cubes``, the default, is made as needed. Another one is what somebody has typed, who may
    well have meant cubes of their own: without ``data=…`` the survey is the synthetic one.

    Raises:
        DataError: the folder is not there, or holds other files than a synthetic sky.
    """
    folder = Path(template.format(field="x")).parent
    own = "data=splus (or another survey) to read cubes of your own"
    if not folder.is_dir():
        if folder.absolute() != Path("artifacts", str(data.name), "cubes").absolute():
            raise DataError(
                "a folder to generate the synthetic survey in",
                got="no such folder",
                where=folder,
                repair=f"make the folder, or add {own}",
            )
        return
    with contextlib.suppress(ArtifactError):
        if read_manifest(folder).get("kind") == KIND:
            return
    known = Path(template).name.format(field="SYN-*")
    left = (ZERO_POINTS, "manifest.json", "synthetic.lock")  # of a writing that was interrupted
    names = sorted(path.name for path in folder.iterdir())
    others = [n for n in names if not (n.startswith(".") or n in left or Path(n).match(known))]
    if others:
        raise DataError(
            "a folder of its own for the synthetic survey",
            got=f"one that holds {', '.join(others[:3])}",
            where=folder,
            repair=f"add {own}, or set data.root to an empty folder",
        )


def _state(folder: Path, wanted: dict[str, Any], paths: Sequence[Path]) -> tuple[list[int], bool]:
    """Numbers of the fields to write, and whether nothing at all is to do."""
    everything = list(range(len(paths)))
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return everything, False
    sizes = manifest.get("sizes")
    if manifest.get("config") != wanted or not isinstance(sizes, dict):
        return everything, False
    complete = {name for name, size in sizes.items() if _size(folder / name) == size}
    names = {path.name for path in paths} | {ZERO_POINTS}
    return [i for i in everything if paths[i].name not in complete], complete == names == set(sizes)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _write_fields(config: SyntheticConfig, paths: dict[int, Path], workers: WorkersConfig) -> None:
    if not paths:
        return
    n, folder = config.n_objects_per_field, next(iter(paths.values())).parent
    log.info("writing a synthetic sky: %d fields of %d objects in %s", len(paths), n, folder)
    workers = replace(workers, n_jobs=max(workers.n_jobs, config.n_processes))
    for _ in each(_write_job, paths.items(), workers, shared=(config,), named=_named, done="written"):
        pass


def _write_job(job: tuple[int, Path], config: SyntheticConfig) -> None:
    write_field(job[1], config, job[0])


def _named(job: tuple[int, Path]) -> str:
    return f"field {field_name(job[0])}"


def _write_zero_points(path: Path, config: SyntheticConfig) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("field", "band", "zero_point"))
    for i in range(config.n_fields):
        writer.writerows((field_name(i), band, point) for band, point in zero_points(config.seed, i).items())
    write_text(path, text.getvalue())
