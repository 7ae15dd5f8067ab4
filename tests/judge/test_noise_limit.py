"""The limit of the synthetic sky: matched to the objects, with the observations that each has."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from astromodal.config.schema import SyntheticConfig
from astromodal.data.synthetic import noise_limited_error
from astromodal.errors import DataError
from astromodal.judge.baselines.inputs import Inputs
from astromodal.judge.noise_limit import limit_figures, noise_limits, observables
from astromodal.tokens.store import FieldTokens, SpectrumPart

N = 12
PHOTOMETRY = tuple(f"mag_pstotal_{k}" for k in range(12))


@pytest.fixture(scope="module")
def sky():
    data = SimpleNamespace(synthetic=SyntheticConfig(n_fields=2, n_objects_per_field=N, seed=3))
    return data


class Store:
    """Two fields in which every second object has an XP spectrum."""

    def fields(self):
        return ["SYN-0001", "SYN-0002"]

    def open(self, field):
        present = np.arange(N) % 2 == 0
        part = SpectrumPart(np.zeros(0), np.zeros(N + 1, np.int64), present, np.zeros(0), 0)
        ids = np.array([f"{field}_{i:07d}" for i in range(N)])
        return FieldTokens(field, ids, np.zeros(N), spectra={"gaiaxp_bp": part, "gaiaxp_rp": part})


def test_observables_are_those_that_are_given():
    assert observables(Inputs(PHOTOMETRY, ("desi_b",), ("gaiaxp",))) == {
        "photometry": (),
        "spectrum": ("desi_b",),
        "xp": ("gaiaxp",),
    }
    assert observables(Inputs(PHOTOMETRY[:11], (), ())) == {}


def test_each_object_gets_the_limit_of_what_it_has(sky):
    rows = np.array([("SYN-0002", 3), ("SYN-0001", 4), ("SYN-0001", 5), ("SYN-0002", 0)], object)
    fields = np.array([f for f, _ in rows])
    ids = np.array([f"{f}_{i:07d}" for f, i in rows])
    inputs = Inputs(PHOTOMETRY, (), ("gaiaxp_bp", "gaiaxp_rp"))
    found = noise_limits(sky, "gaia_teff_gspphot", Store(), inputs, fields, ids)
    for k, (field, i) in enumerate(rows):
        given = ("photometry", "xp") if i % 2 == 0 else ("photometry",)
        alone = noise_limited_error(sky, "temperature", field=field, given=given)[i]
        assert found[k] == pytest.approx(alone, nan_ok=True)
    assert np.isfinite(found).any()
    unknown = noise_limits(sky, "gaia_teff_gspphot", Store(), inputs, fields, np.char.add("x", ids))
    assert np.isnan(unknown).all()


def test_nothing_is_claimed_where_nothing_is_known(sky):
    inputs, none = Inputs(PHOTOMETRY, (), ()), np.array([], str)
    assert noise_limits(SimpleNamespace(synthetic=None), "specz_z", Store(), inputs, none, none) is None
    assert noise_limits(sky, "mag_pstotal_0", Store(), inputs, none, none) is None
    assert noise_limits(sky, "specz_z", Store(), Inputs((), (), ()), none, none) is None


def test_ids_of_another_sky_are_refused(sky):
    class Other(Store):
        def open(self, field):
            return FieldTokens(field, np.array(["star-a"]), np.zeros(1))

    with pytest.raises(DataError, match="star-a"):
        noise_limits(sky, "specz_z", Other(), Inputs(PHOTOMETRY, (), ()), np.array(["SYN-0001"]), np.array(["star-a"]))


def test_figures_of_a_perfect_estimator_are_one():
    rng = np.random.default_rng(0)
    limit = rng.uniform(0.5, 2.0, 20_000)
    error = limit * rng.normal(size=20_000)
    limit[:5], error[5:9] = np.nan, np.nan
    found = limit_figures(error, limit)
    assert found["n"] == 19_991
    assert found["ratio"] == pytest.approx(1.0, abs=0.02) and found["scatter_over_limit"] == pytest.approx(
        1.0, abs=0.03
    )
    assert limit_figures(3 * error, limit)["ratio"] == pytest.approx(3.0, abs=0.06)
    assert limit_figures(error[:5], limit[:5])["n"] == 0
