"""Steps to a score on a survey that got a new column: from scratch, and grown from a model of the survey without it.

    python benchmarks/growing.py                       # two seeds, minutes on two cores
    python benchmarks/growing.py --seeds 1 --figure docs/pictures/growing.png

A synthetic sky with catalogue values and spectra. The old model never heard of ``specz_z``: its tokenizers, tokens and
vocabulary lack the column. The new survey has it, and tokenizers of its own, fitted on the same objects. Both new
models take the same steps over the same batches; ``val/score`` is the mean error of a reconstruction over all parts (1:
no better than the mean), on the same held-out objects.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
COLUMN = "specz_z"
SURVEY = (
    "data.synthetic.n_fields=3",
    "data.synthetic.n_objects_per_field=200",
    "data.synthetic.spectrum_fraction=0.4",
    "data.synthetic.image_fraction=0",
    "tracking=off",
    "hardware=cpu",
    "hardware.n_threads=1",
)
TOKENIZERS = ("tokenizer.image=null", "tokenizer.scalar.n_bins=64", "tokenizer.spectrum.quantizer.n_codes=128")
MODEL = (
    "sequence=random",
    "sequence.modalities=[scalar,spectrum]",
    "model=tiny",
    "schedule=constant",
    "training.epochs=1000",
    "training.batch_size=16",
    "training.val_every=10",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old-steps", type=int, default=200, help="of the model without the column")
    parser.add_argument("--steps", type=int, default=60, help="of both models with it")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="a picture of the scores by step")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, without in (("old", (f"~data.scalars.{COLUMN}",)), ("new", ())):
            run("train_tokenizers", folder, f"tokenizer_id={name}", *TOKENIZERS, *without)
            run("encode", folder, f"tokenizer_id={name}", *without)
        curves: dict[str, list[dict[int, float]]] = {"from scratch": [], "grown": []}
        for seed in range(options.seeds):
            train(folder, "old", f"old-{seed}", options.old_steps, f"seed={seed}", f"~data.scalars.{COLUMN}")
            start = f"init_from=runs/train_lm/default/old-{seed}"
            for name, more in (("from scratch", ()), ("grown", (start,))):
                run_id = f"{name.split()[-1]}-{seed}"
                curves[name].append(train(folder, "new", run_id, options.steps, f"seed={seed}", *more))
    print_table(curves)
    if options.figure:
        draw(curves, options.figure)


def run(stage: str, folder: Path, *overrides: str) -> None:
    """One stage in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(REPO / f"{stage}.py"), *SURVEY, *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{stage} {' '.join(overrides)} failed:\n{done.stderr[-1000:]}")


def train(folder: Path, tokenizers: str, run_id: str, steps: int, *overrides: str) -> dict[int, float]:
    """``val/score`` by step of a run of ``train_lm.py``."""
    run(
        "train_lm",
        folder,
        f"tokenizer_id={tokenizers}",
        f"run_id={run_id}",
        f"training.max_steps={steps}",
        *MODEL,
        *overrides,
    )
    lines = (folder / "runs/train_lm/default" / run_id / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {r["step"]: r["val/score"] for r in records if "val/score" in r}


def print_table(curves: dict[str, list[dict[int, float]]]) -> None:
    """Scores of each seed at each step, and the step at which the grown model is where the other one ends."""
    steps = sorted(curves["grown"][0])
    print("| " + " | ".join(["step", *curves]) + " |\n|---:|" + "---|" * len(curves))
    for step in steps:
        cells = [" ".join(f"{curve[step]:.3f}" for curve in found) for found in curves.values()]
        print(f"| {step} | " + " | ".join(cells) + " |")
    for seed, (scratch, grown) in enumerate(zip(*curves.values(), strict=True)):
        end = scratch[steps[-1]]
        first = next((step for step in steps if grown[step] <= end), None)
        print(f"seed {seed}: {end:.3f} after {steps[-1]} steps from scratch, after {first} grown")


def draw(curves: dict[str, list[dict[int, float]]], path: Path) -> None:
    """Scores by step, a line per seed, and dashed where training from scratch ends."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, found), colour in zip(curves.items(), ("#d55e00", "#0072b2"), strict=True):
        for number, curve in enumerate(found):
            steps = sorted(curve)
            label = name if number == 0 else None
            axis.plot(steps, [curve[step] for step in steps], "o-", ms=3, color=colour, label=label)
    for curve in curves["from scratch"]:
        axis.axhline(curve[max(curve)], color="#d55e00", lw=0.8, ls="--")
    axis.set(xlabel="step", ylabel="val/score (1: no better than the mean)")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
