"""A model asked, and its answers judged: for ``evaluate``, and for the best weights of ``train_lm``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..ask.familiarity import fit_familiarity
from ..ask.prediction import Predictor, write_predictions
from ..ask.recalibration import Calibration
from ..ask.seen import TrainingRun
from ..ask.trained import TrainedModel
from ..config.schema import Config, JudgeConfig
from ..errors import DataError
from ..files.io import write_json
from ..judge.baselines.inputs import JudgedTokens
from ..judge.baselines.predictors import wanted_baselines
from ..judge.judge_run import FOLDER, judge_run
from ..runs.run import RunContext
from ..tokens.store import FieldTokens
from ..training.utils import configure_cuda_performance, deterministic_kernels, resolve_device


def predict(
    run: RunContext,
    config: Config,
    trained: TrainedModel,
    fields: Iterable[FieldTokens],
    rows: int,
    folder: Path,
    calibration: Calibration | None = None,
    about: dict[str, Any] | None = None,
    trained_on: TrainingRun | None = None,
) -> dict[str, Any]:
    """Answer ``config.evaluate`` for fields with ``rows`` objects; catalogue and ``prediction.json`` in ``folder``."""
    hardware = config.hardware
    device = resolve_device(hardware.device)
    configure_cuda_performance(hardware.tf32)
    predictor = Predictor(trained, config.evaluate, hardware, device, config.seed, run.log, calibration, about)
    if config.evaluate.familiarity:
        predictor.familiarity = fit_familiarity(predictor, trained_on, config.seed)
    with deterministic_kernels(hardware.deterministic), run.progress(rows, "predicting", unit="object") as bar:
        summary = write_predictions(predictor, fields, folder, config.evaluate.splits, bar.update)
    write_json(folder / "prediction.json", summary | predictor.meaning())
    _say_flags(run, summary)
    run.log.info("catalogue of %d objects in %s", summary["objects"], folder / "catalogue.parquet")
    return summary


def judge_answers(
    run: RunContext,
    config: Config,
    folder: Path,
    judge: JudgeConfig,
    calibration_path: Path | None = None,
    tokens: JudgedTokens | None = None,
) -> dict[str, float]:
    """Compare a catalogue with what was observed; one without held-out values is left as it is."""
    against = ", ".join(wanted_baselines(judge.baselines)) or "nothing"
    run.log.info("judging against %s", against)
    try:
        result = judge_run(
            folder, run_dir=run.dir, options=judge, seed=config.seed, tokens=tokens, calibration_path=calibration_path
        )
    except DataError as error:
        run.log.warning("not judged: %s", error)
        return {}
    run.log.info("%s", (folder / FOLDER / "evaluation.txt").read_text(encoding="utf-8").rstrip())
    run.log.info("report, tables and plots in %s", folder / FOLDER)
    for path in sorted((folder / FOLDER / "plots").glob("*.png")):
        run.tracker.image(f"judgement/{path.stem}", path)
    return result["summary"]


def _say_flags(run: RunContext, summary: dict[str, Any]) -> None:
    """Warn about quantities that were not, or not well, predicted for some objects."""
    for name, counts in summary["flags"].items():
        said = ", ".join(f"{n} {flag}" for flag, n in counts.items() if n and flag != "UNCONDITIONAL")
        if said:
            run.log.info("%s: flags of %d objects: %s", name, summary["objects"], said)
