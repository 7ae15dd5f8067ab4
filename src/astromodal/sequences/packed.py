"""Reading packed sequences: three memory-mapped files, one per split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.io import map_npz
from ..core.manifest import check_manifest
from ..errors import ArtifactError, ArtifactMissingError

SPLITS = ("train", "val", "test")


class PackedSequences:
    """Packed sequences on disk, opened by memory mapping. Pickles as its path.

    Raises:
        ArtifactMissingError: there are none.
        ArtifactError: a file is not the one that was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = check_manifest(self.folder, verify_files=False)
        for name, size in self.manifest["sizes"].items():
            found = (self.folder / name).stat().st_size
            if found != size:
                raise ArtifactError(
                    f"{size} bytes",
                    got=found,
                    where=self.folder / name,
                    repair=f"remove {self.folder}; it is made again",
                )

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
    def _arrays(self) -> dict[str, dict[str, np.ndarray]]:
        # Plain ndarrays over the same maps: indexing np.memmap itself costs microseconds per call.
        return {
            name: {
                key: np.asarray(array).view(np.ndarray) for key, array in map_npz(self.folder / f"{name}.npz").items()
            }
            for name in SPLITS
        }

    def split(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of one split: ``tokens, types, sigma`` (flat), ``offsets`` (n + 1,), ``field, row, object_hash``
        (n,), ``scalar_values`` (n, c; physical, NaN where not observed)."""
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
            yield np.array(arrays["tokens"][where]), np.array(arrays["types"][where]), part - part[0]
