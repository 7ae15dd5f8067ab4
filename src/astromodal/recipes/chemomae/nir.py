"""Sets of one-dimensional spectra on one grid: near-infrared absorbance, Gaia XP, or made up.

A file is Parquet with a list column (``spectrum``, or ``gaiaxp_flux`` of a datacube), any numeric label columns and,
if its makers say so, a column ``train`` of 0 and 1. Without a file a seeded generator makes spectra of known
constituents by the Beer-Lambert law, with the scatter, baselines and noise of diffuse reflectance.

Shapes: n spectra, L values, K constituents.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...data.columns import (
    is_number,
    list_column_ragged,
    list_column_to_matrix,
    list_value_type,
    numbers,
    refuse_twice,
)
from ...data.masks import mask_columns, unmasked
from ...errors import ConfigError, DataError

WAVE = np.arange(1100.0, 2500.0, 2.0)  # nm, of made-up spectra: the range of common laboratory instruments
# Centres and widths (nm) of overtones and combinations: O-H of water, C-H, N-H and C=O of organic matter, clay's O-H.
BANDS = {
    "water": ((1450.0, 38.0, 0.8), (1940.0, 42.0, 1.0)),
    "organic": ((1210.0, 30.0, 0.3), (1730.0, 35.0, 0.7), (2310.0, 28.0, 1.0), (2350.0, 22.0, 0.6)),
    "protein": ((1510.0, 33.0, 0.4), (2055.0, 30.0, 0.9), (2180.0, 26.0, 1.0)),
    "clay": ((1412.0, 12.0, 0.7), (2206.0, 14.0, 1.0)),
}


@dataclass(frozen=True)
class SpectraSet:
    """Spectra on one grid with what is known of each."""

    x: np.ndarray  # (n, L) float32, finite
    labels: dict[str, np.ndarray]  # name -> (n,) float64, NaN where unknown
    train: np.ndarray | None  # (n,) bool: for training, where the file says so
    counts: dict[str, int]  # rows left out, by reason

    def __len__(self) -> int:
        return len(self.x)


def read_spectra_set(path: str | Path, column: str = "spectrum") -> SpectraSet:
    """Spectra of one file, or of all files that a pattern matches.

    Rows without a spectrum, with values that are not finite, or of another length than most, are left out and counted.

    Raises:
        DataError: no such file or column, or no usable spectrum in it.
    """
    files = sorted(glob.glob(str(path))) or [str(path)]
    tables = [_read_table(Path(file), column) for file in files]
    lengths = np.concatenate(
        [np.diff(list_column_ragged(table[column], file)[1]) for table, file in zip(tables, files, strict=True)]
    )
    usual = np.bincount(lengths[lengths > 0]).argmax() if (lengths > 0).any() else 0
    if not usual:
        raise DataError("at least one spectrum", got=f"none in {len(lengths)} rows", where=f"{path}, {column}")
    parts, kept = [], []
    for table, file in zip(tables, files, strict=True):
        values, present = list_column_to_matrix(table[column], int(usual), file, strict=False)
        good = present & np.isfinite(values).all(1)
        parts.append(values[good].astype(np.float32, copy=False))
        kept.append(good)
    good = np.concatenate(kept)
    if not good.any():
        raise DataError("spectra of finite values", got=f"none in {len(good)} rows", where=f"{path}, {column}")
    labels = {name: _joined(tables, name)[good] for name in _label_names(tables[0], column)}
    train = labels.pop("train", None)
    counts = {"null": int((lengths == 0).sum()), "other_length": int(((lengths != usual) & (lengths > 0)).sum())}
    counts["not_finite"] = int((lengths == usual).sum() - good.sum())
    return SpectraSet(np.concatenate(parts), labels, None if train is None else train > 0, counts)


def _read_table(path: Path, column: str) -> pa.Table:
    """The list column and the numeric columns of a Parquet file."""
    try:
        file = pq.ParquetFile(path)
        schema, masks = file.schema_arrow, mask_columns(file.schema_arrow)
        names = [f.name for f in schema if (f.name == column or is_number(f.type)) and f.name not in masks.values()]
        lists = [f.name for f in file.schema_arrow if list_value_type(f.type) is not None]
        if column not in lists:
            raise DataError(
                f"a list column {column}",
                got=", ".join(lists) or "no list column",
                where=path,
                repair="recipe.column=<one of them>",
            )
        refuse_twice(schema.names, names, path)
        table = file.read(columns=[*names, *(masks[name] for name in names if name in masks)])
        return unmasked(table, names, masks)[0]
    except FileNotFoundError as error:
        repair = "recipe.path=null makes spectra"
        raise DataError("a Parquet file of spectra", got="nothing", where=path, repair=repair) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError("a Parquet file", got=str(error).splitlines()[0], where=path) from error


def _label_names(table: pa.Table, column: str) -> list[str]:
    return [name for name in table.column_names if name != column]


def _joined(tables: list[pa.Table], name: str) -> np.ndarray:
    """A numeric column over all files, (n,), NaN where null or where a file lacks it."""
    columns = [
        numbers(table[name], name) if name in table.column_names else np.full(len(table), np.nan) for table in tables
    ]
    return np.concatenate(columns).astype(np.float64)


def synthetic_spectra(n: int, seed: int = 0, noise: float = 3e-4) -> SpectraSet:
    """Absorbance spectra (n, 700) of mixtures; labels are the K amounts.

    Absorbance is a scatter-free path length times the sum of amounts and band profiles, plus what diffuse reflectance
    adds: an offset, a slope, a curvature, and a factor for grain size, none of them linked to the amounts.

    >>> synthetic_spectra(3).x.shape
    (3, 700)
    """
    if n < 1:
        raise ConfigError("one spectrum or more", got=n, where="recipe.n_synthetic")
    rng = np.random.default_rng([seed, 0x51EC])
    amounts = rng.gamma(3.0, 0.1, (n, len(BANDS)))
    amounts[:, 2] = 0.5 * amounts[:, 2] + 0.25 * amounts[:, 1]  # protein goes with organic matter
    profiles = np.stack(
        [
            sum(height * np.exp(-0.5 * ((WAVE - centre) / width) ** 2) for centre, width, height in bands)
            for bands in BANDS.values()
        ]
    )
    shift = rng.normal(0.0, 3.0, n)  # nm: bands move with temperature and hydrogen bonds
    pure = np.stack([np.interp(WAVE, WAVE + d, row) for d, row in zip(shift, amounts @ profiles, strict=True)])
    t = (WAVE - WAVE.mean()) / 700.0
    curve = rng.normal(0.1, 0.04, (n, 1)) * t + rng.normal(0.0, 0.03, (n, 1)) * t**2
    offset = rng.lognormal(-0.7, 0.15, (n, 1))
    x = rng.lognormal(0.0, 0.2, (n, 1)) * pure + offset + curve + rng.normal(0.0, noise, pure.shape)
    return SpectraSet(x.astype(np.float32), dict(zip(BANDS, amounts.T, strict=True)), None, {})


def normalised(x: np.ndarray, how: str) -> np.ndarray:
    """Spectra (n, L) as the network sees them.

    ``snv`` (standard normal variate, Barnes et al. 1989) takes each spectrum's own mean and standard deviation out, and
    with them most of the scatter, and any unit; ``none`` leaves them as they are. A constant spectrum becomes 0.

    Raises:
        ConfigError: another name.
    """
    if how == "none":
        return x
    if how != "snv":
        raise ConfigError("a normalisation of snv, none", got=how, where="recipe.normalize")
    wide = x.astype(np.float64)
    wide = wide - wide.mean(1, keepdims=True)
    spread = wide.std(1, keepdims=True)
    return np.divide(wide, spread, out=np.zeros_like(wide), where=spread > 0).astype(np.float32)


def split_rows(spectra: SpectraSet, seed: int, fractions: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Rows of ``train``, ``val`` and ``test``.

    Where the file says which rows are for training, the others are the test and ``val`` is drawn from its training
    rows; otherwise all three are drawn.

    Args:
        fractions: of ``val`` and ``test``.

    Raises:
        DataError: too few spectra for three parts.
    """
    order = np.random.default_rng([seed, 0x5B17]).permutation(len(spectra))
    if spectra.train is not None and spectra.train.any() and not spectra.train.all():
        rest, test = order[spectra.train[order]], order[~spectra.train[order]]
    else:
        n_test = max(1, round(fractions["test"] * len(order)))
        rest, test = order[n_test:], order[:n_test]
    n_val = max(1, round(fractions["val"] * len(order)))
    if len(rest) <= n_val:
        raise DataError("spectra for training, validation and test", got=f"{len(order)} in all")
    return {"train": np.sort(rest[n_val:]), "val": np.sort(rest[:n_val]), "test": np.sort(test)}
