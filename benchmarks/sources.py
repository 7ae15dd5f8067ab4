"""How fast spectra come out of the ways of holding them, beside the program that the format belongs to.

Writes a few thousand spectra (flux, ivar, wavelength: 7781 float32 each, as DESI's) as Parquet with list columns, as a
struct of lists, as a list of structs, as part files, and as a FITS table, and reads them with one thread, taking turns:
by this program's source, and by Arrow's decoder or astropy's table alone, the same columns in the same pieces. Prints
medians of bytes per second, of the ratios within a turn, and the memory that Arrow holds at most. Files are in the page
cache; the rate of reading one of them byte by byte is printed as the disk's.

    python benchmarks/sources.py [n_rows]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from astromodal.config.schema import DataConfig, SpectrumGroupConfig
from astromodal.data.columns import list_column_ragged
from astromodal.data.datacube import Datacube
from astromodal.data.sources.layouts import open_source
from astromodal.data.sources.parquet import BUFFER

N_PIXELS, ROWS, NAMES = 7781, 64, ("flux", "ivar", "wave")
WANTED = 1 / 3  # of the other's rate, at least


def spectra(n_rows: int) -> dict[str, np.ndarray]:
    """Noise of a few digits, (n_rows, N_PIXELS) float32 each."""
    rng = np.random.default_rng(0)
    flux = (np.round(rng.standard_normal((n_rows, N_PIXELS)) * 64) / 64).astype(np.float32)
    wave = np.broadcast_to((3600 + 0.8 * np.arange(N_PIXELS)).astype(np.float32), flux.shape)
    return {"flux": flux, "ivar": np.abs(flux), "wave": np.ascontiguousarray(wave)}


def write(folder: Path, n_rows: int) -> dict[str, list[Path]]:
    """The same spectra in every way; way → its files."""
    from astropy.table import Table

    values, ids = spectra(n_rows), pa.array(np.arange(n_rows))
    offsets = pa.array(np.arange(n_rows + 1, dtype=np.int32) * N_PIXELS)
    flat = {name: pa.array(v.reshape(-1)) for name, v in values.items()}
    lists = {name: pa.ListArray.from_arrays(offsets, v) for name, v in flat.items()}
    structs = pa.StructArray.from_arrays(list(flat.values()), list(flat))
    tables = {
        "lists": pa.table({"id": ids, **lists}),
        "struct of lists": pa.table({"id": ids, "s": pa.StructArray.from_arrays(list(lists.values()), list(lists))}),
        "list of structs": pa.table({"id": ids, "s": pa.ListArray.from_arrays(offsets, structs)}),
    }
    found = {}
    for way, table in tables.items():
        found[way] = [folder / f"{way.replace(' ', '_')}.parquet"]
        pq.write_table(table, found[way][0], row_group_size=256, use_dictionary=False, compression="zstd")
    found["part files"] = []
    for k in range(4):
        found["part files"].append(folder / f"part{k}.parquet")
        part = tables["lists"].slice(k * n_rows // 4, (k + 1) * n_rows // 4 - k * n_rows // 4)
        pq.write_table(part, found["part files"][-1], row_group_size=256, use_dictionary=False, compression="zstd")
    Table({"id": np.arange(n_rows), **values}).write(folder / "table.fits")
    return found | {"FITS table": [folder / "table.fits"]}


def ours(cube: Datacube, names: list[str]) -> float:
    """Every spectrum as flat arrays; their sum, so that every value is touched."""
    total = 0.0
    for batch in cube.batches(names, rows=ROWS):
        total += sum(float(list_column_ragged(batch.column(name))[0].sum(dtype=np.float64)) for name in names)
    return total


def by_arrow(paths: list[Path], names: list[str]) -> float:
    """Arrow's decoder alone, with the same settings, and the sum of what it gives."""
    total = 0.0
    for path in paths:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
            for group in range(file.metadata.num_row_groups):
                for batch in file.iter_batches(ROWS, row_groups=[group], columns=names, use_threads=False):
                    for column in batch.columns:
                        total += _sum(column)
    return total


def _sum(column: pa.Array) -> float:
    if pa.types.is_struct(column.type):
        return sum(_sum(column.field(i)) for i in range(column.type.num_fields))
    flat = column.flatten()
    if pa.types.is_struct(flat.type):
        return sum(float(flat.field(i).to_numpy().sum(dtype=np.float64)) for i in range(flat.type.num_fields))
    return float(flat.to_numpy().sum(dtype=np.float64))


def by_astropy(path: Path, names: list[str]) -> float:
    """astropy's memory map of the table, the same rows at a time."""
    from astropy.io import fits

    total = 0.0
    with fits.open(path, memmap=True) as file:
        data = file[1].data
        for start in range(0, len(data), ROWS):
            part = data[start : start + ROWS]
            total += sum(float(part[name].astype(np.float32).sum(dtype=np.float64)) for name in names)
    return total


def seconds(function: Callable[[], float]) -> tuple[float, float]:
    """Seconds by the clock, and the sum."""
    start = time.perf_counter()
    total = function()
    return time.perf_counter() - start, total


def measure(n_rows: int = 2048, repeats: int = 5) -> dict[str, float]:
    """Print the table; returns this program's rate over the other's, by way of holding."""
    n_bytes, ratios = n_rows * N_PIXELS * 4 * len(NAMES), {}
    print(f"{n_rows} rows, {n_bytes / 1e6:.0f} MB of spectra, one thread, medians of {repeats}, MB/s")
    print(f"{'way':<18}{'alone':>8}{'ours':>8}{'ratio':>8}{'Arrow holds':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for way, paths in write(Path(folder), n_rows).items():
            names = [f"s.{name}" for name in NAMES] if "struct" in way else list(NAMES)
            group = SpectrumGroupConfig(flux=names[0], ivar=names[1], wave=names[2], wave_max=1.0)
            data = DataConfig(name="x", root=folder, ra_column=None, dec_column=None, spectra={"s": group})
            cube = Datacube(paths[0], data, way, open_source(paths))
            alone = (
                (lambda p=paths: by_astropy(p[0], list(NAMES)))
                if way == "FITS table"
                else (lambda p=paths, w=way: by_arrow(p, ["s"] if "struct" in w else list(NAMES)))
            )
            turns = []
            for _ in range(repeats):
                (a, total), (b, own) = seconds(alone), seconds(lambda c=cube, n=names: ours(c, n))
                if not np.isclose(total, own):
                    raise SystemExit(f"error: {way}: other values, {own} instead of {total}")
                turns.append((n_bytes / a, n_bytes / b, a / b))
            other, own, ratios[way] = np.median(turns, axis=0)
            before, most = pa.total_allocated_bytes(), 0
            for _ in cube.batches(names, rows=ROWS):
                most = max(most, pa.total_allocated_bytes() - before)
            print(f"{way:<18}{other / 1e6:>8.0f}{own / 1e6:>8.0f}{ratios[way]:>7.2f}x{most / 1e6:>11.1f} MB")
    slow = [way for way, ratio in ratios.items() if ratio < WANTED]
    print(f"below a third: {', '.join(slow)}" if slow else "all at a third of the other's rate or more")
    return {way: float(ratio) for way, ratio in ratios.items()}


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 2048)
