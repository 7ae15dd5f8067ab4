"""Writing a HATS catalogue: rows with positions, divided into tiles of the sky, as LSDB and :mod:`.hats` read them.

Rows are gone through twice: for their places on the sky (8 bytes of each are kept), then to be put into their tiles, by
way of a folder that is gone afterwards. A tile is the largest HEALPix pixel with at most ``max_rows`` rows. The
catalogue appears when it is whole, or not at all. Needs astropy-healpix (``pip install astropy-healpix``).

Shapes: n rows.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...config.checks.names import file_name
from ...errors import ConfigError, DataError
from ...files.atomic import writing
from .hats import PARTITIONS, Tile

SPATIAL = "_healpix_29"
DEEPEST = 29  # order of the index
FINEST = 13  # order of the smallest tiles, 25 arcsec: of more rows in one, the tile is larger than asked
HELD_ROWS = 65536  # of all tiles together, before they are put aside

Pieces = Callable[[], Iterator[pa.RecordBatch]]


def healpix_29(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Pixels of order 29 in the nested scheme, ``(n,)`` int64; positions in degrees.

    Raises:
        ConfigError: astropy-healpix is not installed.
    """
    try:
        from astropy_healpix import lonlat_to_healpix
    except ImportError as error:
        raise ConfigError(
            "astropy-healpix, to divide the sky", got="not installed", repair="pip install astropy-healpix"
        ) from error
    from astropy import units

    return lonlat_to_healpix(ra * units.deg, dec * units.deg, 1 << DEEPEST, order="nested").astype(np.int64)


def divide(pixels: np.ndarray, max_rows: int) -> list[Tile]:
    """The largest tiles that hold at most ``max_rows`` of some sorted pixels of order 29, in order of the sky.

    >>> [(t.order, t.pixel) for t in divide(np.sort(np.array([0, 1, 2, 5 << 58])), 2)]
    [(13, 0), (0, 5)]
    """
    todo = [Tile(0, pixel) for pixel in reversed(range(12))]
    found = []
    while todo:
        tile = todo.pop()
        low, high = np.searchsorted(pixels, limits(tile))
        if high - low > max_rows and tile.order < FINEST:
            todo += [Tile(tile.order + 1, 4 * tile.pixel + k) for k in reversed(range(4))]
        elif high > low:
            found.append(tile)
    return found


def limits(tile: Tile) -> tuple[int, int]:
    """First pixel of order 29 in a tile, and the first behind it."""
    shift = 2 * (DEEPEST - tile.order)
    return tile.pixel << shift, (tile.pixel + 1) << shift


def write_hats(
    folder: Path, name: str, pieces: Pieces, position: tuple[str, str], max_rows: int, about: Mapping[str, str]
) -> dict[str, int]:
    """Write a catalogue.

    Args:
        folder: where; must not be there.
        name: of the collection, for its readers.
        pieces: called twice; gives the rows, in any order.
        position: columns of right ascension and declination in degrees; rows where one is null, NaN or impossible
            cannot have a place and are left out.
        about: further properties.

    Returns:
        How many ``rows`` and ``tiles`` were written, and how many rows had ``no_position``.

    Raises:
        ConfigError: the folder is there, or astropy-healpix is not.
        DataError: no row has a position.
    """
    if folder.exists():
        raise ConfigError("a new folder for the catalogue", got="one that is there", where=folder)
    pixels, lost = [], 0
    for piece in pieces():
        ra, dec, good = _places(piece, position)
        pixels.append(healpix_29(ra[good], dec[good]))
        lost += int((~good).sum())
    every = np.sort(np.concatenate([np.empty(0, np.int64), *pixels]))
    if not len(every):
        raise DataError("rows with a position", got=f"none of {lost}", where=folder)
    tiles = divide(every, max_rows)
    with _appearing(folder) as made:
        aside = made / ".aside"
        schema = _put_aside(pieces, position, tiles, aside)
        _write_tiles(made, aside, tiles, schema)
        shutil.rmtree(aside)
        _describe(made, name, tiles, len(every), position, max_rows, about)
    return {"rows": len(every), "tiles": len(tiles), "no_position": lost}


