"""Which fields need no encoding: those whose token files are there, whole, and made from what they would be made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, ArtifactMissingError
from ..provenance.manifest import LaterVersionError, changed_files, read_manifest, update_manifest
from .writer import FORMAT


def known_fields(folder: Path, log: logging.Logger) -> dict[str, Any]:
    """What the manifest says of each field; a damaged manifest says nothing, and is replaced by the first new entry."""
    try:
        return dict(read_manifest(folder).get("entries", {}))
    except ArtifactMissingError:
        return {}
    except LaterVersionError:
        raise
    except ArtifactError as error:
        log.warning("encoding every field again: %s", error)
        return {}


def up_to_date(
    folder: Path, entries: Mapping[str, Any], wanted: Mapping[str, Mapping[str, str]], log: logging.Logger
) -> dict[str, dict[str, Any]]:
    """Summaries of the fields whose files are there, whole, and made from the wanted inputs."""
    same = {
        field: entries[field]
        for field, inputs in wanted.items()
        if field in entries and entries[field].get("format") == FORMAT and entries[field]["inputs"] == inputs
    }
    there = {field: entry for field, entry in same.items() if _whole(folder, entry)}
    files = {name: fingerprint for entry in there.values() for name, fingerprint in entry["files"].items()}
    changed = changed_files(folder, files, remember=True)
    done = {field: entry["summary"] for field, entry in there.items() if not changed.keys() & entry["files"].keys()}
    for field in sorted(same.keys() - done.keys()):
        names = sorted(changed.keys() & same[field]["files"].keys())
        log.warning("field %s is encoded again: %s", field, f"{', '.join(names) or 'a file'} is not what was written")
    return done


def forget(folder: Path, fields: set[str], log: logging.Logger) -> None:
    """Take fields whose cubes are gone out of the manifest: nothing would ever bring their tokens up to date."""
    while fields:
        field = fields.pop()
        log.warning("field %s is no longer in the survey; its tokens will not be used", field)
        update_manifest(folder, field, None)


def _whole(folder: Path, entry: Mapping[str, Any]) -> bool:
    paths = {name: folder / name for name in entry["sizes"]}
    return all(path.is_file() and path.stat().st_size == entry["sizes"][name] for name, path in paths.items())
