"""Tiles with WCS: which of them an object is on, and its cutout.

An object is cut from the tile on which it lies deepest, so that an edge shows only where the survey ends. Cutouts are
whole pixels, not resampled: the object lies within half a pixel of pixel ``size // 2`` in both axes, y is up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ..fits_files import OpenFiles, Pixels, find_hdu, image_hdus
from ..matching import circle
from ..templates import there
from .companions import Companions, celestial, check_scale, companion_paths, image_factor

if TYPE_CHECKING:
    from ...config.schema import BandSourceConfig, ImageSourceConfig


@dataclass(frozen=True)
class Tile:
    """One image of one band."""

    path: Path
    hdu: int
    names: tuple[tuple[str, str], ...]  # what the words of the path are here
    ra: float  # degrees, of its centre
    dec: float
    radius: float  # degrees, to its farthest corner
    corners: tuple[tuple[float, float], ...]  # degrees, for the plot


def find_tiles(images: ImageSourceConfig, band: BandSourceConfig, root: Path, scale: float) -> list[Tile]:
    """All tiles of a band, from their headers.

    Args:
        scale: arcsec per pixel that they have to have.

    Raises:
        DataError: no file, a file that is damaged, an image without a WCS that projects, or with other pixels.
    """
    found = there(images.path or "", root, band.name)
    beside = {
        companion for path, names in found for companion in companion_paths(images, root, names | {"band": band.name})
    }
    found = [(path, names) for path, names in found if path not in beside]  # {tile} may match {tile}.weight, too
    if not found:
        raise DataError(
            f"images of band {band.name}",
            got="none",
            where=root / (images.path or ""),
            repair="cubes.images.path=…, cubes.root=…, or bands of cubes.images.bands",
        )
    tiles = []
    for path, names in found:
        with OpenFiles() as files:
            hdus = files.get(path)
            if images.hdu == "*":
                numbers = image_hdus(hdus)
            else:
                wanted = None if images.hdu is None else images.hdu.replace("{band}", band.name)
                numbers = [find_hdu(hdus, wanted, "image", path)]
            for number in numbers:
                tiles.append(_tile(hdus, path, number, names, scale))
                image_factor(images, band, hdus[number].header, hdus[0].header, 1.0, str(path))  # there is one
    return tiles


def _tile(hdus: Any, path: Path, number: int, names: dict[str, str], scale: float) -> Tile:
    where = f"{path}, extension {number} {hdus[number].name}".strip()
    header, shape = hdus[number].header, hdus[number].shape
    wcs = celestial(header, hdus, where)
    if wcs is None:
        raise DataError("a WCS with two axes on the sky", got="none", where=where, repair="choose images with WCS")
    check_scale(wcs, scale, where)
    n_y, n_x = shape[-2:]
    x, y = np.array([0, n_x - 1, n_x - 1, 0]), np.array([0, 0, n_y - 1, n_y - 1])
    ra, dec = (np.asarray(v, float) for v in wcs.pixel_to_world_values(x, y))
    ra, dec = _icrs(wcs, ra, dec)
    round_it = circle(ra, dec)
    if round_it is None or not np.isfinite([ra, dec]).all():
        raise DataError(
            "a WCS that projects the corners of the image to the sky",
            got="no positions",
            where=where,
            repair="correct the header",
        )
    corners = tuple((float(a % 360), float(d)) for a, d in zip(ra, dec, strict=True))
    return Tile(path, number, tuple(sorted(names.items())), *round_it, corners)


def _icrs(wcs: Any, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a WCS in another frame (galactic, FK5) in ICRS degrees."""
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    frame = wcs_to_celestial_frame(wcs)
    if frame.name == "icrs":
        return ra, dec
    there = SkyCoord(ra, dec, unit="deg", frame=frame).icrs
    return there.ra.deg, there.dec.deg


