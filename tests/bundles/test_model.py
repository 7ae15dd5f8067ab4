"""A loaded run gives the numbers of ``evaluate.py``, whatever kind of table is asked about, and says what it lacks."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from astromodal import load
from astromodal.ask import catalogue as cat
from astromodal.errors import ArtifactMissingError, ConfigError, DataError

from .conftest import QUANTILES


def catalogue(trained, name: str = "catalogue", field: str = "F0") -> pa.Table:
    table = pq.read_table(trained.catalogue.with_name(f"{name}.parquet"))
    return table.filter(pc.equal(table["field"], field)).drop_columns(["field", "split"])


@pytest.mark.parametrize("field", [0, 1])
def test_the_numbers_are_those_of_evaluate_to_the_bit(trained, model, field):
    found = model.predict(
        trained.cube(field), ["scalar", "desi_b"], quantiles=QUANTILES, n_samples=2, posterior=True, familiarity=True
    )
    expected = catalogue(trained, field=f"F{field}")
    assert found.column_names == expected.column_names and found.num_rows == 70
    differs = [name for name in expected.column_names if not found[name].equals(expected[name])]
    assert not differs
    assert expected["specz_z_mean"].null_count < 70 > expected["desi_b_mean"].null_count  # something was compared
    embedded = model.embed(trained.cube(field), ["mean", "last"])
    wanted = catalogue(trained, "embeddings", f"F{field}")
    assert embedded.column_names == wanted.column_names
    for name in wanted.column_names:
        assert embedded[name].equals(wanted[name]), name


def test_rows_in_other_company_draw_the_same_and_agree_to_rounding(trained, model):
    whole = model.predict(trained.cube(), ["specz_z", "desi_b"], n_samples=2, seed=3)
    rows = pq.read_table(trained.cube())
    order = np.random.default_rng(0).permutation(rows.num_rows)[:9]
    some = model.predict(rows.take(order), ["specz_z", "desi_b"], n_samples=2, seed=3)
    expected = whole.take(order)
    assert some["id"].equals(expected["id"]) and some["desi_b_flag"].equals(expected["desi_b_flag"])
    for name in ("specz_z_mean", "specz_z_q16"):
        np.testing.assert_allclose(some[name].to_numpy(), expected[name].to_numpy(), rtol=1e-4)
    for name in ("desi_b_mean", "desi_b_std"):
        ours, theirs = (np.array([row for row in t[name].to_pylist() if row]) for t in (some, expected))
        assert len(ours)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    other = model.predict(rows.take(order), "desi_b", n_samples=2, seed=4)
    assert not other["desi_b_std"].equals(some["desi_b_std"])  # the seed counts


def test_every_kind_of_table_comes_out_as_it_went_in(trained, model):
    rows = pq.read_table(trained.cube()).slice(0, 12)
    expected = model.predict(rows, "specz_z")
    assert isinstance(expected, pa.Table) and expected.schema.field("id").type == pa.string()
    batch = model.predict(rows.to_batches()[0], "specz_z")
    assert isinstance(batch, pa.RecordBatch) and pa.Table.from_batches([batch]).equals(expected)
    lists = {name: rows[name].to_pylist() for name in rows.column_names}
    as_dict = model.predict(lists, "specz_z")
    assert isinstance(as_dict, dict)
    np.testing.assert_array_equal(as_dict["specz_z_mean"], expected["specz_z_mean"].to_numpy())
    reader = model.predict(rows.to_reader(max_chunksize=5), "specz_z")
    assert isinstance(reader, pa.RecordBatchReader) and reader.schema.equals(expected.schema)
    np.testing.assert_allclose(reader.read_all()["specz_z_mean"], expected["specz_z_mean"], rtol=1e-4)
    pieces = list(model.predict((rows.slice(k, 6) for k in (0, 6)), "specz_z"))
    assert [type(p) for p in pieces] == [pa.Table, pa.Table] and pa.concat_tables(pieces)["id"].equals(expected["id"])


def test_pandas_in_pandas_out_with_its_index(trained, model):
    pd = pytest.importorskip("pandas")
    rows = pq.read_table(trained.cube()).slice(0, 12)
    frame = rows.to_pandas().set_index(pd.Index(range(100, 112)))
    found = model.predict(frame, ["specz_z", "desi_b"], n_samples=2)
    expected = model.predict(rows, ["specz_z", "desi_b"], n_samples=2)
    assert isinstance(found, pd.DataFrame) and found.index.tolist() == list(range(100, 112))
    np.testing.assert_array_equal(found["specz_z_mean"], expected["specz_z_mean"].to_numpy())
    assert found["desi_b_mean"].iloc[0].shape == (64,)
    assert found.attrs["astromodal"]["questions"]["specz_z"]["given"]


def test_astropy_tables_are_brought_to_the_units_of_the_survey(trained, model):
    table = pytest.importorskip("astropy.table")
    from astropy import units as u

    rows = pq.read_table(trained.cube()).slice(0, 12)
    columns = {name: rows[name].to_numpy() for name in ("mag_r", "err_mag_r", "teff")} | {"id": rows["id"].to_pylist()}
    expected = model.predict(columns, ["teff", "specz_z"])
    quantities = table.QTable({"id": columns["id"], "teff": columns["teff"] / 1000 * u.kK})
    quantities["mag_r"], quantities["err_mag_r"] = columns["mag_r"] * u.ABmag, columns["err_mag_r"] * u.mag
    found = model.predict(quantities, ["teff", "specz_z"])
    assert type(found) is table.QTable and found["teff_mean"].unit == u.K and found["specz_z_flag"].dtype == np.uint8
    np.testing.assert_allclose(found["teff_mean"].value, expected["teff_mean"])
    masked = table.Table(quantities, masked=True)
    masked["mag_r"].mask = True
    without = model.predict({k: v for k, v in columns.items() if k != "mag_r"}, "teff")
    np.testing.assert_allclose(model.predict(masked, "teff")["teff_mean"], without["teff_mean"])
    quantities["teff"] = columns["teff"] * u.m
    with pytest.raises(DataError, match="column teff in K, got unit m"):
        model.predict(quantities, "specz_z")


def test_spectra_may_be_arrays_and_have_units(model):
    u = pytest.importorskip("astropy.units")
    rng = np.random.default_rng(0)
    flux = rng.normal(3, 0.1, (4, 64))
    plain = {"id": [1, 2, 3, 4], "flux_b": flux, "ivar_b": np.full((4, 64), 25.0)}
    unit = 1e-17 * u.erg / u.s / u.cm**2 / u.AA
    si = {
        "id": [1, 2, 3, 4],
        "flux_b": (flux * unit).to(u.W / u.m**2 / u.nm),
        "ivar_b": (plain["ivar_b"] / unit**2).to((u.W / u.m**2 / u.nm) ** -2),
    }
    ours, theirs = model.encode(plain), model.encode(si)
    np.testing.assert_array_equal(ours["desi_b"], theirs["desi_b"])
    assert np.isfinite(ours["desi_b"]).all() and np.isnan(ours["desi_r"]).all()


def test_one_object_may_be_a_dict_of_its_values(model):
    found = model.predict({"id": "a", "mag_r": 20.0, "teff": 5000.0, "flux_b": np.ones(64)}, "specz_z")
    assert found["id"].tolist() == ["a"] and np.isfinite(found["specz_z_mean"]).all()


def test_what_is_missing_clipped_or_not_familiar_is_flagged(model):
    rows = {"id": [1, 2, 3], "mag_r": [21.0, np.nan, 34.9], "teff": [6000.0, np.nan, 6000.0]}
    flags = model.predict(rows, "specz_z", unfamiliar_above=1.0)["specz_z_flag"]
    assert flags[1] == cat.LACKS_GIVEN
    assert flags[2] & cat.CLIPPED_GIVEN and not flags[0] & cat.CLIPPED_GIVEN
    assert flags[0] & cat.UNFAMILIAR  # only what is right in the middle is not
    assert np.isnan(model.predict(rows, "specz_z")["surprise"][1])


def test_a_table_without_what_is_to_be_given_is_refused_and_what_else_it_lacks_is_said(model, caplog):
    with pytest.raises(DataError, match=r"column mag_r, got Mag_R .*rename it to mag_r"):
        model.predict({"id": [1], "Mag_R": [20.0], "teff": [5000.0]}, "specz_z")
    with pytest.raises(
        DataError, match=r"column mag_r, as mag_r is to be given, got none .*is mag_rr the column mag_r?"
    ):
        model.predict({"id": [1], "mag_rr": [20.0], "teff": [5000.0]}, "specz_z", given=["mag_r"])
    with pytest.raises(DataError, match="some of the survey's columns"):
        model.predict({"id": [1], "u": [20.0]}, "specz_z")
    with pytest.raises(DataError, match="a number in column mag_r, got type string"):
        model.predict({"id": [1], "mag_r": ["bright"]}, "specz_z")
    with pytest.raises(DataError, match="columns of one length"):
        model.predict({"id": [1], "mag_r": [1.0, 2.0]}, "specz_z")
    with caplog.at_level(logging.WARNING, "astromodal"):
        model.predict({"mag_r": [20.0, 21.0, 22.0]}, "specz_z")
    assert "missing for every object (objects are numbered" in caplog.text and "flux_b" in caplog.text
    assert "specz_z" not in caplog.text  # it is what is asked
    caplog.clear()
    model.predict({"id": [1, 2], "mag_r": [np.inf, 20.0]}, "specz_z")
    assert "scalar mag_r: lost 1 of 2: 1 infinite" in caplog.text


def test_an_option_or_question_that_cannot_be_is_one_line(model, tmp_path):
    for keywords, named in (
        ({"predict": "redshift"}, "got redshift"),
        ({"quantiles": [0.5, 1.0]}, "between 0 and 1"),
        ({"n_sample": 3}, "n_samples"),
        ({"n_samples": 0}, "n_samples >= 1"),
    ):
        with pytest.raises(ConfigError, match=named):
            model.predict({"id": [1], "mag_r": [20.0]}, **keywords)
    with pytest.raises(DataError, match="got no such file"):
        model.predict(tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"pandas or astropy table.*got a list"):
        model.predict([1, 2])
    with pytest.raises(ArtifactMissingError, match="run directory"):
        load(tmp_path / "nothing")


def test_tokens_and_back_are_what_the_codebooks_hold(trained, model):
    tokens = model.encode(trained.cube())
    values = model.decode(tokens)
    assert tokens["id"].equals(values["id"])
    again = model.encode(values.select(["id", "mag_r", "teff"]))
    for name in ("mag_r", "teff"):
        assert again[name].to_pylist() == tokens[name].to_pylist()
    spectrum = model.trained.tokenizers.spectrum
    row = next(i for i, codes in enumerate(tokens["desi_b"].to_pylist()) if codes is not None)
    codes = np.array([tokens["desi_b"][row].as_py()])
    expected = spectrum.decode("desi_b", codes, np.array([values["desi_b_scale"][row].as_py()]))
    np.testing.assert_array_equal(values["desi_b"][row].as_py(), expected[0])
    assert values["image"].null_count == tokens["image"].null_count > 0
    image = model.trained.tokenizers.image
    cutouts = [np.array(codes) for codes in tokens["image"].to_pylist() if codes is not None]
    lengths = [image.length(part) for part in image.parts]
    assert len(lengths) == 3 and lengths[0] == lengths[1] and lengths[2] == 4, "two stages, two rings in two bands"
    parts = np.split(np.stack(cutouts), np.cumsum(lengths)[:-1], axis=1)
    shown = [row for row in values["image"].to_pylist() if row is not None]
    np.testing.assert_array_equal(shown, image.decode_parts(parts).flux.reshape(len(shown), -1))
    with pytest.raises(DataError, match="codes of mag_r below"):
        model.decode({"mag_r": [10_000]})


def test_a_model_says_what_it_is(trained, model):
    about = model.explain()
    assert about["objects"]["train"] + about["objects"]["val"] + about["objects"]["test"] == 140
    assert about["asks"]["teff"]["unit"] == "K" and about["asks"]["image"]["bands"] == ["g", "r"]
    text = str(about)
    assert "judged on" in text and "marginal" in text and "5800 to 5926 Angstrom" in text


def test_importing_is_quick_and_loads_no_torch():
    code = "import sys, astromodal; assert 'load' in dir(astromodal); print({'torch', 'numpy'} & set(sys.modules))"
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(source), "PATH": ""},
    )
    assert done.stdout.strip() == "set()"
