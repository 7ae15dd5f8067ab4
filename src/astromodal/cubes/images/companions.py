"""What belongs to an image: its zero point, its weights, its mask, its WCS."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.photometry import counts_to_nanomaggies
from ...errors import DataError
from ..fits_files import OpenFiles, Pixels, find_hdu
from ..templates import fill

if TYPE_CHECKING:
    from ...config.schema import BandSourceConfig, ImageSourceConfig

SCALE_TOLERANCE = 0.02  # relative, of the pixel scale: a distorted image has that much from centre to corner


def celestial(header: Any, hdus: Any, where: str) -> Any:
    """The WCS of an image's sky axes; ``None`` where it has none.

    Raises:
        DataError: a WCS that cannot be read.
    """
    from astropy.wcs import WCS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(header, fobj=hdus)
            return wcs.celestial if wcs.has_celestial else None
    except Exception as error:  # wcslib has a dozen classes of its own
        raise DataError(
            "a WCS that can be read", got=" ".join(str(error).split())[:120], where=where, repair="correct the header"
        ) from error


def pixel_scale(wcs: Any) -> float:
    """Arcsec per pixel: the geometric mean of both axes."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    return float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600.0


def check_scale(wcs: Any, wanted: float, where: str) -> None:
    """Refuse pixels of another size than ``data.images.pixel_scale`` says: cutouts are cut, not resampled."""
    found = pixel_scale(wcs)
    if abs(found / wanted - 1) > SCALE_TOLERANCE:
        raise DataError(
            f"pixels of {wanted} arcsec",
            got=f"{found:.4g}",
            where=where,
            repair=f"data.images.pixel_scale={found:.4g}, or images that were resampled",
        )


def image_factor(
    images: ImageSourceConfig, band: BandSourceConfig, header: Any, primary: Any, target: float, where: str
) -> float:
    """What an image's counts are multiplied by, so that ``data.images`` has their zero point.

    Args:
        target: nanomaggies of one count of the datacube.

    Raises:
        DataError: the header lacks the keyword, or has no number there.
    """
    value: Any = band.zero_point if band.zero_point is not None else images.zero_point
    if images.zero_point_key:
        value = header.get(images.zero_point_key, primary.get(images.zero_point_key))
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise DataError(
                f"a zero point in the keyword {images.zero_point_key}",
                got=repr(value),
                where=where,
                repair="cubes.images.zero_point_key=…, or zero_point of the bands",
            )
    return 1.0 if value is None else float(counts_to_nanomaggies(float(value))) / target


def companion_paths(images: ImageSourceConfig, root: Path, values: Mapping[str, Any]) -> list[Path]:
    """Files with the weights and the mask of an image, whether they are there or not."""
    named = [(key, getattr(images, key)) for key in ("weight", "mask")]
    return [root / fill(template, values, f"cubes.images.{key}") for key, template in named if template]


class Companions:
    """Weights and mask of one image, and which pixels they make invalid."""

    def __init__(self, images: ImageSourceConfig, root: Path, files: OpenFiles) -> None:
        self.images, self.root, self.files = images, root, files

    def paths(self, image: Path, values: Mapping[str, Any]) -> list[Path]:
        """Files that belong to ``image`` (which is left out).

        Raises:
            DataError: one of them is not there.
        """
        found = companion_paths(self.images, self.root, values)
        for path in found:
            if not path.is_file():
                raise DataError(
                    f"the weight or mask of {image.name}",
                    got="no such file",
                    where=path,
                    repair="cubes.images.weight=null, or another pattern",
                )
        return found

    def open(self, image: Pixels, values: Mapping[str, Any], plane: int | None) -> list[tuple[str, Pixels]]:
        """``weight`` and ``mask`` images, where there are any, of the same shape as ``image``."""
        found = []
        for key in ("weight", "mask"):
            template, extension = getattr(self.images, key), getattr(self.images, f"{key}_hdu")
            if not template and not extension:
                continue
            path = self.root / fill(template, values, f"cubes.images.{key}") if template else image.path
            number = image.number
            if extension or len(self.files.get(path)) <= number:
                wanted = fill(extension, values, f"cubes.images.{key}_hdu") if extension else None
                number = find_hdu(self.files.get(path), wanted, "image", path)
            shape = self.files.get(path)[number].shape
            pixels = Pixels(self.files, path, number, plane if len(shape) == 3 else None)
            if pixels.shape != image.shape:
                raise DataError(
                    f"a {key} image of {image.shape} pixels, as {image.path}",
                    got=pixels.shape,
                    where=pixels.where,
                    repair=f"cubes.images.{key}_hdu=…",
                )
            found.append((key, pixels))
        return found

    def blank(self, values: np.ndarray, corner: np.ndarray, companions: list[tuple[str, Pixels]]) -> int:
        """Set the invalid pixels of cutouts ``(n, size, size)`` to NaN; returns how many had a value before."""
        bad = np.zeros(values.shape, bool)
        for key, pixels in companions:
            other = pixels.cut(corner, values.shape[-1])
            with np.errstate(invalid="ignore"):
                if key == "weight":
                    bad |= ~(other > 0)
                else:
                    flags = np.nan_to_num(other, nan=0.0).astype(np.int64)
                    bad |= (flags & (-1 if self.images.mask_bits is None else self.images.mask_bits)) != 0
        n = int((bad & np.isfinite(values)).sum())
        values[bad] = np.nan
        return n
