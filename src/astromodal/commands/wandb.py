"""Weights & Biases for runs that are already there.

    astromodal wandb replay runs/train_lm
    astromodal wandb replay runs --offline              records for `wandb sync`, without network
    astromodal wandb workspace --entity E --project P   a saved view that compares the runs of a project

`replay` sends runs that were made offline or without Weights & Biases: metrics, summary, configuration, plots and
lineage, under the id, group, tags and type that the run itself would have had. A second replay sends only what is new.
`workspace` needs `pip install wandb-workspaces`; --print and --out need no network and no account.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

FAILED = "what was sent is known"  # said with an error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    replay = commands.add_parser(
        "replay",
        help="send runs from their directories",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("paths", type=Path, nargs="+", metavar="RUNS", help="run directories, or folders with some")
    replay.add_argument("--offline", action="store_true", help="write records for `wandb sync`, in <run>/replay")
    replay.add_argument("--project", help="another project than the run's configuration says")
    replay.add_argument("--entity", help="another user or team than the run's configuration says")
    replay.add_argument(
        "--again", action="store_true", help="send everything once more, as a run with an id of its own"
    )
    replay.add_argument("--running", action="store_true", help="also runs that are still running: what there is")
    view = commands.add_parser(
        "workspace",
        help="a saved view that compares the runs of a project",
        description="The comparisons of the report page as a saved view.",
    )
    view.add_argument("--entity", required=True, help="user or team")
    view.add_argument("--project", default="astromodal", help="default astromodal")
    view.add_argument("--name", default="Comparing runs", help="of the view")
    view.add_argument("--metric", default="val/score", help="what to compare by (default val/score)")
    view.add_argument("--keys", help="swept keys, with commas between; default: those of the presets")
    view.add_argument(
        "--runs", type=Path, nargs="+", metavar="RUNS", help="take the keys that differ between these runs"
    )
    view.add_argument("--print", action="store_true", help="print the view as JSON and save nothing")
    view.add_argument("--out", type=Path, metavar="FILE", help="write the view as JSON and save nothing")


def run(options: argparse.Namespace) -> None:
    """Send runs, or save a view."""
    if options.command == "replay":
        from ..dashboards.replay import Target, replay

        os.environ.setdefault("WANDB_SILENT", "true")  # its messages would stand between ours
        replay(options.paths, Target(options.offline, options.project, options.entity, options.again, options.running))
    else:
        from ..dashboards.workspace import workspace

        workspace(options)
