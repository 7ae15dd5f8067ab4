"""One call from a catalogue of predictions to a folder with its report: figures, tables, plots, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ask.recalibration import FILE as CALIBRATION_FILE
from ..config.checks.names import file_name
from ..config.schema import JudgeConfig
from ..files.io import write_json
from ..files.json_files import write_text
from ..files.text_table import table
from ..plots import curves as plots
from ..plots.panels import never_fatal
from ..tokens.store import TokenStore
from ..vocabulary.codebook import Codebook
from . import plots as prediction_plots
from .any_to_any import any_to_any, read_results
from .judge import Given, Judgement, judge
from .tables import flat_tables, judgement_text, write_table

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..data.datacube import Datacube


def judge_catalogue(
    catalogue: str | Path,
    folder: str | Path,
    *,
    given: Given = None,
    store: str | Path | TokenStore | None = None,
    bins: Mapping[str, np.ndarray] | None = None,
    units: Mapping[str, str] | None = None,
    codebooks: Mapping[str, Codebook] | None = None,
    data: DataConfig | None = None,
    cubes: Sequence[Datacube] | None = None,
    per_object: Mapping[str, np.ndarray] | None = None,
    weights: str | None = None,
    calibration_path: str | Path | None = None,
    options: JudgeConfig | None = None,
    seed: int = 0,
    asked: TokenStore | None = None,
    no_baselines: str = "",
) -> dict[str, Any]:
    """Judge a catalogue and write ``evaluation.json``, ``evaluation.txt``, ``tables/`` and ``plots/`` into ``folder``.

    Args:
        catalogue: Parquet file or folder of ``evaluate.py`` (:mod:`~astromodal.judge.predicted` says what of it
            is read, so that other programs' catalogues will do as well).
        given: what the model was given: names for all columns, or by column; None: as the catalogue says, and if it
            does not, everything else. The baselines get the same.
        store: ``paths.store`` or its token files, which the baselines learn from; None: no baselines.
        asked: token files of the catalogue's objects, if others than ``store``.
        no_baselines: why there are none, if that is to be said in other words.
        bins: edges ``(B + 1,)`` of the posteriors' bins by column, in physical units, if not beside the catalogue.
        units: unit by column, if not in the catalogue.
        codebooks: by spectrum group and ``image``: makes given tokens inputs of the baselines too.
        data: ``config.data``; a synthetic sky has a noise limit.
        cubes: the datacubes, to compare predicted spectra and cutouts with the observed ones (needs ``data``).
        per_object: further figures of every row of the catalogue ``(n,)``, NaN where there is none.
        weights: fingerprint of the weights, written into the calibration, if not in the catalogue.
        calibration_path: file with the calibrations of these weights, which keeps those of other questions; what is
            fitted here on the model's own validation objects goes into it, and in any case into ``folder``.

    Returns:
        The content of ``evaluation.json``; ``result["summary"]`` is flat, for a tracker.

    Raises:
        ArtifactMissingError: no catalogue, or no token files.
        DataError: no held-out object, or posteriors without the edges of their bins.
    """
    found = judge(
        catalogue,
        given=given,
        store=store,
        bins=bins,
        units=units,
        codebooks=codebooks,
        data=data,
        cubes=cubes,
        per_object=per_object,
        weights=weights,
        options=options,
        seed=seed,
        asked=asked,
        no_baselines=no_baselines,
    )
    write_judgement(found, Path(folder), calibration_path)
    return found.result


def write_judgement(found: Judgement, folder: Path, calibration_path: str | Path | None = None) -> None:
    """Figures, text, tables, plots and calibration of a judgement as files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if found.calibration is not None:
        paths = [folder / CALIBRATION_FILE]
        found.calibration.save(paths[0])
        if calibration_path is not None and found.of_training:
            paths.append(Path(calibration_path))
            found.calibration.merge_into(calibration_path)
        found.result["calibration_files"] = [str(path) for path in paths]
    write_json(folder / "evaluation.json", found.result)
    write_text(folder / "evaluation.txt", judgement_text(found.result) + "\n")
    for name, rows in flat_tables(found.result).items():
        write_table(rows, folder / "tables" / name)
    draw(found, folder / "plots")


@never_fatal
def draw(found: Judgement, folder: Path) -> dict[str, Path] | None:
    """All plots of a judgement; name → file, for those that there was something to draw of."""
    columns = found.result["columns"]

    def part(name: str) -> dict[str, Any]:
        return {column: {"unit": r["unit"], **r[name]} for column, r in columns.items() if name in r}

    units = {name: columns[name]["unit"] for name in found.examples}
    panels = [
        {
            "name": name,
            "unit": units[name] if len(units[name]) <= 10 else "",
            "true": e["observed"],
            "predicted": e["median"],
        }
        for name, e in found.examples.items()
    ]
    drawn = {
        "predicted": plots.plot_scalars(panels, folder / "predicted.png"),
        "pit": prediction_plots.plot_pit(part("calibration"), folder / "pit.png"),
        "coverage": prediction_plots.plot_coverage(part("calibration"), folder / "coverage.png"),
        "recalibration": prediction_plots.plot_recalibration(part("recalibration"), folder / "recalibration.png"),
        "against_crps": prediction_plots.plot_against(part("against"), folder / "against_crps.png"),
        "against_absolute_error": prediction_plots.plot_against(
            part("against"), folder / "against_absolute_error.png", "absolute error"
        ),
        "by_signal_to_noise": prediction_plots.plot_by_bins(
            part("by_signal_to_noise"), folder / "by_signal_to_noise.png", label="signal / noise", log=True
        ),
    }
    drawn["spectra"] = prediction_plots.plot_chi2_by_pixel(found.spectra, folder / "spectra_chi2.png")
    drawn["by_surprise"] = prediction_plots.plot_coverage_by_surprise(part("by_surprise"), folder / "by_surprise.png")
    by_magnitude = part("by_magnitude")
    if by_magnitude:
        label = next(iter(by_magnitude.values()))["of"]
        drawn["by_magnitude"] = prediction_plots.plot_by_bins(
            by_magnitude, folder / "by_magnitude.png", label=label, unit="mag"
        )
    for name, figures in part("photo_z").items():
        path = folder / f"photo_z_{file_name(name)}.png"
        drawn[f"photo_z_{name}"] = prediction_plots.plot_photo_z(name, found.examples[name], figures, path)
    return {name: path for name, path in drawn.items() if path is not None}


def report_matrix(
    folders: Mapping[str, str | Path] | Iterable[str | Path], folder: str | Path, figure: str = "crps_skill"
) -> str:
    """Any-to-any matrix of several judged catalogues: ``any_to_any_<figure>`` as CSV, Parquet and heat map; its text.

    Args:
        folders: with ``evaluation.json``, by the name of what was given (or named by what they say).
    """
    folder = Path(folder)
    matrix = any_to_any(read_results(folders), figure)
    write_table(matrix.records(), folder / f"any_to_any_{figure}")
    prediction_plots.plot_matrix(matrix, folder / f"any_to_any_{figure}.png")
    rows = [(asked, *map(float, values)) for asked, values in zip(matrix.asked, matrix.values, strict=True)]
    text = f"{figure} of each quantity (rows) from what was given\n" + table(("asked", *matrix.given), rows)
    write_text(folder / f"any_to_any_{figure}.txt", text + "\n")
    return text
