"""What a model has seen: found by id and by place, and never by dividing objects again."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.ask.catalogue import OF_CONFIGURATION, OF_MODEL
from astromodal.ask.seen import SeenObjects, TrainingRun, training_run
from astromodal.config.schema import CalibrateOn
from astromodal.data.splits import TEST, TRAIN, VAL
from astromodal.judge.held_out import HeldOut, Part
from astromodal.tokens.store import FieldTokens


class Cube:
    """Ids and positions of a field."""

    def __init__(self, ids: np.ndarray, positions: np.ndarray) -> None:
        self.ids, self.positions = lambda: ids, lambda: positions


IDS = np.array([f"a{i}" for i in range(6)])
SPLIT = np.array([0, 0, 1, 1, 2, 2], np.uint8)
AT = np.stack([np.linspace(10, 11, 6), np.full(6, -5.0)], axis=1)
ARCSEC = 1 / 3600


@pytest.fixture
def seen() -> SeenObjects:
    return SeenObjects.of([FieldTokens("A", IDS, SPLIT)], [Cube(IDS, AT)])


def test_known_ids_are_what_they_were_and_others_are_held_out(seen):
    split = seen.splits(np.array(["new", "a3", "a0", "a5", "newer"]))
    assert split.tolist() == [TEST, VAL, TRAIN, TEST, TEST]
    assert seen.counts == {"unseen": 2, "train": 1, "val": 1, "test": 1}
    assert "2 objects that the model never saw, 1 that it trained on" in seen.said()


def test_another_id_at_the_same_place_is_the_same_object(seen):
    near, far = AT[1] + [0, 0.8 * ARCSEC], AT[1] + [0, 3 * ARCSEC]
    at = np.stack([near, far, AT[2], [np.nan, np.nan], [359.0, 90.0]])
    assert seen.splits(np.array(list("vwxyz")), at).tolist() == [TRAIN, TEST, VAL, TEST, TEST]


def test_an_equal_id_elsewhere_on_the_sky_is_another_object(seen):
    """Two catalogues that count from 1: without places nobody can tell, with them everybody can."""
    assert seen.splits(IDS).tolist() == SPLIT.tolist()
    assert seen.splits(IDS, AT + np.array([90.0, 0.0])).tolist() == [TEST] * 6
    assert "6 have the id of another object" in seen.said()
    moved = AT.copy()
    moved[0] += [0, 5 * ARCSEC]  # a star moves; an unknown place says nothing against the id
    moved[1] = np.nan
    assert seen.splits(IDS, moved).tolist() == SPLIT.tolist()
    # the id of one object at the place of another: the place decides
    assert seen.splits(np.array(["a4"]), AT[:1]).tolist() == [TRAIN]


def test_weights_without_their_run_say_why(tmp_path):
    run = training_run(tmp_path / "weights.pt")
    assert run.store is None and "run.json beside the weights" in run.why
    assert run.about("the token files") == {"splits": "the token files"}
    assert TrainingRun(None, "gone").about(OF_CONFIGURATION)["splits"] == OF_CONFIGURATION


class Table:
    """What :class:`HeldOut` reads of a catalogue."""

    path = "here"

    def __init__(self, split: list[int], splits_of: str | None, data: str = "datacubes x", applied: dict | None = None):
        self.split, self.splits_of, self.data = np.array(split), splits_of, data
        self.ids = np.array([f"i{k}" for k in range(len(split))])
        self.applied = applied or {}

    def __len__(self) -> int:
        return len(self.split)


def test_calibrations_are_fitted_on_the_models_validation_objects_or_on_request():
    sky = [TEST] * 40
    new = HeldOut.of(Table(sky, OF_MODEL), 0)
    assert new.judged.all() and not new.fitting.any() and new.fitted_on is None and not new.of_training
    assert "calibrate_on=judged" in new.why
    asked = HeldOut.of(Table(sky, OF_MODEL), 0, CalibrateOn.judged)
    assert asked.fitted_on == Part("test", half=0) and 5 < asked.fitting.sum() < 35 and not asked.of_training
    own = HeldOut.of(Table([TRAIN] * 5 + [VAL] * 20 + sky, OF_MODEL), 0)
    assert own.fitted_on == Part("val") and own.fitting.sum() == 20 and own.of_training and own.judged.sum() == 40
    # divided anew, as the training run is not known: its "validation" may have been trained on
    unknown = HeldOut.of(Table([VAL] * 20 + sky, OF_CONFIGURATION), 0)
    assert unknown.fitted_on is None and "not known" in unknown.why


def test_what_was_fitted_on_is_part_of_the_key():
    table = Table([VAL] * 20 + [TEST] * 40, OF_MODEL)
    record = HeldOut.of(table, 0).record(table)
    assert record["split"] == "val" and record["objects"] == 20 and record["data"] == "datacubes x"
    others = [Table([VAL] * 19 + [TEST] * 41, OF_MODEL), Table([VAL] * 20 + [TEST] * 40, OF_MODEL, "datacubes y")]
    prints = {HeldOut.of(t, 0).record(t)["fingerprint"] for t in (table, *others)}
    assert len(prints) == 3
    assert HeldOut.of(table, 7).record(table)["fingerprint"] == record["fingerprint"]


@pytest.mark.parametrize(("data", "left"), [("datacubes x", 20), ("datacubes y", 40), ("tokens x", 20)])
def test_objects_that_a_foreign_calibration_was_fitted_on_are_not_judged(data, left):
    """Half of the test objects of x: the same half of other objects was not fitted on."""
    applied = {"u": {"fitted_on": {"split": "test", "half": 0, "data": "datacubes x"}}}
    found = HeldOut.of(Table([TEST] * 40, OF_MODEL, data, applied), 0)
    assert found.judged.sum() == pytest.approx(left, abs=10 if left == 20 else 0)
