"""Units do not matter: a survey whose numbers are all 1e-30 or 1e30 times as large has the same tokens and errors."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.ask.posterior import ColumnBins
from astromodal.config.schema import DataConfig, ScalarConfig, ScalarTokenizerConfig, Transform
from astromodal.data.datacube import Datacube
from astromodal.data.scalars import read_scalars, scalar_columns
from astromodal.tokenizers.scalar import ScalarTokenizer

N = 1200


def columns(factor):
    """Values and errors of five columns: two times, a luminosity, a flux that may be negative, an error in percent."""
    rng = np.random.default_rng(0)
    values = {
        "jd": 2459000.5 + rng.uniform(0, 1, N),  # float32 has steps of 0.25
        "unix": 1.7e9 + rng.uniform(0, 3600, N),
        "luminosity": 10 ** rng.uniform(42, 46, N),
        "flux": rng.standard_t(2, N) * 1e-17,
    }
    errors = {name: rng.uniform(0.01, 0.1, N) * np.std(x) for name, x in values.items()}
    errors["luminosity"] = 0.1 * values["luminosity"]
    errors["flux"][::50] = 1e-12  # not believed
    values["flux"][1::60], values["flux"][2::60] = -99e-17, 3e-14  # a sentinel, and out of range
    return {name: x * factor for name, x in values.items()} | {f"{name}_e": x * factor for name, x in errors.items()}


def survey(folder, factor):
    folder.mkdir()
    config = {
        "jd": {},
        "unix": {},
        "luminosity": {"transform": Transform.log10, "min": 1e41 * factor},
        "flux": {
            "transform": Transform.asinh,
            "softening": 1e-17 * factor,
            "sentinels": [-99e-17 * factor],
            "max": 1e-14 * factor,
            "max_error": 1e-15 * factor,
        },
    }
    scalars = {name: ScalarConfig(error=f"{name}_e", **options) for name, options in config.items()}
    data = DataConfig(name="x", root=str(folder), ra_column=None, dec_column=None, scalars=scalars)
    table = columns(factor)
    pq.write_table(pa.table({"id": [str(i) for i in range(N)], **table}), folder / "datacube_A.parquet")
    cube = Datacube(folder / "datacube_A.parquet", data)
    tokenizer = ScalarTokenizer(ScalarTokenizerConfig(n_bins=64))
    report = tokenizer.fit([cube], {"A": (np.arange(N) % 4 == 0).astype(np.uint8)}, data)
    tokenizer.save(folder / "bundle")
    tokenizer = ScalarTokenizer.load(folder / "bundle")
    (batch,) = cube.batches(cube.columns, rows=N)
    read = read_scalars(batch, data, scalar_columns(data))
    return table, tokenizer, report, read, tokenizer.encode(read)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return survey(tmp_path_factory.mktemp("plain") / "x", 1.0)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_unit_changes_no_token_no_error_and_no_answer(plain, tmp_path, factor):
    _, tokenizer, report, read, codes = plain
    _, other, its_report, its_read, its_codes = survey(tmp_path / "x", factor)
    assert its_read.reasons == read.reasons and read.reasons["flux"]["sentinel"] == read.reasons["flux"]["out_of_range"]
    for name in ("tokens", "present", "clipped"):
        np.testing.assert_array_equal(getattr(its_codes, name), getattr(codes, name))
    np.testing.assert_allclose(its_codes.sigma, codes.sigma, rtol=2e-3)
    np.testing.assert_allclose(other.decode(codes.tokens), tokenizer.decode(codes.tokens) * factor, rtol=1e-12)
    for name, entry in report["columns"].items():
        theirs = its_report["columns"][name]
        for key in ("mae", "rmse", "median_measurement_error"):
            assert theirs[key] == pytest.approx(entry[key] * factor, rel=1e-6)
        for key in ("rmse_over_std", "mae_over_measurement_error", "perplexity"):
            assert theirs[key] == pytest.approx(entry[key], rel=1e-6)
    bins, its_bins = ColumnBins(tokenizer), ColumnBins(other)
    posterior = np.random.default_rng(1).dirichlet(np.ones(max(tokenizer.n_bins)), 20)
    for j, name in enumerate(tokenizer.columns):
        p = posterior[:, : tokenizer.n_bins[j]] / posterior[:, : tokenizer.n_bins[j]].sum(1, keepdims=True)
        answer = bins.summary(p, j, [0.16, 0.84], read.values[:20, j])
        its_answer = its_bins.summary(p, j, [0.16, 0.84], its_read.values[:20, j])
        for key in ("mean", "median", "std", "quantiles"):
            np.testing.assert_allclose(its_answer[key], answer[key] * factor, rtol=1e-6, err_msg=f"{name} {key}")
        np.testing.assert_allclose(its_answer["pit"], answer["pit"], rtol=1e-6, atol=1e-9)


def test_values_and_errors_are_those_of_the_file_and_so_is_the_reported_error(plain):
    table, tokenizer, report, read, codes = plain
    for j, name in enumerate(("jd", "unix", "luminosity")):
        np.testing.assert_array_equal(codes.values[:, j], table[name])
        np.testing.assert_array_equal(codes.errors[:, j], table[f"{name}_e"])
        assert codes.present[:, j].all()
    assert len(np.unique(codes.tokens[:, 0])) == 64 and np.diff(tokenizer.binners[0].centers_).min() > 0
    held_out = np.arange(N) % 4 == 0
    error = np.abs(tokenizer.decode(codes.tokens) - read.values)[held_out, 0].mean()
    assert report["columns"]["jd"]["mae"] == pytest.approx(error, rel=1e-9) and 1e-3 < error < 1 / 64
    # sigma: the error over the spread of the codebook, which holds a day's width
    expected = table["jd_e"] / tokenizer.codebook.scale[0]
    np.testing.assert_allclose(codes.sigma[:, 0], expected, rtol=2e-3)
    assert tokenizer.codebook.scale[0] == pytest.approx(np.sqrt(1 / 12), rel=0.05)
