"""Encode one field: read a batch of rows, hand it to every tokenizer, append the codes, count what was found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.ids import normalize_ids
from ..core.io import FileLock
from ..errors import DataError
from .writer import FieldWriter

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..data.datacube import Datacube

_DAMAGED = {"wrong_length", "length_mismatch", "wave_not_increasing", "inf"}  # reasons that real gaps do not have


def encode_field(
    cube: Datacube, split: np.ndarray, inputs: Mapping[str, str], tokenizers: Any, data: DataConfig, folder: str | Path,
    update: Callable[[int], Any] = lambda n: None,
) -> dict[str, Any]:  # fmt: skip
    """Encode one field into ``folder`` (``<store>/tokens``) and return its summary.

    Raises:
        ArtifactError: another process encodes this field, or the disk is full.
        DataError: the cube cannot be read, or holds no rows.
    """
    started, folder = time.perf_counter(), Path(folder)
    reader = _FieldReader(cube, tokenizers, data)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"datacube_{cube.field}"), FieldWriter(folder, cube.field) as writer:
        n_rows = 0
        for batch in cube.batches(reader.columns, rows=data.batch_rows):
            n = batch.num_rows
            reader.encode(batch, writer)
            n_rows += n
            update(n)
        if not n_rows or n_rows != len(split):
            raise DataError(f"{len(split) or 'at least one'} rows", got=n_rows, where=cube.path)
        ids = normalize_ids(cube.ids())
        if len(ids) != n_rows:
            raise DataError(f"{n_rows} ids", got=len(ids), where=cube.path)
        summary = reader.summary() | {"rows": n_rows, "seconds": time.perf_counter() - started}
        return writer.commit(ids, split, {"inputs": dict(inputs), "summary": summary})["summary"]


class _FieldReader:
    """Reads one batch after another with the readers of the modalities, encodes, and keeps the tallies."""

    def __init__(self, cube: Datacube, tokenizers: Any, data: DataConfig) -> None:
        self.cube, self.tokenizers, self.data = cube, tokenizers, data
        self.present: Counter[str] = Counter()
        self.clipped: Counter[str] = Counter()
        self.nondetected: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        names: list[str] = []
        if tokenizers.scalar is not None:
            from ..data.scalars import scalar_sources

            names += scalar_sources(data, tokenizers.scalar.configs)
        if tokenizers.spectrum is not None:
            from ..data.spectra import spectrum_columns

            names += [name for group in tokenizers.spectrum.groups for name in spectrum_columns(data.spectra[group])]
        if tokenizers.image is not None:
            from ..data.images import ImageReader

            self.images = ImageReader(data, cube.field)
            names += self.images.columns
        self.columns = list(dict.fromkeys(names))

    def encode(self, batch: Any, writer: FieldWriter) -> None:
        """Read and encode one batch with every tokenizer, and hand the results to the writer."""
        if self.tokenizers.scalar is not None:
            self._scalars(batch, writer)
        if self.tokenizers.spectrum is not None:
            self._spectra(batch, writer)
        if self.tokenizers.image is not None:
            images = self.images.read(batch)
            encoded = self.tokenizers.image.encode(images)
            self.present["image"] += int(encoded.present.sum())
            self._count_reasons("image", images.reasons)
            writer.add_image(encoded.tokens, encoded.latents, encoded.present)

    def _scalars(self, batch: Any, writer: FieldWriter) -> None:
        from ..data.scalars import read_scalars

        tokenizer = self.tokenizers.scalar
        scalars = read_scalars(batch, self.data, tokenizer.configs)
        encoded = tokenizer.encode(scalars)
        self.present["scalar"] += int((encoded.present | encoded.nondetected).any(1).sum())
        for tally, array in ((self.clipped, encoded.clipped), (self.nondetected, encoded.nondetected)):
            tally.update({name: int(n) for name, n in zip(tokenizer.columns, array.sum(0), strict=True) if n})
        self._count_reasons("scalar", scalars.reasons)
        writer.add_scalars(encoded, tokenizer.columns)

    def _spectra(self, batch: Any, writer: FieldWriter) -> None:
        from ..data.spectra import read_spectra

        for group in self.tokenizers.spectrum.groups:
            spectra = read_spectra(batch, self.data, group)
            self._count_reasons(group, spectra.counts)
            for part, (tokens, present, sigma) in self.tokenizers.spectrum.encode_parts(group, spectra).items():
                self.present[part] += int(present.sum())
                writer.add_spectrum(part, tokens, present, sigma)

    def _count_reasons(self, name: str, reasons: Mapping[str, Any]) -> None:
        for reason, n in reasons.items():
            self.reasons.update(dict(_flat(f"{name}.{reason}", n)))

    def summary(self) -> dict[str, Any]:
        damaged = {reason: n for reason, n in self.reasons.items() if n and reason.rpartition(".")[2] in _DAMAGED}
        return {
            "present": dict(self.present),
            "clipped": dict(self.clipped),
            "nondetected": dict(self.nondetected),
            "reasons": {reason: n for reason, n in self.reasons.items() if n},
            "damaged": damaged,
            "corrupt": sum(damaged.values()),
        }


def _flat(name: str, value: Any) -> list[tuple[str, int]]:
    """Counts, which may be nested by column, as (dotted name, number)."""
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(f"{name}.{key}", inner)]
    return [(name, int(value))]
