"""HATS catalogues elsewhere, ``data.root=hats+https://…``: what is needed of them is copied once, by LSDB.

What is copied are the columns that ``data.*`` names, of the tiles ``data.fields`` or within ``data.cone``. The copy is
a HATS catalogue in the user's cache and is read as any other; it is made anew where something else is asked for, or
where it was removed. Needs lsdb (``pip install lsdb``).
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, DataError
from ...provenance.fingerprints import fingerprint_config
from .hats import FIELD, PARTITIONS
from .subset import check_cone

if TYPE_CHECKING:
    from ...config.schema import DataConfig

log = logging.getLogger(__name__)
PREFIX = "hats+"


def is_remote(root: str) -> bool:
    """Whether ``data.root`` is the address of a catalogue.

    >>> is_remote("hats+https://data.lsdb.io/hats/gaia_dr3"), is_remote("/data/gaia_dr3")
    (True, False)
    """
    return str(root).startswith(PREFIX)


def local_copy(data: DataConfig, columns: Sequence[str]) -> Path:
    """The folder with the copy, which is made if it is not there.

    Args:
        columns: names that are needed; of nested ones the whole column is copied.

    Raises:
        ConfigError: lsdb is not installed, or neither tiles nor a cone say what is wanted.
        DataError: the catalogue cannot be read.
    """
    if data.fields is None and data.cone is None:
        raise ConfigError(
            "data.cone or data.fields, for a catalogue elsewhere",
            got="neither",
            where=data.root,
            repair="data.cone=[ra,dec,radius] in degrees, or data.fields=[Norder3_Npix292]",
        )
    cone = None if data.cone is None else list(check_cone(data.cone))
    asked = {"root": data.root, "columns": sorted(columns), "fields": data.fields, "cone": cone}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "astromodal"
    folder = cache / f"hats-{fingerprint_config(asked)[:16]}"
    if not (folder / PARTITIONS).is_file():
        log.info("copying what is needed of %s to %s, once; remove that folder to copy it again", data.root, folder)
        _copy(data, columns, folder)
    return folder


def _copy(data: DataConfig, columns: Sequence[str], folder: Path) -> None:
    try:
        import lsdb
    except ImportError as error:
        raise ConfigError(
            "lsdb, to read a catalogue elsewhere", got="not installed", where=data.root, repair="pip install lsdb"
        ) from error
    made = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    made.parent.mkdir(parents=True, exist_ok=True)
    try:
        address = data.root.removeprefix(PREFIX)
        there = lsdb.open_catalog(address, columns="all").columns
        starts = {name: (f"{name}.", f"{name}[") for name in there}
        wanted = [name for name in there if any(c == name or c.startswith(starts[name]) for c in columns)]
        catalogue = lsdb.open_catalog(address, columns=wanted, search_filter=_search(lsdb, data))
        catalogue.write_catalog(made, catalog_name=folder.name, as_collection=False)
        os.replace(made, folder)
    except ConfigError:
        raise
    except Exception as error:  # the network, the server, the catalogue: whatever it is, nothing is left behind
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError("a HATS catalogue that LSDB can read", got=reason[:200], where=data.root) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _search(lsdb: Any, data: DataConfig) -> Any:
    """LSDB's filter for the wanted tiles, or the cone."""
    if data.fields is None:
        ra, dec, radius = check_cone(data.cone or ())
        return lsdb.ConeSearch(ra, dec, radius_arcsec=3600 * radius)
    pixels = []
    for field in data.fields:
        if not (match := FIELD.match(field)):
            raise ConfigError("data.fields of tiles, such as Norder3_Npix292", got=field)
        pixels.append((int(match[1]), int(match[2])))
    return lsdb.PixelSearch(pixels)
