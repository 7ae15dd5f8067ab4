"""Fitted state is there or an error, never None."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from astromodal.errors import ArtifactError, ArtifactMissingError
from astromodal.tokenizers.fitted import Fitted, needed


class Stand(SimpleNamespace):
    name = "image"
    first_, second_ = Fitted[int](), Fitted[str]()


def test_fitted_state_is_an_error_before_it_is_set_and_after_it_is_forgotten() -> None:
    stand = Stand()
    with pytest.raises(ArtifactError, match="a fitted image tokenizer"):
        _ = stand.first_
    stand.first_, stand.second_ = 0, ""  # values that count as false are values
    assert (stand.first_, stand.second_) == (0, "")
    del stand.first_, stand.second_
    del stand.first_  # forgetting twice is no error
    with pytest.raises(ArtifactError, match="fit\\(\\) or load\\(\\)"):
        _ = stand.second_
    other = Stand()
    other.first_ = 7
    assert "first_" not in vars(stand) and isinstance(Stand.first_, Fitted)


def test_a_part_that_is_needed_is_itself_or_names_the_command() -> None:
    assert needed(0, "scalar") == 0
    with pytest.raises(ArtifactMissingError, match="tokenizer=scalar"):
        needed(None, "scalar")
