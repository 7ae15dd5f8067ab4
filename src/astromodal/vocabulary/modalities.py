"""The one table of modalities: what a kind of observation is called, who makes tokens of it, where they are kept.

Everything that has something per modality derives it from here: arrays have a row for each modality in the order of
:data:`MODALITIES` (:meth:`Table.index`), terms and metrics are keyed by name, options are named after it
(``loss.weight_<name>``, ``tokenizer.<name>``). Ask the table when you need it; do not keep its length.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ..errors import ConfigError


class Kind(StrEnum):
    """What the entries behind the tokens are."""

    values = "values"  # ordered numbers of one dimension: bin centres, a row of them per column
    vectors = "vectors"  # entries (C, D) of a codebook


@dataclass(frozen=True)
class Modality:
    """One row of the table."""

    name: str
    kind: Kind
    tokenizer: str  # "module:Class", imported when it is used
    section: str  # of the survey: data.<section>; its options are in tokenizer.<name>
    folder: str  # of its artifacts, in <store>/tokenizers
    plot: str  # "module:function", which draws (report, path) of the fitted tokenizer and returns the path, or None
    short: str  # in the statistics: loss_<short>
    place: int = 100  # among the modalities of a sequence, and in fitting: what is quick first
    has_errors: bool = False  # tokens may come with the standard errors of their targets
    on_device: bool = True  # its tokenizer also takes the section hardware
    outside: bool = False  # set by Table.add: its tokens are kept and packed as a group of spectra is

    def tokenizer_class(self) -> Any:
        """The class of its tokenizer."""
        return imported(self.tokenizer)

    def in_survey(self, data: Any) -> bool:
        """Whether the survey of a section ``data`` has it."""
        return bool(getattr(data, self.section))


def imported(place: str) -> Any:
    """What ``module:name`` names.

    >>> imported("math:floor")(2.5)
    2
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class Table(Mapping[str, Modality]):
    """Names and rows, in the order of the vocabulary's blocks and of every array with a row per modality."""

    def __init__(self, *rows: Modality) -> None:
        self._rows = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> Modality:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def index(self, name: str) -> int:
        """Row of a modality in arrays; the specials' row, where there is one, is ``len(MODALITIES)``."""
        return list(self._rows).index(name)

    def at(self, index: int) -> Modality:
        """The modality with this row in arrays."""
        return list(self._rows.values())[index]

    def in_sequence(self) -> tuple[str, ...]:
        """Names in the order in which sequences have them by default, and in which tokenizers are fitted.

        >>> MODALITIES.in_sequence()[:3]
        ('scalar', 'spectrum', 'image')
        """
        return tuple(sorted(self._rows, key=lambda name: self._rows[name].place))

    def outside(self) -> tuple[str, ...]:
        """Names of the modalities that were added."""
        return tuple(name for name, row in self._rows.items() if row.outside)

    def add(self, row: Modality) -> None:
        """Register a modality, behind those that are there: their rows in arrays stay.

        Raises:
            ConfigError: another modality has its name, its section or its folder; or it is one of ordered values, of
                which there is one, with a row of bins per column.
        """
        row = replace(row, outside=True)
        if self._rows.get(row.name) == row:
            return
        if row.kind is not Kind.vectors:
            raise ConfigError("a modality of vectors", got=row.kind, where=row.name, repair="use data.scalars")
        for name, other in self._rows.items():
            for what in ("name", "section", "folder", "short"):
                if getattr(other, what) == getattr(row, what):
                    raise ConfigError(f"a modality whose {what} no other has", got=getattr(row, what), where=name)
        self._rows[row.name] = row


_PLOTS = "astromodal.plots.tokenizers"
#: The one table: everything that exists per modality is derived from it.
MODALITIES = Table(
    Modality(
        "image",
        Kind.vectors,
        "astromodal.tokenizers.image.tokenizer:ImageTokenizer",
        "images",
        "codecs",
        f"{_PLOTS}:plot_image_report",
        "img",
        place=2,
        has_errors=True,
    ),
    Modality(
        "scalar",
        Kind.values,
        "astromodal.tokenizers.scalar:ScalarTokenizer",
        "scalars",
        "scalar_tokenizers",
        f"{_PLOTS}:plot_scalar_report",
        "sca",
        place=0,
        has_errors=True,
        on_device=False,
    ),
    Modality(
        "spectrum",
        Kind.vectors,
        "astromodal.tokenizers.spectrum.tokenizer:SpectrumTokenizer",
        "spectra",
        "spectrum_tokenizers",
        f"{_PLOTS}:plot_spectrum_report",
        "spec",
        place=1,
        has_errors=True,
    ),
)
