"""The synthetic sky as physics: magnitudes, cutouts and spectra tell one story, with noise of the size they state."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.data.synthetic import catalogue, cutouts, sed, spectra
from astromodal.data.synthetic.passbands import GAIA, SPLUS, VISTA, WAVE, magnitude, transmission
from astromodal.data.synthetic.population import draw_field, zero_points


def take(p: dict, rows) -> dict:
    return {key: values[rows] for key, values in p.items()}


@pytest.fixture(scope="module")
def sky() -> dict:
    return draw_field(seed=1, field=2, n=3000)


@pytest.fixture(scope="module")
def flux(sky) -> dict:
    return catalogue.photometry(sky)


# --- population


def test_the_population_is_one_that_a_survey_sees(sky, flux):
    star, galaxy, quasar = (sky["kind"] == k for k in range(3))
    assert abs(star.mean() - 0.5) < 0.05 and abs(galaxy.mean() - 0.42) < 0.05 and abs(quasar.mean() - 0.08) < 0.02
    assert np.abs(sky["redshift"][star]).max() < 2e-3
    assert 0.1 < np.median(sky["redshift"][galaxy]) < 0.3 and sky["redshift"][galaxy].max() < 0.8
    assert 1.5 < np.median(sky["redshift"][quasar]) < 3 and sky["redshift"][quasar].max() < 5
    faint, bright = (galaxy & m for m in (sky["mag_r"] > 21, sky["mag_r"] < 19))
    assert np.median(sky["redshift"][faint]) > 1.3 * np.median(sky["redshift"][bright]), "fainter is farther"
    assert np.isnan(sky["temperature"][~star]).all() and np.isfinite(sky["temperature"][star]).all()
    np.testing.assert_allclose(magnitude(flux["splus"][:, 7]), sky["mag_r"], atol=1e-9)


def test_colours_follow_the_physics(sky, flux):
    mag = magnitude(flux["splus"])
    u_r, g_r = mag[:, 0] - mag[:, 7], mag[:, 5] - mag[:, 7]
    star, galaxy, quasar = (sky["kind"] == k for k in range(3))
    hot, sun, cool = (
        star & (sky["temperature"] > a) & (sky["temperature"] < b)
        for a, b in ((8000, 20000), (5500, 6100), (3000, 3600))
    )
    assert np.median(g_r[hot]) < 0.3 < np.median(g_r[sun]) < 0.9 < np.median(g_r[cool])
    assert np.median(u_r[galaxy & (sky["young"] < 0.3)]) > np.median(u_r[galaxy & (sky["young"] > 0.7)]) + 0.8
    low, high = (quasar & (sky["redshift"] < 2), quasar & (sky["redshift"] > 3.2))
    assert np.median(mag[low, 0] - mag[low, 5]) < 0.6, "ultraviolet excess"
    assert np.median(mag[high, 0] - mag[high, 5]) > 2.0, "beyond the Lyman limit the u band is dark"


def test_emission_lines_move_with_redshift_and_quasars_have_broad_ones(sky):
    galaxies = take(sky, np.flatnonzero((sky["kind"] == sed.GALAXY) & (sky["young"] > 0.7) & (sky["redshift"] < 0.4)))
    wave = np.arange(5300.0, 9800.0, 0.5)
    peak = wave[np.argmax(sed.spectrum(wave, galaxies) / np.median(sed.spectrum(wave, galaxies)), axis=1)]
    halpha = 6564.6 * (1 + galaxies["redshift"])
    assert (np.abs(peak - halpha) < 2).mean() > 0.95

    def width(p, centre):  # of the line at half of its height above the continuum
        line = np.arange(centre - 400, centre + 400, 0.5)
        f = sed.spectrum(line, p)[0]
        f = f - np.minimum(f[0], f[-1])
        return (f > f.max() / 2).sum() * 0.5 / centre * 299792.458

    one = take(galaxies, slice(0, 1))
    assert width(one, halpha[0]) < 1500
    quasar = take(sky, np.flatnonzero((sky["kind"] == sed.QUASAR) & (sky["redshift"] > 2.2))[:1])
    assert 4000 < width(quasar, 1549.5 * (1 + quasar["redshift"][0])) < 9000


# --- photometry


@pytest.mark.parametrize("kind", [sed.STAR, sed.GALAXY, sed.QUASAR])
def test_magnitudes_are_the_slow_integral_of_the_spectrum(sky, flux, kind):
    rows = np.flatnonzero(sky["kind"] == kind)[:6]
    # Oracle: photons per unit frequency, summed one by one over a fine grid in frequency.
    for name, bands in (("splus", SPLUS), ("gaia", GAIA), ("vista", VISTA)):
        for k, band in enumerate(bands.values()):
            low, high = max(band.pivot - band.width, 3000.0), band.pivot + band.width
            nu = np.linspace(2.99792458e18 / high, 2.99792458e18 / low, 12001)
            wave = 2.99792458e18 / nu
            f_nu = sed.spectrum(wave, take(sky, rows)) * wave**2 / 2.99792458e18
            response = transmission(band, wave) / nu
            expected = np.trapezoid(f_nu * response, nu, axis=1) / np.trapezoid(response, nu)
            np.testing.assert_allclose(flux[name][rows, k], expected / 3631e-23 * 1e9, rtol=4e-3, err_msg=name)


def test_written_magnitudes_scatter_as_their_errors_say(sky, flux):
    columns = catalogue.splus_columns(np.random.default_rng(0), flux["splus"])
    for k, band in enumerate(SPLUS):
        mag, error = columns[f"mag_pstotal_{band}"], columns[f"err_mag_pstotal_{band}"]
        detected = mag < 98
        assert ((error == 99) == ~detected).all()
        measured = 10 ** (0.4 * (22.5 - mag[detected]))
        sigma = error[detected] * np.log(10) / 2.5 * measured
        untouched = error[detected] < 97
        chi = ((measured - flux["splus"][detected, k]) / sigma)[untouched]
        expected = flux["splus"][detected, k][untouched] / sigma[untouched]
        high = expected > 4  # below, "positive flux only" cuts the distribution
        assert abs(np.square(chi[high]).mean() - 1) < 5 * np.sqrt(2 / high.sum()), band
        share = (~detected).mean()  # of fluxes below 0: the normal integral of the signal-to-noise ratio
        sigma = catalogue.splus_noise(flux["splus"])[:, k]
        draws = flux["splus"][:, k] / sigma + np.random.default_rng(1).standard_normal((200, len(sigma)))
        assert abs(share - (draws < 0).mean()) < 0.01


def test_gaia_and_vista_columns_scatter_as_their_errors_say(sky, flux):
    columns = catalogue.gaia_columns(np.random.default_rng(0), sky, flux["gaia"])
    star = sky["kind"] == sed.STAR
    chi = (columns["gaia_parallax"] - 1e3 / sky["distance"]) / columns["gaia_parallax_error"]
    chi = chi[star & np.isfinite(chi)]
    assert len(chi) > 500 and abs(chi.std() - 1) < 0.1
    assert (columns["gaia_parallax"] < 0).any(), "parallaxes may be negative"
    assert np.isnan(columns["gaia_parallax"]).mean() > 0.2, "faint objects are not in Gaia"
    vista = catalogue.vista_columns(np.random.default_rng(0), flux["vista"], sky["dec"] > 0)
    assert np.isnan(vista["vista_japermag6"][sky["dec"] <= 0]).all()
    seen = vista["vista_japermag6"] > 0
    chi = (vista["vista_japermag6"] + 0.92 - magnitude(flux["vista"][:, 1]))[seen] / vista["vista_japermag6err"][seen]
    assert abs(np.median(np.abs(chi)) / 0.6745 - 1) < 0.1


# --- cutouts


@pytest.fixture(scope="module")
def some(sky):
    compact = (sky["radius"] < 1.5) & (sky["mag_r"] < 20)
    return np.concatenate([np.flatnonzero(compact & (sky["kind"] == k))[:8] for k in range(3)])


def test_a_noiseless_cutout_holds_the_flux(sky, flux, some):
    zero = np.zeros(len(some))
    fwhm = cutouts.seeing(np.random.default_rng(0))
    image = cutouts.render(flux["splus"][some], take(sky, some), fwhm, zero, zero)
    assert image.shape == (len(some), 12, 96, 96)
    np.testing.assert_allclose(image.sum((2, 3)), flux["splus"][some], rtol=0.01)
    brightest = image.reshape(*image.shape[:2], -1).argmax(-1)
    assert (brightest == 48 * 96 + 48).all()
    star = image[np.flatnonzero(take(sky, some)["kind"] == 0)[0], 7]
    half = (star > star.max() / 2).sum()  # pixels inside of half the peak: a circle of the seeing's diameter
    assert abs(2 * np.sqrt(half / np.pi) * 0.55 - fwhm[7]) < 0.35


@pytest.mark.parametrize(("angle", "sersic"), [(0.0, 0.0), (30.0, 0.0), (90.0, 1.0), (-60.0, 0.4)])
def test_second_moments_are_those_of_the_shape_columns(angle, sersic):
    p = {"radius": [1.6], "axis_ratio": [0.4], "angle": [angle], "sersic": [sersic], "kind": [1], "mag_r": [10.0]}
    p = {key: np.array(value, dtype=float) for key, value in p.items()}
    image = cutouts.render(np.full((1, 1), 100.0), p, np.array([1.4]), np.zeros(1), np.zeros(1))[0, 0].astype(float)
    y, x = np.mgrid[:96, :96] - 48.0  # row-major, y up: the first index is y
    xx, yy, xy = ((image * m).sum() / image.sum() for m in (x * x, y * y, x * y))
    values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    theta = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    columns = catalogue.shape_columns(np.random.default_rng(0), p, 1.4)  # r = 10: hardly any noise
    assert np.sqrt(values[1]) == pytest.approx(columns["a_pixel_det"][0], rel=0.08)
    assert np.sqrt(values[0]) == pytest.approx(columns["b_pixel_det"][0], rel=0.08)
    assert abs((theta - columns["theta_det"][0] + 90) % 180 - 90) < 5, "counter-clockwise from +x"
    assert columns["ellipticity_det"][0] == pytest.approx(1 - 1 / columns["elongation_det"][0])


def test_the_radius_holds_half_of_the_light():
    for sersic in (0.0, 1.0):
        p = {"radius": [4.0], "axis_ratio": [1.0], "angle": [0.0], "sersic": [sersic]}
        p = {key: np.array(value) for key, value in p.items()}
        image = cutouts.render(np.full((1, 1), 1.0), p, np.array([0.2]), np.zeros(1), np.zeros(1))[0, 0]
        y, x = np.mgrid[:96, :96] - 48.0
        assert image[np.hypot(x, y) * 0.55 < 4.0].sum() == pytest.approx(0.5, abs=0.02)


def test_stars_are_points_and_galaxies_are_not(sky):
    columns = catalogue.shape_columns(np.random.default_rng(0), sky, 1.4)
    bright = sky["mag_r"] < 19.5
    star, galaxy = bright & (sky["kind"] == 0), bright & (sky["kind"] == 1)
    assert abs(np.median(columns["fwhm_n_det"][star]) - 1) < 0.03 < 0.3 < np.median(columns["fwhm_n_det"][galaxy]) - 1
    assert ((columns["theta_det"] >= -90) & (columns["theta_det"] < 90)).all()
    assert (columns["a_pixel_det"] >= columns["b_pixel_det"]).all()


def test_the_sky_has_its_sigma_and_digitizing_keeps_it(sky, flux):
    rows = np.flatnonzero(sky["mag_r"] > 21.0)[:40]
    fwhm = cutouts.seeing(np.random.default_rng(0))
    image = cutouts.observe(np.random.default_rng(5), flux["splus"][rows], take(sky, rows), fwhm)
    points = np.array(list(zero_points(1, 2).values()))
    counts = image * 10 ** (0.4 * (points - 22.5))[None, :, None, None].astype(np.float32)
    cutouts.digitize(counts, cutouts.sky_sigma() * 10 ** (0.4 * (points - 22.5)))
    back = counts * 10 ** (-0.4 * (points - 22.5))[None, :, None, None]
    for k, sigma in enumerate(cutouts.sky_sigma()):
        for array in (image, back):
            corner = array[:, k, :12, :12]
            corner = corner[np.isfinite(corner)]
            robust = 1.4826 * np.median(np.abs(corner - np.median(corner)))
            assert robust == pytest.approx(sigma, rel=0.05)
        assert np.nanmax(np.abs(back[:, k] - image[:, k])) <= sigma / 16 * 0.51
    depth = 5 * cutouts.sky_sigma() * np.sqrt(25)
    np.testing.assert_allclose(magnitude(depth), [band.depth for band in SPLUS.values()], atol=1e-9)


# --- spectra


def test_spectra_scatter_about_the_truth_as_ivar_says(sky):
    p = take(sky, slice(0, 60))
    for arm, n_pixels in (("b", 2751), ("r", 2326), ("z", 2881)):
        true = spectra.noiseless_arm(arm, p)
        measured, ivar = spectra.observe_arm(np.random.default_rng(2), arm, p)
        assert measured.shape == ivar.shape == (60, n_pixels)
        good = ivar > 0
        chi = ((measured - true) * np.sqrt(ivar))[good]
        assert abs(chi.mean()) < 0.02 and abs(chi.std() - 1) < 0.02 and abs(np.mean(chi**4) - 3) < 0.2
        assert abs((~good).mean() - 0.015) < 0.003
    wave = spectra.arm_wave("b")
    noise = spectra.arm_noise(wave)
    assert wave[0] == 3600.0 and wave[-1] == pytest.approx(5800.0)
    assert 5570 < wave[2200 + np.argmax(noise[2200:])] < 5585, "the oxygen line of the night sky"
    assert noise[0] > 2 * noise[1000], "little light at the blue end"


def test_arms_and_magnitudes_have_one_flux_scale(sky, flux):
    rows = np.flatnonzero((sky["kind"] == 0) & (sky["mag_r"] < 19))[:10]
    wave = np.concatenate([spectra.arm_wave("b")[:2700], spectra.arm_wave("r")])  # up to 5760, then on
    f = (
        np.concatenate(
            [spectra.noiseless_arm("b", take(sky, rows))[:, :2700], spectra.noiseless_arm("r", take(sky, rows))], axis=1
        )
        * 1e-17
    )
    response = transmission(SPLUS["r"], wave)
    f_nu = (f * response * wave).sum(1) / (response * 2.99792458e18 / wave).sum()
    np.testing.assert_allclose(f_nu / 3.631e-29, flux["splus"][rows, 7], rtol=0.01)


def test_xp_spectra_have_the_same_scale_and_their_errors_hold(sky, flux):
    rows = np.flatnonzero((sky["kind"] == 0) & (sky["mag_r"] < 18))[:80]
    p, mag_g = take(sky, rows), spectra.gaia_magnitude(flux["gaia"][rows, 0])
    observed = spectra.observe_xp(np.random.default_rng(3), p, mag_g)
    true = spectra.noiseless_xp(p)
    assert true.shape == (len(rows), 343)
    sharp = sed.spectrum(10 * spectra.XP_WAVE, p) * 1e-2  # W/m2/nm from erg/s/cm2/Angstrom
    assert np.median(np.abs(true / sharp - 1)[:, 20:]) < 0.01, "smeared by the resolution, which blurs lines only"
    chi = (observed["gaiaxp_flux"] - true) / observed["gaiaxp_flux_error"]
    assert abs(chi.std() - 1) < 0.02
    faint, bright = np.argmax(mag_g), np.argmin(mag_g)
    snr = np.abs(true / observed["gaiaxp_flux_error"])[:, 170]
    assert snr[bright] > snr[faint]


def test_xp_coefficients_are_linear_in_flux_and_their_errors_propagate(sky, flux, monkeypatch):
    rows = np.flatnonzero((sky["kind"] == 0) & (sky["mag_r"] < 18))[:3]
    p, mag_g = take(sky, rows), spectra.gaia_magnitude(flux["gaia"][rows, 0])
    many = [spectra.observe_xp(np.random.default_rng(k), p, mag_g) for k in range(400)]
    for name in ("bp", "rp"):
        coefficients = np.array([o[f"gaiaxp_{name}_coefficients"] for o in many])
        stated = many[0][f"gaiaxp_{name}_coefficient_errors"]
        assert coefficients.shape == (400, 3, 55)
        ratio = coefficients.std(0) / stated
        assert abs(ratio.mean() - 1) < 0.03 and ratio.min() > 0.8 and ratio.max() < 1.2
    # linear: the mean of two observations has the mean of their coefficients
    a, b = many[:2]
    basis = np.linalg.lstsq(
        np.concatenate([o["gaiaxp_flux"] for o in many]) * 1e17,
        np.concatenate([o["gaiaxp_bp_coefficients"] for o in many]),
        rcond=None,
    )[0]
    mean = (a["gaiaxp_flux"] + b["gaiaxp_flux"]) / 2 * 1e17 @ basis
    expected = (a["gaiaxp_bp_coefficients"] + b["gaiaxp_bp_coefficients"]) / 2
    np.testing.assert_allclose(mean, expected, atol=1e-6 * np.abs(expected).max())
    assert 1 < np.abs(a["gaiaxp_bp_coefficients"][:, 0]).max() < 1e7


def test_the_model_is_smooth_in_every_parameter(sky):
    quasars = take(sky, np.flatnonzero(sky["kind"] == sed.QUASAR)[:40])
    wave = WAVE[WAVE < 10000]
    for step in (1e-4, 1e-5):
        up, down = (sed.spectrum(wave, quasars | {"redshift": quasars["redshift"] + s}) for s in (step, -step))
        slope = np.abs(up - down).max(1) / (2 * step) / sed.spectrum(wave, quasars).max(1)
        if step == 1e-4:
            coarse = slope
    np.testing.assert_allclose(slope, coarse, rtol=0.02, err_msg="a jump would make the slope grow as 1 / step")
