"""Packages that only some settings need: asked for before any work starts, and never imported here."""

from __future__ import annotations

import importlib.util

from ...errors import ConfigError


def require_package(name: str, setting: str, instead: str) -> None:
    """Make sure that the package ``name`` can be imported.

    Args:
        setting: what needs it.
        instead: the setting that does without it.

    Raises:
        ConfigError: it is not installed; the message has the command that installs it.

    >>> require_package("torch", "everything", "nothing")
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"the package {name} for {setting}", got="not installed", repair=f"pip install {name}, or {instead}"
        )
