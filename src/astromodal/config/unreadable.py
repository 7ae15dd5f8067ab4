"""YAML files that Hydra cannot read: which file, what is wrong with it, and where."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from ..errors import ConfigError


def unreadable(chain: Sequence[BaseException]) -> ConfigError | None:
    """The error for a configuration file that is no YAML in UTF-8, or has a key that is no name; None for others."""
    from omegaconf.errors import KeyValidationError
    from yaml import YAMLError

    for link in chain:
        if not isinstance(link, UnicodeDecodeError | YAMLError | KeyValidationError):
            continue
        path = _path(chain)
        if path is None:
            continue
        if isinstance(link, UnicodeDecodeError):
            kind = "UTF-16" if link.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
            return ConfigError("a YAML file in UTF-8", got=f"{kind} (byte 0x{link.object[link.start]:02x})", where=path,
                               repair="save it as UTF-8")  # fmt: skip
        if isinstance(link, YAMLError):
            mark = getattr(link, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark is not None else ""
            return ConfigError("valid YAML", got=getattr(link, "problem", None) or str(link).split("\n")[0],
                               where=f"{path}{line}", repair="mind indents, brackets and quotes")  # fmt: skip
        return ConfigError("keys that are names", got=str(link).split("\n")[0], where=path,
                           repair="put quotes around a key such as null, yes or 3")  # fmt: skip
    return None


def _path(chain: Sequence[BaseException]) -> str | None:
    """The file that was being read, from Hydra's own frames: the errors do not say it."""
    for link in chain:
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_name == "load_config" and "full_path" in frame.f_locals:
                return str(frame.f_locals["full_path"])
    return None
