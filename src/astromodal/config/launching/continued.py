"""``-m sweep.resume=<folder>``: the command of the sweep is taken from its record, before Hydra reads anything."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from ...errors import ArtifactError, ArtifactMissingError, ConfigError
from ..checks.names import check_name
from ..reading.older import migrated_arguments
from .replayed import check_replayed

CONTROL = ("sweep.resume", "sweep.retry_failed", "preview")  # say how a sweep is begun, not what it consists of
_FLAGS = ("-m", "--multirun")
_MAX_CHARACTERS = 1 << 24  # of a sweep's record; a job has a few hundred


def without_control(arguments: list[str]) -> list[str]:
    """``arguments`` without the flag of a sweep and without what only says how to begin it.

    >>> without_control(["-m", "seed=0,1", "sweep.resume=runs/x", "preview=true"])
    ['seed=0,1']
    """
    return [a for a in arguments if a not in _FLAGS and a.split("=")[0] not in (*CONTROL, "hydra.sweep.dir")]


def merged(recorded: list[str], given: list[str]) -> list[str]:
    """The recorded arguments, with those that are given anew in place of the same key's.

    >>> merged(["model=tiny", "seed=0,1"], ["seed=0,1,2", "hardware=cpu"])
    ['model=tiny', 'seed=0,1,2', 'hardware=cpu']
    """
    new = {_key(a): a for a in given}
    kept = [new.pop(_key(a), a) for a in recorded]
    return [*kept, *new.values()]


def _key(argument: object) -> str:
    return str(argument).split("=")[0]


def _text(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        text = file.read(_MAX_CHARACTERS + 1)
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"more than {_MAX_CHARACTERS} characters")
    return text


def continued(arguments: list[str], stage: str) -> list[str]:
    """``arguments`` of the command line, completed by those of the sweep that ``sweep.resume`` names.

    Sets ``ASTROMODAL_RUN_ID`` to the sweep's id, which decides where its jobs write.

    Raises:
        ConfigError: ``sweep.resume`` without ``-m``, or a record that says more than this program's keys.
        ArtifactMissingError: the folder is not that of a sweep. ArtifactError: it is one of another stage.
    """
    wanted = [a.split("=", 1)[1] for a in arguments if a.startswith("sweep.resume=")]
    if not wanted or wanted[-1] in ("null", ""):
        return arguments
    if not set(arguments) & set(_FLAGS):
        raise ConfigError(
            "-m with sweep.resume", got="a single run", repair=shlex.join(["python", f"{stage}.py", "-m", *arguments])
        )
    folder = Path(wanted[-1].strip("'\""))
    try:
        record = json.loads(_text(folder / "sweep.json"))
        recorded, found, run_id = list(record["arguments"]), str(record["stage"]), str(record["run_id"])
    except FileNotFoundError:
        raise ArtifactMissingError(
            "the folder of a sweep, with sweep.json",
            got="none",
            where=folder,
            repair=f"sweep.resume=runs/{stage}/sweeps/<id>",
        ) from None
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise ArtifactError("a readable record of a sweep", got=repr(error), where=folder / "sweep.json") from error
    if found != stage:
        raise ArtifactError(
            f"a sweep of {stage}.py",
            got=f"one of {found}.py",
            where=folder,
            repair=f"python {found}.py -m sweep.resume={folder}",
        )
    os.environ["ASTROMODAL_RUN_ID"] = check_name(run_id, f"run_id in {folder / 'sweep.json'}")
    recorded = migrated_arguments(recorded, folder / "sweep.json")
    given = without_control(arguments)
    check_replayed((a for a in recorded if a not in given and _key(a) not in map(_key, given)), folder / "sweep.json")
    control = [a for a in arguments if a.split("=")[0] in CONTROL]
    return ["-m", *merged(recorded, given), *control, f"hydra.sweep.dir='{folder}'"]
