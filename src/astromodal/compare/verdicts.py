"""Is one configuration better than another, or is it noise? Paired differences with intervals.

Two things are random, and each has its interval:

- **which objects were held out**: a paired bootstrap by object (``metrics/bootstrap.py``) of the errors in
  ``object_errors.npz``, averaged over the seeds that both configurations have;
- **what the seed did to the training**: differences of runs with the same seed. There are few of them, and a
  percentile bootstrap of few numbers is far too narrow (of two, it calls 49 % of all noise a gain, of three 29 %, of
  five 16 %), so this interval is Student's t, which is right for any number from two.

A difference counts only if every interval that there is lies on one side of 0. Where several configurations are
compared, the level is that of Bonferroni, so that one in twenty *reports*, not lines, has a gain that is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..metrics.bootstrap import PairedDifference, paired_bootstrap
from .cohorts import Cohort, Group

LEVEL = 0.95
N_RESAMPLES = 10_000
BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "no difference", "cannot tell"


@dataclass(frozen=True)
class Difference:
    """A configuration against the reference, over their common seeds.

    Attributes:
        mean: of the metric, configuration minus reference, over the common seeds; ``None`` without any.
        seeds: interval over the seeds; ``None`` for fewer than two.
        objects: difference of the mean over objects, with its interval; ``None`` without the files.
    """

    group: Group
    common: tuple[Any, ...]
    mean: float | None
    seeds: tuple[float, float] | None
    objects: PairedDifference | None
    verdict: str
    why: str

    @property
    def over_objects(self) -> tuple[float, float] | None:
        """Ends of the interval over the objects."""
        return None if self.objects is None else (self.objects.low, self.objects.high)


def differences(cohort: Cohort, reference: Group, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> list[Difference]:
    """Every other configuration against ``reference``, in the order of the cohort."""
    others = [group for group in cohort.groups if group is not reference]
    level = 1.0 - (1.0 - LEVEL) / max(len(others), 1)
    return [difference(cohort, group, reference, level, n_resamples, seed) for group in others]


def difference(
    cohort: Cohort, group: Group, reference: Group, level: float = LEVEL, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Difference:
    """``group`` minus ``reference`` over the seeds that both have."""
    common = tuple(s for s in group.runs if s in reference.runs)
    paired = np.array([group.values[s] - reference.values[s] for s in common])
    over_seeds = student_interval(paired, level)
    by_object = object_difference(group, reference, common, cohort.metric, level, n_resamples, seed)
    verdict, why = _verdict(over_seeds, by_object, len(common), cohort.mode)
    mean = float(paired.mean()) if len(paired) else None
    return Difference(group, common, mean, over_seeds, by_object, verdict, why)


def student_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean of a few independent numbers; ``None`` for fewer than two.

    >>> [round(x, 2) for x in student_interval(np.array([1.0, 2.0, 3.0]))]
    [-0.48, 4.48]
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


# ---------------------------------------------------------------------------------------------- by object


def columns_of(metric: str, arrays: Sequence[dict[str, np.ndarray]]) -> list[str] | None:
    """Columns of ``object_errors.npz`` of which ``metric`` is the mean; ``None`` for a metric that they cannot tell."""
    name = metric.removeprefix("val/")
    known = set.intersection(*(set(a) for a in arrays)) if arrays else set()
    if name == "score":
        errors = sorted(key for key in known if key.startswith("error_"))
        return errors or (["ce"] if "ce" in known else None)
    return [name] if name in known and (name == "ce" or name.startswith("error_")) else None


def object_difference(
    group: Group,
    reference: Group,
    common: Sequence[Any],
    metric: str,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> PairedDifference | None:
    """Bootstrap by object of the errors averaged over the common seeds; ``None`` where a run lacks the file."""
    found = [side.runs[s].object_errors for side in (group, reference) for s in common]
    arrays = [of_run for of_run in found if of_run is not None]
    if not arrays or len(arrays) < len(found):
        return None
    columns = columns_of(metric, arrays)
    if columns is None:
        return None
    index = arrays[0]["object_index"]
    for other in arrays[1:]:
        index = np.intersect1d(index, other["object_index"], assume_unique=True)
    values = [_at(a, index, columns) for a in arrays]
    half = len(common)
    try:
        mine, theirs = np.mean(values[:half], axis=0), np.mean(values[half:], axis=0)
        return paired_bootstrap(mine, theirs, n_resamples, seed, level=level)
    except DataError:
        return None


def _at(arrays: dict[str, np.ndarray], index: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """Errors of the objects ``index``, ``(n, k)``; both are sorted."""
    rows = np.searchsorted(arrays["object_index"], index)
    return np.stack([arrays[name][rows] for name in columns], axis=1)


# ----------------------------------------------------------------------------------------------- verdict


def _verdict(
    over_seeds: tuple[float, float] | None, by_object: PairedDifference | None, n_common: int, mode: str
) -> tuple[str, str]:
    """The word and its reason."""
    intervals = [] if over_seeds is None else [over_seeds]
    intervals += [] if by_object is None else [(by_object.low, by_object.high)]
    if not n_common:
        return UNKNOWN, "no common seed"
    if not intervals:
        return UNKNOWN, "one common seed and no object_errors.npz"
    if by_object is None:
        why = f"over {n_common} seeds; without object_errors.npz on both sides the objects are taken as they are"
    elif over_seeds is None:
        why = f"over {by_object.n_objects} objects; one common seed, so the luck of the training is not known"
    else:
        why = f"over {n_common} seeds and over {by_object.n_objects} objects"
    if all(high < 0 for _, high in intervals):
        return (BETTER if mode == "min" else WORSE), why
    if all(low > 0 for low, _ in intervals):
        return (WORSE if mode == "min" else BETTER), why
    return SAME, why


def find_reference(cohort: Cohort, wanted: str | None) -> Group | None:
    """The configuration to compare with: the one that has a run called ``wanted`` (name, id or folder), else the best.

    ``None`` where nothing is called so, or nothing is ranked.
    """
    if wanted is None:
        return next(iter(cohort.groups), None)
    for group in cohort.groups:
        for run in group.runs.values():
            if wanted in (group.name, str(run.record.get("name")), run.record.get("run_id"), run.label, str(run.path)):
                return group
    return None
