"""Reading and writing of artifacts: atomic writes, and loading that never executes what a file says.

Arrays live in ``.npz`` (see :mod:`.npz`), codebooks in ``.joblib`` (see :mod:`.safe_pickle`), weights in ``.pt``,
what people read in JSON (see :mod:`.json_files`). Every failure is one line that names the file.
"""

from __future__ import annotations

import errno
import math
import os
import pickle
import re
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, ArtifactMissingError, UnsafeFileError
from .atomic import atomic_path, read_error
from .bounded import check_shape
from .json_files import append_jsonl, plain, read_json, read_jsonl, read_mapping, truncate_jsonl, write_json, write_text
from .locks import FileLock
from .npz import Array, NpzWriter, _read_npy_header, load_npz, load_npz_key, open_npz, save_npz
from .safe_pickle import read_joblib
from .torch_files import check_torch_file

__all__ = [
    "Array",
    "FileLock",
    "NpzWriter",
    "append_jsonl",
    "atomic_path",
    "load_codebook",
    "load_joblib",
    "load_npz",
    "load_npz_key",
    "load_torch",
    "open_npz",
    "plain",
    "read_json",
    "read_jsonl",
    "read_mapping",
    "save_joblib",
    "save_npz",
    "save_torch",
    "truncate_jsonl",
    "write_json",
    "write_text",
]


# ------------------------------------------------------------------------------------------ joblib


def save_joblib(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a dict of arrays, numbers and text as an uncompressed joblib file, atomically.

    Raises:
        ArtifactError: a value is of another kind.
    """
    import joblib

    for name, value in values.items():
        bad = (
            value.dtype.hasobject
            if isinstance(value, np.ndarray)
            else not isinstance(value, (str, int, float, np.generic))
        )
        if bad:
            raise ArtifactError("an array, number or text", got=type(value).__name__, where=f"{path}, key {name}")
    arrays = {k: np.asarray(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        joblib.dump(arrays, file)


def load_joblib(path: str | Path) -> dict[str, Any]:
    """The dict of arrays, numbers and text in a joblib file; nothing that the file names is called.

    Raises:
        ArtifactMissingError, ArtifactError, UnsafeFileError: see :func:`astromodal.files.safe_pickle.read_joblib`.
    """
    value = read_joblib(path)
    if not isinstance(value, dict):
        raise ArtifactError("a dict of arrays", got=type(value).__name__, where=path)
    return value


# ------------------------------------------------------------------------------------------- torch


class _Recording:
    """A file that remembers its ``OSError``: torch's writer reports a full disk as something unreadable."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_torch(path: str | Path, obj: Any) -> None:
    """``torch.save``, atomically. ``obj`` should be tensors and plain Python, or :func:`load_torch` will refuse it."""
    import torch

    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        recording = _Recording(file)
        try:
            torch.save(obj, recording)  # type: ignore[arg-type]  # it needs no more of a file than this has
        except Exception as error:
            if recording.error is not None:
                raise recording.error from error
            raise


def load_torch(path: str | Path, map_location: Any = "cpu") -> Any:
    """``torch.load`` with ``weights_only=True``.

    Raises:
        ArtifactMissingError: there is no such file.
        ArtifactError: the file is damaged, be it by a single bit.
        UnsafeFileError: it holds objects of other kinds than tensors and plain Python.
    """
    import torch

    try:
        check_torch_file(path)
        return torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise ArtifactMissingError("a file of weights", got="nothing", where=path) from error
    except UnsafeFileError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # torch's reader seeks to where a file that was cut has no bytes
            raise read_error(error, path) from error
        raise ArtifactError(
            "a whole file of weights", got=error, where=path, repair="use another checkpoint"
        ) from error
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        UnicodeDecodeError,
        OverflowError,
        MemoryError,
        NotImplementedError,
    ) as error:
        reason = _reason(error)
        if isinstance(error, pickle.UnpicklingError) and _REFUSED.search(reason):
            raise UnsafeFileError(
                "tensors and plain values", got=reason, where=path, repair="save state_dict() and plain values only"
            ) from error
        raise ArtifactError(
            "a whole file of weights", got=reason, where=path, repair="use another checkpoint"
        ) from error


# Words by which torch says that it refused to call something (and not that the file is no pickle at all).
_REFUSED = re.compile(r"global|class |function|reduce|instantiate|allowlist|build", re.IGNORECASE)


def _reason(error: BaseException) -> str:
    """The line of torch's long message that says what is wrong."""
    text = str(error)
    found = re.search(r"WeightsUnpickler error:\s*(.+)|(Trying to load unsupported .+)", text)
    line = (found[1] or found[2]) if found else next(iter(text.strip().splitlines()), "")
    return line.strip()[:200] or type(error).__name__


# --------------------------------------------------------------------------------------- codebooks


def load_codebook(
    path: str | Path, key_candidates: Sequence[str] = ("centroids", "codebook", "centers", "cluster_centers_")
) -> np.ndarray:
    """The codebook in a ``.joblib``, ``.npz`` or ``.npy`` file, as float32 ``(V, D)``.

    Args:
        key_candidates: names under which it may stand; the first that is there is taken.

    Raises:
        ArtifactMissingError: there is no such file.
        ArtifactError: none of the names is there, or what is there is no finite ``(V, D)`` array.
        UnsafeFileError: the file holds objects.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        value: Any = load_npz_key(path, key_candidates)
    elif suffix == ".npy":
        value = _load_npy(path)
    else:
        value = read_joblib(path)
        if isinstance(value, dict):
            found = next((k for k in key_candidates if k in value), None)
            if found is None:
                got = ", ".join(map(str, value)) or "an empty dict"
                raise ArtifactError(f"a key {' or '.join(key_candidates)}", got=got, where=path)
            value = value[found]
    array = np.asarray(value)
    array = array[:, None] if array.ndim == 1 else array
    if array.dtype.kind not in "iuf" or array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ArtifactError("a finite codebook of shape (V, D)", got=f"{array.dtype} {array.shape}", where=path)
    return np.ascontiguousarray(array, dtype=np.float32)


def _load_npy(path: str | Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            shape, _, dtype = _read_npy_header(file, str(path))
            size = os.fstat(file.fileno()).st_size
            left = size - file.tell()
            check_shape(shape, dtype.itemsize, size)
            if math.prod(shape) * dtype.itemsize > left:
                raise ValueError(f"{left} bytes of data")
            file.seek(0, os.SEEK_SET)
            return np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise ArtifactMissingError("an .npy file", got="nothing", where=path) from error
    except OSError as error:
        raise read_error(error, path) from error
    except (ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError("a whole .npy file", got=error, where=path, repair="make the file again") from error
