"""Text stays text: on the command line, and in YAML files, what a key of text is given is not read as a number.

Hydra and YAML decide what a value is before they know what it is for: ``name=2026_11_30`` becomes the number 20261130.
Here the schema decides. On the command line such values, and those that Hydra's grammar has no words for (a path with
``=``, brackets or accents), are put into quotes; quotes, sweeps, interpolations and functions keep their meaning, and
``null`` means "off" where a key can be switched off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from .key_types import below, type_at

# Hydra's grammar (hydra/grammar/OverrideLexer.g4): what is no text though it has no quotes
_INT = r"(0|[1-9](_?\d)*)"
_POINT = rf"({_INT}\.|{_INT}?\.\d(_?\d)*)"
_NUMBER = rf"[+-]?({_INT}|{_POINT}|({_INT}|{_POINT})e[+-]?\d(_?\d)*|inf|nan)"
_NO_TEXT = re.compile(rf"{_NUMBER}|true|false", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9_ \t/\-+.$%*@?|:]+")
_OVERRIDE = re.compile(r"(\+{0,2})([^=@{}\[\]'\"]+)=(.*)", re.DOTALL)
_FUNCTION = re.compile(r"([A-Za-z_]\w*)[ \t]*\((.*)\)", re.DOTALL)
_OF_VALUES = ("choice", "extend_list", "shuffle", "sort", "str", "tag")  # functions whose arguments are values
_FUNCTIONS = (*_OF_VALUES, "bool", "float", "glob", "int", "interval", "json_str", "range")
_OPENING, _CLOSING = "([{", ")]}"


def text_stays_text(override: str, groups: frozenset[str] = frozenset()) -> str:
    """``key=value`` with quotes where the schema wants text and Hydra would read something else.

    Args:
        groups: names of groups, whose options are text too.

    >>> text_stays_text("name=2026_11_30"), text_stays_text("data.fields=[1_000,b]"), text_stays_text("seed=1_0")
    ("name='2026_11_30'", "data.fields=['1_000',b]", 'seed=1_0')
    >>> text_stays_text("data.root=/run=1"), text_stays_text("resume=null"), text_stays_text("data.root='a=b'")
    ("data.root='/run=1'", 'resume=null', "data.root='a=b'")
    """
    found = _OVERRIDE.fullmatch(override)
    if found is None:
        return override
    plus, key, value = found.groups()
    return f"{plus}{key}={_swept(value, str if key in groups else type_at(key.replace('/', '.')))}"


def _swept(value: str, hint: Any) -> str:
    """Values of a sweep, separated by commas; or the one value."""
    parts = split(value, ",")
    if parts is None:
        return quoted(value) if hint is str else value
    return ",".join(_value(part, hint) for part in parts)


def _value(value: str, hint: Any) -> str:
    stripped = value.strip()
    function = _FUNCTION.fullmatch(stripped)
    if not stripped or stripped[0] in "'\"" or "${" in stripped or hint is None or hint is Any:
        return value
    if function and function[1] in _FUNCTIONS:
        return _call(stripped, function, hint)
    if hint is str:
        return _text(value)
    for start, end, inside in (("[", "]", _listed), ("{", "}", _entries)):
        if stripped[0] == start and stripped[-1] == end:
            parts = split(stripped[1:-1], ",")
            return value if parts is None else start + ",".join(inside(part, hint) for part in parts) + end
    return value


def _call(value: str, function: re.Match[str], hint: Any) -> str:
    parts = split(function[2], ",") if function[1] in _OF_VALUES else None
    if parts is None:
        return value
    named = re.compile(r"\s*\w+\s*=")
    return f"{function[1]}({','.join(p if named.match(p) else _value(p, hint) for p in parts)})"


def _listed(value: str, hint: Any) -> str:
    return _value(value, get_args(hint)[0]) if get_origin(hint) is list else value


def _entries(pair: str, hint: Any) -> str:
    parts = split(pair, ":")
    if parts is None or len(parts) < 2:
        return pair
    value = pair[len(parts[0]) + 1 :]
    return f"{parts[0]}:{_value(value, below(hint, parts[0].strip()))}"


def _text(value: str) -> str:
    """In quotes, where it would be a number or a truth value, or where Hydra's grammar has no words for it."""
    bare = value.strip()
    if bare.lower() == "null" or (bare[0] in "[{" and bare[-1] in "]}"):  # off; and lists are no text
        return value
    if "\\" in bare and all(c in "\\,()[]{}:= \t" or _PLAIN.fullmatch(c) for c in bare):
        return value  # the escapes of Hydra's grammar
    return value if _PLAIN.fullmatch(bare) and not _NO_TEXT.fullmatch(bare) else quoted(bare)


def quoted(text: str) -> str:
    """A quoted value of Hydra's grammar: backslashes are doubled only before a quote."""
    quote = '"' if "'" in text and '"' not in text else "'"
    escaped = re.sub(rf"(\\*){quote}", lambda m: m[1] * 2 + "\\" + quote, text)
    end = len(escaped) - len(escaped.rstrip("\\"))
    return f"{quote}{escaped}{chr(92) * end}{quote}"


def split(text: str, separator: str) -> list[str] | None:
    """Parts of ``text`` between separators outside of quotes and brackets; None where these do not match.

    >>> split("a,[b,c],'d,e'", ","), split("[a", ",")
    (['a', '[b,c]', "'d,e'"], None)
    """
    parts, open_, start = [], [], 0
    for i, c in _outside_quotes(text):
        if c in _OPENING:
            open_.append(_CLOSING[_OPENING.index(c)])
        elif c in _CLOSING:
            if not open_ or open_.pop() != c:
                return None
        elif c == separator and not open_:
            parts.append(text[start:i])
            start = i + 1
    return None if open_ else [*parts, text[start:]]


def _outside_quotes(text: str) -> Iterator[tuple[int, str]]:
    """Positions and characters that are neither quoted nor escaped. A quote within a word is an ordinary character."""
    quote, skip, before = "", False, ","
    for i, c in enumerate(text):
        if skip:
            skip = False
        elif c == "\\":
            skip = True
        elif quote:
            quote = "" if c == quote else quote
        elif c in "'\"" and (before in ",:=([{"):
            quote = c
        else:
            yield i, c
        before = before if c in " \t" else c


# ------------------------------------------------------------------------------------------------ YAML


def keep_text(node: Any, hint: Any) -> None:
    """Mark the scalars of a YAML node as text where the schema wants text, so that they are built as written.

    Args:
        node: of ``yaml.compose``; its tags are changed in place.
        hint: type of what it describes, as of :func:`key_types.type_at`.
    """
    todo = [(node, hint)]
    seen: set[int] = set()
    while todo:
        node, hint = todo.pop()
        if hint is None or hint is Any or id(node) in seen:
            continue
        seen.add(id(node))  # anchors are visited once
        if node.id == "scalar":
            if hint is str and node.tag.rsplit(":", 1)[-1] in ("int", "float", "bool", "timestamp"):
                node.tag = "tag:yaml.org,2002:str"
        elif node.id == "sequence":
            todo += [(item, get_args(hint)[0]) for item in node.value if get_origin(hint) is list]
        elif get_origin(hint) is dict or isinstance(hint, tuple) or is_dataclass(hint):
            for key, value in node.value:
                keep_text(key, str)
                todo.append((value, below(hint, key.value) if isinstance(key.value, str) else None))
