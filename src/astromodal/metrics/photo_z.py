"""How good redshifts are, in the field's own figures: bias, normalised scatter, outliers.

``dz = (z_predicted - z_true) / (1 + z_true)``. The bias is the median (or mean) of dz; the scatter is
``sigma_NMAD = 1.4826 median(|Δz - median Δz| / (1 + z_true))`` with Δz = z_predicted - z_true (Ilbert et al. 2006, A&A
457, 841, in the form of Brammer et al. 2008, ApJ 686, 1503, which subtracts the median); an outlier has
``|dz| > 0.15`` (Ilbert et al. 2006; Hildebrandt et al. 2010, A&A 523, A31).
"""

from __future__ import annotations

import numpy as np

from .scalars import NMAD, finite_rows

OUTLIER = 0.15


def normalised_errors(z_true: np.ndarray, z_predicted: np.ndarray) -> np.ndarray:
    """dz of each object, ``(n,)``; NaN where either is not finite or 1 + z is not positive."""
    z_true, z_predicted = np.asarray(z_true, np.float64), np.asarray(z_predicted, np.float64)
    usable = np.isfinite(z_true) & np.isfinite(z_predicted) & (z_true > -1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(usable, (z_predicted - z_true) / (1.0 + z_true), np.nan)


def photo_z_figures(z_true: np.ndarray, z_predicted: np.ndarray, outlier: float = OUTLIER) -> dict[str, float]:
    """Figures of a set of redshifts ``(n,)``.

    Returns:
        ``bias_median, bias_mean`` of dz, ``sigma_nmad``, ``outlier_fraction``, ``n`` objects used and ``n_left_out``
        (not finite, or 1 + z not positive); NaN without objects.

    >>> figures = photo_z_figures(np.zeros(5), np.array([-0.01, 0.0, 0.01, 0.02, 1.0]))
    >>> round(figures["sigma_nmad"], 6), figures["outlier_fraction"], figures["bias_median"]
    (0.014826, 0.2, 0.01)
    """
    dz, z = finite_rows(normalised_errors(z_true, z_predicted), z_true)
    n, left_out = len(dz), np.size(z_true) - len(dz)
    if not n:
        nothing = dict.fromkeys(("bias_median", "bias_mean", "sigma_nmad", "outlier_fraction"), float("nan"))
        return nothing | {"n": 0, "n_left_out": left_out}
    error = dz * (1.0 + z)
    return {
        "bias_median": float(np.median(dz)),
        "bias_mean": float(dz.mean()),
        "sigma_nmad": float(NMAD * np.median(np.abs(error - np.median(error)) / (1.0 + z))),
        "outlier_fraction": float((np.abs(dz) > outlier).mean()),
        "n": n,
        "n_left_out": left_out,
    }
