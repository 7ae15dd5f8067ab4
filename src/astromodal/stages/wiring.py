"""What the stages share: a run of a stage, the survey that it reads, what it is compared by and what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from ..config.launching.next_command import next_command
from ..config.schema import Config
from ..data import check_place, check_unique_ids, discover, ensure_survey
from ..data.datacube import Datacube
from ..data.kept_splits import KeptSplits, splits_of_survey
from ..data.splits import Splits
from ..parallel.rank import broadcast_object, dealt
from ..provenance.config_record import config_record
from ..provenance.manifest import fingerprint_config
from ..runs.run import RunContext

NEXT = {"build_datacubes": "train_tokenizers", "train_tokenizers": "encode", "encode": "train_lm"}


@contextmanager
def begin(cfg: DictConfig, config: Config, stage: str, again: bool = False) -> Iterator[RunContext]:
    """A run of a stage that has no half-way states: an unfinished attempt is made again in its folder.

    Args:
        again: go on in the folder of an earlier attempt, also outside of a sweep.
    """
    begun = is_begun(config) or (again and (Path(config.run_dir) / "run.json").is_file())
    with RunContext.open(cfg, stage, resume=begun) as run:
        run.record(config_fingerprint=fingerprint_config(config_record(cfg, stage)))
        if begun:
            run.tracker.rewind(-1)
        yield run


def is_begun(config: Config) -> bool:
    """Whether this is a job of a continued sweep whose folder holds an earlier attempt."""
    # decided by the first process: a later one might see what that has written meanwhile
    return broadcast_object(config.sweep.resume is not None and (Path(config.run_dir) / "run.json").is_file())


def open_cubes(config: Config, run: RunContext) -> tuple[list[Datacube], str]:
    """The datacubes (made first, if the survey is synthetic) and their fingerprint."""
    cubes = _discover(config)
    if KeptSplits(Path(config.paths.store), cubes, config.data).read() is None:
        check_unique_ids(cubes)
    return cubes, _fingerprint(cubes, run)


def _discover(config: Config) -> list[Datacube]:
    if config.data.synthetic is not None:
        check_place(config.data, config.paths.datacube_template)
        ensure_survey(config.data, config.paths.datacube_template, config.hardware.workers)
    return discover(config.data, config.paths.datacube_template)


def _fingerprint(cubes: list[Datacube], run: RunContext) -> str:
    mine = dealt(cubes, lambda cube: cube.n_rows)  # where several processes share the fields, each reads its own
    prints = {cube.field: cube.fingerprint() for cube in mine}
    for field, fingerprint in prints.items():
        run.add_input(f"datacube_{field}", fingerprint)
    return fingerprint_config(prints)


def open_survey(config: Config, run: RunContext) -> tuple[list[Datacube], Splits]:
    """The datacubes and the split of each of their rows."""
    cubes = _discover(config)
    splits = splits_of_survey(Path(config.paths.store), cubes, config.data)
    _fingerprint(cubes, run)
    counts = splits.counts
    run.log.info("%d fields, %d objects: %d train, %d val, %d test", len(cubes), counts.sum(), *counts)
    return cubes, splits


def objective(run: RunContext, name: str, value: float | None) -> float | None:
    """Write down what a sweep is compared by, and return its value."""
    run.record(objective={"name": name, "value": value})
    return value


def say_next(run: RunContext, cfg: DictConfig, made: str) -> None:
    """The last lines of a stage: what was made, and the command that goes on from there."""
    run.log.info("%s; report and plots in %s", made, run.dir)
    run.log.info("next: %s", next_command(cfg, NEXT[cfg.stage]))
