"""Encode one field: read a batch of rows, hand it to every tokenizer, append the codes, count what was found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.datacube import rows_at_once
from ..data.findings import Findings
from ..errors import DataError
from ..files.ids import normalize_ids
from ..files.io import FileLock
from ..vocabulary.modalities import MODALITIES
from .writer import FieldWriter, TokenWriter

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..data.datacube import Datacube
    from ..tokenizers import TokenizerSet
    from ..tokenizers.scalar import ScalarTokenizer
    from ..tokenizers.spectrum.tokenizer import SpectrumTokenizer


def encode_field(
    cube: Datacube,
    split: np.ndarray,
    inputs: Mapping[str, str],
    tokenizers: TokenizerSet,
    data: DataConfig,
    folder: str | Path,
    update: Callable[[int], Any] = lambda n: None,
) -> dict[str, Any]:
    """Encode one field into ``folder`` (``<store>/tokens``) and return its summary.

    Raises:
        ArtifactError: another process encodes this field, or the disk is full.
        DataError: the cube cannot be read, or holds no rows.
    """
    started, folder = time.perf_counter(), Path(folder)
    reader = FieldReader(cube.field, tokenizers, data)
    with FileLock(folder / f"datacube_{cube.field}"), FieldWriter(folder, cube.field) as writer:
        n_rows = 0
        for batch in cube.batches(reader.columns, rows=reader.batch_rows):
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


class FieldReader:
    """Reads one batch after another with the readers of the modalities, encodes, and counts."""

    def __init__(self, field: str, tokenizers: TokenizerSet, data: DataConfig) -> None:
        self.field, self.tokenizers, self.data = field, tokenizers, data
        self.present: Counter[str] = Counter()
        self.findings = Findings()
        names: list[str] = []
        if tokenizers.scalar is not None:
            from ..data.scalars import scalar_sources

            names += scalar_sources(data, tokenizers.scalar.configs)
        if tokenizers.spectrum is not None:
            from ..data.spectra import spectrum_columns

            names += [name for group in tokenizers.spectrum.groups for name in spectrum_columns(data.spectra[group])]
        if tokenizers.image is not None:
            from ..data.images import ImageReader

            self.images = ImageReader(data, field)
            names += self.images.columns
        self.outside = [name for name in MODALITIES.outside() if name in tokenizers]
        for name in self.outside:
            names += getattr(data, MODALITIES[name].section).columns()
        self.columns = list(dict.fromkeys(names))
        self.batch_rows = rows_at_once(data, self.columns)

    def encode(self, batch: Any, writer: TokenWriter) -> None:
        """Read and encode one batch with every tokenizer, and hand the results to the writer."""
        if self.tokenizers.scalar is not None:
            self._scalars(self.tokenizers.scalar, batch, writer)
        if self.tokenizers.spectrum is not None:
            self._spectra(self.tokenizers.spectrum, batch, writer)
        if self.tokenizers.image is not None:
            images = self.images.read(batch)
            encoded = self.tokenizers.image.encode(images)
            self.present["image"] += int(encoded.present.sum())
            self.findings.add_images(self.field, images, encoded.present, encoded.clipped)
            (_, (grid, grid_sigma)), *others = self.tokenizers.image.by_part(encoded).items()
            writer.add_image(grid, encoded.latents, encoded.present, grid_sigma)
            for part, (codes, errors) in others:  # kept as a group of spectra is
                self.present[part] += int(encoded.present.sum())
                writer.add_spectrum(part, codes, encoded.present, errors)
        for name in self.outside:
            tokens, present, sigma = self.tokenizers.outside(name).encode(batch, self.data, self.findings)
            self.present[name] += int(present.sum())
            writer.add_spectrum(name, tokens, present, sigma)

    def _scalars(self, tokenizer: ScalarTokenizer, batch: Any, writer: TokenWriter) -> None:
        from ..data.scalars import read_scalars

        scalars = read_scalars(batch, self.data, tokenizer.configs)
        encoded = tokenizer.encode(scalars)
        self.present["scalar"] += int((encoded.present | encoded.nondetected).any(1).sum())
        without = scalars.present & ~encoded.present
        self.findings.add_scalars(self.field, scalars, {"no_bins": without, "clipped": encoded.clipped})
        writer.add_scalars(encoded, tokenizer.columns)

    def _spectra(self, tokenizer: SpectrumTokenizer, batch: Any, writer: TokenWriter) -> None:
        from ..data.spectra import read_spectra

        for group in tokenizer.groups:
            spectra = read_spectra(batch, self.data, group)
            self.findings.add_spectra(self.field, group, spectra)
            for part, (tokens, present, sigma) in tokenizer.encode_parts(group, spectra).items():
                self.present[part] += int(present.sum())
                writer.add_spectrum(part, tokens, present, sigma)

    def summary(self) -> dict[str, Any]:
        return {"present": dict(self.present), "found": self.findings.field(self.field)}
