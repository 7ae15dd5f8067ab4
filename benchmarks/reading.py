"""How fast cutouts come out of a datacube, beside what bounds it, for two encodings.

Writes a small cube of 12 x 96 x 96 float32 cutouts (noise with a little structure, as real ones) and reads it with one
thread in four ways that take turns: copying the same bytes in memory, Arrow's decoder alone, the reader of this
program, and ``to_pylist`` on a few rows. Prints medians of bytes per second, by the clock and by the processor's time
(which other programs on the machine disturb less), medians of the ratios within a turn, and peak memory. The row
groups are larger than a batch on purpose, and the file is in the page cache.

    python benchmarks/reading.py [n_rows]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from astromodal.config.schema import BandConfig, DataConfig, ImageConfig
from astromodal.data.columns import list_column_to_matrix
from astromodal.data.datacube import Datacube
from astromodal.data.sources.parquet import BUFFER

N_BANDS, SIZE = 12, 96
ENCODINGS = {
    "uncompressed": {"compression": "none", "use_dictionary": False},
    "zstd + byte-stream-split": {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": None},
}


def write_cube(path: Path, n_rows: int, encoding: dict) -> list[str]:
    """A cube with ``n_rows`` rows of 12 cutouts; returns the names of the list columns."""
    rng = np.random.default_rng(0)
    names = [f"cut_{i}" for i in range(N_BANDS)]
    length = SIZE * SIZE
    step = 2.0**-4  # rounded to 1/16 of the noise
    columns: dict[str, pa.Array] = {"id": pa.array(np.arange(n_rows))}
    offsets = pa.array(np.arange(n_rows + 1, dtype=np.int32) * length)
    for name in names:
        values = (np.round(rng.standard_normal(n_rows * length) / step) * step).astype(np.float32)
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values))
    options = dict(encoding)
    if "use_byte_stream_split" in options:
        options["use_byte_stream_split"] = [f"{name}.list.element" for name in names]
    pq.write_table(pa.table(columns), path, row_group_size=256, **options)
    return names


def ours(cube: Datacube, names: list[str], rows: int = 64) -> None:
    """Every cutout as a matrix, by the reader."""
    for batch in cube.batches(names, rows=rows):
        for name in names:
            list_column_to_matrix(batch.column(name), SIZE * SIZE, name)


def by_lists(cube: Datacube, names: list[str], n_rows: int) -> None:
    """Cutouts of the first ``n_rows`` rows through Python lists."""
    mask = np.arange(cube.n_rows) < n_rows
    for batch in cube.batches(names, rows=n_rows, row_mask=mask):
        for name in names:
            np.array(batch.column(name).to_pylist(), np.float32)
        return


def by_arrow(cube: Datacube, names: list[str], rows: int = 64) -> None:
    """Arrow's decoder alone, with the reader's settings: what the reader cannot beat."""
    with pq.ParquetFile(cube.path, pre_buffer=False, buffer_size=BUFFER) as file:
        for group in range(file.metadata.num_row_groups):
            for _ in file.iter_batches(rows, row_groups=[group], columns=names, use_threads=False):
                pass


def by_copy(source: np.ndarray, target: np.ndarray, n_bytes: int) -> None:
    """``n_bytes`` copied batch by batch between warm buffers."""
    for _ in range(max(1, n_bytes // source.nbytes)):
        np.copyto(target, source)


def seconds(function: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def measure_cube(cube: Datacube, names: list[str], repeats: int, slow_rows: int) -> dict[str, np.ndarray]:
    """Bytes per second of each way, ``(repeats, 2)``: by the clock, by processor time."""
    row_bytes = N_BANDS * SIZE * SIZE * 4
    source = np.ones((64, row_bytes // 4), np.float32)
    target = source.copy()
    copied = max(cube.n_rows // 64, 1) * source.nbytes
    ways = {
        "memcpy": (copied, lambda: by_copy(source, target, copied)),
        "arrow": (cube.n_rows * row_bytes, lambda: by_arrow(cube, names)),
        "reader": (cube.n_rows * row_bytes, lambda: ours(cube, names)),
        "to_pylist": (slow_rows * row_bytes, lambda: by_lists(cube, names, slow_rows)),
    }
    speeds: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (n_bytes, function) in ways.items():
            speeds[way].append(n_bytes / np.array(seconds(function)))
    return {way: np.array(values) for way, values in speeds.items()}


def measure(n_rows: int = 768, repeats: int = 5, slow_rows: int = 16) -> list[tuple[str, float, float]]:
    """Print the table; returns (encoding, bytes/s of the reader, bytes/s of ``to_pylist``), by the clock."""
    slow_rows = min(slow_rows, n_rows)
    results = []
    print(f"{n_rows} rows of {N_BANDS * SIZE * SIZE * 4 / 1e6:.2f} MB, one thread, medians of {repeats}, MB/s")
    for label, encoding in ENCODINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "datacube_A.parquet"
            names = write_cube(path, n_rows, encoding)
            bands = {name: BandConfig(column=name) for name in names}
            images = ImageConfig(bands=bands, a=None, b=None, theta=None)
            cube = Datacube(path, DataConfig(name="x", root=folder, ra_column=None, dec_column=None, images=images))
            speeds = measure_cube(cube, names, repeats, slow_rows)
            size = path.stat().st_size / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{label}: file {size:.0f} MB, peak memory {peak:.0f} MB (with the writing of the cube)")
        print(f"  {'way':<12}{'clock':>8}{'processor':>11}{'reader is':>11}")
        for way, values in speeds.items():
            clock, processor = np.median(values, axis=0) / 1e6
            ratio = np.median(speeds["reader"][:, 1] / values[:, 1])
            print(f"  {way:<12}{clock:>8.0f}{processor:>11.0f}{ratio:>10.2f}x")
        results.append((label, *(float(np.median(speeds[way][:, 0])) for way in ("reader", "to_pylist"))))
    return results


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 768)
