"""The transformer trained on token sequences: the stage ``train_lm``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from ..ask.questions import check_names
from ..ask.trained import find_weights, load_trained
from ..config.launching.launch import remove_if_unused
from ..config.launching.next_command import next_command
from ..config.reading.containers import to_object
from ..config.schema import Baseline, Config, JudgeConfig, ObjectiveFigure, Order
from ..errors import ArtifactMissingError
from ..files.io import write_json
from ..judge.baselines.inputs import JudgedTokens, codebooks
from ..language_model.object_errors import save_object_errors
from ..language_model.preview import preview_run
from ..language_model.run import LanguageModelRun
from ..parallel.distributed import process_group
from ..parallel.rank import is_main
from ..plots.panels import never_fatal
from ..provenance.config_record import config_record
from ..provenance.manifest import fingerprint_config, fingerprint_file
from ..runs import tables
from ..runs.run import RunContext, sweep_job
from ..sequences.layout import SequenceLayout
from ..tokens import TokenStore
from ..training.checkpoints.resume import find_resume
from ..training.utils import resolve_device
from ..vocabulary.modalities import MODALITIES
from . import drawn
from .answers import judge_answers, predict
from .wiring import is_begun, objective


def train_lm(cfg: DictConfig) -> float | None:
    """Train the transformer; returns the ``objective`` of the best weights, which a sweep may minimise."""
    config = to_object(cfg, Config)
    if config.preview:
        remove_if_unused(Path(config.run_dir))
        if is_main():
            print(preview_run(cfg))
        return None
    device, timeout_s = resolve_device(config.hardware.device), config.hardware.rank_timeout_s
    job = sweep_job()
    # Before the run, whose directory all processes share.
    with process_group(device, timeout_s, "run" if job is None else f"job {job}", others_follow=job is not None):
        return _train(cfg, config)


def _train(cfg: DictConfig, config: Config) -> float | None:
    record = config_record(cfg, "train_lm")
    fingerprint = fingerprint_config(record)
    resume = config.resume
    continuing = is_begun(config)
    if continuing:
        resume = "auto"  # what the job's own folder holds
    elif resume == "auto":
        found = find_resume(Path(config.paths.runs) / "train_lm", fingerprint)
        resume = None if found is None else str(found)
    if resume is not None and not continuing:
        _continue_in(cfg, Path(resume))
    with RunContext.open(cfg, "train_lm", resume=resume is not None) as run:
        run.record(config_fingerprint=fingerprint)
        if config.resume == "auto" and resume is None:
            run.log.info("resume=auto: no unfinished run with this configuration, starting anew")
        experiment = LanguageModelRun(config, run, record)
        asks = config.objective == ObjectiveFigure.prediction
        check_names(experiment.layout, config.evaluate)
        result = experiment.fit(resume)
        summary = experiment.summary(result)
        # on all processes: a sharded model computes on all of them or on none
        examples = never_fatal(experiment.examples)() or (None, [])
        errors = experiment.object_errors()
        if asks:
            summary["prediction"] = _prediction_score(run, config) if is_main() else {}
        if is_main():
            run.tracker.summary(tables.flatten(summary))
            write_json(run.dir / "summary.json", summary)
            if errors:
                save_object_errors(run.dir, errors)
            if (run.dir / "best_model.pt").is_file():
                run.add_output("model", fingerprint_file(run.dir / "best_model.pt"))
            drawn.plot_lm(run, experiment, summary, examples)
        run.log.info("%s", tables.model_table(summary))
        if config.sequence.order is Order.ask:  # it was trained to be asked
            run.log.info("next: %s", next_command(cfg, "evaluate", *_named_question(config)))
        else:
            run.log.info("next: %s", next_command(cfg, "train_lm", "-m", _to_sweep(config, experiment.layout)))
        return objective(
            run, "prediction/score" if asks else "val/score", summary["prediction" if asks else "model"].get("score")
        )


def _prediction_score(run: RunContext, config: Config) -> dict[str, float]:
    """Figures of the best weights' answers to ``config.evaluate`` on validation objects, against the marginal."""
    trained = load_trained(find_weights(str(run.dir), config.paths.runs), config.paths.store, run.log)
    store, folder = TokenStore.of(config), run.dir / "prediction"
    asked = replace(config, evaluate=replace(config.evaluate, splits=["val"], familiarity=False))
    folder.mkdir(exist_ok=True)
    predict(run, asked, trained, iter(store), store.n_rows, folder)
    judge = config.evaluate.judge or JudgeConfig()
    # baselines do not depend on the loss, and half of the validation objects is too little to fit and to show on
    tokens = JudgedTokens(store, store, codebooks(trained.tokenizers))
    judge = replace(judge, baselines=[Baseline.marginal], calibrate=False)
    return judge_answers(run, asked, folder, judge, tokens=tokens)


def _continue_in(cfg: DictConfig, resume: Path) -> None:
    """Let the run go on in the directory of the run to resume; the one that Hydra made for it is empty."""
    run_dir = resume if resume.is_dir() else resume.parent.parent
    if not (run_dir / "run.json").is_file():
        raise ArtifactMissingError(
            "a run directory, or a checkpoint in one, to resume",
            got="no run.json",
            where=run_dir,
            repair="resume=auto, or resume=runs/train_lm/<name>/<run_id>",
        )
    made = Path(cfg.run_dir)
    if made.resolve() != run_dir.resolve():
        remove_if_unused(made)
    cfg.run_dir = str(run_dir)


def _named_question(config: Config) -> list[str]:
    """The first question that the training named, where ``evaluate`` has none; else all columns, from the rest."""
    questions = config.sequence.questions
    if not questions or config.evaluate.predict is not None:
        return []
    given, predict = questions[0].given, questions[0].predict
    return [f"evaluate.{key}=[{','.join(names)}]" for key, names in (("given", given), ("predict", predict)) if names]


def _to_sweep(config: Config, layout: SequenceLayout) -> str:
    """What to sweep after a training: a weight of its loss, else the seed."""
    loss, modalities = config.loss, {segment.modality for segment in layout.segments}
    free = [m for m in MODALITIES if m in modalities and getattr(loss, f"share_{m}") is None]
    return f"loss.weight_{free[0]}=0.05,0.2,1.0" if loss.enabled and free else "seed=0,1,2"
