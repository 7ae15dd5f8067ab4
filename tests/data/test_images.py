"""Cutouts from Arrow batches: flux, order of the bands, bad pixels, the elliptical mask, speed."""

from __future__ import annotations

import math
import time

import numpy as np
import pyarrow as pa
import pytest

from astromodal.config.schema import BandConfig, DataConfig, ImageConfig
from astromodal.data.findings import Findings
from astromodal.data.images import ImageReader, elliptical_mask, image_columns, read_images
from astromodal.data.photometry import ArcsinhScaling, SkyNoise, sky_statistics
from astromodal.errors import DataError

SIZE = 8
BANDS = {"z": 25.0, "u": 22.5, "r": 20.0}  # an order that is neither alphabetical nor by wavelength


def survey(size=SIZE, bands=BANDS, **images):
    entries = {name: BandConfig(column=f"cut_{name}", zero_point=point) for name, point in bands.items()}
    return DataConfig(name="test", root="", images=ImageConfig(bands=entries, size=size, **images))


def table(cutouts: dict, n: int, shape=(2.0, 1.0, 30.0)) -> pa.RecordBatch:
    columns = {name: pa.array(rows, type=pa.list_(pa.float32())) for name, rows in cutouts.items()}
    for name, value in zip(("a_pixel_det", "b_pixel_det", "theta_det"), shape, strict=True):
        columns[name] = pa.array([value] * n, type=pa.float32())
    return pa.RecordBatch.from_pydict(columns)


def random_cutouts(n, size=SIZE, bands=BANDS, seed=0):
    rng = np.random.default_rng(seed)
    return {f"cut_{name}": list(rng.normal(10, 3, (n, size * size)).astype(np.float32)) for name in bands}


def test_flux_is_counts_in_nanomaggies_and_the_configured_order_is_the_channel_order():
    cutouts = random_cutouts(5)
    shuffled = {name: cutouts[name] for name in ("cut_r", "cut_z", "cut_u")}
    images = read_images(table(shuffled, 5), survey(), "F1")
    assert images.bands == ("z", "u", "r")
    for channel, (name, point) in enumerate(BANDS.items()):
        expected = np.stack(cutouts[f"cut_{name}"]).reshape(5, SIZE, SIZE) * 10 ** (0.4 * (22.5 - point))
        np.testing.assert_allclose(images.flux[:, channel], expected, rtol=1e-6)
    assert images.valid.all() and images.present.all() and images.band_present.all()
    assert images.flux.dtype == np.float32 and images.invalid_fraction.max() == 0


def wide(cutouts: dict, n: int, factor: float) -> pa.RecordBatch:
    """Cutouts times a factor, as doubles."""
    batch = table({}, n)
    for name, rows in cutouts.items():
        values = np.asarray(rows, np.float64) * factor
        batch = batch.append_column(name, pa.array(values.tolist(), pa.list_(pa.float64())))
    return batch


@pytest.mark.parametrize("power", [-90, 90])
def test_the_unit_of_counts_does_not_matter(power):
    """Neither to what a network sees, nor to the flux that comes back in that unit."""
    cutouts, inside = random_cutouts(6), elliptical_mask([2.0] * 6, [1.0] * 6, [0.0] * 6, SIZE, 1.0, 1.0)
    seen = []
    for factor in (1.0, 2.0**power):
        images = read_images(wide(cutouts, 6, factor), survey(), "F1")
        level, sigma = sky_statistics(images.flux, images.valid, inside)
        noise = SkyNoise(3)
        noise.add(sigma)
        scaling = ArcsinhScaling(images.bands, noise.sigma(), 3.0)
        x = scaling.normalize_(images.flux.copy(), images.valid.copy(), level)
        seen.append((x, scaling.inverse(x) / factor, level / factor))
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, other)


def test_counts_beyond_float32_are_read_by_their_zero_point_and_what_is_lost_is_counted():
    cutouts = random_cutouts(2)
    points = {name: point + 2.5 * 45 for name, point in BANDS.items()}  # a count is 1e-45 of what it was
    with_points = survey(bands=points)
    images = read_images(wide(cutouts, 2, 1e45), with_points, "F1")
    want = read_images(table(cutouts, 2), survey(), "F1")
    np.testing.assert_allclose(images.flux, want.flux, rtol=1e-6)
    lost = read_images(wide(cutouts, 2, 1e45), survey(), "F1")
    assert not lost.present.any() and lost.reasons["r"]["too_large"] == lost.reasons["r"]["pixels"] == 2 * SIZE**2
    small = read_images(wide(cutouts, 2, 1e-45), survey(), "F1")
    assert small.reasons["r"]["too_small"] == 2 * SIZE**2 and images.reasons["r"]["too_small"] == 0
    found = Findings()
    found.add_images("F1", lost, lost.present)
    assert any("a zero point that is far off" in line for line in found.warnings())
    beyond = np.zeros(images.band_present.shape, bool)
    beyond[:, 0] = True
    found.add_images("F2", images, images.present, beyond)
    totals = found.totals()
    assert [totals[f"image {name}"].get("clipped", 0) for name in images.bands] == [2] + [0] * (len(images.bands) - 1)


