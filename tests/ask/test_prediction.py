"""From fields of tokens to the catalogue: who stands in it, with which numbers and flags."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from astromodal.ask import catalogue as cat
from astromodal.ask import prediction
from astromodal.ask.prediction import Predictor, write_predictions
from astromodal.ask.trained import TrainedModel
from astromodal.config.schema import EvaluateConfig, HardwareConfig
from astromodal.errors import ArtifactError, ArtifactMissingError, ConfigError

from . import hand_built as hand


def predictor(tmp_path, seed: int = 0, dtype=torch.float64, **settings) -> Predictor:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    sequence = {"order": "random", "missing": "absent", "next_types": True}
    trained = TrainedModel(hand.model(dtype), hand.layout(), hand.tokenizers(), sequence, weights, "run")
    hardware = HardwareConfig(device="cpu", n_threads=1)
    return Predictor(
        trained, EvaluateConfig(batch_size=6, n_samples=3, **settings), hardware, torch.device("cpu"), seed
    )


def written(tmp_path, fields=None, splits=None, **settings) -> pa.Table:
    fields = [hand.field()] if fields is None else fields
    summary = write_predictions(predictor(tmp_path, **settings), fields, tmp_path, splits)
    table, meaning = cat.read_catalogue(tmp_path)
    assert summary["objects"] == table.num_rows and meaning["run"] == "run"
    return table


def columns(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy(zero_copy_only=False)


def two_fields():
    from dataclasses import replace

    other = hand.field(11, seed=4)
    return [hand.field(), replace(other, field="F1", ids=np.array([f"other{i}" for i in range(11)]))]


def test_every_object_of_every_field_is_found_by_its_id(tmp_path):
    fields = two_fields()
    table = written(tmp_path, fields)
    assert table["id"].to_pylist() == [*fields[0].ids, *fields[1].ids]
    assert table["field"].to_pylist() == ["F0"] * 23 + ["F1"] * 11
    splits = np.concatenate([f.split for f in fields])
    assert table["split"].to_pylist() == [("train", "val", "test")[s] for s in splits]
    for j, name in enumerate(hand.COLUMNS):
        there = np.concatenate([f.scalar["present"][:, j] & ~f.scalar["nondetected"][:, j] for f in fields])
        for key, column in (("values", name), ("errors", f"{name}_err")):
            values = np.concatenate([f.scalar[key][:, j] for f in fields])
            np.testing.assert_array_equal(columns(table, column), np.where(there, values, np.nan))


def test_only_the_wanted_splits_are_written_and_windows_change_nothing(tmp_path, monkeypatch):
    whole = written(tmp_path, two_fields())
    some = written(tmp_path, two_fields(), ["val", "test"])
    chosen = whole.filter(pa.array(np.isin(columns(whole, "split"), ["val", "test"])))
    assert 0 < some.num_rows < whole.num_rows and some["id"].equals(chosen["id"])
    monkeypatch.setattr(prediction, "_SLOT_CELLS", 1)  # windows of one batch
    assert predictor(tmp_path).window_rows() == 6
    small = written(tmp_path, two_fields(), ["val", "test"])
    assert pq.ParquetFile(tmp_path / "catalogue.parquet").num_row_groups > 4
    for name in some.column_names[3:]:
        expected = columns(chosen, name).astype(float)
        np.testing.assert_allclose(columns(some, name).astype(float), expected, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(columns(small, name).astype(float), expected, rtol=2e-5, atol=1e-6)


def test_columns_have_the_promised_names_and_order(tmp_path):
    table = written(tmp_path, predict=["z", "image"], posterior=True, quantiles=[0.16, 0.975])
    assert table.column_names == [
        "id",
        "field",
        "split",
        "z",
        "z_err",
        "z_mean",
        "z_median",
        "z_std",
        "z_q16",
        "z_q97.5",
        "z_pit",
        "z_crps",
        "z_posterior",
        "z_flag",
        "image_mean",
        "image_std",
        "image_flag",
    ]
    assert table.schema.field("z_posterior").type == pa.list_(pa.float32(), 8)
    meaning = json.loads(table.schema.metadata[b"astromodal"])
    assert meaning["questions"]["image"]["shape"] == [1, 2, 2] and meaning["questions"]["z"]["given"][0] == "r"
    p = np.array([row for row in table["z_posterior"].to_pylist() if row is not None])
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert (tmp_path / "posterior_bins.npz").is_file()


def test_an_object_with_nothing_given_is_a_flagged_row_without_numbers(tmp_path):
    tokens = hand.field()
    table = written(tmp_path, [tokens], given=["sp"], predict=["z", "image"], posterior=True)
    lacks = ~tokens.spectra["sp"].present
    assert 1 < lacks.sum() < 20 and lacks[[1, 3]].all()
    for name in ("z", "image"):
        flags = columns(table, f"{name}_flag")
        assert ((flags & cat.LACKS_GIVEN > 0) == lacks).all()
        for column in [c for c in table.column_names if c.startswith(f"{name}_") and c != f"{name}_flag"]:
            if column not in ("z_err", "z_pit", "z_crps"):
                assert (np.array([v is None for v in table[column].to_pylist()]) == lacks).all(), column
    assert np.isfinite(columns(table, "z")[3])  # what was observed stays


def test_to_give_nothing_is_an_answer_but_said(tmp_path):
    table = written(tmp_path, given=[], predict=["z"])
    assert (columns(table, "z_flag") & cat.UNCONDITIONAL > 0).all()
    assert len(set(columns(table, "z_mean").round(5))) == 1


def test_flags_tell_of_values_beyond_the_fitted_range_and_of_non_detections(tmp_path):
    tokens = hand.field()
    tokens.scalar["clipped"][:] = False
    table = written(tmp_path, [tokens], given=["r", "xp"], predict=["z", "r"])
    assert not (columns(table, "z_flag") & (cat.CLIPPED | cat.CLIPPED_GIVEN)).any()
    undetected = tokens.scalar["nondetected"][:, 1]
    assert ((columns(table, "z_flag") & cat.NOT_DETECTED > 0) == undetected).all() and undetected.any()
    tokens.scalar["clipped"][0, 0] = tokens.scalar["clipped"][3, 2] = True  # r of object 0; t of object 3
    table = written(tmp_path, [tokens], given=["r", "xp"], predict=["z", "r"])
    assert np.flatnonzero(columns(table, "z_flag") & cat.CLIPPED_GIVEN).tolist() == [0]  # t is not given
    assert np.flatnonzero(columns(table, "r_flag") & cat.CLIPPED).tolist() == [0]
    assert not (columns(table, "r_flag") & cat.CLIPPED_GIVEN).any()  # r is not given when r is asked


def test_spectra_are_in_physical_units_by_the_given_scale_or_a_drawn_one(tmp_path):
    tokens = hand.field()
    table = written(tmp_path, [tokens], given=["r", "xp_scale"], predict=["xp", "sp"])
    has = tokens.scalar["present"][:, 3] | tokens.scalar["nondetected"][:, 3]
    lacks = columns(table, "xp_flag") & cat.LACKS_GIVEN > 0
    assert ((columns(table, "xp_flag") & cat.SCALE_DRAWN > 0) == (~has & ~lacks)).all()
    questions = json.loads(table.schema.metadata[b"astromodal"])["questions"]
    assert questions["xp"]["unit"] == "erg" and "in units of the spectrum's scale" in questions["sp"]["unit"]
    assert questions["xp"]["wave_min"] == 1.0


def test_a_column_without_training_values_is_left_out(tmp_path, monkeypatch):
    from astromodal.quantizers import QuantileBinner
    from astromodal.tokenizers.scalar import NEVER

    fitted = hand.tokenizers()
    fitted.scalar.binners[2] = QuantileBinner.from_state(NEVER)
    monkeypatch.setattr(hand, "tokenizers", lambda: fitted)
    monkeypatch.setattr(hand, "N_BINS", (5, 8, 1, 6))
    assert [q.name for q in predictor(tmp_path).plan.questions] == ["r", "z", "xp_scale"]


def test_embeddings_can_be_all_that_is_asked(tmp_path):
    table = written(tmp_path, embeddings=["last"], predict=[], given=["spectrum"])
    assert table.column_names == ["id", "field", "split"] and table.num_rows == 23


def test_embeddings_stand_in_a_file_of_their_own(tmp_path):
    written(tmp_path, two_fields(), embeddings=["mean", "last"], predict=["r"])
    table, _ = cat.read_catalogue(tmp_path / "embeddings.parquet")
    assert table.column_names == ["id", "field", "split", "embedding_mean", "embedding_last"]
    assert table.num_rows == 34 and table.schema.field("embedding_mean").type == pa.list_(pa.float32(), 16)
    assert len({tuple(row) for row in table["embedding_mean"].to_pylist()}) > 20


def test_two_quantities_with_one_column_name_are_refused():
    fields = [pa.field("r_mean", pa.float32()), pa.field("r_mean", pa.float32())]
    with pytest.raises(ConfigError, match="r_mean"):
        cat.make_schema(fields, {})


def test_a_failure_leaves_no_catalogue(tmp_path):
    def fields():
        yield hand.field()
        raise ArtifactError("a field", got="none")

    with pytest.raises(ArtifactError):
        write_predictions(predictor(tmp_path, embeddings=["mean"]), fields(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]
    with pytest.raises(ArtifactMissingError, match=r"evaluate\.py"):
        cat.read_catalogue(tmp_path)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ArtifactError, match=r"evaluate.py"):
        cat.read_catalogue(tmp_path / "other.parquet")


def test_the_same_seed_gives_the_same_file(tmp_path):
    files = []
    for seed in (0, 0, 1):
        write_predictions(predictor(tmp_path, seed, predict=["sp", "z"]), [hand.field()], tmp_path)
        files.append((tmp_path / "catalogue.parquet").read_bytes())
    assert files[0] == files[1] != files[2]
