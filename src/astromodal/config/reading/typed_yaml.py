"""YAML read with the schema in hand: text stays text, keys are names, and what is wrong is one line with its number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from ...errors import ConfigError
from .key_types import type_at
from .text_values import keep_text


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf reads it (1e-3 is a number, a date is text), three times as fast where libyaml is there."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


def read_typed(text: str, path: str | Path, package: str = "") -> Any:
    """Content of a YAML file as plain values.

    Args:
        path: for messages.
        package: dotted key of the section that the file describes.

    Raises:
        ConfigError: it has a key twice or one that is no name. YAMLError: it is no YAML.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        _check_keys(node, path)
        keep_text(node, type_at(package))
        if not package:
            _keep_options(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(node: Any, path: str | Path) -> None:
    """Each key of a mapping once, and a name."""
    todo, seen = [node], set()
    while todo:
        node = todo.pop()
        if node.id == "scalar" or id(node) in seen:
            continue
        seen.add(id(node))
        if node.id == "sequence":
            todo += node.value
            continue
        names: set[str] = set()
        for key, value in node.value:
            where = f"{path}, line {key.start_mark.line + 1}"
            if key.id != "scalar" or key.tag.endswith(":null"):
                raise ConfigError(
                    "keys that are names",
                    got=key.value if key.id == "scalar" and key.value else "null",
                    where=where,
                    repair="put quotes around it",
                )
            if key.value in names and not key.tag.endswith(":merge"):
                raise ConfigError("each key once", got=f"{key.value} twice", where=where)
            names.add(key.value)
            todo.append(value)


def _keep_options(node: Any) -> None:
    """Options in a list of defaults are text: ``- data: 2026_11`` names a file."""
    for key, value in node.value if node.id == "mapping" else ():
        if key.value == "defaults" and value.id == "sequence":
            for entry in value.value:
                keep_text(entry, dict[str, str] if entry.id == "mapping" else str)