def _places(piece: pa.RecordBatch, position: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right ascension, declination and whether they are a place, ``(n,)`` each."""
    ra, dec = (piece.column(c).cast(pa.float64()).to_numpy(zero_copy_only=False) for c in position)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    return ra, dec, good


def _put_aside(pieces: Pieces, position: tuple[str, str], tiles: list[Tile], aside: Path) -> pa.Schema:
    """Every row into the folder of its tile, with its pixel in front, in files of some rows; the schema."""
    starts = np.array([limits(tile)[0] for tile in tiles])
    held: dict[int, list[pa.RecordBatch]] = {}
    n_held = n_files = 0
    schema: pa.Schema | None = None

    def put() -> None:
        nonlocal n_held, n_files
        for number, parts in held.items():
            path = aside / str(number) / f"{n_files}.arrow"
            path.parent.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, parts[0].schema) as writer:
                for part in parts:
                    writer.write_batch(part)
        held.clear()
        n_held, n_files = 0, n_files + 1

    for piece in pieces():
        ra, dec, good = _places(piece, position)
        pixels = healpix_29(ra[good], dec[good])
        piece = piece.filter(pa.array(good))
        fields = pa.schema([pa.field(SPATIAL, pa.int64()), *piece.schema], metadata=piece.schema.metadata)
        piece = pa.RecordBatch.from_arrays([pa.array(pixels), *piece.columns], schema=fields)
        schema = schema or piece.schema
        numbers = np.searchsorted(starts, pixels, side="right") - 1
        for number in np.unique(numbers):
            held.setdefault(int(number), []).append(piece.filter(pa.array(numbers == number)))
        n_held += piece.num_rows
        if n_held >= HELD_ROWS:
            put()
    put()
    assert schema is not None  # there was a row with a position
    return schema


def _write_tiles(made: Path, aside: Path, tiles: list[Tile], schema: pa.Schema) -> None:
    """One Parquet file per tile, its rows in order of the sky, and the common footers beside them."""
    collected: list[pq.FileMetaData] = []
    for number, tile in enumerate(tiles):
        parts = []
        for path in sorted((aside / str(number)).iterdir()):
            with pa.OSFile(str(path)) as file:
                parts.append(pa.ipc.open_file(file).read_all())
        table = pa.concat_tables(parts).sort_by(SPATIAL)
        path = made / "dataset" / tile.folder / f"Npix={tile.pixel}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd", write_page_checksum=True, metadata_collector=collected)
        collected[-1].set_file_path(path.relative_to(made / "dataset").as_posix())
        shutil.rmtree(aside / str(number))
    pq.write_metadata(schema, made / "dataset" / "_common_metadata")
    pq.write_metadata(schema, made / "dataset" / "_metadata", metadata_collector=collected)


def _describe(
    made: Path,
    name: str,
    tiles: list[Tile],
    n_rows: int,
    position: tuple[str, str],
    max_rows: int,
    about: Mapping[str, str],
) -> None:
    """``partition_info.csv`` and ``hats.properties`` (with the older name beside it, for older readers)."""
    from ... import __version__

    lines = [f"{tile.order},{tile.pixel}" for tile in tiles]
    (made / PARTITIONS).write_text("\n".join(["Norder,Npix", *lines]) + "\n")
    sky = sum(1 / (12 * 4**tile.order) for tile in tiles)
    size = sum(path.stat().st_size for path in made.rglob("*.parquet")) // 1024
    properties = {
        "obs_collection": file_name(name),
        "dataproduct_type": "object",
        "hats_nrows": n_rows,
        "hats_col_ra": position[0],
        "hats_col_dec": position[1],
        "hats_col_healpix": SPATIAL,
        "hats_col_healpix_order": DEEPEST,
        "hats_npix_suffix": ".parquet",
        "hats_max_rows": max_rows,
        "hats_order": max(tile.order for tile in tiles),
        "moc_sky_fraction": f"{sky:.5g}",
        "hats_estsize": size,
        "hats_builder": f"astromodal {__version__}",
        "hats_creation_date": time.strftime("%Y-%m-%dT%H:%MUTC", time.gmtime()),
        "hats_version": "v1.0",
        **about,
    }
    text = "#HATS catalog\n" + "".join(f"{key}={' '.join(str(value).split())}\n" for key, value in properties.items())
    for file in ("hats.properties", "properties"):
        (made / file).write_text(text)


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that becomes it at the end of the block, and is removed after an error."""
    made = folder.parent / f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    with writing(folder):
        made.mkdir(parents=True)
        try:
            yield made
            os.replace(made, folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
