"""Apertures and moments of Gaussian sources whose flux, shape and place are known, and their errors against noise."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.errors import DataError
from astromodal.metrics import cutouts
from astromodal.metrics.cutouts import Measured, kept, measure, pulls, weight_width

SIZE = 48


def source(n, flux=1000.0, dx=0.3, dy=-0.2, xx=6.0, yy=3.0, xy=1.0):
    """Gaussians of a known flux, centre and covariance (px^2), sampled at the centres of pixels."""
    grid = np.arange(SIZE) - SIZE // 2
    x, y = grid[None, :] - dx, grid[:, None] - dy
    det = xx * yy - xy**2
    one = np.exp(-0.5 * (yy * x**2 - 2 * xy * x * y + xx * y**2) / det) / (2 * np.pi * np.sqrt(det))
    return np.broadcast_to(flux * one, (n, 1, SIZE, SIZE)).copy()


def measured(image, sigma=1.0, width=2.5, valid=None):
    valid = np.ones(image.shape, bool) if valid is None else valid
    return measure(image, np.full(image.shape[:2], sigma), valid, np.full(len(image), width))


def test_a_gaussian_has_the_flux_centre_shape_and_size_that_it_was_made_with():
    xx, yy, xy, width = 6.0, 3.0, 1.0, 2.5
    found = measured(source(1, dx=0.0, dy=0.0), width=width)
    # under a Gaussian weight a Gaussian stays one: inverse covariances add
    inside = np.linalg.inv(np.linalg.inv(np.array([[xx, xy], [xy, yy]])) + np.eye(2) / width**2)
    trace = np.trace(inside)
    expected = (inside[0, 0] - inside[1, 1]) / trace, 2 * inside[0, 1] / trace
    np.testing.assert_allclose(found.ellipticity[0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(found.size, np.sqrt(trace / 2), rtol=1e-6)
    np.testing.assert_allclose(found.position, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.flux[0, 0, 2], 1000.0, rtol=1e-3)  # 10 px hold all of it
    round_one = measured(source(1, dx=0.0, dy=0.0, xx=4.0, yy=4.0, xy=0.0))
    within = 1000 * (1 - np.exp(-0.5 * np.array([3.0, 6.0, 10.0]) ** 2 / 4.0))
    np.testing.assert_allclose(round_one.flux[0, 0], within, rtol=0.02)  # a pixel is flat
    # the centroid under the weight is drawn to the centre by a known share
    off = measured(source(1, dx=0.4, dy=-0.2, xx=4.0, yy=4.0, xy=0.0), width=width)
    np.testing.assert_allclose(off.position[0, 0], np.array([0.4, -0.2]) * width**2 / (width**2 + 4), rtol=1e-6)


def test_errors_are_the_scatter_that_the_noise_of_the_pixels_makes():
    n, sigma = 600, 2.0
    truth = source(n)
    noisy = truth + np.random.default_rng(0).normal(0, sigma, truth.shape)
    clean = measured(truth, sigma)
    found = measured(noisy, sigma)
    for name in ("flux", "position", "ellipticity", "size"):
        scatter = getattr(found, name).std(0)
        np.testing.assert_allclose(scatter, getattr(clean, f"{name}_error")[0], rtol=0.1, err_msg=name)
    pull = pulls(clean, found)
    for name in ("flux", "position", "ellipticity", "size"):
        assert np.square(pull[name]).mean() == pytest.approx(1.0, abs=0.15), name
    np.testing.assert_allclose(clean.flux_error[0, 0], sigma * np.sqrt(np.pi) * np.array([3, 6, 10]), rtol=0.08)


def test_noise_per_pixel_counts_where_it_is():
    image = source(1)
    sigma = np.ones(image.shape)
    plain = measure(image, sigma, np.ones(image.shape, bool), np.array([2.5]))
    sigma[..., SIZE // 2, SIZE // 2] = 10.0
    more = measure(image, sigma, np.ones(image.shape, bool), np.array([2.5]))
    np.testing.assert_allclose(more.flux_error**2 - plain.flux_error**2, 99.0)
    assert (more.ellipticity_error > plain.ellipticity_error).all()


def test_pixels_that_are_not_valid_count_on_neither_side():
    image, valid = source(3), np.ones((3, 1, SIZE, SIZE), bool)
    valid[1, 0, SIZE // 2, SIZE // 2 + 1] = False
    valid[2, 0, :, SIZE // 2 :] = False  # half of every aperture
    spoilt = np.where(valid, image, 1e9)
    found, whole = measured(spoilt, valid=valid), measured(image, valid=valid)
    np.testing.assert_array_equal(found.flux, whole.flux)
    assert np.isnan(found.flux[2]).all() and found.flux[1, 0, 0] < found.flux[0, 0, 0]
    assert np.isnan(whole.snr[2]).all() and np.isnan(pulls(whole, found)["flux"][2]).all()


def test_a_colour_is_off_by_what_one_band_lost():
    truth = np.concatenate([source(20), source(20, flux=2000.0)], axis=1)
    reference = measured(truth)
    np.testing.assert_allclose(pulls(reference, reference)["colour"], 0.0)
    dimmed = truth * np.array([1.0, 0.9])[:, None, None]
    share = 2.5 / np.log(10) * reference.flux_error[0, :, 1] / reference.flux[0, :, 1]
    pull = pulls(reference, measured(dimmed))["colour"]
    np.testing.assert_allclose(pull, -2.5 * np.log10(0.9) / np.hypot(*share))


def test_what_is_kept_is_counted_by_signal_to_noise_and_band():
    n = 40
    truth = np.concatenate([source(n, flux=1000.0), source(n, flux=20.0)], axis=1)
    decoded = truth.copy()
    decoded[: n // 4, 0] *= 1.1  # errors of the flux are about 2 %, 1 % and .5 %: by far too bright
    found = kept(measured(truth), measured(decoded), ["r", "u"])
    assert found["flux_within"] == pytest.approx(1 - 1 / 8) == found["flux_within_or_floor"]
    assert found["by_band"]["r"]["flux"]["within"] == 0.75 and found["by_band"]["u"]["flux"]["within"] == 1
    assert found["by_snr"][0]["n"] == n and found["by_snr"][0]["flux"]["within"] == 1
    assert found["by_snr"][0]["size"]["n"] == 0, "the shape of what is hardly seen says nothing"
    assert found["by_snr"][-1]["n"] == 2 * n and "colour" not in found["by_band"]["u"]
    brighter = kept(measured(truth), measured(truth * 1.019), ["r", "u"])
    assert brighter["flux_within_or_floor"] == 1 > brighter["flux_within"], "two per cent are within the floor"


def test_what_can_no_longer_be_measured_is_lost_not_left_out():
    reference, gone = measured(source(5)), measured(np.full((5, 1, SIZE, SIZE), -1.0))
    pull = pulls(reference, gone)
    assert (pull["ellipticity"] == cutouts.LOST).all() and (pull["size"] == cutouts.LOST).all()
    assert kept(reference, gone, ["r"])["by_snr"][-1]["ellipticity"]["within"] == 0


def test_the_weight_is_as_wide_as_the_object_within_bounds():
    width = weight_width(np.array([4.0, np.nan, 50.0, 0.1]), np.array([3.0, 1.0, 50.0, 0.1]), 96)
    np.testing.assert_allclose(width, [np.sqrt(12.5), 2.5, 6.0, 1.5])


def test_parts_are_put_together_and_wrong_shapes_refused():
    one = measured(source(2))
    assert Measured.together([one, one]).flux.shape == (4, 1, 3)
    with pytest.raises(DataError, match=r"widths"):
        measure(source(2), np.ones((2, 1)), np.ones((2, 1, SIZE, SIZE), bool), np.ones(3))
