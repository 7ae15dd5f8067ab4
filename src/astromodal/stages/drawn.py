"""What the stages draw; a plot that fails costs a warning, never the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..files.io import read_jsonl
from ..plots import curves as plots
from ..plots.panels import never_fatal
from ..runs.run import RunContext
from ..vocabulary.modalities import MODALITIES, imported

if TYPE_CHECKING:
    import numpy as np

    from ..language_model.run import LanguageModelRun

    Examples = tuple[tuple[np.ndarray, np.ndarray, list[str]] | None, list[dict[str, Any]]]


@never_fatal
def plot_tokenizer(run: RunContext, name: str, report: dict[str, Any]) -> None:
    """Observed against reconstructed values of a tokenizer."""
    drawn = imported(MODALITIES[name].plot)(report, run.dir / "plots" / f"{name}_reconstruction.png")
    if drawn:
        run.tracker.image(f"{name}_reconstruction", drawn, 0)


@never_fatal
def plot_lm(run: RunContext, experiment: LanguageModelRun, summary: dict[str, Any], examples: Examples) -> None:
    """Curves of a training, and what the best weights predict."""
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
