"""Which loss predicts the sky best: the real ``train_lm.py`` per (variant, seed), equal steps; then tables and a plot.

    python benchmarks/loss_experiments.py --work W --report W/report                 # every variant, one seed
    python benchmarks/loss_experiments.py --work W --report W/report --jobs 2 \\
        --variants ce combined proper --seeds 0 1 2 3 4                              # some on five
    python benchmarks/loss_experiments.py --work W --report W/report --collect       # tables of what is there

``--data synthetic`` is the demo's sky; ``splus`` are real cubes in ``$ASTROMODAL_REALDATA/splus``. Tokenizers and
tokens are made once per data set; a (variant, seed) that is finished is not run again. Everything is below ``--work``.
Each run is one thread of a tiny model; ``--override`` reaches every run (``--override training.max_steps=1000``).

Figures are of the best weights (``best_model.pt``, by ``val/score``) on the held-out sky: means over positions from
``summary.json``, and per object from ``object_errors.npz``, for the bootstrap.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from astromodal.files.io import read_json, write_json

REPO = Path(__file__).resolve().parents[1]

DEMO = ("experiment=demo", "tracking=off", "hardware.n_threads=1")
# The sky, tokens and order of docs/experiments/loss.md; the demo itself has become another one since.
SKY = (
    *DEMO,
    "sequence=default",
    "sequence.questions=[]",
    "model.values=null",
    "optimizer.learning_rate=1e-3",
    "data.synthetic.n_objects_per_field=500",
    "data.synthetic.image_fraction=0.25",
    "tokenizer.image.codec.training.epochs=12",
)
REAL = (
    "data=splus",
    "data.splits.val_fraction=0.2",
    "data.splits.test_fraction=0.02",
    "hardware=cpu",
    "tracking=off",
    "hardware.n_threads=1",
)
MODEL = ("model=tiny", "optimizer=muon", "optimizer.learning_rate=1.0e-3", "schedule.warmup_steps=50")
Settings = Mapping[str, Mapping[str, tuple[str, ...]]]  # data set -> stage -> overrides
# Small batches: what such short runs lack are steps. Real images are 17, too few to learn from: left out.
SETTINGS: Settings = {
    "synthetic": {
        "train_tokenizers": SKY,
        "encode": SKY,
        "train_lm": (*SKY, "training.max_steps=300", "training.batch_size=4"),
    },
    "splus": {
        "train_tokenizers": (
            *REAL,
            "tokenizer.image=null",
            "tokenizer.scalar.n_bins=256",
            "tokenizer.spectrum.quantizer.n_codes=256",
        ),
        "encode": REAL,
        "train_lm": (
            *REAL,
            *MODEL,
            "model.values=null",
            "sequence.modalities=[scalar,spectrum]",
            "training.max_steps=300",
            "training.batch_size=16",
        ),
    },
}
MODALITIES = ("image", "scalar", "spectrum")


def every(key: str, value: object) -> tuple[str, ...]:
    """The same value for all three modalities.

    >>> every("weight_{}", 1)[0]
    'loss.weight_image=1'
    """
    return tuple(f"loss.{key.format(m)}={value}" for m in MODALITIES)


# Shares adapt from measurement to measurement; in runs of a few hundred steps that has to happen faster.
FAST = ("loss.ledger_every=10", "loss.share_rate=0.3")
VARIANTS: dict[str, tuple[str, ...]] = {
    "ce": ("loss=cross_entropy",),
    "ce_balance": ("loss=cross_entropy", "loss.ce_balance=modality"),
    "ce_block": ("loss=cross_entropy", "loss.ce=block"),
    "combined": ("loss=combined",),
    "combined_1": ("loss=combined", *every("weight_{}", 1.0)),
    "combined_10": ("loss=combined", *every("weight_{}", 10.0)),
    "reconstruction": ("loss=reconstruction",),
    "spread_1": ("loss=combined", *every("weight_{}", 1.0), *every("{}.form", "expectation_spread")),
    "proper": ("loss=strictly_proper",),
    "proper_1": ("loss=strictly_proper", *every("weight_{}", 1.0)),
    "smoothed": ("loss=smoothed",),
    "smoothed_1": ("loss=smoothed", *every("weight_{}", 1.0)),
    "wasserstein_1": ("loss=combined", "loss.weight_scalar=1.0", "loss.scalar.form=wasserstein"),
    # a proper score where the spread is worth having, the mean where the entries are vectors
    "mixed_1": ("loss=combined", *every("weight_{}", 1.0), "loss.scalar.form=crps"),
    "mixed_3": ("loss=recommended",),  # weights 3
    "mixed_4": ("loss=combined", *every("weight_{}", 4.0), "loss.scalar.form=crps"),
    "errors_1": (
        "loss=combined",
        *every("weight_{}", 1.0),
        "loss.scalar.form=crps",
        "loss.scalar.errors=weight",
        "loss.spectrum.errors=weight",
    ),
    "mixed_gauss_1": ("loss=combined", *every("weight_{}", 1.0), "loss.scalar.form=hl_gauss"),
    "mixed_share50": ("loss=combined", *every("share_{}", 0.5), *FAST, "loss.scalar.form=crps"),
    "share10": ("loss=combined", *every("share_{}", 0.1), *FAST),
    "share50": ("loss=combined", *every("share_{}", 0.5), *FAST),
}


def main() -> None:
    arguments = parse()
    # here, not above: only what is drawn needs them
    from loss_tables import write_report

    for data in arguments.data:
        if not arguments.collect:
            folder = arguments.work.absolute() / data
            prepare(data, folder)
            cells = [(v, s) for s in arguments.seeds for v in arguments.variants]
            with ThreadPoolExecutor(arguments.jobs) as pool:
                list(pool.map(lambda cell, d=data, f=folder: run_cell(d, f, *cell, arguments.override), cells))
    if arguments.report:
        folders = {data: arguments.work.absolute() / data for data in arguments.data}
        for path in write_report(folders, arguments.variants, arguments.report, arguments.against, arguments.seeds):
            print(path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(SETTINGS), default=["synthetic"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one thread each")
    parser.add_argument("--work", type=Path, required=True, help="folder for tokens and runs")
    parser.add_argument("--report", type=Path, help="folder for loss.md and loss.png")
    parser.add_argument("--against", default="ce", help="the variant that the others are compared with")
    parser.add_argument("--override", nargs="+", default=[], help="of train_lm.py, for every run")
    parser.add_argument("--collect", action="store_true", help="run nothing; report what is finished")
    return parser.parse_args()


def source(data: str) -> tuple[str, ...]:
    """Where the cubes are; nothing for those that are generated."""
    if data == "synthetic":
        return ()
    root = os.environ.get("ASTROMODAL_REALDATA")
    if not root or not (Path(root) / data).is_dir():
        raise SystemExit(f"error: set ASTROMODAL_REALDATA to a folder with {data}/, got {root!r}")
    return (f"data.root={Path(root).absolute() / data}",)


def prepare(data: str, folder: Path, settings: Settings = SETTINGS) -> None:
    """Tokenizers and tokens, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in ("train_tokenizers", "encode"):
        done = folder / f"{stage}.json"
        if not done.exists():
            print(f"{data}: {stage}", flush=True)
            overrides = [*settings[data][stage], *source(data)]
            seconds = launch([str(REPO / f"{stage}.py"), *overrides], folder, folder / f"{stage}.log")
            write_json(done, {"overrides": overrides, "cpu_seconds": seconds})


