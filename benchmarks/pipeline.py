"""Seconds, peak memory and throughput of every stage against the size of the survey.

    python benchmarks/pipeline.py                       # 1000 and 4000 objects, about 10 minutes on two cores
    python benchmarks/pipeline.py --objects 300 600     # any sizes

Each stage runs as the real script in a process of its own, on a synthetic survey of N objects, with the demo's
settings; the transformer takes the same number of steps for every N, so that a growing memory would be the data's.
Peak memory is the resident set of the process (``ru_maxrss``), which counts file pages that the kernel may drop at
any time; ``anonymous`` is sampled from ``/proc`` every 50 ms and leaves them out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
STEPS = 60
STAGES = ("generate", "train_tokenizers", "encode", "train_lm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--folder", type=Path, help="where the surveys are kept; default: a temporary folder")
    arguments = parser.parse_args()
    print("| stage | objects | seconds | objects/s | peak MB | anonymous MB |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        for n_objects in arguments.objects:
            folder = (arguments.folder or Path(temporary)) / str(n_objects)
            folder.mkdir(parents=True, exist_ok=True)
            for stage in STAGES:
                seconds, peak, anonymous = measure(command(stage, n_objects), folder)
                figures = f"{seconds:.1f} | {n_objects / seconds:.1f} | {peak:.0f} | {anonymous:.0f}"
                print(f"| {stage} | {n_objects} | {figures} |", flush=True)


def command(stage: str, n_objects: int) -> list[str]:
    """Command line of a stage for a survey of ``n_objects`` in fields of 500 (or fewer)."""
    per_field = min(500, n_objects)
    n_fields = -(-n_objects // per_field)
    if stage == "generate":
        code = (
            "from types import SimpleNamespace as N; from astromodal.config.schema import SyntheticConfig;"
            "from astromodal.data.synthetic import ensure_survey;"
            f"config = SyntheticConfig(n_fields={n_fields}, n_objects_per_field={per_field});"
            "ensure_survey(N(synthetic=config), 'artifacts/demo/cubes/datacube_{field}.parquet')"
        )
        return [sys.executable, "-c", code]
    overrides = [
        "experiment=demo",
        "tracking=off",
        f"data.synthetic.n_fields={n_fields}",
        f"data.synthetic.n_objects_per_field={per_field}",
    ]
    if stage == "train_tokenizers":
        overrides.append("tokenizer.image.codec.training.max_steps=100")
    if stage == "train_lm":
        overrides.append(f"training.max_steps={STEPS}")
    return [sys.executable, str(REPO / f"{stage}.py"), *overrides]


def measure(arguments: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds, peak resident memory and peak anonymous memory [MB] of a command run in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "WANDB_MODE": "disabled"}
    started, anonymous = time.perf_counter(), 0.0
    with open(folder / "log.txt", "a") as log:
        process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=log, stderr=log)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            anonymous = max(anonymous, anonymous_megabytes(process.pid))
            time.sleep(0.05)
    if status:
        tail = (folder / "log.txt").read_text().splitlines()[-5:]
        raise SystemExit(f"{' '.join(arguments)} failed:\n" + "\n".join(tail))
    return time.perf_counter() - started, usage.ru_maxrss / 1024, anonymous


def anonymous_megabytes(pid: int) -> float:
    """Memory of a process that is not backed by files, MB; 0 where /proc does not tell."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((float(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon")), 0.0)
    except OSError:
        return 0.0


if __name__ == "__main__":
    main()
