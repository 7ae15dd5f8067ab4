"""Where the YAML options are, and which there are: read from the folders, without Hydra."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def conf_dir() -> Path:
    """Folder with the YAML options: ``conf/`` of the checkout, else the one that was installed."""
    here = Path(__file__).resolve()
    for folder in (here.parents[4] / "conf", here.parents[2] / "conf"):
        if (folder / "base.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"expected the folder conf/ with base.yaml beside src/ or in the package, in {here.parents[4]}"
    )


def group_names(folders: Iterable[Path]) -> frozenset[str]:
    """Names of the groups (``model``, ``tokenizer/image/codec``): folders below ``folders`` that hold YAML files."""
    found = set()
    for root in folders:
        for folder, _, files in os.walk(root):
            if folder != str(root) and any(name.endswith((".yaml", ".yml")) for name in files):
                found.add(Path(folder).relative_to(root).as_posix())
    return frozenset(found)


def options_of(group: str, folders: Iterable[Path]) -> list[str]:
    """Options of a group in all folders, and the groups within it, sorted, as Hydra lists them."""
    return sorted({path.stem for root in folders for path in (root / group).glob("*.y*ml")})
