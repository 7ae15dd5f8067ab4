"""What a run directory holds for Weights & Biases, and whether W&B has it already from the run itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, Final

from ..compare.rundir import Run
from ..config.reading.older import migrated
from ..errors import ArtifactError
from ..files.io import read_mapping
from ..provenance.manifest import fingerprint_config, fingerprint_file

ONLINE: Final = "online"
SYNCED: Final = "synced"
OFFLINE: Final = "offline"


@dataclass(frozen=True, eq=False)
class Content:
    """One look at a run directory.

    Attributes:
        data: whole lines of ``metrics.jsonl``; ``torn`` tells that an unfinished one follows.
        config: the configuration, nested, as the run itself would have sent it.
    """

    run: Run
    data: bytes
    torn: bool
    config: Mapping[str, Any]

    @property
    def lines(self) -> int:
        return self.data.count(b"\n")

    def rows(self, start: int) -> list[dict[str, Any]]:
        """Records from line ``start`` on as W&B takes them: ``null`` is NaN again, ``time`` is W&B's time stamp."""
        return [_row(json.loads(line)) for line in self.data.split(b"\n")[start:] if line.strip()]

    @cached_property
    def plots(self) -> dict[str, Path]:
        """Pictures by the name that the run itself gives them."""
        return {path.stem: path for path in sorted((self.run.path / "plots").glob("*.png"))}

    @cached_property
    def plot_fingerprints(self) -> dict[str, str]:
        return {name: fingerprint_file(path) for name, path in self.plots.items()}

    @cached_property
    def summary_fingerprint(self) -> str:
        return fingerprint_config(self.run.summary)

    @property
    def exit_code(self) -> int:
        return 0 if self.run.status == "done" else 1


def read_content(run: Run) -> Content:
    """The content at this moment; a run may go on meanwhile.

    Raises:
        ArtifactError: ``config.json`` is damaged, or says something that Weights & Biases would refuse.
    """
    config = migrated(read_mapping(run.path / "config.json"), run.path / "config.json")
    _check_tracking(config, run.path / "config.json")
    path = run.path / "metrics.jsonl"
    data = path.read_bytes() if path.is_file() else b""
    whole = data[: data.rfind(b"\n") + 1]
    return Content(run, whole, len(whole) < len(data), config)


def _check_tracking(config: Mapping[str, Any], where: Path) -> None:
    """Refuse a run, and not all that follow, for what it says of where it belongs."""
    tracking = config.get("tracking") or {}
    if not isinstance(tracking, Mapping):
        raise ArtifactError("the section tracking", got=repr(tracking)[:80], where=where)
    texts = {f"tracking.{name}": tracking.get(name) for name in ("project", "entity", "group", "notes")}
    for name, value in (texts | {"name": config.get("name")}).items():
        if not isinstance(value, (str, NoneType)):
            raise ArtifactError(f"text for {name}", got=repr(value)[:80], where=where)
    tags = tracking.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) and len(tag) <= 64 for tag in tags):
        raise ArtifactError("a list of texts for tracking.tags", got=repr(tags)[:80], where=where)
    data = config.get("data")
    if not isinstance(data, (Mapping, NoneType)):
        raise ArtifactError("the section data", got=repr(data)[:80], where=where)


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: math.nan if value is None else value for key, value in record.items() if key != "time"}
    return row | ({"_timestamp": record["time"]} if isinstance(record.get("time"), int | float) else {})


def own_record(run: Run) -> tuple[str, Path] | None:
    """What the run itself left at Weights & Biases: ``online``, ``synced`` or ``offline``, and the folder of that.

    Folders of an online run are called ``run-…``; ``wandb sync`` leaves a ``.synced`` file beside what it has sent.
    """
    folders = sorted((run.path / "wandb").glob("*run-*-*"))
    online = [folder for folder in folders if folder.name.startswith("run-") and folder.is_dir()]
    if online or run.record.get("wandb_mode") == ONLINE:
        return ONLINE, (online or [run.path / "wandb"])[-1]
    offline = [folder for folder in folders if folder.name.startswith("offline-run-") and folder.is_dir()]
    if not offline:
        return None
    return (SYNCED if all(is_synced(folder) for folder in offline) else OFFLINE), offline[-1]


def is_synced(folder: Path) -> bool:
    """Whether ``wandb sync`` has sent an offline record."""
    return any(folder.glob("*.synced"))
