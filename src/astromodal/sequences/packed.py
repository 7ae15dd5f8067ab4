"""Reading packed sequences: a file per split, or one per split and shard, read as they are indexed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactMissingError
from ..files.io import open_npz
from ..provenance.manifest import check_manifest
from .shards import joined

SPLITS = ("train", "val", "test")


def shard_name(split: str, number: int, n_shards: int) -> str:
    """File of one shard of a split."""
    return f"{split}.npz" if n_shards == 1 else f"{split}-{number:04d}.npz"


class PackedSequences:
    """Packed sequences on disk. Pickles as its path.

    Raises:
        ArtifactMissingError: there are none.
        ArtifactError: a file is not the one that was written; each is read once per change of it to find out.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._repair = f"run the same command again: what is damaged in {self.folder} is packed again"
        self.manifest = check_manifest(self.folder, verify_files=True, repair=self._repair, remember=True)

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return PackedSequences, (self.folder,)

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def summary(self) -> Mapping[str, Any]:
        """Rows per split, objects left out, tokens per modality, length histogram."""
        return self.manifest["summary"]

    @property
    def fields(self) -> list[str]:
        """Names behind the field index of a row."""
        return self.manifest["fields"]

    @cached_property
    def _arrays(self) -> dict[str, dict[str, Any]]:
        n = int(self.manifest.get("n_shards", 1))
        return {
            split: joined([open_npz(self.folder / shard_name(split, k, n), self._repair) for k in range(n)])
            for split in SPLITS
        }

    def split(self, name: str) -> dict[str, Any]:
        """Arrays of one split (:mod:`astromodal.files.file_array`): ``tokens, types, sigma`` (flat), ``offsets``
        (n + 1,), ``field, row, object_hash`` (n,), ``scalar_values`` (n, c; physical, NaN where not observed)."""
        if name not in SPLITS:
            raise ArtifactMissingError(f"a split from {', '.join(SPLITS)}", got=repr(name))
        return self._arrays[name]

    def n_rows(self, name: str) -> int:
        return int(self.manifest["summary"]["rows"][name])

    def first_index(self, name: str) -> int:
        """Global index of the split's first sequence: train, val and test count on from each other."""
        return sum(self.n_rows(other) for other in SPLITS[: SPLITS.index(name)])

    def chunks(self, name: str, rows: int = 4096) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Stream over a split: flat tokens, flat types, offsets that begin at 0."""
        arrays = self.split(name)
        offsets = arrays["offsets"]
        for start in range(0, len(offsets) - 1, rows):
            part = np.asarray(offsets[start : start + rows + 1])
            where = slice(int(part[0]), int(part[-1]))
            yield arrays["tokens"][where], arrays["types"][where], part - part[0]
