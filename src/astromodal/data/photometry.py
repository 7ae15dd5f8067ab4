"""From counts to flux, and from flux to numbers a network can learn from.

Zero points per field and band turn counts into nanomaggies (AB, 1 nMgy = 3631e-9 Jy: a source of magnitude m has
10^(0.4 (22.5 - m)) of them). A robust sky level is subtracted, and the rest is compressed with arcsinh in units of
the band's sky noise, the "asinh magnitudes" of Lupton, Gunn & Szalay (1999): linear in the noise, logarithmic in
bright sources. Both steps have an exact inverse.

Shapes: n objects, C bands, S pixels on a side.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..files.text_files import read_text

if TYPE_CHECKING:
    from ..config.schema import ImageConfig

SKY_STRIDE = 2  # every second pixel in both directions: medians of 2304 of 9216 pixels
MIN_SKY_PIXELS = 64  # fewer outside of the ellipse: all valid pixels are used
LOWER_SIGMA = 0.15865525  # quantile at one sigma below the median of a Gaussian


def counts_to_nanomaggies(zero_point: float | np.ndarray) -> float | np.ndarray:
    """Nanomaggies of one count for an AB zero point (mag of one count).

    >>> round(counts_to_nanomaggies(25.0), 6)
    0.1
    """
    return 10.0 ** (0.4 * (22.5 - zero_point))


def read_zero_points(path: str | Path, bands: Sequence[str]) -> dict[tuple[str, str], float]:
    """Zero points by (field, band) from a CSV file with the columns ``field,band,zero_point`` (AB mag).

    Raises:
        DataError: the file is missing, lacks a column, names an unknown band, repeats an entry or holds a zero
            point that is not a finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("a CSV file with zero points", got="none", where=path, repair="set data.images.zero_point_file")
    table: dict[tuple[str, str], float] = {}
    reader = csv.DictReader(
        io.StringIO(read_text(path, "a CSV file with zero points"), newline=""), skipinitialspace=True
    )
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        missing = {"field", "band", "zero_point"} - set(reader.fieldnames)
        if missing:
            raise DataError(
                "columns field, band, zero_point",
                got=f"no {', '.join(sorted(missing))}",
                where=path,
                repair="begin with the line field,band,zero_point, and part by commas",
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            key = ((row["field"] or "").strip(), (row["band"] or "").strip())
            if key[1] not in bands:
                near = difflib.get_close_matches(key[1], bands, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise DataError(f"a band of {', '.join(bands)}", got=key[1], where=where, repair=f"{hint}correct it")
            try:
                value = float(row["zero_point"])
            except (TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value):
                raise DataError("a finite zero point", got=row["zero_point"], where=where, repair="correct the line")
            if table.setdefault(key, value) != value:
                raise DataError(f"one zero point of {key[0]} {key[1]}", got=f"{table[key]} and {value}", where=where)
    except csv.Error as error:
        raise DataError("lines of CSV", got=str(error), where=f"{path}, line {reader.line_num}") from error
    return table


def flux_factors(images: ImageConfig, field: str) -> np.ndarray:
    """Nanomaggies per count of each band in one field, ``(C,)`` float64.

    Without ``zero_point_file`` the bands' own ``zero_point`` holds for every field; with it, every field and band
    needs a line, because one band on another scale would not be noticed later.

    Raises:
        DataError: the file has no line for this field and band, or a zero point is not finite.
    """
    names = list(images.bands)
    if images.zero_point_file:
        table = read_zero_points(images.zero_point_file, names)
        absent = [name for name in names if (field, name) not in table]
        if absent:
            known = sorted({key[0] for key in table})
            near = difflib.get_close_matches(field, known, 1)
            nearest = f"; nearest field {near[0]}" if near and field not in known else ""
            raise DataError(
                f"zero points of field {field}",
                got=f"none for {', '.join(absent)}{nearest}",
                where=images.zero_point_file,
                repair="add the lines field,band,zero_point",
            )
        values = [table[field, name] for name in names]
    else:
        values = [float(band.zero_point) for band in images.bands.values()]
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise DataError("a finite zero point", got=value, where=f"data.images.bands.{name}.zero_point")
    return np.asarray(counts_to_nanomaggies(np.asarray(values, dtype=np.float64)))


def sky_statistics(flux: np.ndarray, valid: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sky level and sky noise of each cutout.

    The level is the median of the valid pixels outside of the ellipse, the noise the distance from there down to the
    15.9 % quantile: sources only ever brighten pixels, so the lower side of the distribution is the cleaner one.

    Args:
        flux: ``(n, C, S, S)``; valid: bool, same shape; inside: ``(n, S, S)``, the object's ellipse.

    Returns:
        level and sigma, ``(n, C)`` float32, in the unit of ``flux``; 0 and NaN for a band without valid pixels.
    """
    n, n_bands = flux.shape[:2]
    step = slice(None, None, SKY_STRIDE)
    pixels = flux[:, :, step, step].reshape(n, n_bands, -1)
    good = valid[:, :, step, step].reshape(n, n_bands, -1)
    sky = good & ~inside[:, None, step, step].reshape(n, 1, -1)
    enough = sky.sum(2) >= MIN_SKY_PIXELS
    if not enough.all():
        sky |= good & ~enough[:, :, None]
    values = np.where(sky, pixels, np.float32(np.inf))
    values.sort(axis=2)  # masked pixels go to the end
    count = sky.sum(2)
    last = np.maximum(count - 1, 0)

    def at(index: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, index[:, :, None], axis=2)[:, :, 0]

    with np.errstate(invalid="ignore"):
        level = 0.5 * (at(last // 2) + at((last + 1) // 2))
        sigma = level - at(np.rint(LOWER_SIGMA * last).astype(np.int64))
    level = np.where(count > 0, level, 0.0).astype(np.float32)
    return level, np.where(count > 0, sigma, np.nan).astype(np.float32)


def arcsinh_(x: np.ndarray) -> np.ndarray:
    """arcsinh in place, float32: ``sign(x) log(|x| + sqrt(x^2 + 1))``, 3-4 times as fast as ``np.arcsinh``.

    The absolute error is about 1e-7, far below the noise (1 / softening); ``|x|`` up to 1e18 does not overflow.
    """
    magnitude = np.abs(x)
    root = np.square(magnitude)
    root += 1.0
    np.sqrt(root, out=root)
    magnitude += root
    np.log(magnitude, out=magnitude)
    return np.copysign(magnitude, x, out=x)


@dataclass(frozen=True)
class ArcsinhScaling:
    """The fitted normalisation ``x = arcsinh((flux - sky level) / (softening * sigma))`` and its inverse.

    Attributes:
        bands: names in channel order.
        sigma: sky noise of each band over the training cutouts, nanomaggies per pixel, ``(C,)``; 0 marks a band that
            no training cutout had: it is treated as missing.
        softening: noise sigmas at which the scale turns from linear to logarithmic.
    """

    bands: tuple[str, ...]
    sigma: np.ndarray
    softening: float

    def __post_init__(self) -> None:
        sigma = np.asarray(self.sigma, dtype=np.float32)
        if sigma.shape != (len(self.bands),) or not np.isfinite(sigma).all() or (sigma < 0).any():
            raise DataError(f"a finite sky noise for each of {len(self.bands)} bands", got=sigma.tolist())
        object.__setattr__(self, "sigma", sigma)

    @property
    def unit(self) -> np.ndarray:
        """Flux at which arcsinh's argument is 1, ``(C,)``; 1 for bands never seen."""
        return np.where(self.sigma > 0, self.sigma * self.softening, 1.0).astype(np.float32)

    def normalize_(self, flux: np.ndarray, valid: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Normalise ``flux (n, C, S, S)`` in place and return it; invalid pixels become 0.

        ``valid`` is changed too: bands that were never seen in training become invalid.
        """
        unseen = self.sigma == 0
        if unseen.any():
            valid[:, unseen] = False
        unit = self.unit
        flux -= level[:, :, None, None]
        flux /= unit[None, :, None, None]
        arcsinh_(flux)
        flux *= valid
        return flux

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Flux above the sky level, nanomaggies per pixel, from normalised values ``(..., C, S, S)``."""
        return np.sinh(x) * self.unit[:, None, None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for saving."""
        return {"bands": list(self.bands), "sigma": [float(s) for s in self.sigma], "softening": float(self.softening)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArcsinhScaling:
        """Inverse of :meth:`to_dict`."""
        return cls(tuple(values["bands"]), np.asarray(values["sigma"], np.float32), float(values["softening"]))


class SkyNoise:
    """Running collection of per-cutout sky noise; :meth:`sigma` is the median over cutouts, ``(C,)``.

    Memory: 4 bytes per cutout and band.
    """

    def __init__(self, n_bands: int) -> None:
        self._values: list[np.ndarray] = []
        self._n_bands = n_bands

    def add(self, sigma: np.ndarray) -> None:
        """Take in the sky noise of some cutouts, ``(n, C)``; NaN where a band is missing."""
        self._values.append(np.asarray(sigma, np.float32))

    def sigma(self) -> np.ndarray:
        """Median of the positive values of each band; 0 for a band without any."""
        values = np.concatenate(self._values) if self._values else np.empty((0, self._n_bands), np.float32)
        result = np.zeros(self._n_bands, dtype=np.float32)
        for band in range(self._n_bands):
            column = values[:, band]
            column = column[np.isfinite(column) & (column > 0)]
            result[band] = np.median(column) if len(column) else 0.0
        return result
