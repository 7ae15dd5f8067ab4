"""Whatever Arrow type a value is held in, and however a nested one is written, the same numbers come out."""

from __future__ import annotations

import decimal
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.config.schema import BandConfig, ImageConfig, SpectrumGroupConfig
from astromodal.data.columns import list_column_to_matrix
from astromodal.data.datacube import Datacube
from astromodal.data.on_disk import check_unique_ids
from astromodal.data.sources import nested
from astromodal.data.spectra import read_spectra
from astromodal.errors import DataError
from tests.data.sources.holdings import N, fields, objects, read, rows, survey

PLAIN = {
    "id": pa.int64(),
    "ra": pa.float64(),
    "dec": pa.float64(),
    "mag": pa.float64(),
    "flux": pa.list_(pa.float64()),
    "wave": pa.list_(pa.float64()),
}
KINDS = {
    "as usual": {},
    "large lists": {"flux": pa.large_list(pa.float64()), "wave": pa.large_list(pa.float32())},
    "fixed-size lists": {"flux": pa.list_(pa.float64(), 4), "wave": pa.list_(pa.float32(), 4)},
    "list views": {"flux": pa.list_view(pa.float64()), "wave": pa.large_list_view(pa.float32())},
    "integers": {"wave": pa.list_(pa.int16()), "mag": pa.int32(), "ra": pa.int8()},
    "half floats": {"wave": pa.list_(pa.float16()), "mag": pa.float16()},
    "decimals": {"id": pa.decimal128(20, 0), "mag": pa.decimal128(8, 3), "ra": pa.decimal256(40, 2)},
    "text ids": {"id": pa.string()},
    "large text": {"id": pa.large_string()},
    "text views": {"id": pa.string_view()},
    "bytes": {"id": pa.binary()},
    "bytes of one width": {"id": pa.binary(16)},
    "byte views": {"id": pa.binary_view()},
    "dictionary ids": {"id": pa.dictionary(pa.int32(), pa.string())},
    "dictionary numbers": {"mag": pa.dictionary(pa.int8(), pa.float64())},
    "unsigned": {"id": pa.uint64()},
}


def arrow(kinds: dict[str, pa.DataType]) -> pa.Table:
    columns = {}
    for name, kind in (PLAIN | kinds).items():
        values = [row[name] for row in rows()]
        if pa.types.is_decimal(kind):
            values = [None if v is None else decimal.Decimal(v) for v in values]
        elif name == "id" and not (pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
            values = [f"{v:>16}" if pa.types.is_fixed_size_binary(kind) else str(v) for v in values]
            plain = kind.value_type if pa.types.is_dictionary(kind) else kind
            values = [v.encode() if "binary" in str(plain) else v for v in values]
        elif pa.types.is_integer(kind) or pa.types.is_integer(getattr(kind, "value_type", pa.null())):
            whole = lambda v: None if v is None else int(v)  # noqa: E731
            values = [list(map(whole, v)) if isinstance(v, list) else whole(v) for v in values]
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS.keys())
def test_every_type_that_a_value_can_be_held_in_gives_the_same_rows(tmp_path, kinds):
    pq.write_table(arrow(kinds), tmp_path / "datacube_A.parquet", row_group_size=4)
    cubes = fields(survey(tmp_path))
    assert read(cubes) == rows()
    assert read(pickle.loads(pickle.dumps(cubes))) == rows()


def nested_table(way: str) -> pa.Table:
    """The spectra in one column ``spectrum``, as a struct of lists or as a list of structs."""
    parts = [None if r["flux"] is None else {"flux": r["flux"], "wave": r["wave"], "name": "x"} for r in rows()]
    lists = pa.list_(pa.float32())
    kind = pa.struct({"flux": lists, "name": pa.string(), "wave": lists})
    if way == "list of structs":
        kind = pa.list_(pa.struct({"flux": pa.float32(), "name": pa.string(), "wave": pa.float32()}))
        parts = [
            p and [{"flux": f, "wave": w, "name": "x"} for f, w in zip(p["flux"], p["wave"], strict=True)]
            for p in parts
        ]
    table = arrow({}).drop_columns(["flux", "wave"])
    return table.append_column("spectrum", pa.array(parts, kind))


