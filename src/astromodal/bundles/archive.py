"""A bundle as one file: a zip of its files as they are, not compressed, which holds no more than it is large."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from ..errors import ArtifactError
from ..files.atomic import atomic_path
from ..files.bounded import open_archive
from ..files.bundle_files import MANIFEST, WEIGHTS, check_inside

SUFFIX = ".zip"


def is_archive(path: str | Path) -> bool:
    """Whether a path is a zip with the files of a bundle."""
    path = Path(path)
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        with open_archive(path, stored=True) as archive:
            return {MANIFEST, WEIGHTS} <= set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def pack(folder: Path, path: Path) -> None:
    """Write the files of a folder as one, atomically."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())


def unpack(path: Path, folder: Path) -> None:
    """Write the files of a packed bundle into an empty folder.

    Raises:
        ArtifactError: it is damaged, or a name would leave the folder.
    """
    try:
        with open_archive(path, stored=True) as archive:
            for info in archive.infolist():
                check_inside(info.filename, path)
                target = folder / info.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, open(target, "xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ArtifactError(
            "a whole bundle", got=str(error)[:200], where=path, repair="get the bundle again, or export the run again"
        ) from error
