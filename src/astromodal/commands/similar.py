"""The objects that are most like an object: nearest neighbours by the cosine between embeddings, exact.

astromodal similar RUN --ids A,B --k 10                              a run with evaluate.embeddings=[mean]
astromodal similar RUN/probes --ids A,B --embedding attention        a run of train_lm.py, after astromodal probe
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", type=Path, help="run directory of evaluate.py, folder of probes, or file")
    parser.add_argument("--ids", required=True, help="objects, separated by commas")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument(
        "--embedding",
        default="mean",
        metavar="KIND",
        help="mean (default), last, attention, or attention_LABEL of several",
    )


def run(options: argparse.Namespace) -> None:
    """Print the neighbours of each object."""
    from ..files.text_table import say
    from ..probe.similarity import nearest_in_file

    queries = options.ids.split(",")
    found = nearest_in_file(options.run, queries, options.k, options.embedding)
    for query, ids, cosines in zip(queries, found.ids, found.cosines, strict=True):
        lines = (f"  {name}  {cosine:.4f}" for name, cosine in zip(ids, cosines, strict=True) if name)
        say("\n".join([query, *lines]))
