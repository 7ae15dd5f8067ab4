"""A command line, before Hydra reads it: what is certainly wrong is refused at once, text is kept as text.

Composing a configuration takes Hydra longer than its import; a misspelt key is found in the schema in no time.
Only what is certain is refused here. The rest (what files say, what does not go together) is Hydra's, and
:func:`~astromodal.config.checks.validate.validate`'s.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import is_dataclass
from enum import EnumMeta
from pathlib import Path
from typing import Any, get_origin

from ...errors import ConfigError
from ..checks.bounds import check_value
from ..checks.first_sight import check_together
from ..reading.conf_files import conf_dir, group_names, options_of
from ..reading.key_names import all_keys, nearest, unknown_key, unknown_option
from ..reading.key_types import is_optional, type_at
from ..reading.text_values import split, text_stays_text
from ..schema import STAGE_GROUPS, Config

_WITH_VALUE = (
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
    "--package",
    "-p",
    "--cfg",
    "-c",
    "--experimental-rerun",
)  # of Hydra's flags
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
MAY_BE_NONE = ("recipe", "hparams", "experiment", "local", "tokenizer/spectrum/codec")  # groups: base.yaml says null
_LITERAL = re.compile(r"[\w.+-]+")
_TRUTH = ("true", "false", "yes", "no", "y", "n", "on", "off")


def checked(arguments: Sequence[str], stage: str) -> list[str]:
    """``arguments`` of a script as Hydra should get them.

    Raises:
        ConfigError: an override without key, an unknown key, option or group, a value of the wrong type or out of its
            range, a section that this stage does not read.
    """
    flags, overrides = _apart(arguments)
    folders = _folders(flags, overrides)
    groups = group_names(folders or [conf_dir()])
    for override in overrides:
        _check(override, groups, folders)
    check_stage(overrides, stage)
    check_preset(overrides, stage, "-m" in flags, flags)
    check_together(stage, flags, overrides)
    return [*flags, *(text_stays_text(o, groups) for o in overrides)]


def check_stage(overrides: Sequence[str], stage: str) -> None:
    """Refuse overrides of groups that exist but that this stage does not read: they would change nothing."""
    allowed = STAGE_GROUPS[stage]
    for override in overrides:
        group = override.lstrip("+~").split("=")[0].split("@")[0].replace("/", ".").split(".")[0]
        if group in Config.__dataclass_fields__ and group not in allowed:
            readable = ", ".join(k for k in allowed if k not in ("stage", "run_id", "run_dir"))
            raise ConfigError(
                f"keys that {stage}.py reads ({readable})",
                got=override,
                where="command line",
                repair=f"drop it, or give it to the stage that uses '{group}'",
            )


def check_preset(overrides: Sequence[str], stage: str, swept: bool, flags: Sequence[str] = ()) -> None:
    """Refuse a preset of swept values without a sweep: Hydra would run one job and say nothing."""
    if "--cfg" in flags or "-c" in flags:  # runs nothing
        return
    if not swept and any(o.startswith("hparams=") and o not in ("hparams=", "hparams=null") for o in overrides):
        raise ConfigError(
            "-m with hparams=…",
            got="a single run",
            where="command line",
            repair=shlex.join(["python", f"{stage}.py", "-m", *flags, *overrides]),
        )


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--info", "-i") or (argument in _INFO and flags and flags[-1] in ("--info", "-i")):
            flags.append(argument)
        elif argument in _WITH_VALUE:
            flags += [argument, *([value] if (value := next(rest, None)) is not None else [])]
        else:
            (flags if argument.startswith("-") else overrides).append(argument)
    return flags, overrides


def _folders(flags: Sequence[str], overrides: Sequence[str]) -> list[Path] | None:
    """Folders that options come from; None where it takes Hydra to tell."""
    found = [conf_dir()]
    for flag, value in zip(flags, [*flags[1:], ""], strict=False):
        name, _, given = flag.partition("=")
        if name in ("--config-path", "-cp", "--config-name", "-cn"):
            return None
        if name in ("--config-dir", "-cd"):
            found.append(Path(given or value))
    return None if any("hydra.searchpath" in o for o in overrides) else found


def _check(override: str, groups: frozenset[str], folders: list[Path] | None) -> None:
    found = re.fullmatch(r"(\+{1,2}|~|)([^=]*)(=?)(.*)", override, re.DOTALL)
    mark, key, equals, value = found.groups() if found else ("", override, "", "")
    if not key or (not equals and mark != "~"):
        known = nearest(key, all_keys()) if key else None
        raise ConfigError("KEY=VALUE", got=override, where="command line", repair=known or "drop it")
    if "@" in key or key.split("/")[0].split(".")[0] == "hydra":
        return
    if key in groups:
        _check_group(key, mark, value, groups, folders)
    elif folders is not None:
        _check_key(key, mark, value if equals else None)


def _check_group(group: str, mark: str, value: str, groups: frozenset[str], folders: list[Path] | None) -> None:
    option = value.strip().strip("'\"")
    if option.lower() in ("null", "") and group not in MAY_BE_NONE and mark in ("", "~"):
        raise no_option(group, folders)
    if folders is None or mark == "~" or option.lower() in ("null", "") or not option.isascii():
        return
    for name in split(value, ",") or []:
        name = name.strip()
        options = options_of(group, folders)
        if _LITERAL.fullmatch(name) and name.removesuffix(".yaml") not in options and f"{group}/{name}" not in groups:
            raise unknown_option(name, options, group)


def no_option(group: str, folders: Sequence[Path] | None = None) -> ConfigError:
    """``model=null``: the options that there are."""
    options = options_of(group, folders or [conf_dir()])
    return ConfigError(
        f"one of {', '.join(options)}", got="null", where=f"group {group}", repair=f"{group}=<option>, or drop it"
    )


def _check_key(key: str, mark: str, value: str | None) -> None:
    """A key of the schema, and values that it can have."""
    hint = type_at(key.replace("/", "."))
    if hint is None:
        raise unknown_key(key, "key" if mark.startswith("+") else "key or group")
    if value is None or hint is Any or isinstance(hint, tuple) or "/" in key:
        return
    for part in split(value, ",") or []:
        _check_literal(key, hint, part.strip())


def _check_literal(key: str, hint: Any, literal: str) -> None:
    quoted = len(literal) > 1 and literal[0] == literal[-1] and literal[0] in "'\""
    text = literal[1:-1] if quoted else literal
    if not quoted and text.lower() == "null":
        if not is_optional(key):
            raise ConfigError("a value", got="null", where=key, repair=f"{key} cannot be switched off with null")
    elif _LITERAL.fullmatch(text) and text.isascii():
        check_value(key, convert(key, hint, text))


def convert(key: str, hint: Any, text: str) -> Any:
    """What OmegaConf makes of ``text``; None where it is not for here to say.

    Raises:
        ConfigError: it makes nothing of it.
    """
    if isinstance(hint, EnumMeta):
        names = list(hint.__members__)
        if text not in names and "." not in text and not text.isdigit():
            raise ConfigError(f"one of {', '.join(names)}", got=text, where=key, repair=nearest(text, names))
    elif get_origin(hint) is list:
        raise ConfigError("a list", got=text, where=key, repair=f"'{key}=[{text}]'")
    elif hint is bool and text.lower() not in _TRUTH and not re.fullmatch(r"[+-]?\d+", text):
        raise _wrong_type(key, "Boolean", text)
    elif hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise _wrong_type(key, "Integer" if hint is int else "Float", text) from None
    elif is_dataclass(hint) or get_origin(hint) is dict:
        raise ConfigError("a section, of which single keys are set", got=text, where=key, repair=f"{key}.KEY=VALUE")
    return None


def _wrong_type(key: str, kind: str, text: str) -> ConfigError:
    return ConfigError(f"a value of type {kind}", got=repr(text), where=key, repair=f"{key}=<{kind.lower()}>")
