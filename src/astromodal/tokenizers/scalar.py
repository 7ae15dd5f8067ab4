"""Catalogue columns as tokens: quantile bins per column, in the space of the column's transform.

Every column has its own edges and centres; the column is the token's type, so all columns share one block of the
vocabulary. Quality cuts (``fit_min``, ``fit_max``, ``max_error``) choose the values that bins are learned from; they
never drop a value at encoding: what lies outside of the fitted range gets an end bin and is counted as clipped.
A value that is missing is not present, and one that was looked for and not detected is neither.

Shape legend: n objects, c columns, V bins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..config.schema import DataConfig, ScalarConfig, ScalarTokenizerConfig, Transform
from ..data.datacube import rows_at_once
from ..data.findings import Findings
from ..data.scalars import ScalarBatch, inverse_transform, read_scalars, scalar_columns, scalar_sources, transform
from ..errors import ArtifactError, DataError
from ..files import io
from ..machine.random import keyed_words
from ..metrics import ErrorSums, bits_per_symbol, codes_used, perplexity
from ..quantizers import QuantileBinner, Sample
from ..vocabulary.codebook import ScalarCodebook
from .base import Tokenizer, plain
from .passes import LIGHT_ROWS, Part, over_parts, parts
from .spectrum.sigma import scalar_sigma

if TYPE_CHECKING:
    from ..data.datacube import Datacube
    from ..runs.run import RunContext

FILE_NAME = "scalar_tokenizer_config.npz"
FIT_ONLY = ("fit_min", "fit_max", "max_error")  # keys that do not change what a code means
BATCH_ROWS = 512
REPORT_VALUES = 50_000  # errors and examples kept per column for medians and plots
NEVER = {"edges": np.zeros(2), "centers": np.zeros(1), "spread": np.zeros(1), "counts": np.zeros(1)}


@dataclass(frozen=True)
class ScalarTokens:
    """Codes of a batch, (n, c) each; ``values`` and ``errors`` are the physical ones that were encoded."""

    tokens: np.ndarray  # uint16 bins, 0 where not present
    present: np.ndarray  # bool: the token means something
    clipped: np.ndarray  # bool: outside of the fitted range, in an end bin
    nondetected: np.ndarray  # bool: observed, not detected; no bin
    values: np.ndarray  # float64
    errors: np.ndarray  # float64, NaN where unknown
    sigma: np.ndarray  # float16: the errors in the codebook's units, 0 where unknown (see sigma.py)


class ScalarTokenizer(Tokenizer):
    """Quantile bins for every catalogue column.

    Learned: ``columns`` (names), ``configs`` (name → ScalarConfig) and ``binners``, one per column. A column that
    no training object has stays in place with one empty bin and is never present.
    """

    name = "scalar"

    def __init__(self, config: ScalarTokenizerConfig | None = None) -> None:
        super().__init__(ScalarTokenizerConfig() if config is None else config)
        self.configs: dict[str, ScalarConfig] = {}
        self.binners: list[QuantileBinner] = []
        self._scale: np.ndarray | None = None  # of the codebook, once asked for

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.configs)

    def layout(self, data: DataConfig) -> dict[str, Any]:
        columns = scalar_columns(data, list(data.spectra))
        return {
            "scalars": {
                name: {k: v for k, v in plain(config).items() if k not in FIT_ONLY} for name, config in columns.items()
            }
        }

    # ----------------------------------------------------------------------------------- fitting

    def fit(
        self,
        cubes: Sequence[Datacube],
        splits: Mapping[str, np.ndarray],
        data: DataConfig,
        run: RunContext | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Learn the bins from training rows and report on held-out rows.

        Raises:
            DataError: no column has a single value in the training rows.
        """
        rows = self._start_fit(cubes, splits, data, seed)
        self.configs = dict(scalar_columns(data, list(data.spectra)))
        if not self.configs:
            raise DataError("at least one scalar column", got="none", repair="set data.scalars or tokenizer=spectrum")
        samples = self._samples(self.config.max_fit_values, 1)
        n_observed, findings = np.zeros(len(self.configs), dtype=np.int64), Findings()
        of = parts(cubes, rows.fit, LIGHT_ROWS)
        read = over_parts(_values, of, self.workers, (self, data, seed), lambda got: _take(samples, got))
        for part, (seen, found) in zip(of, read, strict=True):
            n_observed += seen
            findings.add_field(part.cube.field, found)
        if not any(sample.n_seen for sample in samples):
            raise DataError(
                "values in at least one scalar column",
                got=f"none in {sum(int(m.sum()) for m in rows.fit.values())} training objects",
                where=f"columns {', '.join(self.configs)}; {findings.said()}",
                repair="check data.scalars: column names, sentinels, min and max",
            )
        self.binners, self._scale = [self._fit_column(sample.rows) for sample in samples], None
        report = self._report(cubes, rows.held_out, data, rows.held_out_name)
        for j, (name, entry) in enumerate(report["columns"].items()):
            entry |= {"n_fit": samples[j].n_seen, "n_bins": self.n_bins[j], "status": self._status(j, n_observed[j])}
            if entry["status"] != "fitted":
                self._log(run).warning("scalar column %s: %s in the training objects", name, entry["status"])
        return self._finish_fit(report, findings, run)

    def _status(self, column: int, n_observed: int) -> str:
        if self.binners[column].counts_.sum():
            return "fitted"
        config = list(self.configs.values())[column]
        limits = f"[{config.fit_min}, {config.fit_max}], max_error {config.max_error}"
        return f"no value within the quality limits {limits}" if n_observed else "never observed"

    def _fit_column(self, sample: np.ndarray) -> QuantileBinner:
        if not len(sample):
            return QuantileBinner.from_state(NEVER)
        return QuantileBinner(self.config.n_bins, self.config.min_values_per_bin).fit(sample)

    def _samples(self, capacity: int, width: int) -> list[Sample]:
        return [Sample(capacity, width, np.float64) for _ in self.configs]

    def _batches(self, part: Part, data: DataConfig, seed: int) -> Iterator[tuple[ScalarBatch, np.ndarray]]:
        """Scalar batches of a part, with the keys (n,) by which values are sampled."""
        names = scalar_sources(data, self.configs)
        for batch, ids in part.batches(names, max(rows_at_once(data, names), BATCH_ROWS)):
            yield read_scalars(batch, data, self.configs), keyed_words(seed, ids)

    def _transformed(self, batch: ScalarBatch) -> tuple[np.ndarray, np.ndarray]:
        """Values in the columns' spaces (n, c) and where they exist (a flux of 0 has no logarithm)."""
        values = np.zeros(batch.values.shape)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for j, config in enumerate(self.configs.values()):
                values[:, j] = transform(batch.values[:, j], config)
        usable = batch.present & ~batch.nondetected & np.isfinite(values)
        return np.where(usable, values, 0.0), usable

    # ------------------------------------------------------------------------- encoding, decoding

    def encode(self, batch: ScalarBatch) -> ScalarTokens:
        """Bins of all columns of a batch.

        Raises:
            DataError: the batch has another number of columns.
        """
        if batch.values.shape[1] != len(self.configs):
            raise DataError(f"{len(self.configs)} scalar columns", got=batch.values.shape[1], where="ScalarTokenizer")
        values, present = self._transformed(batch)
        present &= np.array([binner.counts_.sum() > 0 for binner in self.binners])
        tokens = np.zeros(values.shape, dtype=np.uint16)
        clipped = np.zeros(values.shape, dtype=bool)
        for j in np.flatnonzero(present.any(0)):
            seen = present[:, j]
            column = np.ascontiguousarray(values[seen, j])
            tokens[seen, j] = self.binners[j].encode(column)
            clipped[seen, j] = self.binners[j].clipped(column)
        self._scale = self.codebook.scale if self._scale is None else self._scale
        sigma = scalar_sigma(batch, self.configs, self._scale, present)
        return ScalarTokens(tokens, present, clipped, batch.nondetected, batch.values, batch.errors, sigma)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Physical values (n, c) float64 of the bins' centres; meaningful where the token was present."""
        tokens = np.asarray(tokens, dtype=np.int64)
        values = np.empty(tokens.shape)
        for j, config in enumerate(self.configs.values()):
            values[:, j] = inverse_transform(self.binners[j].decode(tokens[:, j])[:, 0], config)
        return values

    @property
    def n_bins(self) -> list[int]:
        return [binner.n_codes for binner in self.binners]

    def sizes(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "n_bins": list(self.n_bins)}

    @property
    def codebook(self) -> ScalarCodebook:
        """Centres of all columns in their transformed spaces."""
        return ScalarCodebook(self.columns, self._padded("centers_"), self._padded("counts_"), np.array(self.n_bins))

    def _padded(self, attribute: str, width: int | None = None) -> np.ndarray:
        """One learned array of all columns, (c, V), 0 beyond a column's bins."""
        arrays = [getattr(binner, attribute) for binner in self.binners]
        padded = np.zeros((len(arrays), width or max(self.n_bins)), dtype=np.float64)
        for row, array in zip(padded, arrays, strict=True):
            row[: len(array)] = array
        return padded

    # ------------------------------------------------------------------------------------- report

    def _report(
        self, cubes: Sequence[Datacube], masks: Mapping[str, np.ndarray], data: DataConfig, split: str
    ) -> dict[str, Any]:
        """Rate and error per column on the given rows."""
        n_columns = len(self.configs)
        sums, usage = ErrorSums(n_columns), np.zeros((n_columns, max(self.n_bins)), dtype=np.int64)
        tallies, n_rows = np.zeros((2, n_columns), dtype=np.int64), 0  # clipped, not detected
        examples, of = self._samples(REPORT_VALUES, 3), parts(cubes, masks, LIGHT_ROWS)
        for counts in over_parts(_errors, of, self.workers, (self, data), lambda got: _take(examples, got)):
            sums.merge(counts[0])
            usage += counts[1]
            tallies += counts[2]
            n_rows += counts[3]
        rates = tallies / max(n_rows, 1)
        columns, shown = {}, [sample.rows for sample in examples]
        for j, name in enumerate(self.configs):
            columns[name] = self._column_report(sums, usage[j], shown[j], j, n_rows) | {
                "clipped_fraction": float(tallies[0, j] / max(sums.n[j], 1)),
                "nondetected_fraction": float(rates[1, j]),
                "missing_fraction": float(1.0 - rates[1, j] - sums.n[j] / max(n_rows, 1)),
            }
        arrays = {name: drawn[:2000] for name, drawn in zip(self.configs, shown, strict=True)}
        bits = sum(entry["bits_per_object"] for entry in columns.values())
        return {"split": split, "n_objects": n_rows, "bits_per_object": bits, "columns": columns, "arrays": arrays}

    def _column_report(
        self, sums: ErrorSums, usage: np.ndarray, examples: np.ndarray, column: int, n_rows: int
    ) -> dict[str, Any]:
        """Figures of one column; rmse and mae are in its physical unit."""
        known = examples[np.isfinite(examples[:, 2]) & (examples[:, 2] > 0)]
        error = float(np.median(known[:, 2])) if len(known) else float("nan")
        typical = float(np.median(np.abs(known[:, 0] - known[:, 1]))) if len(known) else float("nan")
        rmse, mae, std = float(sums.rmse()[column]), float(sums.mae()[column]), float(sums.std()[column])
        n = int(sums.n[column])
        return {
            "n": n,
            "unit": list(self.configs.values())[column].unit,
            "bits": bits_per_symbol(usage),
            "bits_per_object": bits_per_symbol(usage) * n / max(n_rows, 1),
            "codes_used": codes_used(usage),
            "perplexity": perplexity(usage),
            "rmse": rmse,
            "mae": mae,
            "rmse_over_std": rmse / std if std > 0 else float("nan"),
            "median_measurement_error": error,
            "mae_over_measurement_error": mae / error,
            "median_error_over_measurement_error": typical / error,  # clipped outliers do not rule it
        }

    # ------------------------------------------------------------------------------------ storage

    def _write(self, folder: Path) -> list[Path]:
        book = self.codebook
        centers = book.centers
        real = np.arange(centers.shape[1]) < book.n_bins[:, None]
        physical = np.zeros_like(centers)
        for j, config in enumerate(self.configs.values()):
            physical[j] = np.where(real[j], inverse_transform(centers[j], config), 0.0)
        standardized = np.where(real, (centers - book.mean[:, None]) / book.scale[:, None], 0.0)
        arrays = {
            "columns": np.array(self.columns, dtype=np.str_),
            "edges": self._padded("edges_", centers.shape[1] + 1),
            "bin_centers": centers,
            "bin_centers_physical": physical,
            "bin_centers_standardized": standardized.astype(np.float32),
            "counts": book.counts,
            "n_bins": book.n_bins,
            "spread": self._padded("spread_"),
            "config_json": np.array(json.dumps(plain(self.config))),
            "columns_json": np.array(json.dumps(plain(self.configs))),
            "layout_json": np.array(json.dumps(self.layout_)),
            "inputs_json": np.array(json.dumps(self.inputs_)),
        }
        io.save_npz(folder / FILE_NAME, arrays)
        return [folder / FILE_NAME]

    @classmethod
    def _read(cls, folder: Path) -> Self:
        arrays = io.load_npz(folder / FILE_NAME)
        tokenizer = cls(ScalarTokenizerConfig(**json.loads(str(arrays["config_json"]))))
        for name, values in json.loads(str(arrays["columns_json"])).items():
            tokenizer.configs[name] = ScalarConfig(**values | {"transform": Transform(values["transform"])})
        tokenizer.layout_ = json.loads(str(arrays["layout_json"]))
        tokenizer.inputs_ = json.loads(str(arrays["inputs_json"]))
        keys = {"edges": "edges", "centers": "bin_centers", "spread": "spread", "counts": "counts"}
        for j, n in enumerate(arrays["n_bins"].tolist()):
            state = {key: arrays[name][j, : n + (key == "edges")] for key, name in keys.items()}
            tokenizer.binners.append(QuantileBinner.from_state(state))
        if not tokenizer.binners or len(tokenizer.binners) != len(tokenizer.configs):
            raise ArtifactError(f"bins of {len(tokenizer.configs)} columns", got=len(tokenizer.binners), where=folder)
        return tokenizer


