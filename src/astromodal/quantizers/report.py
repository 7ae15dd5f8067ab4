"""What a quantizer costs and what it loses: rate, codes in use, perplexity, distortion; per stage and in all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..metrics.rate import bits_per_symbol, codes_used, perplexity
from .base import Quantizer, checked


def usage_figures(usages: Sequence[np.ndarray]) -> dict[str, Any]:
    """Rate of a vector's codes from how often each code of each stage occurred.

    ``n_codes``, ``codes_used`` and ``bits`` (per vector) are sums over the stages, ``perplexity`` is per code: the
    geometric mean over the stages. With more than one stage, ``stages`` lists the figures of each.

    >>> figures = usage_figures([np.array([4, 4]), np.array([2, 2, 2, 2])])
    >>> figures["bits"], figures["codes_used"], [stage["perplexity"] for stage in figures["stages"]]
    (3.0, 6, [2.0, 4.0])
    """
    stages = [
        {
            "n_codes": len(usage),
            "codes_used": codes_used(usage),
            "bits": bits_per_symbol(usage),
            "perplexity": perplexity(usage),
        }
        for usage in usages
    ]
    figures = {key: sum(stage[key] for stage in stages) for key in ("n_codes", "codes_used", "bits")}
    figures["perplexity"] = float(2.0 ** (figures["bits"] / len(stages)))
    return figures | ({"stages": stages} if len(stages) > 1 else {})


def quantizer_report(quantizer: Quantizer, X: np.ndarray, weights: np.ndarray | None = None) -> dict[str, Any]:
    """:func:`usage_figures` of the rows ``X`` (n, D), and what coding them loses.

    ``distortion`` is the mean squared error per row (weighted by ``weights`` (n,)), summed over the dimensions, in the
    squared unit of the data; ``distortion_fraction`` the same as a share of the rows' own variance; both also after
    each stage. ``clipped_share`` is the share of numbers beyond what the codes span.
    """
    X = checked(X, "quantizer_report", quantizer.n_dims)
    codes = quantizer.encode(X)
    columns, books = codes.reshape(len(X), -1), quantizer.codebooks
    usages = [np.bincount(c, minlength=n) for c, n in zip(columns.T, quantizer.sizes, strict=True)]
    figures = usage_figures(usages)
    spread = X - np.average(X, axis=0, weights=weights).astype(np.float32)
    variance = _mean_square(spread, weights)
    residual = X
    for s, book in enumerate(books):
        residual = residual - book.entries[columns[:, s]]
        distortion = _mean_square(residual, weights)
        losses = {
            "distortion": distortion,
            "distortion_fraction": distortion / variance if variance > 0 else float(distortion > 0),
        }
        if "stages" in figures:
            figures["stages"][s] |= losses
    return figures | losses | {"n_stages": len(books), "clipped_share": quantizer.clipped_share(X)}


def _mean_square(rows: np.ndarray, weights: np.ndarray | None) -> float:
    """Mean squared length of the rows."""
    return float(np.average(np.einsum("nd,nd->n", rows, rows, dtype=np.float64), weights=weights))
