"""The same objects, held in any arrangement, encode to the same tokens; and what is encoded is not encoded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from astromodal.config.schema import WorkersConfig
from astromodal.data.datacube import discover
from astromodal.data.sources.hats import Tile
from astromodal.files.ids import hash_ids
from astromodal.tokens import TokenStore, encode_survey
from tests.tokens.fake_survey import FakeTokenizers, survey_config, write_cube

N = 60


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pa.Table:
    return pq.read_table(write_cube(tmp_path_factory.mktemp("cube"), "A", N, seed=3))


def as_file(folder: Path, table: pa.Table, data) -> None:
    pq.write_table(table, folder / "datacube_A.parquet", row_group_size=16)


def as_parts(folder: Path, table: pa.Table, data) -> None:
    (folder / "A").mkdir()
    pq.write_table(table[:25], folder / "A" / "part-0.parquet", row_group_size=10)
    pq.write_table(table[25:], folder / "A" / "part-1.parquet")


def as_nested_hats(folder: Path, table: pa.Table, data) -> None:
    """Coefficients as a struct of lists, cutouts as a list over bands in an order of its own, in two tiles."""
    rows = table.to_pylist()
    for row in rows:
        row["xp"] = {group: row.pop(f"xp_{group}") for group in ("bp", "rp")}
        cuts = {band: row.pop(f"cut_{band}") for band in ("r", "u")}
        row["image"] = None if cuts["r"] is None else [{"band": b, "flux": cuts[b]} for b in ("u", "r")]
    numbers = pa.list_(pa.float32())
    kinds = {
        "xp": pa.struct({"bp": numbers, "rp": numbers}),
        "image": pa.list_(pa.struct({"band": pa.string(), "flux": numbers})),
    }
    for k, part in enumerate((rows[:20], rows[20:])):
        names = [name for name in part[0]]
        columns = {n: pa.array([row[n] for row in part], kinds.get(n) or table.schema.field(n).type) for n in names}
        place = folder / "dataset" / Tile(1, k).folder / f"Npix={k}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), place)
    (folder / "partition_info.csv").write_text("Norder,Npix\n1,0\n1,1\n")
    for group in data.spectra:
        data.spectra[group].flux = f"xp.{group}"
    for band in data.images.bands:
        data.images.bands[band].column = f"image.flux[{band}]"


def as_fits(folder: Path, table: pa.Table, data) -> None:
    """Lists in the heap: empty where there are none. Numbers that are missing are NaN."""
    columns = []
    for field in table.schema:
        values = table[field.name].to_pylist()
        if pa.types.is_string(field.type):
            columns.append(fits.Column(field.name, "12A", array=values))
        elif pa.types.is_list(field.type):
            lists = np.array([np.array(v or [], np.float32) for v in values], object)
            columns.append(fits.Column(field.name, "PE()", array=lists))
        else:
            columns.append(fits.Column(field.name, "D", array=np.array([np.nan if v is None else v for v in values])))
    fits.BinTableHDU.from_columns(columns).writeto(folder / "A.fits")


def encoded(folder: Path, data, n_processes: int = 1) -> tuple[dict[str, tuple], dict]:
    """Everything that was encoded, by id; and what was said of the encoding."""
    cubes = discover(data, f"{data.root}/datacube_{{field}}.parquet")
    splits = {cube.field: (hash_ids(cube.ids()) % np.uint64(3)).astype(np.uint8) for cube in cubes}
    workers = WorkersConfig(n_jobs=n_processes)
    summary = encode_survey(cubes, FakeTokenizers(), splits, data, folder / "store", workers=workers)
    found = {}
    for tokens in TokenStore(folder / "store"):
        for i, name in enumerate(np.asarray(tokens.ids)):
            scalars = tuple(np.asarray(tokens.scalar[k][i]).tobytes() for k in ("tokens", "present", "nondetected"))
            spectra = tuple(
                np.asarray(p.tokens[int(p.offsets[i]) : int(p.offsets[i + 1])]).tobytes()
                for p in tokens.spectra.values()
            )
            image = np.asarray(tokens.image["tokens"][i]).tobytes() if tokens.image["present"][i] else None
            found[str(name)] = (scalars, spectra, image, int(tokens.split[i]))
    return found, summary


@pytest.mark.parametrize("write", [as_parts, as_nested_hats, as_fits])
def test_every_arrangement_gives_the_same_tokens(tmp_path, table, write):
    results = []
    for k, arrange in enumerate((as_file, write)):
        folder = tmp_path / str(k)
        folder.mkdir()
        data = survey_config(folder)
        arrange(folder, table, data)
        results.append(encoded(tmp_path / f"out{k}", data)[0])
    assert len(results[0]) == N and results[0] == results[1]
    assert any(image for _, _, image, _ in results[0].values())


def test_what_is_encoded_is_not_encoded_again_and_a_changed_part_is(tmp_path, table):
    data = survey_config(tmp_path)
    as_parts(tmp_path, table, data)
    first, _ = encoded(tmp_path, data)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.npz")}
    assert encoded(tmp_path, data)[0] == first
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.npz")}
    pq.write_table(table[25:].take(list(range(N - 26, -1, -1))), tmp_path / "A" / "part-1.parquet")
    assert encoded(tmp_path, data)[0] == first  # by id: the rows stand in another order now
    assert files != {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.npz")}
