"""``spec-PLATE-MJD-FIBER.fits`` of SDSS and BOSS: one spectrum a file, pixels equal in the logarithm of wavelength.

The first table has ``loglam`` (log10 of Angstrom, in vacuum), ``flux`` (1e-17 erg/s/cm2/Angstrom), ``ivar`` and
``and_mask``; the header of the file has the position (PLUG_RA, PLUG_DEC). See the data model of SDSS, ``spec``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...errors import DataError
from ..fits_files import OpenFiles, open_fits, reading
from ..staging import DEC, RA
from .desi import FILE, ROWS, Arm

FLUX_UNIT = "1e-17 erg/s/cm2/Angstrom"
_POSITIONS = (("PLUG_RA", "PLUG_DEC"), ("RA", "DEC"), ("RADEG", "DECDEG"))
_BATCH = 5000  # files


def index(paths: list[Path], counts: dict[str, int]) -> Iterator[pa.RecordBatch]:
    """Where each position's spectrum is, from the headers."""
    for first in range(0, len(paths), _BATCH):
        some = paths[first : first + _BATCH]
        places = [_position(path) for path in some]
        counts["files"] += len(some)
        counts["rows"] += len(some)
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([a for a, _ in places], pa.float64()),
                pa.array([d for _, d in places], pa.float64()),
                pa.array([str(path) for path in some], pa.string()),
                pa.array([[0]] * len(some), pa.list_(pa.int32())),
            ],
            names=[RA, DEC, FILE, ROWS],
        )


def _position(path: Path) -> tuple[float, float]:
    with open_fits(path, lazy=True) as hdus:  # many exposures may follow
        header = hdus[0].header
        for ra, dec in _POSITIONS:
            if isinstance(header.get(ra), int | float) and isinstance(header.get(dec), int | float):
                return float(header[ra]) % 360, float(header[dec])
    raise DataError(
        "a position in the header: PLUG_RA and PLUG_DEC, or RA and DEC",
        got="none",
        where=path,
        repair="name the files by columns of the catalogue: spec-{plate:04d}-{mjd}-{fiberid:04d}.fits",
    )


def read(_: OpenFiles, path: str, rows: list[np.ndarray], bits: int | None) -> list[Arm]:
    """The spectrum, as one arm of ``k`` equal rows (k objects may have one file); masked pixels have ivar 0."""
    with open_fits(path, lazy=True) as hdus, reading(path, 1):
        header = hdus[0].header
        coadd = hdus[1] if len(hdus) > 1 and getattr(hdus[1], "columns", None) is not None else None
        there = {} if coadd is None else {name.lower(): name for name in coadd.columns.names}
        missing = next((name for name in ("loglam", "flux", "ivar") if name not in there), None)
        if coadd is None or missing is not None:
            raise DataError(
                f"a column {missing}",
                got=f"only {', '.join(there) or 'an image'}",
                where=f"{path}, extension 1",
                repair="choose spec-*.fits, or format: table",
            )
        data = coadd.data
        loglam, flux, ivar = (np.array(data[there[n]], np.float64) for n in ("loglam", "flux", "ivar"))
        if "and_mask" in there:
            flags = np.asarray(data[there["and_mask"]]).astype(np.int64)
            ivar[(flags & (-1 if bits is None else bits)) != 0] = 0.0
        del data
    k, wave = len(rows), 10.0**loglam
    return [
        {
            "name": "",
            "wave": wave,
            "flux": np.tile(flux, (k, 1)),
            "ivar": np.tile(ivar, (k, 1)),
            "wave_unit": "Angstrom",
            "flux_unit": FLUX_UNIT,
            "header": header,
        }
    ]
