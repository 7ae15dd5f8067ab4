"""Judging a catalogue of predictions: figures with intervals, calibration, baselines, limits; numbers only.

:func:`astromodal.judge.report.judge_catalogue` calls this and writes what it finds as JSON, tables and plots. Nothing
here needs the model. Judged are held-out objects: those of the test split, or of validation where there is no test.
Columns are taken one after the other, so memory holds one column of the catalogue and one batch of posteriors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ask.catalogue import SURPRISE
from ..ask.recalibration import Calibration
from ..config.schema import JudgeConfig
from ..errors import DataError
from ..metrics.bootstrap import bootstrap_figures
from ..metrics.photo_z import photo_z_figures
from ..metrics.scalars import by_bins, equal_count_edges, scalar_figures, signal_to_noise
from ..tokens.store import TokenStore
from ..vocabulary.codebook import Codebook
from .baselines.colours import configs_of
from .baselines.inputs import Inputs, choose_inputs, places_in_store
from .baselines.predictors import wanted_baselines
from .comparison import LOSES, Baselines, compare, crps_against_marginal
from .drawn_errors import DrawnErrors, drawn_errors
from .held_out import HeldOut
from .noise_limit import limit_figures, noise_limits
from .predicted import PredictedColumn, PredictionCatalogue
from .recalibrated import fit_and_show
from .scores import Scores, calibration_record, distribution_figures, score_column

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..data.datacube import Datacube

Given = Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass
class Judgement:
    """``result`` is what ``evaluation.json`` holds; ``examples`` and ``spectra`` what plots need beside it, by name."""

    result: dict[str, Any]
    examples: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    spectra: dict[str, dict[str, Any]] = field(default_factory=dict)  # see :meth:`DrawnErrors.spectra`
    calibration: Calibration | None = None
    of_training: bool = False  # it was fitted on validation objects of the model's own run


@dataclass(frozen=True)
class Context:
    """What is the same for every column."""

    catalogue: PredictionCatalogue
    held_out: HeldOut
    options: JudgeConfig
    seed: int
    units: Mapping[str, str]
    magnitude: tuple[str, np.ndarray] | None  # name and (n,) values
    store: TokenStore | None  # that baselines learn from
    asked: TokenStore | None  # of the catalogue's objects
    codebooks: Mapping[str, Codebook] | None
    data: DataConfig | None
    given: Given
    no_baselines: str  # why, without token files

    @cached_property
    def surprise(self) -> np.ndarray:
        """How surprising what was given of each row is to the model ``(n,)``."""
        return self.catalogue.numbers(SURPRISE)

    @cached_property
    def fitted_on(self) -> dict[str, Any]:
        """What calibrations are fitted on."""
        return self.held_out.record(self.catalogue)

    def inputs(self, column: str) -> Inputs | None:
        """What the baselines are given for a column; None without token files."""
        if self.store is None or self.asked is None:
            return None
        given = choose_inputs(self.store, self.given_for(column), self.codebooks)
        return given.without(column, configs_of(self.data))

    def given_for(self, column: str) -> Sequence[str] | None:
        """What was given for a column; None if nobody says."""
        return self.given.get(column, ()) if isinstance(self.given, Mapping) else self.given


def judge(
    catalogue: str | Path,
    *,
    given: Given = None,
    store: str | Path | TokenStore | None = None,
    bins: Mapping[str, np.ndarray] | None = None,
    units: Mapping[str, str] | None = None,
    codebooks: Mapping[str, Codebook] | None = None,
    data: DataConfig | None = None,
    cubes: Sequence[Datacube] | None = None,
    per_object: Mapping[str, np.ndarray] | None = None,
    weights: str | None = None,
    options: JudgeConfig | None = None,
    seed: int = 0,
    asked: TokenStore | None = None,
    no_baselines: str = "",
) -> Judgement:
    """Judge every predicted column; the arguments are those of ``judge_catalogue``.

    Raises:
        DataError: the catalogue has no held-out object, or ``per_object`` has another length.
    """
    options = JudgeConfig() if options is None else options
    table = PredictionCatalogue(catalogue, bins)
    store = TokenStore(store) if isinstance(store, str | Path) else store
    asked = store if asked is None else asked
    held_out = HeldOut.of(table, seed, options.calibrate_on)
    as_asked = {"given_as_asked": table.meaning["given"]} if given is None and "given" in table.meaning else {}
    given = table.given if given is None else given
    units = table.units | dict(units or {})
    magnitude = _magnitude(table, asked, options.magnitude)
    context = Context(
        table,
        held_out,
        options,
        seed,
        units,
        magnitude,
        store,
        asked,
        codebooks,
        data,
        given,
        no_baselines or "no token files of the training run were given",
    )
    calibration = Calibration(weights or table.meaning.get("model"))
    found = Judgement(
        {
            "split": held_out.split,
            "n_rows": len(table),
            "n_judged": int(held_out.judged.sum()),
            "given": _plain(given),
            **as_asked,
            "columns": {},
            "figures": {},
        },
        calibration=calibration,
        of_training=held_out.of_training,
    )
    for name in table.columns:
        column = table.column(name)
        found.result["columns"][name] = _judge_column(context, column, found, calibration)
    drawn = drawn_errors(table, cubes, data, held_out.judged) if cubes and data is not None else DrawnErrors()
    found.spectra = {} if data is None else drawn.spectra(data)
    for name, values in (drawn.per_object | dict(per_object or {})).items():
        found.result["figures"][name] = _figure(values, context)
    found.calibration = calibration if calibration.questions else None
    found.result["loses"] = losses(found.result["columns"])
    found.result["score"] = prediction_score(found.result["columns"])
    found.result["summary"] = summary(found.result)
    return found


def _judge_column(
    context: Context, column: PredictedColumn, found: Judgement, calibration: Calibration
) -> dict[str, Any]:
    options, name, held_out = context.options, column.name, context.held_out
    scores = score_column(context.catalogue, column, held_out.judged, seed=context.seed)
    unit = context.units.get(name, "")
    record: dict[str, Any] = {
        "unit": unit,
        "n": len(scores.rows),
        "left_out": column.left_out(held_out.judged),
        "remarks": column.remarks(held_out.judged),
    }
    if not len(scores.rows):
        return record
    how = {"n_resamples": options.n_resamples, "seed": context.seed}
    point = (scores.observed, scores.mean, scores.median)
    record["figures"] = _intervals(bootstrap_figures(scalar_figures, *point, **how))
    is_redshift = name in options.redshifts
    if is_redshift:
        record["photo_z"] = _intervals(bootstrap_figures(photo_z_figures, scores.observed, scores.median, **how))
    if scores.source != "none":
        record["calibration"] = calibration_record(scores)
        record["distribution"] = _intervals(bootstrap_figures(distribution_figures, scores.pit, scores.crps, **how))
    record |= _by_bins(context, scores, unit)
    inputs = context.inputs(name)
    if inputs is not None and context.store is not None and context.asked is not None:
        record |= _against_others(context, (context.store, context.asked), name, inputs, scores, is_redshift)
    elif options.baselines != []:
        record["against"] = {"skipped": context.no_baselines}
    applied = context.catalogue.applied.get(name)
    if applied is not None:
        record["applied_calibration"] = applied
    elif options.calibrate and held_out.fitted_on is None:
        record["recalibration"] = {"skipped": held_out.why}
    elif options.calibrate and scores.source != "none":
        record["recalibration"], fitted = fit_and_show(
            context.catalogue, column, held_out.fitting, held_out.shown, options.max_calibration_rows, context.seed
        )
        if fitted is not None:
            fitted = replace(fitted, fitted_on=context.fitted_on)
            record["recalibration"]["fitted"]["on"] = fitted.said()
            calibration.add(name, context.given_for(name), fitted)
    chosen = np.linspace(0, len(scores.rows) - 1, min(options.max_examples, len(scores.rows))).astype(int)
    found.examples[name] = {key: getattr(scores, key)[chosen] for key in ("observed", "mean", "median", "std")}
    return record


def _against_others(
    context: Context,
    stores: tuple[TokenStore, TokenStore],
    name: str,
    inputs: Inputs,
    scores: Scores,
    is_redshift: bool,
) -> dict[str, Any]:
    table, options = context.catalogue, context.options
    record: dict[str, Any] = {}
    names = wanted_baselines(options.baselines)
    if names:
        baselines = Baselines(*stores, context.codebooks, names, options.max_training_rows, context.seed)
        record["against"] = compare(
            baselines,
            name,
            inputs,
            scores,
            table.fields,
            table.ids,
            is_redshift=is_redshift,
            n_resamples=options.n_resamples,
        )
    limit = noise_limits(context.data, name, stores[1], inputs, table.fields[scores.rows], table.ids[scores.rows])
    if limit is not None:
        record["noise_limit"] = _intervals(
            bootstrap_figures(
                limit_figures,
                *(a[np.isfinite(limit)] for a in (scores.median - scores.observed, limit)),
                n_resamples=options.n_resamples,
                seed=context.seed,
            )
        )
    return record


def _by_bins(context: Context, scores: Scores, unit: str) -> dict[str, Any]:
    """Figures by magnitude, by signal-to-noise of the observation and by familiarity, where these are known."""
    quantities = {"by_signal_to_noise": signal_to_noise(scores.observed, scores.error, unit)}
    if context.magnitude is not None:
        quantities["by_magnitude"] = context.magnitude[1][scores.rows]
    if context.catalogue.has(SURPRISE):
        quantities["by_surprise"] = context.surprise[scores.rows]

    def figures(observed: np.ndarray, mean: np.ndarray, median: np.ndarray, pit: np.ndarray, crps: np.ndarray) -> dict:
        return scalar_figures(observed, mean, median) | dict(distribution_figures(pit, crps))

    found = {}
    for name, of in quantities.items():
        edges = equal_count_edges(of, context.options.n_bins)
        arrays = (scores.observed, scores.mean, scores.median, scores.pit, scores.crps)
        rows = by_bins(figures, of, edges, *arrays)
        if len(rows) > 1:
            what = {"by_magnitude": context.magnitude and context.magnitude[0], "by_surprise": SURPRISE}
            found[name] = {
                "of": what.get(name) or "signal / noise",
                "bins": rows,
                "n_unknown": int((~np.isfinite(of)).sum()),
            }
    return found


def _magnitude(table: PredictionCatalogue, store: TokenStore | None, name: str | None) -> tuple[str, np.ndarray] | None:
    """Values of the magnitude that errors are shown by ``(n,)``: from the catalogue, else from the token files."""
    if name is None:
        return None
    values = table.numbers(name)
    if store is not None and not np.isfinite(values).any():
        for tokens, rows, places in places_in_store(store, table.fields, table.ids):
            if name in tokens.columns:
                values[rows] = tokens.scalar["values"][places, tokens.columns.index(name)]
    return (name, values) if np.isfinite(values).any() else None


def _figure(values: np.ndarray, context: Context) -> dict[str, Any]:
    values, judged, options = np.asarray(values, np.float64), context.held_out.judged, context.options
    if values.shape != judged.shape:
        raise DataError(f"a figure for each of {len(judged)} objects", got=values.shape, where="per_object")

    def figures(a: np.ndarray) -> dict[str, float]:
        known = len(a) > 0
        return {"mean": float(np.mean(a)) if known else np.nan, "median": float(np.median(a)) if known else np.nan}

    return _intervals(bootstrap_figures(figures, values[judged], n_resamples=options.n_resamples, seed=context.seed))


def _intervals(found: Mapping[str, Any]) -> dict[str, Any]:
    """Counts as plain numbers, everything else with its interval."""
    return {name: int(i.value) if name in ("n", "n_left_out") else i._asdict() for name, i in found.items()}


def _plain(given: Given) -> Any:
    if given is None:
        return None
    return {k: list(v) for k, v in given.items()} if isinstance(given, Mapping) else list(given)


def losses(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the model is worse than a baseline, beyond the interval, the largest relative loss first."""
    found = []
    for name, record in columns.items():
        for baseline, entry in record.get("against", {}).get("baselines", {}).items():
            for what, difference in entry.get("differences", {}).items():
                if difference["verdict"] == LOSES:
                    ratio = difference["model"] / difference["baseline"] if difference["baseline"] else float("inf")
                    found.append({"column": name, "against": baseline, "figure": what, "ratio": ratio, **difference})
    return sorted(found, key=lambda loss: -loss["ratio"])