def test_nan_and_infinite_pixels_are_invalid_and_hold_zero():
    cutouts = random_cutouts(3)
    cutouts["cut_u"][1][5] = np.nan
    cutouts["cut_u"][1][6] = np.inf
    cutouts["cut_r"][2][:] = np.nan
    images = read_images(table(cutouts, 3), survey(), "F1")
    assert (~images.valid[1]).sum() == 2 and not images.valid[1, 1, 0, 5] and not images.valid[1, 1, 0, 6]
    assert np.isfinite(images.flux).all() and (images.flux[~images.valid] == 0).all()
    assert images.band_present.tolist() == [[True] * 3, [True] * 3, [True, True, False]]
    assert images.invalid_fraction[2] == pytest.approx(1 / 3)


def test_a_missing_band_or_object_is_not_present():
    cutouts = random_cutouts(4)
    cutouts["cut_z"][1] = None
    for rows in cutouts.values():
        rows[3] = None
    images = read_images(table(cutouts, 4), survey(), "F1")
    assert images.present.tolist() == [True, True, True, False]
    assert images.band_present[1].tolist() == [False, True, True]
    assert not images.valid[1, 0].any() and images.valid[1, 1].all() and (images.flux[3] == 0).all()


def test_a_cutout_of_wrong_length_is_missing_and_counted():
    cutouts = random_cutouts(4)
    cutouts["cut_r"][2] = cutouts["cut_r"][2][:-3]
    cutouts["cut_r"][0] = np.zeros(0, np.float32)
    expected = read_images(table(random_cutouts(4), 4), survey(), "F1")
    images = read_images(table(cutouts, 4), survey(), "F1")
    assert {band: counts["wrong_length"] for band, counts in images.reasons.items()} == {"z": 0, "u": 0, "r": 2}
    assert images.band_present[:, 2].tolist() == [False, True, False, True]
    np.testing.assert_array_equal(images.flux[[1, 3]], expected.flux[[1, 3]])


def test_a_cutout_of_one_value_is_missing_and_counted():
    cutouts = random_cutouts(3)
    cutouts["cut_u"][1][:] = 0.0
    images = read_images(table(cutouts, 3), survey(), "F1")
    assert images.reasons["u"]["constant_cutout"] == 1 and not images.band_present[1, 1]


def test_a_cutout_without_a_finite_pixel_is_missing_and_counted_apart_from_single_pixels():
    cutouts = random_cutouts(3)
    cutouts["cut_u"][1][:] = np.nan
    cutouts["cut_u"][2][:5] = np.inf
    images = read_images(table(cutouts, 3), survey(), "F1")
    assert images.reasons["u"]["blank_cutout"] == 1 and images.reasons["u"]["invalid_pixels"] == 5
    assert not images.band_present[1, 1] and images.reasons["r"]["blank_cutout"] == 0


def test_slices_and_chunked_tables_give_the_same_as_the_whole():
    cutouts = random_cutouts(9)
    cutouts["cut_u"][4] = None
    whole = read_images(table(cutouts, 9), survey(), "F1").select(np.arange(9))
    part = read_images(table(cutouts, 9).slice(3, 4), survey(), "F1")
    np.testing.assert_array_equal(part.flux, whole.flux[3:7])
    np.testing.assert_array_equal(part.valid, whole.valid[3:7])
    pieces = pa.Table.from_batches([table(cutouts, 9).slice(0, 5), table(cutouts, 9).slice(5)])
    np.testing.assert_array_equal(read_images(pieces, survey(), "F1").flux, whole.flux)


def test_a_reader_reuses_its_buffer_and_leaves_nothing_of_the_previous_batch():
    reader = ImageReader(survey(), "F1")
    first = reader.read(table(random_cutouts(6), 6))
    kept, address = first.select(first.present), first.flux.__array_interface__["data"][0]
    cutouts = random_cutouts(4, seed=1)
    cutouts["cut_z"][2] = None
    second = reader.read(table(cutouts, 4))
    assert second.flux.__array_interface__["data"][0] == address
    fresh = read_images(table(cutouts, 4), survey(), "F1")
    np.testing.assert_array_equal(second.flux, fresh.flux)
    np.testing.assert_array_equal(second.valid, fresh.valid)
    np.testing.assert_array_equal(kept.flux, read_images(table(random_cutouts(6), 6), survey(), "F1").flux)


