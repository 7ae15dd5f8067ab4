"""Who stands in training, validation and test: decided by sky position or by id, never by row or file order.

Neighbouring objects share sky pixels, seeing and calibration, so objects are divided by cells of the sky where there
are positions. Detections within one arcsecond are the same object, also in two files or across the border of two
cells, and stand together; a model is never tested on an object that it has seen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, DataError
from ..files.ids import hash_ids
from ..machine.random import keyed_uniform
from .neighbours import MEMBER, N_STRIPS, splits_of_groups, strip_of
from .on_disk import Dealt, Records, SurveyKeys

if TYPE_CHECKING:
    from ..config.schema import DataConfig, SplitConfig
    from .datacube import Datacube

TRAIN, VAL, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "val", "test")
_BY_ID, _BY_CELL, _BY_FIELD = 1, 2, 3  # separate streams of random numbers

log = logging.getLogger(__name__)


class Splits(Mapping[str, np.ndarray]):
    """Field → split of each row ``(n_rows,)`` uint8 of TRAIN, VAL, TEST, read from a scratch file as it is asked for.

    Pickles as the arrays.

    Attributes:
        counts: objects in each split, ``(3,)``.
    """

    def __init__(self, cubes: Sequence[Datacube], records: Records, counts: np.ndarray) -> None:
        ends = np.cumsum([cube.n_rows for cube in cubes]).tolist()
        self._rows = {cube.field: (end - cube.n_rows, end) for cube, end in zip(cubes, ends, strict=True)}
        self._records, self.counts = records, counts

    def __getitem__(self, field: str) -> np.ndarray:
        return self._records.read(*self._rows[field])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __reduce__(self) -> tuple[type, tuple[dict[str, np.ndarray]]]:
        return dict, (dict(self),)


def assign_splits(cubes: Sequence[Datacube], data: DataConfig, keys: SurveyKeys | None = None) -> Splits:
    """Split of every object: field → ``(n_rows,)`` uint8 of TRAIN, VAL, TEST.

    Reads ids and positions only, and keeps them on the disk; memory does not grow with the survey. A split that comes
    out empty is logged as a warning.

    Args:
        keys: of these cubes, where they were read before.

    Raises:
        ConfigError: fractions that leave nothing to train on, or a cell without size.
        DataError: ``method: sky`` without any position, or no room for scratch files.
    """
    config = data.splits
    _check(config)
    keys = keys or SurveyKeys(cubes)
    strips = np.zeros(N_STRIPS, np.int64)  # objects with a position in each
    for _, records in keys.records.chunks():
        known = has_position(_positions(records))
        strips += np.bincount(strip_of(records["dec"][known]), minlength=N_STRIPS)
    method = str(getattr(config.method, "value", config.method))
    if method == "auto":
        method = "sky" if strips.any() else "hash"
    if method == "sky" and not strips.any():
        raise DataError(
            "positions for data.splits.method=sky",
            got="none in any datacube",
            where=data.root,
            repair="data.splits.method=hash",
        )
    split, dealt = _each_alone(keys, config, method, strips)
    for rows, values in splits_of_groups(dealt):
        split.change(rows, values)
    counts = np.zeros(3, np.int64)
    for _, values in split.chunks():
        counts += np.bincount(values, minlength=3)
    wanted = (1.0, config.val_fraction, config.test_fraction)
    empty = [SPLIT_NAMES[i] for i in range(3) if counts[i] == 0 and wanted[i] > 0]
    if empty:
        log.warning(
            "no object in split %s (method %s, %d objects); set data.splits.method=hash, a smaller "
            "data.splits.cell_deg or another data.splits.seed",
            " and ".join(empty),
            method,
            len(split),
        )
    return Splits(cubes, split, counts)


def _positions(records: np.ndarray) -> np.ndarray:
    return np.stack([records["ra"], records["dec"]], 1)


def _each_alone(keys: SurveyKeys, config: SplitConfig, method: str, strips: np.ndarray) -> tuple[Records, Dealt]:
    """The split of each object without its neighbours, and objects with a position by strip of declination."""
    split, dealt = Records(np.dtype(np.uint8)), Dealt(MEMBER, strips)
    ends = np.cumsum([cube.n_rows for cube in keys.cubes])
    by_field = np.zeros(len(ends), np.uint8)
    if method == "field":
        chosen = field_splits([cube.field for cube in keys.cubes], config)
        by_field = np.array([chosen[cube.field] for cube in keys.cubes], np.uint8)
    for start, records in keys.records.chunks():
        rows, positions = np.arange(start, start + len(records)), _positions(records)
        known = has_position(positions)
        if method == "field":
            values = by_field[np.searchsorted(ends, rows, side="right")]
        else:
            values = _cut(keyed_uniform(config.seed, _BY_ID, records["key"], 0), config)
            if method == "sky":
                values[known] = sky_splits(positions[known], config)
        split.append(values)
        members = np.empty(int(known.sum()), MEMBER)
        for name in ("key", "ra", "dec"):
            members[name] = records[name][known]
        members["row"], members["split"] = rows[known], values[known]
        dealt.put(strip_of(members["dec"]), members)
    return split, dealt


def _check(config: SplitConfig) -> None:
    val, test = config.val_fraction, config.test_fraction
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ConfigError(
            "val_fraction and test_fraction of 0 or more, together below 1",
            got=f"{val} and {test}",
            where="data.splits",
        )
    if not 0 < config.cell_deg <= 90:
        raise ConfigError("cell_deg above 0 and at most 90", got=config.cell_deg, where="data.splits")


def _cut(uniform: np.ndarray, config: SplitConfig) -> np.ndarray:
    """Splits from uniform numbers: test below test_fraction, then validation, the rest for training."""
    split = np.full(len(uniform), TRAIN, np.uint8)
    split[uniform < config.test_fraction + config.val_fraction] = VAL
    split[uniform < config.test_fraction] = TEST
    return split


def has_position(positions: np.ndarray) -> np.ndarray:
    """Rows of ``(n, 2)`` degrees that are a place on the sky (sentinels such as -99 in dec are not)."""
    ra, dec = positions[:, 0], positions[:, 1]
    with np.errstate(invalid="ignore"):
        return (ra >= -180) & (ra <= 360) & (dec >= -90) & (dec <= 90)


def sky_cells(positions: np.ndarray, cell_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Band in declination and cell in right ascension, int64 each: cells of about ``cell_deg`` on both sides.

    A band has ``ceil(360 cos(dec) / cell_deg)`` cells, so cells keep their area towards the poles and RA 0 = 360.
    """
    dec = positions[:, 1]
    n_bands = int(np.ceil(180.0 / cell_deg))
    band = np.clip(np.floor((dec + 90.0) / cell_deg).astype(np.int64), 0, n_bands - 1)
    middle = np.clip((band + 0.5) * cell_deg - 90.0, -90.0, 90.0)
    n_cells = np.maximum(np.ceil(360.0 * np.cos(np.deg2rad(middle)) / cell_deg - 1e-9), 1).astype(np.int64)
    cell = np.floor(np.mod(positions[:, 0], 360.0) / 360.0 * n_cells).astype(np.int64)
    return band, np.minimum(cell, n_cells - 1)


def sky_splits(positions: np.ndarray, config: SplitConfig) -> np.ndarray:
    """Split of each position by its cell, ``(n,)`` uint8."""
    band, cell = sky_cells(positions, config.cell_deg)
    return _cut(keyed_uniform(config.seed, _BY_CELL, band, cell), config)


def field_splits(fields: Sequence[str], config: SplitConfig) -> dict[str, int]:
    """Whole fields: in the order of their hashes the first go to test, the next to validation.

    With three fields or more every wanted split gets at least one.
    """
    names = sorted(set(fields))
    order = np.argsort(keyed_uniform(config.seed, _BY_FIELD, hash_ids(names), 0), kind="stable")
    least = 1 if len(names) >= 3 else 0
    n_test = max(round(config.test_fraction * len(names)), least if config.test_fraction > 0 else 0)
    n_val = max(round(config.val_fraction * len(names)), least if config.val_fraction > 0 else 0)
    n_val = min(n_val, max(len(names) - n_test - 1, 0))
    splits = [TEST] * n_test + [VAL] * n_val + [TRAIN] * (len(names) - n_test - n_val)
    return {names[i]: split for i, split in zip(order, splits, strict=True)}
