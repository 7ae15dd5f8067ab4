"""Splits: independent of order, neighbours together, seams of the sky without effect."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.config.schema import DataConfig, SplitConfig, SplitMethod
from astromodal.data import neighbours, on_disk
from astromodal.data.datacube import Datacube
from astromodal.data.splits import TEST, TRAIN, VAL, assign_splits, sky_cells
from astromodal.errors import ConfigError, DataError


def cubes_of(folder, tables, **changes):
    """Cubes from {field: (ids, ra, dec)}."""
    data = DataConfig(name="t", root=str(folder), splits=SplitConfig(**changes))
    cubes = []
    for field, (ids, ra, dec) in tables.items():
        path = folder / f"datacube_{field}.parquet"
        columns = {"id": pa.array(ids), "ra": pa.array(ra, pa.float64()), "dec": pa.array(dec, pa.float64())}
        pq.write_table(pa.table(columns), path)
        cubes.append(Datacube(path, data))
    return cubes, data


def by_id(cubes, splits):
    return {i: int(s) for cube in cubes for i, s in zip(cube.ids(), splits[cube.field], strict=True)}


def random_sky(n, seed=0):
    rng = np.random.default_rng(seed)
    return [f"o{seed}_{i}" for i in range(n)], rng.uniform(0, 360, n), np.rad2deg(np.arcsin(rng.uniform(-1, 1, n)))


def friends(positions, keys):
    """For each object the one whose split its group takes; ``splits_of_groups`` with each object a split of its own."""
    members = np.zeros(len(positions), neighbours.MEMBER)
    members["ra"], members["dec"] = positions.T
    members["key"], members["row"] = keys, np.arange(len(members))
    members["split"] = np.arange(len(members))
    strips = neighbours.strip_of(members["dec"])
    dealt = on_disk.Dealt(neighbours.MEMBER, np.bincount(strips, minlength=neighbours.N_STRIPS))
    dealt.put(strips, members)
    leader = np.arange(len(members))
    for rows, values in neighbours.splits_of_groups(dealt):
        leader[rows] = values
    return leader, len(dealt)


def test_the_order_of_rows_and_files_has_no_effect(tmp_path):
    ids, ra, dec = random_sky(600)
    ra[300:400], dec[300:400] = ra[:100], dec[:100] + 0.5 / 3600  # pairs, also across files
    first, data = cubes_of(tmp_path, {"A": (ids[:350], ra[:350], dec[:350]), "B": (ids[350:], ra[350:], dec[350:])})
    want = by_id(first, assign_splits(first, data))
    order = np.random.default_rng(1).permutation(600)
    ids, ra, dec = np.array(ids)[order], ra[order], dec[order]
    again, data = cubes_of(tmp_path, {"D": (ids[:50], ra[:50], dec[:50]), "C": (ids[50:], ra[50:], dec[50:])})
    assert by_id(again, assign_splits(again[::-1], data)) == want
    assert {want[f"o0_{i}"] == want[f"o0_{i + 300}"] for i in range(100)} == {True}


@pytest.mark.parametrize("method", list(SplitMethod))
def test_fractions_are_met_and_dtype_is_uint8(tmp_path, method):
    tables = {f"F{k}": random_sky(400, k) for k in range(10)}
    cubes, data = cubes_of(tmp_path, tables, method=method)
    splits = assign_splits(cubes, data)
    whole = np.concatenate(list(splits.values()))
    share = np.bincount(whole, minlength=3) / len(whole)
    assert whole.dtype == np.uint8 and [len(s) for s in splits.values()] == [400] * 10
    assert abs(share[VAL] - 0.1) < 0.02 and abs(share[TEST] - 0.1) < 0.02 and share[TRAIN] > 0.7
    if method == SplitMethod.field:
        assert all(len(np.unique(s)) == 1 for s in splits.values())


def test_the_seed_changes_the_assignment(tmp_path):
    cubes, data = cubes_of(tmp_path, {"A": random_sky(500)})
    one = assign_splits(cubes, data)["A"]
    data.splits.seed = 1
    assert (assign_splits(cubes, data)["A"] != one).any()


def test_objects_of_one_cell_stand_together(tmp_path):
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(10.01, 10.24, 50), rng.uniform(0.01, 0.24, 50)
    cubes, data = cubes_of(tmp_path, {"A": ([f"x{i}" for i in range(50)], ra, dec)})
    assert len(np.unique(assign_splits(cubes, data)["A"])) == 1


def test_neighbours_are_found_at_the_seam_the_poles_and_by_friends_of_friends():
    second = 1 / 3600
    positions = np.array(
        [
            [0.2 * second, 10.0],
            [360 - 0.2 * second, 10.0],  # RA 0 = 360
            [10.0, 90 - 0.3 * second],
            [190.0, 90 - 0.3 * second],  # over the pole
            [50.0, 0.0],
            [50.0, 0.9 * second],
            [50.0, 1.8 * second],  # a chain
            [80.0, 0.0],
            [80.0, 1.2 * second],  # too far
        ]
    )
    ids = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1], np.uint64)
    assert friends(positions, ids)[0].tolist() == [1, 1, 3, 3, 6, 6, 6, 7, 8]


@pytest.mark.parametrize(("part_rows", "strips"), [(1 << 16, 1), (10, 3)])
def test_groups_of_friends_agree_with_a_slow_version(monkeypatch, part_rows, strips):
    monkeypatch.setattr(on_disk, "PART_ROWS", part_rows)
    rng = np.random.default_rng(4)
    positions = np.stack([rng.uniform(0, 12, 150) / 3600, rng.uniform(0, 12, 150) / 3600], axis=1)
    ids = rng.permutation(150).astype(np.uint64)
    label = np.arange(150)
    gap = np.hypot(positions[:, None, 0] - positions[None, :, 0], positions[:, None, 1] - positions[None, :, 1]) * 3600
    for _ in range(150):
        label = np.array([label[gap[i] <= 1].min() for i in range(150)])
    want = [int(min(np.flatnonzero(label == label[i]), key=lambda j: ids[j])) for i in range(150)]
    found, n_strips = friends(positions, ids)
    assert found.tolist() == want and n_strips == strips  # of 4", with groups across their borders


def test_a_survey_in_many_parts_is_divided_as_one_in_memory(tmp_path, monkeypatch):
    ids, ra, dec = random_sky(3000)
    ra[2000:], dec[2000:] = ra[:1000], dec[:1000] + 0.9 / 3600
    cubes, data = cubes_of(tmp_path, {f"F{k}": (ids[k::3], ra[k::3], dec[k::3]) for k in range(3)}, method="hash")
    whole = by_id(cubes, assign_splits(cubes, data))
    monkeypatch.setattr(on_disk, "PART_ROWS", 64)
    monkeypatch.setattr(on_disk, "_BLOCK", 16)
    splits = assign_splits(cubes, data)
    assert by_id(cubes, splits) == whole
    assert {whole[f"o0_{i}"] == whole[f"o0_{i + 2000}"] for i in range(1000)} == {True}
    assert splits.counts.tolist() == np.bincount(list(whole.values()), minlength=3).tolist()
    unpickled = pickle.loads(pickle.dumps(splits))
    assert all((unpickled[field] == splits[field]).all() for field in splits)


def test_a_repeated_id_is_found_in_whichever_part_it_falls(tmp_path, monkeypatch):
    monkeypatch.setattr(on_disk, "PART_ROWS", 64)
    ids = [f"x{i}" for i in range(2000)]
    cubes, _ = cubes_of(tmp_path, {"A": (ids, [1.0] * 2000, [1.0] * 2000), "B": (["y", "x1234"], [1.0] * 2, [2.0] * 2)})
    on_disk.check_unique_ids(cubes[:1])
    with pytest.raises(DataError, match=r"x1234 twice.*A.parquet, row 1234; .*B.parquet, row 1"):
        on_disk.check_unique_ids(cubes)


def test_cells_keep_their_area_and_close_at_the_seam():
    ra = np.array([0.0, 360.0, -0.0, 359.999, 720.0 - 360.0])
    band, cell = sky_cells(np.stack([ra, np.zeros(5)], axis=1), 0.25)
    assert cell.tolist() == [0, 0, 0, 1439, 0] and len(set(band.tolist())) == 1
    band, cell = sky_cells(np.array([[10.0, 90.0], [200.0, -90.0], [200.0, 89.9]]), 0.25)
    assert band.tolist() == [719, 0, 719] and cell.max() < 4


def test_objects_without_position_are_divided_by_their_id(tmp_path):
    ids = [f"p{i}" for i in range(2000)]
    nothing = [None] * 1990
    cubes, data = cubes_of(tmp_path, {"A": (ids, [1.0] * 10 + nothing, [-99.0] * 5 + [1.0] * 5 + nothing)})
    got = assign_splits(cubes, data)["A"]
    assert (np.bincount(got, minlength=3) > [1400, 150, 150]).all()
    assert len(set(got[5:10].tolist())) == 1
    cubes, data = cubes_of(tmp_path, {"B": (ids, [None] * 2000, [None] * 2000)})
    np.testing.assert_array_equal(assign_splits(cubes, data)["B"][:5], got[:5])


def test_impossible_requests_are_refused_and_empty_splits_said(tmp_path, caplog):
    cubes, data = cubes_of(tmp_path, {"A": (["a", "b"], [None, None], [None, None])}, method=SplitMethod.sky)
    with pytest.raises(DataError, match=r"positions.*data.splits.method=hash"):
        assign_splits(cubes, data)
    data.splits = SplitConfig(val_fraction=0.6, test_fraction=0.4)
    with pytest.raises(ConfigError, match=r"together below 1"):
        assign_splits(cubes, data)
    data.splits = SplitConfig()
    with caplog.at_level(logging.WARNING):
        assign_splits(cubes, data)
    assert "no object in split" in caplog.text
