"""Which runs may be compared with each other, which of them differ only by their seed, and what else differs.

A metric means the same in two runs only if both were judged on the same tokens of the same sky. So runs are put into
cohorts by the fingerprints of what they read, and nothing here ranks across cohorts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..config.schema import STAGE_GROUPS
from ..training.callbacks.stopping import metric_mode
from .rundir import Run
from .runs_table import as_text, differing_keys

MAX_LABEL = 4  # keys in the name of a configuration


@dataclass(frozen=True)
class Axis:
    """A swept key, with those that have another value whenever it has: they cannot be told apart.

    >>> Axis(("loss.weight_image", "loss.weight_scalar")).label
    'loss.weight_image (and 1 with it)'
    """

    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.keys[0]

    @property
    def label(self) -> str:
        return self.key + (f" (and {len(self.keys) - 1} with it)" if len(self.keys) > 1 else "")

    def value(self, run: Run) -> Any:
        return run.config.get(self.key)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration, by seed; of several with the same seed the newest counts.

    Attributes:
        label: what sets this configuration apart in its cohort.
        name: the same, in a few words, for plots and tables.
    """

    label: str
    name: str
    runs: dict[Any, Run]
    values: dict[Any, float]  # of the metric, by seed

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values())))

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None

    @property
    def first(self) -> Run:
        return next(iter(self.runs.values()))

    def mean_of(self, name: str) -> float | None:
        """Mean over the seeds of another metric."""
        return _mean(run.metric(name) for run in self.runs.values())

    def mean_median(self, name: str) -> float | None:
        """Mean over the seeds of the median of a logged quantity."""
        return _mean(run.median_of(name) for run in self.runs.values())


@dataclass(frozen=True, eq=False)
class Cohort:
    """Runs that may be compared.

    Attributes:
        inputs: fingerprints that all of them share.
        metric, mode: what they are ranked by; ``min`` or ``max``.
        groups: configurations, the best first.
        axes: what differs between them.
        left_out: runs that are not ranked, with the reason.
        superseded: runs of which there is a newer one with the same configuration and seed.
    """

    stage: str
    inputs: dict[str, str]
    metric: str
    mode: str
    groups: list[Group]
    axes: list[Axis]
    left_out: list[tuple[Run, str]] = field(default_factory=list)
    superseded: list[Run] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs.values()]

    @property
    def title(self) -> str:
        parts = ", ".join(f"{name} {value[:8]}" for name, value in self.inputs.items()) or "inputs not recorded"
        return f"{self.stage} on {parts}"

    @cached_property
    def revisions(self) -> list[str]:
        """Code that the ranked runs were made with."""
        found = []
        for run in self.runs:
            git = run.record.get("git")
            git = git if isinstance(git, dict) else {}
            found.append(f"{str(git.get('revision'))[:10]}{' + changes' if git.get('dirty') else ''}")
        return sorted(set(found))

    def better(self, a: float, b: float) -> bool:
        return a < b if self.mode == "min" else a > b


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# ---------------------------------------------------------------------------------------------- cohorts


def cohorts(runs: Sequence[Run], metric: str) -> list[Cohort]:
    """Comparable runs, the largest cohort first. Only finished runs are ranked.

    Args:
        metric: for example ``val/score``; its best figure counts, at the step whose weights the run kept.
    """
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        found.setdefault((run.stage, *sorted(compared_inputs(run).items())), []).append(run)
    made = [_cohort(members, metric) for members in found.values()]
    return sorted(made, key=lambda c: (-len(c.runs), c.stage, c.title))


def compared_inputs(run: Run) -> dict[str, str]:
    """Fingerprints that decide what a run's metrics mean; for a tokenizer stage only those of the data."""
    own = run.stage == "train_tokenizers"
    return {name: value for name, value in run.inputs.items() if not own or name.startswith("datacube_")}


def _cohort(runs: list[Run], metric: str) -> Cohort:
    ranked, left_out = [], []
    for run in runs:
        if run.status != "done":
            left_out.append((run, run.status))
        elif run.metric(metric) is None:
            left_out.append((run, f"without {metric}"))
        else:
            ranked.append(run)
    axes = swept_axes(ranked)
    groups, superseded = _groups(ranked, axes, metric)
    mode = metric_mode(metric)
    groups.sort(key=lambda group: group.mean if mode == "min" else -group.mean)
    stage = runs[0].stage
    return Cohort(stage, compared_inputs(runs[0]), metric, mode, groups, axes, left_out, superseded)


def swept_axes(runs: Sequence[Run]) -> list[Axis]:
    """Keys with several values, those together that vary together; only keys that the stage reads."""
    read = {group for run in runs for group in STAGE_GROUPS.get(run.stage, ())}
    together: dict[tuple[int, ...], list[str]] = {}
    for key in differing_keys(runs):
        if key.split(".")[0] in read:
            texts = [as_text(run.config.get(key)) for run in runs]
            first = {text: index for index, text in reversed(list(enumerate(texts)))}
            together.setdefault(tuple(first[text] for text in texts), []).append(key)
    return [Axis(tuple(keys)) for keys in together.values()]


def _groups(runs: Sequence[Run], axes: Sequence[Axis], metric: str) -> tuple[list[Group], list[Run]]:
    members: dict[tuple[str, ...], dict[Any, Run]] = {}
    superseded = []
    for run in sorted(runs, key=lambda run: (str(run.record.get("created")), str(run.path))):
        same = members.setdefault(tuple(as_text(axis.value(run)) for axis in axes), {})
        if run.seed in same:
            superseded.append(same.pop(run.seed))
        same[run.seed] = run
    names = _names(list(members.values()), axes)
    groups = []
    for own, name in zip(members.values(), names, strict=True):
        by_seed = dict(sorted(own.items(), key=lambda item: as_text(item[0])))
        first = next(iter(by_seed.values()))
        label = ", ".join(f"{key}={as_text(first.config.get(key))}" for axis in axes for key in axis.keys)
        values = {seed: run.metric(metric) for seed, run in by_seed.items()}
        groups.append(Group(label or name, name, by_seed, values))
    return groups, superseded


def _names(members: Sequence[dict[Any, Run]], axes: Sequence[Axis]) -> list[str]:
    """The runs' own names where these tell the configurations apart, else a few of the keys."""
    own = [{str(run.record.get("name")) for run in runs.values()} for runs in members]
    if all(len(names) == 1 for names in own) and len(set.union(set(), *own)) == len(members):
        return [next(iter(names)) for names in own]
    shown = axes[:MAX_LABEL]
    texts = []
    for runs in members:
        first = next(iter(runs.values()))
        parts = [f"{axis.key.rsplit('.', 1)[-1]}={_short(axis.value(first))}" for axis in shown]
        texts.append(" ".join(parts) or str(first.record.get("name")))
    return [text if texts.count(text) == 1 else f"{text} #{i + 1}" for i, text in enumerate(texts)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else as_text(value)
    return text if len(text) <= 24 else text[:23] + "…"


# ----------------------------------------------------------------------------------------------- Pareto


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Which points ``(n, d)`` no other point beats: none is at most as large everywhere and smaller somewhere.

    Points with a NaN are never on the front.

    >>> pareto_front(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0]])).tolist()
    [True, True, False, True]
    """
    points = np.asarray(points, np.float64)
    known = np.isfinite(points).all(1)
    front = known.copy()
    for i in np.flatnonzero(known):
        others = points[known]
        front[i] = not ((others <= points[i]).all(1) & (others < points[i]).any(1)).any()
    return front
