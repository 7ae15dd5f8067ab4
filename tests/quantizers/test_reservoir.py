"""A fixed-size sample of a stream."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.quantizers import Reservoir


def sample(values, capacity, batch, seed=0):
    reservoir = Reservoir(capacity, 1, seed)
    for start in range(0, len(values), batch):
        reservoir.add(values[start : start + batch, None])
    return reservoir


def test_everything_is_kept_in_order_while_it_fits():
    values = np.arange(100, dtype=np.float32)
    assert np.array_equal(sample(values, 100, 7).rows[:, 0], values)


@pytest.mark.parametrize("batch", [1, 10, 333, 5000])
def test_the_sample_does_not_depend_on_the_batches_and_equals_the_loop(batch):
    values = np.arange(5000, dtype=np.float32)
    slots, rng = list(values[:50]), np.random.default_rng(0)
    for t in range(50, 5000):
        slot = int(rng.random() * (t + 1))
        if slot < 50:
            slots[slot] = values[t]
    reservoir = sample(values, 50, batch)
    assert reservoir.rows[:, 0].tolist() == slots and reservoir.n_seen == 5000


def test_every_row_has_the_same_chance():
    values = np.arange(200, dtype=np.float32)
    hits = np.zeros(200)
    for seed in range(2000):
        hits[sample(values, 20, 64, seed).rows[:, 0].astype(int)] += 1
    assert np.abs(hits - 200).max() < 5 * np.sqrt(200 * 0.9)


def test_memory_is_bounded_by_the_capacity():
    reservoir = Reservoir(1000, 3, 0)
    for _ in range(50):
        reservoir.add(np.zeros((999, 3), np.float32))
    assert reservoir._rows.shape == (1000, 3) and reservoir.n_seen == 49_950
