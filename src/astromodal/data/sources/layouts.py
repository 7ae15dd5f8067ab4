"""Which files make up which field: one registry of arrangements, chosen by looking at ``data.root``.

=========  =======================================================================================
files      a file per field: ``paths.datacube_template``, else every file of ``data.root`` in its first format of
           Parquet, FITS, ECSV, VOTable, CSV; or ``data.root`` itself where that is a file
folders    a folder of part files per field: ``<data.root>/<field>/*.parquet``
hats       a HATS catalogue or collection: a tile is a field
=========  =======================================================================================

A new arrangement is one function, from a folder to the files of each field, and a row of
``SOURCES`` in :mod:`astromodal.config.families`.
"""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...config.families import SOURCES
from ...errors import DataError
from . import hats, remote
from .parquet import ParquetSource
from .tables import ENDINGS, TableSource, table_format

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import pyarrow as pa

    from ...config.schema import DataConfig


class Source(Protocol):
    """The rows of one field, wherever they come from. Holds no file handle, so it can be sent to other processes."""

    @property
    def path(self) -> Path: ...
    @property
    def files(self) -> Sequence[Path]: ...  # what its rows are read from
    @property
    def where(self) -> str: ...  # what messages name: the path, and the extension of a FITS file
    @property
    def n_rows(self) -> int: ...
    @property
    def schema(self) -> pa.Schema: ...  # columns as stored
    @property
    def lacking(self) -> Mapping[str, Path]: ...  # columns that a part of it lacks, and which part
    @property
    def kind(self) -> str: ...
    def units(self) -> Mapping[str, str]: ...
    def fingerprint(self) -> str: ...
    def batches(
        self, names: Sequence[str], rows: int, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[pa.RecordBatch, int]]: ...


@dataclass(frozen=True)
class Found:
    """The fields of a survey: name → its files, how they are arranged, and what there is to say of others."""

    fields: dict[str, list[Path]]
    layout: str
    said: list[str] = dataclass_field(default_factory=list)


def open_source(paths: Sequence[str | Path], hdu: str | None = None, path: Path | None = None) -> Source:
    """The rows of a table, or of one or more Parquet files; ``path``: what messages name, default the first file."""
    if len(paths) == 1 and table_format(Path(paths[0])):
        return TableSource(Path(paths[0]), hdu)
    return ParquetSource([Path(p) for p in paths], path)


def by_template(template: str) -> dict[str, list[Path]]:
    """The files that a path with ``{field}`` matches."""
    before, after = template.split("{field}", 1)
    after = after.replace("{field}", "*")
    pattern = re.compile(re.escape(str(Path(before + "x"))[:-1]) + "(.+?)" + re.escape(after) + r"\Z", re.DOTALL)
    found = {}
    for path in glob.glob(glob.escape(before) + "*" + glob.escape(after)):
        if match := pattern.match(str(Path(path))):
            found[match.group(1)] = [Path(path)]
    return dict(sorted(found.items()))


def in_files(root: Path) -> Found | None:
    """A file per field, called by its name."""
    if root.is_file():
        return Found({_stem(root): [root]}, "files")
    kinds: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir()):
        kind = "parquet" if path.suffix.lower() in hats.PARTS else table_format(path)
        if kind and path.is_file() and path.name[0] not in "_.":
            kinds.setdefault(kind, []).append(path)
    kind = next((kind for kind in ("parquet", *dict.fromkeys(ENDINGS.values())) if kind in kinds), None)
    if kind is None:
        return None
    found: dict[str, list[Path]] = {}
    for path in kinds.pop(kind):
        if _stem(path) in found:
            raise DataError(
                "one file per field",
                got=f"{found[_stem(path)][0].name} and {path.name}",
                where=root,
                repair=f"move one, or set paths.datacube_template=…/{{field}}{path.suffix}",
            )
        found[_stem(path)] = [path]
    others = [path.name for paths in kinds.values() for path in paths]
    said = [f"{len(others)} files of {root} of another format ({others[0]} …): left alone"] if others else []
    return Found(found, "files", said)


def in_folders(root: Path) -> Found | None:
    """A folder per field, with its part files in it."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name[0] not in "_."] if root.is_dir() else []
    found = {}
    for folder in folders:
        if any(p.suffix.lower() in hats.PARTS and p.name[0] not in "_." for p in folder.iterdir()):
            found[folder.name] = hats.parts(folder)
    return Found(found, "folders") if found else None


def in_hats(root: Path) -> Found | None:
    """A HATS catalogue: a field per tile."""
    if not hats.is_catalogue(root):
        return None
    found, said = hats.tiles(root)
    return Found({tile.field: paths for tile, paths in found.items()}, "hats", said)


def find_fields(data: DataConfig, template: str, columns: Sequence[str] = ()) -> Found:
    """The files of each field of a survey.

    Args:
        data: ``data.layout`` chooses an arrangement; ``auto`` is the template where it matches, else what
            ``data.root`` looks like.
        template: path with ``{field}``, such as ``cubes/datacube_{field}.parquet``; or a file.
        columns: names that are needed, of a catalogue elsewhere.

    Raises:
        DataError: the folder is missing or holds nothing of the kind, or could be read in two ways.
    """
    if remote.is_remote(data.root):
        found, said = hats.tiles(remote.local_copy(data, list(columns)))
        return Found({tile.field: paths for tile, paths in found.items()}, "hats", said)
    layout = getattr(data.layout, "value", data.layout)
    if layout in ("auto", "files"):
        if "{field}" not in template:
            path = Path(template)
            return Found({path.stem.removeprefix("datacube_"): [path]}, "files")
        if fields := by_template(template):
            return Found(fields, "files")
    root = Path(template.split("{field}")[0] + "x").parent
    if not root.exists():
        raise DataError("a folder with datacubes", got="no such folder", where=root, repair="set data.root=…")
    tried = list(SOURCES.values()) if layout == "auto" else [SOURCES[layout]]
    arranged = [f for f in (row.made()(root) for row in tried) if f]
    if arranged and arranged[0].layout == "hats":  # its own files beside the tiles are no fields
        return arranged[0]
    if len(arranged) > 1:
        raise DataError(
            "one arrangement of files",
            got=" and ".join(f.layout for f in arranged),
            where=root,
            repair="set data.layout=files or data.layout=folders",
        )
    if not arranged:
        what = f"files {Path(template).name}" if layout == "auto" else f"the arrangement data.layout={layout}"
        raise DataError(
            what,
            got="none",
            where=root,
            repair="set data.root=… to the folder with the datacubes, or paths.datacube_template=…; "
            "astromodal inspect says what is in a folder",
        )
    return arranged[0]


def _stem(path: Path) -> str:
    """Name of a file without the endings of its format.

    >>> _stem(Path("a/datacube_x.1.fits.gz"))
    'x.1'
    """
    name = path.name
    while (end := Path(name).suffix.lower()) in {*ENDINGS, *hats.PARTS, ".gz", ".bz2", ".xz"}:
        name = name[: -len(end)]
    return name.removeprefix("datacube_")