def crps_ratio(record: Mapping[str, Any]) -> float | None:
    """CRPS of a judged column in units of the marginal's on the same objects; None if it was not compared with it."""
    crps = crps_against_marginal(record)
    return crps["model"] / crps["baseline"] if crps else None


def prediction_score(columns: Mapping[str, Any]) -> dict[str, Any] | None:
    """Mean of :func:`crps_ratio` over the columns that have one (``value``, and ``n_columns``); None without any.

    0 is perfect, 1 is as good as knowing nothing of an object. The ratio makes columns of different units count alike.
    """
    ratios = [ratio for ratio in map(crps_ratio, columns.values()) if ratio is not None]
    return {"value": float(np.mean(ratios)), "n_columns": len(ratios)} if ratios else None


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a tracker, flat: ``<column>/<figure>``."""
    flat: dict[str, float] = {"n_judged": result["n_judged"], "n_losses": len(result["loses"])}
    if result["score"] is not None:
        flat["score"] = result["score"]["value"]
    for name, record in result["columns"].items():
        for part in ("figures", "photo_z", "distribution", "noise_limit"):
            for figure, value in record.get(part, {}).items():
                if isinstance(value, Mapping):
                    flat[f"{name}/{figure if part != 'noise_limit' else 'noise_limit_' + figure}"] = value["value"]
        if "calibration" in record:
            flat[f"{name}/pit_ks"] = record["calibration"]["ks"]
        ratio = crps_ratio(record)
        if ratio is not None:
            flat[f"{name}/crps_skill"] = 1.0 - ratio
        to_beat = record.get("against", {}).get("best")
        if to_beat and to_beat["baseline"]:
            what = to_beat["figure"].replace(" ", "_")
            flat[f"{name}/{what}_best_baseline"] = to_beat["baseline"]
            flat[f"{name}/{what}_over_best_baseline"] = to_beat["model"] / to_beat["baseline"]
    for name, figures in result["figures"].items():
        flat |= {f"{name}/{figure}": value["value"] for figure, value in figures.items()}
    return flat
