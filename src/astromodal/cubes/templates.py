"""Paths with words in braces.

``{band}`` and ``{field}`` are what is asked for; ``{tile}`` (a part of a name) and ``{folder}`` (folders) stand for
whatever is there; every other word is a column of the catalogue, so that a path with one is the path of an object.
A format may follow, as in ``spec-{plate:04d}-{mjd}-{fiberid:04d}.fits``.
"""

from __future__ import annotations

import glob
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError

FREE = {"tile": r"[^/]+", "folder": r".+"}
GIVEN = ("band", "field")


def words(template: str, where: str) -> list[str]:
    """The words in braces.

    Raises:
        ConfigError: braces that do not close, or something else than a name in them.
    """
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError("words in braces, as {band}", got=template, where=where, repair=str(error)) from error
    for name in found:
        if not name.isidentifier():
            raise ConfigError("names in braces, as {band} or {id}", got=f"{{{name}}}", where=where)
    return list(dict.fromkeys(found))


def columns_of(template: str | None, where: str) -> list[str]:
    """Words that are columns of the catalogue: of a path with any, each object has a file of its own."""
    return [w for w in words(template or "", where) if w not in GIVEN and w not in FREE]


def fill(template: str, values: Mapping[str, Any], where: str) -> str:
    """The template with its words replaced.

    Raises:
        DataError: a value does not fit its format (text for ``04d``), or a word has none.
    """
    try:
        return template.format_map(values)
    except (ValueError, KeyError) as error:
        raise DataError(
            f"values for {template}", got=str(error), where=where, repair="another format, or another column"
        ) from error


def there(template: str, root: Path, band: str | None) -> list[tuple[Path, dict[str, str]]]:
    """Files that a template stands for, sorted, with what its words are there (``field``, ``tile``, ``folder``)."""
    pattern, place = "", ""
    seen: set[str] = set()
    for text, name, form, _ in string.Formatter().parse(str(root / template)):
        pattern += "".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in text)
        place += text
        if name == "band" and band is not None:
            value = format(band, form or "")
            pattern, place = pattern + re.escape(value), place + glob.escape(value)
        elif name is not None:
            free = FREE.get(name, r"[^/]+")
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{free})"
            place += "**" if name == "folder" else "*"
            seen.add(name)
    regex = re.compile(pattern + r"\Z")
    found = ((Path(p), regex.match(p)) for p in glob.glob(place, recursive=True))
    return sorted((path, match.groupdict()) for path, match in found if match and path.is_file())
