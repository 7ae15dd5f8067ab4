"""One field: who is in it, what is known of each object, and the datacube, some hundred rows at a time.

A field is planned first, from positions and headers alone: matches, tiles, files. The plan and the content of what it
names decide whether the datacube that is there is up to date. Rows are in the order of declination, so that
neighbours are cut from the same part of an image.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.photometry import flux_factors
from ..data.spectra import grid
from ..errors import DataError
from ..provenance.fingerprints import fingerprint_config, new_hash
from ..provenance.remembered import fingerprint_files, memory_of
from . import layout
from .fits_files import OpenFiles
from .images.stamps import StampCutter
from .images.tiles import Tile, TileCutter
from .matching import Matches, as_ids, by_id, on_sky
from .spectra.reader import SpectraReader
from .staging import DEC, ID, RA, Staged
from .templates import columns_of

if TYPE_CHECKING:
    from ..config.schema import CubesConfig, DataConfig, MatchedConfig, SpectraSourceConfig

FORMAT = 1  # of what is written: another one makes every field anew
SAMPLE = 400  # objects of a field in the plot of the sky
EXTRA = "__of_"  # + name of a column of the catalogue that paths or joins need


@dataclass(frozen=True)
class Survey:
    """All that the fields have in common; sent to every process once."""

    data: DataConfig
    cubes: CubesConfig
    root: Path
    catalogue: Staged
    rows: Path  # .npy: rows of the catalogue, field after field
    matches: dict[str, Staged]
    spectra: dict[str, Staged | None]  # None: a file per object, named by the template
    tiles: dict[str, list[Tile]]  # by band; empty: stamps
    schema: pa.Schema
    settings: str  # fingerprint of what the configuration says


@dataclass(frozen=True)
class Job:
    """One field: its name, its place in ``Survey.rows``, its file, and what the datacube there was made of."""

    field: str
    first: int
    last: int
    path: Path
    known: Mapping[str, Any] | None


class Field:
    """The plan of a field. ``inputs`` are fingerprints of all that its datacube depends on."""

    def __init__(self, survey: Survey, job: Job, files: OpenFiles) -> None:
        self.survey, self.job, self.files = survey, job, files
        self.rows = np.load(survey.rows, mmap_mode="r")[job.first : job.last].astype(np.int64)
        where = survey.catalogue.take(self.rows, (ID, RA, DEC))
        self.ids = np.asarray(where.column(ID).to_pylist(), dtype=str)
        self.ra, self.dec = (where.column(c).to_numpy() for c in (RA, DEC))
        self.counts: dict[str, dict[str, int]] = {
            "catalogue": {"objects": len(self.rows), "without_position": int((~np.isfinite(self.ra)).sum())}
        }
        needed = self._plan_matches() + self._plan_images() + self._plan_spectra()
        self.inputs = {"settings": survey.settings, "tables": self._tables(), "files": self._files(needed)}

    # ------------------------------------------------------------------------------------- plan

    def _plan_matches(self) -> list[Path]:
        cubes = self.survey.cubes
        self.matches = {
            name: self._match(f"matches.{name}", cubes.matches[name], table)
            for name, table in self.survey.matches.items()
        }
        return []

    def _match(self, key: str, config: MatchedConfig | SpectraSourceConfig, table: Staged) -> Matches:
        if config.catalogue_id:
            text = self.survey.catalogue.take(self.rows, (EXTRA + config.catalogue_id,)).column(0).combine_chunks()
            found = by_id(as_ids(text), table)
        else:
            found = on_sky(
                self.ra,
                self.dec,
                self.survey.catalogue,
                self.rows,
                table,
                config.radius,
                config.ambiguous.value == "drop",
            )
        self.counts[key] = dict(found.counts)
        return found

    def _plan_images(self) -> list[Path]:
        survey, needed = self.survey, []
        self.images: dict[str, TileCutter | StampCutter] = {}
        columns = layout.image_columns(survey.data, survey.cubes)
        images, config = survey.cubes.images, survey.data.images
        if not columns or config is None:
            return []
        factors = dict(zip(config.bands, flux_factors(config, self.job.field), strict=True))
        stamps = bool(columns_of(images.path, "cubes.images.path"))
        words = self._words([images.path, images.hdu, images.weight, images.mask]) if stamps else []
        for band in columns:
            source = band_source(survey.cubes, band)
            if stamps:
                stamp = StampCutter(
                    images, source, survey.root, config.size, config.pixel_scale, factors[band], self.files
                )
                needed += stamp.plan(self.ra, self.dec, words)
                self.images[band] = stamp
            else:
                tile = TileCutter(
                    images, source, survey.tiles[band], survey.root, config.size, factors[band], self.files
                )
                needed += tile.plan(self.ra, self.dec, self.job.field)
                self.images[band] = tile
        return needed

    def _plan_spectra(self) -> list[Path]:
        survey, needed = self.survey, []
        self.spectra: dict[str, SpectraReader] = {}
        for name, source in survey.cubes.spectra.items():
            reader = SpectraReader(name, source, survey.data.spectra, survey.root, self.files)
            table = survey.spectra[name]
            if table is None:
                paths = reader.plan_named(self._words([source.path]))
                matched = int(reader.has.sum())
                self.counts[f"spectra.{name}"] = {"matched": matched, "unmatched": len(self.rows) - matched}
            else:
                paths = reader.plan_matched(self._match(f"spectra.{name}", source, table), table)
            if again := reader.leave_to(list(self.spectra.values())):
                self.counts[f"spectra.{name}"]["had_already"] = again
            self.spectra[name] = reader
            needed += paths
        return needed

    def _words(self, templates: list[str | None]) -> list[dict[str, Any]]:
        """What the words of the paths are, of each object."""
        names = list(dict.fromkeys(c for t in templates for c in columns_of(t, "cubes") if c != "id"))
        table = self.survey.catalogue.take(self.rows, [EXTRA + name for name in names])
        lists = [[v.strip() if isinstance(v, str) else v for v in column.to_pylist()] for column in table.columns]
        whole = [[int(v) if isinstance(v, float) and v.is_integer() else v for v in values] for values in lists]
        ids = [str(i) for i in self.ids]
        field = self.job.field
        return [
            {"id": i, "field": field} | dict(zip(names, row, strict=True))
            for i, row in zip(ids, zip(*whole, strict=True) if whole else [()] * len(ids), strict=True)
        ]

    def _tables(self) -> str:
        """Fingerprint of the rows of all tables that go into this field."""
        digest = new_hash()
        for start in range(0, len(self.rows), 4096):
            part = slice(start, start + 4096)
            for table, rows in [
                (self.survey.catalogue, self.rows[part]),
                *((self.survey.matches[n], m.rows[part]) for n, m in self.matches.items()),
            ]:
                sink = pa.BufferOutputStream()
                taken = table.take(rows).combine_chunks()
                with pa.ipc.new_stream(sink, taken.schema) as out:
                    out.write_table(taken)
                digest.update(sink.getvalue())
        places = {name: [reader.paths, [r.tolist() for r in reader.rows]] for name, reader in self.spectra.items()}
        return fingerprint_config({"rows": digest.hexdigest(), "spectra": _relative(places, self.survey.root)})

    def _files(self, paths: list[Path]) -> str:
        """Fingerprint of the content of all files that go into this field; each is read once per change."""
        paths = sorted(dict.fromkeys(paths))
        found = fingerprint_files(paths, memory_of(self.survey.root))
        names = [str(p.relative_to(self.survey.root)) if p.is_relative_to(self.survey.root) else str(p) for p in paths]
        zero_points = self.survey.data.images and self.survey.data.images.zero_point_file
        if zero_points:
            names, found = [*names, "zero points"], [*found, *fingerprint_files([Path(zero_points)])]
        return fingerprint_config(dict(zip(names, found, strict=True)))

    # ------------------------------------------------------------------------------------ build

    def write(self) -> None:
        """Write the datacube; adds to the counts what was found in images and spectra."""
        with layout.writer(self.job.path, self.survey.schema) as out:
            for table in self._chunks():
                out.write_table(table, row_group_size=len(table))

    def _chunks(self) -> Iterator[pa.Table]:
        size = self.survey.cubes.chunk_rows
        for start in range(0, len(self.rows), size):
            yield self._chunk(np.arange(start, min(start + size, len(self.rows))))

    def _chunk(self, rows: np.ndarray) -> pa.Table:
        survey, data = self.survey, self.survey.data
        own = survey.catalogue.take(self.rows[rows])
        columns: dict[str, Any] = {data.id_column: own.column(ID)}
        for name, source in ((data.ra_column, RA), (data.dec_column, DEC)):
            if name:
                columns[name] = own.column(source)
        columns |= {name: own.column(name) for name in own.column_names if not name.startswith("__")}
        for name, match in self.matches.items():
            taken = survey.matches[name].take(match.rows[rows])
            columns |= {c: taken.column(c) for c in taken.column_names if not c.startswith("__")}
        image_columns = layout.image_columns(data, survey.cubes)
        for band, cutter in self.images.items():
            values, present, counts = cutter.read(rows)
            columns[image_columns[band]] = layout.list_array(values, present)
            self._add(f"images.{band}", counts)
        for name, reader in self.spectra.items():
            found, counts = reader.read(rows)
            for column, array in found.items():
                columns[column] = pc.coalesce(columns[column], array) if column in columns else array
            self._add(f"spectra.{name}", counts)
        self._fill_wavelengths(columns)
        arrays = [_as(columns.get(f.name), f, len(rows)) for f in survey.schema]
        return pa.Table.from_arrays(arrays, schema=survey.schema)

    def _fill_wavelengths(self, columns: dict[str, Any]) -> None:
        """Spectra of a table without wavelengths lie on the grid of their group, where they have its length."""
        for group in self.survey.data.spectra.values():
            if group.kind.value != "spectrum" or not group.wave or group.wave in columns or group.flux not in columns:
                continue
            lengths = pc.fill_null(pc.list_value_length(columns[group.flux]), -1).to_numpy(zero_copy_only=False)
            wave = grid(group)
            self._add(
                "spectra on their grid",
                {
                    group.flux: int((lengths == len(wave)).sum()),
                    f"{group.flux} of another length": int(((lengths >= 0) & (lengths != len(wave))).sum()),
                },
            )
            columns[group.wave] = layout.list_array(np.tile(wave, (len(lengths), 1)), lengths == len(wave))

    def _add(self, key: str, counts: Mapping[str, int]) -> None:
        own = self.counts.setdefault(key, {})
        for name, n in counts.items():
            own[name] = own.get(name, 0) + n

    # ------------------------------------------------------------------------------------- said

    def sample(self) -> dict[str, np.ndarray]:
        """Some objects with position, and for each input whether they have it: for the plot."""
        placed = np.flatnonzero(np.isfinite(self.ra))
        some = placed[:: max(1, -(-len(placed) // SAMPLE))]
        has = {f"matches.{name}": match.rows >= 0 for name, match in self.matches.items()}
        has |= {f"images.{band}": cutter.has for band, cutter in self.images.items()}
        has |= {f"spectra.{name}": reader.has for name, reader in self.spectra.items()}
        return {"ra": self.ra[some], "dec": self.dec[some]} | {key: values[some] for key, values in has.items()}

    def used_tiles(self) -> dict[str, list[int]]:
        """Numbers of the tiles that objects lie on, by band."""
        return {
            band: np.unique(cutter.tile[cutter.has]).tolist()
            for band, cutter in self.images.items()
            if isinstance(cutter, TileCutter)
        }


def build_field(survey: Survey, job: Job) -> dict[str, Any]:
    """Plan a field, and write its datacube unless the one that is there was made of the same.

    Returns:
        ``field``, ``built`` (bool), ``inputs``, ``counts``, ``seconds``, ``sample``, ``tiles``.
    """
    started = time.perf_counter()
    with OpenFiles() as files:
        plan = Field(survey, job, files)
        known = job.known or {}
        same = known.get("inputs") == plan.inputs and known.get("format") == FORMAT
        if same:
            counts = known["summary"]["counts"]
        else:
            plan.write()
            counts = plan.counts
        return {
            "field": job.field,
            "built": not same,
            "inputs": plan.inputs,
            "counts": counts,
            "rows": len(plan.rows),
            "seconds": time.perf_counter() - started,
            "sample": plan.sample(),
            "tiles": plan.used_tiles(),
        }


def band_source(cubes: CubesConfig, band: str) -> Any:
    """Where a band comes from; without an entry of its own, files are named by its name."""
    from ..config.schema import BandSourceConfig

    return cubes.images.bands.get(band) or BandSourceConfig(name=band)


def _as(column: Any, field: pa.Field, n: int) -> pa.Array:
    if column is None:
        return pa.nulls(n, field.type)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    try:
        return column if column.type == field.type else column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"values of type {field.type}", got=str(error)[:100], where=f"column {field.name}") from error


def _relative(places: Any, root: Path) -> Any:
    """Paths below the root without it, so that a folder that was moved is the same."""
    return {name: [[p and p.removeprefix(str(root)) for p in paths], rows] for name, (paths, rows) in places.items()}
