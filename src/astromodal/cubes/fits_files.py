"""FITS files opened so that what is wrong with one is a line that names file and extension, and parts of images read.

An image that is stored as it is, is mapped; one that is tile-compressed, gzipped or scaled is read by rows. In neither
case does an image have to fit into memory.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

MAX_OPEN = 32  # files that a process keeps open
STRIP_BYTES = 1 << 26  # of rows of an image that are held at once
KEPT_BYTES = 1 << 28  # of what was decoded and may be wanted again
_SCALED = ("BSCALE", "BZERO", "BLANK")


def open_fits(path: str | Path, memmap: bool = True, lazy: bool = False) -> Any:
    """The HDUs of a file, whole as far as its size tells.

    Args:
        lazy: read headers when they are asked for; of what comes after them nothing is then known.

    Raises:
        DataError: there is no such file, it is not FITS, or it is cut off.
    """
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    if not Path(path).is_file():
        raise DataError("a FITS file", got="no such file", where=path)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", AstropyWarning)
            hdus = fits.open(path, memmap=memmap, lazy_load_hdus=lazy)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise _damaged(path, error) from error
    broken = [str(w.message) for w in said if "truncated" in str(w.message) or "Error validating" in str(w.message)]
    if broken:
        hdus.close()
        raise _damaged(path, broken[0])
    return hdus


def _damaged(path: str | Path, error: object) -> DataError:
    return DataError(
        "a complete FITS file",
        got=" ".join(str(error).split())[:160],
        where=path,
        repair="fetch the file again; it is cut off or not FITS",
    )


@contextlib.contextmanager
def reading(path: str | Path, extension: object = "") -> Iterator[None]:
    """Block in which an error of astropy in reading is one line that names file and extension."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, TypeError, IndexError, KeyError, EOFError) as error:
        where = f"{path}, extension {extension}" if extension != "" else path
        raise DataError(
            "data that can be read",
            got=" ".join(str(error).split())[:160],
            where=where,
            repair="fetch the file again; it is damaged",
        ) from error


def find_hdu(hdus: Any, wanted: str | None, kind: str, path: str | Path) -> int:
    """Number of an extension: by name (whatever its case) or number, else the first of ``kind``, image or table.

    Raises:
        DataError: there is none, or it is of the other kind.
    """
    names = [f"{i} {hdu.name}".strip() for i, hdu in enumerate(hdus)]
    if wanted is None:
        found = [i for i, hdu in enumerate(hdus) if _is(hdu, kind)]
    elif str(wanted).lstrip("-").isdecimal():
        found = [int(wanted)] if 0 <= int(wanted) < len(hdus) else []
    else:
        found = [i for i, hdu in enumerate(hdus) if hdu.name.lower() == str(wanted).lower()]
    if not found:
        raise DataError(
            f"an extension with {_an(kind)}" if wanted is None else f"an extension {wanted}",
            got=f"only {', '.join(names)}",
            where=path,
            repair="name it with hdu: …",
        )
    if not _is(hdus[found[0]], kind):
        raise DataError(
            f"{_an(kind)} in extension {names[found[0]]}",
            got=type(hdus[found[0]]).__name__,
            where=path,
            repair=f"extensions: {', '.join(names)}",
        )
    return found[0]


def image_hdus(hdus: Any) -> list[int]:
    """Numbers of all extensions with an image."""
    return [i for i, hdu in enumerate(hdus) if _is(hdu, "image")]


def _an(kind: str) -> str:
    return {"image": "an image", "table": "a table"}[kind]


def _is(hdu: Any, kind: str) -> bool:
    if kind == "image":
        return bool(hdu.is_image) and len(hdu.shape) >= 2
    return not hdu.is_image and getattr(hdu, "columns", None) is not None


