"""Say what is in a file, a folder of files or a HATS catalogue, and propose a configuration that reads it.

    astromodal inspect /data/survey
    astromodal inspect /data/survey --write conf/data/mine.yaml    then: python train_tokenizers.py data=mine

Columns with types, units, missing values, ranges and suspected sentinels; spectra with their wavelengths; cutouts. Only
some rows of some fields are looked at. Guesses are guesses: read the proposal, above all its units and zero points.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.inspect.statistics import ColumnFacts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("path", metavar="PATH", help="file, folder or HATS catalogue")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the proposal, say to conf/data/mine.yaml")
    parser.add_argument("--force", action="store_true", help="with --write: in place of a file that is there")
    parser.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "files", "folders", "hats"),
        help="how the files are arranged, where that can be taken in two ways",
    )
    parser.add_argument("--hdu", help="extension of FITS files with the table (default: the first table)")
    parser.add_argument("--rows", type=int, default=4000, help="rows to look at, over all fields (default 4000)")


def run(options: argparse.Namespace) -> None:
    """Look, say, and write where that is wanted."""
    from ..data.inspect import survey
    from ..data.inspect.proposal import kind_of, summary
    from ..errors import ConfigError
    from ..files.text_table import say, table
    from ..machine.program import program

    if options.rows < 1:
        raise ConfigError("--rows of 1 or more", got=options.rows)
    if options.write is not None and options.write.exists() and not options.force:
        raise ConfigError("a new file to write", got="one that is there", where=options.write, repair="add --force")
    name = options.write.stem if options.write is not None else "mine"
    found = survey.look(options.path, name, options.layout, options.hdu, options.rows)
    say("\n".join(found.said))
    rows = [(c.name, kind_of(c), c.unit or "", _missing(c), _values(c)) for c in found.columns]
    say(table(("column", "type", "unit", "missing", "values"), rows, n_left=5) + "\n")
    say(table(("taken to be", ""), summary(found.guess), n_left=2))
    for column, why in found.guess.left_out.items():
        say(f"left out: {column}: {why}")
    for text in found.doubts:
        say(f"to look at: {text}")
    if options.write is None:
        say(f"\n{found.text}")
        say(f"to write it: {program()} inspect {options.path} --write conf{os.sep}data{os.sep}mine.yaml")
        return
    from ..files.io import write_text

    write_text(options.write, found.text)
    say(f"\nwritten: {options.write}; next:")
    for stage in ("train_tokenizers", "encode", "train_lm"):
        say(f"python {stage}.py data={name}")


def _missing(column: ColumnFacts) -> str:
    return f"{100 * column.missing / column.rows:.0f} %" if column.rows and column.missing else ""


def _values(column: ColumnFacts) -> str:
    """The range of a column's numbers, or an example."""
    from ..data.inspect.statistics import suspected_marks

    if column.is_list:
        return f"{column.low:.5g} to {column.high:.5g}" if len(column.lengths) and column.is_number else ""
    if not len(column.values):
        return f"e.g. {column.texts[0][:30]}" if column.texts else ""
    marks = suspected_marks(column.values)
    values = [v for v in (column.values.min(), column.values.max())]
    kept = column.values[[v not in marks for v in column.values]] if marks else column.values
    if len(kept):
        values = [kept.min(), kept.max()]
    said = f"{values[0]:.5g} to {values[1]:.5g}"
    return said + (f"; sentinels? {', '.join(f'{m:g}' for m in marks)}" if marks else "")
