"""A small survey and tokenizers that need no fitting, for tests of token files and sequences.

The codes are simple functions of the values, so that a test can say what every token has to be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astromodal.config.schema import (
    BandConfig,
    DataConfig,
    ImageConfig,
    ScalarConfig,
    SpectrumGroupConfig,
    SpectrumKind,
)
from astromodal.data.datacube import Datacube
from astromodal.errors import ArtifactError
from astromodal.tokenizers import TokenizerSet
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook

SIZE, N_COEFFICIENTS = 8, {"bp": 12, "rp": 8}
IMAGE_TOKENS, V_SCALAR, V_IMAGE, V_SPECTRUM = 4, 32, 64, 16


def survey_config(root: Path, batch_rows: int = 16) -> DataConfig:
    """Two magnitudes and a redshift, two groups of coefficients, cutouts of 8 x 8 pixels in two bands."""
    magnitude = {"sentinels": [-99.0], "nondetection": 99.0}
    groups = {
        name: SpectrumGroupConfig(kind=SpectrumKind.coefficients, flux=f"xp_{name}", n_coefficients=n)
        for name, n in N_COEFFICIENTS.items()
    }
    return DataConfig(
        name="fake",
        root=str(root),
        batch_rows=batch_rows,
        scalars={"r": ScalarConfig(**magnitude), "u": ScalarConfig(**magnitude), "z": ScalarConfig()},
        spectra=groups,
        images=ImageConfig(
            bands={b: BandConfig(column=f"cut_{b}") for b in ("r", "u")}, size=SIZE, a=None, b=None, theta=None
        ),
    )


def write_cube(root: Path, name: str, n: int, seed: int, empty_rows: int = 2) -> Path:
    """A datacube in which most objects lack most modalities; the last ``empty_rows`` lack everything."""
    rng = np.random.default_rng(seed)
    real = np.arange(n) < n - empty_rows

    def some(fraction: float) -> np.ndarray:
        return (rng.random(n) < fraction) & real

    def lists(present: np.ndarray, length: int) -> list:
        return [rng.normal(3, 1, length).astype(np.float32) if p else None for p in present]

    columns: dict[str, object] = {"id": [f"{name}-{i}" for i in range(n)]}
    columns |= {"ra": rng.uniform(0, 360, n), "dec": rng.uniform(-30, 30, n)}
    for column, fraction in (("r", 0.9), ("u", 0.7), ("z", 0.2)):
        values = rng.uniform(0, V_SCALAR, n)
        if column != "z":
            values[rng.random(n) < 0.1] = 99.0
        columns[column] = pa.array(values, mask=~some(fraction))
    for group, length in N_COEFFICIENTS.items():
        columns[f"xp_{group}"] = pa.array(lists(some(0.3), length), pa.list_(pa.float32()))
    imaged = some(0.4)
    for band in ("r", "u"):
        columns[f"cut_{band}"] = pa.array(lists(imaged, SIZE * SIZE), pa.list_(pa.float32()))
    path = Path(root) / f"datacube_{name}.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=40)
    return path


@dataclass
class FakePart:
    """What encode and store ask of any tokenizer."""

    fingerprint: str
    inputs_: dict[str, str] = field(default_factory=dict)

    def check(self, data: DataConfig, cubes) -> None:
        for cube in cubes:
            fitted = self.inputs_.get(cube.field, cube.fingerprint())
            if fitted != cube.fingerprint():
                raise ArtifactError(f"cube {fitted}", got=cube.fingerprint(), where=cube.path, repair="fit again")


class FakeScalar(FakePart):
    columns = ("r", "u", "z")
    codebook = ScalarCodebook(
        columns, np.tile(np.arange(V_SCALAR) + 0.5, (3, 1)), np.ones((3, V_SCALAR)), np.full(3, V_SCALAR)
    )

    @property
    def configs(self):
        return survey_config(Path(".")).scalars

    def encode(self, batch):
        tokens = np.where(batch.present, np.clip(np.nan_to_num(batch.values), 0, V_SCALAR - 1), 0).astype(np.uint16)
        clipped = batch.present & (batch.values > V_SCALAR - 1)
        return SimpleNamespace(
            tokens=tokens,
            present=batch.present,
            clipped=clipped,
            nondetected=batch.nondetected,
            values=batch.values,
            errors=batch.errors,
            sigma=np.where(batch.present, np.nan_to_num(batch.values) / 64 + 0.125, 0.0).astype(np.float16),
        )


class FakeSpectrum(FakePart):
    groups = tuple(N_COEFFICIENTS)

    def length(self, group: str) -> int:
        return N_COEFFICIENTS[group] // 2

    def encode(self, group, batch):
        patches = batch.flux.reshape(len(batch.flux), self.length(group), 2).sum(2)
        return (np.abs(patches * 1000) % V_SPECTRUM).astype(np.uint16), batch.present

    def sigma(self, group, batch):
        patches = batch.flux.reshape(len(batch.flux), self.length(group), 2).sum(2)
        return (1 + np.abs(patches)).astype(np.float16)

    def encode_parts(self, group, batch):
        return {group: (*self.encode(group, batch), self.sigma(group, batch))}

    def codebooks(self):
        return {group: Codebook(np.arange(V_SPECTRUM)[:, None]) for group in self.groups}


class FakeImage(FakePart):
    n_tokens = IMAGE_TOKENS
    parts = ("image",)
    codebook = Codebook(np.arange(V_IMAGE)[:, None])

    def encode(self, batch):
        quarters = batch.flux.reshape(len(batch.flux), 2, 2, SIZE // 2, 2, SIZE // 2).mean((3, 5))  # (n, 2, 2, 2)
        codes = (np.abs(quarters[:, 0].reshape(-1, 4)) * 1e4 % V_IMAGE).astype(np.uint16)
        sigma = (codes % 7 / 8).astype(np.float16)
        clipped = np.zeros(batch.band_present.shape, bool)
        return SimpleNamespace(
            tokens=codes, latents=quarters.astype(np.float32), present=batch.present, sigma=sigma, clipped=clipped
        )

    def by_part(self, encoded):
        return {"image": (encoded.tokens, encoded.sigma)}

    def codebooks(self):
        return {"image": self.codebook}


class FakeTokenizers(TokenizerSet):
    """A set of stand-ins."""

    def __init__(self, names=("scalar", "spectrum", "image"), tag: str = "0") -> None:
        kinds = {"scalar": FakeScalar, "spectrum": FakeSpectrum, "image": FakeImage}
        super().__init__(**{name: kinds[name](f"{name}-{tag}") for name in names})


def make_survey(root: Path, n_fields: int = 3, n: int = 90, batch_rows: int = 16):
    """Cubes, splits by hash of the id, and configuration."""
    from astromodal.files.ids import hash_ids

    data = survey_config(root, batch_rows)
    cubes = [Datacube(write_cube(root, f"F{i}", n + 7 * i, seed=i), data) for i in range(n_fields)]
    splits = {cube.field: np.minimum(hash_ids(cube.ids()) % np.uint64(5), 2).astype(np.uint8) for cube in cubes}
    splits = {name: (2 - split).astype(np.uint8) for name, split in splits.items()}
    return cubes, splits, data
