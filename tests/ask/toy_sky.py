"""A toy sky whose true conditional distribution is known, its token files in memory, and catalogues about it.

Magnitudes g and r are given; ``z = 0.3 + 0.1 (g - r) + 0.05 sin(3 r) + 0.02 noise``. A perfect model says
N(that, 0.02).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import ndtr, ndtri

from astromodal.ask.catalogue import make_schema, quantile_name
from astromodal.tokens.store import FieldTokens, SpectrumPart

SIGMA = 0.02
LEVELS = (0.025, 0.16, 0.84, 0.975)
EDGES = np.linspace(-0.6, 1.4, 401)
COLUMNS = ("mag_g", "mag_r", "z")


class ToyStore:
    """Token files of two fields, in memory; what baselines read of them."""

    def __init__(self, n: int = 1500, seed: int = 0, missing: float = 0.05) -> None:
        rng = np.random.default_rng(seed)
        self._fields = {name: self._field(name, rng, n, missing) for name in ("A", "B")}

    def _field(self, name: str, rng: np.random.Generator, n: int, missing: float) -> FieldTokens:
        r, colour = rng.uniform(16, 21, n), rng.normal(0.6, 0.5, n)
        self.truth = getattr(self, "truth", {}) | {name: expected(r + colour, r)}
        z = self.truth[name] + SIGMA * rng.normal(size=n)
        values = np.stack([r + colour, r, z], axis=1).astype(np.float32)
        gone = rng.random(values.shape) < missing
        nondetected = gone & (rng.random(values.shape) < 0.5)
        nondetected[:, 2] = False
        values[gone] = np.nan
        codes = np.clip((colour * 4 + 4).astype(int), 0, 7).astype(np.uint16)  # a "spectrum" of 3 equal tokens
        present = rng.random(n) < 0.5
        offsets = np.r_[0, np.cumsum(np.where(present, 3, 0))]
        arm = SpectrumPart(np.repeat(codes[present], 3), offsets, present, np.zeros(3 * present.sum(), np.float16), 3)
        errors = np.full((n, 3), 0.05, np.float32)
        errors[:, 2] = rng.uniform(0.001, 0.1, n)
        image = {"tokens": np.repeat(codes[:, None], 16, 1), "present": present}
        image["sigma"] = np.zeros(image["tokens"].shape, np.float16)
        scalar = {"values": values, "errors": errors, "nondetected": nondetected, "present": ~gone}
        ids = np.array([f"{name}_{i:05d}" for i in range(n)])
        split = rng.choice(3, n, p=[0.4, 0.3, 0.3]).astype(np.uint8)
        return FieldTokens(name, ids, split, COLUMNS, scalar, {"arm": arm}, image)

    def fields(self) -> list[str]:
        return list(self._fields)

    def open(self, field: str) -> FieldTokens:
        return self._fields[field]

    def __iter__(self) -> Iterator[FieldTokens]:
        return iter(self._fields.values())


def expected(g: np.ndarray, r: np.ndarray) -> np.ndarray:
    return 0.3 + 0.1 * (g - r) + 0.05 * np.sin(3 * r)


def gaussian_bins(mean: np.ndarray, std: float, edges: np.ndarray = EDGES) -> np.ndarray:
    return np.diff(ndtr((edges - mean[:, None]) / std), axis=1)


def write_catalogue(
    folder: Path,
    store: ToyStore,
    *,
    bias: float = 0.0,
    stated: float = SIGMA,
    blur: float = 0.0,
    posterior: bool = True,
    seed: int = 1,
    metadata: bool = True,
) -> Path:
    """A catalogue of ``z`` by a model whose centre is off by ``bias`` and a Gaussian ``blur``; it states ``stated``."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {}
    for field in store:
        centre = store.truth[field.field] + bias + blur * rng.normal(size=len(field))
        part = {
            "id": field.ids,
            "field": np.full(len(field), field.field),
            "split": np.array(["train", "val", "test"])[field.split],
            "z": field.scalar["values"][:, 2],
            "z_err": field.scalar["errors"][:, 2],
            "z_mean": centre,
            "z_median": centre,
            "z_std": np.full(len(field), stated),
            "z_pit": ndtr((field.scalar["values"][:, 2] - centre) / stated),
            **{quantile_name("z", level): centre + stated * ndtri(level) for level in LEVELS},
            "z_flag": np.zeros(len(field), np.uint8),
        }
        if posterior:
            part["z_posterior"] = gaussian_bins(centre, stated).astype(np.float32)
        for name, values in part.items():
            columns.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    bins = pa.list_(pa.float32(), len(EDGES) - 1)
    fields = [
        pa.field(n, bins if n == "z_posterior" else pa.from_numpy_dtype(a.dtype))
        for n, a in arrays.items()
        if n not in ("id", "field", "split")
    ]
    meaning = {"model": "toy", "questions": {"z": {"unit": "", "given": ["mag_g", "mag_r"]}}} if metadata else {}
    schema = make_schema(fields, meaning)
    table = pa.table(
        [
            pa.array(arrays[f.name].tolist() if f.name == "z_posterior" else arrays[f.name], f.type, from_pandas=True)
            for f in schema
        ],
        schema=schema,
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "catalogue.parquet", row_group_size=700)
    if posterior:
        np.savez(folder / "posterior_bins.npz", edges_z=EDGES)
    return folder / "catalogue.parquet"
