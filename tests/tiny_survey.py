"""A survey of a few hundred small objects with the documented groups of spectra, and the stages run on it in-process.

Cutouts are 32 x 32 px in two bands, arms have 64 pixels, so that all three stages together take seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir

from astromodal.config.launching.register import conf_dir, register
from astromodal.stages import drawn

SIZE, N_PIXELS, N_COEFFICIENTS = 32, 64, 12
RUN_ID = "20260301-120000-000"

DATA = """
name: synthetic
root: cubes
ra_column: null
dec_column: null
scalars:
  mag_r: {error: err_mag_r, unit: mag, min: 5, max: 35, nondetection: 99.0}
  specz_z: {transform: asinh, softening: 0.1, min: -0.02, max: 8.0}
  teff: {unit: K, transform: log10, min: 1000, max: 100000}
spectra:
  desi_b: {flux: flux_b, ivar: ivar_b, wave_min: 3600.0, wave_max: 3726.0, wave_step: 2.0}
  desi_r: {flux: flux_r, ivar: ivar_r, wave_min: 5800.0, wave_max: 5926.0, wave_step: 2.0}
  desi_z: {flux: flux_z, ivar: ivar_z, wave_min: 7500.0, wave_max: 7626.0, wave_step: 2.0}
  gaiaxp_bp: {kind: coefficients, flux: xp_bp, n_coefficients: 12}
  gaiaxp_rp: {kind: coefficients, flux: xp_rp, n_coefficients: 12}
images:
  size: 32
  a: null
  b: null
  theta: null
  bands:
    g: {column: cut_g, pivot: 4775, zero_point: 22.5}
    r: {column: cut_r, pivot: 6230, zero_point: 22.5}
splits: {method: hash, val_fraction: 0.2, test_fraction: 0.1}
"""

# Sizes only: everything else is the program's default.
OVERRIDES = (
    "data=tiny",
    "hardware=cpu",
    "hardware.n_threads=1",
    "tracking=off",
    "tokenizer.scalar.n_bins=16",
    "tokenizer.spectrum.quantizer.n_codes=32",
    "tokenizer.image.quantizer.n_codes=24",
    "tokenizer.image.codec.width=8",
    "tokenizer.image.codec.n_blocks=1",
    "tokenizer.image.codec.training.epochs=2",
    "model=tiny",
    "model.d_model=32",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.d_ff=64",
    "training.epochs=2",
    "training.batch_size=16",
    "training.save_every=5",
    "training.log_every=5",
    "schedule.warmup_steps=4",
    "optimizer.learning_rate=0.003",
)


def write_survey(folder: Path, n_fields: int = 2, n: int = 100) -> None:
    """``cubes/datacube_F<k>.parquet`` and the configuration ``conf/data/tiny.yaml`` in ``folder``."""
    (folder / "cubes").mkdir(parents=True)
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "conf" / "data" / "tiny.yaml").write_text(DATA)
    for k in range(n_fields):
        pq.write_table(pa.table(_rows(n, k)), folder / "cubes" / f"datacube_F{k}.parquet", row_group_size=50)


def _rows(n: int, seed: int) -> dict[str, pa.Array]:
    rng = np.random.default_rng(seed)
    brightness, slope = rng.lognormal(1, 1, n), rng.normal(0, 0.4, n)

    def lists(values: np.ndarray, share: float) -> pa.Array:
        has = rng.random(n) < share
        rows = values.reshape(n, -1).astype(np.float32)
        return pa.array([row if ok else None for row, ok in zip(rows, has, strict=True)], pa.list_(pa.float32()))

    columns: dict[str, pa.Array] = {
        "id": pa.array([f"{seed}-{i}" for i in range(n)]),
        "mag_r": pa.array(np.where(rng.random(n) < 0.05, 99.0, 22.5 - 2.5 * np.log10(brightness))),
        "err_mag_r": pa.array(rng.uniform(0.01, 0.1, n)),
        "specz_z": pa.array(rng.exponential(0.5, n), mask=rng.random(n) < 0.5),
        "teff": pa.array(6000 * 10 ** (0.2 * slope)),
    }
    for arm in "brz":
        shape = 1 + slope[:, None] * np.linspace(-1, 1, N_PIXELS) + np.sin(np.arange(N_PIXELS) / 5 + slope[:, None])
        columns[f"flux_{arm}"] = lists(brightness[:, None] * (shape + 0.05 * rng.normal(size=shape.shape)), 0.6)
        columns[f"ivar_{arm}"] = lists(np.broadcast_to((20 / brightness[:, None]) ** 2, shape.shape), 1.0)
    for arm in ("bp", "rp"):
        shape = np.exp(-np.arange(N_COEFFICIENTS)) + 0.05 * rng.normal(size=(n, N_COEFFICIENTS))
        columns[f"xp_{arm}"] = lists(brightness[:, None] * shape, 0.6)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    blob = np.exp(-(x**2 + y**2) / (2 * (2 + slope[:, None, None]) ** 2)) * brightness[:, None, None]
    for band, factor in (("g", 1.0), ("r", 1.5)):
        columns[f"cut_{band}"] = lists(factor * blob + 0.1 * rng.normal(size=blob.shape), 0.5)
    return columns


@contextlib.contextmanager
def undrawn(folder: Path) -> Iterator[None]:
    """Work in ``folder``, without the plots of the stages, which take half of the time."""
    with (
        contextlib.chdir(folder),
        mock.patch.object(drawn, "plot_lm", lambda *_: None),
        mock.patch.object(drawn, "plot_tokenizer", lambda *_: None),
    ):
        yield


def configuration(stage: str, folder: Path, *overrides: str, run_id: str = RUN_ID):
    """The configuration of a stage as its script would compose it, for the survey in ``folder``."""
    register()
    given = [
        f"hydra.searchpath=[file://{folder / 'conf'}]",
        *OVERRIDES,
        f"run_id={run_id}",
        f"run_dir=runs/{stage}/default/{run_id}",
        "tokenizer_id=default",
    ]
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return compose(stage, [*given, *overrides])
