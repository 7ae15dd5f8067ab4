"""Catalogues on disk: damage is found when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from astromodal.ask import catalogue as cat
from astromodal.core import fingerprint_file, write_json
from astromodal.errors import ArtifactError
from astromodal.judge.predicted import PredictionCatalogue
from astromodal.probe.similarity import nearest_in_file

N = 300


def write(folder: Path, name: str = "catalogue", width: int = 0) -> Path:
    rng = np.random.default_rng(0)
    lists = cat.drawn_fields("xp", 4) if not width else []
    fields = [*cat.scalar_fields("z", [0.16, 0.84], None), *lists]
    if width:
        import pyarrow as pa

        fields = [pa.field("embedding_mean", pa.list_(pa.float32(), width))]
    schema = cat.make_schema(fields, {"questions": {"z": {"unit": "", "given": ["g"]}}})
    columns = {"id": np.array([f"a{i}" for i in range(N)]), "field": np.full(N, "F"), "split": np.full(N, "val")}
    for field in schema:
        shape = (N, field.type.list_size) if hasattr(field.type, "list_size") else N
        values = rng.integers(0, 2, N) if field.name.endswith("_flag") else rng.normal(size=shape).astype(np.float32)
        columns.setdefault(field.name, values)
    with cat.writing_catalogue(folder / f"{name}.parquet", schema) as out:
        out.append(columns)
    return folder / f"{name}.parquet"


def flips(path: Path, n: int, first: int = 0):
    """The file with one bit after the other changed; whole again at the end."""
    whole = path.read_bytes()
    for bit in np.random.default_rng(1).choice(np.arange(8 * first, 8 * len(whole)), n, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        yield bit
    path.write_bytes(whole)


@pytest.mark.parametrize("in_a_run", [True, False])
def test_no_bit_of_a_catalogue_can_flip_without_a_word(tmp_path, in_a_run):
    """In its run every bit is covered; elsewhere all but the table of contents, which Parquet has no checksum of."""
    path = write(tmp_path)
    whole, meaning = cat.read_catalogue(tmp_path)
    contents = int.from_bytes(path.read_bytes()[-8:-4], "little") + 8
    if in_a_run:
        write_json(tmp_path / "run.json", {"outputs": {"catalogue": fingerprint_file(path)}})
    refused = 0
    for bit in flips(path, 200):
        in_contents = bit // 8 >= path.stat().st_size - contents
        try:
            table, found = cat.read_catalogue(tmp_path)
        except ArtifactError as error:
            assert "catalogue.parquet" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert (table.equals(whole) and found == meaning) or (in_contents and not in_a_run)
    assert refused > 150


def test_every_reader_of_catalogues_and_embeddings_looks_at_the_checksums(tmp_path):
    path, embeddings = write(tmp_path), write(tmp_path, "embeddings", 5)
    catalogue = PredictionCatalogue(path)
    nearest_in_file(embeddings, ["a1"], 2)
    for damaged in (path, embeddings):
        content = bytearray(damaged.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 40] = bytes(b ^ 255 for b in content[middle : middle + 40])
        damaged.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"whole Parquet file.*catalogue\.parquet"):
        for name in ("z", "z_mean", "z_median", "z_q16", "z_q84", "z_err", "z_std", "z_pit", "z_flag"):
            catalogue.numbers(name)
        for name in ("xp_mean", "xp_std"):
            catalogue._column(name)
    with pytest.raises(ArtifactError, match=r"whole Parquet file.*embeddings\.parquet"):
        nearest_in_file(embeddings, ["a1"], 2)
