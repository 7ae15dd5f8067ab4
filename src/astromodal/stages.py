"""The stages: from a configuration to artifacts and a run directory. The wiring, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from .config.launching.launch import remove_if_unused
from .config.launching.next_command import chosen_option, next_command
from .config.schema import Baseline, Calibrate, Config, JudgeConfig, ObjectiveFigure
from .data import assign_splits, check_unique_ids, discover
from .data.datacube import Datacube
from .errors import ArtifactMissingError, DataError
from .files.io import read_jsonl, write_json, write_text
from .plots import curves as plots
from .plots.panels import never_fatal
from .provenance.config_record import config_record
from .provenance.manifest import fingerprint_config, fingerprint_file
from .runs import tables
from .runs.run import RunContext, sweep_job
from .sequences.layout import SequenceLayout
from .tokenizers import TokenizerSet
from .vocabulary.modalities import MODALITIES, imported

NEXT = {"build_datacubes": "train_tokenizers", "train_tokenizers": "encode", "encode": "train_lm"}


def build_datacubes(cfg: DictConfig) -> None:
    """Build the datacube of every field that is not up to date, and report what of each input was found."""
    from .cubes import report
    from .cubes.build import build_survey

    config: Config = OmegaConf.to_object(cfg)
    with _begin(cfg, config, "build_datacubes") as run:
        result = build_survey(
            config.data,
            config.cubes,
            config.paths.datacube_template,
            n_processes=config.hardware.n_processes,
            log=run.log,
            progress=run.progress,
        )
        for field, summary in result["fields"].items():
            run.add_output(f"datacube_{field}", summary["fingerprint"])
        write_json(run.dir / "cubes.json", {k: v for k, v in result.items() if k not in ("samples", "tiles")})
        write_text(run.dir / "cubes.txt", report.text(result) + "\n")
        run.tracker.summary(
            {"rows": result["rows"], "seconds": result["seconds"]} | tables.flatten(result["inputs"], "")
        )
        run.log.info("%s", report.text(result))
        if drawn := report.plot_sky(result, run.dir / "plots" / "sky.png"):
            run.tracker.image("sky", drawn)
        discover(config.data, config.paths.datacube_template)  # what was written can be read
        run.log.info(
            "datacubes of %d objects in %s; report and plot in %s",
            result["rows"],
            Path(config.paths.datacube_template).parent,
            run.dir,
        )
        run.log.info("next: %s", next_command(cfg, NEXT["build_datacubes"], f"data={chosen_option('data')}"))


def train_tokenizers(cfg: DictConfig) -> float | None:
    """Fit the configured tokenizers on the training objects, save them, report their quality on held-out objects.

    With ``recipe`` set, train that codec on its home problem instead.

    Returns:
        What a sweep may minimise: squared error over variance, mean over the tokenizers; a recipe's own figure.
    """
    config: Config = OmegaConf.to_object(cfg)
    with _begin(cfg, config, "train_tokenizers") as run:
        if config.recipe is not None:
            from .recipes import figure_of, run_recipe

            figures = run_recipe(config, run)
            run.tracker.summary(figures)
            return _objective(run, *figure_of(config.recipe.name, figures))
        cubes, splits = open_survey(config, run)
        root = Path(config.paths.store) / "tokenizers"
        fitted: dict[str, Any] = {}
        reports: dict[str, dict[str, Any]] = {}
        for name in MODALITIES.in_sequence():
            settings = getattr(config.tokenizer, name)
            modality = MODALITIES[name]
            if settings is None or not modality.in_survey(config.data):
                continue
            run.log.info("fitting the %s tokenizer", name)
            hardware = (config.hardware,) if modality.on_device else ()
            fitted[name] = modality.tokenizer_class()(settings, *hardware)
            reports[name] = fitted[name].fit(cubes, splits, config.data, run, config.seed)
        for name, tokenizer in fitted.items():  # only now: a fit that fails leaves all tokenizers as they were
            tokenizer.save(root / MODALITIES[name].folder, run.id)
            run.add_output(f"{name}_tokenizer", tokenizer.fingerprint)
            _plot_tokenizer(run, name, reports[name])
        run.tracker.summary(tables.tokenizer_summary(reports))
        run.log.info("%s", tables.tokenizer_table(reports))
        _say_next(run, cfg, f"tokenizers in {root}")
        return _objective(run, "tokenizers/error", tables.tokenizer_error(reports))


def encode(cfg: DictConfig) -> None:
    """Encode every field that is not up to date."""
    from .tokens import TokenStore, encode_survey

    config: Config = OmegaConf.to_object(cfg)
    with _begin(cfg, config, "encode") as run:
        tokenizers = TokenizerSet.load(Path(config.paths.store) / "tokenizers")
        for name, tokenizer in tokenizers.items():
            if MODALITIES[name].on_device:
                tokenizer.use(config.hardware)
        for name, fingerprint in tokenizers.fingerprints.items():
            run.add_input(f"{name}_tokenizer", fingerprint)
        cubes, splits = open_survey(config, run)
        summary = encode_survey(
            cubes,
            tokenizers,
            splits,
            config.data,
            config.paths.store,
            n_processes=config.hardware.n_processes,
            overwrite=config.encode.overwrite,
            run=run,
        )
        run.add_output("tokens", TokenStore.of(config).fingerprint)
        write_json(run.dir / "encoding.json", summary)
        figures = {name: summary[name] for name in ("rows", "bytes", "seconds")}
        run.tracker.summary(figures | tables.flatten(summary["found"], "found/"))
        run.log.info("%s", tables.encoding_table(summary))
        _say_next(run, cfg, f"tokens of {summary['rows']} objects in {config.paths.store}/tokens")


def train_lm(cfg: DictConfig) -> float | None:
    """Train the transformer; returns the ``objective`` of the best weights, which a sweep may minimise."""
    from .parallel.distributed import process_group
    from .parallel.rank import is_main
    from .training.utils import resolve_device

    config: Config = OmegaConf.to_object(cfg)
    if config.preview:
        from .language_model.preview import preview_run

        remove_if_unused(Path(config.run_dir))
        if is_main():
            print(preview_run(cfg))
        return None
    device, timeout_s = resolve_device(config.hardware.device), config.hardware.rank_timeout_s
    job = sweep_job()
    # Before the run, whose directory all processes share.
    with process_group(device, timeout_s, "run" if job is None else f"job {job}", others_follow=job is not None):
        return _train_lm(cfg, config)


def _train_lm(cfg: DictConfig, config: Config) -> float | None:
    from .ask.questions import check_names
    from .language_model.object_errors import save_object_errors
    from .language_model.run import LanguageModelRun
    from .parallel.rank import is_main
    from .training.checkpoints.checkpoint import find_resume

    record = config_record(cfg, "train_lm")
    fingerprint = fingerprint_config(record)
    resume = config.resume
    continuing = _is_begun(config)
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
            summary["prediction"] = _prediction(run, config) if is_main() else {}
        if is_main():
            run.tracker.summary(tables.flatten(summary))
            write_json(run.dir / "summary.json", summary)
            if errors:
                save_object_errors(run.dir, errors)
            if (run.dir / "best_model.pt").is_file():
                run.add_output("model", fingerprint_file(run.dir / "best_model.pt"))
            _plot_lm(run, experiment, summary, examples)
        run.log.info("%s", tables.model_table(summary))
        run.log.info("next: %s", next_command(cfg, "train_lm", "-m", _to_sweep(config, experiment.layout)))
        return _objective(
            run, "prediction/score" if asks else "val/score", summary["prediction" if asks else "model"].get("score")
        )


def evaluate(cfg: DictConfig) -> float | None:
    """Predict with a trained model, write the catalogue, judge it; returns the prediction score, if it has one."""
    from .ask.questions import check_names
    from .ask.recalibration import FILE, Calibration
    from .ask.seen import training_run
    from .ask.trained import find_weights, load_trained
    from .judge.asked_objects import reads_tokens
    from .judge.baselines.inputs import codebooks

    config: Config = OmegaConf.to_object(cfg)
    settings, score = config.evaluate, None
    with _begin(cfg, config, "evaluate") as run:
        tokens = reads_tokens(config)
        # of new data any model may be asked
        weights = find_weights(settings.run, config.paths.runs, config.paths.store if tokens else None)
        trained = load_trained(weights, config.paths.store, run.log)
        run.log.info("model of %s", weights)
        run.add_input("model", trained.fingerprint)
        for name, fingerprint in trained.tokenizers.fingerprints.items():
            run.add_input(f"{name}_tokenizer", fingerprint)
        check_names(trained.layout, settings)
        fitted, calibration = weights.parent / FILE, None
        if settings.calibration != Calibrate.off:
            chosen = Path(settings.calibration_file or fitted)
            calibration = Calibration.load(chosen, trained.fingerprint)
            run.add_input("calibration", fingerprint_file(chosen))
        trained_on = training_run(weights)
        with _asked(run, config, trained, trained_on, tokens) as asked:
            about = asked.about | {"weights": str(weights.resolve())}
            summary = _predict(
                run, config, trained, asked.fields, asked.n_rows, run.dir, calibration, about, trained_on
            )
            for name in ("catalogue", "embeddings"):
                if (path := run.dir / f"{name}.parquet").is_file():
                    run.add_output(name, fingerprint_file(path))
            run.tracker.summary({key: value for key, value in summary.items() if isinstance(value, int | float)})
            if settings.judge is not None:
                judged = _judge(
                    run,
                    config,
                    run.dir,
                    settings.judge,
                    fitted,
                    asked.judged(trained_on, codebooks(trained.tokenizers)),
                )
                score = judged.get("score")
                # a sweep of questions, and one of losses (objective=prediction), are compared by a figure of one name
                run.tracker.summary(judged | ({} if score is None else {"prediction/score": score}))
        run.log.info("next: %s", next_command(cfg, "evaluate", *_other_question(trained)))
        return _objective(run, "prediction/score", score)


@contextmanager
def _asked(run: RunContext, config: Config, trained: Any, trained_on: Any, tokens: bool) -> Iterator[Any]:
    """The objects that ``evaluate.py`` asks about, from token files or datacubes."""
    from .judge.asked_objects import asked_datacubes, asked_tokens
    from .tokens import TokenStore

    if tokens:
        store = TokenStore.of(config)
        store.check_tokenizers(trained.tokenizers)
        run.add_input("tokens", store.fingerprint)
        yield asked_tokens(store, trained_on, config, run.log)
        return
    cubes, fingerprint = _open_cubes(config, run)
    keep = config.evaluate.judge is not None  # baselines are given what the model is given
    with asked_datacubes(
        cubes, fingerprint, trained.tokenizers, trained_on, config.data, run.dir, run.log, keep=keep
    ) as asked:
        yield asked


def _predict(
    run: RunContext,
    config: Config,
    trained: Any,
    fields: Iterable[Any],
    rows: int,
    folder: Path,
    calibration: Any = None,
    about: dict[str, Any] | None = None,
    trained_on: Any = None,
) -> dict[str, Any]:
    """Answer ``config.evaluate`` for fields with ``rows`` objects; catalogue and ``prediction.json`` in ``folder``."""
    from .ask.familiarity import fit_familiarity
    from .ask.prediction import Predictor, write_predictions
    from .training.utils import configure_cuda_performance, deterministic_kernels, resolve_device

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


def _judge(
    run: RunContext,
    config: Config,
    folder: Path,
    judge: JudgeConfig,
    calibration_path: Path | None = None,
    tokens: Any = None,
) -> dict[str, float]:
    """Compare a catalogue with what was observed; one without held-out values is left as it is."""
    from .judge.baselines.predictors import wanted_baselines
    from .judge.judge_run import FOLDER, judge_run

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


def _objective(run: RunContext, name: str, value: float | None) -> float | None:
    """Write down what a sweep is compared by, and return its value."""
    run.record(objective={"name": name, "value": value})
    return value


def _prediction(run: RunContext, config: Config) -> dict[str, float]:
    """Figures of the best weights' answers to ``config.evaluate`` on validation objects, against the marginal."""
    from .ask.trained import find_weights, load_trained
    from .judge.baselines.inputs import JudgedTokens, codebooks
    from .tokens import TokenStore

    trained = load_trained(find_weights(str(run.dir), config.paths.runs), config.paths.store, run.log)
    store, folder = TokenStore.of(config), run.dir / "prediction"
    asked = replace(config, evaluate=replace(config.evaluate, splits=["val"], familiarity=False))
    folder.mkdir(exist_ok=True)
    _predict(run, asked, trained, iter(store), store.n_rows, folder)
    judge = config.evaluate.judge or JudgeConfig()
    # baselines do not depend on the loss, and half of the validation objects is too little to fit and to show on
    tokens = JudgedTokens(store, store, codebooks(trained.tokenizers))
    judge = replace(judge, baselines=[Baseline.marginal], calibrate=False)
    return _judge(run, asked, folder, judge, tokens=tokens)


