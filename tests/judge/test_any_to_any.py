"""The matrix of several judgements: places, intervals, what was not measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from astromodal.errors import DataError
from astromodal.judge.any_to_any import any_to_any, read_results


def record(crps: float, marginal: float = 2.0) -> dict:
    difference = {
        "model": crps,
        "baseline": marginal,
        "difference": crps - marginal,
        "low": crps - marginal - 0.2,
        "high": crps - marginal + 0.1,
        "n_objects": 50,
    }
    return {
        "figures": {"r2": {"value": 0.5, "low": 0.4, "high": None, "n_objects": 60}},
        "against": {"baselines": {"marginal": {"differences": {"crps": difference}}}},
    }


def test_skill_is_relative_to_the_marginal_with_its_interval():
    matrix = any_to_any(
        {("z", "photometry"): record(1.0), ("z", "spectrum"): record(0.2), ("t", "spectrum"): record(2.5)}
    )
    assert (matrix.asked, matrix.given) == (("z", "t"), ("photometry", "spectrum"))
    assert matrix.values[0].tolist() == pytest.approx([0.5, 0.9]) and matrix.values[1, 1] == pytest.approx(-0.25)
    assert np.isnan(matrix.values[1, 0]) and matrix.n.tolist() == [[50, 50], [0, 50]]
    assert (matrix.low[0, 0], matrix.high[0, 0]) == pytest.approx((0.45, 0.6))
    assert len(matrix.records()) == 3 and matrix.records()[0]["asked"] == "z"


def test_other_figures_and_values_from_elsewhere():
    given = {("z", "a"): record(1.0), ("z", "b"): {"value": 0.7, "low": 0.6, "high": 0.8, "n": 9}, ("z", "c"): {}}
    matrix = any_to_any(given, "r2")
    assert matrix.values[0, :2].tolist() == [0.5, 0.7] and np.isnan(matrix.high[0, 0])
    assert matrix.n.tolist() == [[60, 9, 0]]
    with pytest.raises(DataError, match="figure of"):
        any_to_any(given, "beauty")
    with pytest.raises(DataError):
        any_to_any({})


def test_folders_are_named_by_what_they_say_was_given(tmp_path):
    for name, given in (("a", {"z": ["g", "r"]}), ("b", ["x1", "x2", "x3", "x4"]), ("c", None), ("d", [])):
        (tmp_path / name).mkdir()
        content = {"given": given, "columns": {"z": record(1.0)}}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(content))
    found = read_results([tmp_path / name for name in "abcd"])
    assert [given for _, given in found] == ["g + r", "x1 … x4 (4)", "everything else", "nothing"]
    assert list(read_results({"mine": tmp_path / "a"})) == [("z", "mine")]
