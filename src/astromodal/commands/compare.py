"""Compare the runs below some folders: a table, a table of runs (CSV and Parquet) and one page with all figures.

    astromodal compare runs/train_lm
    astromodal compare runs --stage train_lm --metric val/ce --baseline cross_entropy --out comparison

Only run directories are read; no account, no network. The best configuration, or --baseline, is compared with each
other one; a gain whose interval includes 0 is called "no difference". What differs between two runs: astromodal diff.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArtifactMissingError, ConfigError

if TYPE_CHECKING:
    from ..compare.cohorts import Cohort
    from ..compare.runs_table import RunsTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUNS", help="run directories, or folders with some")
    parser.add_argument("--metric", help="what to rank by (default: the objective of the runs, or val/score)")
    parser.add_argument("--stage", help="runs of this stage only, for example train_lm")
    parser.add_argument("--baseline", metavar="RUN", help="compare with this run (name, id or folder), not the best")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the report; default RUNS/report")


def output_folder(paths: Sequence[Path], out: Path | None) -> Path:
    """Where the report goes: ``out``, else ``report`` in the folder that holds all ``paths``; never within a run.

    Raises:
        ConfigError: ``out`` lies within a run directory.
    """
    folder = (out or Path(os.path.commonpath([path.absolute() for path in paths])) / "report").absolute()
    within = [place for place in (folder, *folder.parents) if (place / "run.json").is_file()]
    if within and out is not None:
        raise ConfigError("--out outside of run directories", got=within[-1], where=out)
    return within[-1].parent / "report" if within else folder


def resolve_metric(runs_table: RunsTable, wanted: str | None) -> str:
    """The metric as the runs call it: ``score`` is ``val/score``; None is what they were to minimise.

    Raises:
        ConfigError: runs have metrics, but none has this one.
    """
    known = {name for run in runs_table.runs for name in (*run.best, *run.summary)}
    if wanted is None:
        objectives = {
            (run.record.get("objective") or {}).get("name") for run in runs_table.runs if run.status == "done"
        }
        wanted = (objectives.pop() if len(objectives) == 1 else None) or "val/score"
    if wanted in known or not known:
        return wanted
    if f"val/{wanted}" in known:
        return f"val/{wanted}"
    import difflib

    near = difflib.get_close_matches(wanted, sorted(known), n=3) or sorted(n for n in known if n.startswith("val/"))[:6]
    raise ConfigError("--metric to be one that a run has", got=wanted, repair=f"for example {', '.join(near)}")


def run(options: argparse.Namespace) -> None:
    """Read, compare, print and write.

    Raises:
        ArtifactMissingError: no run directory below the paths.
        ConfigError: a metric, baseline or folder that cannot be.
    """
    from ..compare.analysis import analyse
    from ..compare.cohorts import cohorts
    from ..compare.runs_table import read_runs_table
    from ..files.text_table import say

    runs_table = read_runs_table(options.paths, options.stage)
    if not runs_table.runs and not runs_table.skipped:
        what = f"runs of {options.stage}" if options.stage else "a run directory (with run.json)"
        where = ", ".join(map(str, options.paths))
        raise ArtifactMissingError(what, got="none", where=where, repair="runs/train_lm, or the folder of a sweep")
    out = output_folder(options.paths, options.out)
    metric = resolve_metric(runs_table, options.metric)
    found = cohorts(runs_table.runs, metric)
    _check_baseline(found, options.baseline)
    analyses = [analyse(cohort, options.baseline) for cohort in found]
    from ..compare.page.html import write_page
    from ..compare.page.live_page import REPAIR, plotly_script

    runs_table.write(out)
    write_page(out / "report.html", runs_table, analyses, metric, [str(path) for path in options.paths])
    ranked = [a for a in analyses if a.cohort.groups]
    if len(ranked) > 1:
        say(f"{len(ranked)} groups of runs on different data or tokens: each is ranked alone\n")
    say("\n\n".join(a.text() for a in ranked) or f"no finished run has {metric}")
    for entry in runs_table.skipped:
        say(f"{entry.status}, skipped: {entry.path}: {entry.reason}")
    say(f"\nwritten: {out}{os.sep}report.html, runs.csv, runs.parquet")
    if plotly_script() is None:
        say(f"the plots of the page are drawings; with names under the pointer and a filter: {REPAIR}")


def _check_baseline(found: Sequence[Cohort], baseline: str | None) -> None:
    """Refuse a baseline that no cohort has; in the others the best is compared with.

    Raises:
        ConfigError: with the names that there are.
    """
    from ..compare.verdicts import find_reference

    names = [group.name for cohort in found for group in cohort.groups]
    if baseline is not None and names and not any(find_reference(cohort, baseline) for cohort in found):
        raise ConfigError(
            "--baseline to be a finished run (name, id or folder)",
            got=baseline,
            repair=f"for example {', '.join(names[:6])}",
        )
