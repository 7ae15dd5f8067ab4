"""Plots are written as PNG files with content; nothing to draw writes nothing."""

import numpy as np

from astromodal.plots import curves
from astromodal.plots.curves import plot_curves, plot_cutouts, plot_gradient_shares, plot_scalars, plot_spectra


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_every_plot_is_written_and_is_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    records = [{"step": i, "train/loss": 5 - i / 10, "train/ce": None if i == 3 else 4.0} for i in range(9)]
    records.append({"step": 9, "val/score": 0.5, "val/ce": 3.0, "val/error_image": 0.4})
    assert is_png(plot_curves(records, tmp_path / "curves.png", {"ce": 5.0, "error_image": 1.0}))
    true = rng.normal(size=(2, 9, 32, 32))
    true[0, 3] = np.nan  # a band that is missing altogether
    assert is_png(plot_cutouts(true, true, [f"b{i}" for i in range(9)], tmp_path / "a" / "cutouts.png"))
    flux = rng.normal(size=100)
    flux[:10] = np.nan
    spectrum = {"group": "desi_b", "wave": np.arange(100), "flux": flux, "reconstruction": np.zeros(100)}
    assert is_png(plot_spectra([spectrum, spectrum | {"valid": np.zeros(100, bool)}], tmp_path / "spectra.png"))
    column = {"name": "mag_r", "unit": "mag", "true": rng.normal(size=50), "predicted": rng.normal(size=50)}
    assert is_png(plot_scalars([column] * 7, tmp_path / "scalars.png"))
    ledger = [{"step": i, "grad_share/image": i / 10, "grad_share/weight_image": 0.1} for i in range(3)]
    assert is_png(plot_gradient_shares(ledger, tmp_path / "shares.png"))  # a share of 0 has no logarithm


def test_nothing_to_draw_writes_nothing(tmp_path):
    assert plot_curves([], tmp_path / "a.png") is None
    assert plot_gradient_shares([{"step": 1, "train/loss": 2.0}], tmp_path / "e.png") is None
    assert plot_cutouts(np.zeros((0, 3, 8, 8)), np.zeros((0, 3, 8, 8)), ["a"], tmp_path / "b.png") is None
    assert plot_spectra([], tmp_path / "c.png") is None
    assert plot_scalars([{"name": "x", "true": [], "predicted": []}], tmp_path / "d.png") is None
    assert list(tmp_path.iterdir()) == []


def test_positive_values_over_a_wide_range_have_logarithmic_axes(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, path: figures.append(figure) or path)
    flux, magnitude = np.geomspace(1.0, 1e4, 50), np.linspace(14.0, 22.0, 50)
    columns = [("flux", flux, flux), ("mag", magnitude, magnitude), ("signed", flux, -flux)]
    curves.plot_scalars([{"name": n, "true": t, "predicted": p} for n, t, p in columns], tmp_path / "a.png")
    assert [axis.get_xscale() for axis in figures[0].axes[:3]] == ["log", "linear", "linear"]
    assert figures[0].axes[0].get_xlim()[0] > 0