class OpenFiles:
    """The files that were read last, kept open: neighbouring objects are on the same ones."""

    def __init__(self, most: int = MAX_OPEN) -> None:
        self._most = most
        self._files: OrderedDict[tuple[str, bool], Any] = OrderedDict()
        self._kept: OrderedDict[Any, np.ndarray] = OrderedDict()

    def get(self, path: str | Path, memmap: bool = True) -> Any:
        """The HDUs of ``path``."""
        key = (str(path), memmap)
        if key in self._files:
            self._files.move_to_end(key)
        else:
            while len(self._files) >= self._most:
                self._files.popitem(last=False)[1].close()
            self._files[key] = open_fits(path, memmap)
        return self._files[key]

    def kept(self, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What ``make`` gives, which is remembered under ``key`` while there is room: the last ones are."""
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > 1 and sum(a.nbytes for a in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def close(self) -> None:
        self._kept.clear()
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pixels:
    """One image (or plane of an image) of a file, read by rows: ``shape`` is (rows, columns).

    Raises:
        DataError: it has neither two axes, nor three and a plane.
    """

    def __init__(self, files: OpenFiles, path: str | Path, hdu: int, plane: int | None = None) -> None:
        self.where, self.path, self.number, self.plane = f"{path}, extension {hdu}", path, hdu, plane
        self.header = files.get(path)[hdu].header
        self._mapped = not any(key in self.header for key in _SCALED)
        self._hdu = files.get(path, self._mapped)[hdu]
        shape = self._hdu.shape
        planes = int(np.prod(shape[:-2]))
        if (plane is None and planes != 1) or (plane is not None and not (len(shape) == 3 and 0 <= plane < planes)):
            raise DataError(
                "an image with two axes, or the number of a plane of three",
                got=f"axes {shape}, {plane=}",
                where=self.where,
                repair="set plane of the band in cubes.images.bands",
            )
        self._leading = (plane,) if plane is not None else (0,) * (len(shape) - 2)
        self.shape = tuple(int(n) for n in shape[-2:])
        compressed = type(self._hdu).__name__ == "CompImageHDU"
        self.by_rows = compressed or not self._mapped

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows ``first`` to ``last`` (without), (rows, columns); of a mapped image nothing is read yet."""
        with reading(self.path, self.number):
            source = self._hdu.section if self.by_rows else self._hdu.data
            return np.asarray(source[(*self._leading, slice(first, last), slice(None))])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows of a mapped image, ``(k, columns)``."""
        return self.rows(0, self.shape[0])[rows]

    def whole(self) -> np.ndarray:
        """All pixels, which are not kept here."""
        with reading(self.path, self.number):
            pixels = np.array(self._hdu.data[self._leading])
            del self._hdu.data
        return pixels

    def cut(self, corner: np.ndarray, size: int) -> np.ndarray:
        """Square cutouts ``(n, size, size)`` float32, NaN outside of the image.

        Args:
            corner: ``(n, 2)`` int, x and y of each cutout's first pixel; may lie outside of the image.
        """
        n_y, n_x = self.shape
        out = np.full((len(corner), size, size), np.nan, np.float32)
        y0, y1 = np.clip(corner[:, 1], 0, n_y), np.clip(corner[:, 1] + size, 0, n_y)
        x0, x1 = np.clip(corner[:, 0], 0, n_x), np.clip(corner[:, 0] + size, 0, n_x)
        for first, last, which in strips(y0, y1, max(size, STRIP_BYTES // (4 * n_x))):
            strip = self.rows(first, last)
            for i in which:
                place = (
                    slice(y0[i] - corner[i, 1], y1[i] - corner[i, 1]),
                    slice(x0[i] - corner[i, 0], x1[i] - corner[i, 0]),
                )
                out[i][place] = strip[y0[i] - first : y1[i] - first, x0[i] : x1[i]]
        return out


def strips(first: np.ndarray, last: np.ndarray, most: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Ranges of rows that hold the wanted ones, each wanted one in one of them, none read twice without need.

    Args:
        first, last: rows wanted of each of n, ``(n,)``; empty ranges are left out.
        most: rows of a strip.

    >>> [(a, b, which.tolist()) for a, b, which in strips(np.array([0, 50, 2, 7]), np.array([4, 54, 6, 7]), 8)]
    [(0, 6, [0, 2]), (50, 54, [1])]
    """
    order = np.argsort(first, kind="stable")
    order = order[last[order] > first[order]]
    begin = 0
    while begin < len(order):
        low, high, end = first[order[begin]], last[order[begin]], begin + 1
        while end < len(order) and first[order[end]] <= high and last[order[end]] - low <= most:
            high, end = max(high, last[order[end]]), end + 1
        yield int(low), int(high), order[begin:end]
        begin = end
