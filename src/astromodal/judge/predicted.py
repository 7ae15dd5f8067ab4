"""Reading a catalogue of predictions (:mod:`~astromodal.ask.catalogue`) to judge it: by column, posteriors in batches.

Any Parquet file with these columns will do, also one from another program: ``id``, ``field``, ``split``; per predicted
column ``c`` the observed ``c``, ``c_mean`` or ``c_median`` and, where there are some, ``c_err, c_std, c_q<percent>``
(``c_q16``, ``c_q2.5`` or ``c_q2_5``), ``c_pit, c_crps, c_flag, c_posterior`` (the probability of each bin). Edges of
the bins are given, or stand in ``posterior_bins.npz`` beside the file; units and what was given, in its metadata.

Shapes: n rows of the catalogue, q quantile levels, B bins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..ask.catalogue import CATALOGUE, FLAGS, KEY, LACKS_GIVEN, NOT_DETECTED, ParquetReader, files_of
from ..data.columns import is_number, list_column_to_matrix, numbers, one_array, refuse_twice
from ..data.masks import mask_columns, unmasked
from ..data.splits import SPLIT_NAMES
from ..errors import ArtifactError, ArtifactMissingError, DataError
from ..files.ids import normalize_ids
from ..files.npz import load_npz

UNKNOWN_SPLIT = -1
BATCH_ROWS = 2048
BINS_FILE = "posterior_bins.npz"
_UNJUDGED = LACKS_GIVEN | NOT_DETECTED  # every other flag is a remark: to leave those out would be to choose
_QUANTILE = re.compile(r"_q(\d+(?:[._]\d+)?)$")


@dataclass(frozen=True)
class PredictedColumn:
    """What the catalogue says of one column, all in the column's physical unit; NaN where it says nothing."""

    name: str
    observed: np.ndarray  # (n,)
    error: np.ndarray  # (n,) 1 sigma of the observation
    mean: np.ndarray  # (n,)
    median: np.ndarray  # (n,)
    std: np.ndarray  # (n,)
    levels: tuple[float, ...]  # rising, each in (0, 1); the median is one of them
    quantiles: np.ndarray  # (n, q)
    pit: np.ndarray  # (n,) of its posterior, if the catalogue has it
    flag: np.ndarray  # (n,) int64, bits of :data:`~astromodal.ask.catalogue.FLAGS`; 0: fine
    edges: np.ndarray | None  # (B + 1,) of the bins of its posterior; None: it has none
    crps: np.ndarray | None = None  # (n,) of its posterior, if the catalogue has it

    def judged(self, rows: np.ndarray) -> np.ndarray:
        """Those of ``rows`` (n,) bool that can be judged: observed and predicted. Clipped ones count."""
        return rows & ((self.flag & _UNJUDGED) == 0) & np.isfinite(self.observed) & self.predicted

    @property
    def predicted(self) -> np.ndarray:
        return np.isfinite(self.mean) & np.isfinite(self.median)

    def left_out(self, rows: np.ndarray) -> dict[str, int]:
        """How many of ``rows`` are not judged, each counted once, by the first reason that holds."""
        counts, left = {}, rows.copy()
        for reason, why in (
            ("not detected", (self.flag & NOT_DETECTED) > 0),
            ("not observed", ~np.isfinite(self.observed)),
            ("nothing of what was to be given", (self.flag & LACKS_GIVEN) > 0),
            ("no prediction", ~self.predicted),
        ):
            counts[reason] = int((left & why).sum())
            left &= ~why
        return {reason: n for reason, n in counts.items() if n}

    def remarks(self, rows: np.ndarray) -> dict[str, int]:
        """Flags of the judged ones of ``rows``, and how many have each."""
        flags = self.flag[self.judged(rows)]
        counts = {name.lower(): int(((flags & bit) > 0).sum()) for name, bit in FLAGS.items()}
        return {name: n for name, n in counts.items() if n}


