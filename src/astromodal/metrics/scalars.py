"""How good predictions of a number are, in its physical unit: over all objects, and by bins of another quantity.

A mean minimises the squared error and a median the absolute one, so each is judged by its own figures (Gneiting 2011,
JASA 106, 746). The robust scatter is ``1.4826 median |e - median e|``, which is sigma for Gaussian errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import DataError
from .reconstruction import mae, r2, rmse

NMAD = 1.4826  # sigma of a Gaussian over its median absolute deviation
MAGNITUDE_PER_RELATIVE_ERROR = 2.5 / np.log(10.0)


def finite_rows(*arrays: np.ndarray) -> list[np.ndarray]:
    """The rows of ``(n,)`` arrays in which all of them are finite, as float64.

    >>> [a.tolist() for a in finite_rows(np.array([1.0, np.nan]), np.array([3, 4]))]
    [[1.0], [3.0]]
    """
    values = [np.asarray(a, np.float64) for a in arrays]
    if any(a.shape != values[0].shape or a.ndim != 1 for a in values):
        raise DataError("arrays (n,) of one length", got=", ".join(str(a.shape) for a in values))
    usable = np.logical_and.reduce([np.isfinite(a) for a in values])
    return [a[usable] for a in values]


def scalar_figures(true: np.ndarray, mean: np.ndarray, median: np.ndarray | None = None) -> dict[str, float]:
    """Figures of predictions ``(n,)``: ``r2`` and ``rmse`` of the mean, the rest of the median.

    Args:
        median: the mean stands in where there is none.

    Returns:
        ``r2``; ``rmse``, ``mae``, ``bias`` (median error) and ``scatter`` (robust) in the unit of the values; ``n``
        objects used, ``n_left_out`` (a value that is not finite). NaN without objects; r2 is -infinity for a constant
        truth that is not met.

    >>> figures = scalar_figures(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 2.0, 4.0, 0.0]))
    >>> figures["r2"], round(figures["mae"], 3), figures["n"], figures["n_left_out"]
    (0.5, 0.333, 3, 1)
    """
    arrays = finite_rows(true, mean, mean if median is None else median)
    (truth, mean, median), left_out = arrays, np.size(true) - len(arrays[0])
    if not len(truth):
        nothing = dict.fromkeys(("r2", "rmse", "mae", "bias", "scatter"), float("nan"))
        return nothing | {"n": 0, "n_left_out": left_out}
    error = median - truth
    bias = float(np.median(error))
    return {
        "r2": r2(truth, mean),
        "rmse": rmse(truth, mean),
        "mae": mae(truth, median),
        "bias": bias,
        "scatter": float(NMAD * np.median(np.abs(error - bias))),
        "n": len(truth),
        "n_left_out": left_out,
    }


def signal_to_noise(values: np.ndarray, errors: np.ndarray, unit: str = "") -> np.ndarray:
    """Signal over noise of measurements ``(n,)``: ``|value| / error``; 1.0857 / error for magnitudes. NaN: unknown."""
    values, errors = np.asarray(values, np.float64), np.asarray(errors, np.float64)
    usable = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    signal = MAGNITUDE_PER_RELATIVE_ERROR if unit == "mag" else np.abs(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(usable, signal / np.where(usable, errors, 1.0), np.nan)


def equal_count_edges(of: np.ndarray, n_bins: int, min_per_bin: int = 20) -> np.ndarray:
    """Edges of at most ``n_bins`` bins with about as many objects each and at least ``min_per_bin``; (k + 1,).

    Empty where there are no two distinct finite values.

    >>> equal_count_edges(np.arange(101.0), 4).tolist()
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    of = np.asarray(of, np.float64)
    of = of[np.isfinite(of)]
    n_bins = max(min(n_bins, len(of) // max(min_per_bin, 1)), 1)
    edges = np.unique(np.quantile(of, np.linspace(0.0, 1.0, n_bins + 1))) if len(of) else np.zeros(0)
    return edges if len(edges) > 1 else np.zeros(0)


def by_bins(
    figures: Callable[..., Mapping[str, float]], of: np.ndarray, edges: np.ndarray, *arrays: np.ndarray
) -> list[dict[str, Any]]:
    """``figures(*arrays)`` of the objects in each bin of another quantity.

    Args:
        of: the quantity ``(n,)`` that decides the bin; objects where it is not finite are in none.
        edges: ``(k + 1,)`` rising; a bin holds its lower edge, the last one both.

    Returns:
        One dict per bin: ``low, high, middle`` (median of the quantity in the bin) and the figures.
    """
    of = np.asarray(of, np.float64)
    rows = []
    for k in range(len(edges) - 1):
        inside = (of >= edges[k]) & ((of < edges[k + 1]) | ((k == len(edges) - 2) & (of == edges[k + 1])))
        middle = float(np.median(of[inside])) if inside.any() else float("nan")
        bounds = {"low": float(edges[k]), "high": float(edges[k + 1]), "middle": middle}
        rows.append(bounds | dict(figures(*(np.asarray(a)[inside] for a in arrays))))
    return rows
