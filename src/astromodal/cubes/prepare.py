"""What all fields have in common, before any of them is built: tables staged, tiles found, objects put into fields."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ..config.checks.names import check_name
from ..data.datacube import needed_columns
from ..data.sources.units import wanted_units
from ..errors import ConfigError, DataError
from ..files.ids import normalize_ids
from ..provenance.fingerprints import fingerprint_config
from . import layout
from .field import EXTRA, FORMAT, Survey, band_source
from .images.tiles import Tile, find_tiles
from .spectra import desi, sdss
from .spectra.reader import check_groups
from .staging import DEC, ID, RA, Staged, stage, write
from .tables import column_names, files_of
from .templates import columns_of

if TYPE_CHECKING:
    from ..config.schema import CubesConfig, DataConfig


def prepare(
    data: DataConfig, cubes: CubesConfig, folder: Path, log: logging.Logger
) -> tuple[Survey, list[tuple[str, int, int]], dict[str, Any]]:
    """Stage and find everything in ``folder``.

    Returns:
        the survey; of each field its name, and first and last row in the order of fields; what was found of each input.

    Raises:
        DataError: an input that is missing or damaged, ids that repeat, a catalogue that no image covers, …
        ConfigError: a source that cannot be had.
    """
    root = Path(cubes.root).absolute()
    _check(cubes, data)
    catalogue = _catalogue(data, cubes, root, folder)
    log.info(
        "catalogue: %d objects (%d rows were left out) of %d files",
        catalogue.n_rows,
        catalogue.counts["left_out"],
        catalogue.counts["files"],
    )
    unique_ids(catalogue, cubes)
    rows, fields, found = _fields(catalogue, cubes, folder)
    units = _units(data)
    matches = {
        name: stage(
            f"match-{name}", config, root, folder, wanted_units=units, lists=_lists(data), key=f"cubes.matches.{name}"
        )
        for name, config in cubes.matches.items()
    }
    spectra = {name: _spectra_index(name, cubes, root, folder) for name in cubes.spectra}
    tiles = _tiles(data, cubes, root, catalogue, log)
    types = {
        f.name: f.type
        for table in (catalogue, *matches.values())
        for f in table.table.schema
        if not f.name.startswith("__")
    }
    inputs = {"catalogue": dict(catalogue.counts) | found}
    inputs |= {f"matches.{name}": dict(table.counts) | {"rows": table.n_rows} for name, table in matches.items()}
    inputs |= {
        f"spectra.{name}": dict(table.counts) | {"rows": table.n_rows} for name, table in spectra.items() if table
    }
    inputs |= {f"images.{band}": {"tiles": len(t)} for band, t in tiles.items()}
    if missing := layout.without_source(data, cubes, types):
        shown = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
        log.info("no source for %d columns of data=%s, which are null: %s", len(missing), data.name, shown)
    survey = Survey(
        data,
        cubes,
        root,
        catalogue,
        rows,
        matches,
        spectra,
        tiles,
        layout.schema(data, cubes, types),
        _settings(data, cubes),
    )
    return survey, fields, inputs


def _settings(data: DataConfig, cubes: CubesConfig) -> str:
    """What the configuration says of every field; where things are, and how many fields there are, is no part of it."""
    import dataclasses

    asked = dataclasses.asdict(cubes)
    for key in ("root", "overwrite", "fields"):
        asked.pop(key)
    meaning = {
        key: dataclasses.asdict(data)[key] for key in ("id_column", "ra_column", "dec_column", "spectra", "images")
    }
    meaning["units"] = _units(data)
    return fingerprint_config({"format": FORMAT, "cubes": asked, "data": meaning})


def _units(data: DataConfig) -> dict[str, tuple[str, list[float]]]:
    """Unit that each column of the datacube is to be in, where ``data`` states one, and the marks that it may hold."""
    marks = {
        scalar.column or name: [m for m in (*scalar.sentinels, scalar.nondetection) if m is not None]
        for name, scalar in data.scalars.items()
    }
    return {column: (unit, marks.get(column, [])) for column, (unit, power) in wanted_units(data).items() if power == 1}


def _lists(data: DataConfig) -> list[str]:
    return [name for name, kind in needed_columns(data).items() if kind == "list"]


def _check(cubes: CubesConfig, data: DataConfig) -> None:
    for key in ("path", "id", "ra", "dec"):
        if not getattr(cubes.catalogue, key):
            raise ConfigError(
                "a catalogue: path, id, ra and dec",
                got=f"no {key}",
                where="cubes.catalogue",
                repair=f"cubes.catalogue.{key}=…",
            )
    for name, source in cubes.spectra.items():
        check_groups(name, source, data.spectra)
        named = bool(columns_of(source.path, f"cubes.spectra.{name}.path"))
        if not named and source.format.value == "table":
            raise ConfigError(
                "a file per object, named by columns of the catalogue",
                got=source.path,
                where=f"cubes.spectra.{name}.path",
                repair="spectra of many objects in one table are cubes.matches",
            )
        if not named and source.catalogue_id and source.format.value == "sdss":
            raise ConfigError(
                "a position or a file per object for spec-*.fits",
                got="catalogue_id",
                where=f"cubes.spectra.{name}",
                repair="catalogue_id: null",
            )
    for name, match in cubes.matches.items():
        by, needs = ("id", ("id",)) if match.catalogue_id else ("position", ("ra", "dec"))
        for key in ("path", *needs):
            if not getattr(match, key):
                raise ConfigError(
                    f"{' and '.join(needs)} of a catalogue that is matched by {by}",
                    got=f"no {key}",
                    where=f"cubes.matches.{name}",
                    repair=f"cubes.matches.{name}.{key}=…",
                )
        if not match.columns:
            raise ConfigError("columns to take", got="none", where=f"cubes.matches.{name}.columns")


def _catalogue(data: DataConfig, cubes: CubesConfig, root: Path, folder: Path) -> Staged:
    """The first catalogue, with what the configuration, the paths and the joins need of it."""
    from dataclasses import replace

    config = cubes.catalogue
    first = files_of(config.path or "", root, "cubes.catalogue.path")[0]
    there = column_names(first, config.hdu)
    columns = layout.carried(data, cubes, there)
    extra = {c: "cubes.images" for t in _image_templates(cubes) for c in columns_of(t, "cubes.images") if c != "id"}
    for name, source in cubes.spectra.items():
        key = f"cubes.spectra.{name}"
        extra |= dict.fromkeys((c for c in columns_of(source.path, key) if c != "id"), key)
        extra |= {source.catalogue_id: key} if source.catalogue_id else {}
    extra |= {m.catalogue_id: f"cubes.matches.{name}" for name, m in cubes.matches.items() if m.catalogue_id}
    if cubes.fields.column:
        extra[cubes.fields.column] = "cubes.fields.column"
    for column, where in extra.items():
        if column not in there:
            near = difflib.get_close_matches(column, [*there, "id", "band", "field", "tile", "folder"], 1, cutoff=0.4)
            raise DataError(
                f"a column of the catalogue, {first.name}",
                got=f"{column}{f'; the nearest is {near[0]}' if near else ''}",
                where=where,
                repair="words in braces: {id} {band} {field} {tile} {folder}, or columns",
            )
    asked = replace(config, columns=columns | {EXTRA + column: column for column in extra})
    return stage("catalogue", asked, root, folder, wanted_units=_units(data), lists=_lists(data), key="cubes.catalogue")


def _image_templates(cubes: CubesConfig) -> list[str | None]:
    images = cubes.images
    return [images.path, images.hdu, images.weight, images.weight_hdu, images.mask, images.mask_hdu]


def unique_ids(catalogue: Staged, cubes: CubesConfig) -> None:
    """Refuse an id that stands in two rows of the catalogue.

    Raises:
        DataError: naming the id and how many there are.
    """
    keys = np.load(catalogue.path.with_suffix(".keys.npy"), mmap_mode="r")
    rows = np.load(catalogue.path.with_suffix(".keyrows.npy"), mmap_mode="r")
    again = np.flatnonzero(keys[1:] == keys[:-1])
    if not len(again):
        return
    pairs = np.unique(np.concatenate([rows[again], rows[again + 1]]))
    ids, number = np.unique(catalogue.take(pairs, (ID,)).column(ID).to_numpy(zero_copy_only=False), return_counts=True)
    if (number > 1).any():
        first = ids[number > 1][0]
        raise DataError(
            "ids that are unique",
            got=f"{first} {number.max()} times, and {int((number > 1).sum()) - 1} other such ids",
            where=f"cubes.catalogue, column {cubes.catalogue.id}",
            repair="take one row of each with cubes.catalogue.only=[COLUMN=VALUE], or another column",
        )


def _fields(
    catalogue: Staged, cubes: CubesConfig, folder: Path
) -> tuple[Path, list[tuple[str, int, int]], dict[str, int]]:
    """Rows of the catalogue field after field, each by declination; and where each field begins and ends."""
    ra, dec = (catalogue.table.column(c).to_numpy() for c in (RA, DEC))
    placed = np.isfinite(ra) & np.isfinite(dec)
    if not placed.any():
        raise DataError(
            "positions",
            got="none in any row",
            where=f"cubes.catalogue, columns {cubes.catalogue.ra} and {cubes.catalogue.dec}",
        )
    left_out = 0
    if cubes.fields.column:
        code, names = _by_column(catalogue, cubes.fields.column)
    elif cubes.fields.healpix_order is not None:
        code, names = _by_healpix(ra, dec, placed, cubes.fields.healpix_order)
        left_out = int((~placed).sum())
    else:
        code, names = np.zeros(len(ra), np.int64), [cubes.fields.name]
    for name in names:
        try:
            check_name(name, "the name of a field")
        except ConfigError as error:
            raise DataError.plain(f"{error}; to repair: another cubes.fields.column") from error
    order = np.lexsort((np.where(placed, dec, 91.0), code))
    order = order[code[order] >= 0]
    ends = np.searchsorted(code[order], np.arange(len(names) + 1))
    path = folder / "fields.npy"
    np.save(path, order.astype(np.int64))
    fields = [(name, int(a), int(b)) for name, a, b in zip(names, ends[:-1], ends[1:], strict=True) if b > a]
    return path, fields, {"without_position": int((~placed).sum()), "without_field": left_out}


def _by_column(catalogue: Staged, column: str) -> tuple[np.ndarray, list[str]]:
    values = catalogue.table.column(EXTRA + column).combine_chunks()
    try:
        kinds = pc.unique(values)
        names = normalize_ids(kinds)  # spelt one way, whatever the type
    except DataError as error:
        raise DataError.plain(f"{error} (cubes.fields.column={column})") from error
    sorted_names = sorted(set(names.tolist()))
    rank = np.array([sorted_names.index(name) for name in names.tolist()], np.int64)
    return rank[pc.index_in(values, value_set=kinds).to_numpy()], sorted_names


def _by_healpix(ra: np.ndarray, dec: np.ndarray, placed: np.ndarray, order: int) -> tuple[np.ndarray, list[str]]:
    """Tiles as HATS names them: nested numbering, ``Norder<k>-Npix<p>``."""
    from astropy import units
    from astropy_healpix import HEALPix

    tiles = HEALPix(2**order, order="nested").lonlat_to_healpix(ra[placed] * units.deg, dec[placed] * units.deg)
    numbers, code = np.unique(tiles, return_inverse=True)
    whole = np.full(len(ra), -1)
    whole[placed] = code
    return whole, [f"Norder{order}-Npix{number}" for number in numbers]


def _spectra_index(name: str, cubes: CubesConfig, root: Path, folder: Path) -> Staged | None:
    """Where the spectra of a source are; ``None`` if the path names the file of each object."""
    source, key = cubes.spectra[name], f"cubes.spectra.{name}.path"
    if columns_of(source.path, key):
        return None
    counts = {"files": 0, "rows": 0, "left_out": 0, "not_targets": 0, "bad_fibers": 0, "exposures": 0}
    paths = files_of(source.path or "", root, key)
    index = (
        desi.index(paths, counts, not source.catalogue_id)
        if source.format.value == "desi"
        else sdss.index(paths, counts)
    )
    found = write(f"spectra-{name}", index, folder, counts)
    if not found.n_rows:
        raise DataError("spectra of targets", got=f"none in {counts['rows']} rows", where=f"cubes.spectra.{name}.path")
    return found


def _tiles(
    data: DataConfig, cubes: CubesConfig, root: Path, catalogue: Staged, log: logging.Logger
) -> dict[str, list[Tile]]:
    """The tiles of each band; empty where images are stamps.

    Raises:
        DataError: no object of the catalogue is on any of them.
    """
    columns = layout.image_columns(data, cubes)
    if not columns or data.images is None or columns_of(cubes.images.path, "cubes.images.path"):
        return {}
    scale = data.images.pixel_scale
    found = {band: find_tiles(cubes.images, band_source(cubes, band), root, scale) for band in columns}
    log.info("images: %s", ", ".join(f"{band} {len(tiles)}" for band, tiles in found.items()))
    every = [tile for tiles in found.values() for tile in tiles]
    if not any(len(catalogue.near(tile.ra, tile.dec, tile.radius)) for tile in every):
        raise DataError(
            "images where the objects of the catalogue are",
            got=f"none of {len(every)}; the first one is at ra {every[0].ra:.3f}, dec {every[0].dec:.3f}",
            where=every[0].path,
            repair="check the WCS, and units and columns of the positions (cubes.catalogue.ra, dec)",
        )
    return found
