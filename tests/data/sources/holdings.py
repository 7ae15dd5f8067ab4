"""A few objects as rows of Python, the configuration that reads them, and what every way of holding them gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astromodal.config.schema import DataConfig, ScalarConfig, SpectrumGroupConfig
from astromodal.data.columns import list_column_ragged, numbers
from astromodal.data.datacube import Datacube, discover

N, PIXELS = 10, 4


def rows(n: int = N, first: int = 0) -> list[dict[str, Any]]:
    """Objects with an id, a position, a magnitude (one unknown) and a spectrum (one unknown)."""
    return [
        {
            "id": 2**53 + 1 + k,
            "ra": 10.0 + k,
            "dec": -1.0 * k,
            "mag": None if k % 10 == 3 else 15.0 + k,
            "flux": None if k % 10 == 5 else [1.0 * k, 2.0 * k, 3.0 * k, 4.5],
            "wave": None if k % 10 == 5 else [4.0, 5.0, 6.0, 7.0],
        }
        for k in range(first, first + n)
    ]


def survey(root: str | Path, flux: str = "flux", wave: str = "wave", **changes: Any) -> DataConfig:
    group = SpectrumGroupConfig(flux=flux, wave=wave, wave_min=4.0, wave_max=7.0, wave_step=1.0)
    values = {
        "name": "t",
        "root": str(root),
        "batch_rows": 3,
        "scalars": {"mag": ScalarConfig()},
        "spectra": {"s": group},
    }
    return DataConfig(**(values | changes))


def fields(data: DataConfig) -> list[Datacube]:
    return discover(data, f"{data.root}/datacube_{{field}}.parquet")


def read(cubes: Sequence[Datacube]) -> list[dict[str, Any]]:
    """All rows of some cubes, as :func:`rows` has them."""
    out = []
    for cube in cubes:
        group = cube.data.spectra["s"]
        for batch in cube.batches([*(c for c in ("id", "ra", "dec", "mag")), group.flux, group.wave]):
            ids, mag = cube.batch_ids(batch), numbers(batch.column("mag"))
            lists = [list_column_ragged(batch.column(name)) for name in (group.flux, group.wave)]
            place = np.stack([numbers(batch.column(name)) for name in ("ra", "dec")], 1)
            for i in range(len(batch)):
                flux, wave = (
                    [float(x) for x in flat[o[i] : o[i + 1]]] if there[i] else None for flat, o, there in lists
                )
                out.append(
                    {
                        "id": int(ids[i]),
                        "ra": place[i, 0],
                        "dec": place[i, 1],
                        "mag": None if np.isnan(mag[i]) else float(mag[i]),
                        "flux": flux,
                        "wave": wave,
                    }
                )
    return out


def objects() -> Any:
    """The rows as a masked table of astropy; a row without a spectrum has arrays of masked values."""
    from astropy.table import MaskedColumn, Table

    found = Table({name: [row[name] for row in rows()] for name in ("id", "ra", "dec")})
    found["mag"] = MaskedColumn([row["mag"] or 7.0 for row in rows()], mask=[row["mag"] is None for row in rows()])
    for name in ("flux", "wave"):
        mask = [[row[name] is None] * 4 for row in rows()]
        found[name] = MaskedColumn([row[name] or [7.0] * 4 for row in rows()], mask=mask)
    return found
