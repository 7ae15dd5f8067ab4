"""The jobs of a sweep: from swept values to checked configurations.

All of them are composed and validated before the first one starts, so that a mistake in the last costs nothing.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ..config.checks.names import check_name
from ..config.checks.validate import validate
from ..config.launching.continued import CONTROL
from ..config.reading.conf_files import conf_dir, group_names, options_of
from ..config.reading.containers import to_dict
from ..config.reading.explain import explain
from ..config.reading.text_values import text_stays_text
from ..errors import ConfigError
from ..provenance.config_record import config_record
from ..provenance.manifest import fingerprint_config


@dataclass(frozen=True)
class Job:
    """One combination of the swept values."""

    overrides: tuple[str, ...]  # everything, Hydra's own overrides included
    swept: tuple[str, ...]  # what differs between the jobs of the sweep
    config: DictConfig  # as the stage will get it
    fingerprint: str  # of what decides the result
    folder: str | None = None  # within the sweep's, as hydra.sweep.subdir wants it; None: its number

    @property
    def label(self) -> str:
        return " ".join(self.swept) or "(nothing swept)"


def expand(sweeper: Any, arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """Overrides of every job, by Hydra's own rules: presets first, then the command line.

    Raises:
        HydraException: an override that cannot be read, or a sweep over something else than a list of values.
        ConfigError: a sweep over no value at all.
    """
    given = [*(text_stays_text(f"{key}={value}") for key, value in sweeper.params.items()), *arguments]
    overrides = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader).parse_overrides(given)
    groups = group_names([conf_dir()])  # Hydra drops the quotes within choice(…)
    jobs = [
        tuple(text_stays_text(o, groups) for o in job)
        for batch in sweeper.split_arguments(overrides, None)
        for job in batch
    ]
    if not jobs:
        _refuse_empty(overrides)
    return jobs


def _refuse_empty(overrides: Sequence[Any]) -> None:
    """``model=glob(zz*)``, ``seed=range(3,3)``: nothing to run.

    Raises:
        ConfigError: naming the override that matches nothing.
    """
    for override in overrides:
        if override.is_sweep_override() and not list(override.sweep_iterator()):
            key = override.get_key_element()
            options = options_of(key, [conf_dir()])
            raise ConfigError(
                f"at least one value of {key} to sweep over",
                got=f"none in {override.input_line}",
                where="command line",
                repair=f"choose from {', '.join(options)}" if options else None,
            )
    raise ConfigError("at least one job", got="none", where="command line")


def compose_jobs(sweeper: Any, arguments: Sequence[str]) -> list[Job]:
    """Every job of the sweep, composed and validated.

    Raises:
        ConfigError: naming the job and what is wrong with it.
    """
    all_overrides = expand(sweeper, arguments)
    return compose_all(Composer(sweeper, _varying(all_overrides)), all_overrides)


def compose_all(
    composer: Composer, all_overrides: Sequence[Sequence[str]], first: int = 0, n: int | None = None
) -> list[Job]:
    """Jobs of these overrides, composed and validated.

    Args:
        first: number of the first job.
        n: how many jobs the sweep has in all.

    Raises:
        ConfigError: naming the job and what is wrong with it.
    """
    jobs: list[Job] = []
    for number, overrides in enumerate(map(tuple, all_overrides), first):
        swept = tuple(o for o in overrides if _key(o) in composer.varying)
        try:
            folder = composer.folder(overrides, number)
            if folder is not None and folder in {job.folder for job in jobs}:
                raise ConfigError(
                    "a folder of its own for each job",
                    got=f"{folder} twice",
                    where="hydra.sweep.subdir",
                    repair="name every swept key in it, or leave it out",
                )
            with composer.job(overrides, number, folder) as config:
                validate(config, config.stage, [o for o in overrides if not _key(o).startswith("hydra")])
                OmegaConf.resolve(config)  # now, while Hydra's own settings are those of the job
                fingerprint = fingerprint_config(config_record(config, config.stage))
            jobs.append(Job(overrides, swept, config, fingerprint, folder))
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            which = f"job {number} of {n or len(all_overrides)}" + (f" ({' '.join(swept)})" if swept else "")
            raise ConfigError.plain(f"{which}: {message}{'' if first else '; nothing was started'}") from error
    return jobs


class Composer:
    """Configurations of a sweep's jobs, as Hydra composes them.

    Hydra reads all files again for every job (a fifth of a second); here only for each choice of files. Swept values
    are set by Hydra's own function, in the same order as it would.
    """

    def __init__(self, sweeper: Any, varying: set[str]) -> None:
        """``varying``: keys whose values are swept."""
        self.varying = varying
        self.sweeper, self.loader = sweeper, sweeper.hydra_context.config_loader
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.values = {key for key in varying if not self.loader.repository.group_exists(key)}
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def folder(self, overrides: Sequence[str], number: int) -> str | None:
        """``hydra.sweep.subdir`` of a job, where it is not the number; what it may name takes a composition by Hydra.

        Raises:
            ConfigError: it is not the name of one folder.
        """
        if to_dict(self.sweeper.config.hydra.sweep, resolve=False)["subdir"] == "${hydra.job.num}":
            return None
        told = [
            o for o in overrides if _key(o) not in (*CONTROL, "sweep.fail_fast")
        ]  # or override_dirname would name them
        composed = self.loader.load_sweep_config(self.sweeper.config, told)
        with read_write(composed.hydra), open_dict(composed.hydra):
            composed.hydra.job.id = composed.hydra.job.num = number
        return check_name(composed.hydra.sweep.subdir, "hydra.sweep.subdir")

    @contextmanager
    def job(self, overrides: Sequence[str], number: int, folder: str | None = None) -> Iterator[DictConfig]:
        """Configuration of a job; within the block Hydra's own settings are those of the job."""
        base = self._base(tuple(o for o in overrides if _key(o) not in self.values))
        values = self.parser.parse_overrides([o for o in overrides if _key(o) in self.values])
        hydra = base.hydra
        with read_write(hydra), open_dict(hydra):
            hydra.job.id = hydra.job.num = number
            hydra.sweep.subdir = str(number) if folder is None else folder
            hydra.runtime.output_dir = os.path.abspath(os.path.join(hydra.sweep.dir, hydra.sweep.subdir))
        task = copy.copy(base)
        with read_write(task), open_dict(task):
            del task["hydra"]
        task = copy.deepcopy(task)
        ConfigLoaderImpl._apply_overrides_to_config(values, task)
        state = HydraConfig.instance()
        before, state.cfg = state.cfg, None
        try:
            state.set_config(base)
            yield task
        finally:
            state.cfg = before

    def _base(self, overrides: tuple[str, ...]) -> DictConfig:
        if overrides not in self._bases:
            self._bases[overrides] = self.loader.load_sweep_config(self.sweeper.config, list(overrides))
        return self._bases[overrides]


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]


def _varying(jobs: Sequence[Sequence[str]]) -> set[str]:
    """Keys that have more than one value over the jobs."""
    values: dict[str, set[str]] = {}
    for overrides in jobs:
        for override in overrides:
            values.setdefault(_key(override), set()).add(override)
    return {key for key, found in values.items() if len(found) > 1 and key not in CONTROL}
