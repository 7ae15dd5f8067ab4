"""Splits that a store keeps: those that were made, as long as the survey is the same and the file is whole."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from astromodal.data import kept_splits
from astromodal.data.datacube import Datacube
from astromodal.data.kept_splits import KeptSplits
from astromodal.data.splits import assign_splits
from astromodal.stages import wiring

from .test_splits import cubes_of, random_sky


@pytest.fixture
def survey(tmp_path, monkeypatch):
    """Two datacubes of 200 objects, old enough to be known by their times, and the splits that are kept of them."""
    monkeypatch.setattr(kept_splits, "KEPT_ROWS", 100)
    monkeypatch.setattr(kept_splits, "is_settled", lambda stamp: True)
    ids, ra, dec = random_sky(200)
    cubes, data = cubes_of(tmp_path, {"A": (ids[:80], ra[:80], dec[:80]), "B": (ids[80:], ra[80:], dec[80:])})
    splits = assign_splits(cubes, data)
    kept = KeptSplits(tmp_path / "store", cubes, data)
    assert kept.read() is None
    kept.write(splits)
    return SimpleNamespace(cubes=cubes, data=data, splits=splits, store=tmp_path / "store")


def found(survey, **changes):
    """What another process finds."""
    data = dataclasses.replace(survey.data, **changes)
    return KeptSplits(survey.store, [Datacube(cube.path, data) for cube in survey.cubes], data).read()


def test_another_process_finds_the_splits_that_were_made(survey):
    again = found(survey)
    assert again.counts.tolist() == survey.splits.counts.tolist() and list(again) == ["A", "B"]
    for field in survey.splits:
        assert np.array_equal(again[field], survey.splits[field]) and again[field].dtype == np.uint8
    assert np.array_equal(pickle.loads(pickle.dumps(again))["B"], survey.splits["B"])


def test_of_another_survey_or_configuration_nothing_is_kept(survey):
    assert found(survey, splits=dataclasses.replace(survey.data.splits, seed=1)) is None
    assert KeptSplits(survey.store, survey.cubes[:1], survey.data).read() is None
    path = survey.cubes[1].path
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # of equal size, and with its old time of modification
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert KeptSplits(survey.store, survey.cubes, survey.data).read() is None


@pytest.mark.parametrize("damage", ["bit", "shorter", "gone", "record"])
def test_what_is_damaged_is_not_taken(survey, damage):
    rows = survey.store / "splits" / ("splits.json" if damage == "record" else "rows.u1")
    content = bytearray(rows.read_bytes())
    content[7] ^= 1
    rows.unlink()
    if damage != "gone":
        rows.write_bytes(content[:-1] if damage == "shorter" else content)
    assert found(survey) is None


def test_files_that_may_still_change_and_small_surveys_keep_nothing(survey, tmp_path, monkeypatch):
    for name, value in (("is_settled", lambda stamp: False), ("KEPT_ROWS", 201)):
        monkeypatch.setattr(kept_splits, name, value)
        KeptSplits(tmp_path / name, survey.cubes, survey.data).write(survey.splits)
        assert not (tmp_path / name).exists()


def test_a_store_that_cannot_be_written_to_costs_only_time(survey, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    KeptSplits(tmp_path / "file", survey.cubes, survey.data).write(survey.splits)
    assert "are not kept" in caplog.text


def test_a_later_stage_reads_no_ids(survey, monkeypatch):
    paths = SimpleNamespace(
        datacube_template=str(Path(survey.data.root) / "datacube_{field}.parquet"), store=survey.store
    )
    data = dataclasses.replace(survey.data)
    config = SimpleNamespace(paths=paths, data=data)
    inputs = {}
    run = SimpleNamespace(log=SimpleNamespace(info=lambda *words: None), add_input=inputs.__setitem__)
    (survey.store / "splits" / "splits.json").unlink()
    cubes, first = wiring.open_survey(config, run)
    monkeypatch.setattr(kept_splits, "SurveyKeys", None)
    monkeypatch.setattr(wiring, "check_unique_ids", None)
    _, again = wiring.open_survey(config, run)
    assert all(np.array_equal(first[cube.field], again[cube.field]) for cube in cubes)
    assert wiring.open_cubes(config, run)[0] and sorted(inputs) == ["datacube_A", "datacube_B"]
