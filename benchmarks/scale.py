"""What a survey of catalogue rows costs, stage by stage, and how it grows with its size.

    PYTHONPATH=src python benchmarks/scale.py                        # 1e5 rows, a minute
    PYTHONPATH=src python benchmarks/scale.py --rows 100000 1000000  # with the growth between the two

Rows of 13 columns (magnitudes, errors, a rare redshift) are made on the fly, a field of 50 000 at a time, and go
through the scalar tokenizer (fit and report), encoding, packing and one epoch of loading. Each stage has a process of
its own, with one thread, whose peak of memory and CPU time are asked of the system. ``growth`` is the exponent of CPU
time between the two sizes; ``--workers`` says how much faster several workers encode. The last line is what
``parallel.each`` adds to a plain loop over jobs that take a tenth of a second.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FIELD_ROWS = 50_000
COLUMNS = tuple(f"mag_{band}" for band in "abcdefghijkl")
STAGES = ("make", "fit", "encode", "pack", "load")


def survey(root: Path, n: int):
    """Configuration and fields of a survey of ``n`` rows."""
    from astromodal.config.schema import DataConfig, ScalarConfig

    magnitudes = {
        name: ScalarConfig(error=f"{name}_error", unit="mag", min=5.0, max=40.0, sentinels=[-99.0]) for name in COLUMNS
    }
    data = DataConfig(name="scale", root=str(root), scalars=magnitudes | {"redshift": ScalarConfig(min=-0.1, max=8.0)})
    return data, [f"F{k:04d}" for k in range(math.ceil(n / FIELD_ROWS))]


def make(root: Path, n: int) -> None:
    """Write the fields."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _, fields = survey(root, n)
    root.mkdir(parents=True, exist_ok=True)
    for k, field in enumerate(fields):
        rng, m = np.random.default_rng(k), min(FIELD_ROWS, n - k * FIELD_ROWS)
        columns = {"id": np.array([f"{field}-{i:07d}" for i in range(m)])}
        columns |= {"ra": (k + rng.random(m)) % 360, "dec": rng.uniform(-30, 30, m)}
        brightness = rng.normal(19.5, 1.5, m)
        for name in COLUMNS:
            values = (brightness + rng.normal(0, 0.4, m)).astype(np.float32)
            values[rng.random(m) < 0.1] = -99.0
            columns |= {name: values, f"{name}_error": np.exp(0.5 * (values - 22)).clip(0.003, 1).astype(np.float32)}
        columns["redshift"] = np.where(rng.random(m) < 0.1, rng.exponential(0.5, m), np.nan).astype(np.float32)
        pq.write_table(pa.table(columns), root / f"datacube_{field}.parquet", row_group_size=16_384)


def opened(root: Path, n: int):
    from astromodal.data import discover
    from astromodal.data.kept_splits import splits_of_survey

    data, _ = survey(root, n)
    cubes = discover(data, f"{root}/datacube_{{field}}.parquet")
    return data, cubes, splits_of_survey(root / "store", cubes, data)


def fit(root: Path, n: int) -> None:
    from astromodal.config.schema import ScalarTokenizerConfig
    from astromodal.tokenizers.scalar import ScalarTokenizer

    data, cubes, splits = opened(root, n)
    tokenizer = ScalarTokenizer(ScalarTokenizerConfig())
    tokenizer.fit(cubes, splits, data)
    tokenizer.save(root / "store" / "tokenizers" / tokenizer.folder_name)


def encode(root: Path, n: int, n_jobs: int = 1, store: str = "store") -> None:
    from astromodal.config.schema import WorkersConfig
    from astromodal.tokenizers import TokenizerSet
    from astromodal.tokens import encode_survey

    data, cubes, splits = opened(root, n)
    tokenizers = TokenizerSet.load(root / "store" / "tokenizers")
    workers = WorkersConfig(n_jobs=n_jobs)
    encode_survey(cubes, tokenizers, splits, data, root / store, workers=workers, overwrite=True)


def pack(root: Path, n: int) -> None:
    from astromodal.config.schema import VocabConfig
    from astromodal.sequences import build_layout, build_sequences
    from astromodal.tokenizers import TokenizerSet
    from astromodal.tokens import TokenStore

    layout = build_layout(TokenizerSet.load(root / "store" / "tokenizers"), ["scalar"], 64, VocabConfig())
    packed = build_sequences(TokenStore(root / "store"), layout)
    (root / "packed.txt").write_text(str(packed.folder))


