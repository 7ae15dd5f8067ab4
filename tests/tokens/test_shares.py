"""Processes of a queue that share the fields out among themselves: the same files, and one report by the last."""

from __future__ import annotations

import logging

import pytest

from astromodal.parallel.rank import dealt, is_last
from astromodal.provenance.manifest import read_manifest
from astromodal.tokens import encode_survey
from astromodal.tokens.encode import of_all_shares
from tests.tokens.fake_survey import FakeTokenizers, make_survey


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (3, 1, 0, 2)])
def test_shares_of_any_number_of_processes_make_the_whole(tmp_path, monkeypatch, order):
    cubes, splits, data = make_survey(tmp_path)
    alone = encode_survey(cubes, FakeTokenizers(), splits, data, tmp_path / "alone")
    names, given, told = [cube.field for cube in cubes], [], []
    monkeypatch.setenv("WORLD_SIZE", str(len(order)))
    for rank in order:
        monkeypatch.setenv("RANK", str(rank))
        mine = dealt(cubes, lambda cube: cube.n_rows)
        given += [cube.field for cube in mine]
        encode_survey(mine, FakeTokenizers(), splits, data, tmp_path / "shared", whole=names)
        told.append(is_last(tmp_path / "shared", "run"))
    assert sorted(given) == names and told == [False] * (len(order) - 1) + [True]
    whole = of_all_shares(tmp_path / "shared", names, logging.getLogger())
    assert {k: whole[k] for k in ("rows", "bytes", "found", "warnings")} == {
        k: alone[k] for k in ("rows", "bytes", "found", "warnings")
    }
    prints = [
        {field: entry["fingerprint"] for field, entry in read_manifest(tmp_path / root / "tokens")["entries"].items()}
        for root in ("alone", "shared")
    ]
    assert prints[0] == prints[1] and sorted(prints[0]) == names
    assert not list((tmp_path / "shared").rglob("manifest.d")) and not list((tmp_path / "shared").rglob(".shares"))


def test_the_largest_are_dealt_out_first(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        shares.append(dealt([1, 50, 2, 49, 3, 4], lambda n: n))
    assert shares == [[50, 2, 4], [1, 49, 3]]
