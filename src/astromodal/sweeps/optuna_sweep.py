"""Optuna chooses the next job by what the ones before have reached; everything else is as in any other sweep.

Nothing of Optuna's is stored. What it proposes depends on the seed, the number of the trial and the figures before it,
so a continued sweep is asked again from the first trial on, gets the same jobs, and finds them by their
configuration: finished ones are not run again, half-done ones go on from their checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from ..errors import ConfigError
from ..files.locks import FileLock
from ..files.text_table import say
from ..parallel.rank import world_size
from .inputs import job_inputs
from .jobs import Composer, Job, compose_all
from .plan import Action, Planned, make_plan, run_record
from .record import SweepRecord
from .search_space import Space, read_space
from .sweeper import concluding, errors_of, launch, record_of, remembering
from .table import objective_of

if TYPE_CHECKING:
    from optuna import Study

SAMPLERS = ("tpe", "random")


def run_optuna(sweeper: Any, arguments: list[str]) -> list[Any]:
    """Everything between ``-m hydra/sweeper=astromodal_optuna`` and the exit code.

    Raises:
        ConfigError: Optuna is not installed, a setting or a value at an end of its range that cannot work; nothing was
            started.
        ArtifactError: another process runs this sweep, or its folder holds another one.
        UserError: one or more jobs have failed; the others were run.
    """
    _check(sweeper)
    space = read_space(sweeper, arguments)
    composer = Composer(sweeper, set(space.searched))
    ends = _jobs(composer, space, space.ends())  # a mistake in any value is found now
    folder, first = Path(sweeper.config.hydra.sweep.dir), ends[0].config
    if first.preview:
        from .preview import preview_sweep

        points = _propose(_study(), space, 0, sweeper.n_trials, sweeper)
        preview_sweep(_jobs(composer, space, [t.params for t in points]), folder, remembering(job_inputs))
        return []
    with FileLock(folder / ".sweep"):
        record = record_of(first, folder)
        OmegaConf.save(sweeper.config, folder / "multirun.yaml")
        record.write(folder)
        plan: list[Planned] = []
        returned: list[Any] = []
        with concluding(sweeper, plan, folder, str(first.stage), returned):
            _search(composer, space, record, folder, plan, returned, first.sweep)
        return returned


def _search(
    composer: Composer,
    space: Space,
    record: SweepRecord,
    folder: Path,
    plan: list[Planned],
    returned: list[Any],
    settings: Any,
) -> None:
    """Ask, run and tell until all trials are done; ``plan`` and ``returned`` grow."""
    sweeper, study, inputs = composer.sweeper, _study(), remembering(job_inputs)
    size = sweeper.max_batch_size or 1
    for start in range(0, sweeper.n_trials, size):
        trials = _propose(study, space, start, min(size, sweeper.n_trials - start), sweeper)
        jobs = _jobs(composer, space, [trial.params for trial in trials], start, sweeper.n_trials)
        batch = _planned(jobs, record, folder, inputs, settings.retry_failed, plan)
        record.write(folder)
        plan += batch
        done: list[Any] = []
        try:
            launch(sweeper, batch, done, settings.fail_fast)
        finally:
            returned += done
        failed = {number for number, error in errors_of(batch, done).items() if error}
        for trial, planned in zip(trials, batch, strict=True):
            value = None if planned.number in failed else objective_of(run_record(folder / planned.place))
            _tell(study, trial, value)
        if failed and settings.fail_fast:
            return


def _planned(
    jobs: list[Job],
    record: SweepRecord,
    folder: Path,
    inputs: Callable[[Job], Mapping[str, str]],
    retry_failed: bool,
    before: list[Planned],
) -> list[Planned]:
    """What is to be done with proposed jobs; one that was proposed before is not run again."""
    known = {p.number for p in before}
    batch = make_plan(jobs, record, folder, inputs, retry_failed)
    for planned in batch:
        if planned.number in known:
            planned.action, planned.note = Action.duplicate, f"of job {planned.number}"
    return batch


def _jobs(
    composer: Composer, space: Space, points: list[dict[str, Any]], first: int = 0, n: int | None = None
) -> list[Job]:
    return compose_all(composer, [space.overrides(point) for point in points], first, n)


def _study() -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="minimize")


def _propose(study: Study, space: Space, start: int, n: int, sweeper: Any) -> list[Any]:
    """The next ``n`` trials; the same ones whenever the trials before were the same."""
    from optuna.samplers import RandomSampler, TPESampler

    trials = []
    for number in range(start, start + n):
        seed = sweeper.seed * 1_000_003 + number
        if sweeper.sampler == "random":
            study.sampler = RandomSampler(seed=seed)
        else:
            study.sampler = TPESampler(seed=seed, n_startup_trials=sweeper.n_startup_trials)
        trials.append(study.ask(dict(space.searched)))
    return trials


def _tell(study: Study, trial: Any, value: tuple[str, float] | None) -> None:
    from optuna.trial import TrialState

    if value is None:
        study.tell(trial, state=TrialState.FAIL)
        return
    study.tell(trial, value[1])
    if study.best_trial.number == trial.number:
        words = ", ".join(f"{key}={value}" for key, value in trial.params.items())
        say(f"trial {trial.number}: {value[0]} {value[1]:.4f}, the best so far ({words})")


def _check(sweeper: Any) -> None:
    """Refuse what cannot work before anything is composed.

    Raises:
        ConfigError: naming it.
    """
    where = "hydra/sweeper=astromodal_optuna"
    if find_spec("optuna") is None:
        raise ConfigError("the package optuna", got="it is not installed", where=where, repair="pip install optuna")
    if world_size() > 1:
        raise ConfigError(
            "one process that asks Optuna",
            got=f"{world_size()} under torchrun",
            where=where,
            repair="hydra/launcher=parallel or hydra/launcher=slurm for several jobs at a time",
        )
    if sweeper.sampler not in SAMPLERS:
        raise ConfigError(f"one of {', '.join(SAMPLERS)}", got=sweeper.sampler, where="hydra.sweeper.sampler")
    for name, least in (("n_trials", 1), ("n_startup_trials", 0), ("seed", 0)):
        if getattr(sweeper, name) < least:
            raise ConfigError(f"at least {least}", got=getattr(sweeper, name), where=f"hydra.sweeper.{name}")
