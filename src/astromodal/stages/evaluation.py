"""A trained model asked about objects, and judged against the sky: the stage ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from ..ask.questions import check_names
from ..ask.recalibration import FILE, Calibration
from ..ask.seen import TrainingRun, training_run
from ..ask.trained import TrainedModel, find_weights, load_trained
from ..config.launching.next_command import next_command
from ..config.reading.containers import to_object
from ..config.schema import Calibrate, Config
from ..errors import ConfigError
from ..judge.asked_objects import Asked, asked_datacubes, asked_tokens, reads_tokens
from ..judge.baselines.inputs import codebooks
from ..parallel.rank import world_size
from ..provenance.manifest import fingerprint_file
from ..runs.run import RunContext
from ..tokens import TokenStore
from .answers import judge_answers, predict, predict_by_field
from .wiring import begin, objective, open_cubes


def evaluate(cfg: DictConfig) -> float | None:
    """Predict with a trained model, write the catalogue, judge it; returns the prediction score, if it has one."""
    config = to_object(cfg, Config)
    settings, score = config.evaluate, None
    by_field = settings.by_field or world_size() > 1
    with begin(cfg, config, "evaluate", again=by_field) as run:
        tokens = reads_tokens(config)
        if world_size() > 1 and not tokens:
            raise ConfigError(
                "token files, where several processes ask",
                got="datacubes",
                where="evaluate.input",
                repair="python encode.py, or ask in one process",
            )
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
            if by_field:
                parts = predict_by_field(run, config, trained, asked, run.dir, calibration, about, trained_on)
                if parts is None:
                    return None
                summary, fingerprint = parts
                run.add_output("catalogue", fingerprint)
            else:
                rows = asked.n_rows
                summary = predict(run, config, trained, asked.fields, rows, run.dir, calibration, about, trained_on)
                for name in ("catalogue", "embeddings"):
                    if (path := run.dir / f"{name}.parquet").is_file():
                        run.add_output(name, fingerprint_file(path))
            run.tracker.summary({key: value for key, value in summary.items() if isinstance(value, int | float)})
            if settings.judge is not None:
                judged = judge_answers(
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
        return objective(run, "prediction/score", score)


@contextmanager
def _asked(
    run: RunContext, config: Config, trained: TrainedModel, trained_on: TrainingRun, tokens: bool
) -> Iterator[Asked]:
    """The objects that ``evaluate.py`` asks about, from token files or datacubes."""
    if tokens:
        store = TokenStore.of(config)
        store.check_tokenizers(trained.tokenizers)
        run.add_input("tokens", store.fingerprint)
        yield asked_tokens(store, trained_on, config, run.log)
        return
    cubes, fingerprint = open_cubes(config, run)
    keep = config.evaluate.judge is not None  # baselines are given what the model is given
    with asked_datacubes(
        cubes, fingerprint, trained.tokenizers, trained_on, config.data, run.dir, run.log, keep=keep
    ) as asked:
        yield asked


def _other_question(trained: TrainedModel) -> list[str]:
    """A question that this model can be asked: its columns from something else, where it was trained in any order."""
    modalities = list(dict.fromkeys(segment.modality for segment in trained.layout.segments))
    asked = "scalar" if "scalar" in modalities else modalities[-1]
    others = [m for m in modalities if m != asked]
    given = others[0] if others and trained.sequence["order"] != "fixed" else "before"
    return [f"evaluate.given=[{given}]", f"evaluate.predict=[{asked}]"]
