"""Two variants of the loss experiments compared object by object, from the ``object_errors.npz`` of their runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from astromodal.files.io import load_npz
from astromodal.language_model.object_errors import FILE
from astromodal.metrics.bootstrap import PairedDifference, paired_bootstrap
from astromodal.vocabulary.modalities import MODALITIES

ERRORS = tuple(f"error_{m}" for m in MODALITIES)  # of which the score is the mean
METRICS = {"score": ERRORS} | {name: (name,) for name in ("ce", *ERRORS, "crps_scalar")}


class Comparison(NamedTuple):
    """One metric of one variant against another's; gains are in percent of the other's, positive is better."""

    gain: float
    low: float
    high: float
    n_better: int  # seeds in which it is better
    n_seeds: int
    objects: PairedDifference

    @property
    def excludes_zero(self) -> bool:
        return self.objects.excludes_zero


def compare(runs: Sequence[Path], others: Sequence[Path], n_resamples: int = 10_000) -> dict[str, Comparison]:
    """Every metric, and the score, of runs against those of another variant with the same seeds, in the same order.

    An object's value is the mean over the seeds; intervals say what other held-out objects would change.
    """
    pairs = [(load_npz(a / FILE), load_npz(b / FILE)) for a, b in zip(runs, others, strict=True)]
    for a, b in pairs:
        if not np.array_equal(a["object_index"], b["object_index"]):
            raise SystemExit("error: the runs were validated on different objects")
    found = {}
    for name, columns in METRICS.items():
        columns = [column for column in columns if all(column in side for pair in pairs for side in pair)]
        if not columns:
            continue
        a, b = (np.stack([np.stack([pair[i][c] for c in columns], axis=1) for pair in pairs]) for i in range(2))
        found[name] = gain(a, b, n_resamples)
    return found


def gain(a: np.ndarray, b: np.ndarray, n_resamples: int = 10_000) -> Comparison:
    """How much lower the values ``a`` are than ``b``, ``(seeds, objects, columns)`` each, NaN where there is none.

    The figure is the mean over the columns of each column's own mean, and an object's value the mean over the seeds.
    """
    result = paired_bootstrap(a.mean(0), b.mean(0), n_resamples)
    per_seed = np.nanmean(a - b, axis=1).mean(-1)
    unit = -100.0 / np.nanmean(b.mean(0), axis=0).mean()
    return Comparison(
        result.difference * unit,
        result.high * unit,
        result.low * unit,
        int((per_seed < 0).sum()),
        len(per_seed),
        result,
    )
