"""How fast cutouts come out of a datacube: ``to_pylist`` against the reader of this program, for two encodings.

Writes a small cube of 12 x 96 x 96 float32 cutouts (noise with a little structure, as real ones), reads it with one
thread in both ways, alternating, and prints medians and peak memory. The row groups are larger than a batch on
purpose.

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


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(n_rows: int = 768, repeats: int = 3, slow_rows: int = 16) -> list[tuple[str, float, float]]:
    """Print the table; returns (encoding, bytes/s of the reader, bytes/s of ``to_pylist``)."""
    row_bytes = N_BANDS * SIZE * SIZE * 4
    results = []
    print(f"{n_rows} rows of {row_bytes / 1e6:.2f} MB, one thread, median of {repeats}")
    print(f"{'encoding':<26}{'file MB':>9}{'to_pylist MB/s':>16}{'reader MB/s':>13}{'ratio':>8}{'peak MB':>9}")
    for label, encoding in ENCODINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "datacube_A.parquet"
            names = write_cube(path, n_rows, encoding)
            bands = {name: BandConfig(column=name) for name in names}
            images = ImageConfig(bands=bands, a=None, b=None, theta=None)
            cube = Datacube(path, DataConfig(name="x", root=folder, ra_column=None, dec_column=None, images=images))
            fast, slow = [], []
            for _ in range(repeats):
                fast.append(n_rows * row_bytes / seconds(lambda c=cube, n=names: ours(c, n)))
                slow.append(slow_rows * row_bytes / seconds(lambda c=cube, n=names: by_lists(c, n, slow_rows)))
            reader, lists = float(np.median(fast)), float(np.median(slow))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            size = path.stat().st_size / 1e6
        print(f"{label:<26}{size:>9.0f}{lists / 1e6:>16.0f}{reader / 1e6:>13.0f}{reader / lists:>8.0f}{peak:>9.0f}")
        results.append((label, reader, lists))
    return results


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 768)
