"""JSON files that later stages decide by: with a checksum of their own, so that damage is found when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..files.json_files import plain, read_json, write_json
from .fingerprints import fingerprint_config

CHECKSUM = "checksum"


def write_sealed(path: str | Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``content`` with its checksum, atomically; returns what was written."""
    sealed = {key: value for key, value in plain(content).items() if key != CHECKSUM}
    sealed[CHECKSUM] = fingerprint_config(sealed)
    write_json(path, sealed)
    return sealed


def read_sealed(path: str | Path, repair: str = "make the file again") -> dict[str, Any]:
    """The content of a file that :func:`write_sealed` wrote. One without a checksum (of an older version) is taken.

    Raises:
        ArtifactMissingError: there is no such file.
        ArtifactError: it is no JSON object, or not the one that was written.
    """
    content = read_json(path, repair)
    if not isinstance(content, dict):
        raise ArtifactError("a JSON object", got=type(content).__name__, where=path, repair=repair)
    expected = content.pop(CHECKSUM, None)
    if expected is not None and expected != (found := fingerprint_config(content)):
        raise ArtifactError(
            f"content with the checksum {expected}", got=f"{found}, damaged or edited", where=path, repair=repair
        )
    return content