@pytest.mark.parametrize("way", ["struct of lists", "list of structs"])
def test_nested_columns_are_read_by_dotted_name_in_both_ways_of_writing_them(tmp_path, way):
    pq.write_table(nested_table(way), tmp_path / "datacube_A.parquet", row_group_size=3)
    cubes = fields(survey(tmp_path, "spectrum.flux", "spectrum.wave"))
    assert read(cubes) == rows()
    assert {"spectrum", "spectrum.flux", "spectrum.wave"} <= set(cubes[0].columns)
    with pytest.raises(DataError, match=r"column spectrum.fluxes.*nearest is spectrum.flux"):
        fields(survey(tmp_path, "spectrum.fluxes", "spectrum.wave"))
    with pytest.raises(DataError, match=r"a list of numbers in column spectrum.name"):
        fields(survey(tmp_path, "spectrum.name", "spectrum.wave"))


def test_only_the_wanted_fields_of_a_nested_column_are_read(tmp_path):
    pq.write_table(nested_table("struct of lists"), tmp_path / "datacube_A.parquet")
    from astromodal.data.sources import parquet

    with pq.ParquetFile(tmp_path / "datacube_A.parquet") as file:
        stored = parquet._stored(file, tmp_path, ["spectrum.flux", "id"])
    assert stored == ["spectrum.flux.list.element", "id"]
    pq.write_table(nested_table("list of structs"), tmp_path / "B.parquet", use_compliant_nested_type=False)
    with pq.ParquetFile(tmp_path / "B.parquet") as file:
        assert parquet._stored(file, tmp_path, ["spectrum.wave"]) == ["spectrum.list.item.wave"]


def test_a_column_whose_own_name_has_a_dot_comes_before_a_nested_one(tmp_path):
    table = nested_table("struct of lists").append_column("spectrum.flux", pa.array([[7.0] * 4] * N))
    pq.write_table(table, tmp_path / "datacube_A.parquet")
    cube = Datacube(tmp_path / "datacube_A.parquet", survey(tmp_path, "spectrum.flux", "spectrum.wave"))
    batch = next(cube.batches(["spectrum.flux", "spectrum.wave"]))
    assert batch.column("spectrum.flux")[0].as_py() == [7.0] * 4
    assert batch.column("spectrum.wave")[0].as_py() == [4.0, 5.0, 6.0, 7.0]


def test_structs_in_structs_and_a_null_parent():
    table = pa.table({"a": pa.array([{"b": {"c": 1}}, {"b": None}, None])})
    assert nested.take(table, ["a.b.c"]).column(0).to_pylist() == [1, None, None]
    assert nested.find(table.schema, "a.b.d") is None and nested.find(table.schema, "a.c") is None


def test_a_slice_of_a_nested_column_is_that_slice():
    rows = [[{"x": 1.0}, {"x": 2.0}], None, [], [{"x": 3.0}]]
    batch = pa.record_batch({"a": pa.array(rows)}).slice(1)
    assert nested.take(batch, ["a.x"]).column(0).to_pylist() == [None, [], [3.0]]


def test_images_of_several_bands_in_one_column_are_chosen_by_band_or_number(tmp_path):
    """As the MultimodalUniverse holds them: lists over bands of two-dimensional lists; here two bands in any order."""
    image = [
        {"band": ["G", "R"], "flux": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]},
        None,
        {"band": ["R", "G"], "flux": [[[50, 60], [70, 80]], [[10, 20], [30, 40]]]},
        {"band": ["G"], "flux": [[[0, 0], [0, 9]]]},
    ]
    kind = pa.struct({"band": pa.list_(pa.string()), "flux": pa.list_(pa.list_(pa.list_(pa.float32())))})
    table = pa.table({"id": [1, 2, 3, 4], "image": pa.array(image, kind)})
    pq.write_table(table, tmp_path / "datacube_A.parquet")
    bands = {
        "g": BandConfig(column="image.flux[G]"),
        "r": BandConfig(column="image.flux[R]"),
        "0": BandConfig(column="image.flux[0]"),
    }
    images = ImageConfig(bands=bands, size=2, a=None, b=None, theta=None)
    data = survey(tmp_path, images=images, scalars={}, spectra={}, ra_column=None, dec_column=None)
    batch = next(Datacube(tmp_path / "datacube_A.parquet", data).batches([b.column for b in bands.values()], rows=9))
    read = {b: list_column_to_matrix(batch.column(c.column), 4) for b, c in bands.items()}
    assert read["g"][0].tolist() == [[1, 2, 3, 4], [0] * 4, [10, 20, 30, 40], [0, 0, 0, 9]]
    assert read["r"][0].tolist() == [[5, 6, 7, 8], [0] * 4, [50, 60, 70, 80], [0] * 4]
    assert read["r"][1].tolist() == [True, False, True, False]
    assert read["0"][0].tolist() == [[1, 2, 3, 4], [0] * 4, [50, 60, 70, 80], [0, 0, 0, 9]]


