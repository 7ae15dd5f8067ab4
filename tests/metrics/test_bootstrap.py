"""The paired bootstrap against pairs whose true difference is known."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.errors import DataError
from astromodal.metrics import bootstrap
from astromodal.metrics.bootstrap import bootstrap_figures, paired_bootstrap


def pairs(rng: np.random.Generator, n: int, difference: float = 0.3, own: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Values that share most of their scatter; a - b has the mean ``difference`` and the deviation ``own``."""
    shared = rng.normal(0, 5.0, n)
    return shared + difference + rng.normal(0, own, n), shared


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    rng, inside, n_trials = np.random.default_rng(0), 0, 400
    for trial in range(n_trials):
        _, low, high, *_ = paired_bootstrap(*pairs(rng, 80), 400, trial)
        inside += low <= 0.3 <= high
    assert abs(inside / n_trials - 0.95) < 0.035  # three deviations of the binomial


def test_the_width_is_that_of_the_central_limit_theorem():
    a, b = pairs(np.random.default_rng(1), 900)
    result = paired_bootstrap(a, b, 4000)
    assert result.difference == pytest.approx((a - b).mean())
    assert result.high - result.low == pytest.approx(2 * 1.96 * (a - b).std() / 30, rel=0.05)


def test_pairing_is_narrower_than_two_separate_resamples():
    rng = np.random.default_rng(2)
    a, b = pairs(rng, 300)
    paired, shuffled = paired_bootstrap(a, b, 1000), paired_bootstrap(a, rng.permutation(b), 1000)
    assert paired.difference == pytest.approx(shuffled.difference)
    assert 4 * (paired.high - paired.low) < shuffled.high - shuffled.low
    assert paired.excludes_zero and not shuffled.excludes_zero


def test_identical_inputs_differ_by_nothing():
    a = np.random.default_rng(3).normal(size=50)
    result = paired_bootstrap(a, a.copy(), 200)
    assert result[:3] == (0.0, 0.0, 0.0) and not result.excludes_zero


def test_objects_without_a_value_are_dropped_and_counted():
    a, b = pairs(np.random.default_rng(4), 60)
    gone_a, gone_b = a.copy(), b.copy()
    gone_a[[3, 10]], gone_b[[10, 20]] = np.nan, np.inf
    result = paired_bootstrap(gone_a, gone_b, 300, seed=5)
    kept = np.delete(np.arange(60), [3, 10, 20])
    assert (result.n_objects, result.n_dropped) == (57, 3)
    assert result[:3] == paired_bootstrap(a[kept], b[kept], 300, seed=5)[:3]


def test_the_seed_fixes_the_interval_whatever_the_chunks(monkeypatch):
    a, b = pairs(np.random.default_rng(6), 70)
    whole = paired_bootstrap(a, b, 500, seed=7)
    assert paired_bootstrap(a, b, 500, seed=8)[1:3] != whole[1:3]
    monkeypatch.setattr(bootstrap, "_CHUNK_VALUES", 1000)  # 14 resamples at a time
    assert paired_bootstrap(a, b, 500, seed=7) == pytest.approx(whole)


def test_columns_weigh_the_same_however_few_objects_have_them():
    rng = np.random.default_rng(9)
    a = np.stack([rng.normal(1.0, 0.1, 500), rng.normal(3.0, 0.1, 500)], axis=1)
    a[50:, 1] = np.nan
    result = paired_bootstrap(a, np.zeros_like(a), 500)
    assert result.difference == pytest.approx(2.0, abs=0.03)  # 1.18 if every value weighed the same
    assert result.low < 2.0 < result.high and (result.n_objects, result.n_dropped) == (500, 0)
    naive = np.nanmean(a, axis=0).mean()
    assert result.difference == pytest.approx(naive)


def test_several_columns_resample_whole_objects():
    """Two equal columns are one measurement, not two: their mean has the interval of either."""
    a, b = pairs(np.random.default_rng(10), 200)
    one, two = paired_bootstrap(a, b, 1000), paired_bootstrap(np.stack([a, a], 1), np.stack([b, b], 1), 1000)
    assert two[:3] == pytest.approx(one[:3])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(3), np.zeros(4)),
        (np.full(3, np.nan), np.zeros(3)),
        (np.zeros(0), np.zeros(0)),
        (np.array([[0.0, np.nan]]), np.zeros((1, 2))),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b):
    with pytest.raises(DataError):
        paired_bootstrap(a, b, 10)


def test_the_interval_of_any_figure_has_the_width_of_its_theory():
    values = np.random.default_rng(11).normal(3.0, 2.0, 900)
    found = bootstrap_figures(lambda a: {"mean": a.mean(), "median": np.median(a)}, values, n_resamples=1500)
    assert found["mean"].value == values.mean()
    assert found["mean"].high - found["mean"].low == pytest.approx(2 * 1.96 * 2.0 / 30, rel=0.1)
    width = 2 * 1.96 * 2.0 / 30 * np.sqrt(np.pi / 2)  # the median's error is 1.25 times that of the mean
    assert found["median"].high - found["median"].low == pytest.approx(width, rel=0.25)


def test_rows_of_several_arrays_stay_together_and_missing_ones_are_counted():
    x = np.arange(50.0)
    y = np.stack([2 * x, -x], axis=1)
    y[3, 1] = np.nan

    def figures(a, b):
        assert (b[:, 0] == 2 * a).all() and (b[:, 1] == -a).all()
        return {"sum": a.sum(), "never": np.nan}

    found = bootstrap_figures(figures, x, y, n_resamples=20, seed=3)
    assert found["sum"].value == x.sum() - 3 and (found["sum"].n_objects, found["sum"].n_dropped) == (49, 1)
    assert np.isnan(found["never"].low)
    assert found["sum"] == bootstrap_figures(figures, x, y, n_resamples=20, seed=3)["sum"]
    assert found["sum"] != bootstrap_figures(figures, x, y, n_resamples=20, seed=4)["sum"]
    with pytest.raises(DataError):
        bootstrap_figures(figures, x, y[:4])


def test_without_objects_or_resamples_there_is_no_interval():
    found = bootstrap_figures(lambda a: {"mean": a.mean() if len(a) else np.nan}, np.full(4, np.nan))["mean"]
    assert np.isnan(found.value) and np.isnan(found.low) and (found.n_objects, found.n_dropped) == (0, 4)
    assert np.isnan(bootstrap_figures(lambda a: {"mean": a.mean()}, np.ones(3), n_resamples=0)["mean"].low)
