"""Entropy, perplexity and use of codes."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.metrics import bits_per_symbol, codes_used, perplexity


def test_a_uniform_code_costs_the_logarithm_of_its_size():
    assert bits_per_symbol(np.full(1024, 3)) == pytest.approx(10.0)
    assert perplexity(np.full(1024, 3)) == pytest.approx(1024.0)


def test_entropy_is_that_of_the_definition():
    counts = np.array([1, 2, 5, 0, 8])
    p = counts[counts > 0] / counts.sum()
    assert bits_per_symbol(counts) == pytest.approx(sum(-x * np.log2(x) for x in p))
    assert codes_used(counts) == 4


@pytest.mark.parametrize("counts", [np.zeros(4), np.array([7]), np.array([0, 9, 0])])
def test_one_code_or_none_costs_nothing(counts):
    assert bits_per_symbol(counts) == 0.0
    assert perplexity(counts) == 1.0
