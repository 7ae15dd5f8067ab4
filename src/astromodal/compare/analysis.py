"""What a report says about a cohort: the ranking, the differences from the reference, the importance, the caveats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..files.text_table import table
from ..vocabulary.modalities import MODALITIES
from .cohorts import Cohort, Group
from .importance import Importance, importance
from .verdicts import BETTER, SAME, UNKNOWN, WORSE, Difference, differences, find_reference

VERDICT = "verdict"  # title of the column


@dataclass(frozen=True)
class Analysis:
    """A cohort with what was found out about it.

    Attributes:
        notes: what a reader has to know before believing the numbers.
    """

    cohort: Cohort
    reference: Group | None
    differences: list[Difference]
    importance: Importance | None
    notes: list[str]

    def header(self) -> tuple[str, ...]:
        errors = [m for m in MODALITIES if any(g.mean_of(f"val/error_{m}") is not None for g in self.cohort.groups)]
        others = [name for name in ("val/ce", *(f"val/error_{m}" for m in errors)) if name != self.cohort.metric]
        return (
            "configuration",
            "#",
            "seeds",
            self.cohort.metric,
            "± seeds",
            "difference",
            VERDICT,
            *others,
            "best step",
            "ms/step",
        )

    def rows(self) -> list[tuple[Any, ...]]:
        """One per configuration, the best first, under :meth:`header`."""
        found = {id(d.group): d for d in self.differences}
        others = [name for name in self.header() if name.startswith("val/") and name != self.cohort.metric]
        rows = []
        for rank, group in enumerate(self.cohort.groups, 1):
            d = found.get(id(group))
            steps = sorted({run.best_step for run in group.runs.values() if run.best_step is not None})
            rows.append(
                (
                    group.name,
                    rank,
                    len(group.runs),
                    group.mean,
                    group.spread,
                    None if d is None else d.mean,
                    d.verdict if d else "reference",
                    *(group.mean_of(name) for name in others),
                    "-".join(f"{step:g}" for step in dict.fromkeys((steps[0], steps[-1]))) if steps else None,
                    group.mean_median("perf/step_ms"),
                )
            )
        return rows

    def text(self, limit: int = 30) -> str:
        """For a terminal."""
        rows = self.rows()
        parts = [self.cohort.title]
        if rows:
            parts.append(table(self.header(), rows[:limit]))
        if len(rows) > limit:
            parts.append(f"… and {len(rows) - limit} more in the report")
        return "\n".join([*parts, *(f"- {note}" for note in self.notes)])


def analyse(cohort: Cohort, baseline: str | None = None) -> Analysis:
    """Everything about a cohort.

    Args:
        baseline: run to compare with, where the cohort has it; else the best configuration.
    """
    reference = find_reference(cohort, baseline) or find_reference(cohort, None)
    if reference is None:
        return Analysis(cohort, None, [], None, _left_out(cohort))
    found = differences(cohort, reference)
    notes = [*_notes(cohort, reference, found), *_left_out(cohort)]
    return Analysis(cohort, reference, found, importance(cohort), notes)


def _notes(cohort: Cohort, reference: Group, found: Sequence[Difference]) -> list[str]:
    notes = []
    if found:
        notes = [_against(reference, found)]
        notes += [f"{why}: {n} of {len(found)}." for why, n in _counted(d.why for d in found)]
    trivial = reference.first.summary.get(f"baselines/marginal/{cohort.metric.removeprefix('val/')}")
    if isinstance(trivial, int | float):
        notes.append(f"Predicting the marginal distribution gives {trivial:.4g}.")
    if any(len(axis.keys) > 1 for axis in cohort.axes):
        notes.append("Keys that always vary together cannot be told apart; they are shown as one.")
    if not cohort.inputs:
        notes.append("The runs do not record what they read: whether they may be compared is not known.")
    if len(cohort.revisions) > 1:
        notes.append(f"The code differs between these runs: {', '.join(cohort.revisions[:6])}.")
    if cohort.superseded:
        n = len(cohort.superseded)
        notes.append(f"{n} older run{'s' * (n > 1)} with the configuration and seed of a newer one: not ranked.")
    return notes


def _against(reference: Group, found: Sequence[Difference]) -> str:
    """How many are better, worse, or neither."""
    counts = {word: sum(d.verdict == word for d in found) for word in (BETTER, WORSE, SAME, UNKNOWN)}
    text = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    many = "" if len(found) == 1 else f", corrected for {len(found)} comparisons"
    return f"Against {reference.name}: {text}; 95 % intervals{many}."


def _counted(words: Any) -> list[tuple[str, int]]:
    words = list(words)
    return [(word[0].upper() + word[1:], words.count(word)) for word in dict.fromkeys(words)]


def _left_out(cohort: Cohort) -> list[str]:
    counted = _counted(why for _, why in cohort.left_out)
    return ["Not ranked: " + ", ".join(f"{n} {why.lower()}" for why, n in counted) + "."] if counted else []
