"""What a run made, as rows with positions: the answers of ``evaluate.py``, the tokens of ``encode.py``.

Positions are those of the datacubes that the run's ``config.yaml`` names; an object that is no more in them has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..config.reading.containers import to_object
from ..config.reading.yaml_files import load_run_config
from ..config.schema import DataConfig
from ..errors import ArtifactMissingError, DataError
from ..files.ids import hash_ids
from ..tokens.store import FieldTokens, TokenStore
from .catalogue import CATALOGUE, ParquetReader, files_of

if TYPE_CHECKING:
    from ..data.datacube import Datacube

ROWS = 4096  # read at once
SPLITS = ("train", "val", "test")
POSITION = (("ra", "dec"), ("ra_deg", "dec_deg"))  # names of the positions: the second ones where the first are taken


@dataclass(frozen=True)
class SkyTable:
    """Rows with positions, as :func:`astromodal.data.sources.hats_out.write_hats` takes them."""

    name: str
    pieces: Callable[[], Iterator[pa.RecordBatch]]
    position: tuple[str, str]


class Places:
    """Positions of objects by field and id. Holds those of one field at a time."""

    def __init__(self, cubes: Sequence[Datacube]) -> None:
        self._cubes = {cube.field: cube for cube in cubes}
        self._field = ""
        self._keys, self._values = np.empty(0, np.uint64), np.empty((0, 2))

    def of(self, field: str, ids: np.ndarray) -> np.ndarray:
        """Right ascension and declination in degrees of the objects ``ids`` (n,) of a field, ``(n, 2)``; NaN: none."""
        if field not in self._cubes:
            return np.full((len(ids), 2), np.nan)
        if field != self._field:
            keys = hash_ids(self._cubes[field].ids())
            order = np.argsort(keys)
            self._field, self._keys, self._values = field, keys[order], self._cubes[field].positions()[order]
        wanted = hash_ids(ids)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where((self._keys[at] == wanted)[:, None], self._values[at], np.nan)


def sky_table(run: Path) -> SkyTable:
    """The rows of a run of ``evaluate.py`` or ``encode.py``.

    Raises:
        ArtifactMissingError: neither answers nor tokens are there.
        DataError: its survey has no positions, or is gone.
    """
    if not (run / "config.yaml").is_file():
        raise ArtifactMissingError("a run directory, with config.yaml", got="none", where=run)
    content = load_run_config(run / "config.yaml")
    cubes = _cubes(content, run)
    answers = files_of(run / CATALOGUE)
    name = f"{content.data.name} {run.name}"
    if answers:
        return _answers(name, answers, cubes)
    return _tokens(f"{name} tokens", TokenStore(content.paths.store), cubes)


def _cubes(content: Any, run: Path) -> list[Datacube]:
    from omegaconf import OmegaConf

    from ..data import discover

    data = to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), content.data), DataConfig)
    if not (data.ra_column and data.dec_column):
        raise DataError(
            "positions (data.ra_column and data.dec_column)",
            got="none",
            where=run / "config.yaml",
            repair="a catalogue of the sky needs them",
        )
    return discover(data, str(content.paths.datacube_template))


def _named(names: Sequence[str]) -> tuple[str, str]:
    return next(pair for pair in POSITION if not set(pair) & set(names))


def _with_places(
    batch: pa.RecordBatch, fields: np.ndarray, places: Places, position: tuple[str, str]
) -> pa.RecordBatch:
    """A batch with the positions of its objects behind their ids."""
    ids = batch.column("id").to_numpy(zero_copy_only=False).astype("U")
    found = np.full((len(ids), 2), np.nan)
    for field in np.unique(fields):
        found[fields == field] = places.of(str(field), ids[fields == field])
    arrays, named = list(batch.columns), list(batch.schema)
    for k, name in enumerate(position):
        arrays.insert(1 + k, pa.array(found[:, k], from_pandas=True))
        named.insert(1 + k, pa.field(name, pa.float64()))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(named, metadata=batch.schema.metadata))


def _answers(name: str, files: Sequence[Path], cubes: Sequence[Datacube]) -> SkyTable:
    with ParquetReader(files[0]) as file:
        schema = file.schema_arrow
    position = _named(schema.names)

    def pieces() -> Iterator[pa.RecordBatch]:
        places = Places(cubes)
        for path in files:
            with ParquetReader(path) as file:
                for batch in file.iter_batches(ROWS):
                    fields = batch.column("field").fill_null("").to_numpy(zero_copy_only=False).astype("U")
                    yield _with_places(batch.replace_schema_metadata(schema.metadata), fields, places, position)

    return SkyTable(name, pieces, position)


def _tokens(name: str, store: TokenStore, cubes: Sequence[Datacube]) -> SkyTable:
    position = _named(store.open(store.fields()[0]).columns)

    def pieces() -> Iterator[pa.RecordBatch]:
        places = Places(cubes)
        for tokens in store:
            for start in range(0, len(tokens), ROWS):
                batch = token_rows(tokens, slice(start, min(start + ROWS, len(tokens))))
                yield _with_places(batch, np.full(batch.num_rows, tokens.field), places, position)

    return SkyTable(name, pieces, position)


def token_rows(tokens: FieldTokens, rows: slice) -> pa.RecordBatch:
    """Some objects of a field: ``<column>_token``, ``<group>_tokens``, ``image_tokens``, null where there is none."""
    ids, n = np.asarray(tokens.ids[rows]), rows.stop - rows.start
    columns: dict[str, pa.Array] = {
        "id": pa.array(ids.tolist(), pa.string()),
        "field": pa.array([tokens.field] * n),
        "split": pa.array(np.array(SPLITS)[np.asarray(tokens.split[rows])]),
    }
    if tokens.scalar:
        codes, there = np.asarray(tokens.scalar["tokens"][rows]), np.asarray(tokens.scalar["present"][rows])
        for j, column in enumerate(tokens.columns):
            columns[f"{column}_token"] = pa.array(codes[:, j], mask=~there[:, j])
    for group, part in tokens.spectra.items():
        offsets = np.asarray(part.offsets[rows.start : rows.stop + 1])
        flat = np.asarray(part.tokens[int(offsets[0]) : int(offsets[-1])])
        columns[f"{group}_tokens"] = pa.LargeListArray.from_arrays(
            pa.array(offsets - offsets[0]), pa.array(flat), mask=pa.array(~np.asarray(part.present[rows]))
        )
    if tokens.image:
        codes, there = np.asarray(tokens.image["tokens"][rows]), np.asarray(tokens.image["present"][rows])
        flat = pa.array(np.ascontiguousarray(codes).reshape(-1))
        columns["image_tokens"] = pa.FixedSizeListArray.from_arrays(flat, codes.shape[1], mask=pa.array(~there))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
