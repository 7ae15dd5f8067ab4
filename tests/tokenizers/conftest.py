"""The survey that the tokenizers of scalars and spectra are fitted on."""

from __future__ import annotations

import pytest

from tests.tokenizers.survey import make_survey


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Data configuration, cubes and splits; each module has its own, which it may change."""
    return make_survey(tmp_path_factory.mktemp("survey"))
