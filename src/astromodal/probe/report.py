"""Probing a run and writing what is found: text, JSON, plots, the fitted attention and the embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..ask.trained import find_weights
from ..config.schema import HardwareConfig
from ..files.io import write_json, write_text
from ..plots.panels import never_fatal
from ..provenance.manifest import fingerprint_file
from .embedding import write_embeddings
from .fits import ProbeOptions
from .frozen import open_frozen
from .plots import plot_probe_predictions, plot_probe_r2
from .pooling import FILE as ATTENTION_FILE
from .pooling import FittedAttention
from .probes import FIGURES, PROBES, Judged, probe_label
from .similarity import FILE as EMBEDDINGS_FILE

FOLDER = "probes"
_SHOWN = 8  # names of what the model was shown that are spelled out


def comparison(result: Mapping[str, Any]) -> str:
    """What attention over the states adds to their mean, in one sentence.

    Args:
        result: figures of :func:`~astromodal.probe.probes.probe_label`.
    """
    if result["attention"]["is_mean"]:
        return "Attention found nothing better than the mean on validation objects and stayed the mean."
    d, unit = result["attention_minus_linear"], f" {result['unit']}" if result["unit"] else ""
    share = 100 * d["mae"] / result["probes"]["linear"]["mae"]["value"]
    interval = f"95 % interval {d['low']:+.3g} to {d['high']:+.3g}"
    says = f"attention minus mean: {d['mae']:+.3g}{unit} ({share:+.2g} %), {interval}"
    if d["low"] <= 0 <= d["high"]:
        return f"Attention and mean pooling cannot be told apart by the mean absolute error ({says})."
    better = "Attention pooling predicts better than" if d["high"] < 0 else "Attention pooling predicts worse than"
    return f"{better} mean pooling by the mean absolute error ({says})."


def as_text(results: Sequence[Mapping[str, Any]]) -> str:
    """A table per label, and the sentence."""
    lines = []
    for result in results:
        unit = f" [{result['unit']}]" if result["unit"] else ""
        drawn = ", ".join(f"{name} {n['used']} of {n['available']}" for name, n in result["drawn"].items())
        judged = result["judged"]
        shown = ", ".join(result["given"][:_SHOWN])
        more = f" and {len(result['given']) - _SHOWN} more" if len(result["given"]) > _SHOWN else ""
        lines += [
            f"{result['label']}{unit} from {shown}{more}",
            f"  objects: {drawn}",
            f"  judged on {judged['objects']} objects ({judged['split']}), 95 % intervals by object",
            f"  {'':10}" + "".join(f"{name:>32}" for name in FIGURES),
        ]
        for name, figures in result["probes"].items():
            cells = (f"{f['value']:.4g} ({f['low']:.4g} to {f['high']:.4g})" for f in figures.values())
            lines.append(f"  {name:10}" + "".join(f"{cell:>32}" for cell in cells))
        lines += [f"  {comparison(result)}", ""]
    return "\n".join(lines)


def probe_run(
    run: Path,
    labels: Sequence[str],
    folder: Path,
    given: Sequence[str] | None = None,
    options: ProbeOptions | None = None,
    hardware: HardwareConfig | None = None,
    store: Path | None = None,
    embed_all: bool = False,
) -> str:
    """Probe labels of a run of train_lm.py, write everything into ``folder``, and return the text.

    Args:
        given: what the model is shown; None: everything but the labels.
        store: ``paths.store``; None: that of the run.
        embed_all: embeddings of every object of the token files, not only of those that were drawn.

    Raises:
        ArtifactMissingError: weights, tokenizers or token files are missing.
        ConfigError: the model does not know a label or what is given.
        DataError: too few objects have a label.
    """
    options = options or ProbeOptions()
    frozen = open_frozen(run, labels, given, hardware, store, options.batch_size)
    judged = [probe_label(frozen, label, options) for label in labels]
    results = [found.figures for found in judged]
    text = as_text(results)
    write_json(folder / "probes.json", {"options": asdict(options), "labels": results})
    write_text(folder / "probes.txt", text)
    draw(judged, folder / "plots")
    poolings = {label: found.pooling for label, found in zip(labels, judged, strict=True)}
    fitted = FittedAttention(frozen.trained.fingerprint, None if given is None else tuple(given), poolings)
    fitted.save(folder / ATTENTION_FILE)
    places = None if embed_all else np.unique(np.concatenate([found.places for found in judged]), axis=0)
    written = write_embeddings(folder / EMBEDDINGS_FILE, frozen, fitted, places, folder / ATTENTION_FILE)
    return f"{text}\n{_said(written)}"


def embed_run(
    run: Path,
    fitted: Path,
    folder: Path,
    hardware: HardwareConfig | None = None,
    store: Path | None = None,
    batch_size: int = 64,
) -> str:
    """Embeddings of all objects of token files with attention that was fitted before; what was done, in words.

    Raises:
        ArtifactMissingError: the fitted attention, weights, tokenizers or token files are missing.
        ArtifactError: the attention was fitted on another model, or the tokens do not belong to it.
    """
    attention = FittedAttention.load(fitted, fingerprint_file(find_weights(str(run), ".")))
    frozen = open_frozen(run, list(attention.labels), attention.given, hardware, store, batch_size)
    return _said(write_embeddings(folder / EMBEDDINGS_FILE, frozen, attention, None, fitted))


def _said(written: Mapping[str, int]) -> str:
    lacking = written["without_embedding"]
    null = f", {lacking} of them null: nothing is given" if lacking else ""
    return f"embeddings of {written['objects']} objects{null}"


@never_fatal
def draw(judged: Sequence[Judged], folder: Path) -> None:
    """Both pictures of probes."""
    panels = [
        {
            "label": found.figures["label"],
            "unit": found.figures["unit"],
            "observed": found.observed,
            "predicted": found.predicted,
            "r2": {name: found.figures["probes"][name]["r2"]["value"] for name in PROBES},
        }
        for found in judged
    ]
    plot_probe_predictions(panels, folder / "predicted.png")
    plot_probe_r2([found.figures for found in judged], folder / "r2.png")
