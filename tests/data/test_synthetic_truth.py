"""The noise-limited error: an estimator that uses all information reaches it, and nothing else changes it wrongly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astromodal.config.schema import DataConfig, SyntheticConfig
from astromodal.data.synthetic import catalogue, cutouts, noise_limited_error, sed, spectra, true_parameters
from astromodal.data.synthetic.passbands import SPLUS
from astromodal.data.synthetic.population import zero_points
from astromodal.data.synthetic.write import CUT_NAMES, draw_rows, true_cutouts
from astromodal.errors import ConfigError, DataError

# What is assumed to be known beforehand, 1 sigma.
PRIORS = {
    sed.STAR: {"log_temperature": 0.15, "mag_r": 2.0, "log_g": 0.8, "metallicity": 0.5, "a_v": 0.1},
    sed.GALAXY: {"redshift": 0.15, "mag_r": 2.0, "young": 0.3, "a_v": 0.1},
    sed.QUASAR: {"redshift": 1.2, "mag_r": 2.0, "slope": 0.25, "a_v": 0.1},
}
STEPS = {"log_temperature": 3e-4, "redshift": 2e-5}


@pytest.fixture(scope="module")
def data() -> DataConfig:
    return DataConfig(name="synthetic", root="", synthetic=SyntheticConfig(n_fields=2, n_objects_per_field=450))


@pytest.fixture(scope="module")
def few() -> DataConfig:
    return DataConfig(name="synthetic", root="", synthetic=SyntheticConfig(n_fields=1, n_objects_per_field=60))


@pytest.fixture(scope="module")
def from_spectrum(data) -> np.ndarray:
    return noise_limited_error(data, "redshift", field="SYN-0002", given=["spectrum"])


@pytest.fixture(scope="module")
def truth(data) -> dict:
    return true_parameters(data, "SYN-0002")


def photometry(rng, p):
    true = catalogue.photometry(p)["splus"]
    sigma = catalogue.splus_noise(true)
    return true + sigma * rng.standard_normal(true.shape), sigma**-2


def photometry_model(p):
    return catalogue.photometry(p)["splus"]


def spectrum(rng, p):
    parts = [spectra.observe_arm(rng, arm, p) for arm in "brz"]
    return tuple(np.concatenate([part[k] for part in parts], axis=1) for k in range(2))


def spectrum_model(p):
    return np.concatenate([spectra.noiseless_arm(arm, p) for arm in "brz"], axis=1)


def gauss_newton(rng, p, kind, observe, model, iterations=4):
    """Maximum posterior of every object's parameters, from its truth on; ``{name: (n,)}`` of estimate - truth.

    A prior is one more measurement: its centre scatters about the truth by its width.
    """
    names, widths = list(PRIORS[kind]), np.array(list(PRIORS[kind].values()))
    measured, ivar = observe(rng, p)
    n = len(measured)
    believed = widths * rng.standard_normal((n, len(names)))
    offset = np.zeros((n, len(names)))

    def at(values):
        moved = dict(p)
        for k, name in enumerate(names):
            if name == "log_temperature":
                moved["temperature"] = p["temperature"] * 10 ** values[:, k]
            else:
                moved[name] = p[name] + values[:, k]
        return moved

    for _ in range(iterations):
        residual = measured - model(at(offset))
        slopes = []
        for k, name in enumerate(names):
            step = np.zeros_like(offset)
            step[:, k] = STEPS.get(name, 1e-3)
            slopes.append((model(at(offset + step)) - model(at(offset - step))) / (2 * step[:, k, None]))
        jacobian = np.stack(slopes, axis=1)
        weighted = jacobian * ivar[:, None]
        information = weighted @ jacobian.transpose(0, 2, 1) + np.diag(widths**-2)
        gradient = (weighted @ residual[:, :, None])[:, :, 0] + (believed - offset) / widths**2
        offset = offset + np.linalg.solve(information, gradient[:, :, None])[:, :, 0]
    return dict(zip(names, offset.T, strict=True))


def test_the_redshift_from_a_spectrum_is_as_good_as_the_bound(truth, from_spectrum):
    bound = from_spectrum
    pulls = []
    for kind, count in ((sed.GALAXY, 130), (sed.QUASAR, 50)):
        rows = np.flatnonzero((truth["kind"] == kind) & (truth["mag_r"] < 21.6))[:count]
        p = {key: values[rows] for key, values in truth.items()}
        found = gauss_newton(np.random.default_rng(1), p, kind, spectrum, spectrum_model, iterations=2)["redshift"]
        pulls.append(found / bound[rows])
    pulls = np.concatenate(pulls)
    assert len(pulls) > 110
    assert pulls.std() == pytest.approx(1.0, abs=0.15), "neither better than the bound nor far above"


def test_the_temperature_from_magnitudes_is_as_good_as_the_bound(data, truth):
    bound = noise_limited_error(data, "temperature", field=1, given=["photometry"])
    rows = np.flatnonzero((truth["kind"] == sed.STAR) & (truth["mag_r"] < 20))
    p = {key: values[rows] for key, values in truth.items()}
    found = gauss_newton(np.random.default_rng(2), p, sed.STAR, photometry, photometry_model)["log_temperature"]
    pulls = p["temperature"] * np.log(10) * found / bound[rows]
    assert len(pulls) > 130
    robust = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
    assert robust == pytest.approx(1.0, abs=0.15) and pulls.std() == pytest.approx(1.0, abs=0.2)


def test_sizes_of_the_bounds_are_sensible(data, truth, from_spectrum):
    from_magnitudes = noise_limited_error(data, "redshift", field=1)
    galaxy = truth["kind"] == sed.GALAXY
    assert 0.005 < np.median(from_magnitudes[galaxy]) < 0.15, "photometric redshifts"
    assert 1e-6 < np.median(from_spectrum[galaxy]) < 2e-3, "spectroscopic redshifts"
    bright = (truth["kind"] == sed.STAR) & (truth["mag_r"] < 18)
    assert 10 < np.median(noise_limited_error(data, "temperature", field=1)[bright]) < 600


@pytest.mark.parametrize("quantity", ["redshift", "temperature"])
def test_more_observables_never_make_the_bound_larger(few, quantity):
    names = ("photometry", "spectrum", "xp")
    alone = {name: noise_limited_error(few, quantity, given=[name]) for name in names}
    together = noise_limited_error(few, quantity, given=names)
    for name in names:
        two = noise_limited_error(few, quantity, given=["photometry", name])
        defined = np.isfinite(together)
        assert (two[defined] <= alone[name][defined] * (1 + 1e-6)).all()
        assert (two[defined] <= alone["photometry"][defined] * (1 + 1e-6)).all()
        assert (together[defined] <= two[defined] * (1 + 1e-6)).all()
    assert (together[np.isfinite(together)] > 0).all()


def test_naming_an_observable_twice_adds_no_information(few):
    once, twice = (noise_limited_error(few, "redshift", given=["photometry"] * k) for k in (1, 2))
    np.testing.assert_array_equal(once, twice)
    np.testing.assert_array_equal(once, noise_limited_error(few, "redshift", given="photometry"))


def test_it_is_nan_where_the_quantity_does_not_apply(few):
    star = true_parameters(few, 0)["kind"] == sed.STAR
    np.testing.assert_array_equal(np.isnan(noise_limited_error(few, "temperature")), ~star)
    np.testing.assert_array_equal(np.isnan(noise_limited_error(few, "redshift")), star)


def test_wrong_names_are_refused(data):
    with pytest.raises(ConfigError, match="redshift or temperature"):
        noise_limited_error(data, "mass")
    with pytest.raises(ConfigError, match="photometry, spectrum, xp"):
        noise_limited_error(data, "redshift", given=["images"])
    with pytest.raises(ConfigError, match="none"):
        noise_limited_error(data, "redshift", given=[])
    for field in ("SYN-0003", 2, -1):
        with pytest.raises(DataError, match="SYN-0001 to SYN-0002"):
            true_parameters(data, field)


def test_the_true_cutouts_are_the_observed_ones_without_their_noise(few):
    config = dataclasses.replace(few.synthetic, image_fraction=0.5, spectrum_fraction=0.0, xp_fraction=0.0)
    p = true_parameters(dataclasses.replace(few, synthetic=config), 0)
    columns = draw_rows(config, 0, 0, 60, p)
    truth, rows = true_cutouts(config, 0, 0)
    assert 15 < len(rows) < 45
    for k, band in enumerate(SPLUS):
        values, present = columns[f"splus_cut_{CUT_NAMES[band]}"]
        counts = 10 ** (0.4 * (zero_points(config.seed, 0)[band] - 22.5))
        mine = truth[np.isin(rows, np.flatnonzero(present)), k]
        pull = (values.reshape(mine.shape) / counts - mine) / cutouts.pixel_noise(np.repeat(mine[:, None], 12, 1))[:, k]
        pull = pull[np.isfinite(pull)]
        assert np.square(pull).mean() == pytest.approx(1.0, abs=0.03), band
        assert set(np.flatnonzero(present)) <= set(rows)
