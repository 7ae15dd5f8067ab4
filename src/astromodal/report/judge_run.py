"""Judge runs of evaluate.py: metrics, calibration, baselines, noise limit; with several, the any-to-any matrix.

    python -m astromodal.report.judge_run runs/evaluate/default/ID            (in a checkout: python -m src.astromodal…)
    python -m astromodal.report.judge_run RUN_A RUN_B --out matrix            each run, and the matrix of both
    python -m astromodal.report.judge_run CATALOGUE.parquet --out folder      any catalogue with the same columns

A run's own config.yaml says where the token files, tokenizers and datacubes are. Writes evaluation.json,
evaluation.txt, tables/ and plots/ into RUN/judgement.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.schema import DataConfig
from ..core.codebook import Codebook
from ..errors import ArtifactMissingError
from ..evaluation.any_to_any import FIGURES
from ..evaluation.drawn_errors import drawn_columns
from ..evaluation.judge import JudgeOptions
from ..evaluation.predicted import PredictionCatalogue
from ..tokenizers import TokenizerSet
from ..tokens.store import TokenStore
from .judge import judge_catalogue, report_matrix

FOLDER = "judgement"


def judge_run(
    run: str | Path, folder: str | Path | None = None, *, magnitude: str | None = None,
    options: JudgeOptions | None = None, calibration_path: str | Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Judge the catalogue of a run directory (or a catalogue file) with all that its configuration leads to.

    Args:
        folder: where the report goes; default ``judgement`` in the run directory.
        magnitude: column that errors are shown by; default the first with unit mag whose name ends in ``_r``.
        calibration_path: see :func:`~.judge.judge_catalogue`.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        ArtifactMissingError: no catalogue there.
        DataError: nothing in it can be judged.
    """
    run = Path(run)
    catalogue = PredictionCatalogue(run)
    home = run if run.is_dir() else run.parent
    found: dict[str, Any] = {"magnitude": magnitude}
    if (home / "config.yaml").is_file():
        found |= _surroundings(home / "config.yaml", catalogue, magnitude)
    return judge_catalogue(run, folder or home / FOLDER, options=options, calibration_path=calibration_path, **found)


def _surroundings(path: Path, catalogue: PredictionCatalogue, magnitude: str | None) -> dict[str, Any]:
    """Token files, codebooks, datacubes and data configuration that a run's ``config.yaml`` names, where they exist."""
    from omegaconf import OmegaConf

    from ..data import discover

    content = OmegaConf.load(path)
    data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), content.data))
    found: dict[str, Any] = {"data": data, "magnitude": magnitude or usual_magnitude(data)}
    store = Path(content.paths.store)
    try:
        tokens = TokenStore(store)
        found["store"] = tokens if data.fields is None else tokens.select(list(data.fields))
        found["codebooks"] = codebooks(TokenizerSet.load(store / "tokenizers"))
    except ArtifactMissingError:
        pass  # predicted from datacubes without token files: no baselines
    if drawn_columns(catalogue, data):
        found["cubes"] = discover(data, str(content.paths.datacube_template))
    return found


def codebooks(tokenizers: TokenizerSet) -> dict[str, Codebook]:
    """Codebook of every spectrum group and of ``image``, as inputs of baselines need them."""
    found = {} if tokenizers.spectrum is None else dict(tokenizers.spectrum.codebooks())
    return found if tokenizers.image is None else found | {"image": tokenizers.image.codebook}


def usual_magnitude(data: DataConfig) -> str | None:
    """The r magnitude of a survey, else its first magnitude; None without any."""
    names = [name for name, column in data.scalars.items() if column.unit == "mag"]
    return next((name for name in names if name.endswith("_r") or name == "r"), names[0] if names else None)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories or catalogues")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report; of several runs, of the matrix")
    parser.add_argument("--magnitude", metavar="COLUMN", help="show errors by this column")
    parser.add_argument("--baselines", metavar="NAMES", help="marginal,boosting,neighbours (default), or none")
    parser.add_argument("--resamples", type=int, default=JudgeOptions.n_resamples, help="of the bootstrap")
    parser.add_argument("--figure", default="crps_skill", choices=FIGURES, help="of the matrix")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    from ..config.launch import one_line_errors

    given = _parse(sys.argv[1:] if arguments is None else arguments)
    options = JudgeOptions(n_resamples=given.resamples)
    if given.baselines is not None:
        chosen = () if given.baselines == "none" else tuple(given.baselines.split(","))
        options = replace(options, baselines=chosen)
    several = len(given.runs) > 1
    folders = []
    with one_line_errors("nothing was changed"):
        for run in given.runs:
            folder = given.out if given.out and not several else (run if run.is_dir() else run.parent) / FOLDER
            judge_run(run, folder, magnitude=given.magnitude, options=options)
            print(f"{(folder / 'evaluation.txt').read_text()}\nreport, tables and plots in {folder}")
            folders.append(folder)
        if several:
            print(report_matrix(folders, given.out or Path("matrix"), given.figure))


if __name__ == "__main__":
    main()
