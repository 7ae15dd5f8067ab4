"""What differs between two runs: configuration, inputs, code, packages, and what came out.

astromodal diff runs/train_lm/a/<run_id> runs/train_lm/b/<run_id>
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("a", type=Path, metavar="RUN_A", help="run directory")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="run directory")


def run(options: argparse.Namespace) -> None:
    """Print the differences."""
    from ..compare.diff import diff_text
    from ..files.text_table import say

    say(diff_text(options.a, options.b))