class PredictionCatalogue:
    """A Parquet file of predictions, or a folder of such files, read column by column.

    Args:
        path: the file, or a folder with ``catalogue.parquet`` (a file, or a folder of parts) or else with parts of
            it, ``*.parquet``, in the order of their names.
        bins: edges ``(B + 1,)`` of the bins of each column's posterior; by default from the file.

    Raises:
        ArtifactMissingError: there is none.
        ArtifactError: it has no ids, or no predicted column.
    """

    def __init__(self, path: str | Path, bins: Mapping[str, np.ndarray] | None = None) -> None:
        self.path = Path(path)
        whole = self.path / CATALOGUE
        self.files = files_of(whole if whole.exists() else self.path)
        if not self.files:
            raise ArtifactMissingError(
                "a catalogue of predictions", got="nothing", where=path, repair="run python evaluate.py"
            )
        with ParquetReader(self.files[0]) as file:
            schema = file.schema_arrow
        refuse_twice(schema.names, dict.fromkeys(schema.names), self.files[0])
        self._names, self._masks = set(schema.names), mask_columns(schema)
        self.meaning = json.loads((schema.metadata or {}).get(KEY, b"{}"))
        self.bins = _bins_beside(self.files[0]) | {n: np.asarray(e, np.float64) for n, e in dict(bins or {}).items()}
        self.columns = _predicted_columns(schema)
        lists = any(name.endswith("_mean") for name in self._names)  # spectra and cutouts alone will do
        if "id" not in self._names or not (self.columns or lists):
            raise ArtifactError(
                "a catalogue with id and columns with c_mean or c_median",
                where=self.path,
                got=", ".join(schema.names[:12]),
            )
        self.ids = normalize_ids(self._column("id"))
        field = self._column("field") if "field" in self._names else None
        self.fields = (
            np.full(len(self.ids), "")
            if field is None
            else np.array([name or "" for name in one_array(field).to_pylist()])
        )
        self.split = self._splits()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each predicted column, as far as the file says."""
        return {name: str(q.get("unit", "")) for name, q in self.meaning.get("questions", {}).items()}

    @property
    def given(self) -> dict[str, list[str]] | None:
        """What was given for each predicted column; None if the file does not say."""
        questions = self.meaning.get("questions")
        return None if questions is None else {name: list(q.get("given", [])) for name, q in questions.items()}

    @property
    def splits_of(self) -> str | None:
        """Whose splits the catalogue has (``OF_MODEL`` …); None if it does not say."""
        return self.meaning.get("splits")

    @property
    def data(self) -> str | None:
        """What its objects were read from, with the fingerprint; None if it does not say."""
        return next((f"{kind} {self.meaning[kind]}" for kind in ("tokens", "datacubes") if kind in self.meaning), None)

    @property
    def applied(self) -> dict[str, dict[str, Any]]:
        """The correction that each column's posteriors already have, for those with one (see recalibration.py)."""
        questions = self.meaning.get("questions", {})
        return {name: q["calibration"] for name, q in questions.items() if q.get("calibration")}

    def _column(self, name: str) -> pa.ChunkedArray:
        names = [name, self._masks[name]] if name in self._masks else [name]
        tables = (unmasked(ParquetReader(file).read(names), [name], self._masks)[0] for file in self.files)
        return pa.chunked_array([chunk for table in tables for chunk in table[name].chunks] or [[]])

    def _splits(self) -> np.ndarray:
        """0 train, 1 val, 2 test, -1 unknown ``(n,)``, whether written as names or as numbers."""
        if "split" not in self._names:
            return np.full(len(self.ids), UNKNOWN_SPLIT, np.int64)
        column = one_array(self._column("split"))
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            code = {name: k for k, name in enumerate(SPLIT_NAMES)}
            return np.array([code.get(name, UNKNOWN_SPLIT) for name in column.to_pylist()], np.int64)
        return np.nan_to_num(numbers(column, "split"), nan=UNKNOWN_SPLIT).astype(np.int64)

    def has(self, name: str) -> bool:
        """Whether there is a column of that name."""
        return name in self._names

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers as float64, ``(n,)``; NaN everywhere if the catalogue does not have it."""
        if name not in self._names:
            return np.full(len(self.ids), np.nan)
        return numbers(self._column(name), f"{self.path}, {name}").astype(np.float64)

    def levels(self, name: str) -> dict[float, str]:
        """Quantile levels of a column, rising, and the columns that hold them."""
        found = {}
        for column in self._names:
            match = _QUANTILE.search(column)
            if match and column[: match.start()] == name:
                found[float(match[1].replace("_", ".")) / 100.0] = column
        return {level: found[level] for level in sorted(found) if 0 < level < 1}

    def column(self, name: str) -> PredictedColumn:
        """Everything about one predicted column but its posterior.

        Raises:
            DataError: it is not predicted, or has a posterior whose bins nobody knows.
        """
        if name not in self.columns:
            raise DataError(f"a predicted column of {', '.join(self.columns)}", got=name, where=self.path)
        mean, median = self.numbers(f"{name}_mean"), self.numbers(f"{name}_median")
        mean, median = (np.where(np.isfinite(a), a, b) for a, b in ((mean, median), (median, mean)))
        levels = self.levels(name)
        quantiles = {level: self.numbers(column) for level, column in levels.items()}
        if f"{name}_median" in self._names:
            quantiles.setdefault(0.5, median)
        quantiles = dict(sorted(quantiles.items()))
        flag = self.numbers(f"{name}_flag") if f"{name}_flag" in self._names else np.zeros(len(self))
        has_posterior = f"{name}_posterior" in self._names
        if has_posterior and name not in self.bins:
            raise DataError("the edges of the bins", got=f"{name}_posterior without them", where=self.path)
        return PredictedColumn(
            name,
            self.numbers(name),
            self.numbers(f"{name}_err"),
            mean,
            median,
            self.numbers(f"{name}_std"),
            tuple(quantiles),
            np.stack([*quantiles.values()], 1) if quantiles else np.zeros((len(self), 0)),
            self.numbers(f"{name}_pit"),
            np.nan_to_num(flag).astype(np.int64),
            self.bins[name] if has_posterior else None,
            self.numbers(f"{name}_crps"),
        )

    def posteriors(self, name: str, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows ``(m,)`` and their probabilities ``(m, B)`` float32, batch after batch, of ``wanted`` (n,) bool.

        Raises:
            DataError: a posterior has another length than the bins.
        """
        start, n_bins, column = 0, len(self.bins[name]) - 1, f"{name}_posterior"
        for file in self.files:
            with ParquetReader(file) as parquet:
                for batch in parquet.iter_batches(BATCH_ROWS, columns=[column]):
                    rows = start + np.flatnonzero(wanted[start : start + len(batch)])
                    if len(rows):
                        part = batch.column(0).take(pa.array(rows - start))
                        matrix, present = list_column_to_matrix(part, n_bins, f"{file}, {column}")
                        yield rows[present], matrix[present]
                    start += len(batch)


