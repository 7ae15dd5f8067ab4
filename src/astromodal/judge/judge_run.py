"""Judge runs of evaluate.py: metrics, calibration, baselines, noise limit; with several, the any-to-any matrix.

    python -m astromodal.judge.judge_run runs/evaluate/default/ID            (in a checkout: python -m src.astromodal…)
    python -m astromodal.judge.judge_run RUN_A RUN_B --out matrix            each run, and the matrix of both
    python -m astromodal.judge.judge_run runs/evaluate/default/SWEEP         all jobs of a sweep over evaluate.given
    python -m astromodal.judge.judge_run CATALOGUE.parquet --out folder      any catalogue with the same columns

A run's own config.yaml says where the token files, tokenizers and datacubes are. Writes evaluation.json,
evaluation.txt, tables/ and plots/ into RUN/judgement. What evaluate.py has judged is not judged again, unless other
options are given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..ask.seen import training_run
from ..config.reading.explain import nearest
from ..config.reading.yaml_files import load_run_config
from ..config.schema import Baseline, CalibrateOn, DataConfig, JudgeConfig
from ..errors import ArtifactMissingError, ConfigError
from ..files.text_table import say
from ..tokenizers import TokenizerSet
from ..tokens.store import TokenStore
from ..vocabulary.codebook import Codebook
from .any_to_any import FIGURES
from .baselines.inputs import JudgedTokens, codebooks
from .drawn_errors import drawn_columns
from .predicted import PredictionCatalogue
from .report import judge_catalogue, report_matrix

FOLDER = "judgement"


def judge_run(
    run: str | Path, folder: str | Path | None = None, *, run_dir: str | Path | None = None,
    options: JudgeConfig | None = None, seed: int | None = None, calibration_path: str | Path | None = None,
    changes: Mapping[str, Any] | None = None, tokens: JudgedTokens | None = None,
) -> dict[str, Any]:  # fmt: skip
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
    home = run if run.is_dir() else run.parent
    path = Path(run_dir or home) / "config.yaml"
    found = _surroundings(path, catalogue, tokens) if path.is_file() else {}
    configured, its_seed = found.pop("options", JudgeConfig()), found.pop("seed", 0)
    options = replace(options or configured, **dict(changes or {}))
    seed = its_seed if seed is None else seed
    if options.magnitude is None and "data" in found:
        options = replace(options, magnitude=usual_magnitude(found["data"]))
    return judge_catalogue(run, folder or home / FOLDER, options=options, seed=seed,
                           calibration_path=calibration_path, **found)  # fmt: skip


def _surroundings(path: Path, catalogue: PredictionCatalogue, tokens: JudgedTokens | None) -> dict[str, Any]:
    """Token files, codebooks, datacubes and data configuration that a run's ``config.yaml`` names, where they exist;
    its seed, and how it judges."""
    from omegaconf import OmegaConf

    from ..data import discover

    content = load_run_config(path)
    data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), content.data))
    judged = OmegaConf.select(content, "evaluate.judge") or {}  # null: it was not judged then
    options = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(JudgeConfig), judged))
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


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, sweeps or catalogues")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report; of several runs, of the matrix")
    parser.add_argument("--again", action="store_true", help="judge again what has been judged")
    parser.add_argument("--magnitude", metavar="COLUMN", help="show errors by this column")
    parser.add_argument("--baselines", metavar="NAMES", help="marginal,boosting,boosting_colours,…, or none")
    parser.add_argument("--calibrate-on", choices=[on.value for on in CalibrateOn], help="objects to fit on")
    parser.add_argument("--resamples", type=int, help="of the bootstrap")
    parser.add_argument("--figure", default="crps_skill", choices=FIGURES, help="of the matrix")
    return parser.parse_args(arguments)


def _runs(paths: Sequence[Path]) -> list[Path]:
    """The runs; of the folder of a sweep, all that have a catalogue.

    Raises:
        ArtifactMissingError: a folder without any.
    """
    found: list[Path] = []
    for path in paths:
        below = sorted(p.parent for p in path.glob("*/catalogue.parquet"))
        alone = not path.is_dir() or any(path.glob("*.parquet")) or not below
        found += [path] if alone else sorted(below, key=lambda p: (len(p.name), p.name))  # 2 before 10
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    from ..config.launching.launch import one_line_errors

    given = _parse(sys.argv[1:] if arguments is None else arguments)
    changes: dict[str, Any] = {}
    if given.baselines is not None:
        changes["baselines"] = [] if given.baselines == "none" else _baselines(given.baselines)
    on = None if given.calibrate_on is None else CalibrateOn(given.calibrate_on)
    named = (("magnitude", given.magnitude), ("n_resamples", given.resamples), ("calibrate_on", on))
    changes |= {key: value for key, value in named if value is not None}
    with one_line_errors("nothing was changed"):
        runs = _runs(given.runs)
        several = len(runs) > 1
        folders = []
        for run in runs:
            folder = given.out if given.out and not several else (run if run.is_dir() else run.parent) / FOLDER
            if given.again or changes or not (folder / "evaluation.json").is_file():
                judge_run(run, folder, changes=changes)
            say(f"{(folder / 'evaluation.txt').read_text()}\nreport, tables and plots in {folder}")
            folders.append(folder)
        if several:
            say(report_matrix(folders, given.out or Path("matrix"), given.figure))


def _baselines(names: str) -> list[Baseline]:
    known = [baseline.value for baseline in Baseline]
    for name in names.split(","):
        if name not in known:
            raise ConfigError(f"baselines among {', '.join(known)}", got=name, where="--baselines",
                              repair=nearest(name, known))  # fmt: skip
    return [Baseline(name) for name in names.split(",")]


if __name__ == "__main__":
    main()
