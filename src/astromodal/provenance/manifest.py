"""What a folder of artifacts was made from: fingerprints of inputs and files, configuration, code and versions.

A stage that reads a folder checks its manifest; a stage that is run again compares fingerprints and leaves alone
what is up to date.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, ArtifactMissingError
from ..files.io import FileLock, plain
from .fingerprints import container, fingerprint_arrays, fingerprint_config
from .remembered import changed_files, fingerprint_file, fingerprint_files
from .sealed import read_sealed, write_sealed

__all__ = [
    "LaterVersionError",
    "changed_files",
    "check_manifest",
    "fingerprint_arrays",
    "fingerprint_config",
    "fingerprint_file",
    "fingerprint_files",
    "git_state",
    "merge_manifest",
    "package_versions",
    "read_manifest",
    "update_manifest",
    "utc_now",
    "write_manifest",
]

SCHEMA_VERSION = 1
RECORDS, _TAKEN = "manifest.d", ".taken"  # entries that are not in the manifest yet, and those about to be
_PACKAGES = ("astromodal", "torch", "numpy", "pyarrow", "scikit-learn", "hydra-core", "omegaconf", "joblib", "wandb")


@functools.cache
def git_state() -> dict[str, Any]:
    """Revision of the checkout that this code runs from, and whether it has changes; ``None`` when installed."""
    folder = Path(__file__).resolve().parent
    state: dict[str, Any] = {"revision": None, "dirty": None}
    if "site-packages" in folder.parts or "dist-packages" in folder.parts:
        return state
    for key, command in (("revision", ["rev-parse", "HEAD"]), ("dirty", ["status", "--porcelain"])):
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *command],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        state[key] = done.stdout.strip() if key == "revision" else bool(done.stdout.strip())
    return state


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; read from metadata, nothing is imported."""
    from .. import __version__

    return dict(_versions()) | {"astromodal": __version__}