def test_tensors_and_lists_of_lists_are_flat_lists_row_by_row():
    tensor = pa.fixed_shape_tensor(pa.float32(), (2, 2))
    storage = pa.array([[1, 2, 3, 4], None], pa.list_(pa.float32(), 4))
    table = pa.table(
        {
            "t": pa.ExtensionArray.from_storage(tensor, storage),
            "f": pa.array([[[1, 2], [3, 4]], None], pa.list_(pa.list_(pa.int8(), 2), 2)),
            "r": pa.array([[[1], [2, 3], None], []], pa.list_(pa.list_(pa.int8()))),
        }
    )
    got = nested.take(table, ["t", "f", "r"])
    assert [c.to_pylist() for c in got.columns] == [[[1, 2, 3, 4], None], [[1, 2, 3, 4], None], [[1, 2, 3], []]]
    assert [nested.type_of(table.schema, n) for n in ("t", "f", "r")] == [c.type for c in got.columns]


def test_plain_columns_are_not_copied():
    table = pa.table({"x": pa.array([[1.0, 2.0]]), "y": pa.array([1.0])})
    assert [nested.plain(c.chunk(0)) is c.chunk(0) for c in table.columns] == [False, False]  # chunk() makes objects
    array = table.column("x").chunk(0)
    assert nested.plain(array) is array


# ----------------------------------------------------------------------------------- a mask beside it


def test_a_configured_mask_makes_its_pixels_missing_and_counts_them(tmp_path):
    table = pa.table(
        {
            "id": [1, 2, 3],
            "flux": [[1.0, 9e9, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], None],
            "bits": pa.array([[0, 4, 0, 0], None, [1, 1, 1, 1]], pa.list_(pa.uint32())),
        }
    )
    pq.write_table(table, tmp_path / "datacube_A.parquet")
    group = SpectrumGroupConfig(flux="flux", mask="bits", wave_min=4.0, wave_max=7.0)
    data = survey(tmp_path, scalars={}, spectra={"s": group}, ra_column=None, dec_column=None)
    batch = next(Datacube(tmp_path / "datacube_A.parquet", data).batches(["flux"], rows=9))
    spectra = read_spectra(batch, data, "s")
    assert spectra.counts["masked"] == 1 and spectra.present.tolist() == [True, True, False]
    assert spectra.precision[0].tolist() == [1, 0, 1, 1] and spectra.flux[0].max() < 3
    with pytest.raises(DataError, match=r"column bots.*nearest is bits"):
        group.mask = "bots"
        Datacube(tmp_path / "datacube_A.parquet", data)


# ------------------------------------------------------------------------------------------ part files


def write_parts(folder, *tables: pa.Table) -> None:
    folder.mkdir(parents=True)
    for k, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{k:05d}.parquet", row_group_size=2)


def test_part_files_follow_each_other_and_number_their_rows_through(tmp_path):
    table = arrow({})
    write_parts(tmp_path / "A", table[:4], table[4:4], table[4:9], table[9:])
    cube = fields(survey(tmp_path))[0]
    assert (cube.field, cube.n_rows, read([cube])) == ("A", N, rows())
    mask = np.zeros(N, bool)
    mask[[3, 4, 9]] = True
    assert [int(r) for b in cube.batches(["id"], row_mask=mask) for r in b.rows] == [3, 4, 9]
    before = cube.fingerprint()
    pq.write_table(table[4:8], tmp_path / "A" / "part-00002.parquet")
    assert cube.fingerprint() != before
    with pytest.raises(DataError, match=r"5 rows, got 4 .*part-00002.parquet, changed since"):
        read([cube])


