"""Judge runs of evaluate.py: metrics, calibration, baselines, noise limit; with several, the any-to-any matrix.

    astromodal judge runs/evaluate/default/ID
    astromodal judge RUN_A RUN_B --out matrix            each run, and the matrix of both
    astromodal judge runs/evaluate/default/SWEEP         all jobs of a sweep over evaluate.given
    astromodal judge CATALOGUE.parquet --out folder      any catalogue with the same columns

A run's own config.yaml says where the token files, tokenizers and datacubes are. Writes evaluation.json,
evaluation.txt, tables/ and plots/ into RUN/judgement. What evaluate.py has judged is not judged again, unless other
options are given.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.reading.explain import nearest
from ..config.schema import Baseline, CalibrateOn
from ..errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from ..judge.any_to_any import FIGURES

    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, sweeps or catalogues")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report; of several runs, of the matrix")
    parser.add_argument("--again", action="store_true", help="judge again what has been judged")
    parser.add_argument("--magnitude", metavar="COLUMN", help="show errors by this column")
    parser.add_argument("--baselines", metavar="NAMES", help="marginal,boosting,boosting_colours,…, or none")
    parser.add_argument("--calibrate-on", choices=[on.value for on in CalibrateOn], help="objects to fit on")
    parser.add_argument("--resamples", type=int, help="of the bootstrap")
    parser.add_argument("--figure", default="crps_skill", choices=FIGURES, help="of the matrix")


def run(options: argparse.Namespace) -> None:
    """Judge what is not judged yet, print, and draw the matrix of several."""
    from ..files.text_table import say
    from ..judge.judge_run import FOLDER, judge_run
    from ..judge.report import report_matrix

    changes: dict[str, Any] = {}
    if options.baselines is not None:
        changes["baselines"] = [] if options.baselines == "none" else _baselines(options.baselines)
    on = None if options.calibrate_on is None else CalibrateOn(options.calibrate_on)
    named = (("magnitude", options.magnitude), ("n_resamples", options.resamples), ("calibrate_on", on))
    changes |= {key: value for key, value in named if value is not None}
    runs = _runs(options.runs)
    several = len(runs) > 1
    folders = []
    for path in runs:
        folder = options.out if options.out and not several else (path if path.is_dir() else path.parent) / FOLDER
        if options.again or changes or not (folder / "evaluation.json").is_file():
            judge_run(path, folder, changes=changes)
        say(f"{(folder / 'evaluation.txt').read_text()}\nreport, tables and plots in {folder}")
        folders.append(folder)
    if several:
        say(report_matrix(folders, options.out or Path("matrix"), options.figure))


def _runs(paths: Sequence[Path]) -> list[Path]:
    """The runs; of the folder of a sweep, all that have a catalogue.

    Raises:
        ArtifactMissingError: a folder without any.
    """
    found: list[Path] = []
    for path in paths:
        below = sorted(p.parent for p in path.glob("*/catalogue.parquet"))
        alone = not path.is_dir() or any(path.glob("*.parquet")) or not below
        found += [path] if alone else sorted(below, key=lambda p: (len(p.name), p.name))  # 2 before 10
    return found


def _baselines(names: str) -> list[Baseline]:
    known = [baseline.value for baseline in Baseline]
    for name in names.split(","):
        if name not in known:
            raise ConfigError(
                f"baselines among {', '.join(known)}", got=name, where="--baselines", repair=nearest(name, known)
            )
    return [Baseline(name) for name in names.split(",")]