def utc_now() -> str:
    """Time as ISO 8601, UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


# --------------------------------------------------------------------------------------- manifests


def _manifest_path(folder: str | Path) -> Path:
    return Path(folder) / "manifest.json"


def _hash_files(folder: Path, files: Iterable[str | Path]) -> dict[str, str]:
    """Fingerprints by path relative to ``folder``."""
    names = sorted({Path(os.path.relpath(folder / file, folder)).as_posix() for file in files})
    return dict(zip(names, fingerprint_files([folder / name for name in names]), strict=True))


def write_manifest(
    folder: str | Path,
    *,
    kind: str,
    config: Any,
    inputs: Mapping[str, str],
    files: Iterable[str | Path],
    run_id: str | None,
    extra: Mapping[str, Any] | None = None,
    beside: Iterable[str | Path] = (),
) -> dict:
    """Write ``<folder>/manifest.json`` after the files it speaks of; entries of :func:`update_manifest` are dropped.

    Args:
        inputs: name → fingerprint of what the files were made from.
        files: absolute, or relative to ``folder``; they are hashed.
        beside: further files, of which the folder's fingerprint knows nothing (reports, which hold times).

    Returns:
        The manifest; its ``fingerprint`` is that of the files' hashes and the configuration.
    """
    folder = Path(os.path.abspath(folder))
    hashes, config = _hash_files(folder, files), plain(container(config))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "fingerprint": fingerprint_config({"kind": kind, "files": hashes, "config": config}),
        "files": hashes,
        "beside": _hash_files(folder, beside),
        "config": config,
        "inputs": dict(inputs),
        "git": git_state(),
        "versions": package_versions(),
        "run_id": run_id,
        "created": utc_now(),
        **(plain(extra) if extra else {}),
    }
    write_sealed(_manifest_path(folder), manifest)
    shutil.rmtree(folder / RECORDS, ignore_errors=True)
    return manifest


class LaterVersionError(ArtifactError):
    """A manifest that a later version of this program wrote."""


def update_manifest(folder: str | Path, key: str, entry: Mapping[str, Any] | None) -> None:
    """Set the entry of ``key``, for folders in which many write, each its own (``None`` removes the entry).

    It is a file of its own, so that nobody waits and nothing is written again with every field; it counts from now on.
    :func:`merge_manifest` puts all of them into the manifest.
    """
    if Path(key).name != key:
        raise ArtifactError("a key that can name a file", got=key, where=folder)
    write_sealed(Path(folder) / RECORDS / f"{key}.json", {"schema_version": SCHEMA_VERSION, "entry": entry})


def merge_manifest(folder: str | Path) -> None:
    """Put what :func:`update_manifest` has written into the manifest, in one go; others may go on writing meanwhile.

    A damaged manifest is replaced: nothing that it says can be used, and what it spoke of counts as not there.
    """
    path, place = _manifest_path(folder), Path(folder) / RECORDS
    if not place.is_dir():
        return
    with FileLock(path, wait_seconds=60.0):
        for record in _records(place, ".json"):  # out of the way of whoever writes the entry again
            record.replace(record.with_suffix(_TAKEN))
        try:
            manifest = read_manifest(folder)
        except LaterVersionError:
            raise
        except ArtifactError:
            manifest = {"schema_version": SCHEMA_VERSION, "entries": {}}
            _add_records(manifest, place, "make the folder again")
        write_sealed(path, manifest)
        for record in _records(place, _TAKEN):
            record.unlink()
        with contextlib.suppress(OSError):  # somebody has written one in the meantime
            place.rmdir()


def _records(place: Path, suffix: str) -> list[Path]:
    """Whole ones, not those that are being written."""
    return sorted(path for path in place.glob(f"*{suffix}") if ".tmp" not in path.suffixes)


def _add_records(manifest: dict[str, Any], place: Path, repair: str) -> None:
    """Add the entries that are files of their own; the newest of a key counts."""
    for suffix in (_TAKEN, ".json"):
        for path in _records(place, suffix):
            try:
                record = _of_this_version(read_sealed(path, repair), path, repair)
            except FileNotFoundError:  # taken or merged since it was listed
                continue
            entries = manifest.setdefault("entries", {})
            entries.pop(path.stem, None)
            if record.get("entry") is not None:
                entries[path.stem] = record["entry"]


def read_manifest(folder: str | Path, repair: str = "make the folder again") -> dict:
    """The manifest of ``folder``, with the entries that are not merged into it yet.

    Raises:
        ArtifactMissingError: there is none.
        LaterVersionError: a later version of this program wrote it.
        ArtifactError: it is damaged.
    """
    path, place = _manifest_path(folder), Path(folder) / RECORDS
    records = place.is_dir()
    try:
        manifest = _of_this_version(read_sealed(path, repair), path, repair)
    except ArtifactMissingError:
        if not records:
            raise
        manifest = {"schema_version": SCHEMA_VERSION}
    if records:
        _add_records(manifest, place, repair)
    for key in ("files", "beside", "entries", "inputs"):
        if not isinstance(manifest.get(key, {}), dict):
            raise ArtifactError(f"a mapping {key}", got=type(manifest[key]).__name__, where=path, repair=repair)
    return manifest


def _of_this_version(content: dict[str, Any], path: Path, repair: str) -> dict[str, Any]:
    version = content.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        kind = LaterVersionError if isinstance(version, int) else ArtifactError
        raise kind(f"schema_version up to {SCHEMA_VERSION}", got=version, where=path, repair=repair)
    return content


def check_manifest(
    folder: str | Path, *, verify_files: bool, repair: str = "make the folder again", remember: bool = False
) -> dict:
    """Check that ``folder`` is complete and, with ``verify_files``, that its files are those of the manifest.

    A file that was compared before and has not changed since costs a look at its time stamp (:mod:`.remembered`); with
    ``remember``, also in later processes.

    Raises:
        ArtifactMissingError: the manifest or a file is not there.
        ArtifactError: a fingerprint is missing or differs; both are in the message.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, repair)
    files = manifest.get("files", {}) | manifest.get("beside", {})
    for entry in manifest.get("entries", {}).values():
        files |= entry.get("files", {})
    for name in files:
        if not (folder / name).is_file():
            raise ArtifactMissingError("a file of the manifest", got="nothing", where=folder / name, repair=repair)
    if verify_files:
        for name, found in changed_files(folder, files, remember=remember).items():
            raise ArtifactError(f"fingerprint {files[name]}", got=found, where=folder / name, repair=repair)
    _check_own(manifest, _manifest_path(folder), repair)
    return manifest


def _check_own(manifest: Mapping[str, Any], path: Path, repair: str) -> None:
    """The manifest's own fingerprint; one with entries has a fingerprint in each of them instead."""
    expected = manifest.get("fingerprint")
    found = fingerprint_config({key: manifest.get(key) for key in ("kind", "files", "config")})
    if expected is None and "entries" not in manifest:
        raise ArtifactError("a fingerprint in the manifest", got="none", where=path, repair=repair)
    if expected is not None and expected != found:
        raise ArtifactError(f"fingerprint {expected}", got=f"{found}, damaged or edited", where=path, repair=repair)