def test_parts_of_other_but_fitting_types_are_one_field(tmp_path):
    """An all-null part has no type of its own (pandas), whole numbers come as integers, columns in any order."""
    table = arrow({})
    other = (
        table[4:]
        .set_column(3, "mag", table["mag"][4:].cast(pa.int64()))
        .select(["wave", "flux", "mag", "dec", "ra", "id"])
    )
    none = arrow({"wave": pa.list_(pa.float64())}).slice(0, 4)
    none = none.set_column(3, "mag", pa.nulls(4)).set_column(4, "flux", pa.nulls(4, pa.list_(pa.float64())))
    write_parts(tmp_path / "A", none, other)
    want = [row | ({"mag": None, "flux": None} if i < 4 else {}) for i, row in enumerate(rows())]
    assert read(fields(survey(tmp_path))) == want


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["mag"]), r"column mag, got no such column.*part-00001"),
        (
            lambda t: t.set_column(3, "mag", pa.array(["x"] * len(t))),
            r"one type of column mag.*double and string.*part-00001",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_named(tmp_path, change, message):
    table = arrow({})
    write_parts(tmp_path / "A", table[:5], change(table[5:]))
    with pytest.raises(DataError, match=message):
        fields(survey(tmp_path))


def test_a_further_column_of_one_part_is_no_matter(tmp_path):
    table = arrow({})
    write_parts(tmp_path / "A", table[:5].append_column("more", pa.nulls(5)), table[5:])
    assert read(fields(survey(tmp_path))) == rows()


# ------------------------------------------------------------------------------------- other writers


def frame() -> pd.DataFrame:
    return pd.DataFrame(rows())


def write_pandas(path) -> None:
    frame().sample(frac=1, random_state=0).set_index("id").to_parquet(path)


def write_pandas_arrow(path) -> None:
    frame().convert_dtypes(dtype_backend="pyarrow").to_parquet(path)


def write_pandas_index(path) -> None:
    frame()[::-1][::-1].reset_index(drop=True).iloc[list(range(N))].to_parquet(path, index=True)


def write_astropy(path) -> None:
    objects().write(path)


def write_polars(path) -> None:
    pytest.importorskip("polars").DataFrame(rows()).write_parquet(path)


def write_duckdb(path) -> None:
    duckdb, held = pytest.importorskip("duckdb"), arrow({})  # noqa: F841 (found by its name)
    columns = "id::UBIGINT AS id, ra::DECIMAL(9, 3) AS ra, * EXCLUDE (id, ra)"
    duckdb.sql(f"SELECT {columns} FROM held").write_parquet(str(path))


def write_fastparquet(path) -> None:
    """It holds lists as JSON."""
    pytest.importorskip("fastparquet").write(str(path), frame())


def write_as_spark(path) -> None:
    """Lists whose elements are called otherwise, decimals, the oldest version of the format."""
    pq.write_table(
        arrow({"id": pa.decimal128(20, 0), "mag": pa.decimal128(10, 2)}),
        path,
        version="1.0",
        flavor="spark",
        use_compliant_nested_type=False,
        store_schema=False,
    )


WRITERS = [
    write_pandas,
    write_pandas_arrow,
    write_pandas_index,
    write_astropy,
    write_polars,
    write_duckdb,
    write_fastparquet,
    write_as_spark,
]


@pytest.mark.parametrize("write", WRITERS)
def test_what_other_programs_write_is_read(tmp_path, write):
    write(tmp_path / "datacube_A.parquet")
    got = sorted(read(fields(survey(tmp_path))), key=lambda row: row["id"])
    if write is write_astropy:  # it has no null lists: a row of masked values
        assert all(np.isnan(got[5][name]).all() for name in ("flux", "wave"))
        got[5] |= {"flux": None, "wave": None}
    assert got == rows()


def test_ids_that_repeat_are_found_over_parts_and_types(tmp_path):
    write_parts(tmp_path / "A", arrow({})[:5])
    write_parts(tmp_path / "B", arrow({"id": pa.string()})[4:])
    with pytest.raises(DataError, match=r"twice.*part-00000.parquet, row 4.*part-00000.parquet, row 0"):
        check_unique_ids(fields(survey(tmp_path)))


def test_ids_that_are_no_whole_numbers_are_refused(tmp_path):
    pq.write_table(
        arrow({}).set_column(0, "id", pa.array([decimal.Decimal("1.5")] * N)), tmp_path / "datacube_A.parquet"
    )
    with pytest.raises(DataError, match=r"ids that are whole numbers, got a decimal.*column id"):
        fields(survey(tmp_path))[0].ids()
