"""What every quantizer does, whichever it is."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.config.schema import KMeansConfig
from astromodal.errors import ArtifactError, ConfigError, DataError
from astromodal.quantizers import KMeans, QuantileBinner, Quantizer, build_quantizer

N_CODES = 32
CASES = {
    "quantile": (lambda seed=0: QuantileBinner(N_CODES, 1), 1),
    "kmeans-1d": (lambda seed=0: KMeans(KMeansConfig(n_codes=N_CODES), seed), 1),
    "kmeans-2d": (lambda seed=0: KMeans(KMeansConfig(n_codes=N_CODES), seed), 2),
    "kmeans-16d": (lambda seed=0: KMeans(KMeansConfig(n_codes=N_CODES), seed), 16),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request):
    make, n_dims = CASES[request.param]
    return make, np.random.default_rng(3).normal(size=(4000, n_dims)).astype(np.float32)


def test_codes_and_entries_have_the_promised_shapes_and_types(case):
    make, X = case
    quantizer = make().fit(X)
    codes = quantizer.encode(X)
    assert isinstance(quantizer, Quantizer) and codes.shape == (len(X),) and codes.dtype == np.int64
    assert quantizer.n_codes == N_CODES and codes.min() >= 0 and codes.max() < N_CODES
    assert quantizer.decode(codes).shape == X.shape and quantizer.decode(codes).dtype == np.float32


def test_decoding_is_closer_than_the_mean(case):
    make, X = case
    quantizer = make().fit(X)
    error = ((X - quantizer.decode(quantizer.encode(X))) ** 2).sum()
    assert error < 0.9 * ((X - X.mean(0)) ** 2).sum()


def test_an_entry_is_the_mean_of_what_it_stands_for(case):
    make, X = case
    quantizer = make().fit(X)
    codes = quantizer.encode(X)
    means = np.stack([X[codes == k].mean(0) for k in range(N_CODES)])
    assert np.abs(means - quantizer.codebook.entries).max() < 0.2  # k-means: of the assignment before the last


def test_counts_are_the_use_of_each_code_and_sum_to_the_rows(case):
    make, X = case
    quantizer = make().fit(X)
    assert np.array_equal(quantizer.codebook.counts, np.bincount(quantizer.encode(X), minlength=N_CODES))
    assert quantizer.codebook.counts.sum() == len(X)


def test_the_same_seed_gives_the_same_codebook(case):
    make, X = case
    one, two = make(5).fit(X), make(5).fit(X.copy())
    assert np.array_equal(one.codebook.entries, two.codebook.entries)


def test_the_saved_state_gives_the_same_codes(case):
    make, X = case
    quantizer = make().fit(X)
    again = type(quantizer).from_state({k: v.copy() for k, v in quantizer.state().items()})
    assert np.array_equal(again.encode(X), quantizer.encode(X))
    assert np.array_equal(again.codebook.counts, quantizer.codebook.counts)


def test_fewer_distinct_values_give_fewer_codes_without_error(case):
    make, X = case
    levels = X[:5][np.arange(1000) % 5]
    quantizer = make().fit(levels)
    assert quantizer.n_codes == 5
    assert np.allclose(quantizer.decode(quantizer.encode(levels)), levels, atol=1e-6)


def test_a_constant_is_one_code(case):
    make, X = case
    quantizer = make().fit(np.repeat(X[:1], 300, axis=0))
    assert quantizer.n_codes == 1 and np.allclose(quantizer.codebook.entries, X[:1])
    assert (quantizer.encode(X) == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(case, bad):
    make, X = case
    spoiled = X.copy()
    spoiled[7, 0] = bad
    with pytest.raises(DataError, match="NaN or infinity in 1 of 4000 rows"):
        make().fit(spoiled)
    with pytest.raises(DataError, match="finite"):
        make().fit(X).encode(spoiled)


def test_weights_move_the_entries_and_usage_stays_in_rows(case):
    make, X = case
    weights = np.where(X[:, 0] > 0, 10.0, 1.0)
    quantizer = make().fit(X, weights)
    usage = np.bincount(quantizer.encode(X), minlength=quantizer.n_codes)
    assert np.array_equal(quantizer.codebook.counts, usage)
    assert (quantizer.codebook.entries[:, 0] > 0).sum() > (make().fit(X).codebook.entries[:, 0] > 0).sum()


def test_no_rows_are_refused(case):
    make, X = case
    with pytest.raises(DataError, match="at least one"):
        make().fit(X[:0])


def test_an_unfitted_quantizer_says_so(case):
    make, X = case
    for call in (lambda q: q.encode(X), lambda q: q.state(), lambda q: q.codebook):
        with pytest.raises(ArtifactError, match="fitted"):
            call(make())


def test_codes_outside_of_the_codebook_are_refused(case):
    make, X = case
    with pytest.raises(DataError, match=r"codes in 0 … 31"):
        make().fit(X).decode(np.array([0, 32]))


def test_a_state_with_missing_arrays_is_refused(case):
    make, _ = case
    with pytest.raises(ArtifactError):
        type(make()).from_state({"counts": np.ones(3)})


def test_an_unknown_quantizer_is_named():
    with pytest.raises(ConfigError, match=r"kmeans.*got vq"):
        build_quantizer({"name": "vq"})
    with pytest.raises(ConfigError, match="n_kodes"):
        build_quantizer({"name": "kmeans", "n_kodes": 3})
