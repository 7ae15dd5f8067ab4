"""The files of a bundle: a trained model in one folder that may come from a stranger.

``manifest.json`` names every file with its size and SHA-256; whatever is missing, changed, or there without being
named, is refused before anything else is read. Weights are safetensors (a table of contents in JSON, then plain
numbers), everything else is JSON, plain arrays or text: nothing is executed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, ArtifactMissingError
from .atomic import atomic_path, read_error
from .bounded import check_shape
from .json_files import read_mapping, write_json

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST, WEIGHTS, CONFIG, FORMAT = "manifest.json", "model.safetensors", "config.json", 1
MAX_FILES = 10_000
MAX_CONTENTS = 1 << 24  # bytes of the table of contents of weights
REPAIR = "get the bundle again, or export the run again"
_HEX = frozenset("0123456789abcdef")


def is_bundle(folder: str | Path) -> bool:
    """Whether a folder looks like a bundle."""
    return (Path(folder) / WEIGHTS).is_file() and (Path(folder) / MANIFEST).is_file()


# -------------------------------------------------------------------------------------- manifest


def write_hashes(folder: Path) -> dict[str, Any]:
    """Write the manifest of all files in ``folder``; returns it."""
    paths = {name: folder / name for name in _found(folder)}
    files = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in paths.items()}
    content = {"format": FORMAT, "files": files}
    write_json(folder / MANIFEST, content)
    return content


def read_names(folder: Path) -> dict[str, tuple[int, str]]:
    """Files that a manifest names: size and SHA-256.

    Raises:
        ArtifactMissingError: there is no manifest.
        ArtifactError: it is of a later version, or names what no bundle has.
    """
    path = folder / MANIFEST
    content = read_mapping(path)
    if content.get("format") != FORMAT:
        raise ArtifactError(f"a bundle of format {FORMAT}", got=content.get("format"), where=path, repair=REPAIR)
    files = content.get("files")
    if not isinstance(files, Mapping) or not 0 < len(files) <= MAX_FILES:
        raise ArtifactError(f"a mapping of at most {MAX_FILES} files", got=type(files).__name__, where=path)
    found = {}
    for name, entry in files.items():
        check_inside(name, path)
        size, value = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, Mapping) else (None, None)
        if type(size) is not int or size < 0 or not isinstance(value, str) or len(value) != 64 or set(value) - _HEX:
            raise ArtifactError("bytes and sha256 of every file", got=str(entry)[:60], where=f"{path}, {name[:60]}")
        found[name] = (size, value)
    return found


def check_bundle(folder: str | Path, root: Path | None = None) -> None:
    """Refuse a folder whose files are not those of its manifest.

    Args:
        root: folder that links may lead to, where it is a hub's cache; None: the folder itself.

    Raises:
        ArtifactMissingError: a file is missing.
        ArtifactError: a file has changed, is not named, or lies elsewhere.
    """
    folder = Path(folder)
    files, home = read_names(folder), Path(root or folder).resolve()
    for name in (WEIGHTS, CONFIG):
        if name not in files:
            raise ArtifactMissingError(f"{name} in the manifest of a bundle", got="none", where=folder, repair=REPAIR)
    for name, (size, _) in files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactMissingError("a file of the bundle", got="nothing", where=path, repair=REPAIR)
        if not path.resolve().is_relative_to(home):
            raise ArtifactError("files within the bundle", got=f"a link to {path.resolve()}", where=path, repair=REPAIR)
        if (found := path.stat().st_size) != size:
            raise ArtifactError(f"{size} bytes", got=found, where=path, repair=REPAIR)
    for name in _found(folder):
        if name not in files:
            raise ArtifactError(
                "only files that the manifest names", got=name, where=folder, repair=f"remove it, or {REPAIR}"
            )
    for name, (_size, expected) in files.items():
        if (digest := _sha256(folder / name)) != expected:
            raise ArtifactError(f"SHA-256 {expected}", got=digest, where=folder / name, repair=REPAIR)
        if name.endswith(f"/{MANIFEST}"):
            _check_inner(folder / name)


def check_inside(name: object, where: object) -> None:
    """Refuse a file's name that would leave its folder, or that not every system has.

    Raises:
        ArtifactError: with the name.
    """
    fine = (
        isinstance(name, str)
        and 0 < len(name) < 400
        and not set(name) & set('\\:*?"<>|\0')
        and not PurePosixPath(name).is_absolute()
        and not {"", "..", "."} & set(name.split("/"))
    )
    if not fine:
        raise ArtifactError("names of files within the folder", got=repr(name)[:80], where=where)


def _check_inner(path: Path) -> None:
    """The manifest of a part of the bundle (tokenizers, reference): what it names lies beside it."""
    content = read_mapping(path)
    entries = content.get("entries")
    for part in (content, *(entries.values() if isinstance(entries, Mapping) else ())):
        for key in ("files", "beside", "sizes"):
            names = part.get(key) if isinstance(part, Mapping) else None
            for name in names if isinstance(names, Mapping) else ():
                check_inside(name, path)


def _found(folder: Path) -> Iterator[str]:
    """Names of the files below a folder, but hidden ones and the manifest, in order."""
    names = []
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            relative = (Path(base) / name).relative_to(folder).as_posix()
            if not name.startswith(".") and relative != MANIFEST:
                names.append(relative)
    return iter(sorted(names))


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise read_error(error, path) from error


# --------------------------------------------------------------------------------------- weights


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in state.items()},
            temporary,
            metadata={"format": "pt"},
        )
        os.chmod(temporary, path.parent.stat().st_mode & 0o666)  # the library lets nobody else read it


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Weights of a file of safetensors, on the CPU.

    Raises:
        ArtifactMissingError: there is none.
        ArtifactError: it is damaged, or claims shapes that it has no room for.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ArtifactMissingError("a file of weights", got="nothing", where=path)
    try:
        with open(path, "rb") as file:
            contents = int.from_bytes(file.read(8), "little")
        if contents > MAX_CONTENTS:
            raise ValueError(f"a table of contents of {contents} bytes")
        state = load_file(path)
        size = path.stat().st_size
        for value in state.values():
            check_shape(tuple(value.shape), value.element_size(), size)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ArtifactError(
            "a whole file of safetensors", got=str(error).split("\n")[0][:200], where=path, repair=REPAIR
        ) from error
    return state


def bundle_state(folder: str | Path, root: Path | None = None) -> dict[str, Any]:
    """Weights and settings as a run's file of weights has them, after :func:`check_bundle`.

    Returns:
        ``model_state_dict``, ``config``, and of the run that they are of ``run_id`` and ``made_from`` (None: unknown).
    """
    folder = Path(folder)
    check_bundle(folder, root)
    config = read_mapping(folder / CONFIG)
    known = {key: config.get(key) if isinstance(config.get(key), str) else None for key in ("run_id", "weights")}
    return {
        "model_state_dict": load_tensors(folder / WEIGHTS),
        "config": config.get("trained"),
        "run_id": known["run_id"],
        "made_from": known["weights"],
    }


def load_weights_file(path: str | Path) -> Any:
    """What a file of weights holds, whether a run has written it or it is that of a bundle.

    Raises:
        ArtifactMissingError, ArtifactError, UnsafeFileError: there is none, or it is damaged.
    """
    path = Path(path)
    if path.name == WEIGHTS:
        return bundle_state(path.parent)
    from .io import load_torch

    return load_torch(path)