def _predicted_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Names with a ``<name>_mean`` or ``<name>_median`` of one number per object (spectra have lists), in order."""
    found: dict[str, None] = {}
    for field in schema:
        name, _, end = field.name.rpartition("_")
        if name and end in ("mean", "median") and is_number(field.type):
            found[name] = None
    return tuple(found)


def _bins_beside(file: Path) -> dict[str, np.ndarray]:
    """Edges ``(B + 1,)`` by column from ``posterior_bins.npz`` in the folder of ``file``; empty without one."""
    folder = file.parent.parent if file.parent.name == CATALOGUE else file.parent
    path = folder / BINS_FILE
    arrays = load_npz(path) if path.is_file() else {}
    return {name.removeprefix("edges_"): edges for name, edges in arrays.items() if name.startswith("edges_")}


def rows_of(ids: np.ndarray, wanted: Sequence[str] | np.ndarray) -> np.ndarray:
    """Place of each of ``wanted`` (m,) in ``ids`` (n,), -1 where it is not among them.

    >>> rows_of(np.array(["b", "a"]), ["a", "x", "b"]).tolist()
    [1, -1, 0]
    """
    ids, wanted = np.asarray(ids), np.asarray(wanted)
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    place = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return np.where(ids[place] == wanted, place, -1)
