"""Cutouts of a datacube batch as one array per quantity, in flux units, with every bad pixel marked.

The order of ``data.images.bands`` is the order of the channels, whatever the order of the columns in the file:
three band orders of S-PLUS are in circulation, so an order is never assumed. Pixels go from the Arrow buffer of the
list column into a preallocated array in one pass; the array is reused from batch to batch, because fresh pages cost
six times as much as warm ones.

Shapes: n objects, C bands, S pixels on a side. Cutouts are row-major with y up and the object at pixel
``[S // 2, S // 2]``; angles are counter-clockwise from +x (columns) towards +y (rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .columns import list_column_to_matrix, numbers
from .masks import masked_values
from .photometry import flux_factors

if TYPE_CHECKING:
    import pyarrow as pa

    from ..config.schema import DataConfig, ImageConfig
    from .datacube import Batch

SMALLEST, LARGEST = 1e-30, 1e30  # nanomaggies per count that float32 has, with room for the counts


@dataclass
class ImageBatch:
    """Cutouts of ``n`` consecutive rows.

    The arrays may be views of a reader's buffer, valid until its next :meth:`ImageReader.read`; :meth:`select`
    copies.
    """

    flux: np.ndarray  # (n, C, S, S) float32, nanomaggies per pixel, sky level included; 0 where invalid
    valid: np.ndarray  # (n, C, S, S) bool
    present: np.ndarray  # (n,) bool: at least one band has a valid pixel
    band_present: np.ndarray  # (n, C) bool
    a: np.ndarray  # (n,) float32, rms along the major axis, px; NaN if unknown
    b: np.ndarray  # (n,) float32, along the minor axis
    theta: np.ndarray  # (n,) float32, degrees
    bands: tuple[str, ...]
    pixel_scale: float  # arcsec per pixel
    reasons: dict[str, dict[str, int]] = dataclass_field(default_factory=dict)  # band → what was wrong, how often

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def size(self) -> int:
        """Pixels on a side."""
        return self.flux.shape[-1]

    @property
    def invalid_fraction(self) -> np.ndarray:
        """Share of invalid pixels over all bands, ``(n,)``; 1 for an object without cutouts."""
        return 1.0 - self.valid.reshape(len(self), -1).mean(1, dtype=np.float64)

    def select(self, rows: np.ndarray) -> ImageBatch:
        """Copy of some rows (mask or indices)."""
        flux, valid, present, band_present, a, b, theta = (
            np.array(x[rows])
            for x in (self.flux, self.valid, self.present, self.band_present, self.a, self.b, self.theta)
        )
        return ImageBatch(
            flux, valid, present, band_present, a, b, theta, self.bands, self.pixel_scale, dict(self.reasons)
        )


def image_columns(data: DataConfig) -> list[str]:
    """Parquet columns that :class:`ImageReader` needs, each once."""
    images = images_of(data)
    shape = [name for name in (images.a, images.b, images.theta) if name]
    return list(dict.fromkeys([band.column for band in images.bands.values()] + shape))


def images_of(data: DataConfig) -> ImageConfig:
    """The image section, checked.

    Raises:
        DataError: there is none, or cutouts without bands or of no size.
    """
    if data.images is None or not data.images.bands:
        raise DataError("bands in data.images", got="none", where=f"data={data.name}", repair="set data.images.bands")
    if data.images.size < 4:
        raise DataError("data.images.size of 4 or more", got=data.images.size)
    return data.images


class ImageReader:
    """Reads batches of one field into a buffer of its own.

    Args:
        data: the survey.
        field: name of the field, for zero points.

    Raises:
        DataError: no bands are configured, or zero points are missing.
    """

    def __init__(self, data: DataConfig, field: str) -> None:
        self.images = images_of(data)
        self.field = field
        self.bands = tuple(self.images.bands)
        self.columns = image_columns(data)
        self._factors = flux_factors(self.images, field)
        self._flux = np.empty((0, 0, 0, 0), dtype=np.float32)
        self._valid = np.empty((0, 0, 0, 0), dtype=bool)

    def read(self, batch: Batch | pa.RecordBatch) -> ImageBatch:
        """Flux, validity and shape of a batch; arrays are views of the buffer.

        A cutout that is null or of the wrong length is a missing band; NaN and infinite pixels are invalid; a band
        whose pixels all have one value holds no observation and is missing. What was found is counted in
        ``reasons``.
        """
        n, size, n_bands = batch.num_rows, self.images.size, len(self.bands)
        if len(self._flux) < n:
            self._flux = np.empty((n, n_bands, size, size), dtype=np.float32)
            self._valid = np.empty((n, n_bands, size, size), dtype=bool)
        flux, valid = self._flux[:n], self._valid[:n]
        band_present = np.zeros((n, n_bands), dtype=bool)
        reasons = {}
        for index, (name, band) in enumerate(self.images.bands.items()):
            reasons[name] = self._read_band(batch, index, band.column, flux, valid, band_present)
        a, b, theta = (self._shape_column(batch, name) for name in (self.images.a, self.images.b, self.images.theta))
        present = np.asarray(band_present.any(1))
        return ImageBatch(flux, valid, present, band_present, a, b, theta, self.bands, self.images.pixel_scale, reasons)

    def _read_band(
        self,
        batch: Batch | pa.RecordBatch,
        index: int,
        column: str,
        flux: np.ndarray,
        valid: np.ndarray,
        band_present: np.ndarray,
    ) -> dict[str, int]:
        """Fill channel ``index`` of the buffers from one list column; returns what was found wrong, and how often."""
        n, size = len(flux), self.images.size
        source = batch.column(column)
        where = f"field {self.field}, column {column}"
        values, present = list_column_to_matrix(source, size * size, where, strict=False)
        present = np.array(present, dtype=bool)
        reasons = {"wrong_length": n - source.null_count - int(present.sum()), "masked": masked_values(batch, [column])}
        target, good = flux[:, index], valid[:, index]
        factor = self._factors[index]
        if values.dtype == np.float32 and SMALLEST < factor < LARGEST:
            factor = np.float32(factor)  # else the product is float64, whatever it is of
        with np.errstate(invalid="ignore", over="ignore"):
            np.multiply(values.reshape(n, size, size), factor, out=target, casting="same_kind")
        reasons["too_small"] = _vanished(values[present], target[present]) if factor.dtype == np.float64 else 0
        np.isfinite(target, out=good)
        corner = target[:, 0, 0]
        same = (corner == target[:, -1, -1]) & (corner == target[:, size // 2, size // 2]) & np.isfinite(corner)
        rows = np.flatnonzero(present & same)
        constant = rows[(target[rows] == corner[rows, None, None]).all(axis=(1, 2))]
        reasons["constant_cutout"] = len(constant)
        present[constant] = False
        good[~present] = False
        seen = present
        reasons["too_large"] = 0
        if not good.all():
            reasons["too_large"] = int(np.isfinite(values[present][~good[present].reshape(-1, size * size)]).sum())
            np.copyto(target, 0.0, where=~good)
            seen = present & good.any(axis=(1, 2))
        reasons["invalid_pixels"] = int((~good[seen]).sum())
        reasons["pixels"] = int(present.sum()) * size * size
        reasons["blank_cutout"] = int((present & ~seen).sum())
        band_present[:, index] = seen
        return reasons

    def _shape_column(self, batch: Batch | pa.RecordBatch, name: str | None) -> np.ndarray:
        """A scalar column as float32, NaN where null or not configured."""
        if not name:
            return np.full(batch.num_rows, np.nan, dtype=np.float32)
        return numbers(batch.column(name), f"field {self.field}, column {name}").astype(np.float32)


def _vanished(values: np.ndarray, flux: np.ndarray) -> int:
    """Pixels (n, S * S) that are not 0 and whose flux (n, S, S) is too small for float32 to hold all its digits."""
    small = np.abs(flux).reshape(values.shape) < np.finfo(np.float32).tiny
    return int((small & (values != 0) & ~np.isnan(values)).sum())


def read_images(batch: Batch | pa.RecordBatch, data: DataConfig, field: str) -> ImageBatch:
    """Cutouts of one batch in arrays of their own; for many batches keep an :class:`ImageReader`."""
    return ImageReader(data, field).read(batch)


def elliptical_mask(
    a: np.ndarray, b: np.ndarray, theta: np.ndarray, size: int, scale: float, min_radius: float
) -> np.ndarray:
    """Pixels whose centre lies in the object's ellipse, ``(n, S, S)`` bool.

    Semi-axes are ``scale * a`` and ``scale * b``, neither below ``min_radius`` (px); a shape that is not known is
    a circle of ``min_radius``. ``theta`` is in degrees, counter-clockwise from +x, as SExtractor's THETA_IMAGE.

    >>> mask = elliptical_mask([4.0], [1.0], [90.0], size=9, scale=1.0, min_radius=1.0)[0]
    >>> mask[:, 4].sum(), mask[4].sum()  # long along y
    (np.int64(9), np.int64(3))
    """
    a, b, theta = (np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (a, b, theta))
    known = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    major = np.maximum(np.where(known, scale * a, min_radius), min_radius)
    minor = np.maximum(np.where(known, scale * b, min_radius), min_radius)
    angle = np.deg2rad(np.where(np.isfinite(theta), theta, 0.0))
    offset = np.arange(size, dtype=np.float32) - size // 2
    x, y = offset[None, None, :], offset[None, :, None]  # columns, rows
    # ((x cos + y sin) / A)^2 + ((y cos - x sin) / B)^2 as a quadratic form: three products instead of ten
    cos, sin = np.cos(angle), np.sin(angle)
    xx = ((cos / major) ** 2 + (sin / minor) ** 2).astype(np.float32)[:, None, None]
    yy = ((sin / major) ** 2 + (cos / minor) ** 2).astype(np.float32)[:, None, None]
    xy = (2 * cos * sin * (major**-2.0 - minor**-2.0)).astype(np.float32)[:, None, None]
    radius = xx * x * x + yy * y * y  # (n, S, S)
    radius += (xy * x) * y
    return radius <= np.float32(1.0 + 1e-6)