def test_a_survey_without_bands_is_refused():
    with pytest.raises(DataError, match=r"bands in data\.images"):
        image_columns(DataConfig(name="x", root="", images=None))


def test_unknown_shapes_are_nan_and_unconfigured_columns_are_not_read():
    data = survey(a=None, b=None, theta=None)
    assert image_columns(data) == ["cut_z", "cut_u", "cut_r"]
    assert np.isnan(read_images(table(random_cutouts(2), 2), data, "F1").a).all()


# ------------------------------------------------------------------------------------------- mask


def slow_mask(a, b, theta, size, scale, min_radius):
    """Pixel by pixel, by rotating the pixel into the frame of the ellipse."""
    mask = np.zeros((size, size), bool)
    known = all(map(math.isfinite, (a, b))) and a > 0 and b > 0
    major = max(scale * a, min_radius) if known else min_radius
    minor = max(scale * b, min_radius) if known else min_radius
    angle = math.radians(theta) if math.isfinite(theta) else 0.0
    for row in range(size):
        for column in range(size):
            x, y = column - size // 2, row - size // 2
            along = x * math.cos(angle) + y * math.sin(angle)
            across = y * math.cos(angle) - x * math.sin(angle)
            mask[row, column] = (along / major) ** 2 + (across / minor) ** 2 <= 1 + 1e-6
    return mask


def test_the_elliptical_mask_equals_the_pixel_by_pixel_one():
    rng = np.random.default_rng(0)
    n, size = 40, 33
    a, b, theta = rng.uniform(0.3, 4, n), rng.uniform(0.3, 2, n), rng.uniform(-180, 180, n)
    a[3], theta[5], b[7], a[9] = np.nan, np.nan, -1.0, np.inf
    fast = elliptical_mask(a, b, theta, size, 3.0, 2.3)
    slow = np.stack([slow_mask(*values, size, 3.0, 2.3) for values in zip(a, b, theta, strict=True)])
    assert (fast != slow).sum() <= 2  # float32 against float64 on the very edge
    assert fast[3].sum() == fast[9].sum() == elliptical_mask(1, 1, 0, size, 0.1, 2.3).sum()


def test_the_angle_turns_from_columns_towards_rows():
    mask = elliptical_mask(6.0, 1.0, 45.0, 21, 1.0, 1.0)[0]
    assert mask[14, 14] and mask[6, 6] and not mask[14, 6] and not mask[6, 14]
    flat = elliptical_mask(6.0, 1.0, 0.0, 21, 1.0, 1.0)[0]
    assert flat[10, 16] and not flat[16, 10]


# ------------------------------------------------------------------------------------------ speed


def test_reading_is_much_faster_than_python_lists():
    size, n = 96, 64
    batch = table(random_cutouts(n, size=size), n)
    reader = ImageReader(survey(size), "F1")
    reader.read(batch)
    fast = min(_seconds(lambda: reader.read(batch)) for _ in range(5))
    slow = _seconds(lambda: [np.array(batch.column(f"cut_{b}").to_pylist(), np.float32) for b in BANDS])
    gigabytes = len(BANDS) * n * size * size * 4 / 1e9
    assert slow / fast > 8, f"{gigabytes / fast:.2f} GB/s, {slow / fast:.0f} times to_pylist"


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def test_real_cutouts_are_read_in_flux_units(realdata):
    pq = pytest.importorskip("pyarrow.parquet")
    bands = {"g": 0.0, "r": 0.0, "Z": 30.0}
    entries = {name: BandConfig(column=f"kids_cut_{name}", zero_point=point) for name, point in bands.items()}
    data = DataConfig(name="kids", root="", images=ImageConfig(bands=entries, pixel_scale=0.2))
    file = pq.ParquetFile(realdata / "kids" / "datacube_KIDS-A.parquet")
    images = read_images(next(file.iter_batches(64, columns=image_columns(data))), data, "KIDS-A")
    assert images.flux.shape == (64, 3, 96, 96) and images.present.all()
    noise = [float(np.median(np.abs(images.flux[:, c]))) / 0.6745 for c in range(3)]
    # sky noise of the set's README in nanomaggies: maggies * 1e9, counts at zero point 30 * 1e-3
    np.testing.assert_allclose(noise, [4.0e-3, 4.4e-3, 6.59e-3], rtol=0.4)
