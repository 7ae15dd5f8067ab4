"""Masked columns as astropy writes them (``z``, ``z.mask``) and columns that stand twice, whoever reads the file."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.config.schema import (
    BandConfig,
    DataConfig,
    ImageConfig,
    ScalarConfig,
    SpectrumGroupConfig,
    SpectrumKind,
)
from astromodal.data.datacube import Datacube, needed_columns
from astromodal.data.findings import Findings
from astromodal.data.images import read_images
from astromodal.data.scalars import read_scalars, scalar_columns
from astromodal.data.spectra import read_spectra
from astromodal.errors import DataError
from astromodal.judge.predicted import PredictionCatalogue
from astromodal.recipes.chemomae.nir import read_spectra_set

N = 6


def config():
    return DataConfig(
        name="x",
        root="",
        ra_column=None,
        dec_column=None,
        scalars={"z": ScalarConfig(error="z_err"), "mag": ScalarConfig()},
        spectra={"xp": SpectrumGroupConfig(kind=SpectrumKind.coefficients, flux="xp", n_coefficients=3)},
        images=ImageConfig(bands={"r": BandConfig(column="cut")}, size=4, a=None, b=None, theta=None),
    )


def cube(tmp_path, **columns):
    lists = {"xp": np.arange(3.0 * N).reshape(N, 3) + 1, "cut": np.random.default_rng(0).normal(size=(N, 16))}
    plain = {"id": [f"o{i}" for i in range(N)], "z": np.arange(N) / 10, "z_err": np.full(N, 0.01)}
    plain |= {"mag": np.arange(N) + 18.0}
    plain |= {name: pa.array(list(rows), pa.list_(pa.float64())) for name, rows in lists.items()}
    pq.write_table(pa.table(plain | columns), tmp_path / "datacube_A.parquet", row_group_size=4)
    return Datacube(tmp_path / "datacube_A.parquet", config())


def batch(cube, mask=None):
    """All rows in one, as if the file had one row group."""
    parts = list(cube.batches(list(needed_columns(cube.data)), rows=N, row_mask=mask))
    assert len(parts) == (2 if mask is None else 1)
    return parts


def test_masked_values_are_missing_and_counted_apart_from_nulls(tmp_path):
    z = pa.array([0.0, None, 0.2, 0.3, 0.4, 0.5])
    masks = {"z.mask": [True, True, False, False, True, None], "z_err.mask": [False, False, True, False, False, False]}
    found = Findings()
    values, errors = [], []
    for part in batch(cube(tmp_path, z=z, **{k: pa.array(v) for k, v in masks.items()})):
        scalars = read_scalars(part, config(), scalar_columns(config()))
        found.add_scalars("A", scalars)
        values += scalars.values[:, 0].tolist()
        errors += scalars.errors[:, 0].tolist()
    np.testing.assert_array_equal(values, [np.nan, np.nan, 0.2, 0.3, np.nan, 0.5])
    np.testing.assert_array_equal(errors, [np.nan, np.nan, np.nan, 0.01, np.nan, 0.01])
    assert found.totals()["scalar z"] == {"null": 1, "masked": 2, "no_error": 1, "kept": 3}
    assert found.totals()["scalar mag"] == {"kept": N}


def test_lists_have_a_mask_per_row_or_per_element(tmp_path):
    elements = np.zeros((N, 3), bool)
    elements[0, 1] = elements[5, 2] = True
    pixels = pa.array([row if i else None for i, row in enumerate(elements.tolist())], pa.list_(pa.bool_()))
    parts = batch(cube(tmp_path, **{"xp.mask": pixels, "cut.mask": pa.array(np.arange(N) == 2)}))
    precision = np.concatenate([read_spectra(part, config(), "xp").precision for part in parts])
    assert np.argwhere(precision == 0).tolist() == [[5, 2]], "a row without a mask has nothing masked"
    assert [read_spectra(part, config(), "xp").counts["masked"] for part in parts] == [0, 1]
    images = [read_images(part, config(), "A") for part in parts]
    assert np.concatenate([i.present for i in images]).tolist() == [True, True, False, True, True, True]
    counts = [i.reasons["r"] for i in images]
    assert sum(c["masked"] for c in counts) == 1 and not sum(c["wrong_length"] for c in counts)


def test_masks_follow_chosen_rows_and_nulls(tmp_path):
    elements = np.zeros((N, 3), bool)
    elements[4, 0] = True
    xp = pa.array([None if i == 3 else [1.0, 2.0, 3.0] for i in range(N)], pa.list_(pa.float64()))
    columns = {"xp": xp, "xp.mask": pa.array(elements.tolist(), pa.list_(pa.bool_()))}
    (part,) = batch(cube(tmp_path, **columns), mask=np.arange(N) == 4)
    assert (read_spectra(part, config(), "xp").precision == 0).tolist() == [[True, False, False]]
    (_, last) = batch(cube(tmp_path, **columns))
    assert last.column("xp").to_pylist() == [[None, 2.0, 3.0], [1.0, 2.0, 3.0]]


@pytest.mark.parametrize("mask", [pa.array([[True]] * N), pa.array([[True, False]] * N)])
def test_a_mask_of_another_shape_is_refused(tmp_path, mask):
    with pytest.raises(DataError, match=r"as many masks as values in xp, got 4 rows with another number"):
        batch(cube(tmp_path, **{"xp.mask": mask}))
    with pytest.raises(DataError, match="a mask of one value per row"):
        batch(cube(tmp_path, **{"z.mask": mask}))


def test_a_column_called_mask_that_is_no_mask_is_none(tmp_path):
    (first, _) = batch(cube(tmp_path, **{"z.mask": pa.array(["yes"] * N)}))
    assert first.column("z").null_count == 0 and not first.masked


def twice(path, name, table):
    doubled = pa.Table.from_arrays([*table.columns, table[name]], names=[*table.column_names, name])
    pq.write_table(doubled, path)


def test_a_column_that_stands_twice_is_named_and_others_do_not_matter(tmp_path):
    path = tmp_path / "datacube_A.parquet"
    cube(tmp_path, other=np.zeros(N))
    table = pq.read_table(path)
    for name in ("id", "z", "z_err", "xp", "cut"):
        twice(path, name, table)
        with pytest.raises(DataError, match=f"one column {name}, got 2 of that name .*rename or drop"):
            Datacube(path, config())
    twice(path, "other", table)
    assert Datacube(path, config()).ids().tolist() == table["id"].to_pylist()


def test_catalogues_and_spectra_sets_honour_masks_and_refuse_doubles(tmp_path):
    path = tmp_path / "catalogue.parquet"
    table = pa.table({"id": ["a", "b"], "z": [0.1, 0.2], "z_mean": [0.1, 0.0], "z_mean.mask": [False, True]})
    pq.write_table(table, path)
    np.testing.assert_array_equal(PredictionCatalogue(path).numbers("z_mean"), [0.1, np.nan])
    twice(path, "z", table)
    with pytest.raises(DataError, match="one column z"):
        PredictionCatalogue(path)
    spectra = pa.table({"spectrum": [[1.0, 2.0], [3.0, 4.0]], "protein": [1.0, 9.0], "protein.mask": [False, True]})
    pq.write_table(spectra, tmp_path / "s.parquet")
    labels = read_spectra_set(tmp_path / "s.parquet").labels
    assert list(labels) == ["protein"] and np.isnan(labels["protein"]).tolist() == [False, True]
    twice(tmp_path / "s.parquet", "spectrum", spectra)
    with pytest.raises(DataError, match="one column spectrum"):
        read_spectra_set(tmp_path / "s.parquet")
