"""Errors of predicted spectra and cutouts of a small survey, against predictions that are off by a known amount."""

from __future__ import annotations

import contextlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from astromodal.data import discover
from astromodal.errors import DataError
from astromodal.judge import drawn_errors as module
from astromodal.judge.drawn_errors import drawn_columns, drawn_errors
from astromodal.judge.predicted import PredictionCatalogue
from tests.tiny_survey import N_PIXELS, SIZE, configuration, write_survey

N = 30


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Datacubes, their configuration, and their raw columns, all rows of all fields one after the other."""
    folder = tmp_path_factory.mktemp("survey")
    with contextlib.chdir(folder):
        write_survey(folder, n=N)
        config = OmegaConf.to_object(configuration("encode", folder))
    config.data.root = str(folder / "cubes")
    cubes = discover(config.data, str(folder / "cubes" / "datacube_{field}.parquet"))
    raw = pa.concat_tables([pq.read_table(cube.path) for cube in cubes])
    return config.data, cubes, raw


def matrix(raw: pa.Table, name: str, width: int) -> np.ndarray:
    return np.array([row if row is not None else [np.nan] * width for row in raw[name].to_pylist()], np.float32)


def brighter_sky(raw, folder, data):
    """The same survey under a sky of 7 nanomaggies in every pixel."""
    folder.mkdir()
    for name in ("cut_g", "cut_r"):
        lists = [None if row is None else (np.array(row, np.float32) + 7.0) for row in raw[name].to_pylist()]
        raw = raw.set_column(raw.column_names.index(name), name, pa.array(lists, pa.list_(pa.float32())))
    for k in range(2):
        pq.write_table(raw.slice(k * N, N), folder / f"datacube_F{k}.parquet")
    return discover(data, str(folder / "datacube_{field}.parquet"))


def write(folder, raw, order, **lists):
    """A catalogue in any order of rows."""
    ids, fields = np.array(raw["id"].to_pylist()), np.repeat(["F0", "F1"], N)
    columns = {"id": ids[order], "field": fields[order], "split": ["test"] * len(order), "x_mean": np.zeros(len(order))}
    for name, values in lists.items():
        kept = [None if np.isnan(row).all() else row for row in values[order]]
        columns[name] = pa.array(kept, pa.list_(pa.float32(), values.shape[1]))
    pq.write_table(pa.table(columns), folder / "catalogue.parquet", row_group_size=17)
    return PredictionCatalogue(folder)


def test_chi2_is_that_of_the_offset_whatever_the_order_of_the_rows(survey, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 7)
    data, cubes, raw = survey
    flux, ivar = (matrix(raw, f"{what}_b", N_PIXELS) for what in ("flux", "ivar"))
    offsets = np.linspace(0.5, 3, 2 * N)[:, None]  # sigmas, another for each object
    model, std = flux + offsets / np.sqrt(ivar), np.broadcast_to(offsets / np.sqrt(ivar), flux.shape)
    model[3] = np.nan
    order = np.random.default_rng(0).permutation(2 * N)
    catalogue = write(tmp_path, raw, order, desi_b_mean=model, desi_b_std=std)
    assert drawn_columns(catalogue, data) == ("desi_b",)
    result = drawn_errors(catalogue, cubes, data)
    found = result.per_object
    expected = np.where(np.isfinite(model).all(1), offsets[:, 0] ** 2, np.nan)
    assert 20 < np.isfinite(expected).sum() < 2 * N  # some have no spectrum
    assert found["desi_b/chi2"] == pytest.approx(expected[order], rel=1e-3, nan_ok=True)
    stated = expected / (1 + expected)  # the draws' variance is as large as the offset
    assert found["desi_b/chi2_stated"] == pytest.approx(stated[order], rel=1e-3, nan_ok=True)
    assert set(found["desi_b/pixels"][np.isfinite(found["desi_b/chi2"])]) == {N_PIXELS}
    pixels = result.spectra(data)["desi_b"]
    known = np.isfinite(expected)
    assert pixels["chi2"] == pytest.approx(np.full(N_PIXELS, expected[known].mean()), rel=1e-3)
    assert pixels["pull"] == pytest.approx(np.full(N_PIXELS, -offsets[known].mean()), rel=1e-3)
    assert pixels["wave"][[0, -1]].tolist() == [3600.0, 3726.0] and set(pixels["n"]) == {known.sum()}


def test_cutouts_are_judged_above_the_sky_inside_of_the_ellipse(survey, tmp_path):
    data, _, raw = survey
    cubes = brighter_sky(raw, tmp_path / "cubes", data)
    images = np.stack([matrix(raw, f"cut_{band}", SIZE * SIZE) for band in "gr"], axis=1)  # counts = nanomaggies
    noise = 0.1
    model = images - 0.0
    model[:, 0] += 3 * noise  # one band off by three sigma of the sky in every pixel, the other as observed
    order = np.arange(2 * N)[::-1]
    catalogue = write(tmp_path, raw, order, image_mean=model.reshape(2 * N, -1))
    found = drawn_errors(catalogue, cubes, data).per_object
    known = np.isfinite(model).all((1, 2))[order]
    both = found["image/noise_units"][known]
    assert np.median(both) == pytest.approx(np.sqrt(9 / 2), rel=0.15)  # mean over two bands of 9 and 0
    assert np.isnan(found["image/noise_units"][np.isnan(model).all((1, 2))[order]]).all()
    n_inside = 8**2 * np.pi  # pixels of the smallest ellipse
    assert np.median(found["image/flux_pull"][known]) == pytest.approx(3 * np.sqrt(n_inside / 2), rel=0.2)


def test_only_the_wanted_rows_are_looked_at_and_nothing_without_lists(survey, tmp_path):
    data, cubes, raw = survey
    flux = matrix(raw, "flux_b", N_PIXELS)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    catalogue = write(tmp_path / "a", raw, np.arange(2 * N), desi_b_mean=flux)
    wanted = np.zeros(2 * N, bool)
    wanted[20:45] = True
    found = drawn_errors(catalogue, cubes, data, wanted).per_object["desi_b/chi2"]
    assert np.isnan(found[~wanted]).all()
    assert found[wanted & np.isfinite(flux).all(1)] == pytest.approx(0.0, abs=1e-6)
    assert drawn_errors(write(tmp_path / "b", raw, np.arange(2 * N)), cubes, data).per_object == {}


def test_lists_of_another_length_are_refused(survey, tmp_path):
    data, cubes, raw = survey
    catalogue = write(tmp_path, raw, np.arange(2 * N), desi_b_mean=np.zeros((2 * N, 5), np.float32))
    with pytest.raises(DataError, match="64 values"):
        drawn_errors(catalogue, cubes, data)
