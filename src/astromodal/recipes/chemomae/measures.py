"""What a masked autoencoder is compared with: straight lines across gaps, principal components for labels.

Shapes: n spectra, L values, Z numbers per spectrum.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

PENALTIES = 10.0 ** np.arange(-6, 4)  # of the ridge regression, times the number of spectra; chosen on validation
MIN_LABELLED = 30  # training spectra
MAX_LABELS = 8


def filled_by_lines(x: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Spectra (n, L) whose hidden values are interpolated between visible neighbours, or repeat the nearest one.

    >>> filled_by_lines(np.array([[1.0, 9.0, 3.0, 9.0]]), np.array([[True, False, True, False]])).tolist()
    [[1.0, 2.0, 3.0, 3.0]]
    """
    places = np.arange(x.shape[1])
    rows = [np.interp(places, places[seen], row[seen]) for row, seen in zip(x, visible, strict=True)]
    return np.stack(rows).astype(x.dtype)


def principal_components(x: np.ndarray, train: np.ndarray, n: int) -> np.ndarray:
    """Scores (rows, n) of all spectra on the first components of the training ones."""
    centred = x.astype(np.float64) - x[train].mean(0)
    _, _, axes = np.linalg.svd(centred[train], full_matrices=False)
    return centred @ axes[:n].T


def ridge_r2(features: np.ndarray, label: np.ndarray, rows: Mapping[str, np.ndarray]) -> float:
    """R2 on the test rows of a ridge regression whose penalty is the best on the validation rows.

    Args:
        features: ``(n, Z)``; label: ``(n,)``, NaN where unknown; rows: ``train``, ``val``, ``test``.
    """
    known = {name: part[np.isfinite(label[part])] for name, part in rows.items()}
    train = known["train"]
    centre, spread = features[train].mean(0), features[train].std(0)
    standard = (features - centre) / np.where(spread > 0, spread, 1.0)
    mean = label[train].mean()
    u, s, vt = np.linalg.svd(standard[train].astype(np.float64), full_matrices=False)
    projected = u.T @ (label[train] - mean)
    best, chosen = np.inf, None
    for penalty in PENALTIES * len(train):  # a handful
        weights = vt.T @ (s / (s**2 + penalty) * projected)
        error = ((standard[known["val"]] @ weights + mean - label[known["val"]]) ** 2).mean()
        if error < best:
            best, chosen = error, weights
    truth = label[known["test"]]
    residual = truth - standard[known["test"]] @ chosen - mean
    return float(1.0 - (residual**2).sum() / ((truth - truth.mean()) ** 2).sum())


def probe_labels(
    labels: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], latents: np.ndarray, x: np.ndarray
) -> dict[str, float]:
    """``r2_<label>`` from latents (n, Z) and ``pca_r2_<label>`` from Z principal components, for the first few labels
    that vary and that enough spectra of each part have."""
    scores = principal_components(x, rows["train"], latents.shape[1])
    figures: dict[str, float] = {}
    for name, label in labels.items():
        counts = {part: int(np.isfinite(label[chosen]).sum()) for part, chosen in rows.items()}
        varies = all(np.nanstd(label[chosen]) > 0 for part, chosen in rows.items() if counts[part])
        if counts["train"] < MIN_LABELLED or min(counts.values()) < 5 or not varies or len(figures) >= 2 * MAX_LABELS:
            continue
        figures[f"r2_{name}"] = ridge_r2(latents, label, rows)
        figures[f"pca_r2_{name}"] = ridge_r2(scores, label, rows)
    return figures
