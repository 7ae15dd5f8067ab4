"""Values that cannot work together, refused before Hydra is imported.

The sections below are the schema's defaults, the file of one option and the keys of the command line, and nothing
else: they are put together here in a few milliseconds, where Hydra needs twice the time of its own import for the
whole configuration. Whatever else may have a say in them (an experiment, files and folders of the user, sweeps,
interpolations) leaves them to Hydra and to :func:`~astromodal.config.checks.validate.validate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import EnumMeta
from pathlib import Path
from typing import Any, get_args, get_origin

from ..reading.conf_files import conf_dir
from ..reading.key_types import fields_of, is_section, type_at
from ..reading.text_values import split
from .combinations import check_evaluate, check_loss, check_model, check_sequence, check_splits

_CHECKS: dict[str, dict[str, Callable[[Any], None]]] = {
    "build_datacubes": {"data.splits": check_splits},
    "train_tokenizers": {"data.splits": check_splits},
    "encode": {"data.splits": check_splits},
    "train_lm": {"data.splits": check_splits, "model": check_model, "loss": check_loss, "sequence": check_sequence},
    "evaluate": {"data.splits": check_splits, "evaluate": check_evaluate},
}
_ANYWHERE = ("experiment", "hparams", "local", "recipe")  # groups whose files may set any key
_LITERAL = re.compile(r"[\w.+-]+|\[[\w.+,-]*\]", re.ASCII)
_TRUTH = dict.fromkeys(("true", "yes", "y", "on", "1"), True) | dict.fromkeys(("false", "no", "n", "off", "0"), False)


class _LeftToHydra(Exception):
    """It takes Hydra to tell what a section is."""


def check_together(stage: str, flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse what the sections of ``stage`` could not run with.

    Raises:
        ConfigError: as :func:`~astromodal.config.checks.combinations.check_combinations`.
    """
    if flags or (conf_dir() / "local").is_dir():
        return
    for key, check in _CHECKS[stage].items():
        try:
            section = section_of(key, overrides)
        except _LeftToHydra:
            continue
        check(section)


def section_of(key: str, overrides: Sequence[str]) -> Any:
    """The section ``key`` (``model``, ``data.splits``) of a command line's configuration, as its dataclass.

    Raises:
        _LeftToHydra: it depends on more than is read here.
    """
    group = key.split(".")[0]
    options, values = _given(key, overrides)
    base = _read(conf_dir() / "base.yaml")
    chosen = {k: v for entry in base["defaults"] if isinstance(entry, dict) for k, v in entry.items()} | options
    if group in base:
        raise _LeftToHydra
    content: Any = _option(group, chosen[group], chosen) if group in chosen else {}
    for name in key.split(".")[1:]:
        content = content.get(name) or {}
    section = _filled(type_at(key), content)
    for name, text in values.items():
        _set(section, name.split(".")[key.count(".") + 1 :], text)
    return section


def _given(section: str, overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What the command line says of a section: options by the name of their group, values by the name of their key."""
    options: dict[str, str] = {}
    values: dict[str, str] = {}
    path = section.split(".")
    for override in overrides:
        key, _, text = override.partition("=")
        names = re.split(r"[./@]", key.lstrip("+~"))
        if (names[0] in _ANYWHERE and text != "null") or "hydra.searchpath" in key:
            raise _LeftToHydra
        if names[0] != path[0] or ("." in key and names[: len(path)] != path[: len(names)]):
            continue  # of another section
        if key[0] in "+~" or "@" in key or not _LITERAL.fullmatch(text):
            raise _LeftToHydra
        (values if "." in key else options)[key] = text
    return options, values


def _option(group: str, name: str, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Content of the file of an option, with the files that its list of defaults names."""
    own = _read(conf_dir() / group / f"{name}.yaml")
    merged: dict[str, Any] = {}
    for entry in own.pop("defaults", ["_self_"]):
        if entry == "_self_":
            merged = _merged(merged, own)
        elif isinstance(entry, str):
            merged = _merged(merged, _option(group, entry, chosen))
        else:
            ((inner, option),) = entry.items()
            inside = f"{group}/{inner}"
            merged = _merged(merged, {inner: _option(inside, chosen.get(inside, option), chosen)})
    return merged


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        return yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except (OSError, yaml.YAMLError) as error:
        raise _LeftToHydra from error


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(one[k], v) if isinstance(v, dict) and isinstance(one.get(k), dict) else v for k, v in other.items()
    }
    return {**one, **both}


def _filled(kind: Any, content: Mapping[str, Any]) -> Any:
    """A dataclass with the values of a file; keys that it does not have are Hydra's to refuse."""
    known = fields_of(kind)
    return kind(**{name: _value(known[name][0], value) for name, value in content.items() if name in known})


def _value(hint: Any, value: Any) -> Any:
    """A value of a file or of the command line (text) as one of type ``hint``."""
    try:
        if value is None or (isinstance(value, str) and value.lower() == "null"):
            return None
        if is_section(hint):
            return _filled(hint, value)
        if isinstance(hint, EnumMeta):
            return hint[str(value)]
        if get_origin(hint) is list:
            items = split(value[1:-1], ",") or [] if isinstance(value, str) else value
            return [_value(get_args(hint)[0], item) for item in items if item != ""]
        if hint is bool and isinstance(value, str):
            return _TRUTH[value.lower()]
        return hint(value) if hint in (int, float, str) else value
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _LeftToHydra from error


def _set(section: Any, names: Sequence[str], text: str) -> None:
    for name in names[:-1]:
        section = getattr(section, name, None)
    kind: Any = type(section)
    known = fields_of(kind) if is_section(kind) else {}
    if names[-1] not in known:
        raise _LeftToHydra
    setattr(section, names[-1], _value(known[names[-1]][0], text))
