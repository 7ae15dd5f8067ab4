"""Tables as text: aligned for terminals and logs, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import printable


def table(header: Sequence[Any], rows: Sequence[Sequence[Any]], n_left: int = 1) -> str:
    """Columns padded to their widest cell: the first ``n_left`` to the left, figures to the right.

    >>> print(table(("name", "n"), [("a", 1), ("bc", 20)]))
    name   n
    a      1
    bc    20
    >>> print(table(("job", "swept"), [(0, "seed=1"), (10, "seed=2 name=b")], n_left=2))
    job  swept
    0    seed=1
    10   seed=2 name=b
    """
    cells = [[cell(value) for value in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [(str.ljust if i < n_left else str.rjust)(c, widths[i]) for i, c in enumerate(row)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def markdown(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """The same as a table of Markdown; all columns but the first are to the right.

    >>> print(markdown(("name", "n"), [("a", 1)]))
    | name | n |
    | --- | ---: |
    | a | 1 |
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(value: Any) -> str:
    """Four digits of a float, ``-`` for what is not known.

    >>> cell(1 / 3), cell(float("nan")), cell(7)
    ('0.3333', '-', '7')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else " ".join(printable(value).split("\n"))


def say(text: object, *, end: str = "\n") -> None:
    """Print ``text`` on standard output, at once, without what would steer a terminal: names come from files."""
    print(printable(text), end=end, flush=True)