def run_cell(
    data: str,
    folder: Path,
    variant: str,
    seed: int,
    override: list[str],
    settings: Settings = SETTINGS,
    variants: Mapping[str, tuple[str, ...]] = VARIANTS,
) -> None:
    """Train and measure one variant with one seed, unless that is done; a failure is reported, the others go on."""
    run = folder / "runs" / "train_lm" / variant / f"seed{seed}"
    overrides = [*settings[data]["train_lm"], *source(data), *variants[variant], *override]
    overrides += [f"name={variant}", f"seed={seed}"]
    finished = run / "finished.json"
    if finished.exists():
        if read_json(finished)["overrides"] != overrides:
            print(f"{data} {variant} {seed}: kept, although it was run with other overrides", flush=True)
        return
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted attempt left
    log, started = folder / f"{variant}-{seed}.log", time.perf_counter()
    try:
        seconds = launch([str(REPO / "train_lm.py"), *overrides], folder, log, run.name)
    except RuntimeError as error:
        print(f"{data} {variant} {seed}: {error}", flush=True)
        return
    write_json(finished, {"overrides": overrides, "cpu_seconds": seconds})
    score, wall = read_json(run / "summary.json")["model"]["score"], time.perf_counter() - started
    print(f"{data} {variant} {seed}: score {score:.4f}, {seconds:.0f} CPU s, {wall:.0f} s", flush=True)


def launch(arguments: list[str], folder: Path, log: Path, run_id: str | None = None) -> float:
    """Run a script in ``folder``; returns its CPU seconds.

    Raises:
        RuntimeError: it failed; the message ends with its last line.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    environment |= {"ASTROMODAL_RUN_ID": run_id} if run_id else {}
    with open(log, "a") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        lines = log.read_text().splitlines()
        raise RuntimeError(f"failed, see {log}: {lines[-1] if lines else 'no output'}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
