"""What plugins add: a modality, or a row of a family (codec, quantizer, optimizer, form of the loss, arrangement of
files), each with its keys and names in the schema. One call in a module that ``plugins=[…]`` names."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Optional

from ..vocabulary.modalities import MODALITIES, Modality
from .families import CODECS, FORMS, OPTIMIZERS, QUANTIZERS, SOURCES
from .ranges import ranged
from .schema.data import DataConfig, Layout
from .schema.loss import LossConfig, LossForm, LossFormConfig
from .schema.model import VocabConfig
from .schema.tokenizer import TokenizerConfig
from .schema.training import OptimizerName

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


def grow_choice(names: type[Enum], name: str) -> None:
    """Give an enumeration of text one more name; once. Whoever has the class has the new one.

    >>> class Colour(str, Enum):
    ...     red = "red"
    >>> grow_choice(Colour, "blue")
    >>> list(Colour), Colour("blue") is Colour["blue"]
    ([<Colour.red: 'red'>, <Colour.blue: 'blue'>], True)
    """
    if name in names.__members__:
        return
    member: Any = str.__new__(names, name)  # type: ignore[type-var]  # as EnumType makes its own
    member._name_, member._value_, member.__objclass__ = name, name, names
    member._sort_order_ = len(names)
    names._member_names_.append(name)
    names._member_map_[name] = member
    names._value2member_map_[name] = member
    type.__setattr__(names, name, member)


def add_codec(name: str, place: str, section: type, dims: tuple[int, ...]) -> None:
    """Register a codec: ``tokenizer/<modality>/codec=<name>``.

    Args:
        place: ``module:Class`` of a :class:`~astromodal.codecs.base.Codec`, imported when it is used.
        section: dataclass of its options, with ``name`` and ``training``.
        dims: dimensions of its arrays beside the channels: 1 for spectra, 2 for cutouts.
    """
    CODECS.add(name, place, section, dims=dims)


def add_quantizer(name: str, place: str, section: type) -> None:
    """Register a quantizer of vectors: ``tokenizer/<modality>/quantizer=<name>``; ``place`` is ``module:Class``."""
    QUANTIZERS.add(name, place, section)


def add_optimizer(name: str, place: str) -> None:
    """Register an optimizer: ``optimizer.name=<name>``.

    Args:
        place: ``module:function`` of ``(model, config, muon_precision)``.
    """
    OPTIMIZERS.add(name, place)
    grow_choice(OptimizerName, name)


def add_form(name: str, place: str, slope: str, *, ordered: bool = False) -> None:
    """Register a form of the reconstruction loss: ``loss.<modality>.form=<name>``.

    Args:
        place: ``module:function``, readable, of ``(logits, codes, entries, options)``, as in ``loss/forms.py``.
        slope: ``module:function`` of ``(p, rows)`` to the values ``(R,)`` and dS/dp ``(R, C)``, as in
            ``loss/fused/forms.py``.
        ordered: it needs entries in an order, and is for scalars only.
    """
    FORMS.add(name, place, slope=slope, ordered=ordered, wide=False)
    grow_choice(LossForm, name)


def add_source(name: str, place: str) -> None:
    """Register an arrangement of files: ``data.layout=<name>``; with ``auto`` it is tried, too.

    Args:
        place: ``module:function`` of ``data.root`` to :class:`~astromodal.data.sources.layouts.Found`, or None.
    """
    SOURCES.add(name, place)
    grow_choice(Layout, name)
