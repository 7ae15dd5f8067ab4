"""DESI's ``coadd-*.fits`` and ``spectra-*.fits``.

FIBERMAP has a row per spectrum (TARGETID, TARGET_RA, TARGET_DEC); of each camera the extensions ``B_WAVELENGTH``,
``B_FLUX``, ``B_IVAR``, ``B_MASK`` have the same rows. In ``spectra-*.fits`` a target has a row per exposure, all on
one wavelength grid: they are averaged with their inverse variances as weights, as the coadds are. Sky fibres
(OBJTYPE other than TGT) and fibres with a status flag (COADD_FIBERSTATUS, FIBERSTATUS) are left out and counted.
The files are described at https://desidatamodel.readthedocs.io (healpix/…/coadd-SURVEY-PROGRAM-PIXNUM).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import DataError
from ..fits_files import OpenFiles, Pixels, find_hdu, open_fits, reading
from ..staging import DEC, ID, RA

FILE, ROWS = "__file", "__rows"  # columns of the index: where a spectrum is
_WAVE = "_WAVELENGTH"

Arm = dict[str, Any]  # name, wave (p,), flux and ivar (k, p), wave_unit, flux_unit, header


def index(paths: list[Path], counts: dict[str, int], positions: bool = True) -> Iterator[pa.RecordBatch]:
    """Where each target's spectra are: a batch per file with id, position, file and rows.

    Args:
        positions: whether they are needed; FIBERMAPs that were cut down to TARGETID have none.
    """
    wanted = ("TARGETID", "TARGET_RA", "TARGET_DEC") if positions else ("TARGETID",)
    for path in paths:
        with open_fits(path) as hdus:
            number = find_hdu(hdus, "FIBERMAP", "table", path)
            names = {name.upper() for name in hdus[number].columns.names}
            for name in wanted:
                if name not in names:
                    raise DataError(
                        f"a column {name}",
                        got="none",
                        where=f"{path}, extension FIBERMAP",
                        repair="catalogue_id: <column with TARGETID> joins without positions",
                    )
            with reading(path, "FIBERMAP"):
                data = hdus[number].data
                target = np.array(data["TARGETID"])
                places = {n: np.array(data[t], np.float64) for n, t in zip((RA, DEC), wanted[1:], strict=False)}
                good = np.ones(len(target), bool)
                if "OBJTYPE" in names:
                    good = np.char.strip(np.asarray(data["OBJTYPE"]).astype("U")) == "TGT"
                    counts["not_targets"] += int((~good).sum())
                status = next((n for n in ("COADD_FIBERSTATUS", "FIBERSTATUS") if n in names), None)
                if status:
                    sound = np.asarray(data[status]) == 0
                    counts["bad_fibers"] += int((good & ~sound).sum())
                    good &= sound
        counts["files"] += 1
        counts["rows"] += len(good)
        rows = np.flatnonzero(good)
        order = rows[np.argsort(target[rows], kind="stable")]
        ids, first = np.unique(target[order], return_index=True)
        counts["exposures"] += len(rows) - len(ids)
        offsets = pa.array(np.append(first, len(order)).astype(np.int32))
        where = pa.ListArray.from_arrays(offsets, pa.array(order.astype(np.int32)))
        columns = {ID: pa.array(ids.astype(np.int64).astype("U")) if len(ids) else pa.array([], pa.string())}
        columns |= {
            n: pa.array(v[order[first]] % 360 if n == RA else v[order[first]], from_pandas=True)
            for n, v in places.items()
        }
        columns |= {FILE: pa.array([str(path)] * len(ids), pa.string()), ROWS: where}
        yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def read(files: OpenFiles, path: str, rows: list[np.ndarray], bits: int | None) -> list[Arm]:
    """The arms of ``k`` targets of a file, in the file's order of arms; masked pixels have ivar 0.

    Args:
        rows: of each target, its rows.
        bits: flags that mask a pixel; ``None``: any.

    Raises:
        DataError: an extension is missing, or wavelengths, flux and ivar do not have the same number of pixels.
    """
    hdus = files.get(path)
    names = [hdu.name.upper() for hdu in hdus]
    arms = [name.removesuffix(_WAVE) for name in names if name.endswith(_WAVE)]
    if not arms:
        raise DataError(
            "extensions such as B_WAVELENGTH",
            got=", ".join(names),
            where=path,
            repair="choose coadd-*.fits or spectra-*.fits",
        )
    return [_arm(files, path, arm, rows, bits) for arm in arms]


def _arm(files: OpenFiles, path: str, arm: str, rows: list[np.ndarray], bits: int | None) -> Arm:
    hdus, flat = files.get(path), np.concatenate(rows)
    names = [hdu.name.upper() for hdu in hdus]
    wave_hdu = hdus[names.index(f"{arm}{_WAVE}")]
    number = {what: find_hdu(hdus, f"{arm}_{what}", "image", path) for what in ("FLUX", "IVAR")}
    if f"{arm}_MASK" in names:
        number["MASK"] = names.index(f"{arm}_MASK")
    with reading(path, f"{arm}_FLUX"):
        wave = np.asarray(wave_hdu.data, np.float64)
        images = {what: Pixels(files, path, n) for what, n in number.items()}
        n_rows = min(image.shape[0] for image in images.values())
        if n_rows <= flat.max():
            raise DataError(
                f"{flat.max() + 1} spectra, as FIBERMAP has rows", got=n_rows, where=f"{path}, extensions {arm}_…"
            )
        flux, ivar = (_rows(files, images[what], flat) for what in ("FLUX", "IVAR"))
        # compressed, and wanted by the next objects as well: decoded once
        masked = files.kept((path, arm), lambda: _flagged(images["MASK"], bits))[flat] if "MASK" in images else None
    if wave.ndim != 1 or flux.shape[1:] != wave.shape or ivar.shape != flux.shape:
        raise DataError(
            f"a flux and an ivar for each of the {wave.shape} wavelengths",
            got=f"{flux.shape[1:]} and {ivar.shape[1:]}",
            where=f"{path}, extensions {arm}_…",
            repair="fetch the file again",
        )
    if masked is not None:
        ivar[masked] = 0.0
    flux, ivar = averaged(flux, ivar, np.array([len(r) for r in rows]))
    return {
        "name": arm,
        "wave": wave,
        "flux": flux,
        "ivar": ivar,
        "wave_unit": wave_hdu.header.get("BUNIT"),
        "flux_unit": hdus[number["FLUX"]].header.get("BUNIT"),
        "header": wave_hdu.header,
    }


def _rows(files: OpenFiles, image: Pixels, rows: np.ndarray) -> np.ndarray:
    if not image.by_rows:
        return np.asarray(image.take(rows), np.float64)
    return files.kept((image.path, image.number), image.whole)[rows].astype(np.float64)


def _flagged(mask: Pixels, bits: int | None) -> np.ndarray:
    return (mask.whole().astype(np.int64) & (-1 if bits is None else bits)) != 0


def averaged(flux: np.ndarray, ivar: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of consecutive rows ``(N, p)`` weighted by ivar, and their ivar; ``number (k,)`` of rows in each.

    >>> averaged(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([2]))
    (array([[2.5, 0. ]]), array([[4., 0.]]))
    """
    if (number == 1).all():
        return flux, ivar
    ivar = np.where(np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0), ivar, 0.0)
    first = np.concatenate([[0], np.cumsum(number)[:-1]])
    weight = np.add.reduceat(ivar, first, axis=0)
    total = np.add.reduceat(np.where(ivar > 0, flux, 0.0) * ivar, first, axis=0)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), weight
