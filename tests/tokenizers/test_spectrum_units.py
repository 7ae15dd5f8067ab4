"""Units do not matter: the same spectra in another unit have the same tokens, and answers in that unit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from astromodal.config.schema import (
    DataConfig,
    KMeansConfig,
    SpectrumGroupConfig,
    SpectrumKind,
    SpectrumTokenizerConfig,
)
from astromodal.data.spectra import read_spectra
from astromodal.tokenizers import SpectrumTokenizer
from astromodal.tokenizers.groups import fit_group

N, P = 200, 40
GROUPS = {
    "b": SpectrumGroupConfig(flux="flux", ivar="ivar", wave="wave", wave_min=100.0, wave_max=139.0, wave_step=1.0),
    "xp": SpectrumGroupConfig(kind=SpectrumKind.coefficients, flux="xp", error="error", n_coefficients=10),
}


def tokenized(unit: float) -> dict[str, tuple[np.ndarray, ...]]:
    """Of each group, fitted and encoded in this unit: tokens, sigmas, decoded flux and scale, both over the unit."""
    rng = np.random.default_rng(0)
    sigma = 10 ** rng.uniform(-2, 0, (N, 1)) * np.ones((N, P))
    flux = 1 + 0.3 * np.sin(np.arange(P) / 5 + rng.uniform(0, 6, (N, 1))) + sigma * rng.normal(size=(N, P))
    wave = np.arange(100.0, 140.0) + rng.choice([0.0, 0.3], (N, 1))
    xp = np.exp(-np.arange(10)) * rng.lognormal(0, 1, (N, 1)) * (1 + 0.1 * rng.normal(size=(N, 10)))
    columns = {"flux": flux * unit, "ivar": sigma**-2 / unit / unit, "wave": wave, "xp": xp * unit,
               "error": 0.01 * np.abs(xp) * unit}  # fmt: skip
    batch = pa.record_batch({name: pa.array(list(rows), pa.list_(pa.float64())) for name, rows in columns.items()})
    data = DataConfig(name="t", root="x", spectra=GROUPS)
    settings = SpectrumTokenizerConfig(patch_size=8, patch_sizes={"xp": 5}, quantizer=KMeansConfig(n_codes=32))
    tokenizer, found = SpectrumTokenizer(settings), {}
    for group, config in GROUPS.items():
        read = read_spectra(batch, data, group)
        tokenizer.codecs[group], _ = fit_group([read], group, config, settings, seed=0)
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
