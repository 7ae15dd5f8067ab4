"""Baselines and the physical validation answer in the unit of their column, whatever that is."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from astromodal.ask.catalogue import drawn_fields, make_schema, scalar_fields
from astromodal.judge.baselines.inputs import _unit
from astromodal.judge.baselines.predictors import PREDICTORS
from astromodal.language_model.physical import ColumnErrors, PhysicalValidation
from astromodal.vocabulary.codebook import ScalarCodebook
from astromodal.vocabulary.vocab import build_vocab_spec


@pytest.mark.parametrize("name", ["marginal", "boosting", "neighbours"])
def test_a_baseline_answers_alike_in_every_unit(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    target = x[:, 0] + 0.3 * rng.normal(size=400)
    answers = []
    for factor in (1.0, 1e-30, 1e45):
        few = {"max_iter": 20} if name == "boosting" else {}
        predictor = PREDICTORS[name]([0.5], seed=0, **few).fit(x.astype(np.float32), target * factor)
        answers.append([values / factor for values in predictor.predict(x[:50].astype(np.float32))])
    for mean, quantiles in answers[1:]:
        np.testing.assert_allclose(mean, answers[0][0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(quantiles, answers[0][1], rtol=1e-4, atol=1e-4)
    if name != "marginal":
        assert np.corrcoef(answers[1][0], target[:50])[0, 1] > 0.9


@pytest.mark.parametrize("factor", [1e-45, 1e-30, 1.0, 1e30, 1e45])
def test_features_without_a_unit_keep_values_apart(factor):
    rng = np.random.default_rng(0)
    for values in (2459000.5 + rng.uniform(0, 1, 500), rng.normal(size=500), 10 ** rng.uniform(-4, 4, 500)):
        origin, unit = _unit(values * factor)
        found = ((values * factor - origin) / unit).astype(np.float32)
        assert np.isfinite(found).all() and len(np.unique(found)) >= 499
        assert (np.argsort(found, kind="stable") == np.argsort(values, kind="stable")).mean() > 0.99


def test_the_physical_validation_compares_with_the_file():
    vocab = build_vocab_spec(
        v_image=4, v_scalar=8, v_spectra=4, spectrum_groups=("b",), scalar_columns=("jd",), n_bins=(8,)
    )
    centers = 2459000.5 + np.arange(8.0)[None] / 8
    book = ScalarCodebook(("jd",), centers, np.ones((1, 8)), np.array([8]))
    same = {"jd": lambda x: x}
    validation = PhysicalValidation(vocab, book, same, same)
    logits = torch.full((4, 8), -30.0)
    logits[range(4), [0, 2, 5, 7]] = 30.0
    expected = validation._expectation(logits, torch.zeros(4, dtype=torch.long)).double().numpy()
    errors = ColumnErrors()
    validation._add(errors, 0, centers[0, [0, 2, 5, 7]] + 0.01, expected)
    assert errors.absolute / errors.n == pytest.approx(0.01, rel=1e-4)


def test_numbers_of_the_catalogue_are_double():
    schema = make_schema([*scalar_fields("z", [0.5], None), *drawn_fields("b", 3)], {})
    assert all(schema.field(n).type == pa.float64() for n in ("z", "z_err", "z_mean", "z_q50"))
    assert schema.field("b_mean").type.value_type == pa.float64()
