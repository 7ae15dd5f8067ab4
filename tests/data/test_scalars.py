"""Scalars: every reason for a value not to be one, transforms and their inverses, derived scale columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from astromodal.config.schema import DataConfig, ScalarConfig, SpectrumGroupConfig, Transform
from astromodal.data.scalars import inverse_transform, read_scalars, scalar_columns, scalar_sources, transform
from astromodal.data.spectra import read_spectra
from astromodal.errors import ConfigError

NAN, INF = float("nan"), float("inf")


def data(**scalars) -> DataConfig:
    group = SpectrumGroupConfig(flux="flux", ivar="ivar", wave="wave", wave_min=1.0, wave_max=4.0, wave_step=1.0)
    return DataConfig(name="t", root="x", scalars=scalars, spectra={"g": group})


def test_every_reason_is_told_apart_and_counted():
    scalar = ScalarConfig(error="err", min=5, max=35, fit_min=14, fit_max=22, max_error=1.0, nondetection=99.0)
    config = data(mag=scalar)
    mag = [18.0, 99.0, -99.0, None, NAN, INF, 50.0, 23.0, 18.0, 18.0, 18.0, 18.0]
    err = [0.1, 99.0, 0.1, None, 0.1, 0.1, 0.1, 0.1, 0.0, 4.7e5, None, NAN]
    batch = pa.record_batch({"mag": pa.array(mag, pa.float32()), "err": pa.array(err, pa.float32())})
    got = read_scalars(batch, config, scalar_columns(config))
    assert got.present[:, 0].tolist() == [m in (18.0, 23.0) for m in mag]
    assert np.flatnonzero(got.nondetected[:, 0]).tolist() == [1]
    assert np.isnan(got.values[~got.present]).all() and got.values[0, 0] == 18.0
    assert np.flatnonzero(np.isfinite(got.errors[:, 0])).tolist() == [0, 7]
    assert np.flatnonzero(got.fit[:, 0]).tolist() == [0, 8, 10, 11]
    assert got.reasons["mag"] == {
        "null": 1,
        "masked": 0,
        "nan": 1,
        "inf": 1,
        "sentinel": 1,
        "nondetected": 1,
        "out_of_range": 1,
        "not_positive": 0,
        "outside_fit_range": 1,
        "no_error": 2,
        "bad_error": 1,
        "large_error": 1,
    }


def test_99_is_a_sentinel_where_no_nondetection_is_configured():
    config = data(mag=ScalarConfig())
    batch = pa.record_batch({"mag": [99.0, 5.0]})
    got = read_scalars(batch, config, scalar_columns(config))
    assert got.present[:, 0].tolist() == [False, True] and not got.nondetected.any()


@pytest.mark.parametrize("kind", list(Transform))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_transform_has_an_inverse(kind, dtype):
    config = ScalarConfig(transform=kind, softening=0.5)
    values = np.array([1e-3, 0.2, 3.0, 4e5], dtype)
    space = transform(values, config)
    assert space.dtype == dtype and (np.diff(space) > 0).all()
    np.testing.assert_allclose(inverse_transform(space, config), values, rtol=3e-6)


def test_log10_takes_no_values_that_are_not_positive():
    config = data(flux=ScalarConfig(transform=Transform.log10))
    got = read_scalars(pa.record_batch({"flux": [0.0, -1.0, 10.0]}), config, scalar_columns(config))
    assert got.present[:, 0].tolist() == [False, False, True] and got.reasons["flux"]["not_positive"] == 2


def test_columns_of_other_names_types_and_all_null_are_read():
    config = data(a=ScalarConfig(column="A"), b=ScalarConfig(), c=ScalarConfig())
    batch = pa.record_batch({"A": pa.array([1, None], pa.int64()), "b": pa.nulls(2), "c": pa.array([True, False])})
    got = read_scalars(batch, config, scalar_columns(config))
    np.testing.assert_array_equal(got.values, [[1, NAN, 1], [NAN, NAN, 0]])
    assert got.columns == ("a", "b", "c") and got.reasons["b"]["null"] == 2


def test_the_scale_of_a_spectrum_is_a_column_of_its_own():
    config = data(b=ScalarConfig())
    columns = scalar_columns(config, ["g"])
    assert list(columns) == ["b", "g_scale"]
    assert scalar_sources(config, columns) == ["b", "flux", "ivar", "wave"]
    lists = {"flux": [[2e-18] * 4, None], "ivar": [[1e38] * 4, None], "wave": [[1.0, 2, 3, 4], None]}
    batch = pa.record_batch({"b": [1.0, 2.0]} | {k: pa.array(v, pa.list_(pa.float64())) for k, v in lists.items()})
    got = read_scalars(batch, config, columns)
    np.testing.assert_allclose(got.values[0, 1], 2e-18, rtol=1e-6)
    assert got.present.tolist() == [[True, True], [True, False]]
    again = read_scalars(batch, config, columns, {"g": read_spectra(batch, config, "g")})
    np.testing.assert_array_equal(again.values, got.values)
    with pytest.raises(ConfigError, match=r"got h"):
        scalar_columns(config, ["h"])


def compose(name, root):
    """The data section as the entry scripts see it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    from astromodal.config.launching.register import conf_dir, register

    register()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        cfg = hydra_compose("train_lm", [f"data={name}", f"data.root={root}", "run_dir=x"])
    return OmegaConf.to_object(cfg.data), cfg.paths.datacube_template


def test_real_catalogues_have_the_sentinels_that_their_readme_counts(realdata):
    from astromodal.data.datacube import discover

    config, template = compose("splus", realdata / "splus")
    config.fields = ["SPLUSDR4"]
    columns = {k: v for k, v in scalar_columns(config).items() if k.startswith("mag_pstotal")}
    (cube,) = discover(config, template)
    nondetected, bad = np.zeros(12, int), 0
    for batch in cube.batches(scalar_sources(config, columns), rows=1000):
        got = read_scalars(batch, config, columns)
        nondetected += got.nondetected.sum(0)
        bad += sum(r["bad_error"] for r in got.reasons.values())
        assert not np.nanmax(got.errors) > 1.0 and not (got.present & got.nondetected).any()
    assert nondetected.tolist() == [129, 88, 172, 96, 49, 6, 15, 0, 7, 1, 13, 1]
    assert bad == 9


def test_both_real_families_open_with_their_configuration(realdata):
    from astromodal.data.datacube import discover
    from astromodal.data.images import ImageReader
    from astromodal.data.on_disk import check_unique_ids

    complete = 0
    rows = {}
    for name, folder in (("splus", "splus"), ("kids_viking", "kids")):
        config, template = compose(name, realdata / folder)
        cubes = discover(config, template)
        check_unique_ids(cubes)
        rows |= {cube.field: cube.n_rows for cube in cubes}
        if name == "splus":
            cube = next(c for c in cubes if c.field == "STRIPE82-0001")
            columns = [band.column for band in config.images.bands.values()]
            for batch in cube.batches(columns):
                from astromodal.data.columns import list_column_to_matrix

                stack = [list_column_to_matrix(batch.column(c), 9216, c)[0] for c in columns]
                complete += int(np.isfinite(np.stack(stack)).all(axis=(0, 2)).sum())
            assert ImageReader(config, "STRIPE82-0001").columns[:12] == columns
    assert complete == 6
    assert rows == {
        "BOSS3655": 68,
        "DESI": 30,
        "GAIAXP": 2815,
        "SPLUSDR4": 6962,
        "STRIPE82-0001": 17,
        "KIDS-A": 108,
        "KIDS-B": 108,
        "KIDS-C": 108,
        "KIDS-D": 108,
    }
