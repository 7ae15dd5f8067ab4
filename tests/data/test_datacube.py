"""Datacubes: what is refused on opening, what is read and how, against slow and obvious versions."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.config.schema import BandConfig, DataConfig, ImageConfig, ScalarConfig
from astromodal.data.columns import list_column_ragged, list_column_to_matrix
from astromodal.data.datacube import Datacube, discover
from astromodal.data.on_disk import check_unique_ids
from astromodal.errors import DataError


def survey(root, **changes) -> DataConfig:
    images = ImageConfig(bands={"r": BandConfig(column="cut_r")}, size=2, a=None, b=None, theta=None)
    values = {"name": "t", "root": str(root), "images": images, "batch_rows": 3, "scalars": {"mag": ScalarConfig()}}
    return DataConfig(**(values | changes))


def write(path, n=10, first=0, row_group_size=4, **changes):
    columns = {
        "id": [f"o{first + i}" for i in range(n)],
        "ra": np.arange(n) * 1.0,
        "dec": np.zeros(n),
        "mag": pa.array(np.linspace(15, 20, n), pa.float32()),
        "cut_r": pa.array([None if i % 3 == 1 else [i, i + 1, i + 2, i + 3] for i in range(n)], pa.list_(pa.float32())),
    }
    columns = {name: values for name, values in (columns | changes).items() if values is not None}
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_batches_cover_every_row_once_in_order_whatever_the_row_groups(tmp_path):
    cube = Datacube(write(tmp_path / "datacube_A.parquet"), survey(tmp_path))
    assert (cube.field, cube.n_rows) == ("A", 10)
    batches = list(cube.batches(["id", "mag"]))
    assert max(b.num_rows for b in batches) <= 3
    np.testing.assert_array_equal(np.concatenate([b.rows for b in batches]), np.arange(10))
    assert [b.first_row for b in batches] == [b.rows[0] for b in batches]
    assert cube.ids().tolist() == [f"o{i}" for i in range(10)]


def test_a_row_mask_gives_only_its_rows(tmp_path):
    cube = Datacube(write(tmp_path / "datacube_A.parquet"), survey(tmp_path))
    mask = np.zeros(10, bool)
    mask[[1, 9]] = True
    batches = list(cube.batches(["id"], row_mask=mask))
    assert [int(r) for b in batches for r in b.rows] == [1, 9]
    assert [i for b in batches for i in cube.batch_ids(b)] == ["o1", "o9"]


def test_a_cube_can_be_sent_to_another_process(tmp_path):
    cube = Datacube(write(tmp_path / "datacube_A.parquet"), survey(tmp_path))
    assert pickle.loads(pickle.dumps(cube)).ids().tolist() == cube.ids().tolist()


def test_a_file_without_positions_has_none(tmp_path):
    path = write(tmp_path / "datacube_A.parquet", ra=None, dec=None)
    cube = Datacube(path, survey(tmp_path, ra_column=None, dec_column=None))
    assert np.isnan(cube.positions()).all()


@pytest.mark.parametrize("cut", [0, 3, 200, 0.5, -5])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, cut):
    path = write(tmp_path / "datacube_A.parquet")
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])
    with pytest.raises(DataError, match=r"complete Parquet file.*datacube_A.parquet.*to repair") as error:
        Datacube(path, survey(tmp_path))
    assert "\n" not in str(error.value)


def test_damaged_pages_are_an_error_of_the_file_and_not_of_arrow(tmp_path):
    path = write(tmp_path / "datacube_A.parquet", n=2000, row_group_size=2000)
    content = bytearray(path.read_bytes())
    content[4 : len(content) * 3 // 4] = bytes(len(content) * 3 // 4 - 4)
    path.write_bytes(bytes(content))
    cube = Datacube(path, survey(tmp_path))
    with pytest.raises(DataError, match=r"decoded"):
        for _ in cube.batches(list(cube.columns)):
            pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut_r": None, "cut_R": pa.array([[1.0]] * 10)}, "column cut_r.*nearest is cut_R"),
        ({"mag": ["x"] * 10}, "a number in column mag, got type string"),
        ({"cut_r": np.zeros(10)}, "a list of numbers in column cut_r"),
        ({"id": None}, "column id"),
    ],
)
def test_missing_and_mistyped_columns_are_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        Datacube(write(tmp_path / "datacube_A.parquet", **changes), survey(tmp_path))


def test_a_cube_without_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"at least one row"):
        Datacube(write(tmp_path / "datacube_A.parquet", n=0), survey(tmp_path))


def test_a_row_without_id_is_refused_with_its_place(tmp_path):
    path = write(tmp_path / "datacube_A.parquet", id=["a", None] + [str(i) for i in range(8)])
    with pytest.raises(DataError, match=r"an id in every row.*datacube_A"):
        Datacube(path, survey(tmp_path)).ids()


def test_a_modality_that_is_all_null_is_no_error(tmp_path):
    for kind in (pa.null(), pa.list_(pa.float32()), pa.list_(pa.null())):
        path = write(tmp_path / "datacube_A.parquet", cut_r=pa.nulls(10, kind))
        batch = next(Datacube(path, survey(tmp_path)).batches(["cut_r"], rows=10))
        values, present = list_column_to_matrix(batch.column("cut_r"), 4)
        assert values.shape[1] == 4 and not present.any()


def test_fields_are_discovered_sorted_and_chosen(tmp_path):
    for field in ("B-2", "A_1", "with space[0]"):
        write(tmp_path / f"datacube_{field}.parquet")
    (tmp_path / "notes.txt").write_text("x")
    template = str(tmp_path / "datacube_{field}.parquet")
    assert [c.field for c in discover(survey(tmp_path), template)] == ["A_1", "B-2", "with space[0]"]
    assert [c.field for c in discover(survey(tmp_path, fields=["B-2"]), template)] == ["B-2"]
    with pytest.raises(DataError, match=r"B2.*nearest: B-2"):
        discover(survey(tmp_path, fields=["B2"]), template)


def test_missing_and_empty_folders_say_what_to_set(tmp_path):
    with pytest.raises(DataError, match=r"no such folder.*set data.root"):
        discover(survey(tmp_path), str(tmp_path / "nowhere" / "datacube_{field}.parquet"))
    with pytest.raises(DataError, match=r"got none.*data.root"):
        discover(survey(tmp_path), str(tmp_path / "datacube_{field}.parquet"))


def test_duplicate_ids_are_found_within_and_across_files(tmp_path):
    data = survey(tmp_path)
    a = Datacube(write(tmp_path / "datacube_A.parquet"), data)
    check_unique_ids([a, Datacube(write(tmp_path / "datacube_B.parquet", first=10), data)])
    b = Datacube(write(tmp_path / "datacube_C.parquet", first=9), data)
    with pytest.raises(DataError, match=r"o9 twice.*datacube_A.parquet, row 9.*datacube_C.parquet, row 0"):
        check_unique_ids([a, b])
    numbers = write(tmp_path / "datacube_D.parquet", id=[7, 7, *range(10, 18)])
    with pytest.raises(DataError, match=r"7 twice.*row 0.*row 1"):
        check_unique_ids([Datacube(numbers, data)])


# ------------------------------------------------------------------------------------ list columns

ROWS = [[1, 2, 3], None, [4, 5, 6], [7, 8], [], [9, None, 11]]


def slow_matrix(rows, length):
    values, present = np.zeros((len(rows), length), np.float32), np.zeros(len(rows), bool)
    for i, row in enumerate(rows):
        if row is not None and len(row) == length:
            values[i], present[i] = [np.nan if v is None else v for v in row], True
    return values, present


@pytest.mark.parametrize("element", [pa.float32(), pa.float64(), pa.int16()])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
@pytest.mark.parametrize("cut", [slice(0, 6), slice(1, 5), slice(2, 3), slice(4, 6), slice(3, 3)])
def test_matrix_agrees_with_the_slow_version(element, kind, cut):
    array = pa.array(ROWS, kind(element))[cut.start : cut.stop]
    want = slow_matrix(ROWS[cut], 3)
    for column in (array, pa.chunked_array([array.slice(0, 1), array.slice(1)])):
        got = list_column_to_matrix(column, 3, strict=False)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])
        assert got[0].dtype == (np.float64 if element == pa.float64() else np.float32)


def test_numbers_that_float32_does_not_hold_stay_what_they_are():
    rows = [[1e40, 1e-50, 2.0**60 + 1], [1.0, None, 3.0]]
    for kind in (pa.list_(pa.float64()), pa.list_(pa.float64(), 3), pa.large_list(pa.float64())):
        array = pa.array(rows, kind)
        assert list_column_to_matrix(array, 3)[0][0].tolist() == rows[0]
        assert list_column_ragged(array)[0][:3].tolist() == rows[0]
    wide = pa.array([[2**40 + 1]], pa.list_(pa.int64()))
    assert list_column_to_matrix(wide, 1)[0].tolist() == [[2.0**40 + 1]]


def test_matrix_of_fixed_size_lists_with_nulls_and_a_slice():
    rows = [[1, 2], None, [3, 4], [5, 6]]
    array = pa.array(rows, pa.list_(pa.float32(), 2))
    got = list_column_to_matrix(array[1:], 2)
    np.testing.assert_array_equal(got[0], slow_matrix(rows[1:], 2)[0])
    flat, offsets, present = list_column_ragged(array)
    assert flat.tolist() == [1, 2, 3, 4, 5, 6] and offsets.tolist() == [0, 2, 2, 4, 6] and present.sum() == 3


def test_null_rows_that_hide_values_are_skipped():
    array = pa.ListArray.from_arrays(
        pa.array([0, 2, 4, 6]), pa.array(np.arange(6, dtype=np.float32)), mask=pa.array([False, True, False])
    )
    values, present = list_column_to_matrix(array, 2)
    assert values.tolist() == [[0, 1], [0, 0], [4, 5]] and present.tolist() == [True, False, True]
    assert list_column_ragged(array)[0].tolist() == [0, 1, 4, 5]


def test_a_full_matrix_is_a_view_and_not_a_copy():
    flat = np.arange(12, dtype=np.float32)
    array = pa.ListArray.from_arrays(pa.array([0, 3, 6, 9, 12]), pa.array(flat))
    assert np.shares_memory(list_column_to_matrix(array[1:], 3)[0], array.values.to_numpy())


def test_a_wrong_length_is_an_error_with_file_column_row_and_id():
    array = pa.array([[1.0, 2.0], [1.0]])
    with pytest.raises(DataError, match=r"2 values in every row, got 1 .*cube.parquet, column c, row 1, id b"):
        list_column_to_matrix(array, 2, "cube.parquet, column c", ids=pa.array(["a", "b"]))


def test_ragged_agrees_with_the_rows():
    flat, offsets, present = list_column_ragged(pa.array(ROWS, pa.list_(pa.float64()))[1:])
    for i, row in enumerate(ROWS[1:]):
        want = [np.nan if v is None else v for v in row or []]
        np.testing.assert_array_equal(flat[offsets[i] : offsets[i + 1]], np.array(want, np.float32))
        assert present[i] == bool(row)


def test_memory_is_bounded_by_the_batch_and_not_by_the_row_group(tmp_path):
    n, length = 1500, 9216
    values = pa.array(np.random.default_rng(0).standard_normal(n * length).astype(np.float32))
    cut = pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * length), values)
    pq.write_table(
        pa.table({"id": np.arange(n), "cut_r": cut}),
        tmp_path / "datacube_A.parquet",
        row_group_size=n,
        use_dictionary=False,
    )
    del values, cut
    data = DataConfig(name="t", root="x", ra_column=None, dec_column=None)
    before, most = pa.total_allocated_bytes(), 0
    for _ in Datacube(tmp_path / "datacube_A.parquet", data).batches(["cut_r"], rows=64):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < n * length * 4 / 5