# --------------------------------------------------------------------------------------- shared parts


def _say_flags(run: RunContext, summary: dict[str, Any]) -> None:
    """Warn about quantities that were not, or not well, predicted for some objects."""
    for name, counts in summary["flags"].items():
        said = ", ".join(f"{n} {flag}" for flag, n in counts.items() if n and flag != "UNCONDITIONAL")
        if said:
            run.log.info("%s: flags of %d objects: %s", name, summary["objects"], said)


def _is_begun(config: Config) -> bool:
    """Whether this is a job of a continued sweep whose folder holds an earlier attempt."""
    from .parallel.rank import broadcast_object

    # decided by the first process: a later one might see what that has written meanwhile
    return broadcast_object(config.sweep.resume is not None and (Path(config.run_dir) / "run.json").is_file())


@contextmanager
def _begin(cfg: DictConfig, config: Config, stage: str) -> Iterator[RunContext]:
    """A run of a stage that has no half-way states: an unfinished attempt is made again in its folder."""
    begun = _is_begun(config)
    with RunContext.open(cfg, stage, resume=begun) as run:
        run.record(config_fingerprint=fingerprint_config(config_record(cfg, stage)))
        if begun:
            run.tracker.rewind(-1)
        yield run


def _open_cubes(config: Config, run: RunContext) -> tuple[list[Datacube], str]:
    """The datacubes (made first, if the survey is synthetic) and their fingerprint."""
    if config.data.synthetic is not None:
        from .data import check_place, ensure_survey

        check_place(config.data, config.paths.datacube_template)
        ensure_survey(config.data, config.paths.datacube_template)
    cubes = discover(config.data, config.paths.datacube_template)
    check_unique_ids(cubes)
    prints = {cube.field: cube.fingerprint() for cube in cubes}
    for field, fingerprint in prints.items():
        run.add_input(f"datacube_{field}", fingerprint)
    return cubes, fingerprint_config(prints)


