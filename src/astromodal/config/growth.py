"""Sections of the schema that get keys at run time, from a modality that the program did not come with."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Optional

from ..vocabulary.modalities import MODALITIES, Modality
from .ranges import ranged
from .schema.data import DataConfig
from .schema.loss import LossConfig, LossFormConfig
from .schema.model import VocabConfig
from .schema.tokenizer import TokenizerConfig

_MADE = ("__init__", "__repr__", "__eq__", "__match_args__")  # by the decorator, which does not make them twice


def grow(section: type, **keys: tuple[Any, Any]) -> None:
    """Give a dataclass more fields, behind its own: name → type and default. Whoever has the class has the new one.

    >>> @dataclass
    ... class Section:
    ...     a: int = 1
    >>> grow(Section, b=(list, field(default_factory=list)))
    >>> Section(b=[2]), Section().b
    (Section(a=1, b=[2]), [])
    """
    for known in fields(section):
        setattr(section, known.name, known)
    for name, (kind, default) in keys.items():
        section.__annotations__[name] = kind
        setattr(section, name, default)
    for name in _MADE:
        if name in vars(section):
            delattr(section, name)
    dataclass(section)


def add_modality(row: Modality, tokenizer: type, section: type, weight: float = 0.1) -> None:
    """Register a modality: its row, and its keys of the configuration.

    Args:
        row: of :data:`~astromodal.vocabulary.modalities.MODALITIES`; its kind is ``vectors``.
        tokenizer: dataclass behind ``tokenizer.<name>``: what the tokenizer is made with.
        section: dataclass behind ``data.<section>``; its ``columns()`` says which columns of a datacube are read: name
            → ``list`` or ``number``.
        weight: default of ``loss.weight_<name>``.

    Raises:
        ConfigError: another modality has its name, section, folder or short name.
    """
    if row.name in MODALITIES.outside():
        MODALITIES.add(row)  # refused, unless it is the same
        return
    MODALITIES.add(row)
    name = row.name
    grow(TokenizerConfig, **{name: (Optional[tokenizer], None)})
    grow(DataConfig, **{row.section: (Optional[section], None)})
    grow(VocabConfig, **{name: (Optional[int], None)})
    terms = {f"weight_{name}": (float, ranged(weight, least=0)), f"share_{name}": (Optional[float], None)}
    grow(LossConfig, **terms, **{name: (LossFormConfig, field(default_factory=LossFormConfig))})
