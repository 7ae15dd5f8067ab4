"""``--experimental-rerun <run>/.hydra/config.pickle``: the recorded overrides once more, in a run of its own.

Hydra itself would unpickle the file, which executes whatever stands in it, and write into the directory of the old run.
Here ``overrides.yaml`` beside it is read, which every run has: text, of which only keys and options of this program are
taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import ArtifactError, ArtifactMissingError, ConfigError
from ..reading.older import migrated_arguments
from .replayed import check_replayed

_FLAG = "--experimental-rerun"
_NOT_AGAIN = ("run_id", "run_dir", "resume", "sweep")
_LARGEST = 1_000_000  # bytes of a file of overrides


def rerun(arguments: Sequence[str], stage: str) -> list[str]:
    """``arguments`` with the overrides of the run that the flag names; what is given beside it goes before them.

    Raises:
        ArtifactMissingError: no run is there. ArtifactError: its overrides cannot be read.
        ConfigError: the flag without a path, or recorded overrides that are more than values of this program.
    """
    given = list(arguments)
    at = next((i for i, a in enumerate(given) if a == _FLAG or a.startswith(_FLAG + "=")), None)
    if at is None:
        return given
    flag = given.pop(at)
    path = flag.partition("=")[2] if "=" in flag else given.pop(at) if at < len(given) else ""
    if not path or path.startswith("-"):
        raise ConfigError(f"{_FLAG} <run directory>", got="no path", where="command line")
    recorded, keys = _recorded(Path(path), stage), {_key(a) for a in given}
    kept = [o for o in recorded if _key(o).split(".")[0] not in _NOT_AGAIN and _key(o) not in keys]
    check_replayed(kept, Path(path))
    return [*given, *kept]


def _recorded(path: Path, stage: str) -> list[str]:
    import yaml

    folder = path.parent if path.is_file() or path.name == "config.pickle" else path
    folder = folder if folder.name == ".hydra" else folder / ".hydra"
    file = folder / "overrides.yaml"
    if not file.is_file():
        raise ArtifactMissingError(
            "the directory of a run, with .hydra/overrides.yaml",
            got="none",
            where=path,
            repair=f"{_FLAG} runs/{stage}/<name>/<run_id>",
        )
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"{file.stat().st_size} bytes")
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or []
        if not isinstance(found, list) or not all(isinstance(o, str) for o in found):
            raise ValueError(f"a {type(found).__name__}")
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise ArtifactError("a list of overrides", got=" ".join(str(error).split()), where=file) from error
    return migrated_arguments(found, file)


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0].split("@")[0]
