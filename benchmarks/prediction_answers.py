"""What finished runs of the prediction experiments answered: scores object by object, and their paired gains."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paired import Comparison, gain
from prediction_questions import MAGNITUDES, QUESTIONS, Question
from prediction_spectra import Observed, baseline_errors, observed_spectra, predicted_errors

from astromodal.data.splits import TEST
from astromodal.files.io import read_json
from astromodal.judge.predicted import PredictionCatalogue
from astromodal.judge.scores import score_column

REFERENCE_BAND = "mag_pstotal_r"


class Answers(NamedTuple):
    """What one model answered to one question."""

    ids: np.ndarray  # (n,) of the test objects
    ratios: np.ndarray  # (n, k) CRPS of each column over the marginal's mean; NaN where not judged
    figures: dict[str, float]  # by name: ``prediction_tables.FIGURES``


class Asked(NamedTuple):
    """One question, and the answers to it by variant and seed."""

    data: str
    name: str
    question: Question
    answers: dict[str, dict[int, Answers]]

    @property
    def n_objects(self) -> int:
        """Those with a value to compare with."""
        first = next(iter(next(iter(self.answers.values())).values()))
        return int(np.isfinite(first.ratios).any(1).sum())

    def values(self, variant: str, figure: str) -> np.ndarray:
        """A figure per seed; NaN where it is not measured."""
        return np.array([a.figures.get(figure, np.nan) for a in self.answers[variant].values()])


def run_of(folder: Path, variant: str, seed: int, name: str) -> Path:
    return folder / "runs" / "evaluate" / variant / f"seed{seed}-{name}"


def is_done(run: Path) -> bool:
    return (run / "finished.json").exists()


def judged(run: Path) -> dict[str, Any]:
    """The columns of a run's judgement that were compared with the marginal."""
    columns = read_json(run / "judgement" / "evaluation.json")["columns"]
    return {name: c for name, c in columns.items() if "baselines" in c.get("against", {})}


def scalar_answers(run: Path) -> Answers:
    """Of the catalogue and judgement of a run of ``evaluate.py``."""
    columns, catalogue = judged(run), PredictionCatalogue(run)
    rows = np.ones(len(catalogue), bool)
    ratios = np.full((len(catalogue), len(columns)), np.nan)
    for k, name in enumerate(columns):
        scores = score_column(catalogue, catalogue.column(name), rows)
        ratios[scores.rows, k] = scores.crps_quantiles / columns[name]["against"]["baselines"]["marginal"]["crps"]
    return Answers(catalogue.ids, ratios, model_figures(columns) | {"score": score_of(ratios)})


def score_of(ratios: np.ndarray) -> float:
    """Mean over the columns of each column's mean ``(n, k)``, NaN where an object has no value.

    >>> score_of(np.array([[0.5, np.nan], [1.5, 0.0]]))
    0.5
    """
    return float(np.nanmean(ratios, axis=0).mean())


def model_figures(columns: Mapping[str, Any]) -> dict[str, float]:
    """Means over the judged columns of the model's figures."""

    def mean(*keys: str) -> float:
        found = [functools.reduce(lambda part, key: part.get(key, {}), keys, column) for column in columns.values()]
        return float(np.mean([value for value in found if value != {} and value is not None] or [np.nan]))

    return {
        "MAE": mean("figures", "mae", "value"),
        "R2": mean("figures", "r2", "value"),
        "sigma_nmad": mean("photo_z", "sigma_nmad", "value"),
        "outlier_fraction": mean("photo_z", "outlier_fraction", "value"),
        "in 68 %": mean("distribution", "coverage_68", "value"),
        "in 95 %": mean("distribution", "coverage_95", "value"),
        "PIT-KS": mean("calibration", "ks"),
    }


@functools.cache
def spectra_of(folder: Path, run: Path, group: str) -> tuple[Observed, dict[str, tuple[np.ndarray, np.ndarray]]]:
    spectra = observed_spectra(run, group, MAGNITUDES)
    return spectra, baseline_errors(spectra, MAGNITUDES.index(REFERENCE_BAND))


def spectrum_answers(folder: Path, run: Path, group: str, first: Path) -> Answers:
    """The same of an asked spectrum; what was observed is read for the ``first`` run only."""
    spectra, baselines = spectra_of(folder, first, group)
    error, shape, inside = predicted_errors(run, group, spectra)
    ratios = (error / baselines["marginal"][0].mean())[:, None]
    ids = spectra.ids[spectra.split == TEST]
    return Answers(
        ids,
        ratios,
        {
            "score": score_of(ratios),
            "median error": float(np.median(error)),
            "of the shape": float(np.median(shape)),
            "in 68 %": float(inside.mean()),
        },
    )


def collect(folders: Mapping[str, Path], variants: Sequence[str], seeds: Sequence[int]) -> list[Asked]:
    """Every question with a finished answer."""
    found = []
    for data, folder in folders.items():
        for name, question in QUESTIONS[data].items():
            runs = {v: {s: run_of(folder, v, s, name) for s in seeds} for v in variants}
            runs = {v: {s: run for s, run in of.items() if is_done(run)} for v, of in runs.items()}
            runs = {v: of for v, of in runs.items() if of}
            if not runs:
                continue
            first = next(iter(next(iter(runs.values())).values()))
            answers = {
                v: {
                    s: spectrum_answers(folder, run, question.predict[0], first)
                    if question.spectrum
                    else scalar_answers(run)
                    for s, run in of.items()
                }
                for v, of in runs.items()
            }
            found.append(Asked(data, name, question, answers))
    return found


def compare(asked: Asked, variant: str, other: str) -> Comparison | None:
    """Gain of a variant over another in the score, over the seeds that both have."""
    seeds = [s for s in asked.answers.get(variant, {}) if s in asked.answers.get(other, {})]
    if variant == other or not seeds:
        return None
    a, b = ([asked.answers[v][s] for s in seeds] for v in (variant, other))
    if any(not np.array_equal(x.ids, a[0].ids) for x in (*a, *b)):
        raise SystemExit("error: the models were asked about different objects")
    return gain(np.stack([x.ratios for x in a]), np.stack([x.ratios for x in b]))
