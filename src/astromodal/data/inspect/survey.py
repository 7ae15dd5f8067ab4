"""Looking at a survey that nobody has described: its fields, columns, a guess, and a proposal that was tried."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...config.launching.register import conf_dir
from ...config.reading.containers import to_object
from ...config.schema import DataConfig, Layout
from ...errors import DataError, UserError
from ..datacube import Datacube, needed_columns
from ..on_disk import check_unique_ids
from ..sources import hats, nested
from ..sources.layouts import Found, Source, find_fields, open_source
from ..sources.tables import TableSource, other_extensions
from .proposal import propose
from .roles import Guess, guess
from .statistics import ColumnFacts, band_labels, facts

MAX_NAMED = 6
MAX_CHECKED = 2_000_000  # rows whose ids are compared


@dataclass
class Survey:
    """What was found."""

    said: list[str]  # about the files
    columns: list[ColumnFacts]
    guess: Guess
    doubts: list[str]  # what a person has to decide or repair
    text: str  # the proposal


def look(path: str, name: str, layout: str, hdu: str | None, rows: int) -> Survey:
    """Look at some rows of every column and propose a configuration called ``name``.

    Raises:
        DataError: nothing is there, a file is damaged, or the proposal does not read the survey.
    """
    root = Path(path)
    if not root.exists():
        raise DataError("a file, a folder or a catalogue", got="no such file", where=root)
    found = find_fields(
        DataConfig(name=name, root=path, layout=Layout(layout), hdu=hdu), f"{path}/datacube_{{field}}.parquet"
    )
    sources = {field: open_source(parts, hdu) for field, parts in found.fields.items()}
    columns, said = facts(list(sources.values()), rows)
    first = next(iter(sources.values()))
    hints = hats.properties_of(hats.catalogue_of(root)) if found.layout == "hats" else {}
    roles = guess(columns, hints, band_labels(first, columns))
    about = {} if layout == "auto" else {"layout": found.layout}
    if hdu is not None:
        about["hdu"] = hdu
    about_files = [*_describe(root, found, sources), *found.said, *said, *_presets(first, path)]
    text = propose(roles, name, path, about, about_files)
    return Survey(about_files, columns, roles, _extensions(first) + _doubts(roles, text, sources), text)


def _presets(source: Source, path: str) -> list[str]:
    """Surveys of ``conf/data`` all of whose columns are there."""
    return [
        f"all columns of data={name} are here: data={name} data.root={path}"
        for name, columns in _described()
        if all(nested.find(source.schema, column) for column in columns)
    ]


@cache
def _described() -> list[tuple[str, list[str]]]:
    """Surveys of ``conf/data`` that are not made of another one, and the columns that each needs."""
    files = sorted((conf_dir() / "data").glob("*.yaml"))
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files}
    return [(name, list(needed_columns(parse(text)))) for name, text in texts.items() if "\ndefaults:" not in text]


def _describe(root: Path, found: Found, sources: dict[str, Source]) -> list[str]:
    kinds = sorted({source.kind for source in sources.values()})
    total = sum(source.n_rows for source in sources.values())
    names = ", ".join(list(found.fields)[:MAX_NAMED]) + (" …" if len(found.fields) > MAX_NAMED else "")
    what = {"hats": "HATS catalogue, a field per tile", "folders": "a folder per field", "files": "a file per field"}
    return [f"{root}: {what[found.layout]} ({'; '.join(kinds[:3])}); {len(sources)} fields ({names}), {total} rows"]


def _extensions(source: Source) -> list[str]:
    """What a FITS file holds besides the table that is read."""
    if not isinstance(source, TableSource):
        return []
    tables, images = other_extensions(source.path, source.extension)
    doubts = [f"other tables of {source.path.name}: {', '.join(tables)}; --hdu chooses one"] if tables else []
    if images:
        shown = ", ".join(images[:MAX_NAMED]) + (" …" if len(images) > MAX_NAMED else "")
        doubts.append(
            f"images of {source.path.name}, which are not read here: {shown}; python build_datacubes.py makes"
            " datacubes of images and spectra"
        )
    return doubts


def _doubts(roles: Guess, text: str, sources: dict[str, Source]) -> list[str]:
    """What is in the way of a run, or would make it wrong."""
    doubts = []
    if roles.id is None:
        return ["no column has another value in every row: set data.id_column, or add a column of ids"]
    if roles.images:
        shape = "" if len(roles.shape) == 3 else " and the shape columns"
        doubts.append(f"pixel_scale, zero_point{shape} of data.images are not known")
    unknown = [g.name for g in roles.spectra.values() if not g.flux.unit]
    if unknown:
        doubts.append(f"the unit of the spectra of {', '.join(unknown)} is not known")
    if roles.ra is None:
        doubts.append("no positions were found: objects will be divided by a hash of the id, not by sky")
    if not (roles.scalars or roles.spectra or roles.images):
        doubts.append("nothing was found that could be learned from")
    try:
        data = parse(text)
        if data.images is not None and data.images.size % 4:
            doubts.append(f"cutouts of {data.images.size} px: image tokenizers need a size that 4 divides")
        cubes = [Datacube(source.path, data, field, source) for field, source in sources.items()]
        if sum(cube.n_rows for cube in cubes) <= MAX_CHECKED:
            check_unique_ids(cubes)
    except UserError as error:
        doubts.append(str(error))
    return doubts


def parse(text: str) -> DataConfig:
    """The text of a proposal as the typed section ``data``."""
    import yaml
    from omegaconf import OmegaConf

    values = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), values), DataConfig)
