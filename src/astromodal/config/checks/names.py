"""Names that become folders and files: one component of a path, so that nothing is written or removed elsewhere."""

from __future__ import annotations

import re

from ...errors import ConfigError, printable

MAX_BYTES = 200  # most file systems take 255, and names get endings


def file_name(text: str) -> str:
    """``text`` from a file as a part of a file's name.

    >>> file_name("../z spec")
    '..-z-spec'
    """
    return re.sub(r"[^\w.+-]", "-", text)[: MAX_BYTES // 4]


def check_name(name: object, where: str) -> str:
    """``name``, which is one folder or file of its own.

    Raises:
        ConfigError: it is empty, has a slash, begins or ends with a blank, is ``.`` or ``..``, too long, or holds
            characters that steer a terminal.

    >>> check_name("loss 2.5_b", "name")
    'loss 2.5_b'
    """
    text = str(name)
    bad = (
        not text
        or text in (".", "..")
        or text != text.strip()
        or any(c in "/\\\0\n\t" for c in text)
        or printable(text) != text
        or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES
    )
    if bad:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise ConfigError(
            f"the name of one folder: no slash, not '..', at most {MAX_BYTES} bytes", got=repr(shown), where=where
        )
    return text