def open_survey(config: Config, run: RunContext) -> tuple[list[Datacube], dict[str, np.ndarray]]:
    """The datacubes and the split of each of their rows."""
    cubes = _open_cubes(config, run)[0]
    splits = assign_splits(cubes, config.data)
    counts = np.bincount(np.concatenate(list(splits.values())), minlength=3)
    run.log.info("%d fields, %d objects: %d train, %d val, %d test", len(cubes), counts.sum(), *counts[:3])
    return cubes, splits


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


def _to_sweep(config: Config, layout: SequenceLayout) -> str:
    """What to sweep after a training: a weight of its loss, else the seed."""
    loss, modalities = config.loss, {segment.modality for segment in layout.segments}
    free = [m for m in MODALITIES if m in modalities and getattr(loss, f"share_{m}") is None]
    return f"loss.weight_{free[0]}=0.05,0.2,1.0" if loss.enabled and free else "seed=0,1,2"


def _other_question(trained: Any) -> list[str]:
    """A question that this model can be asked: its columns from something else, where it was trained in any order."""
    modalities = list(dict.fromkeys(segment.modality for segment in trained.layout.segments))
    asked = "scalar" if "scalar" in modalities else modalities[-1]
    others = [m for m in modalities if m != asked]
    given = others[0] if others and trained.sequence["order"] != "fixed" else "before"
    return [f"evaluate.given=[{given}]", f"evaluate.predict=[{asked}]"]


