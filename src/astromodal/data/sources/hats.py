"""HATS catalogues: Parquet by tiles of the sky (HEALPix, nested), one tile being one field.

A catalogue is a folder with ``hats.properties`` (older: ``properties``), ``partition_info.csv`` and
``dataset/Norder=<k>/Dir=<p // 10000 * 10000>/Npix=<p>.parquet``, or a folder ``Npix=<p>/`` of part files
(www.ivoa.net/documents/Notes/HATS). A collection (``collection.properties``) names its catalogue; its margins and
indexes repeat rows of that, and are left alone, as are ``_metadata`` and what ``partition_info.csv`` does not list.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError

PROPERTIES = ("hats.properties", "properties")
COLLECTION = "collection.properties"
PARTITIONS = "partition_info.csv"
PARTS = (".parquet", ".parq", ".pq")  # endings of Parquet files
FIELD = re.compile(r"Norder(\d+)_Npix(\d+)\Z")
_TILE = re.compile(r"Norder=(\d+)/(?:Dir=\d+/)?Npix=(\d+)(?:\.\w+|)\Z")


@dataclass(frozen=True)
class Tile:
    """A HEALPix pixel in the nested scheme."""

    order: int
    pixel: int

    @property
    def field(self) -> str:
        """The tile's name as a field.

        >>> Tile(3, 20117).field
        'Norder3_Npix20117'
        """
        return f"Norder{self.order}_Npix{self.pixel}"

    @property
    def folder(self) -> str:
        """Folder of its file below ``dataset``.

        >>> Tile(8, 20117).folder
        'Norder=8/Dir=20000'
        """
        return f"Norder={self.order}/Dir={self.pixel // 10000 * 10000}"


def overlapping(fields: Sequence[str], cone: Sequence[float]) -> list[str]:
    """Those of some tiles, by their names as fields, that a cone (degrees) touches; without astropy-healpix all.

    The others need not be opened to know that nothing of them lies in the cone.
    """
    try:
        from astropy_healpix import HEALPix
    except ImportError:
        return list(fields)
    from astropy import units

    tiles = {field: tuple(map(int, found.groups())) for field in fields if (found := FIELD.match(field))}
    place = [value * units.deg for value in cone]
    touched = {
        order: set(HEALPix(2**order, order="nested").cone_search_lonlat(*place).tolist())
        for order in {order for order, _ in tiles.values()}
    }
    return [field for field in fields if field not in tiles or tiles[field][1] in touched[tiles[field][0]]]


def read_properties(path: Path) -> dict[str, str]:
    """A file of ``name = value`` lines."""
    lines = (line.strip() for line in path.read_text("utf-8", "replace").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith(("#", "!")))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def properties_of(folder: Path) -> dict[str, str]:
    """What a catalogue says of itself; empty where it says nothing."""
    return next((read_properties(folder / name) for name in PROPERTIES if (folder / name).is_file()), {})


def is_catalogue(folder: Path) -> bool:
    """Whether a folder is a HATS catalogue or collection, or at least has its tiles."""
    if (folder / COLLECTION).is_file():
        return True
    described = (folder / PARTITIONS).is_file() or any((folder / name).is_file() for name in PROPERTIES)
    return (described and (folder / "dataset").is_dir()) or any(True for _ in _tile_places(folder))


def catalogue_of(root: Path) -> Path:
    """The folder of the catalogue: ``root``, or the one that a collection names.

    Raises:
        DataError: a collection without its catalogue, or a catalogue of another kind (a margin, an index).
    """
    folder = root
    if (root / COLLECTION).is_file():
        name = read_properties(root / COLLECTION).get("hats_primary_table_url", "")
        folder = root / name
        if not name or not folder.is_dir():
            raise DataError(
                "the catalogue of a HATS collection",
                got=name or "no hats_primary_table_url",
                where=root / COLLECTION,
                repair="set data.root=… to the catalogue itself",
            )
    kind = properties_of(folder).get("dataproduct_type", "object")
    if kind in ("index", "margin", "association", "map"):
        raise DataError(
            "a HATS catalogue with rows of its own",
            got=f"one of the type {kind}",
            where=folder,
            repair="set data.root=… to the catalogue that it belongs to",
        )
    return folder


def tiles(root: Path) -> tuple[dict[Tile, list[Path]], list[str]]:
    """The files of each tile that the catalogue has, and what there is to say of the others.

    Raises:
        DataError: no catalogue, no tile, or a tile that ``partition_info.csv`` lists and that is not there.
    """
    folder = catalogue_of(root)
    places = {tile: path for tile, path in _tile_places(folder)}
    listed = _partitions(folder / PARTITIONS)
    if not places and not listed:
        raise DataError("tiles Norder=*/Dir=*/Npix=*", got="none", where=folder, repair="set data.root=…")
    wanted = places if listed is None else listed
    missing = [tile for tile in wanted if tile not in places]
    if missing:
        raise DataError(
            f"the tile Norder={missing[0].order}/Npix={missing[0].pixel} of {PARTITIONS}",
            got=f"no such file ({len(missing)} of {len(wanted)} tiles are missing)",
            where=folder / "dataset",
            repair=f"copy the tile, or take its line out of {PARTITIONS}",
        )
    others = len(places.keys() - set(wanted))
    said = [f"{others} tiles of {folder} that {PARTITIONS} does not list: left alone"] if others else []
    return {tile: parts(places[tile]) for tile in sorted(wanted, key=lambda t: (t.order, t.pixel))}, said


def parts(path: Path) -> list[Path]:
    """The Parquet files of a file or folder, by name; what begins with ``_`` or ``.`` is none.

    Raises:
        DataError: there is none.
    """
    if path.is_file():
        return [path]
    found = [p for p in path.iterdir() if p.suffix.lower() in PARTS and p.name[0] not in "_." and p.is_file()]
    if not found:
        raise DataError("part files", got="none", where=path, repair="remove the folder, or copy its files again")
    return sorted(found)


def _tile_places(folder: Path) -> Iterator[tuple[Tile, Path]]:
    """Tiles and their file or folder, below ``dataset`` or, in older catalogues, below the catalogue itself."""
    base = folder / "dataset" if (folder / "dataset").is_dir() else folder
    for path in sorted(base.glob("Norder=*/Dir=*/Npix=*")):
        match = _TILE.search(path.as_posix())
        if match and (path.is_dir() or path.suffix.lower() in PARTS):
            yield Tile(int(match[1]), int(match[2])), path


def _partitions(path: Path) -> list[Tile] | None:
    """The tiles that a catalogue lists; None if it has no list.

    Raises:
        DataError: a list without the columns ``Norder`` and ``Npix``, or with something else than numbers in them.
    """
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[Mapping[str, str]] = list(csv.DictReader(file))
    try:
        listed = [Tile(int(float(row["Norder"])), int(float(row["Npix"]))) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("columns Norder and Npix with whole numbers", got=f"{error}", where=path) from error
    return list(dict.fromkeys(listed))
