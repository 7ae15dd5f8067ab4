"""Who stands in training, validation and test: decided by sky position or by id, never by row or file order.

Neighbouring objects share sky pixels, seeing and calibration, so objects are divided by cells of the sky where there
are positions. Detections within one arcsecond are the same object, also in two files or across the border of two
cells, and stand together; a model is never tested on an object that it has seen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, DataError
from ..files.ids import hash_ids
from ..machine.random import keyed_uniform
from .datacube import LIGHT_ROWS, Datacube

if TYPE_CHECKING:
    from ..config.schema import DataConfig, SplitConfig

TRAIN, VAL, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "val", "test")
FRIENDS_ARCSEC = 1.0
_BY_ID, _BY_CELL, _BY_FIELD = 1, 2, 3  # separate streams of random numbers

log = logging.getLogger(__name__)


def assign_splits(cubes: Sequence[Datacube], data: DataConfig) -> dict[str, np.ndarray]:
    """Split of every object: field → ``(n_rows,)`` uint8 of TRAIN, VAL, TEST.

    Reads ids and positions only; keeps 8 bytes per object, 24 more where it has a position. A split that comes out
    empty is logged as a warning.

    Raises:
        ConfigError: fractions that leave nothing to train on, or a cell without size.
        DataError: ``method: sky`` without any position.
    """
    config = data.splits
    _check(config)
    ids = np.concatenate([_id_hashes(cube) for cube in cubes]) if cubes else np.empty(0, np.uint64)
    positions = np.concatenate([cube.positions() for cube in cubes]) if cubes else np.empty((0, 2))
    known = has_position(positions)
    method = str(getattr(config.method, "value", config.method))
    if method == "auto":
        method = "sky" if known.any() else "hash"
    if method == "sky" and not known.any():
        raise DataError(
            "positions for data.splits.method=sky",
            got="none in any datacube",
            where=data.root,
            repair="data.splits.method=hash",
        )
    if method == "field":
        by_field = field_splits([cube.field for cube in cubes], config)
        split = np.repeat([by_field[cube.field] for cube in cubes], [cube.n_rows for cube in cubes]).astype(np.uint8)
    else:
        split = _cut(keyed_uniform(config.seed, _BY_ID, ids, 0), config)
        if method == "sky":
            split[known] = sky_splits(positions[known], config)
    rows = np.flatnonzero(known)
    leader = friends(positions[rows], ids[rows])
    split[rows] = split[rows][leader]
    sizes = np.bincount(split, minlength=3)
    wanted = (1.0, config.val_fraction, config.test_fraction)
    empty = [SPLIT_NAMES[i] for i in range(3) if sizes[i] == 0 and wanted[i] > 0]
    if empty:
        log.warning(
            "no object in split %s (method %s, %d objects); set data.splits.method=hash, a smaller "
            "data.splits.cell_deg or another data.splits.seed",
            " and ".join(empty),
            method,
            len(split),
        )
    ends = np.cumsum([cube.n_rows for cube in cubes])
    return {cube.field: part for cube, part in zip(cubes, np.split(split, ends[:-1]), strict=True)} if cubes else {}


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


def _id_hashes(cube: Datacube) -> np.ndarray:
    """Hash of each row's id, ``(n_rows,)`` uint64."""
    column = [cube.data.id_column]
    return np.concatenate([hash_ids(cube.batch_ids(batch)) for batch in cube.batches(column, rows=LIGHT_ROWS)])


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


def unit_vectors(positions: np.ndarray) -> np.ndarray:
    """Directions of ``(n, 2)`` degrees, ``(n, 3)``: no seam at RA 0 and no singularity at the poles."""
    ra, dec = np.deg2rad(positions).T
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def friends(positions: np.ndarray, ids: np.ndarray, radius_arcsec: float = FRIENDS_ARCSEC) -> np.ndarray:
    """For each object the one that speaks for its group, ``(n,)`` int64: itself for an object without neighbours.

    Groups are friends of friends (connected components) within ``radius_arcsec``; the member with the smallest
    ``ids`` (uint64 hashes) speaks, which does not depend on the order of the rows.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    leader = np.arange(len(positions))
    if len(positions) < 2:
        return leader
    chord = 2.0 * np.sin(np.deg2rad(radius_arcsec / 3600.0) / 2.0)
    pairs = cKDTree(unit_vectors(positions)).query_pairs(chord, output_type="ndarray")
    if not len(pairs):
        return leader
    nodes, index = np.unique(pairs, return_inverse=True)  # only objects with neighbours enter the graph
    index = index.reshape(-1, 2)
    graph = coo_array((np.ones(len(index), bool), (index[:, 0], index[:, 1])), shape=(len(nodes), len(nodes)))
    _, component = connected_components(graph, directed=False)
    order = np.lexsort((ids[nodes], component))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(component[order]) > 0]))
    leader[nodes] = nodes[order[starts]][component]
    return leader
