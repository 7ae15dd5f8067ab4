"""Weights & Biases for runs that are already there.

    python -m astromodal.dashboards replay runs/train_lm               (checkout: python -m src.astromodal.dashboards …)
    python -m astromodal.dashboards replay runs --offline              records for `wandb sync`, without network
    python -m astromodal.dashboards workspace --entity E --project P   a saved view that compares the runs of a project

`replay` sends runs that were made offline or without Weights & Biases: metrics, summary, configuration, plots and
lineage, under the id, group, tags and type that the run itself would have had. A second replay sends only what is new.
`workspace` needs `pip install wandb-workspaces`; --print and --out need no network and no account.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import ConfigError

COMMAND = "python -m astromodal.dashboards"


class _Parser(argparse.ArgumentParser):
    """Mistakes on the command line are one line with exit code 1, like all others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError.plain(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    replay = commands.add_parser("replay", help="send runs from their directories", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    replay.add_argument("paths", type=Path, nargs="+", metavar="RUNS", help="run directories, or folders with some")
    replay.add_argument("--offline", action="store_true", help="write records for `wandb sync`, in <run>/replay")
    replay.add_argument("--project", help="another project than the run's configuration says")
    replay.add_argument("--entity", help="another user or team than the run's configuration says")
    replay.add_argument(
        "--again", action="store_true", help="send everything once more, as a run with an id of its own"
    )
    replay.add_argument("--running", action="store_true", help="also runs that are still running: what there is")
    view = commands.add_parser("workspace", help="a saved view that compares the runs of a project",
                               description="The comparisons of the report page as a saved view.")  # fmt: skip
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
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    from ..config.launching.launch import one_line_errors

    with one_line_errors("what was sent is known"):
        options = _parser().parse_args(sys.argv[1:] if arguments is None else list(arguments))
        if options.command == "replay":
            from .replay import Target, replay

            os.environ.setdefault("WANDB_SILENT", "true")  # its messages would stand between ours
            replay(options.paths, Target(options.offline, options.project, options.entity, options.again,
                                         options.running))  # fmt: skip
        else:
            from .workspace import workspace

            workspace(options)


if __name__ == "__main__":
    main()
