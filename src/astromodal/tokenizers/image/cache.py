"""Normalised cutouts on disk while the image codec is trained: bounded in memory, a uniform sample of the survey.

Training passes over the cutouts many times, and decoding Parquet each time would cost more than the network. The
cache keeps at most ``capacity`` of them (a reservoir sample, Vitter 1985, so that every training object is as likely
as any other) as float16 in one raw file; arcsinh values below 20 lose at most 0.008, a fortieth of the noise. Invalid
pixels are NaN. The file is mapped; pages are handed back to the system as the loader goes on. It loses its name at
once: nothing can cut it short while it is mapped (which would kill the process), and a killed process leaves no file.

Shapes: n objects, C bands, S pixels on a side, B batch.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...data.images import elliptical_mask
from ...errors import ArtifactError
from ...files.atomic import write_error

GROW_ROWS = 128  # cutouts by which the file grows: 28 MB at 12 x 96 x 96
BAND_DROPOUT = 0.05  # chance that a band is hidden from the encoder in training
RELEASE_EVERY = 16  # batches between handing pages back


class CutoutCache:
    """Reservoir of at most ``capacity`` cutouts in the file ``path``.

    Args:
        shape: ``(C, S, S)``.
        seed: of the reservoir; the sample does not depend on how rows are grouped into batches.
    """

    def __init__(self, path: Path, capacity: int, shape: tuple[int, ...], seed: int = 0) -> None:
        self.path, self.capacity, self.shape = path, capacity, shape
        self.n_seen = 0
        self.ellipses = np.empty((0, 3), dtype=np.float32)  # a, b (px), theta (deg) of each kept row
        self._rng = np.random.default_rng([seed, 0xCAC])
        self._rows = 0
        self._file: BinaryIO | None = None
        self._map: np.memmap | None = None

    def __len__(self) -> int:
        return min(self.n_seen, self.capacity)

    def add(self, x: np.ndarray, valid: np.ndarray, ellipses: np.ndarray) -> None:
        """Offer cutouts to the reservoir.

        Args:
            x: normalised, ``(n, C, S, S)`` float32; valid: bool, same shape; ellipses: ``(n, 3)``.

        Raises:
            ArtifactError: the disk is full.
        """
        order = self.n_seen + np.arange(len(x))
        slots = np.where(order < self.capacity, order, (self._rng.random(len(x)) * (order + 1)).astype(np.int64))
        self.n_seen += len(x)
        rows = np.flatnonzero(slots < self.capacity)
        # of several rows drawn for one slot the last one stays, as if they had come one by one
        slots, last = np.unique(slots[rows][::-1], return_index=True)
        rows = rows[::-1][last]
        if not len(rows):
            return
        self._grow(int(slots.max()) + 1)
        half = torch.from_numpy(x[rows]).half()
        half[torch.from_numpy(~valid[rows])] = torch.nan
        assert self._map is not None
        self._map[slots] = half.numpy()
        self.ellipses[slots] = ellipses[rows]
        self.release()

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Cutouts ``(n, C, S, S)`` float32 with 0 at invalid pixels, and their validity."""
        assert self._map is not None
        x = torch.from_numpy(np.asarray(self._map[rows])).float()
        valid = ~torch.isnan(x)
        return torch.where(valid, x, 0.0), valid

    def release(self) -> None:
        """Let go of mapped pages, so that resident memory does not grow with the cache."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Unmap the file, which is gone with that."""
        self._map = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _grow(self, rows: int) -> None:
        """Make room for ``rows`` cutouts; blocks are allocated, or a full disk would kill the process on access."""
        if rows <= self._rows:
            return
        rows = min(-(-max(rows, self._rows + GROW_ROWS) // GROW_ROWS) * GROW_ROWS, max(self.capacity, rows))
        size = rows * int(np.prod(self.shape)) * 2
        try:
            if self._file is None:
                self._file = self.path.open("w+b")
                self.path.unlink()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, size)
            else:  # macOS
                self._file.truncate(size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise write_error(error, self.path) or error from error
            raise ArtifactError(
                f"room on the disk for {size / 1e9:.1f} GB of cutouts",
                got="a full disk",
                where=self.path.parent,
                repair="free some, or lower tokenizer.image.codec.training.max_fit_objects",
            ) from error
        self._map = np.memmap(self._file, dtype=np.float16, mode="r+", shape=(rows, *self.shape))
        self.ellipses = np.concatenate([self.ellipses, np.empty((rows - self._rows, 3), dtype=np.float32)])
        self._rows = rows


class CutoutLoader:
    """Batches of a cache for the training loop: ``x``, ``valid``, ``inside``, ``weight`` and, in training, ``seen``.

    A valid pixel weighs 1 inside of the object's ellipse and ``outside_weight`` outside.

    Training batches are shuffled, each cutout is flipped and turned by a multiple of 90 degrees together with its
    mask, and some bands are hidden from the encoder; all of it is a function of ``(seed, epoch)``.

    Args:
        ellipse: ``scale`` and ``min_radius`` of :func:`astromodal.data.images.elliptical_mask`.
        limit: use only the first so many cutouts.
        outside_weight: weight of valid pixels outside of the ellipse.
    """

    def __init__(
        self,
        cache: CutoutCache,
        batch_size: int,
        ellipse: dict[str, float],
        *,
        train: bool,
        seed: int = 0,
        limit: int | None = None,
        outside_weight: float = 1.0,
    ) -> None:
        self.outside_weight = float(outside_weight)
        self.cache, self.batch_size, self.ellipse = cache, batch_size, ellipse
        self.train, self.seed, self.epoch = train, seed, 0
        self.n_rows = len(cache) if limit is None else min(limit, len(cache))

    def __len__(self) -> int:
        return -(-self.n_rows // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle and the augmentation."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rng = np.random.default_rng([self.seed, self.epoch, 0x10AD])
        order = rng.permutation(self.n_rows) if self.train else np.arange(self.n_rows)
        for number, start in enumerate(range(0, self.n_rows, self.batch_size)):
            rows = np.sort(order[start : start + self.batch_size])
            batch = self.batch(rows)
            if self.train:
                batch = self._augment(batch, rng)
            inside = batch["inside"].to(torch.float32)
            batch["weight"] = batch["valid"] * (self.outside_weight + (1.0 - self.outside_weight) * inside)[:, None]
            if number % RELEASE_EVERY == RELEASE_EVERY - 1:
                self.cache.release()
            yield batch

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Chosen cutouts with their masks, as they are."""
        image, valid = self.cache.take(rows)
        a, b, theta = self.cache.ellipses[rows].T
        inside = elliptical_mask(a, b, theta, image.shape[-1], **self.ellipse)
        return {"x": image, "valid": valid, "inside": torch.from_numpy(inside)}

    @staticmethod
    def _augment(batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """One of the eight symmetries of the square per cutout (a loop over symmetries), and hidden bands."""
        n, n_bands = batch["x"].shape[:2]
        symmetry = torch.from_numpy(rng.integers(8, size=n))
        for kind in range(1, 8):
            rows = torch.nonzero(symmetry == kind)[:, 0]
            if len(rows):
                for name in ("x", "valid", "inside"):
                    turned = torch.rot90(batch[name][rows], kind % 4, (-2, -1))
                    batch[name][rows] = turned.flip(-1) if kind >= 4 else turned
        batch["seen"] = torch.from_numpy(rng.random((n, n_bands)) >= BAND_DROPOUT)
        return batch
