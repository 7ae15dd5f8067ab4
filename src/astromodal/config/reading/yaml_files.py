"""YAML files that a user or another run has written, read within bounds.

``*a`` mentions a value again, and OmegaConf copies it: ten lines of ten mentions each are 10^10 values. In a run's own
``config.yaml`` everything is resolved, so ``${…}`` in it, which may call a resolver, is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...errors import ConfigError
from .older import migrated
from .typed_yaml import read_typed

MAX_BYTES = 1 << 20  # a configuration has some ten thousand
MAX_VALUES = 20_000  # as often as they are mentioned
MAX_DEPTH = 40


def load_yaml(path: str | Path, package: str = "") -> DictConfig:
    """The mapping in a YAML file.

    Args:
        package: dotted key of the section that the file describes.

    Raises:
        ConfigError: no such file, no YAML, no mapping, or more in it than a configuration can have.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = data.decode("utf-8-sig")
        _check_size(text)
        loaded = OmegaConf.create(read_typed(text, path, package))
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError("a YAML file", got="no such file", where=path) from None
    except UnicodeDecodeError as error:
        kind = "UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
        raise ConfigError(
            "a YAML file in UTF-8",
            got=f"{kind} (byte {error.object[error.start]:#04x})",
            where=path,
            repair="save it as UTF-8",
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            "valid YAML",
            got=getattr(error, "problem", None) or str(error).split("\n")[0],
            where=f"{path}, line {mark.line + 1}" if mark else path,
            repair="mind indents, brackets and quotes",
        ) from None
    except (OSError, ValueError, TypeError, RecursionError, OmegaConfBaseException) as error:
        raise ConfigError(
            "a readable YAML file of keys and values", got=f"{type(error).__name__}: {error}"[:300], where=path
        ) from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError("a mapping of keys to values", got=type(loaded).__name__, where=path)
    return loaded


def load_run_config(path: str | Path) -> DictConfig:
    """``config.yaml`` of a run, which a stranger or an older version may have made, with the keys of this version.

    Raises:
        ConfigError: as :func:`load_yaml`, or a value that would have to be resolved.
    """
    loaded = load_yaml(path)
    content = OmegaConf.to_container(loaded, resolve=False)
    if _has_interpolation(content):
        raise ConfigError("resolved values in the configuration of a run", got="${…}", where=path)
    new = migrated({str(key): value for key, value in content.items()}, path) if isinstance(content, dict) else content
    return loaded if new == content else DictConfig(new)


def _has_interpolation(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_interpolation(part) for pair in value.items() for part in pair)
    return any(map(_has_interpolation, value)) if isinstance(value, list) else isinstance(value, str) and "${" in value


def _check_size(text: str) -> None:
    """Count the values that would be made, without making them.

    Raises:
        ValueError: too many, too deep, or one that holds itself.
    """
    sizes: dict[str, int] = {}  # of values with an anchor
    open_: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size of the containers that have begun
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            open_.append((event.anchor, 1))
            if len(open_) > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} levels")
            continue
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            anchor, size = open_.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1 + len(event.value) // 32
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"*{event.anchor} within itself")
            anchor, size = None, sizes[event.anchor]
        else:
            continue
        if anchor:
            sizes[anchor] = size
        open_[-1] = (open_[-1][0], open_[-1][1] + size)
        if open_[-1][1] > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
