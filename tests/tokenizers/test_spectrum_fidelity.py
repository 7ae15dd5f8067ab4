"""What decoded spectra have kept, of spectra whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.data.synthetic import sed, spectra
from astromodal.data.synthetic.population import draw_field
from astromodal.tokenizers.spectrum import fidelity


@pytest.fixture(scope="module")
def galaxies():
    """Arms of bright galaxies whose decoded spectra are the truth, and their redshifts."""
    p = draw_field(3, 0, 600)
    bright = np.flatnonzero((p["kind"] == sed.GALAXY) & (p["mag_r"] < 20.5))[:40]
    p, rng = {name: values[bright] for name, values in p.items()}, np.random.default_rng(0)
    arms = {}
    for arm in spectra.ARMS:
        truth, (flux, ivar) = spectra.noiseless_arm(arm, p), spectra.observe_arm(rng, arm, p)
        arms[arm] = fidelity.Arm(spectra.arm_wave(arm), flux, ivar, truth, truth)
    return arms, p["redshift"]


def decoded(arms, change):
    """The same arms, decoded to something else."""
    return {name: fidelity.Arm(a.wave, a.flux, a.ivar, change(a), a.truth) for name, a in arms.items()}


def test_the_truth_is_without_error_and_at_the_noise_of_the_data(galaxies):
    arms, redshift = galaxies
    everything = fidelity.pixel_errors(arms)[-1]
    assert everything["chi2_pooled"] == pytest.approx(1, abs=0.02) and everything["error_over_noise"] == 0
    for row in fidelity.lines_kept(arms, redshift, sed.NEBULAR):
        assert row["kept"] == pytest.approx(1) and row["scatter"] < 1e-6 and row["place_scatter"] < 1e-6
        assert row["scatter_of_data"] < 0.4
    assert fidelity.colours_kept(arms)["scatter"] < 1e-9


def test_the_data_is_as_far_from_the_truth_as_its_noise(galaxies):
    arms, redshift = galaxies
    same = decoded(arms, lambda a: a.flux)
    everything = fidelity.pixel_errors(same)[-1]
    assert everything["chi2_pooled"] == 0 and everything["error_over_noise"] == pytest.approx(1, abs=0.02)
    for row in fidelity.lines_kept(same, redshift, sed.NEBULAR):
        assert abs(row["flux_bias"]) < 0.4 and 0.6 < row["flux_scatter"] < 1.5


def test_lost_lines_and_wrong_colours_show(galaxies):
    arms, redshift = galaxies
    halved = decoded(arms, lambda a: 0.5 * a.truth)
    assert all(row["kept"] == pytest.approx(0.5) for row in fidelity.lines_kept(halved, redshift, sed.NEBULAR))
    assert fidelity.colours_kept(halved)["bias"] == pytest.approx(0, abs=1e-9)
    redder = decoded(arms, lambda a: a.truth * (2.0 if a.wave[0] > 7000 else 1.0))
    assert fidelity.colours_kept(redder)["bias"] == pytest.approx(2.5 * np.log10(2))


def test_redshifts_are_found_in_the_data_and_in_what_keeps_it_but_not_in_a_flat_spectrum(galaxies):
    arms, redshift = galaxies
    found = fidelity.galaxy_redshifts_kept(arms, redshift)
    assert found["n_from_data"] >= 0.9 * found["n"] and found["n_from_decoded"] >= found["n_from_data"]
    assert found["scatter_decoded"] < 60
    flat = fidelity.galaxy_redshifts_kept(decoded(arms, lambda a: np.ones_like(a.truth)), redshift)
    assert flat["n_from_decoded"] <= 2


def test_redshifts_agree_or_do_not_without_a_true_one(galaxies):
    arms, _ = galaxies
    observed = {name: fidelity.Arm(a.wave, a.flux, a.ivar, a.truth) for name, a in arms.items()}
    kept = fidelity.redshifts_agreeing(observed, 0.8)["galaxy"]
    assert kept["n"] >= 30 and kept["n_agree"] == kept["n"] and abs(kept["bias"]) < 20 and kept["scatter"] < 60
    step = 10  # pixels: 300 to 660 km/s
    moved = {n: fidelity.Arm(a.wave, a.flux, a.ivar, np.roll(a.decoded, step, axis=1)) for n, a in observed.items()}
    assert fidelity.redshifts_agreeing(moved, 0.8)["galaxy"]["n_agree"] < 0.1 * kept["n"]


def test_without_a_truth_the_data_have_the_colour(galaxies):
    arms, _ = galaxies
    observed = {name: fidelity.Arm(a.wave, a.flux, a.ivar, 2 * a.flux) for name, a in arms.items()}
    found = fidelity.colours_kept(observed)
    assert found["n"] > 10 and abs(found["bias"]) < 1e-9
    hidden = {name: fidelity.Arm(a.wave, a.flux, 0 * a.ivar, a.flux) for name, a in arms.items()}
    assert fidelity.colours_kept(hidden)["n"] == 0
