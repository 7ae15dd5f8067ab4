"""Where a run lies, as seen from the page: addresses for links and pictures, each no more than a relative path."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from ..rundir import Run

MAX_PLOTS = 24  # of one run
_PLACES = ("plots/*.png", "*/plots/*.png")  # a run's own, and those of its judgement


def address(path: Path, page_folder: Path) -> str:
    """Relative address of a file or folder, with every character escaped that could mean anything else.

    >>> address(Path("/a/runs/x y/<b>"), Path("/a/report")), address(Path("/a/javascript:x"), Path("/a"))
    ('../runs/x%20y/%3Cb%3E', 'javascript%3Ax')
    """
    return quote(os.path.relpath(path.resolve(), page_folder.resolve()).replace(os.sep, "/"), safe="/")


def plots_of(run: Run, page_folder: Path) -> list[str]:
    """Addresses of the pictures that a run has drawn."""
    found = [path for pattern in _PLACES for path in sorted(run.path.glob(pattern))]
    return [address(path, page_folder) for path in found[:MAX_PLOTS]]
