"""A sample that does not depend on who drew it."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from astromodal.machine.random import keyed_words
from astromodal.quantizers import Sample

VALUES = np.arange(5000, dtype=np.float32)[:, None]


def drawn(capacity: int, rows: np.ndarray, keys: np.ndarray, batch: int = 5000) -> Sample:
    sample = Sample(capacity, 1)
    for start in range(0, len(rows), batch):
        sample.add(rows[start : start + batch], keys[start : start + batch])
    return sample


@pytest.mark.parametrize("capacity", [1, 50, 700, 5000, 9000])
@pytest.mark.parametrize("batch", [1, 333, 5000])
def test_it_is_the_rows_of_the_smallest_keys_by_key(capacity, batch):
    keys = keyed_words(0, np.arange(5000))
    sample = drawn(capacity, VALUES, keys, batch)
    assert np.array_equal(sample.rows, VALUES[np.argsort(keys)][:capacity]) and sample.n_seen == 5000
    assert len(sample._rows) <= max(capacity * 1.5, 8)


def test_samples_of_parts_merge_to_that_of_the_whole_in_any_order():
    keys, rng = keyed_words(1, np.arange(5000)), np.random.default_rng(0)
    whole = drawn(300, VALUES, keys).rows
    for _ in range(5):
        order = rng.permutation(5000)
        cuts = [0, *np.sort(rng.integers(0, 5000, 6)).tolist(), 5000]
        parts = [drawn(300, VALUES[order[a:b]], keys[order[a:b]]) for a, b in itertools.pairwise(cuts)]
        merged = Sample(300, 1)
        for part in parts:
            merged.merge(pickle.loads(pickle.dumps(part)))
        assert np.array_equal(merged.rows, whole) and merged.n_seen == 5000


def test_every_row_has_the_same_chance_whatever_its_id():
    hits = np.zeros(200)
    for seed in range(500):
        hits[drawn(20, VALUES[:200], keyed_words(seed, np.arange(200))).rows[:, 0].astype(int)] += 1
    assert np.abs(hits - 50).max() < 5 * np.sqrt(50 * 0.9)


def test_what_travels_between_processes_is_no_more_than_the_sample():
    sample = drawn(100, VALUES, keyed_words(0, np.arange(5000)), 50)
    assert len(pickle.dumps(sample)) < 100 * 12 + 1000
