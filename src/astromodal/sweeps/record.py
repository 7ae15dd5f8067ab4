"""``sweep.json``: what a sweep consists of, so that it can be continued without its command being typed again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..config.checks.names import check_name
from ..config.launching.continued import without_control
from ..errors import ArtifactError
from ..files.io import read_json, write_json
from ..provenance.manifest import utc_now

FILE = "sweep.json"
SCHEMA_VERSION = 1


@dataclass
class SweepRecord:
    """Content of ``sweep.json``."""

    stage: str
    run_id: str
    arguments: list[str] = field(default_factory=lambda: without_control(sys.argv[1:]))  # of the command
    created: str = field(default_factory=utc_now)
    jobs: list[dict] = field(default_factory=list)  # number, overrides (swept ones), config_fingerprint

    @classmethod
    def read(cls, folder: Path) -> SweepRecord:
        """That of a sweep's folder.

        Raises:
            ArtifactError: there is none, or it is damaged.
        """
        values = read_json(folder / FILE)
        try:
            if values.pop("schema_version") != SCHEMA_VERSION:
                raise KeyError("schema_version")
            record = cls(**values)
            if not all(_is_job(job) for job in record.jobs) or not isinstance(record.arguments, list):
                raise TypeError("jobs without number and fingerprint")
            return record
        except (TypeError, KeyError, AttributeError) as error:
            raise ArtifactError("the record of a sweep", got=repr(error), where=folder / FILE) from error

    def write(self, folder: Path) -> None:
        """Atomically."""
        write_json(folder / FILE, {"schema_version": SCHEMA_VERSION, **asdict(self)})

    def numbers(self, fingerprint: str) -> list[int]:
        """Numbers of the jobs with this configuration, newest first."""
        return sorted((j["number"] for j in self.jobs if j["config_fingerprint"] == fingerprint), reverse=True)

    def place(self, number: int) -> str:
        """Name of a job's folder: its number, unless hydra.sweep.subdir has said something else."""
        found = next((j.get("folder") for j in self.jobs if j["number"] == number), None)
        return str(number) if found is None else check_name(found, f"folder of job {number}")

    def add(self, number: int, swept: Sequence[str], fingerprint: str, folder: str | None) -> str:
        """Enter a job; returns the name of its folder, which no other job has."""
        place = folder
        if folder is not None and folder in [self.place(j["number"]) for j in self.jobs]:
            place = f"{folder}-{number}"
        entry = {"number": number, "overrides": list(swept), "config_fingerprint": fingerprint}
        self.jobs.append(entry if place is None else entry | {"folder": place})
        return self.place(number)

    def next_number(self) -> int:
        """The first number that no job has had."""
        return max((j["number"] for j in self.jobs), default=-1) + 1


def _is_job(entry: object) -> bool:
    """Whether an entry has what a job is found by; its number is the name of a folder."""
    if not isinstance(entry, dict) or not isinstance(entry.get("config_fingerprint"), str):
        return False
    number = entry.get("number")
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 31
