"""Text, JSON and JSON lines: what people and other programs read about a run.

Always valid JSON: NaN and infinity become null, NumPy values become plain ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, ArtifactMissingError
from .atomic import atomic_path, read_error, writing
from .bounded import check_file_size, inside, walk

MAX_JSON = 1 << 26  # bytes; the largest file of a survey of ten thousand fields has a tenth
MAX_LINE = 1 << 24  # bytes


def plain(value: Any) -> Any:
    """``value`` in JSON's types: NumPy numbers and arrays, paths and enums turned plain; NaN and infinity to null.

    >>> plain({"a": np.float32(0.5), "b": float("nan"), "c": (1, Path("x"))})
    {'a': 0.5, 'b': None, 'c': [1, 'x']}
    """
    if isinstance(value, Mapping):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a 0-dimensional tensor
        return plain(value.item())
    return str(value)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path: str | Path, obj: Any) -> None:
    """Write ``obj`` as readable, valid JSON (NaN and infinity become null), atomically."""
    write_text(path, json.dumps(plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, repair: str = "make the file again") -> Any:
    """Read a JSON file.

    Raises:
        ArtifactMissingError: there is no such file.
        ArtifactError: it is damaged.
    """
    try:
        check_file_size(path, MAX_JSON, "a JSON file")
        return json.loads(Path(path).read_bytes())
    except ArtifactError:
        raise
    except FileNotFoundError as error:
        raise ArtifactMissingError("a JSON file", got="nothing", where=path) from error
    except OSError as error:
        raise read_error(error, path) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError("valid JSON", got=str(error), where=path, repair=repair) from error


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ArtifactMissingError, ArtifactError: as :func:`read_json`, or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError("a JSON object", got=type(value).__name__, where=path)
    try:
        for _ in walk(value, Path(path).stat().st_size, inside):
            pass
    except ValueError as error:
        raise ArtifactError("a JSON object", got=error, where=path) from error
    return value


def append_jsonl(path: str | Path, obj: Any) -> None:
    """Append ``obj`` as one line of valid JSON (NaN and infinity become null); the line reaches the system at once.

    The file is opened anew each time, so that a file that was replaced meanwhile (:func:`truncate_jsonl`) is met.
    """
    line = json.dumps(plain(obj), ensure_ascii=False, allow_nan=False) + "\n"
    with writing(Path(path)), open(path, "ab", buffering=0) as file:
        data = memoryview(line.encode())
        while data:
            data = data[file.write(data) :]


def read_jsonl(path: str | Path) -> list[dict]:
    """Lines of a JSONL file; a last line that a killed process did not finish is left out.

    Raises:
        ArtifactMissingError: there is no such file.
        ArtifactError: a line inside is damaged.
    """
    try:
        return [json.loads(line) for line in _lines(Path(path)) if line.strip() and line.endswith(b"\n")]
    except FileNotFoundError as error:
        raise ArtifactMissingError("a JSONL file", got="nothing", where=path) from error
    except ArtifactError:
        raise
    except OSError as error:
        raise read_error(error, path) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError("one JSON object per line", got=str(error), where=path) from error


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their ends, one at a time.

    Raises:
        ArtifactError: one is longer than any that a run writes.
    """
    with open(path, "rb") as file:
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise ArtifactError(f"lines of at most {MAX_LINE} bytes", got="a longer one", where=path)
            yield line


def truncate_jsonl(path: str | Path, max_step: int | None = None) -> int:
    """Cut off what lies beyond ``max_step`` and a last, unfinished line; for resuming. Returns the lines removed.

    A file that is not there is left so; a file with nothing to cut is not rewritten.
    """
    path = Path(path)
    if not path.exists():
        return 0
    lines = list(_lines(path))
    kept = [
        line
        for line in lines
        if line.endswith(b"\n") and _step(line, path) <= (math.inf if max_step is None else max_step)
    ]
    if len(kept) < len(lines):
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.writelines(kept)
    return len(lines) - len(kept)


def _step(line: bytes, path: Path) -> float:
    try:
        return float(json.loads(line).get("step", -math.inf))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ArtifactError("one JSON object per line", got=line[:80], where=path) from error