# ------------------------------------------------------------------------------------- of one part


def _take(whole: list[Sample], got: tuple) -> tuple:
    """Merge the samples that a result begins with, and go on with the rest of it."""
    for sample, more in zip(whole, got[0], strict=True):
        sample.merge(more)
    return got[1:]


def _values(part: Part, tokenizer: ScalarTokenizer, data: DataConfig, seed: int) -> tuple:
    """Samples of the values that bins are learned from, observed values per column (c,), and what was found."""
    samples = tokenizer._samples(tokenizer.config.max_fit_values, 1)
    n_observed, findings = np.zeros(len(tokenizer.configs), dtype=np.int64), Findings()
    for batch, keys in tokenizer._batches(part, data, seed):
        findings.add_scalars(part.cube.field, batch)
        values, usable = tokenizer._transformed(batch)
        n_observed += usable.sum(0)
        usable &= batch.fit
        for j in np.flatnonzero(usable.any(0)):
            samples[j].add(values[usable[:, j], j, None], keys[usable[:, j]])
    return samples, n_observed, findings.field(part.cube.field)


def _errors(part: Part, tokenizer: ScalarTokenizer, data: DataConfig) -> tuple:
    """Samples of (value, decoded, error), sums of errors, usage (c, V), (clipped, not detected) (2, c), and rows."""
    n_columns = len(tokenizer.configs)
    samples, sums = tokenizer._samples(REPORT_VALUES, 3), ErrorSums(n_columns)
    usage, n_rows = np.zeros((n_columns, max(tokenizer.n_bins)), np.int64), 0
    tallies = np.zeros((2, n_columns), np.int64)
    for batch, keys in tokenizer._batches(part, data, 0):
        codes = tokenizer.encode(batch)
        decoded = tokenizer.decode(codes.tokens)
        n_rows += len(codes.tokens)
        sums.add(codes.values, decoded, codes.present)
        tallies += np.stack([codes.clipped.sum(0), codes.nondetected.sum(0)])
        for j in np.flatnonzero(codes.present.any(0)):
            seen = codes.present[:, j]
            usage[j] += np.bincount(codes.tokens[seen, j], minlength=usage.shape[1])
            triples = np.stack([x[seen, j] for x in (codes.values, decoded, codes.errors)], axis=1)
            samples[j].add(triples, keys[seen])
    return samples, sums, usage, tallies, n_rows
