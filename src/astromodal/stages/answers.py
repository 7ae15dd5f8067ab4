"""A model asked, and its answers judged: for ``evaluate``, and for the best weights of ``train_lm``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..ask.catalogue import CATALOGUE, RECORDS
from ..ask.familiarity import fit_familiarity
from ..ask.parts import answered, forget_others, made_from, of_all_parts, write_parts
from ..ask.prediction import Predictor, write_predictions
from ..ask.recalibration import Calibration
from ..ask.seen import TrainingRun
from ..ask.trained import TrainedModel
from ..config.schema import Config, JudgeConfig
from ..errors import DataError
from ..files.io import write_json
from ..judge.asked_objects import Asked
from ..judge.baselines.inputs import JudgedTokens
from ..judge.baselines.predictors import wanted_baselines
from ..judge.judge_run import FOLDER, judge_run
from ..parallel.rank import dealt, is_last, rank, world_size
from ..provenance.manifest import fingerprint_config
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
    predictor = _predictor(run, config, trained, calibration, about, trained_on)
    with _predicting(run, config, rows) as update:
        summary = write_predictions(predictor, fields, folder, config.evaluate.splits, update)
    return _told(run, predictor, folder, summary)


def predict_by_field(
    run: RunContext,
    config: Config,
    trained: TrainedModel,
    asked: Asked,
    folder: Path,
    calibration: Calibration | None = None,
    about: dict[str, Any] | None = None,
    trained_on: TrainingRun | None = None,
) -> tuple[dict[str, Any], str] | None:
    """The same with a part file for each field (:mod:`~astromodal.ask.parts`), of this process's share of them.

    Fields that an earlier attempt has answered in the same words are left as they are.

    Returns:
        The summary and a fingerprint of all parts; None where other processes have not done their share yet.
    """
    predictor = _predictor(run, config, trained, calibration, about, trained_on)
    splits = config.evaluate.splits
    wanted = made_from(predictor, asked.inputs, splits)
    mine = dealt(list(wanted), asked.rows.__getitem__)
    done = answered(folder, {field: wanted[field] for field in mine})
    todo = [field for field in mine if field not in done]
    if done:
        run.log.info("%d of %d fields are answered", len(done), len(mine))
    if todo:
        with _predicting(run, config, sum(asked.rows[field] for field in todo)) as update:
            write_parts(predictor, asked.of(todo), folder, wanted, splits, update)
    records = answered(folder, wanted) if is_last(folder / RECORDS, run.id) else {}
    if len(records) < len(wanted):
        run.log.info("process %d of %d has done its share; the last one reports", rank() + 1, world_size())
        return None
    forget_others(folder, wanted)
    predictor.save_bins(folder)
    fingerprint = fingerprint_config({field: record["files"] for field, record in records.items()})
    return _told(run, predictor, folder, of_all_parts(records)), fingerprint


def _predictor(
    run: RunContext,
    config: Config,
    trained: TrainedModel,
    calibration: Calibration | None,
    about: dict[str, Any] | None,
    trained_on: TrainingRun | None,
) -> Predictor:
    hardware = config.hardware
    device = resolve_device(hardware.device)
    configure_cuda_performance(hardware.tf32)
    predictor = Predictor(trained, config.evaluate, hardware, device, config.seed, run.log, calibration, about)
    if config.evaluate.familiarity:
        predictor.familiarity = fit_familiarity(predictor, trained_on, config.seed)
    return predictor


@contextmanager
def _predicting(run: RunContext, config: Config, rows: int) -> Iterator[Callable[[int], Any]]:
    with (
        deterministic_kernels(config.hardware.deterministic),
        run.progress(rows, "predicting", unit="object") as bar,
    ):
        yield bar.update


def _told(run: RunContext, predictor: Predictor, folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    write_json(folder / "prediction.json", summary | predictor.meaning())
    _say_flags(run, summary)
    run.log.info("catalogue of %d objects in %s", summary["objects"], folder / CATALOGUE)
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
