"""Packed sequences of a made-up survey."""

from __future__ import annotations

import pytest

from astromodal.sequences import build_layout, build_sequences
from astromodal.sequences.layout import SequenceLayout
from astromodal.tokens import TokenStore, encode_survey
from tests.tokens.fake_survey import FakeTokenizers, make_survey


def fake_layout() -> SequenceLayout:
    return build_layout(FakeTokenizers(), ["scalar", "spectrum", "image"])


@pytest.fixture(scope="module", params=["absent", "token"])
def packed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    cubes, splits, data = make_survey(folder)
    encode_survey(cubes, FakeTokenizers(), splits, data, folder / "store")
    return build_sequences(TokenStore(folder / "store"), fake_layout(), request.param)
