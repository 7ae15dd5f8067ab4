"""A catalogue in parts: the same table as one file, gone on with after a failure, and read by everything that reads."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from astromodal.ask import catalogue as cat
from astromodal.ask.parts import answered, forget_others, made_from, of_all_parts, part_paths, write_parts
from astromodal.ask.prediction import write_predictions
from astromodal.errors import ArtifactError
from astromodal.judge.predicted import PredictionCatalogue
from astromodal.probe.similarity import nearest_in_file
from tests.ask import hand_built as hand
from tests.ask.test_prediction import predictor

FIELDS = ("A", "B")
INPUTS = {"A": "1", "B": "2"}


def fields(*names):
    for name in names or FIELDS:
        whole = hand.field()
        yield replace(whole, field=name, ids=np.array([f"{name}{i}" for i in whole.ids]))


def test_parts_are_the_file_and_are_read_as_one(tmp_path):
    asked = predictor(tmp_path, posterior=True, embeddings=["mean"])
    one, parts = tmp_path / "one", tmp_path / "parts"
    summary = write_predictions(asked, fields(), one)
    wanted = made_from(asked, INPUTS, None)
    write_parts(asked, fields(), parts, wanted)
    asked.save_bins(parts)
    for name in (cat.CATALOGUE, cat.EMBEDDINGS):
        assert pq.read_table(parts / name).equals(pq.read_table(one / name))  # as others open it
    whole, meaning = cat.read_catalogue(one)
    table, of_parts = cat.read_catalogue(parts)
    assert table.equals(whole) and of_parts == meaning
    assert cat.read_catalogue(parts / cat.CATALOGUE, ["id"])[0].num_columns == 1
    for path in (parts, parts / cat.CATALOGUE):
        read = PredictionCatalogue(path)
        assert read.ids.tolist() == whole["id"].to_pylist() and "z" in read.bins
    query = [read.ids[1]]
    for name in ("ids", "cosines"):
        np.testing.assert_array_equal(
            getattr(nearest_in_file(parts, query, 3), name), getattr(nearest_in_file(one, query, 3), name)
        )
    counted = of_all_parts(answered(parts, wanted))
    assert {k: counted[k] for k in ("objects", "flags")} == {k: summary[k] for k in ("objects", "flags")}


def test_a_second_attempt_answers_only_what_is_missing_damaged_or_asked_otherwise(tmp_path):
    asked = predictor(tmp_path)
    wanted = made_from(asked, INPUTS, None)

    def breaks():
        yield from fields("A")
        raise ArtifactError("field B", got="none")

    with pytest.raises(ArtifactError):
        write_parts(asked, breaks(), tmp_path, wanted)
    assert set(answered(tmp_path, wanted)) == {"A"}
    before = part_paths(tmp_path, "A")[0].read_bytes()
    write_parts(asked, fields("B"), tmp_path, wanted)
    assert set(answered(tmp_path, wanted)) == {"A", "B"} and part_paths(tmp_path, "A")[0].read_bytes() == before
    assert set(answered(tmp_path, made_from(asked, INPUTS | {"B": "other"}, None))) == {"A"}
    assert not answered(tmp_path, made_from(asked, INPUTS, ["test"]))
    assert not answered(tmp_path, made_from(predictor(tmp_path, seed=1), INPUTS, None))
    part = part_paths(tmp_path, "B")[0]
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    part.write_bytes(damaged)
    assert set(answered(tmp_path, wanted)) == {"A"}
    with pytest.raises(ArtifactError, match=r"field_B\.parquet"):
        cat.read_catalogue(tmp_path)
    forget_others(tmp_path, ["A"])
    assert cat.read_catalogue(tmp_path)[0]["field"].unique().to_pylist() == ["A"]
    assert [p.name for p in (tmp_path / cat.RECORDS).iterdir()] == ["field_A.json"]
    assert json.loads((tmp_path / cat.RECORDS / "field_A.json").read_text())["files"].keys() == {"catalogue"}
