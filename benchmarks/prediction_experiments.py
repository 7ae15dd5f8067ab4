"""Which loss predicts best: real ``train_lm.py`` and ``evaluate.py`` per (survey, loss, seed); then tables and a plot.

    python benchmarks/prediction_experiments.py --work W --report W/report --jobs 2          # every loss, seed 0
    python benchmarks/prediction_experiments.py --work W --report W/report --jobs 2 \\
        --variants ce combined_1 smoothed_1 mixed_3 --seeds 0 1 2                            # some on three
    python benchmarks/prediction_experiments.py --work W --report W/report --collect         # tables of what is there

``--data synthetic`` is the demo's sky; ``splus`` and ``kids`` are real cubes in ``$ASTROMODAL_REALDATA``. Tokenizers
and tokens are made once per data set; what is finished is not run again. Everything is below ``--work``. Each run is
one thread of a tiny model that is trained in asked order with named questions and answers every question of its data
set (``prediction_questions.py``) on the test objects. ``--override`` reaches every training, not the questions.
``prediction_questions.py`` has the variants: losses, and parts of the program that are switched on or off.

Baselines do not depend on the model: with ``--once`` they are asked beside ``--reference`` with seed 0, as are the
any-to-any matrix of the synthetic sky and the calibration.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from loss_experiments import REPO, launch, prepare, run_cell, source
from prediction_questions import BY_LOSS, MARGINAL, MATRIX, QUESTIONS, REFERENCE_SEED, SETTINGS, VARIANTS, Question

from astromodal.files.io import read_json, write_json

SUBSETS = {"everything else": None, "scalars": "[scalar]", "spectra": "[spectrum]", "images": "[image]"}


class Ask(NamedTuple):
    """One run of ``evaluate.py`` with the weights of a trained cell."""

    data: str
    variant: str
    seed: int
    name: str
    overrides: tuple[str, ...]

    def run(self, folder: Path) -> Path:
        return folder / "runs" / "evaluate" / self.variant / f"seed{self.seed}-{self.name}"


def main() -> None:
    arguments = parse()
    work = arguments.work.absolute()
    if not arguments.collect:
        for data in arguments.data:
            prepare(data, work / data, SETTINGS)
        cells = [(d, v, s) for s in arguments.seeds for d in arguments.data for v in arguments.variants]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            if "train" in arguments.stages:
                list(
                    pool.map(
                        lambda c: run_cell(c[0], work / c[0], *c[1:], arguments.override, SETTINGS, VARIANTS), cells
                    )
                )
            if "ask" in arguments.stages:
                asks = [ask for cell in cells for ask in asked(*cell, arguments.questions)]
                if arguments.once:
                    asks += [ask for d in arguments.data for ask in asked_once(d, arguments.reference)]
                list(pool.map(lambda ask: run_ask(ask, work / ask.data), asks))
    if arguments.report:
        # here, not above: only what is drawn needs them
        from prediction_tables import write_report

        folders = {data: work / data for data in arguments.data}
        for path in write_report(
            folders, arguments.variants, arguments.seeds, arguments.report, arguments.against, arguments.reference
        ):
            print(path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(BY_LOSS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one thread each")
    parser.add_argument("--work", type=Path, required=True, help="folder for tokens and runs")
    parser.add_argument("--report", type=Path, help="folder for prediction_tables.md and prediction.png")
    parser.add_argument("--questions", nargs="+", help="names of those to ask; default: all")
    parser.add_argument("--once", action="store_true", help="baselines, calibration and matrix, beside --reference")
    parser.add_argument("--stages", nargs="+", choices=("train", "ask"), default=("train", "ask"))
    parser.add_argument("--against", default="ce", help="the variant that the others are compared with")
    parser.add_argument("--reference", default="mixed_3", help="the variant beside which baselines are judged")
    parser.add_argument("--override", nargs="+", default=[], help="of train_lm.py, for every run")
    parser.add_argument("--collect", action="store_true", help="run nothing; report what is finished")
    return parser.parse_args()


# ----------------------------------------------------------------------------------------- questions


def asked(data: str, variant: str, seed: int, names: Iterable[str] | None = None) -> Iterable[Ask]:
    """The questions of a data set, or some, to one model."""
    for name, question in QUESTIONS[data].items():
        if names is None or name in names:
            yield Ask(data, variant, seed, name, question.overrides())


def asked_once(data: str, variant: str) -> Iterable[Ask]:
    """Baselines, calibration and the any-to-any matrix, with one model."""
    seed = REFERENCE_SEED
    for name, question in QUESTIONS[data].items():
        if not question.spectrum:
            yield Ask(data, variant, seed, f"{name}-baselines", question.overrides(baselines=True))
            yield Ask(data, variant, seed, f"{name}-calibration", calibrating(question))
    if data == "synthetic":
        for name, given in SUBSETS.items():
            chosen = [f"evaluate.predict=[{','.join(MATRIX)}]", "evaluate.splits=[test]", MARGINAL]
            chosen += [f"evaluate.given={given}"] if given else []
            label = f"matrix-{name.replace(' ', '_')}"
            yield Ask(data, variant, seed, label, (*chosen, "evaluate.judge.calibrate=false"))


def calibrating(question: Question) -> tuple[str, ...]:
    """The same question, to validation objects too, with whole posteriors: what a temperature is fitted to."""
    left_out = ("evaluate.splits", "evaluate.judge.calibrate")
    chosen = [o for o in question.overrides() if not o.startswith(left_out)]
    return *chosen, "evaluate.splits=[val,test]", "evaluate.posterior=true"


def run_ask(ask: Ask, folder: Path) -> None:
    """Ask a trained model, unless that is done or the model is not there; a failure is reported, the others go on."""
    trained, run = folder / "runs" / "train_lm" / ask.variant / f"seed{ask.seed}", ask.run(folder)
    label = f"{ask.data} {ask.variant} {ask.seed} {ask.name}"
    if not (trained / "finished.json").exists() or (run / "finished.json").exists():
        return
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted attempt left
    overrides = [*SETTINGS[ask.data]["encode"], *source(ask.data), *ask.overrides]
    overrides += [f"evaluate.run={trained}", f"name={ask.variant}"]
    started = time.perf_counter()
    try:
        seconds = launch(
            [str(REPO / "evaluate.py"), *overrides], folder, folder / f"{run.parent.name}-{run.name}.log", run.name
        )
    except RuntimeError as error:
        print(f"{label}: {error}", flush=True)
        return
    write_json(run / "finished.json", {"overrides": overrides, "cpu_seconds": seconds})
    score = read_json(run / "prediction.json").get("objects")
    print(f"{label}: {score} objects, {seconds:.0f} CPU s, {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
