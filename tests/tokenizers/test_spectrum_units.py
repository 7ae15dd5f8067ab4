"""Units do not matter: the same spectra in another unit have the same tokens, and answers in that unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.config.schema import (
    DataConfig,
    KMeansConfig,
    ScalarTokenizerConfig,
    SpectrumGroupConfig,
    SpectrumKind,
    SpectrumTokenizerConfig,
)
from astromodal.data.datacube import Datacube
from astromodal.data.scalars import read_scalars
from astromodal.data.spectra import read_spectra
from astromodal.tokenizers import ScalarTokenizer, SpectrumTokenizer
from astromodal.tokenizers.spectrum.groups import PatchSample, fit_group

N, P = 200, 40
GROUPS = {
    "b": SpectrumGroupConfig(flux="flux", ivar="ivar", wave="wave", wave_min=100.0, wave_max=139.0, wave_step=1.0),
    "xp": SpectrumGroupConfig(kind=SpectrumKind.coefficients, flux="xp", error="error", n_coefficients=10),
}


def survey(unit: float) -> tuple[pa.Table, DataConfig]:
    """Spectra with ivar, half of them off the grid, and coefficients with errors, all in this unit."""
    rng = np.random.default_rng(0)
    sigma = 10 ** rng.uniform(-2, 0, (N, 1)) * np.ones((N, P))
    flux = 1 + 0.3 * np.sin(np.arange(P) / 5 + rng.uniform(0, 6, (N, 1))) + sigma * rng.normal(size=(N, P))
    flux *= rng.lognormal(0, 2, (N, 1))
    wave = np.arange(100.0, 140.0) + rng.choice([0.0, 0.3], (N, 1))
    xp = np.exp(-np.arange(10)) * rng.lognormal(0, 1, (N, 1)) * (1 + 0.1 * rng.normal(size=(N, 10)))
    columns = {
        "flux": flux * unit,
        "ivar": sigma**-2 / unit / unit,
        "wave": wave,
        "xp": xp * unit,
        "error": 0.01 * np.abs(xp) * unit,
    }
    lists = {name: pa.array(list(rows), pa.list_(pa.float64())) for name, rows in columns.items()}
    data = DataConfig(name="t", root="x", ra_column=None, dec_column=None, scalars={}, spectra=GROUPS)
    return pa.table({"id": [f"o{i}" for i in range(N)]} | lists), data


def tokenized(unit: float) -> dict[str, tuple[np.ndarray, ...]]:
    """Of each group, fitted and encoded in this unit: tokens, sigmas, decoded flux and scale, both over the unit."""
    table, data = survey(unit)
    batch = table.combine_chunks().to_batches()[0]
    settings = SpectrumTokenizerConfig(patch_size=8, patch_sizes={"xp": 5}, quantizer=KMeansConfig(n_codes=32))
    tokenizer, found = SpectrumTokenizer(settings), {}
    for group, config in GROUPS.items():
        read = read_spectra(batch, data, group)
        drawn = PatchSample(group, config, settings)
        drawn.add(read, np.arange(len(read.present)), 0)
        tokenizer.codecs[group], _ = fit_group(drawn, config, settings, seed=0)
        tokens, present = tokenizer.encode(group, read)
        assert present.all()
        decoded = tokenizer.decode(group, tokens, read.scale) / unit
        found[group] = tokens, tokenizer.sigma(group, read), decoded, read.scale / unit
    return found


@pytest.fixture(scope="module")
def usual():
    return tokenized(1.0)


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**100])
def test_in_units_that_round_nothing_everything_is_the_same_bit_for_bit(usual, unit):
    for group, found in tokenized(unit).items():
        for one, other in zip(usual[group], found, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_in_other_units_only_roundings_differ(usual, unit):
    for group, (tokens, sigma, decoded, scale) in tokenized(unit).items():
        assert (tokens == usual[group][0]).mean() > 0.99
        np.testing.assert_allclose(sigma.astype(float), usual[group][1].astype(float), rtol=0.02)
        np.testing.assert_allclose(scale, usual[group][3], rtol=1e-12)
        assert np.abs(decoded - usual[group][2]).mean() < 1e-3 * np.abs(decoded).mean()


def scale_tokens(root: Path, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the scales as scalars, and what they decode to over the unit."""
    table, data = survey(unit)
    pq.write_table(table, root / "datacube_A.parquet")
    cube = Datacube(root / "datacube_A.parquet", data)
    tokenizer = ScalarTokenizer(ScalarTokenizerConfig(n_bins=16))
    tokenizer.fit([cube], {"A": np.zeros(N, np.uint8)}, data)
    coded = tokenizer.encode(read_scalars(next(cube.batches(table.column_names[1:], rows=N)), data, tokenizer.configs))
    assert coded.present.all() and coded.tokens.shape == (N, len(GROUPS))
    return coded.tokens, tokenizer.decode(coded.tokens) / unit


@pytest.mark.parametrize("unit", [1e-47, 1e60])
def test_the_scales_are_scalars_in_any_unit(tmp_path, unit):
    tokens, values = scale_tokens(tmp_path, 1.0)
    found, decoded = scale_tokens(tmp_path, unit)
    assert (tokens == found).mean() > 0.99
    np.testing.assert_allclose(decoded[tokens == found], values[tokens == found], rtol=1e-6)
