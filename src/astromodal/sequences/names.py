"""Everything that can be given or asked, by name: what names in a configuration stand for.

A name is a modality (``scalar``, ``spectrum``, ``image``), a group of spectra (with all stages of its code; given, with
the column of its scale, without which its flux is not known) or a scalar column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..config.reading.explain import nearest
from ..data.scalars import SCALE_SUFFIX
from ..errors import ConfigError
from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import stages_of
from .layout import Segment, SequenceLayout

Known = dict[str, tuple[Segment, ...]]


def quantities(layout: SequenceLayout) -> Known:
    """Everything that can be given or asked: scalar columns, groups of spectra and the image with their stages.

    >>> from ..core.vocab import build_vocab_spec
    >>> vocab = build_vocab_spec(8, 4, {"xp": 6, "xp.1": 6}, scalar_columns=("r",))
    >>> layout = SequenceLayout(vocab, ("scalar", "spectrum"), ("r",), {"xp": 5, "xp.1": 5}, 0)
    >>> {name: [part.name for part in parts] for name, parts in quantities(layout).items()}
    {'r': ['r'], 'xp': ['xp', 'xp.1']}
    """
    segments = {segment.name: segment for segment in layout.segments}
    groups = stages_of([s.name for s in layout.segments if s.modality in ("spectrum", "image")])
    stages = {name for names in groups.values() for name in names}
    found: Known = {}
    for name, segment in segments.items():
        if name in groups:
            found[name] = tuple(segments[stage] for stage in groups[name])
        elif name not in stages:
            found[name] = (segment,)
    return found


def expand(names: Iterable[str], known: Known, where: str, also: Sequence[str] = ()) -> list[str]:
    """Quantities behind names, each once.

    Args:
        where: key of the configuration, for the error.
        also: what else could have been meant there, for the error.

    Raises:
        ConfigError: with the nearest name.
    """
    found: dict[str, None] = {}
    for name in names:
        if name in MODALITIES and name not in known:
            members = [quantity for quantity, parts in known.items() if parts[0].modality == name]
            if not members:
                have = ", ".join(dict.fromkeys(parts[0].modality for parts in known.values()))
                raise ConfigError(f"modalities that the model knows ({have})", got=name, where=where)
            found |= dict.fromkeys(members)
        elif name in known:
            found[name] = None
        else:
            names_ = [*known, *MODALITIES.in_sequence(), *also]
            raise ConfigError(
                "a modality, group or column that the model knows",
                got=name,
                where=where,
                repair=nearest(str(name), names_) or f"one of {', '.join(names_)}",
            )
    return list(found)


def with_scales(names: Iterable[str], known: Known) -> list[str]:
    """The quantities, and with every group of spectra the column of its scale."""
    names = list(names)
    scales = [name + SCALE_SUFFIX for name in names if known[name][0].modality == "spectrum"]
    return list(dict.fromkeys([*names, *(name for name in scales if name in known)]))


def scale_of(name: str, known: Known) -> Segment | None:
    """The column with the scale of a group of spectra; None for anything else, and for spectra without one."""
    return known.get(name + SCALE_SUFFIX, (None,))[0] if known[name][0].modality == "spectrum" else None


def parts_of(names: Iterable[str], known: Known) -> frozenset[str]:
    """Names of the parts of a sequence that quantities are made of."""
    return frozenset(part.name for name in names for part in known[name])
