"""Reading catalogues: names, rows that can be judged, posteriors in batches; damaged ones are refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.ask.catalogue import CLIPPED, LACKS_GIVEN, NOT_DETECTED
from astromodal.errors import ArtifactError, ArtifactMissingError, DataError
from astromodal.judge import predicted
from astromodal.judge.predicted import PredictionCatalogue, rows_of

N = 6


def write(path, **columns):
    base = {"id": [f"o{i}" for i in range(N)], "field": ["A"] * N, "split": ["train", "val", "test"] * 2}
    pq.write_table(pa.table(base | columns), path)
    return path


def test_columns_quantiles_and_splits_are_found_whatever_their_spelling(tmp_path):
    path = write(
        tmp_path / "c.parquet",
        z=np.arange(6.0),
        z_mean=np.arange(6.0),
        z_q2_5=np.zeros(6),
        z_q84=np.ones(6),
        t_median=np.arange(6.0),
        spectrum_mean=[[1.0]] * 6,
    )
    catalogue = PredictionCatalogue(path)
    assert catalogue.columns == ("z", "t")  # a list of numbers is not a scalar
    assert catalogue.split.tolist() == [0, 1, 2] * 2
    z, t = catalogue.column("z"), catalogue.column("t")
    assert z.levels == (0.025, 0.84) and z.quantiles[:, 1].tolist() == [1.0] * 6
    assert (z.median == z.mean).all() and z.edges is None  # the mean stands in for a median
    assert np.isnan(t.observed).all() and not t.judged(np.ones(6, bool)).any()
    assert t.levels == (0.5,)
    numbered = write(tmp_path / "d.parquet", z_mean=np.zeros(6))
    table = pq.read_table(numbered).drop(["split", "field"]).append_column("split", pa.array([2, 1, 0, 2, None, 7]))
    pq.write_table(table, numbered)
    assert PredictionCatalogue(numbered).split.tolist() == [2, 1, 0, 2, -1, 7]
    assert PredictionCatalogue(numbered).fields.tolist() == [""] * 6


def test_rows_left_out_are_counted_by_their_first_reason_and_clipped_ones_are_judged(tmp_path):
    path = write(
        tmp_path / "c.parquet",
        z=[1.0, None, 2.0, None, 3.0, 4.0],
        z_mean=[1.0, 1.0, None, None, None, 1.0],
        z_flag=[CLIPPED, 0, LACKS_GIVEN, NOT_DETECTED, 0, 0],
    )
    column, rows = PredictionCatalogue(path).column("z"), np.ones(N, bool)
    assert column.judged(rows).tolist() == [True, False, False, False, False, True]
    assert column.left_out(rows) == {
        "not detected": 1,
        "not observed": 1,
        "nothing of what was to be given": 1,
        "no prediction": 1,
    }
    assert column.remarks(rows) == {"clipped": 1}
    rows[0] = False
    assert column.judged(rows).sum() == 1 and column.remarks(rows) == {}


def test_posteriors_come_in_batches_of_the_wanted_rows_over_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(predicted, "BATCH_ROWS", 4)
    p = np.random.default_rng(0).dirichlet(np.ones(3), 2 * N).astype(np.float32)
    for k in range(2):
        part = [row if i != 1 else None for i, row in enumerate(p[N * k : N * k + N].tolist())]
        write(
            tmp_path / f"part{k}.parquet",
            z=np.zeros(N),
            z_mean=np.zeros(N),
            z_posterior=pa.array(part, pa.list_(pa.float32(), 3)),
        )
    np.savez(tmp_path / "posterior_bins.npz", edges_z=np.arange(4.0))
    catalogue = PredictionCatalogue(tmp_path)
    wanted = np.ones(2 * N, bool)
    wanted[[0, 8]] = False
    found = list(catalogue.posteriors("z", wanted))
    rows = np.concatenate([at for at, _ in found])
    assert rows.tolist() == [2, 3, 4, 5, 6, 9, 10, 11]  # 1 and 7 are null
    assert (np.concatenate([m for _, m in found]) == p[rows]).all()
    wrong = PredictionCatalogue(tmp_path, bins={"z": np.arange(6.0)})
    with pytest.raises(DataError, match="5 values"):
        list(wrong.posteriors("z", wanted))


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"evaluate\.py"):
        PredictionCatalogue(tmp_path / "nothing.parquet")
    with pytest.raises(ArtifactMissingError):
        PredictionCatalogue(tmp_path)
    with pytest.raises(ArtifactError, match="c_mean"):
        PredictionCatalogue(write(tmp_path / "a.parquet", z=np.zeros(N)))
    path = write(tmp_path / "b.parquet", z_mean=np.zeros(N), z_posterior=[[0.5, 0.5]] * N)
    with pytest.raises(DataError, match="edges"):
        PredictionCatalogue(path).column("z")
    with pytest.raises(DataError, match="predicted column of z"):
        PredictionCatalogue(path, bins={"z": np.arange(3)}).column("y")


def test_rows_of_finds_each_id():
    ids = np.array(["c", "a", "b"])
    assert rows_of(ids, np.array(["b", "zz", "", "c", "b"])).tolist() == [2, -1, -1, 0, 2]
    assert rows_of(np.array([], str), ["a"]).tolist() == [-1]
