"""Zero points, sky statistics and the arcsinh scale."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.config.schema import BandConfig, ImageConfig
from astromodal.data.photometry import (
    ArcsinhScaling,
    SkyNoise,
    arcsinh_,
    counts_to_nanomaggies,
    flux_factors,
    read_zero_points,
    sky_statistics,
)
from astromodal.errors import DataError


def images(path=None, **points):
    bands = {name: BandConfig(column=name, zero_point=point) for name, point in points.items()}
    return ImageConfig(bands=bands, zero_point_file=None if path is None else str(path))


def write(path, *lines):
    path.write_text("\n".join(("field,band,zero_point", *lines)) + "\n")
    return path


def test_a_source_of_22_5_mag_has_one_nanomaggy():
    magnitude, zero_point = 22.5, 27.3
    counts = 10 ** (0.4 * (zero_point - magnitude))
    assert counts * counts_to_nanomaggies(zero_point) == pytest.approx(1.0)


def test_zero_points_of_the_file_override_the_configuration_per_field(tmp_path):
    path = write(tmp_path / "zp.csv", "A,g,25.0", "A,r,22.5", "B,g,20.0", "B,r,22.5")
    config = images(path, r=10.0, g=10.0)
    np.testing.assert_allclose(flux_factors(config, "A"), [1.0, 0.1], rtol=1e-6)
    np.testing.assert_allclose(flux_factors(config, "B"), [1.0, 10.0], rtol=1e-6)
    np.testing.assert_allclose(flux_factors(images(r=22.5, g=25.0), "anything"), [1.0, 0.1], rtol=1e-6)


def test_zero_points_that_cannot_be_used_are_refused_with_the_line(tmp_path):
    config = {"r": 22.5, "g": 22.5}
    with pytest.raises(DataError, match=r"got gg .*line 2.*did you mean g"):
        flux_factors(images(write(tmp_path / "a.csv", "A,gg,25"), **config), "A")
    with pytest.raises(DataError, match=r"finite zero point, got nan .*line 2"):
        flux_factors(images(write(tmp_path / "b.csv", "A,g,nan"), **config), "A")
    with pytest.raises(DataError, match=r"field STRIPE-1, got none for r, g; nearest field STRIPE-2"):
        flux_factors(images(write(tmp_path / "c.csv", "STRIPE-2,g,25", "STRIPE-2,r,25"), **config), "STRIPE-1")
    with pytest.raises(DataError, match="got none for r"):
        flux_factors(images(write(tmp_path / "d.csv", "A,g,25"), **config), "A")
    with pytest.raises(DataError, match=r"one zero point of A g, got 25\.0 and 24\.0"):
        read_zero_points(write(tmp_path / "e.csv", "A,g,25", "A,g,24"), ["g"])
    with pytest.raises(DataError, match="got no zero_point"):
        (tmp_path / "f.csv").write_text("field,band,zp\nA,g,25\n")
        read_zero_points(tmp_path / "f.csv", ["g"])
    with pytest.raises(DataError, match="zero_point_file"):
        read_zero_points(tmp_path / "absent.csv", ["g"])
    with pytest.raises(DataError, match=r"data\.images\.bands\.g\.zero_point"):
        flux_factors(images(g=float("inf")), "A")


def test_sky_level_and_noise_ignore_the_source_and_bad_pixels():
    rng = np.random.default_rng(0)
    n, size = 6, 64
    flux = rng.normal(5.0, 2.0, (n, 2, size, size)).astype(np.float32)
    flux[:, 1] = flux[:, 1] * 10 + 100
    inside = np.zeros((n, size, size), bool)
    inside[:, 16:48, 16:48] = True
    flux[:, :, 16:48, 16:48] += 1e4
    valid = rng.random(flux.shape) > 0.2
    flux[~valid] = 0
    valid[2, 1] = False
    level, sigma = sky_statistics(flux, valid, inside)
    np.testing.assert_allclose(level[[0, 1, 3], 0], 5.0, atol=0.4)
    np.testing.assert_allclose(sigma[[0, 1, 3], 0], 2.0, rtol=0.15)
    np.testing.assert_allclose(level[[0, 1, 3], 1], 150.0, atol=4)
    assert level[2, 1] == 0 and np.isnan(sigma[2, 1])


def test_sky_level_is_the_median_of_the_sampled_sky_pixels():
    rng = np.random.default_rng(1)
    flux = rng.normal(size=(3, 1, 32, 32)).astype(np.float32)
    valid, inside = rng.random(flux.shape) > 0.3, rng.random((3, 32, 32)) > 0.6
    level, _ = sky_statistics(flux, valid, inside)
    for i in range(3):  # the slow way
        pixels = [
            flux[i, 0, y, x]
            for y in range(0, 32, 2)
            for x in range(0, 32, 2)
            if valid[i, 0, y, x] and not inside[i, y, x]
        ]
        assert level[i, 0] == pytest.approx(np.median(pixels), abs=1e-6)


def test_an_object_that_fills_the_cutout_still_has_a_level():
    flux = np.random.default_rng(0).normal(3, 1, (1, 1, 32, 32)).astype(np.float32)
    level, sigma = sky_statistics(flux, np.ones_like(flux, bool), np.ones((1, 32, 32), bool))
    assert level[0, 0] == pytest.approx(3, abs=0.3) and sigma[0, 0] == pytest.approx(1, rel=0.3)


def test_fast_arcsinh_equals_the_exact_one():
    x = np.concatenate([-np.logspace(-8, 15, 500), [0.0], np.logspace(-8, 15, 500)])
    np.testing.assert_allclose(arcsinh_(x.astype(np.float32)), np.arcsinh(x), atol=2e-7, rtol=3e-7)


def test_scaling_has_an_inverse_and_leaves_invalid_pixels_at_zero():
    rng = np.random.default_rng(0)
    scaling = ArcsinhScaling(("g", "r", "i"), np.array([0.1, 5.0, 0.0]), 3.0)
    flux = rng.normal(0, 30, (2, 3, 8, 8)).astype(np.float32)
    valid = rng.random(flux.shape) > 0.2
    level = rng.normal(size=(2, 3)).astype(np.float32)
    expected = flux - level[:, :, None, None]
    x = scaling.normalize_(flux.copy(), valid, level)
    assert not valid[:, 2].any() and (x[~valid] == 0).all()  # a band never seen is invalid
    np.testing.assert_allclose(scaling.inverse(x)[valid], expected[valid], rtol=2e-5, atol=1e-5)
    again = ArcsinhScaling.from_dict(scaling.to_dict())
    np.testing.assert_array_equal(again.unit, scaling.unit)
    assert again.bands == scaling.bands


def test_sky_noise_is_the_median_over_cutouts_and_zero_for_a_band_never_seen():
    noise = SkyNoise(3)
    noise.add(np.array([[1.0, np.nan, 0.0], [3.0, np.nan, 2.0]]))
    noise.add(np.array([[2.0, np.nan, 2.0]]))
    assert noise.sigma().tolist() == [2.0, 0.0, 2.0]
    assert SkyNoise(2).sigma().tolist() == [0.0, 0.0]
