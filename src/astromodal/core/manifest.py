"""What a folder of artifacts was made from: fingerprints of inputs and files, configuration, code and versions.

A stage that reads a folder checks its manifest; a stage that is run again compares fingerprints and leaves alone
what is up to date. Fingerprints are 128 bits of BLAKE2b in hexadecimal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, ArtifactMissingError
from .io import FileLock, plain, read_json, write_json

SCHEMA_VERSION = 1
_PACKAGES = ("astromodal", "torch", "numpy", "pyarrow", "scikit-learn", "hydra-core", "omegaconf", "joblib", "wandb")
_RACY_SECONDS = 2.0  # a file changed this recently may change again within one tick of its time stamp

_remembered: dict[tuple[str, int, int, int], str] = {}


def _hash() -> Any:
    return hashlib.blake2b(digest_size=16)


def fingerprint_file(path: str | Path, cache: str | Path | None = None) -> str:
    """Fingerprint of a file's content.

    Remembered in the process by size, time stamp (ns) and inode; with ``cache``, also in that JSON file.

    Raises:
        ArtifactMissingError: there is no such file.
    """
    real = os.path.realpath(path)
    try:
        stat = os.stat(real)
        key = (real, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if key in _remembered:
            return _remembered[key]
        stored = _read_cache(cache).get(real)
        if stored and tuple(stored[:3]) == key[1:]:
            _remembered[key] = stored[3]
            return stored[3]
        with open(real, "rb") as file:
            result = hashlib.file_digest(file, _hash).hexdigest()
    except FileNotFoundError as error:
        raise ArtifactMissingError("a file", got="nothing", where=path) from error
    if time.time_ns() - stat.st_mtime_ns > _RACY_SECONDS * 1e9:
        _remembered[key] = result
        if cache is not None:
            with contextlib.suppress(ArtifactError), FileLock(cache, wait_seconds=1.0):  # only saves time
                write_json(cache, _read_cache(cache) | {real: [*key[1:], result]})
    return result


def _read_cache(cache: str | Path | None) -> dict:
    """The remembered fingerprints; a damaged or missing cache only costs time."""
    try:
        values = read_json(cache) if cache is not None else {}
    except ArtifactError:
        return {}
    return values if isinstance(values, dict) else {}


def fingerprint_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Fingerprint of names, dtypes, shapes and values, whatever the order of the mapping."""
    digest = _hash()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.hasobject:
            raise ArtifactError("an array of numbers or text", got=f"dtype {array.dtype}", where=name)
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        if array.size:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def fingerprint_config(obj: Any) -> str:
    """Fingerprint of a dataclass, OmegaConf node or mapping, as sorted JSON: the order of keys is without effect."""
    text = json.dumps(plain(_container(obj)), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _container(obj: Any) -> Any:
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return dataclasses.asdict(obj)
    if type(obj).__module__.startswith("omegaconf."):
        from omegaconf import OmegaConf

        return OmegaConf.to_container(obj, resolve=True, enum_to_str=True)
    return obj


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
    return {
        Path(os.path.relpath(folder / file, folder)).as_posix(): fingerprint_file(folder / file)
        for file in sorted(map(Path, files))
    }


def write_manifest(
    folder: str | Path,
    *,
    kind: str,
    config: Any,
    inputs: Mapping[str, str],
    files: Iterable[str | Path],
    run_id: str | None,
    extra: Mapping[str, Any] | None = None,
) -> dict:
    """Write ``<folder>/manifest.json`` after the files it speaks of; entries of :func:`update_manifest` are dropped.

    Args:
        inputs: name → fingerprint of what the files were made from.
        files: absolute, or relative to ``folder``; they are hashed.

    Returns:
        The manifest; its ``fingerprint`` is that of the files' hashes and the configuration.
    """
    folder = Path(os.path.abspath(folder))
    names = [os.path.relpath(f, folder) if Path(f).is_absolute() else f for f in files]
    hashes = _hash_files(folder, names)
    config = plain(_container(config))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "fingerprint": fingerprint_config({"kind": kind, "files": hashes, "config": config}),
        "files": hashes,
        "config": config,
        "inputs": dict(inputs),
        "git": git_state(),
        "versions": package_versions(),
        "run_id": run_id,
        "created": utc_now(),
        **(plain(extra) if extra else {}),
    }
    write_json(_manifest_path(folder), manifest)
    return manifest


def update_manifest(folder: str | Path, key: str, entry: Mapping[str, Any] | None) -> dict:
    """Set ``manifest["entries"][key]``, for folders in which several parts write (``None`` removes the entry).

    Read, change and write happen under a lock, so that processes may do this at the same time.
    """
    path = _manifest_path(folder)
    with FileLock(path, wait_seconds=60.0):
        manifest = read_json(path) if path.exists() else {"schema_version": SCHEMA_VERSION}
        entries = manifest.setdefault("entries", {})
        entries.pop(key, None)
        if entry is not None:
            entries[key] = plain(entry)
        write_json(path, manifest)
    return manifest


def read_manifest(folder: str | Path) -> dict:
    """The manifest of ``folder``.

    Raises:
        ArtifactMissingError: there is none.
        ArtifactError: it is damaged, or of a later version of this program.
    """
    path = _manifest_path(folder)
    manifest = read_json(path)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ArtifactError(
            f"schema_version up to {SCHEMA_VERSION}", got=version, where=path, repair="make the folder again"
        )
    return manifest


def check_manifest(folder: str | Path, *, verify_files: bool, repair: str = "make the folder again") -> dict:
    """Check that ``folder`` is complete and, with ``verify_files``, that its files are those of the manifest.

    Raises:
        ArtifactMissingError: the manifest or a file is not there.
        ArtifactError: a fingerprint differs; both are in the message.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    files = dict(manifest.get("files", {}))
    for entry in manifest.get("entries", {}).values():
        files |= entry.get("files", {})
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactMissingError("a file of the manifest", got="nothing", where=path, repair=repair)
        found = fingerprint_file(path) if verify_files else expected
        if found != expected:
            raise ArtifactError(f"fingerprint {expected}", got=found, where=path, repair=repair)
    if "fingerprint" in manifest:
        parts = {key: manifest.get(key) for key in ("kind", "files", "config")}
        found = fingerprint_config(parts)
        if found != manifest["fingerprint"]:
            raise ArtifactError(
                f"fingerprint {manifest['fingerprint']}",
                got=found,
                where=_manifest_path(folder),
                repair=f"the manifest was edited: {repair}",
            )
    return manifest
