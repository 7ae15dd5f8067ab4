"""Spectra: rebinning against a slow loop, conservation of flux, masks, scales that survive 1e-18, missing ivar."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from astromodal.config.schema import DataConfig, SpectrumGroupConfig, SpectrumKind
from astromodal.data.findings import REASONS, Findings
from astromodal.data.rebin import MIN_COVERAGE, fill_masked, increasing_rows, masked_median, pixel_edges, rebin
from astromodal.data.spectra import grid, read_spectra, spectrum_columns
from astromodal.errors import ConfigError

P = 40
GROUP = SpectrumGroupConfig(flux="flux", ivar="ivar", wave="wave", wave_min=100.0, wave_max=139.0, wave_step=1.0)


def survey(**groups) -> DataConfig:
    return DataConfig(name="t", root="x", spectra=groups or {"g": GROUP})


def batch_of(flux, ivar=None, wave=None):
    lists = {"flux": flux, "ivar": ivar or [None] * len(flux), "wave": wave or [None] * len(flux)}
    return pa.record_batch({k: pa.array(v, pa.list_(pa.float64())) for k, v in lists.items()})


def slow_rebin(flux, ivar, wave, wave_min, step, n_pixels):
    """One object, pixel by pixel."""
    middle = (wave[1:] + wave[:-1]) / 2
    edges = np.concatenate([[2 * wave[0] - middle[0]], middle, [2 * wave[-1] - middle[-1]]])
    out, out_ivar = np.zeros(n_pixels), np.zeros(n_pixels)
    for k in range(n_pixels):
        low, high = wave_min + (k - 0.5) * step, wave_min + (k + 0.5) * step
        weights = spread = total = covered = 0.0
        for j in range(len(wave)):
            overlap = (min(high, edges[j + 1]) - max(low, edges[j])) / step
            if overlap > 0 and ivar[j] > 0:
                weights += overlap * ivar[j]
                total += overlap * ivar[j] * flux[j]
                spread += overlap**2 * ivar[j]
                covered += overlap
        if covered >= MIN_COVERAGE:
            out[k], out_ivar[k] = total / weights, weights**2 / spread
    return out, out_ivar


def ragged_spectra(rng, n=7):
    waves = [np.sort(rng.uniform(95, 145, rng.integers(15, 90))) for _ in range(n - 2)]
    waves += [10 ** np.linspace(2, 2.16, 50), np.arange(100.0, 140.0)]
    flux = [rng.normal(5, 1, len(w)) for w in waves]
    ivar = [rng.uniform(0.5, 2, len(w)) * (rng.uniform(size=len(w)) > 0.2) for w in waves]
    return flux, ivar, waves


def test_rebinning_agrees_with_the_slow_loop():
    flux, ivar, waves = ragged_spectra(np.random.default_rng(0))
    offsets = np.concatenate([[0], np.cumsum([len(w) for w in waves])])
    got = rebin(np.concatenate(flux), np.concatenate(ivar), np.concatenate(waves), offsets, 100.0, 1.0, P)
    for i, (f, v, w) in enumerate(zip(flux, ivar, waves, strict=True)):
        want = slow_rebin(f, v, w, 100.0, 1.0, P)
        np.testing.assert_allclose(got[0][i], want[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got[1][i], want[1], rtol=1e-9, atol=1e-12)


def test_the_integral_of_the_flux_is_conserved_for_equal_ivar():
    rng = np.random.default_rng(1)
    wave = np.sort(rng.uniform(101, 138, 60))
    flux = rng.normal(3, 1, 60)
    low, high = pixel_edges(wave, np.array([0, 60]))
    step = 0.25
    start = np.floor(low[0]) - step / 2
    n = int((np.ceil(high[-1]) - start) / step) + 2
    out, _, outside = rebin(flux, np.ones(60), wave, np.array([0, 60]), start, step, n)
    edges = start + (np.arange(n + 1) - 0.5) * step
    covered = np.clip(np.minimum(edges[1:], high[-1]) - np.maximum(edges[:-1], low[0]), 0, None)
    inner = covered > step * 0.999
    whole = (out[0][inner] * step).sum()
    first, last = edges[:-1][inner][0], edges[1:][inner][-1]
    want = (flux * np.clip(np.minimum(high, last) - np.maximum(low, first), 0, None)).sum()
    np.testing.assert_allclose(whole, want, rtol=1e-12)
    assert outside.sum() == 0


def test_a_spectrum_on_the_grid_comes_back_identical():
    rng = np.random.default_rng(2)
    flux, ivar = rng.normal(5, 1, P).astype(np.float32), rng.uniform(1, 2, P).astype(np.float32)
    got = read_spectra(batch_of([flux.tolist()], [ivar.tolist()], [grid(GROUP).tolist()]), survey(), "g")
    assert got.counts["rebinned"] == 0
    np.testing.assert_array_equal(got.flux[0], (flux / got.scale[0]).astype(np.float32))
    np.testing.assert_allclose(got.precision[0], np.sqrt(ivar) * got.scale[0], rtol=1e-6)
    slow = slow_rebin(flux, ivar, grid(GROUP), 100.0, 1.0, P)
    np.testing.assert_allclose(got.flux[0] * got.scale[0], slow[0], rtol=1e-6)


def test_pixels_outside_of_the_grid_are_counted():
    wave = np.arange(90.0, 150.0)
    got = read_spectra(batch_of([[1.0] * 60], [[1.0] * 60], [wave.tolist()]), survey(), "g")
    assert got.counts["pixels_outside"] == 20 and got.present[0]
    np.testing.assert_allclose(got.flux, 1.0)


def test_masked_pixels_weigh_nothing_and_cannot_poison_their_neighbours():
    flux, ivar = np.full(P, 2.0), np.full(P, 4.0)
    flux[[3, 4]], ivar[5], ivar[6], ivar[7] = (np.nan, np.inf), 0, np.nan, -1
    flux[8], ivar[8] = 1e30, 0
    for shift in (0.0, 0.3):
        got = read_spectra(batch_of([flux.tolist()], [ivar.tolist()], [(grid(GROUP) + shift).tolist()]), survey(), "g")
        assert np.isfinite(got.flux).all() and np.isfinite(got.precision).all()
        np.testing.assert_allclose(got.flux[got.precision > 0], 1.0, rtol=1e-6)
        assert (got.flux[got.precision == 0] == 0).all() and (got.precision[0, 4:8] == 0).all()


FACTORS = [1e-30, 1e-18, 2.0**100, 1e30, 1e100]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("how", ["ivar", "error", "coefficients", "neither"])
def test_units_do_not_matter(how, factor):
    rng = np.random.default_rng(3)
    flux, error = rng.normal(5, 1, P), rng.uniform(0.1, 1, P)
    group = SpectrumGroupConfig(flux="flux", wave="wave", wave_min=100.0, wave_max=139.0, wave_step=1.0)
    if how == "coefficients":
        group = SpectrumGroupConfig(kind=SpectrumKind.coefficients, flux="flux", error="ivar", n_coefficients=P)
    elif how != "neither":
        setattr(group, how, "ivar")

    def read(unit, shift=0.0):
        second = (error * unit) ** -2.0 if how == "ivar" else error * unit
        batch = batch_of([list(flux * unit)], [list(second)], [list(grid(GROUP) + shift)])
        return read_spectra(batch, survey(g=group), "g")

    for shift in (0.0, 0.3):
        one, got = read(1.0, shift), read(factor, shift)
        assert got.present[0] and (got.precision > 0).all() == (one.precision > 0).all()
        np.testing.assert_allclose(got.flux, one.flux, rtol=1e-6)
        np.testing.assert_allclose(got.precision, one.precision, rtol=1e-6)
        np.testing.assert_allclose(got.scale, one.scale * factor, rtol=1e-12)


def test_falling_wavelengths_are_turned_round_and_pixels_without_one_are_left_out():
    rng = np.random.default_rng(0)
    flux, ivar, wave = rng.normal(5, 1, (3, P)), rng.uniform(1, 2, (3, P)), np.tile(grid(GROUP) + 0.3, (3, 1))
    want = read_spectra(batch_of(flux.tolist(), ivar.tolist(), wave.tolist()), survey(), "g")
    rows = [list(x) for x in (flux, ivar, wave)]
    for k, x in enumerate((flux, ivar, wave)):
        rows[k][1] = x[1, ::-1]
        rows[k][2] = np.concatenate([x[2], [[7.0] * 4, [9.0] * 4, [-1.0, 0.0, np.nan, np.inf]][k]])  # filled up
    got = read_spectra(batch_of(*([list(map(float, r)) for r in x] for x in rows)), survey(), "g")
    assert got.present.all() and got.counts["turned_round"] == 1 and got.counts["wave_not_increasing"] == 0
    assert got.counts["pixels_without_wavelength"] == 4 and want.counts["turned_round"] == 0
    np.testing.assert_array_equal(got.flux, want.flux)
    np.testing.assert_array_equal(got.precision, want.precision)


def test_spectra_outside_of_the_grid_are_counted_by_what_their_wavelengths_look_like():
    wave = grid(GROUP)
    waves = {
        "outside_grid_nm": wave / 10,
        "outside_grid_log10": np.log10(wave),
        "outside_grid_ln": np.log(wave),
        "outside_grid_micron": wave / 1e4,
        "outside_grid_angstrom": wave * 10,
        "outside_grid": wave + 50,
    }
    ones = [[1.0] * P] * 8
    lists = [w.tolist() for w in (wave, *waves.values(), wave)]
    batch = batch_of(ones, [*ones[:7], [0.0] * P], lists)
    got = read_spectra(batch, survey(), "g")
    assert got.present.tolist() == [True] + [False] * 7
    assert {reason: got.counts.get(reason) for reason in waves} == dict.fromkeys(waves, 1)
    assert got.counts["no_valid_pixel"] == 1 and got.counts["pixels_outside"] == 0  # of spectra that stay
    found = Findings()
    found.add_spectra("A", "g", got)
    assert "outside of the grid" in found.warnings()[0] and set(waves) <= set(REASONS)


def test_inverse_variances_that_are_none_are_counted():
    ivar = [1.0] * P
    ivar[:4] = -1.0, float("inf"), float("nan"), 0.0
    got = read_spectra(batch_of([[1.0] * P], [ivar], [grid(GROUP).tolist()]), survey(), "g")
    assert got.counts["bad_ivar"] == 2 and (got.precision[0] > 0).sum() == P - 4


def test_the_scale_does_not_fall_below_the_noise_and_ignores_a_few_wild_pixels():
    rng = np.random.default_rng(4)
    faint = rng.normal(0, 1e-3, P)
    wild = np.full(P, 2.0)
    wild[:3] = 1e6
    wave = [grid(GROUP).tolist()] * 2
    got = read_spectra(batch_of([list(faint), list(wild)], [[1.0] * P] * 2, wave), survey(), "g")
    np.testing.assert_allclose(got.scale, [1.0, 2.0])


def test_masked_pixels_hardly_change_the_scale():
    """Of a spectrum whose median pixel has few like it: the median of what is left jumps."""
    rng = np.random.default_rng(0)
    flux = 10 + np.sin(np.arange(P) / 3 + rng.uniform(0, 6, (300, 1))) + 0.05 * rng.normal(size=(300, P))
    ivar = np.where(rng.random(flux.shape) < 0.1, 0, 400.0)
    whole, masked = (
        read_spectra(batch_of(flux.tolist(), v.tolist(), [list(range(100, 140))] * 300), survey(), "g").scale
        for v in (np.full_like(ivar, 400.0), ivar)
    )
    assert np.std(masked - whole) < 0.05 < 0.25 * np.std(np.median(flux, 1) - 10) + 0.05
    hidden = ivar.copy()
    hidden[:, 12:30] = 0  # a long gap is no place to guess in
    gap = read_spectra(batch_of(flux.tolist(), hidden.tolist(), [list(range(100, 140))] * 300), survey(), "g").scale
    outside = np.delete(flux, np.s_[12:30], axis=1)
    assert np.abs(gap - np.median(outside, 1)).max() < 0.5


def slow_fill(values, valid):
    out = np.zeros_like(values)
    for i in range(len(values)):
        known = np.flatnonzero(valid[i])
        if len(known):
            out[i] = np.interp(np.arange(values.shape[1]), known, values[i, known])
    return out


def test_masked_pixels_are_interpolated_from_valid_neighbours():
    rng = np.random.default_rng(0)
    values, valid = rng.normal(size=(50, 30)), rng.random((50, 30)) < 0.4
    valid[3] = False
    valid[4] = True
    assert np.allclose(fill_masked(values, valid), slow_fill(values, valid))
    short = fill_masked(values, valid, longest=2)
    for i in range(50):
        for j in np.flatnonzero(~valid[i]):
            known = np.flatnonzero(valid[i])
            left, right = known[known < j], known[known > j]
            filled = len(left) and len(right) and right[0] - left[-1] - 1 <= 2
            assert np.isnan(short[i, j]) != bool(filled)
    assert np.array_equal(short[np.isfinite(short)], fill_masked(values, valid)[np.isfinite(short)])


def test_a_missing_ivar_is_flagged_and_weighs_all_valid_pixels_the_same():
    flux = np.linspace(1, 3, P)
    flux[5] = np.nan
    for wave in (grid(GROUP), np.linspace(99.0, 140.0, P)):
        got = read_spectra(batch_of([flux.tolist()], None, [wave.tolist()]), survey(), "g")
        assert got.present[0] and not got.has_ivar[0] and got.counts["no_ivar"] == 1
        assert set(np.unique(got.precision)) == {0.0, 1.0}


def test_rows_that_cannot_be_used_are_counted_and_not_present():
    wave = grid(GROUP).tolist()
    good, ones = [1.0] * P, [1.0] * P
    flux = [good, good, good, [float("nan")] * P, [0.0] * P, good, None, good]
    ivar = [ones, ones[:-1], ones, ones, None, [0.0] * P, ones, ones]
    waves = [wave, wave, [wave[1], wave[0], *wave[2:]], wave, wave, wave, wave, None]
    got = read_spectra(batch_of(flux, ivar, waves), survey(), "g")
    assert got.present.tolist() == [True] + [False] * 7
    assert got.counts["length_mismatch"] == 2 and got.counts["wave_not_increasing"] == 1
    assert got.counts["no_valid_pixel"] == 2 and got.counts["no_signal"] == 1
    assert np.isnan(got.scale[1:]).all() and not got.flux[1:].any() and not got.precision[1:].any()


def test_a_batch_without_any_spectrum_is_read():
    for kind in (pa.null(), pa.list_(pa.float32())):
        batch = pa.record_batch({name: pa.nulls(3, kind) for name in ("flux", "ivar", "wave")})
        got = read_spectra(batch, survey(), "g")
        assert got.flux.shape == (3, P) and not got.present.any()


def test_coefficients_pass_with_nan_tail_and_errors():
    group = SpectrumGroupConfig(kind=SpectrumKind.coefficients, flux="flux", error="ivar", n_coefficients=4)
    nan = float("nan")
    flux = [[3.0, 4.0, 0.0, nan], [3.0, 4.0, 0.0, 12.0], [1.0, 2.0], None, [0.0] * 4]
    batch = batch_of(flux, [[0.1, 0.2, 0.0, 0.1], None, None, None, None])
    got = read_spectra(batch, survey(g=group), "g")
    assert got.present.tolist() == [True, True, False, False, False]
    assert got.has_ivar.tolist() == [True, False, False, False, False]
    np.testing.assert_allclose(got.scale[:2], [5.0, 13.0])
    np.testing.assert_allclose(got.flux[0], [0.6, 0.8, 0, 0])
    np.testing.assert_allclose(got.precision[:2], [[50, 25, 0, 0], [1, 1, 1, 1]], rtol=1e-6)
    assert got.counts["length_mismatch"] == 1 and got.counts["no_signal"] == 1


def test_grids_have_the_published_lengths_and_bad_ones_are_refused():
    for low, high, n in ((3600.0, 5800.0, 2751), (5760.0, 7620.0, 2326), (7520.0, 9824.0, 2881)):
        wave = grid(SpectrumGroupConfig(flux="f", wave_min=low, wave_max=high, wave_step=0.8))
        assert len(wave) == n and abs(wave[-1] - high) < 1e-6
    with pytest.raises(ConfigError, match=r"multiple"):
        grid(SpectrumGroupConfig(flux="f", wave_min=0, wave_max=1, wave_step=0.3))
    with pytest.raises(ConfigError, match=r"a group of g"):
        read_spectra(batch_of([None]), survey(), "h")


def test_weighted_median_and_row_order_agree_with_loops():
    rng = np.random.default_rng(5)
    values, mask, weights = rng.normal(size=(6, 9)), rng.uniform(size=(6, 9)) > 0.3, rng.uniform(size=(6, 9))
    mask[0] = False
    got = masked_median(values, mask, weights)
    assert np.isnan(got[0])
    for i in range(1, 6):
        v, w = values[i][mask[i]], weights[i][mask[i]]
        order = np.argsort(v)
        assert got[i] == v[order][np.searchsorted(np.cumsum(w[order]), 0.5 * w.sum() * (1 - 1e-12))]
    wave = np.array([1.0, 2, 3, 1, 2, 5, 4, np.nan])
    assert increasing_rows(wave, np.array([0, 3, 3, 5, 7, 8])).tolist() == [True, True, True, False, False]


def test_real_spectra_have_the_quirks_that_their_readme_names(realdata):
    from astromodal.data.datacube import discover

    from .test_scalars import compose

    config, template = compose("splus", realdata / "splus")
    config.fields = ["BOSS3655", "DESI", "GAIAXP"]
    cubes = {cube.field: cube for cube in discover(config, template)}

    def whole(field, group):
        return [
            read_spectra(batch, config, group)
            for batch in cubes[field].batches(spectrum_columns(config.spectra[group]), rows=512)
        ]

    for arm in "brz":
        (desi,) = whole("DESI", f"desi_{arm}")
        assert desi.present.all() and desi.counts["no_ivar"] == 26 and desi.counts["rebinned"] == 0
        (boss,) = whole("BOSS3655", f"desi_{arm}")
        assert boss.counts["rebinned"] == 68 and boss.present.sum() >= 67 and np.isfinite(boss.flux).all()
    assert boss.counts["pixels_outside"] > 0
    xp = whole("GAIAXP", "gaiaxp")
    assert sum(int(x.present.sum()) for x in xp) == 2815 and all(x.counts["rebinned"] == 0 for x in xp)
    scale = np.concatenate([x.scale for x in xp])
    assert (scale > 0).all() and scale.max() < 1e-12
    assert sum(int(x.present.sum()) for x in whole("GAIAXP", "gaiaxp_bp")) == 2815
    assert not whole("GAIAXP", "desi_b")[0].present.any()
