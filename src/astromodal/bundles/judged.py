"""The judgement of a model: where its run's figures are, and those that a card shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, ArtifactMissingError
from ..files.io import read_mapping

FOLDER, FILE = "judgement", "evaluation.json"
_DEPTH = 4  # folders below runs/evaluate: <name>/<run_id>, sweeps/<run_id>/<job>


def find_judgement(run_dir: Path, fingerprint: str, chosen: Path | None = None) -> Path | None:
    """Folder of the newest judgement of the weights with this fingerprint; None without any.

    Args:
        run_dir: of ``train_lm.py``; looked at are the runs of ``evaluate.py`` beside it, and its own predictions.
        chosen: a judgement's folder, or a run of ``evaluate.py`` that has one.

    Raises:
        ArtifactMissingError: ``chosen`` has none. ArtifactError: it is one of other weights.
    """
    if chosen is not None:
        folder = next((p for p in (chosen, chosen / FOLDER) if (p / FILE).is_file()), None)
        if folder is None:
            raise ArtifactMissingError(
                f"a judgement ({FILE})", got="none", where=chosen, repair="run python evaluate.py"
            )
        if (own := _model_of(folder.parent)) not in (None, fingerprint):
            raise ArtifactError(f"a judgement of the weights {fingerprint}", got=f"one of {own}", where=folder)
        return folder
    root = next((p for p in run_dir.resolve().parents if p.name == "train_lm"), run_dir.resolve().parent)
    runs = [p.parent for depth in range(_DEPTH) for p in (root.parent / "evaluate").glob("*/" * depth + "run.json")]
    found = [run for run in runs if (run / FOLDER / FILE).is_file() and _model_of(run) == fingerprint]
    if (run_dir / "prediction" / FOLDER / FILE).is_file():
        found.append(run_dir / "prediction")
    return max((run / FOLDER for run in found), key=lambda p: (p / FILE).stat().st_mtime_ns, default=None)


def _model_of(run: Path) -> str | None:
    """Fingerprint of the weights that a run of ``evaluate.py`` has asked; None where nobody knows."""
    try:
        inputs = read_mapping(run / "run.json").get("inputs")
    except ArtifactError:
        return None
    return inputs.get("model") if isinstance(inputs, Mapping) else None


def judged_figures(folder: Path) -> dict[str, Any]:
    """Of each judged column the error, its baselines' and how often the interval holds, as plain values."""
    whole = read_mapping(folder / FILE)
    columns = {}
    for name, found in whole.get("columns", {}).items():
        figures, spread = found.get("figures", {}), found.get("distribution", {})
        against = found.get("against", {}).get("baselines", {})
        crps = {key: values["crps"] for key, values in against.items() if values.get("crps") is not None}
        best = min(crps, key=crps.__getitem__, default=None)
        columns[name] = {
            "unit": found.get("unit", ""),
            "n": found.get("n"),
            **{key: _value(figures.get(key)) for key in ("mae", "rmse", "r2")},
            **{key: _value(spread.get(key)) for key in ("crps", "coverage_68", "coverage_95")},
            "best_baseline": best,
            "baseline_crps": crps.get(best),
            **{key: _value(found.get("photo_z", {}).get(key)) for key in ("sigma_nmad", "outlier_fraction")},
        }
    loses = sorted({(entry["column"], entry["against"]) for entry in whole.get("loses", [])})
    return {
        "split": whole.get("split"),
        "n_judged": whole.get("n_judged"),
        "given": whole.get("given_as_asked"),
        "score": (whole.get("score") or {}).get("value"),
        "columns": columns,
        "loses": [list(pair) for pair in loses],
    }


def _value(figure: Any) -> float | None:
    return figure.get("value") if isinstance(figure, Mapping) else figure


HEADER = (
    "column",
    "unit",
    "objects",
    "mean absolute error",
    "CRPS",
    "best baseline",
    "its CRPS",
    "68 % interval holds",
)


def figure_rows(judged: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Rows under ``HEADER``."""
    keys = ("unit", "n", "mae", "crps", "best_baseline", "baseline_crps", "coverage_68")
    return [(name, *("" if c[key] is None else c[key] for key in keys)) for name, c in judged["columns"].items()]
