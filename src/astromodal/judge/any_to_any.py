"""Each quantity against each subset of what was given: a matrix from several judgements.

A run of ``evaluate.py`` answers for one ``given``; the matrix puts several ``evaluation.json`` side by side. Rows are
asked quantities, columns what was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files.json_files import read_json
from .comparison import crps_against_marginal

FIGURES = ("crps_skill", "r2", "mae", "rmse", "scatter", "crps", "coverage_68", "sigma_nmad")


@dataclass(frozen=True)
class Matrix:
    """``values, low, high (a, g)`` and objects ``n (a, g)`` of one figure; NaN and 0 where nothing was measured."""

    figure: str
    asked: tuple[str, ...]
    given: tuple[str, ...]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray

    def records(self) -> list[dict[str, Any]]:
        """One per measured cell, for a table."""
        return [
            {
                "asked": asked,
                "given": given,
                self.figure: float(self.values[i, j]),
                "low": float(self.low[i, j]),
                "high": float(self.high[i, j]),
                "n": int(self.n[i, j]),
            }
            for i, asked in enumerate(self.asked)
            for j, given in enumerate(self.given)
            if self.n[i, j]
        ]


def any_to_any(results: Mapping[tuple[str, str], Mapping[str, Any]], figure: str = "crps_skill") -> Matrix:
    """The matrix of one figure.

    Args:
        results: (asked, given) → the record of that column in a judgement (``result["columns"][asked]``), or a mapping
            ``{"value": …, "low": …, "high": …, "n": …}`` of a figure from elsewhere. Order of first appearance counts.
        figure: one of ``FIGURES``; ``crps_skill`` is 1 - CRPS / CRPS of the marginal, 0 for "no better".

    Raises:
        DataError: an unknown figure, or no result at all.
    """
    if figure not in FIGURES:
        raise DataError(f"a figure of {', '.join(FIGURES)}", got=figure, where="any_to_any")
    if not results:
        raise DataError("at least one result", got="none", where="any_to_any")
    asked = tuple(dict.fromkeys(a for a, _ in results))
    given = tuple(dict.fromkeys(g for _, g in results))
    numbers = np.full((3, len(asked), len(given)), np.nan)
    n = np.zeros((len(asked), len(given)), np.int64)
    for (a, g), record in results.items():
        i, j = asked.index(a), given.index(g)
        found = record if "value" in record else figure_of(record, figure)
        numbers[:, i, j] = [_number(found.get(key)) for key in ("value", "low", "high")]
        n[i, j] = int(found.get("n", 0)) if np.isfinite(numbers[0, i, j]) else 0
    value, low, high = numbers
    return Matrix(figure, asked, given, value, low, high, n)


def figure_of(record: Mapping[str, Any], figure: str) -> dict[str, Any]:
    """A figure of a judged column with its interval and number of objects; empty where the record lacks it."""
    if figure == "crps_skill":
        return _skill(record)
    for part in ("figures", "photo_z", "distribution"):
        found = record.get(part, {}).get(figure)
        if found is not None:
            return {"value": found["value"], "low": found["low"], "high": found["high"], "n": found["n_objects"]}
    return {}


def _skill(record: Mapping[str, Any]) -> dict[str, Any]:
    """1 - CRPS / CRPS of the marginal; the interval is that of the paired difference over the marginal's CRPS."""
    difference = crps_against_marginal(record)
    if difference is None:
        return {}
    ends = {"value": difference["difference"], "low": difference["high"], "high": difference["low"]}  # sign turns
    return {name: -value / difference["baseline"] for name, value in ends.items()} | {"n": difference["n_objects"]}


def read_results(folders: Mapping[str, str | Path] | Iterable[str | Path]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Results of :func:`any_to_any` from folders with ``evaluation.json``.

    Args:
        folders: name of what was given → folder; or folders alone, which are then named by what they say was given.
    """
    pairs = list(folders.items()) if isinstance(folders, Mapping) else [(None, folder) for folder in folders]
    results: dict[tuple[str, str], Mapping[str, Any]] = {}
    for name, folder in pairs:
        result = read_json(Path(folder) / "evaluation.json")
        for asked, record in result["columns"].items():
            results[asked, name or given_name(result, asked)] = record
    return results


def given_name(result: Mapping[str, Any], asked: str) -> str:
    """What was given for a quantity, in a few words: as it was asked, so that it is the same for every quantity.

    >>> given_name({"given": {"z": ["g", "r"]}}, "z"), given_name({"given": None}, "z")
    ('g + r', 'everything else')
    >>> given_name({"given": {"z": ["g", "r", "i", "y"]}, "given_as_asked": ["scalar"]}, "z")
    'scalar'
    """
    given = result["given_as_asked"] if "given_as_asked" in result else result.get("given")
    names = given.get(asked, []) if isinstance(given, Mapping) else given
    if names is None:
        return "everything else"
    if not names:
        return "nothing"
    return " + ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)})"


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
