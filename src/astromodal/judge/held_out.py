"""Which objects of a catalogue are judged and which calibrations are fitted on; training objects are neither.

Splits of a catalogue say what an object was to the model: what it never saw counts as test
(:mod:`~astromodal.ask.seen`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from ..ask.catalogue import OF_MODEL
from ..config.schema import CalibrateOn
from ..data.splits import SPLIT_NAMES, TEST, TRAIN, VAL
from ..errors import DataError
from ..files.ids import hash_ids
from ..machine.random import keyed_uniform
from ..provenance.manifest import fingerprint_arrays, fingerprint_config
from .predicted import PredictionCatalogue

REQUEST = "evaluate.judge.calibrate_on=judged fits on half of those that are judged"
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
    fitted_on: Part | None  # what ``fitting`` is; None: nothing
    why: str = ""  # nothing is fitted
    of_training: bool = False  # fitted on validation objects of the model's own run

    @property
    def shown(self) -> np.ndarray:
        """Judged rows that no calibration is fitted on."""
        return self.judged & ~self.fitting

    @classmethod
    def of(cls, catalogue: PredictionCatalogue, seed: int, on: CalibrateOn = CalibrateOn.validation) -> Self:
        """The test split, or validation where there is no test.

        Calibrations are fitted on validation objects; where these are the judged ones themselves, on one half of them.
        On request (``on``) they are fitted on one half of the judged objects, whatever these are.
        Objects that a correction was fitted on which this catalogue already has are not judged.

        Raises:
            DataError: there is no other object than training objects, and those that a correction was fitted on.
        """
        test, val = SPLIT_NAMES[TEST], SPLIT_NAMES[VAL]
        there = [name for name in (test, val, UNKNOWN) if Part(name).rows(catalogue).any()]
        if not there:
            raise DataError(
                "held-out objects in the catalogue",
                got=f"{len(catalogue)} training objects",
                where=catalogue.path,
                repair="evaluate.splits=[val,test]",
            )
        fitted_on, why = _fitting(catalogue, there, seed, on)
        judged = Part(there[0]).rows(catalogue)
        fitting = np.zeros(len(catalogue), bool) if fitted_on is None else fitted_on.rows(catalogue)
        before = [applied["fitted_on"] for applied in catalogue.applied.values()]
        for part in {Part(of["split"], of["half"]) for of in before if _same_objects(of, catalogue)}:
            judged = judged & ~part.rows(catalogue)
        if not judged.any():
            raise DataError(
                "held-out objects that the applied calibration was not fitted on",
                got="none",
                where=catalogue.path,
                repair="evaluate.splits=[test], or evaluate.judge=null",
            )
        of_training = on == CalibrateOn.validation and fitted_on is not None
        return cls(there[0], judged, fitting & ~judged if catalogue.applied else fitting, fitted_on, why, of_training)

    def record(self, catalogue: PredictionCatalogue) -> dict[str, Any]:
        """What calibrations are fitted on, as an entry of one says it; its fingerprint is that of data and objects.

        Raises:
            DataError: nothing is.
        """
        if self.fitted_on is None:
            raise DataError("objects that calibrations are fitted on", got="none", where=self.why)
        ids = {"ids": np.sort(hash_ids(catalogue.ids[self.fitting]))}
        found = asdict(self.fitted_on) | {"objects": int(self.fitting.sum()), "data": catalogue.data}
        return found | {"fingerprint": fingerprint_config(found | {"ids": fingerprint_arrays(ids)})}


def _fitting(catalogue: PredictionCatalogue, there: list[str], seed: int, on: CalibrateOn) -> tuple[Part | None, str]:
    """What calibrations are fitted on, or None and why on nothing."""
    test, val = SPLIT_NAMES[TEST], SPLIT_NAMES[VAL]
    if on == CalibrateOn.judged:
        return Part(there[0], half=seed), ""
    if catalogue.splits_of not in (None, OF_MODEL):  # None: a catalogue of another program, whose word is taken
        return None, f"which objects the model was validated on is not known; {REQUEST}"
    if val not in there:
        return None, f"none of these objects is one of the model's validation; {REQUEST}"
    return (Part(val) if test in there else Part(val, half=seed)), ""


def _same_objects(fitted_on: Mapping[str, Any], catalogue: PredictionCatalogue) -> bool:
    """Whether the objects that a correction was fitted on may stand in this catalogue, under the same splits."""
    if fitted_on["split"] == SPLIT_NAMES[VAL] or not fitted_on.get("data") or not catalogue.data:
        return True
    (kind, fitted), (own_kind, own) = fitted_on["data"].split(" "), catalogue.data.split(" ")
    return kind != own_kind or fitted == own  # token files and datacubes cannot be compared: maybe
