"""How this program is called where it runs, for texts that say what to type."""

from __future__ import annotations

import shutil
from pathlib import Path


def program() -> str:
    """``astromodal`` where it is installed as a command, else the form of ``python -m`` that works in this folder."""
    if shutil.which("astromodal") is not None:
        return "astromodal"
    return "python -m src.astromodal" if Path("src", "astromodal").is_dir() else "python -m astromodal"
