"""Every value of a nested structure in turn replaced by what a stranger, or a damaged disk, might have put there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

REPLACEMENTS: tuple[Any, ...] = (
    None,
    "a/\x1b[2J",
    -1,
    10**12,
    10**400,
    1.5,
    float("nan"),
    True,
    [],
    {},
    [None],
    {"a": 1},
    "${oc.env:HOME}",
)
MISSING = object()


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values below ``value``, of containers as well."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple, new: Any) -> Any:
    """A copy of ``value`` with the value at ``path`` replaced, or missing."""
    changed = place = copy.deepcopy(value)
    for key in path[:-1]:
        place = place[key]
    if new is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return changed


def mutations(value: Any) -> Iterator[tuple[str, Any]]:
    """Description and changed copy: each value missing, and with each replacement; and one key more."""
    for path in places(value):
        for new in (MISSING, *REPLACEMENTS):
            shown = "missing" if new is MISSING else repr(new)[:30]
            yield f"{'.'.join(map(str, path))}={shown}", replaced(value, path, new)
    for new in REPLACEMENTS:
        yield f"all={repr(new)[:30]}", new
