"""Errors per object are those of validating each object alone, and add up to the figures of the whole split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astromodal.config.schema import Precision
from astromodal.files.io import load_npz
from astromodal.language_model.object_errors import FILE, object_errors, save_object_errors
from astromodal.loss.language_model import LanguageModelObjective
from astromodal.loss.standardize import Codebooks
from astromodal.training.precision import MixedPrecision
from astromodal.training.validation import evaluate
from tests.loss.test_language_model import VOCAB, cut, make, make_batch, make_codebooks

N = 13
PRECISION = MixedPrecision(Precision.auto, torch.device("cpu"))
NAMES = {
    "ce": "n_ce",
    "error_image": "n_image",
    "error_scalar": "n_scalar",
    "error_spectrum": "n_spectrum",
    "crps_scalar": "n_scalar",
}


def test_each_object_has_the_errors_it_has_alone():
    objective, batch = make(), make_batch(N, first_object=500)
    found = object_errors(objective, cut(batch, 5)[::-1], PRECISION)  # in an order of its own
    assert found["object_index"].tolist() == list(range(500, 500 + N)) and found["object_index"].dtype == np.int64
    lacking = 0
    for i, alone in enumerate(cut(batch, 1)):
        expected = {k: (float(a), float(b)) for k, (a, b) in objective.evaluate(alone).items()}
        for name, n in NAMES.items():
            total, count = expected[name]
            assert found[n][i] == count
            assert found[name][i] == pytest.approx(total / count if count else np.nan, rel=1e-9, nan_ok=True), (i, name)
            lacking += count == 0
    assert lacking > 3  # NaN was tested too


def test_weighted_by_their_positions_they_are_the_validation():
    objective, loader = make(), cut(make_batch(N), 4)
    metrics, found = evaluate(objective, loader, PRECISION), object_errors(objective, loader, PRECISION)
    for name, n in NAMES.items():
        assert np.nansum(found[name] * found[n]) / found[n].sum() == pytest.approx(metrics[name], rel=1e-9)


def test_training_goes_on_as_if_nothing_had_been_measured():
    objective = make().train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    object_errors(objective, cut(make_batch(N), 4), PRECISION)
    assert objective.training and torch.equal(torch.rand(3), expected)


def test_what_has_no_codebook_has_no_error_and_twice_is_once():
    books = make_codebooks()
    objective = LanguageModelObjective(make().model, VOCAB, Codebooks(None, books.spectrum, books.scalar))
    loader = cut(make_batch(N), 4)
    found = object_errors(objective, [*loader, loader[0]], PRECISION)
    assert "error_image" not in found and "error_scalar" in found
    assert len(found["object_index"]) == N


def test_the_file_says_the_same(tmp_path):
    arrays = object_errors(make(), cut(make_batch(N), 6), PRECISION)
    save_object_errors(tmp_path, arrays)
    found = load_npz(tmp_path / FILE)
    assert set(found) == set(arrays) and [p.name for p in tmp_path.iterdir()] == [FILE]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
