"""What every quantizer does, whichever it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from astromodal.config.schema import FSQConfig, KMeansConfig, ResidualKMeansConfig
from astromodal.errors import ArtifactError, ConfigError, DataError
from astromodal.files.io import load_joblib, save_joblib
from astromodal.metrics import bits_per_symbol
from astromodal.quantizers import (
    FSQ,
    KMeans,
    QuantileBinner,
    Quantizer,
    ResidualKMeans,
    build_quantizer,
    quantizer_from_state,
    quantizer_report,
)

N_CODES, N_ROWS = 32, 4000


class Case(NamedTuple):
    """How to make one quantizer, and what it promises."""

    make: callable
    n_dims: int
    sizes: tuple[int, ...] = (N_CODES,)
    learned: bool = True  # entries are means of training rows; without, the codes are fixed
    idempotent: bool = True  # an entry is its own nearest entry; a sum of entries of several stages need not be


CASES = {
    "quantile": Case(lambda seed=0: QuantileBinner(N_CODES, 1), 1),
    "kmeans-1d": Case(lambda seed=0: KMeans(KMeansConfig(n_codes=N_CODES), seed), 1),
    "kmeans-2d": Case(lambda seed=0: KMeans(KMeansConfig(n_codes=N_CODES), seed), 2),
    "kmeans-16d": Case(lambda seed=0: KMeans(KMeansConfig(n_codes=N_CODES), seed), 16),
    "residual-1": Case(lambda seed=0: ResidualKMeans(ResidualKMeansConfig(n_stages=1, n_codes=N_CODES), seed), 2),
    "residual-3": Case(
        lambda seed=0: ResidualKMeans(ResidualKMeansConfig(n_stages=3, n_codes=N_CODES), seed),
        4,
        (N_CODES,) * 3,
        idempotent=False,
    ),
    "fsq": Case(lambda seed=0: FSQ(FSQConfig(levels=[4, 2, 4])), 3, learned=False),
    "fsq-trits": Case(lambda seed=0: FSQ(FSQConfig(levels=[3] * 4)), 4, (81,), learned=False),
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def X(case):
    return np.random.default_rng(3).normal(size=(N_ROWS, case.n_dims)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(case, X):
    return case.make().fit(X)


@pytest.fixture(scope="module")
def codes(fitted, X):
    return fitted.encode(X)


def test_codes_and_entries_have_the_promised_shapes_and_types(case, fitted, X, codes):
    n_stages = len(case.sizes)
    assert isinstance(fitted, Quantizer) and fitted.n_stages == n_stages and fitted.sizes == case.sizes
    assert codes.shape == ((N_ROWS,) if n_stages == 1 else (N_ROWS, n_stages)) and codes.dtype == np.int64
    assert codes.min() >= 0 and (codes.reshape(N_ROWS, -1).max(0) < case.sizes).all()
    decoded = fitted.decode(codes)
    assert decoded.shape == X.shape and decoded.dtype == np.float32
    assert fitted.n_dims == case.n_dims and len(fitted.codebooks) == n_stages
    assert all(book.entries.shape == (n, case.n_dims) for book, n in zip(fitted.codebooks, case.sizes, strict=True))
    assert fitted.encode(X[:0]).shape == codes[:0].shape and fitted.decode(codes[:0]).shape == (0, case.n_dims)


def test_one_codebook_is_offered_only_where_there_is_one(case, fitted):
    if len(case.sizes) == 1:
        assert np.array_equal(fitted.codebook.entries, fitted.codebooks[0].entries) and fitted.n_codes == case.sizes[0]
    else:
        with pytest.raises(ArtifactError, match="one codebook, got residual_kmeans with 3 stages"):
            _ = fitted.codebook


def test_decoding_adds_up_the_entries_of_the_stages(fitted, codes):
    columns = codes.reshape(N_ROWS, -1)
    expected = sum(book.entries[columns[:, s]].astype(np.float64) for s, book in enumerate(fitted.codebooks))
    np.testing.assert_allclose(fitted.decode(codes), expected, atol=1e-6)


def test_decoding_is_closer_than_the_mean(fitted, X, codes):
    assert ((X - fitted.decode(codes)) ** 2).sum() < 0.9 * ((X - X.mean(0)) ** 2).sum()


def test_an_entry_is_the_mean_of_what_it_stands_for(case, fitted, X, codes):
    first, entries = codes.reshape(N_ROWS, -1)[:, 0], fitted.codebooks[0].entries
    if case.learned:  # k-means: of the assignment before the last
        assert np.abs(np.stack([X[first == k].mean(0) for k in range(N_CODES)]) - entries).max() < 0.25
    else:
        assert len(np.unique(entries, axis=0)) == fitted.n_codes


def test_decoding_and_encoding_again_changes_nothing(case, fitted, codes):
    again = fitted.encode(fitted.decode(codes))
    if case.idempotent:
        assert np.array_equal(again, codes)
    else:  # of the first stage: the finer ones add less than half of the way to another entry, nearly always
        assert (again[:, 0] == codes[:, 0]).mean() > 0.8


def test_the_code_of_a_row_does_not_depend_on_the_others(fitted, X, codes):
    order = np.random.default_rng(0).permutation(N_ROWS)
    assert np.array_equal(fitted.encode(X[order]), codes[order])
    assert np.array_equal(np.concatenate([fitted.encode(part) for part in np.array_split(X, 7)]), codes)


def test_encoding_leaves_the_rows_as_they_are(fitted, X):
    copy = X.copy()
    fitted.encode(copy)
    assert np.array_equal(copy, X)


def test_counts_are_the_use_of_each_code_and_sum_to_the_rows(fitted, codes):
    for book, column in zip(fitted.codebooks, codes.reshape(N_ROWS, -1).T, strict=True):
        assert np.array_equal(book.counts, np.bincount(column, minlength=len(book.entries)))
        assert book.counts.sum() == N_ROWS


def test_the_same_seed_gives_the_same_codebooks(case, X):
    one, two = case.make(5).fit(X), case.make(5).fit(X.copy())
    assert all(np.array_equal(a.entries, b.entries) for a, b in zip(one.codebooks, two.codebooks, strict=True))


def test_the_saved_state_gives_the_same_codes(fitted, X, codes, tmp_path):
    save_joblib(tmp_path / "state.joblib", fitted.state())
    again = quantizer_from_state(fitted.name, load_joblib(tmp_path / "state.joblib"))
    assert type(again) is type(fitted) and np.array_equal(again.encode(X), codes)
    assert np.array_equal(again.decode(codes), fitted.decode(codes))
    for a, b in zip(again.codebooks, fitted.codebooks, strict=True):
        assert np.array_equal(a.counts, b.counts)
    assert all(np.array_equal(value, fitted.state()[key]) for key, value in again.state().items())


def test_fewer_distinct_rows_than_codes_are_no_error(case, X):
    rows = X[:5][np.arange(1000) % 5]
    quantizer = case.make().fit(rows)
    if case.learned:
        assert quantizer.sizes[0] == 5
        assert np.allclose(quantizer.decode(quantizer.encode(rows)), rows, atol=1e-6)
    else:
        assert quantizer.sizes == case.sizes and np.count_nonzero(quantizer.codebook.counts) <= 5


def test_a_constant_is_one_code(case, X):
    quantizer = case.make().fit(np.repeat(X[:1], 300, axis=0))
    used = quantizer.encode(X)
    assert quantizer.sizes[0] == 1 or not case.learned
    assert len(np.unique(used, axis=0)) == 1
    assert np.allclose(quantizer.decode(used), X[:1], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(case, fitted, X, bad):
    spoiled = X.copy()
    spoiled[7, 0] = bad
    with pytest.raises(DataError, match="NaN or infinity in 1 of 4000 rows"):
        case.make().fit(spoiled)
    with pytest.raises(DataError, match="finite"):
        fitted.encode(spoiled)


def test_rows_of_another_width_are_refused(fitted, X):
    with pytest.raises(DataError, match=rf"\(n, {X.shape[1]}\)"):
        fitted.encode(np.concatenate([X, X], axis=1))


def test_weights_move_the_entries_and_usage_stays_in_rows(case, fitted, X):
    quantizer = case.make().fit(X, np.where(X[:, 0] > 0, 10.0, 1.0))
    first = quantizer.encode(X).reshape(N_ROWS, -1)[:, 0]
    assert np.array_equal(quantizer.codebooks[0].counts, np.bincount(first, minlength=quantizer.sizes[0]))
    heavy, plain = (q.codebooks[0].entries[:, 0].mean() for q in (quantizer, fitted))
    assert heavy > plain + 0.05


def test_the_report_says_what_the_codes_cost_and_lose(case, fitted, X, codes):
    report = quantizer_report(fitted, X)
    columns = codes.reshape(N_ROWS, -1)
    error = ((X - fitted.decode(codes)).astype(np.float64) ** 2).sum(1).mean()
    assert report["distortion"] == pytest.approx(error, rel=1e-4)
    assert report["distortion_fraction"] == pytest.approx(error / X.var(0).sum(), rel=1e-3)
    assert report["bits"] == pytest.approx(sum(bits_per_symbol(np.bincount(column)) for column in columns.T))
    assert report["codes_used"] == sum(len(np.unique(column)) for column in columns.T) <= report["n_codes"]
    assert 1 <= report["perplexity"] <= max(case.sizes) and 0 <= report["clipped_share"] < 0.35
    stages = report.get("stages", [])
    assert len(stages) == (len(case.sizes) if len(case.sizes) > 1 else 0)
    falls = [stage["distortion"] for stage in stages]
    assert falls == sorted(falls, reverse=True) and (not falls or falls[-1] == report["distortion"])


def test_no_rows_are_refused(case, X):
    with pytest.raises(DataError, match="at least one"):
        case.make().fit(X[:0])


def test_an_unfitted_quantizer_says_so(case, X):
    for call in (lambda q: q.encode(X), lambda q: q.state(), lambda q: q.codebooks, lambda q: q.codebook):
        with pytest.raises(ArtifactError, match="fitted"):
            call(case.make())


def test_codes_outside_of_the_codebook_are_refused(case, fitted):
    for bad in (-1, case.sizes[-1]):
        codes = np.zeros((2, len(case.sizes)), np.int64)
        codes[1, -1] = bad
        with pytest.raises(DataError, match=rf"codes in 0 … {case.sizes[-1] - 1}"):
            fitted.decode(codes[:, 0] if len(case.sizes) == 1 else codes)
    with pytest.raises(DataError, match="shape"):
        fitted.decode(np.zeros((2, len(case.sizes) + 1), np.int64))


def test_a_state_with_missing_arrays_is_refused(case, fitted):
    with pytest.raises(ArtifactError):
        quantizer_from_state(fitted.name, {"counts": np.ones(3)})
    state = fitted.state()
    for key in state:
        with pytest.raises(ArtifactError):
            quantizer_from_state(fitted.name, {k: v for k, v in state.items() if k != key})


def test_an_unknown_quantizer_is_named():
    with pytest.raises(ConfigError, match=r"kmeans, residual_kmeans, fsq, got vq"):
        build_quantizer({"name": "vq"})
    with pytest.raises(ConfigError, match="n_kodes"):
        build_quantizer({"name": "kmeans", "n_kodes": 3})
    with pytest.raises(ArtifactError, match=r"kmeans, residual_kmeans, fsq, quantile, got vq"):
        quantizer_from_state("vq", {})


def test_a_configuration_as_it_is_saved_builds_the_same_quantizer():
    for config in (KMeansConfig(), ResidualKMeansConfig(n_stages=2), FSQConfig(levels=[3, 3])):
        assert build_quantizer(vars(config)).config == config
