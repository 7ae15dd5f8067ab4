"""Which loss.sample_k is enough? Compares gradients of sampled positions with the exact one, on a trained run.

    astromodal sample-k runs/train_lm/demo/<run_id>
    astromodal sample-k RUN_DIR --k 64 256 1024 --draws 16 --steps 8 --cosine 0.95

Prints a table and one sentence, and writes sample_k_study.json, .md and .png into RUN_DIR/sample_k_study/.
Nothing is trained and nothing else in the run's directory is touched.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError

FAILED = "nothing was written"  # said with an error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="run directory of train_lm.py")
    parser.add_argument("--k", type=int, nargs="+", default=[16, 64, 256, 1024, 4096], help="values of sample_k")
    parser.add_argument("--draws", type=int, default=8, help="draws per k and step")
    parser.add_argument(
        "--steps",
        type=int,
        default=4,
        help="optimizer steps whose batches are studied; more are taken if these lack a modality",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timing")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a file")
    parser.add_argument("--cosine", type=float, default=0.99, help="of the total gradient that counts as enough")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--out", type=Path, help="folder for the results; default RUN_DIR/sample_k_study")


def run(options: argparse.Namespace) -> None:
    """Study, print and write.

    Raises:
        ConfigError: an argument that cannot be.
    """
    for name in ("draws", "steps", "rounds", *(["k"] if min(options.k) < 1 else [])):
        if name == "k" or getattr(options, name) < 1:
            raise ConfigError(f"--{name} of 1 or more", got=getattr(options, name))
    if not 0 < options.cosine < 1:
        raise ConfigError("--cosine between 0 and 1", got=options.cosine)
    from ..language_model.sample_k.study import study
    from ..runs.progress import TerminalHandler

    log, handler = logging.getLogger("astromodal"), TerminalHandler(sys.stderr)
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        _report(options, study(options))
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print the tables and write them, the figures and the plot."""
    from ..files.io import write_json, write_text
    from ..files.text_table import say
    from ..language_model.sample_k.report import plot_study, study_markdown, study_text, verdict
    from ..language_model.sample_k.study import NAME

    result["verdict"] = verdict(result, options.cosine)
    out = options.out or options.run_dir / NAME
    write_json(out / f"{NAME}.json", result)
    write_text(out / f"{NAME}.md", study_markdown(result))
    plot_study(result, options.cosine, out / f"{NAME}.png")
    say(f"{study_text(result)}\n\nwritten: {out}{os.sep}{NAME}.json, .md, .png")
