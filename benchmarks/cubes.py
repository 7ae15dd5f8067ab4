"""How fast `build_datacubes.py` reads cutouts and spectra from FITS, beside astropy alone.

Writes a tile with WCS, as it is and tile-compressed (RICE), and a file as DESI's coadds (masks compressed), and reads
them with one thread, taking turns: cutouts by astropy's Cutout2D from the whole image, spectra by astropy's arrays of
every extension; the same by this program, some hundred objects at a time. Prints medians of processor seconds and of
the ratios within a turn. Files are in the page cache.

    python benchmarks/cubes.py [pixels of a side] [cutouts] [spectra]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table

from astromodal.cubes.fits_files import OpenFiles, Pixels
from astromodal.cubes.spectra.desi import read

SIZE, CHUNK, ARMS = 96, 256, {"B": 2751, "R": 2326, "Z": 2881}
WANTED = 1 / 3  # of astropy's rate, at least


def write(folder: Path, side: int, n_spectra: int) -> dict[str, Path]:
    """The files: what → path."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((side, side)).astype(np.float32)
    paths = {name: folder / f"{name}.fits" for name in ("mapped", "compressed", "spectra")}
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image)]).writeto(paths["mapped"])
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, compression_type="RICE_1")]).writeto(paths["compressed"])
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table({"TARGETID": np.arange(n_spectra)}), name="FIBERMAP")]
    for arm, n in ARMS.items():
        values = {what: rng.standard_normal((n_spectra, n)).astype(np.float32) for what in ("FLUX", "IVAR")}
        hdus.append(fits.ImageHDU(np.linspace(3600.0, 9800.0, n), name=f"{arm}_WAVELENGTH"))
        hdus += [fits.ImageHDU(value, name=f"{arm}_{what}") for what, value in values.items()]
        mask = (rng.random((n_spectra, n)) < 0.01).astype(np.uint32)
        hdus.append(fits.CompImageHDU(mask, name=f"{arm}_MASK"))
    fits.HDUList(hdus).writeto(paths["spectra"])
    return paths


def cutouts_by_astropy(path: Path, corner: np.ndarray) -> float:
    total = 0.0
    with fits.open(path) as hdus:
        image = hdus[1].data
        for x, y in corner + SIZE // 2:
            total += float(Cutout2D(image, (x, y), SIZE, mode="partial").data.astype(np.float32).sum(dtype=np.float64))
    return total


def cutouts_by_us(path: Path, corner: np.ndarray) -> float:
    corner = corner[np.argsort(corner[:, 1])]  # a datacube is in the order of declination
    with OpenFiles() as files:
        image = Pixels(files, path, 1)
        parts = (image.cut(corner[i : i + CHUNK], SIZE) for i in range(0, len(corner), CHUNK))
        return sum(float(part.sum(dtype=np.float64)) for part in parts)


def spectra_by_astropy(path: Path, order: np.ndarray) -> float:
    with fits.open(path) as hdus:
        total = 0.0
        for arm in ARMS:
            flux, ivar, mask = (np.asarray(hdus[f"{arm}_{what}"].data)[order] for what in ("FLUX", "IVAR", "MASK"))
            total += float((flux + np.where(mask != 0, 0, ivar)).sum(dtype=np.float64))
    return total


def spectra_by_us(path: Path, order: np.ndarray) -> float:
    total = 0.0
    with OpenFiles() as files:
        for i in range(0, len(order), CHUNK):
            for arm in read(files, str(path), [np.array([row]) for row in order[i : i + CHUNK]], None):
                total += float((arm["flux"] + arm["ivar"]).sum())
    return total


def seconds(function: Callable[[], float]) -> tuple[float, float]:
    start = time.process_time()
    total = function()
    return time.process_time() - start, total


def measure(side: int = 4000, n_cutouts: int = 1000, n_spectra: int = 500, repeats: int = 5) -> dict[str, float]:
    """Print the table; returns this program's rate over astropy's."""
    rng, ratios = np.random.default_rng(1), {}
    corner, order = rng.integers(0, side - SIZE, (n_cutouts, 2)), rng.permutation(n_spectra)
    print(
        f"{n_cutouts} cutouts of {SIZE} px from {side} x {side}, {n_spectra} spectra; CPU seconds, medians of {repeats}"
    )
    print(f"{'what':<22}{'astropy':>9}{'ours':>9}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in write(Path(folder), side, n_spectra).items():
            which = order if name == "spectra" else corner
            pair = (spectra_by_astropy, spectra_by_us) if name == "spectra" else (cutouts_by_astropy, cutouts_by_us)
            turns = []
            for _ in range(repeats):
                (a, total), (b, own) = (seconds(lambda f=f, p=path, w=which: f(p, w)) for f in pair)
                if not np.isclose(total, own, rtol=1e-4, atol=1.0):
                    raise SystemExit(f"error: {name}: other values, {own} instead of {total}")
                turns.append((a, b, a / max(b, 1e-9)))
            one, other, ratios[name] = np.median(turns, axis=0)
            what = "spectra" if name == "spectra" else f"cutouts, {name}"
            print(f"{what:<22}{one:>9.2f}{other:>9.2f}{ratios[name]:>7.2f}x")
    slow = [name for name, ratio in ratios.items() if ratio < WANTED]
    print(f"below a third: {', '.join(slow)}" if slow else "all at a third of astropy's rate or more")
    return {name: float(ratio) for name, ratio in ratios.items()}


if __name__ == "__main__":
    measure(*map(int, sys.argv[1:4]))
