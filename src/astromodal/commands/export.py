"""Write a trained run as a bundle: one folder with everything that ``astromodal.load`` needs, and a card."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a run of train_lm.py")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="a folder, or one file ….zip; default bundles/<survey>-<run id>"
    )
    parser.add_argument(
        "--judgement",
        type=Path,
        metavar="FOLDER",
        help="whose figures the card shows; default: the newest of these weights",
    )
    parser.add_argument(
        "--no-examples", action="store_true", help="leave out example rows, which are objects of the survey"
    )
    parser.add_argument(
        "--reference",
        type=int,
        metavar="N",
        default=1000,
        help="validation objects whose tokens are put in, for the familiarity; 0: none",
    )
    parser.add_argument("--title", help="of the card and the citation")
    parser.add_argument("--authors", metavar="NAMES", help="of the citation, separated by semicolons")
    parser.add_argument("--license", help="of the card, as hubs write it: cc-by-4.0")
    parser.add_argument("--push", metavar="ORG/NAME", help="put the bundle on a hub, too (needs huggingface_hub)")
    parser.add_argument("--private", action="store_true", help="with --push: a repository that nobody else sees")


def run(options: argparse.Namespace) -> None:
    """Export, and push where that is wanted."""
    from ..bundles.hub import check_pushable, upload
    from ..files.text_table import say

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.push is not None:
        check_pushable(options.push, options.to)  # before minutes of work
    from ..bundles.export import export

    folder = export(
        options.run,
        options.to,
        judgement=options.judgement,
        examples=not options.no_examples,
        reference=options.reference,
        title=options.title,
        authors=options.authors,
        license=options.license,
    )
    say(f"bundle in {folder}")
    say(f"in Python: astromodal.load({str(folder)!r}, check=True).explain()")
    if options.push is not None:
        say(f"pushed: {upload(folder, options.push, private=options.private)}")
