"""Tiny surveys written as Parquet datacubes, for the tests of the tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astromodal.config.schema import DataConfig, ScalarConfig, SpectrumGroupConfig, SpectrumKind, Transform
from astromodal.data.datacube import Batch, Datacube

N_PIXELS = 75  # not a multiple of the patch size
WAVE = 4000.0 + 2.0 * np.arange(N_PIXELS)


def survey_config(root: Path) -> DataConfig:
    """Two groups of spectra, one of coefficients, four columns."""
    grid = {"wave_min": float(WAVE[0]), "wave_max": float(WAVE[-1]), "wave_step": 2.0}
    return DataConfig(
        name="tiny",
        root=str(root),
        ra_column=None,
        dec_column=None,
        batch_rows=32,
        scalars={
            "mag": ScalarConfig(
                error="mag_error",
                unit="mag",
                nondetection=99.0,
                sentinels=[-99.0],
                fit_min=14.0,
                fit_max=22.0,
                max_error=0.5,
            ),
            "flux": ScalarConfig(unit="counts", transform=Transform.log10),
            "redshift": ScalarConfig(unit="", transform=Transform.asinh, softening=0.1, min=-0.1, max=8.0),
            "never": ScalarConfig(unit="K"),
        },
        spectra={
            "blue": SpectrumGroupConfig(flux="blue_flux", ivar="blue_ivar", **grid),
            "red": SpectrumGroupConfig(flux="red_flux", ivar="red_ivar", **grid),
            "xp": SpectrumGroupConfig(kind=SpectrumKind.coefficients, flux="xp_coefficients", n_coefficients=10),
        },
    )


def make_rows(n: int, seed: int) -> dict[str, list]:
    """Columns of ``n`` objects: a third without spectra, some bad values of every kind."""
    rng = np.random.default_rng(seed)
    mag = rng.normal(19, 1.5, n)
    mag[5::29] = 22.6
    mag[::17], mag[1::23] = 99.0, -99.0
    flux = rng.lognormal(3, 2, n)
    flux[::11] = np.nan
    slope, line = rng.normal(0, 0.4, n), rng.uniform(4010, 4140, n)
    brightness = rng.lognormal(1, 1, n)
    blue = (1 + slope[:, None] * np.linspace(-1, 1, N_PIXELS)) + np.exp(-0.5 * ((WAVE - line[:, None]) / 4) ** 2)
    red = 1 + 0.3 * np.sin(WAVE / 9 + line[:, None])
    ivar = np.broadcast_to((20 / brightness[:, None]) ** 2, blue.shape).copy()
    blue, red = (x * brightness[:, None] + rng.normal(size=x.shape) / np.sqrt(ivar) for x in (blue, red))
    ivar[rng.random(ivar.shape) < 0.03] = 0.0
    xp = brightness[:, None] * (np.exp(-np.arange(10.0)) + 0.05 * rng.normal(size=(n, 10)))
    has = rng.random(n) < 0.66

    def lists(values: np.ndarray, where: np.ndarray) -> list:
        return [row.tolist() if ok else None for row, ok in zip(values.astype(np.float32), where, strict=True)]

    return {
        "id": [f"{seed}-{i}" for i in range(n)],
        "mag": mag.tolist(),
        "mag_error": rng.uniform(0.01, 0.6, n).tolist(),
        "flux": flux.tolist(),
        "redshift": rng.exponential(0.5, n).tolist(),
        "never": [None] * n,
        "blue_flux": lists(blue, has),
        "blue_ivar": lists(ivar, has),
        "red_flux": lists(red, has),
        "red_ivar": lists(ivar, has & (rng.random(n) < 0.8)),
        "xp_coefficients": lists(xp, rng.random(n) < 0.5),
    }


def write_cube(path: Path, rows: dict[str, list]) -> None:
    """Write rows as a datacube; columns without values keep their type."""
    lists = [name for name in rows if name.endswith(("_flux", "_ivar", "_coefficients"))]
    types = {"id": pa.string()} | {name: pa.list_(pa.float32()) for name in lists}
    arrays = {name: pa.array(values, types.get(name, pa.float32())) for name, values in rows.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=50)


def make_survey(root: Path, n_fields: int = 2, n: int = 400, change=None):
    """Write a survey; returns (data, cubes, splits). ``change(rows)`` may edit each field's rows first."""
    root.mkdir(parents=True, exist_ok=True)
    for k in range(n_fields):
        rows = make_rows(n, k)
        if change is not None:
            change(rows)
        write_cube(root / f"datacube_F{k}.parquet", rows)
    data = survey_config(root)
    cubes = [Datacube(root / f"datacube_F{k}.parquet", data) for k in range(n_fields)]
    rng = np.random.default_rng(9)
    splits = {cube.field: rng.choice(3, size=cube.n_rows, p=[0.7, 0.2, 0.1]).astype(np.uint8) for cube in cubes}
    return data, cubes, splits


def whole(cube: Datacube) -> Batch:
    """All rows of a cube as one batch."""
    table = pq.read_table(cube.path).combine_chunks().to_batches()[0]
    return Batch(table, np.arange(cube.n_rows), cube.field)
