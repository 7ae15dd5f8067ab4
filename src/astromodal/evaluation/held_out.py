"""Which objects of a catalogue are judged and which calibrations are fitted on; training objects are neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..core.ids import hash_ids
from ..core.random import keyed_uniform
from ..data.splits import SPLIT_NAMES, TEST, TRAIN, VAL
from ..errors import DataError
from .predicted import PredictionCatalogue

UNKNOWN = "unknown split"
_HALF_KEY = 0xCA11


@dataclass(frozen=True)
class Part:
    """A split of a catalogue, or the half of it that a seed chooses by the ids."""

    split: str  # a name of ``SPLIT_NAMES``, or ``UNKNOWN``: whatever is no training object
    half: int | None = None  # the seed; None: all of it

    def rows(self, catalogue: PredictionCatalogue) -> np.ndarray:
        """Its rows ``(n,)`` bool."""
        split = catalogue.split
        rows = split != TRAIN if self.split == UNKNOWN else split == SPLIT_NAMES.index(self.split)
        if self.half is not None:
            rows = rows & (keyed_uniform(self.half, _HALF_KEY, hash_ids(catalogue.ids), 0) < 0.5)
        return rows


@dataclass(frozen=True)
class HeldOut:
    """Rows of a catalogue of n objects, ``(n,)`` bool each."""

    split: str  # of the judged ones
    judged: np.ndarray
    fitting: np.ndarray  # that calibrations are fitted on
    fitted_on: Part  # what ``fitting`` is

    @property
    def shown(self) -> np.ndarray:
        """Judged rows that no calibration is fitted on."""
        return self.judged & ~self.fitting

    @classmethod
    def of(cls, catalogue: PredictionCatalogue, seed: int) -> Self:
        """The test split, or validation where there is no test.

        Calibrations are fitted on validation objects; where these are the judged ones themselves, on one half of them.
        Objects that a correction was fitted on which this catalogue already has are not judged.

        Raises:
            DataError: there is no other object than training objects, and those that a correction was fitted on.
        """
        test, val = SPLIT_NAMES[TEST], SPLIT_NAMES[VAL]
        there = [name for name in (test, val, UNKNOWN) if Part(name).rows(catalogue).any()]
        if not there:
            raise DataError("held-out objects in the catalogue", got=f"{len(catalogue)} training objects",
                            where=catalogue.path, repair="evaluate.splits=[val,test]")  # fmt: skip
        fitted_on = Part(val) if there[:2] == [test, val] else Part(there[0], half=seed)
        judged, fitting = Part(there[0]).rows(catalogue), fitted_on.rows(catalogue)
        before = (applied["fitted_on"] for applied in catalogue.applied.values())
        for part in {Part(of["split"], of["half"]) for of in before}:  # mostly one for all columns
            judged = judged & ~part.rows(catalogue)
        if not judged.any():
            raise DataError("held-out objects that the applied calibration was not fitted on", got="none",
                            where=catalogue.path, repair="evaluate.splits=[test], or evaluate.judge=null")  # fmt: skip
        return cls(there[0], judged, fitting & ~judged if catalogue.applied else fitting, fitted_on)
