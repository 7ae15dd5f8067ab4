"""Writing token files: batches are appended, nothing is held in memory, and everything appears at once.

:mod:`.store` says what the files hold.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.atomic import writing
from ..files.io import NpzWriter
from ..provenance.manifest import fingerprint_config, fingerprint_file, update_manifest

FORMAT = 4  # of the token files: 2 has the errors of tokens (sigma), 3 double values and findings, 4 errors of images

_FILES = {
    "image": ("image_tokens", "tokens"),
    "latents": ("image_latents", "latents"),
    "scalar": ("scalar_tokens", "scalar_tokens"),
    "spectrum": ("spectrum_tokens", "spectrum_tokens"),
    "splits": ("splits", "splits"),
}


def token_paths(folder: str | Path, field: str) -> dict[str, Path]:
    """Path of each token file of a field, by kind: image, latents, scalar, spectrum, splits."""
    return {kind: Path(folder) / sub / f"datacube_{field}_{name}.npz" for kind, (sub, name) in _FILES.items()}


class TokenWriter:
    """Takes batches of encoded objects; a subclass says where their arrays go."""

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}  # spectrum group → tokens written
        self._lengths: dict[str, int] = {}
        self._columns: tuple[str, ...] = ()

    def _append(self, kind: str, name: str, array: np.ndarray) -> None:
        """Rows of one member of one kind of file."""
        raise NotImplementedError

    def add_scalars(self, scalars: Any, columns: tuple[str, ...]) -> None:
        """Append a batch of ``ScalarTokens``."""
        self._columns = tuple(columns)
        self._append("scalar", "tokens", np.asarray(scalars.tokens, np.uint16))
        for name in ("present", "clipped", "nondetected"):
            self._append("scalar", name, np.asarray(getattr(scalars, name), bool))
        for name in ("values", "errors"):
            self._append("scalar", name, np.asarray(getattr(scalars, name), np.float64))
        self._append("scalar", "sigma", np.asarray(scalars.sigma, np.float16))

    def add_spectrum(
        self, group: str, tokens: np.ndarray, present: np.ndarray, sigma: np.ndarray | None = None
    ) -> None:
        """Append a batch of one group: ``tokens`` and ``sigma (n, L)``, of which only rows with ``present`` are kept.

        ``sigma=None``: no errors are known.
        """
        present = np.asarray(present, bool)
        length = int(tokens.shape[1])
        if group not in self._ends:
            self._ends[group], self._lengths[group] = 0, length
            self._append("spectrum", f"offsets_{group}", np.zeros(1, np.int64))
        self._append("spectrum", f"tokens_{group}", np.asarray(tokens[present], np.uint16).reshape(-1))
        sigma = np.zeros(tokens.shape, np.float16) if sigma is None else np.asarray(sigma, np.float16)
        self._append("spectrum", f"sigma_{group}", sigma[present].reshape(-1))
        self._append("spectrum", f"offsets_{group}", self._ends[group] + np.cumsum(present, dtype=np.int64) * length)
        self._append("spectrum", f"present_{group}", present)
        self._ends[group] += int(present.sum()) * length

    def add_image(
        self, tokens: np.ndarray, latents: np.ndarray, present: np.ndarray, sigma: np.ndarray | None = None
    ) -> None:
        """Append a batch of images: ``tokens`` and ``sigma (n, T)``, ``latents (n, c, h, w)``, ``present (n,)``.

        ``sigma=None``: no errors are known.
        """
        present = np.asarray(present, bool)
        sigma = np.zeros(np.shape(tokens), np.float16) if sigma is None else sigma
        self._append("image", "tokens", np.asarray(tokens, np.uint16))
        self._append("image", "sigma", np.where(present[:, None], sigma, 0).astype(np.float16))
        self._append("image", "present", present)
        self._append("latents", "latents", np.asarray(latents, np.float32))
        self._append("latents", "present", present)


class FieldWriter(TokenWriter):
    """Writes all token files of one field: batches are appended, :meth:`commit` puts everything in place at once.

    Files are assembled in a folder of their own beside the final ones, so that a failure (or a full disk) at any
    point leaves the files of an earlier encoding whole.
    """

    def __init__(self, folder: str | Path, field: str) -> None:
        super().__init__()
        self.folder, self.field = Path(folder), field
        self._staging = self.folder / ".staging" / field
        shutil.rmtree(self._staging, ignore_errors=True)  # what a killed process left
        self._final = token_paths(self.folder, field)
        self._staged = token_paths(self._staging, field)
        self._writers: dict[str, NpzWriter] = {}

    def _writer(self, kind: str) -> NpzWriter:
        if kind not in self._writers:
            with writing(self._staged[kind]):
                self._staged[kind].parent.mkdir(parents=True, exist_ok=True)
            self._writers[kind] = NpzWriter(self._staged[kind])
        return self._writers[kind]

    def _append(self, kind: str, name: str, array: np.ndarray) -> None:
        self._writer(kind).append(name, array)

    def commit(self, ids: np.ndarray, split: np.ndarray, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Finish the files, move them into place and write the field's manifest entry last; return that entry."""
        self._writer("splits").set("split", np.asarray(split, np.uint8))
        if "scalar" in self._writers:
            self._writers["scalar"].set("columns", np.array(self._columns, dtype=np.str_))
        for writer in self._writers.values():
            writer.set("ids", ids)
            writer.close()
        hashes = {kind: fingerprint_file(self._staged[kind]) for kind in self._writers}
        sizes = {kind: self._staged[kind].stat().st_size for kind in self._writers}
        # Between the first rename and the new entry the field counts as not encoded.
        update_manifest(self.folder, self.field, None)
        for kind, path in self._final.items():
            with writing(path):
                if kind in self._writers:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(self._staged[kind], path)
                else:
                    path.unlink(missing_ok=True)  # a modality that is no longer encoded
        names = {kind: self._final[kind].relative_to(self.folder).as_posix() for kind in self._writers}
        whole = {
            **entry,
            "format": FORMAT,
            "rows": len(ids),
            "columns": list(self._columns),
            "group_lengths": self._lengths,
            "files": {names[kind]: hashes[kind] for kind in names},
            "sizes": {names[kind]: sizes[kind] for kind in names},
        }
        whole["summary"] = {**entry.get("summary", {}), "bytes": sum(sizes.values())}
        whole["fingerprint"] = fingerprint_config({"inputs": whole["inputs"], "files": whole["files"]})
        update_manifest(self.folder, self.field, whole)
        shutil.rmtree(self._staging, ignore_errors=True)
        return whole

    def __enter__(self) -> FieldWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.abort()
        shutil.rmtree(self._staging, ignore_errors=True)
