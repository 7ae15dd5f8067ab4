"""Write what a run made as a HATS catalogue: the answers of evaluate.py, or the tokens of encode.py, by tile of sky.

    astromodal hats runs/evaluate/default/<run_id> --to answers        then: lsdb.open_catalog("answers")

Positions come from the datacubes of the run; objects without one are left out, and counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a run of evaluate.py or encode.py")
    parser.add_argument("--to", type=Path, metavar="FOLDER", required=True, help="the catalogue; a new folder")
    parser.add_argument("--max-rows", type=int, default=100_000, help="rows of a tile (default 100000)")
    parser.add_argument("--name", help="of the catalogue, for its readers; default: the survey's and the run's")


def run(options: argparse.Namespace) -> None:
    """Write the catalogue."""
    from ..ask.sky_tables import sky_table
    from ..data.sources.hats_out import write_hats
    from ..errors import ConfigError
    from ..files.text_table import say

    if options.max_rows < 1:
        raise ConfigError("--max-rows of 1 or more", got=options.max_rows)
    table = sky_table(options.run)
    name = options.name or table.name
    done = write_hats(options.to, name, table.pieces, table.position, options.max_rows, {"obs_title": name})
    say(f"{done['rows']} rows in {done['tiles']} tiles: {options.to}")
    if done["no_position"]:
        say(f"left out: {done['no_position']} rows without a position in the datacubes")
    say(f'read it: python -c "import lsdb; print(lsdb.open_catalog({str(options.to)!r}))"')
