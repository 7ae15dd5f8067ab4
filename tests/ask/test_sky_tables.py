"""Answers and tokens with positions: joined by field and id, null where something is not there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from astromodal.__main__ import main
from astromodal.ask import catalogue as cat
from astromodal.ask.sky_tables import Places, sky_table
from astromodal.config.schema import DataConfig
from astromodal.data.datacube import Datacube, discover
from astromodal.data.sources.hats import tiles
from astromodal.data.splits import assign_splits
from astromodal.errors import ArtifactMissingError, DataError
from astromodal.tokens import TokenStore, encode_survey
from tests.tokens.fake_survey import FakeTokenizers, survey_config, write_cube

N = 30


@pytest.fixture
def run(tmp_path):
    """The directory of a run, whose survey of two fields lies beside it."""
    for seed, name in enumerate(("A", "B")):
        write_cube(tmp_path, name, N, seed)
    data = survey_config(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    paths = {"datacube_template": f"{tmp_path}/datacube_{{field}}.parquet", "store": str(tmp_path / "store")}
    OmegaConf.save(OmegaConf.create({"data": OmegaConf.structured(data), "paths": paths}), folder / "config.yaml")
    return folder


def survey(run) -> tuple[DataConfig, list[Datacube]]:
    data = survey_config(run.parent)
    return data, discover(data, str(run.parent / "datacube_{field}.parquet"))


def write_answers(run) -> list[str]:
    ids = [f"{field}-{i}" for field in "AB" for i in range(N)] + ["B-gone"]
    schema = cat.make_schema(cat.scalar_fields("z", [0.5], None), {"questions": {}})
    columns = {"id": np.array(ids), "field": np.array([i[0] for i in ids]), "split": np.full(len(ids), "val")}
    columns |= {f.name: np.zeros(len(ids)) for f in schema if f.name not in columns}
    columns["z_median"] = np.arange(len(ids)) * 1.0
    with cat.writing_catalogue(run / "catalogue.parquet", schema) as out:
        out.append(columns)
    return ids


def places_of(cubes) -> dict[str, tuple[float, float]]:
    return {str(i): tuple(p) for cube in cubes for i, p in zip(cube.ids(), cube.positions(), strict=True)}


def test_answers_get_the_positions_of_their_objects(run, tmp_path, capsys):
    pytest.importorskip("astropy_healpix")
    ids, known = write_answers(run), places_of(survey(run)[1])
    main(["hats", str(run), "--to", str(tmp_path / "out"), "--max-rows", "7"])
    said = capsys.readouterr().out
    assert f"{2 * N} rows" in said and "left out: 1 rows without a position" in said
    found, _ = tiles(tmp_path / "out")
    rows = [row for paths in found.values() for row in pq.read_table(paths[0], partitioning=None).to_pylist()]
    assert {row["id"]: (row["ra"], row["dec"]) for row in rows} == known
    assert all(row["z_median"] == ids.index(row["id"]) for row in rows)
    schema = pq.read_schema(next(iter(found.values()))[0])
    assert cat.KEY in schema.metadata and schema.names[:4] == ["_healpix_29", "id", "ra", "dec"]


def test_tokens_are_columns_and_what_is_not_there_is_null(run):
    data, cubes = survey(run)
    encode_survey(cubes, FakeTokenizers(), assign_splits(cubes, data), data, run.parent / "store")
    table = pa.Table.from_batches(list(sky_table(run).pieces()))
    store, known = TokenStore(run.parent / "store"), places_of(cubes)
    rows = table.to_pylist()
    assert len(rows) == 2 * N and {r["id"]: (r["ra"], r["dec"]) for r in rows} == known
    at = 0
    for tokens in store:
        for i in range(len(tokens)):
            row = rows[at]
            for j, column in enumerate(tokens.columns):
                there = bool(tokens.scalar["present"][i, j])
                assert row[f"{column}_token"] == (int(tokens.scalar["tokens"][i, j]) if there else None)
            for group, part in tokens.spectra.items():
                want = list(part.tokens[int(part.offsets[i]) : int(part.offsets[i + 1])]) if part.present[i] else None
                assert row[f"{group}_tokens"] == want
            want = list(tokens.image["tokens"][i]) if tokens.image["present"][i] else None
            assert row["image_tokens"] == want and row["split"] == ("train", "val", "test")[int(tokens.split[i])]
            at += 1


def test_a_field_or_an_id_that_is_gone_has_no_place(run):
    places = Places(survey(run)[1])
    assert np.isnan(places.of("C", np.array(["A-1"]))).all()
    found = places.of("A", np.array(["A-1", "x", "A-0"]))
    assert np.isnan(found).all(1).tolist() == [False, True, False]


def test_mistakes_say_what_to_do(run, tmp_path):
    with pytest.raises(ArtifactMissingError, match="token files"):
        sky_table(run)
    with pytest.raises(ArtifactMissingError, match="a run directory"):
        sky_table(tmp_path)
    content = OmegaConf.load(run / "config.yaml")
    content.data.ra_column = None
    OmegaConf.save(content, run / "config.yaml")
    with pytest.raises(DataError, match="positions"):
        sky_table(run)
