"""Judging a run of ``evaluate.py`` with what its configuration names: tokens, tokenizers, datacubes, training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..ask.catalogue import CATALOGUE
from ..ask.seen import training_run
from ..config.reading.containers import to_object
from ..config.reading.yaml_files import load_run_config
from ..config.schema import DataConfig, JudgeConfig
from ..errors import ArtifactMissingError
from ..tokenizers import TokenizerSet
from ..tokens.store import TokenStore
from ..vocabulary.codebook import Codebook
from .baselines.inputs import JudgedTokens, codebooks
from .drawn_errors import drawn_columns
from .predicted import PredictionCatalogue
from .report import judge_catalogue

FOLDER = "judgement"


def judge_run(
    run: str | Path,
    folder: str | Path | None = None,
    *,
    run_dir: str | Path | None = None,
    options: JudgeConfig | None = None,
    seed: int | None = None,
    calibration_path: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    tokens: JudgedTokens | None = None,
) -> dict[str, Any]:
    """Judge the catalogue of a run directory (or a catalogue file) with all that its configuration leads to.

    Args:
        folder: where the report goes; default ``judgement`` in the run directory.
        run_dir: where ``config.yaml`` is, if not beside the catalogue.
        options, seed: default: those of ``config.yaml``.
        changes: fields of the options that are other than these.
        calibration_path: see :func:`~.report.judge_catalogue`.
        tokens: token files, if others than those that the configuration leads to.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        ArtifactMissingError: no catalogue there.
        DataError: nothing in it can be judged.
    """
    run = Path(run)
    catalogue = PredictionCatalogue(run)
    home = run if run.is_dir() and run.name != CATALOGUE else run.parent
    path = Path(run_dir or home) / "config.yaml"
    found = _surroundings(path, catalogue, tokens) if path.is_file() else {}
    configured, its_seed = found.pop("options", JudgeConfig()), found.pop("seed", 0)
    options = replace(options or configured, **dict(changes or {}))
    seed = its_seed if seed is None else seed
    if options.magnitude is None and "data" in found:
        options = replace(options, magnitude=usual_magnitude(found["data"]))
    return judge_catalogue(
        run, folder or home / FOLDER, options=options, seed=seed, calibration_path=calibration_path, **found
    )


def _surroundings(path: Path, catalogue: PredictionCatalogue, tokens: JudgedTokens | None) -> dict[str, Any]:
    """Token files, codebooks, datacubes and data configuration that a run's ``config.yaml`` names, where they exist;
    its seed, and how it judges."""
    from omegaconf import OmegaConf

    from ..data import discover

    content = load_run_config(path)
    data = to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), content.data), DataConfig)
    judged = OmegaConf.select(content, "evaluate.judge") or {}  # null: it was not judged then
    options = to_object(OmegaConf.merge(OmegaConf.structured(JudgeConfig), judged), JudgeConfig)
    found: dict[str, Any] = {"data": data, "seed": int(content.get("seed", 0)), "options": options}
    tokens = _tokens(content, data, catalogue) if tokens is None else tokens
    found |= {"store": tokens.store, "asked": tokens.asked, "codebooks": tokens.codebooks, "no_baselines": tokens.why}
    if drawn_columns(catalogue, data):
        found["cubes"] = discover(data, str(content.paths.datacube_template))
    return found


def _tokens(content: Any, data: DataConfig, catalogue: PredictionCatalogue) -> JudgedTokens:
    """Token files of the judged objects as ``paths.store`` has them; those of training where the weights lie."""
    if "datacubes" in catalogue.meaning:
        return JudgedTokens(None, None, {}, "the datacubes' token files were not kept; evaluate.py itself judges them")
    store = Path(content.paths.store)
    try:
        asked = TokenStore(store)
        asked = asked if data.fields is None else asked.select(list(data.fields))
        books = codebooks(TokenizerSet.load(store / "tokenizers"))
    except ArtifactMissingError as error:
        return JudgedTokens(None, None, {}, str(error))
    return _trained_on(catalogue, asked, books)


def _trained_on(catalogue: PredictionCatalogue, asked: TokenStore, books: dict[str, Codebook]) -> JudgedTokens:
    """With the token files that baselines learn from: those of the model's run, as far as the catalogue knows it."""
    if "trained_on" not in catalogue.meaning or asked.fingerprint == catalogue.meaning["trained_on"]:
        return JudgedTokens(asked, asked, books)
    run = training_run(Path(catalogue.meaning["weights"]))
    return JudgedTokens(run.store, asked, books, run.why)


def usual_magnitude(data: DataConfig) -> str | None:
    """The r magnitude of a survey, else its first magnitude; None without any."""
    names = [name for name, column in data.scalars.items() if column.unit == "mag"]
    return next((name for name in names if name.endswith("_r") or name == "r"), names[0] if names else None)
