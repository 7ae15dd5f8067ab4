"""What a trained model's hidden states know of columns that it is not shown, and the embeddings that say it best.

    astromodal probe RUN --label specz_z                   RUN: a run directory of train_lm.py
    astromodal probe RUN --label specz_z,teff --given spectrum --max-train 5000
    astromodal probe RUN --label specz_z --embed-all       embeddings of all objects, not only of some
    astromodal probe RUN --fitted RUN/probes/attention.npz --store OTHER --out DIR    of other objects

A linear probe of the mean of the hidden states beside a learned attention over them. No label of the command is shown
to the model. Into RUN/probes go probes.json, probes.txt, plots/, the fitted attention (attention.npz) and
embeddings.parquet, with the mean and the attention of the objects that were drawn, or of all. With --fitted nothing
is fitted and only embeddings are written. astromodal similar RUN/probes searches among them.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", type=Path, help="run directory of train_lm.py, or a file of weights")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--label", metavar="COLUMNS", help="scalar columns, separated by commas")
    what.add_argument("--fitted", type=Path, metavar="FILE", help="attention.npz of an earlier command: fit nothing")
    parser.add_argument("--given", metavar="NAMES", help="modalities, groups or columns; default: all but the labels")
    parser.add_argument("--embed-all", action="store_true", help="embeddings of every object, not of those drawn")
    parser.add_argument("--store", type=Path, help="paths.store; default: that of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: probes in the run directory")
    parser.add_argument("--max-train", type=int, default=None, help="objects to learn from")
    parser.add_argument("--max-held-out", type=int, default=None, help="to choose by, and to judge")
    parser.add_argument("--queries", type=int, default=None, help="of the attention probe")
    parser.add_argument("--epochs", type=int, default=None, help="at most")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--device", default="auto")


def run(options: argparse.Namespace) -> None:
    """Probe, or embed with what was fitted before."""
    from ..config.schema import HardwareConfig
    from ..files.text_table import say
    from ..probe.fits import ProbeOptions
    from ..probe.report import FOLDER, embed_run, probe_run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    told = {name: getattr(options, name) for name in ("max_train", "max_held_out", "epochs", "batch_size", "seed")}
    told["n_queries"] = options.queries
    chosen = ProbeOptions(**{name: value for name, value in told.items() if value is not None})
    hardware = HardwareConfig(device=options.device)
    folder = options.out or (options.run if options.run.is_dir() else options.run.parent) / FOLDER
    given = None if options.given is None else options.given.split(",")
    if options.fitted is None:
        labels = options.label.split(",")
        say(probe_run(options.run, labels, folder, given, chosen, hardware, options.store, options.embed_all))
    elif given is not None:
        raise ConfigError(
            "--fitted without --given",
            got="both",
            where="command line",
            repair="leave --given out: the file says what the model was shown",
        )
    else:
        say(embed_run(options.run, options.fitted, folder, hardware, options.store, chosen.batch_size))
    say(f"written to {folder}")
