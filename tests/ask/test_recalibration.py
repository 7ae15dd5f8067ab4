"""Temperatures and conformal shifts: against a search on a grid, guarantees on fresh objects, and files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import ndtri

from astromodal.ask.recalibration import (
    Calibration,
    ColumnCalibration,
    bins_of,
    fit_shifts,
    fit_temperature,
    temper,
    widths,
)
from astromodal.errors import ArtifactError, ArtifactMissingError, DataError
from tests.ask.toy_sky import EDGES, LEVELS, gaussian_bins

WITH_MEDIAN = (*LEVELS[:2], 0.5, *LEVELS[2:])


def gaussians(n: int, stated: float, true: float = 0.04, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mean = rng.uniform(0.2, 0.6, n)
    return gaussian_bins(mean, stated), mean + true * rng.normal(size=n)


@pytest.mark.parametrize("stated", [0.02, 0.04, 0.08])
def test_the_temperature_repairs_gaussians_of_the_wrong_width(stated):
    """p^(1/T) of a Gaussian has the variance T sigma²: T is (true / stated)²."""
    p, y = gaussians(4000, stated)
    assert fit_temperature(p.astype(np.float32), bins_of(EDGES, y)) == pytest.approx((0.04 / stated) ** 2, rel=0.1)


def test_the_temperature_is_the_best_of_a_grid():
    rng = np.random.default_rng(1)
    p, k = rng.dirichlet(np.full(6, 0.5), 300), rng.integers(6, size=300)

    def nll(t):
        return -np.log(temper(p, t)[np.arange(300), k]).mean()

    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 400))
    assert nll(fit_temperature(p, k)) <= min(nll(t) for t in grid) + 1e-4


def test_a_temperature_keeps_what_is_certain_and_what_is_missing():
    p = np.array([[0.0, 1.0, 0.0], [np.nan, 0.5, 0.5], [0.0, 0.0, 0.0]])
    assert temper(p, 3.0)[0].tolist() == [0.0, 1.0, 0.0]
    assert np.isnan(temper(p, 3.0)[1:]).any(1).all()
    with pytest.raises(DataError, match="50 objects"):
        fit_temperature(np.full((49, 2), 0.5), np.zeros(49, int))


def test_bins_are_those_of_the_quantiser():
    assert bins_of(np.array([0.0, 1.0, 2.0]), np.array([-5.0, 0.0, 1.0, 1.1, 9.0])).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("noise", ["normal", "skewed"])
def test_conformal_quantiles_hold_on_fresh_objects_whatever_the_distribution(noise):
    """Averaged over many calibration sets the coverage is that of Vovk et al., to within the spread of the average."""
    rng, n, shares = np.random.default_rng(2), 120, []
    for _ in range(150):
        scale = rng.uniform(0.5, 3.0, 2 * n)
        draw = rng.normal(0, 1, 2 * n) if noise == "normal" else rng.exponential(1, 2 * n)
        y = scale * draw + 0.7
        quantiles = 0.3 * scale[:, None] * ndtri(np.array(WITH_MEDIAN))  # far too narrow, and off
        shifts = fit_shifts(quantiles[:n], WITH_MEDIAN, y[:n])
        moved = ColumnCalibration(levels=WITH_MEDIAN, shifts=shifts).shifted(quantiles[n:], WITH_MEDIAN)
        shares.append((y[n:, None] <= moved).mean(0))
    share = np.mean(shares, 0)
    exact = [np.floor((n + 1) * t) / (n + 1) if t < 0.5 else np.ceil((n + 1) * t) / (n + 1) for t in WITH_MEDIAN]
    assert share == pytest.approx(exact, abs=0.015)


def test_shifts_of_right_quantiles_are_small_and_too_few_objects_give_none():
    rng = np.random.default_rng(3)
    y = rng.normal(size=4000)
    quantiles = np.broadcast_to(ndtri(np.array(WITH_MEDIAN)), (4000, 5))
    assert np.abs(fit_shifts(quantiles, WITH_MEDIAN, y)).max() < 0.06
    few = fit_shifts(quantiles[:60, [0, 2, 4]], (0.001, 0.5, 0.999), y[:60])
    assert few[0] is None and few[2] is None and few[1] is not None
    assert fit_shifts(quantiles[:10], WITH_MEDIAN, y[:10]) == (None,) * 5


def test_objects_without_a_width_are_neither_fitted_on_nor_moved():
    quantiles = np.array([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0], [0.0, 2.0, 6.0]])
    levels = (0.16, 0.5, 0.84)
    assert widths(quantiles, levels).tolist() == [3.0, 0.0, 6.0]
    moved = ColumnCalibration(levels=levels, shifts=(-0.1, 0.0, 0.1)).shifted(quantiles, levels)
    assert moved == pytest.approx(np.array([[-0.3, 1.0, 3.3], [2.0, 2.0, 2.0], [-0.6, 2.0, 6.6]]))
    y = np.random.default_rng(5).normal(size=400)
    some = np.broadcast_to(ndtri(np.array(levels)), (400, 3))
    with_flat = np.concatenate([some, np.full((400, 3), 7.0)])
    assert fit_shifts(with_flat, levels, np.concatenate([y, y])) == fit_shifts(some, levels, y)


def test_some_of_the_fitted_levels_may_be_asked_but_no_others():
    fitted = ColumnCalibration(levels=WITH_MEDIAN, shifts=(-0.4, -0.2, 0.1, None, 0.3))
    quantiles = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]])
    whole = fitted.shifted(quantiles, WITH_MEDIAN)
    assert whole == pytest.approx(np.array([[-2.8, -1.4, 0.2, 1.0, 2.6]]))
    inner = fitted.shifted(quantiles[:, 1:4], WITH_MEDIAN[1:4])
    assert inner == pytest.approx(whole[:, 1:4])
    for levels in ((0.1, 0.5, 0.9), (0.025, 0.5, 0.975)):  # not fitted; a width of which the shifts are no multiples
        with pytest.raises(DataError, match=r"evaluate.quantiles=\[0.025,0.16,0.84,0.975\]"):
            fitted.shifted(quantiles[:, :3], levels)


def test_a_calibration_is_read_as_it_was_written_and_belongs_to_its_weights(tmp_path):
    path = tmp_path / "calibration.json"
    column = ColumnCalibration(1.5, 100, (0.16, 0.5, 0.84), (None, 0.1, -0.2), 90, {"split": "val", "half": None})
    whole = Calibration("abc")
    whole.add("z", ["r", "g"], column)
    whole.save(path)
    found = Calibration.load(path, "abc")
    assert found == whole and found.of("z", {"g", "r"}) == column
    assert found.of("z", ["g"]) is None and found.of("z", None) is None and found.of("r", ["g", "r"]) is None
    with pytest.raises(ArtifactError, match="weights def"):
        Calibration.load(path, "def")
    with pytest.raises(ArtifactMissingError):
        Calibration.load(tmp_path / "none.json")
    written = path.read_bytes()
    for bit in np.random.default_rng(0).choice(8 * len(written), 200, replace=False):  # none is read without a word
        damaged = bytearray(written)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert Calibration.load(path) == whole
        except ArtifactError as error:
            assert "calibration.json" in str(error) and "to repair: fit it again" in str(error)
    content = json.loads(written)
    del content["checksum"]  # as earlier versions wrote it
    path.write_text(json.dumps(content))
    assert Calibration.load(path, "abc") == whole
    path.write_text(json.dumps(content | {"questions": [{"column": "z", "given": [], "unknown": 3}]}))
    with pytest.raises(ArtifactError, match="whole calibration"):
        Calibration.load(path)
    path.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(ArtifactError, match="format"):
        Calibration.load(path)


def test_a_file_keeps_the_questions_that_were_not_asked_again_and_forgets_other_weights(tmp_path):
    path = tmp_path / "calibration.json"

    def fitted(weights: str, given: list[str], temperature: float) -> None:
        new = Calibration(weights)
        new.add("z", given, ColumnCalibration(temperature, 100))
        new.merge_into(path)

    for given, temperature in ((["g"], 1.1), (["g", "r"], 1.2), (["r", "g"], 1.3)):
        fitted("abc", given, temperature)
    found = Calibration.load(path, "abc")
    assert [found.of("z", given).temperature for given in (["g"], ["g", "r"])] == [1.1, 1.3]
    fitted("def", ["g"], 2.0)
    assert [key[:2] for key in Calibration.load(path, "def").questions] == [("z", ("g",))]
    assert not list(tmp_path.glob("*.lock"))


def test_a_fit_on_other_objects_stands_beside_the_first_and_the_larger_one_answers(tmp_path):
    """A fit on half of the validation objects, or of a re-encoded survey, does not take the place of the whole one."""
    path = tmp_path / "calibration.json"
    for temperature, n, fingerprint in ((1.1, 300, "whole"), (1.5, 150, "half"), (1.2, 300, "whole")):
        new = Calibration("abc")
        on = {"split": "val", "half": None, "data": "tokens x", "objects": n, "fingerprint": fingerprint}
        new.add("z", ["g"], ColumnCalibration(temperature, n, fitted_on=on))
        new.merge_into(path)
    found = Calibration.load(path, "abc")
    assert len(found.questions) == 2 and found.of("z", ["g"]).temperature == 1.2
    assert found.of("z", ["g"]).said() == "300 val objects of tokens x"
