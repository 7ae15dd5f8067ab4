"""The spectra that a codec is trained on: a bounded, uniform sample of a group, and batches of it.

Shapes: n objects, P pixels, B batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ...config.schema import SpectrumGroupConfig, SpectrumKind
from ...data.spectra import SpectrumBatch
from ...quantizers import Reservoir
from .groups import standardisation, usual_precision
from .patches import pixel_weights

MAX_SAMPLE_BYTES = 1 << 28  # of spectra kept for training
SATURATION = 30.0  # of the weights, lower than those of patches: these spectra have their noise still
MIN_WEIGHT = 1e-2  # of a valid pixel: the faintest spectra have to be coded too


class SpectrumSample:
    """A bounded, uniform sample of a group's training spectra, with the weight of each pixel."""

    def __init__(self, batches: Iterable[SpectrumBatch], config: SpectrumGroupConfig, limit: int, seed: int) -> None:
        reservoir, n_pixels = None, 0
        for batch in batches:
            seen, n_pixels = batch.present, batch.flux.shape[1]
            if reservoir is None:  # per row: flux, precision, has ivar
                width = 2 * n_pixels + 1
                reservoir = Reservoir(max(1, min(limit, MAX_SAMPLE_BYTES // (4 * width))), width, [seed, n_pixels])
            known = batch.has_ivar[seen, None].astype(np.float32)
            reservoir.add(np.concatenate([batch.flux[seen], batch.precision[seen], known], axis=1, dtype=np.float32))
        rows = np.empty((0, 1), np.float32) if reservoir is None else reservoir.rows
        self.n_pixels, self.n_seen = n_pixels, 0 if reservoir is None else reservoir.n_seen
        self.flux, self.precision, self.has_ivar = rows[:, :n_pixels], rows[:, n_pixels:-1], rows[:, -1] > 0
        self.valid = (self.precision > 0) & np.isfinite(self.flux)
        self.center, self.spread = np.zeros(n_pixels, np.float32), np.ones(n_pixels, np.float32)
        if len(rows) and config.kind == SpectrumKind.coefficients:
            self.center, self.spread = standardisation(rows[:, :-1], np.zeros(len(rows), np.int64), n_pixels)
        self.weighted = config.kind == SpectrumKind.spectrum

    def __len__(self) -> int:
        return len(self.flux)

    def spectra(self, rows: np.ndarray) -> SpectrumBatch:
        """Some of the spectra, in units of their scale."""
        there = np.ones(len(rows), bool)
        return SpectrumBatch(self.flux[rows], self.precision[rows], np.ones(len(rows)), there, self.has_ivar[rows])

    def weights(self, rows: np.ndarray) -> np.ndarray:
        """Weight (n, P) of each pixel, as in the codes of patches (:func:`.patches.pixel_weights`); 0 if invalid.

        Noise is most of the variance of faint spectra. A spectrum without ivar weighs what an average pixel does;
        coefficients all weigh 1.
        """
        valid = self.valid[rows]
        if not self.weighted:
            return valid.astype(np.float32)
        precision = np.where(self.has_ivar[rows, None], self.precision[rows], np.float32(self._usual))
        return np.where(valid, np.maximum(pixel_weights(precision, SATURATION), MIN_WEIGHT), 0.0).astype(np.float32)

    @functools.cached_property
    def _usual(self) -> float:
        return usual_precision(self.precision[self.has_ivar])

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """``x``, ``valid`` and ``weight`` (B, 1, P) and ``row`` (B,) as codecs are trained on."""
        valid = self.valid[rows]
        x = np.where(valid, (self.flux[rows] - self.center) / self.spread, 0.0).astype(np.float32)
        arrays = {"x": x, "valid": valid, "weight": self.weights(rows)}
        return {name: torch.from_numpy(a)[:, None] for name, a in arrays.items()} | {"row": torch.from_numpy(rows)}


class SpectrumLoader:
    """Batches of some rows of a sample for the training loop, shuffled as a function of ``(seed, epoch)``."""

    def __init__(self, sample: SpectrumSample, rows: np.ndarray, batch_size: int, seed: int, train: bool) -> None:
        self.sample, self.rows, self.batch_size, self.train = sample, rows, batch_size, train
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rows = self.rows
        if self.train:
            rows = np.random.default_rng([self.seed, self.epoch, 0x5BEC]).permutation(rows)
        for start in range(0, len(rows), self.batch_size):
            yield self.sample.batch(rows[start : start + self.batch_size])