def _to_pixels(wcs: Any, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, from 0, of ICRS positions; NaN where they have none."""
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    frame = wcs_to_celestial_frame(wcs)
    if frame.name != "icrs":
        place = SkyCoord(ra, dec, unit="deg").transform_to(frame).spherical
        ra, dec = place.lon.deg, place.lat.deg
    x, y = wcs.all_world2pix(ra, dec, 0, quiet=True)  # where distortions do not converge: off the image
    return np.asarray(x, float), np.asarray(y, float)


class TileCutter:
    """Cutouts of one band for the objects of one field. See :meth:`plan`, then :meth:`read`."""

    def __init__(
        self,
        images: ImageSourceConfig,
        band: BandSourceConfig,
        tiles: list[Tile],
        root: Path,
        size: int,
        target: float,
        files: OpenFiles,
    ) -> None:
        self.images, self.band, self.tiles, self.size, self.target = images, band, tiles, size, target
        self.files, self.companions = files, Companions(images, root, files)

    def plan(self, ra: np.ndarray, dec: np.ndarray, field: str) -> list[Path]:
        """Find the tile of each object, ``tile (n,)`` (-1: none); returns the files that are needed."""
        from astropy.coordinates import angular_separation

        n = len(ra)
        self.tile, self.corner = np.full(n, -1), np.zeros((n, 2), np.int64)
        depth = np.zeros(n)
        around = circle(ra, dec)
        for index, tile in enumerate(self.tiles):
            names = dict(tile.names)
            if around is None or names.get("field", field) != field:
                continue
            away = angular_separation(*np.deg2rad([around[0], around[1], tile.ra, tile.dec]))
            if np.rad2deg(away) > around[2] + tile.radius:
                continue
            close = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
            apart = angular_separation(*(np.deg2rad(v) for v in (ra[close], dec[close], tile.ra, tile.dec)))
            close = close[np.rad2deg(apart) <= tile.radius]
            if len(close):
                self._on_tile(index, tile, close, ra[close], dec[close], depth)
        used = [self.tiles[i] for i in np.unique(self.tile[self.tile >= 0])]
        paths = [tile.path for tile in used]
        for tile in used:
            paths += self.companions.paths(tile.path, self._values(tile))  # refused here, before anything is written
        return list(dict.fromkeys(paths))

    def _on_tile(
        self, index: int, tile: Tile, objects: np.ndarray, ra: np.ndarray, dec: np.ndarray, depth: np.ndarray
    ) -> None:
        hdus = self.files.get(tile.path)
        wcs = celestial(hdus[tile.hdu].header, hdus, str(tile.path))
        x, y = _to_pixels(wcs, ra, dec)
        n_y, n_x = hdus[tile.hdu].shape[-2:]
        # half a cutout from the edge is as good as the middle: neighbours then stay on one tile
        here = np.minimum(np.minimum(np.minimum(x, n_x - 1 - x), np.minimum(y, n_y - 1 - y)) + 0.5, self.size)
        better = np.nan_to_num(here, nan=-1.0) > depth[objects]
        rows = objects[better]
        depth[rows], self.tile[rows] = here[better], index
        self.corner[rows, 0] = np.rint(x[better]).astype(np.int64) - self.size // 2
        self.corner[rows, 1] = np.rint(y[better]).astype(np.int64) - self.size // 2

    def _values(self, tile: Tile) -> dict[str, Any]:
        return dict(tile.names) | {"band": self.band.name}

    @property
    def has(self) -> np.ndarray:
        """Whether each object is on a tile."""
        return self.tile >= 0

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Cutouts of some of the planned objects.

        Returns:
            values ``(k, size * size)`` float32, NaN outside of the image and where invalid; present ``(k,)``;
            counts: ``found``, ``outside``, ``edge`` (cut off), ``blank`` (no valid pixel), ``pixels``, ``masked``.
        """
        values = np.full((len(rows), self.size, self.size), np.nan, np.float32)
        counts = {
            "found": 0,
            "outside": int((self.tile[rows] < 0).sum()),
            "edge": 0,
            "blank": 0,
            "pixels": 0,
            "masked": 0,
        }
        for index in np.unique(self.tile[rows][self.tile[rows] >= 0]):
            which = np.flatnonzero(self.tile[rows] == index)
            tile, corner = self.tiles[index], self.corner[rows[which]]
            image = Pixels(self.files, tile.path, tile.hdu, self.band.plane)
            times = image_factor(
                self.images, self.band, image.header, self.files.get(tile.path)[0].header, self.target, image.where
            )
            cut = image.cut(corner, self.size)
            counts["masked"] += self.companions.blank(
                cut, corner, self.companions.open(image, self._values(tile), self.band.plane)
            )
            values[which] = cut * np.float32(times) if times != 1 else cut
            counts["edge"] += int(_cut_off(corner, self.size, image.shape).sum())
        return (*finished(values, counts), counts)


def _cut_off(corner: np.ndarray, size: int, shape: tuple[int, ...]) -> np.ndarray:
    low = (corner < 0).any(1)
    return low | (corner[:, 0] + size > shape[1]) | (corner[:, 1] + size > shape[0])


def finished(values: np.ndarray, counts: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cutouts ``(k, size * size)`` and which of them have a valid pixel; adds to the counts."""
    flat = values.reshape(len(values), -1)
    present = np.isfinite(flat).any(1)
    counts["found"] = int(present.sum())
    counts["blank"] = len(flat) - counts["outside"] - counts.get("no_file", 0) - counts["found"]
    counts["pixels"] = counts["found"] * flat.shape[1]
    return flat, present
