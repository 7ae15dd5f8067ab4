"""Stamps: a file per object and band (or per object, with an extension or a plane per band)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fits_files import OpenFiles, Pixels, find_hdu
from ..templates import fill
from .companions import Companions, celestial, check_scale, image_factor
from .tiles import _cut_off, _to_pixels, finished

if TYPE_CHECKING:
    from ...config.schema import BandSourceConfig, ImageSourceConfig


class StampCutter:
    """Cutouts of one band for the objects of one field, of the size that the datacube has.

    The object is where the stamp's WCS says; without one, in the middle (pixel ``n // 2``). Larger stamps are cut,
    smaller ones are filled up with NaN.
    """

    def __init__(
        self,
        images: ImageSourceConfig,
        band: BandSourceConfig,
        root: Path,
        size: int,
        scale: float,
        target: float,
        files: OpenFiles,
    ) -> None:
        self.images, self.band, self.root, self.size, self.scale = images, band, root, size, scale
        self.target, self.files, self.companions = target, files, Companions(images, root, files)

    def plan(self, ra: np.ndarray, dec: np.ndarray, words: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Find the file of each object; returns those that are there.

        Args:
            words: of each object, what the words of the path are.
        """
        self.ra, self.dec = ra, dec
        self.words = [dict(values) | {"band": self.band.name} for values in words]
        self.paths = [self.root / fill(self.images.path or "", values, "cubes.images.path") for values in self.words]
        self.has = np.array([path.is_file() for path in self.paths], bool)
        found = [(p, w) for p, w, there in zip(self.paths, self.words, self.has, strict=True) if there]
        return list(dict.fromkeys(q for p, w in found for q in (p, *self.companions.paths(p, w))))

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """As :meth:`.tiles.TileCutter.read`; ``no_file`` counts objects without a file."""
        values = np.full((len(rows), self.size, self.size), np.nan, np.float32)
        counts = {
            "found": 0,
            "no_file": int((~self.has[rows]).sum()),
            "outside": 0,
            "edge": 0,
            "blank": 0,
            "pixels": 0,
            "masked": 0,
        }
        for place in np.flatnonzero(self.has[rows]):
            self._read_one(int(rows[place]), values[place], counts)
        return (*finished(values, counts), counts)

    def _read_one(self, row: int, out: np.ndarray, counts: dict[str, int]) -> None:
        path, words = self.paths[row], self.words[row]
        hdus = self.files.get(path)
        wanted = None if self.images.hdu is None else fill(self.images.hdu, words, "cubes.images.hdu")
        image = Pixels(self.files, path, find_hdu(hdus, wanted, "image", path), self.band.plane)
        wcs = celestial(image.header, hdus, image.where)
        x, y = float(image.shape[1] // 2), float(image.shape[0] // 2)
        if wcs is not None:
            check_scale(wcs, self.scale, image.where)
            if np.isfinite(self.ra[row]):
                x, y = (float(v[0]) for v in _to_pixels(wcs, self.ra[[row]], self.dec[[row]]))
        if not (-0.5 <= x <= image.shape[1] - 0.5 and -0.5 <= y <= image.shape[0] - 0.5):
            counts["outside"] += 1
            return
        corner = np.array([[round(x), round(y)]]) - self.size // 2
        cut = image.cut(corner, self.size)
        counts["masked"] += self.companions.blank(cut, corner, self.companions.open(image, words, self.band.plane))
        counts["edge"] += int(_cut_off(corner, self.size, image.shape)[0])
        times = image_factor(self.images, self.band, image.header, hdus[0].header, self.target, image.where)
        out[:] = cut[0] * np.float32(times)
