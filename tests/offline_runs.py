"""Offline runs of Weights & Biases read back: its log format (that of LevelDB, blocks of 32 KiB) and its own messages.

The Python reader of this format (``wandb.sdk.internal.datastore``) is gone from current releases. This one gave the
same records as that of wandb 0.21 on runs of up to 15 000 records.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _FIRST = 32768, 7, 7  # bytes; the file itself begins with seven bytes of its own
FULL, LAST = 1, 4


def records(path: Path) -> list[Any]:
    """Messages ``Record`` of a ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B", data[:7]
    at, part, found = _FIRST, b"", []
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        check, size, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        chunk = data[at + _HEADER : at + _HEADER + size]
        if len(chunk) < size:
            break  # still being written
        assert check == zlib.crc32(chunk, zlib.crc32(bytes([kind]))), f"damaged at byte {at}"
        part, at = part + chunk, at + _HEADER + size
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@dataclass
class OfflineRun:
    """What ``wandb sync`` would send."""

    run: Any
    config: dict[str, Any]
    exit_code: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of the history without W&B's own entries."""
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in self.history]


def _whole(path: Path, seconds: float) -> list[Any]:
    """Records up to the end of the run: W&B writes in a process of its own, on a busy machine a moment later."""
    deadline = time.monotonic() + seconds
    while True:
        found = records(path)
        if any(record.HasField("exit") for record in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def read_offline(folder: Path, seconds: float = 20.0) -> OfflineRun:
    """The run of a folder ``offline-run-…``."""
    (path,) = folder.glob("*.wandb")
    found = _whole(path, seconds)
    (run,) = [r.run for r in found if r.HasField("run")]
    offline = OfflineRun(run, {k: v for k, v in _values(run.config.update).items() if k != "_wandb"})
    for record in found:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            offline.history.append(_values(record.history.item))
        elif kind == "summary":
            offline.summary |= _values(record.summary.update)
        elif kind == "artifact":
            offline.artifacts.append(record.artifact)
        elif kind == "exit":
            offline.exit_code = record.exit.exit_code
    return offline