def _say_next(run: RunContext, cfg: DictConfig, made: str) -> None:
    run.log.info("%s; report and plots in %s", made, run.dir)
    run.log.info("next: %s", next_command(cfg, NEXT[cfg.stage]))


# --------------------------------------------------------------------------------------------- plots


@never_fatal
def _plot_tokenizer(run: RunContext, name: str, report: dict[str, Any]) -> None:
    drawn = imported(MODALITIES[name].plot)(report, run.dir / "plots" / f"{name}_reconstruction.png")
    if drawn:
        run.tracker.image(f"{name}_reconstruction", drawn, 0)


@never_fatal
def _plot_lm(run: RunContext, experiment: Any, summary: dict[str, Any], examples: tuple) -> None:
    folder = run.dir / "plots"
    marginal = summary["baselines"]["marginal"] if summary.get("baselines") else None
    images, spectra = examples
    records = read_jsonl(run.dir / "metrics.jsonl")
    drawn = {
        "curves": plots.plot_curves(records, folder / "curves.png", marginal),
        "gradient_shares": plots.plot_gradient_shares(records, folder / "gradient_shares.png"),
        "scalars": plots.plot_scalars(experiment.scalar_panels(), folder / "scalars.png"),
        "spectra": plots.plot_spectra(spectra, folder / "spectra.png", labels=("tokens", "model")),
        "cutouts": plots.plot_cutouts(*images, folder / "cutouts.png", labels=("tokens", "model")) if images else None,
    }
    for name, path in drawn.items():
        if path:
            run.tracker.image(name, path, summary["steps"])
