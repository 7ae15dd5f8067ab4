"""What of a run was sent to Weights & Biases: ``wandb_replay.json`` in its directory.

One entry per place (a project on a server, or an offline record). It is written before anything is sent and again after
all was sent, so that a replay that was interrupted is known as such.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..files.io import read_json, write_json

NAME = "wandb_replay.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Sent:
    """State of one replay.

    Attributes:
        target: where to, see :class:`astromodal.dashboards.replay.Target`.
        id: of the run there.
        lines, bytes, digest: of ``metrics.jsonl``: how many whole lines and bytes were sent, and their fingerprint.
        next_step: W&B's own counter of records, from which a continuation goes on.
        status, summary: of the run, as sent (the summary as a fingerprint).
        plots: name → fingerprint of the pictures sent.
        folders: finished offline records, below the run directory.
    """

    target: str
    id: str
    lines: int = 0
    bytes: int = 0
    digest: str = ""
    next_step: int = 0
    status: str = ""
    summary: str = ""
    plots: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


def read_sent(run_dir: Path) -> list[Sent]:
    """All entries, oldest first.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = run_dir / NAME
    if not path.is_file():
        return []
    content = read_json(path)
    try:
        return [_sent(entry) for entry in content["sent"]]
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            "a record of what was sent", got=repr(error), where=path, repair="remove it, and replay again"
        ) from error


def _sent(entry: dict[str, Any]) -> Sent:
    known = {f.name: entry[f.name] for f in fields(Sent) if f.name in entry}
    return Sent(**known | {"folders": tuple(known.get("folders", ()))})


def write_sent(run_dir: Path, entries: Iterable[Sent]) -> None:
    """Replace the file."""
    write_json(run_dir / NAME, {"schema_version": SCHEMA_VERSION, "sent": [asdict(entry) for entry in entries]})