def load(root: Path, n: int) -> None:
    from astromodal.config.schema import VocabConfig
    from astromodal.sequences import BucketSampler, SequenceDataset, SequenceLoader, build_layout, build_sequences
    from astromodal.tokenizers import TokenizerSet
    from astromodal.tokens import TokenStore

    layout = build_layout(TokenizerSet.load(root / "store" / "tokenizers"), ["scalar"], 64, VocabConfig())
    packed = build_sequences(TokenStore(root / "store"), layout)  # they are there
    dataset = SequenceDataset(packed, "train")
    for _ in SequenceLoader(dataset, BucketSampler(dataset.lengths, 256, seed=0)):
        pass


def measured(stage: str, root: Path, n: int) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory (MB) of a stage in a process of its own."""
    command = [sys.executable, __file__, "--stage", stage, "--root", str(root), "--rows", str(n)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def one_stage(stage: str, root: Path, n: int) -> None:
    """Run a stage here, and print what it took; what was imported before is not counted in the seconds."""
    import torch  # noqa: F401  the largest import, which every stage but the first needs

    import astromodal.sequences
    import astromodal.tokenizers
    import astromodal.tokens  # noqa: F401

    started, cpu = time.perf_counter(), time.process_time()
    globals()[stage](root, n)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "cpu": time.process_time() - cpu,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            }
        )
    )


def _spin(job: int) -> int:
    """A tenth of a second of the processor."""
    end = time.process_time() + 0.1
    while time.process_time() < end:
        job = (job * 1103515245 + 12345) % 2**31
    return job


def cost_of_each(n_jobs: int = 40, repeats: int = 3) -> float:
    """CPU time of ``parallel.each`` in this process over that of a plain loop, interleaved; median."""
    from astromodal.parallel.each import each

    ratios = []
    for _ in range(repeats):
        times = []
        for run in (lambda: [_spin(job) for job in range(n_jobs)], lambda: list(each(_spin, range(n_jobs)))):
            started = time.process_time()
            run()
            times.append(time.process_time() - started)
        ratios.append(times[1] / times[0])
    return float(np.median(ratios))


def speed_up(root: Path, n: int, n_workers: int, repeats: int = 3) -> tuple[float, float]:
    """Seconds of encoding by one worker over those by several, interleaved, median; and seconds to start these.

    Their start, which a survey of any size pays once, is told by a first pass, in which processes begin.
    """
    from astromodal.config.schema import WorkersConfig
    from astromodal.parallel.each import each

    ratios = []
    begun = time.perf_counter()
    list(each(_ready, range(n_workers), WorkersConfig(n_jobs=n_workers)))
    begun = time.perf_counter() - begun
    for _ in range(repeats):
        times = []
        for n_jobs in (1, n_workers):
            started = time.perf_counter()
            encode(root, n, n_jobs, f"store_{n_jobs}")
            times.append(time.perf_counter() - started)
        ratios.append(times[0] / times[1])
    return float(np.median(ratios)), begun


def _ready(job: int) -> None:
    """Import what encoding needs."""
    import torch  # noqa: F401

    import astromodal.tokenizers
    import astromodal.tokens.field  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the files; default: a temporary one")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        return one_stage(arguments.stage, arguments.root, arguments.rows[0])
    print("| stage | rows | seconds | CPU s | rows/s/core | peak MB | growth |\n|---|---:|---:|---:|---:|---:|---:|")
    before: dict[str, tuple[int, float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for n in arguments.rows:
            root = Path(folder) / str(n)
            for stage in STAGES:
                got = measured(stage, root, n)
                growth = ""
                if stage in before:
                    growth = f"{math.log(got['cpu'] / before[stage][1]) / math.log(n / before[stage][0]):.3f}"
                before[stage] = n, got["cpu"]
                figures = f"{got['seconds']:.1f} | {got['cpu']:.1f} | {n / got['cpu']:.0f} | {got['peak']:.0f}"
                print(f"| {stage} | {n} | {figures} | {growth} |", flush=True)
        print(f"\nparallel.each over a plain loop: {cost_of_each():.4f}")
        if arguments.workers:
            gain, begun = speed_up(Path(folder) / str(arguments.rows[-1]), arguments.rows[-1], arguments.workers)
            print(f"encode by {arguments.workers} workers: {gain:.2f} × as fast as by one, and {begun:.1f} s to begin")


if __name__ == "__main__":
    main()
