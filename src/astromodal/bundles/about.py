"""What a model is: what it was trained on, what it can be asked, how it was judged. For ``explain()`` and the card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.images import images_of
from ..data.scalars import inverse_transform
from ..data.splits import SPLIT_NAMES
from ..errors import UserError
from ..files.io import read_mapping
from ..files.text_table import table
from ..sequences.names import quantities
from ..tokenizers.fitted import needed
from .judged import HEADER, figure_rows, find_judgement, judged_figures

if TYPE_CHECKING:
    from ..ask.seen import TrainingRun
    from ..ask.trained import TrainedModel
    from ..config.schema import DataConfig
    from .model import Model

TRAINING = ("optimizer", "schedule", "training", "loss")  # sections of the configuration
GRID = ("wave_min", "wave_max", "wave_step", "wave_unit", "n_coefficients")


class Explanation(dict):
    """A dict that prints as text."""

    def __repr__(self) -> str:
        return explained(self)

    __str__ = __repr__


def explanation(model: Model) -> Explanation:
    """What ``model.explain()`` returns."""
    return Explanation(model.describe() | {"asks": asks(model.trained, model.data)})


def about_run(run_dir: Path, trained: TrainedModel, trained_on: TrainingRun, judgement: Path | None) -> dict[str, Any]:
    """What a run's record and token files say, as plain values."""
    record, config = read_mapping(run_dir / "run.json"), read_mapping(run_dir / "config.json")
    summary = read_mapping(run_dir / "summary.json") if (run_dir / "summary.json").is_file() else {}
    arithmetic, size = record.get("arithmetic") or {}, record.get("model") or {}
    return {
        "survey": (config.get("data") or {}).get("name"),
        "run": record.get("run_id"),
        "name": record.get("name"),
        "ended": record.get("ended"),
        "fingerprint": trained.fingerprint,
        "objects": objects_by_split(trained_on),
        "why_unknown": trained_on.why,
        "steps": summary.get("steps"),
        "epochs": summary.get("epochs"),
        "best_step": summary.get("best_step"),
        "parameters": size.get("parameters"),
        "precision": arithmetic.get("precision"),
        "model": config.get("model"),
        "sequence": trained.sequence,
        **{key: config.get(key) for key in TRAINING},
        "seed": record.get("seed"),
        "versions": record.get("versions"),
        "git": (record.get("git") or {}).get("revision"),
        "judged": None if judgement is None else judged_figures(judgement),
    }


def objects_by_split(trained_on: TrainingRun) -> dict[str, int] | None:
    """Objects of the training run; None where its token files cannot be had."""
    if trained_on.store is None:
        return None
    try:
        of_fields = [np.bincount(np.asarray(tokens.split), minlength=len(SPLIT_NAMES)) for tokens in trained_on.store]
    except UserError:  # gone since
        return None
    return {"fields": len(trained_on.store.fields())} | {
        name: int(n) for name, n in zip(SPLIT_NAMES, np.sum(of_fields, axis=0), strict=True)
    }


def asks(trained: TrainedModel, data: DataConfig) -> dict[str, dict[str, Any]]:
    """Everything that can be given or asked, with its unit, and the range of what training has seen of it."""
    found: dict[str, dict[str, Any]] = {}
    tokenizers = trained.tokenizers
    for name, parts in quantities(trained.layout).items():
        kind = parts[0].modality
        entry: dict[str, Any] = {"kind": kind}
        if kind == "scalar":
            scalar = needed(tokenizers.scalar, "scalar")
            j, config = scalar.columns.index(name), scalar.configs[name]
            low, high = inverse_transform(np.asarray(scalar.binners[j].edges_, np.float64)[[0, -1]], config)
            entry |= {"unit": config.unit, "column": config.column or name, "low": float(low), "high": float(high)}
            if not scalar.binners[j].counts_.sum():
                entry |= {"low": None, "high": None}  # no training object had it
        elif kind == "spectrum":
            group = needed(tokenizers.spectrum, "spectrum").layout_["spectra"][name]
            entry |= {"unit": group["unit"], "column": data.spectra[name].flux}
            entry |= {key: group[key] for key in GRID if group.get(key)}
        else:
            images = images_of(data)
            entry |= {
                "unit": "nanomaggies per pixel",
                "bands": list(needed(tokenizers.image, "image").scaling_.bands),
                "size": images.size,
                "pixel_scale": images.pixel_scale,
            }
        found[name] = entry
    return found


def can_ask(sequence: Mapping[str, Any]) -> str:
    """What a model that was trained with these sequences can be asked, in words."""
    if sequence["order"] == "fixed":
        return "any quantity, given those that stand before it (it was trained in one order)"
    return "any quantity, given any others"


def explained(about: Mapping[str, Any]) -> str:
    """An explanation as text."""
    objects = about.get("objects") or {}
    trained = ", ".join(f"{objects[name]} {name}" for name in SPLIT_NAMES if name in objects)
    fields = f" in {objects['fields']} fields" if "fields" in objects else ""
    lines = [
        f"A model of {about.get('survey') or 'a survey'}, run {about.get('run') or 'unknown'}, "
        f"fingerprint {about.get('fingerprint')}",
        f"trained on: {trained + ' objects' + fields if trained else 'unknown'}",
    ]
    if about.get("sequence"):
        lines.append(f"can be asked: {can_ask(about['sequence'])}")
    rows = [(name, e["kind"], e.get("unit", ""), range_of(e)) for name, e in about.get("asks", {}).items()]
    lines += ["", table(("quantity", "kind", "unit", "seen in training"), rows, n_left=4)]
    judged = about.get("judged")
    if judged is None:
        return "\n".join([*lines, "", "not judged: run python evaluate.py"])
    lines += ["", f"judged on {judged['n_judged']} objects ({judged['split']})"]
    lines.append(table(HEADER, figure_rows(judged), n_left=2))
    if judged["loses"]:
        lines.append("worse than " + ", ".join(f"{baseline} in {column}" for column, baseline in judged["loses"]))
    return "\n".join(lines)


def range_of(entry: Mapping[str, Any]) -> str:
    """What training has seen of a quantity, in words."""
    if entry["kind"] == "scalar":
        return "nothing" if entry["low"] is None else f"{entry['low']:.5g} to {entry['high']:.5g}"
    if entry["kind"] == "image":
        return f"{len(entry['bands'])} bands of {entry['size']} x {entry['size']} px: {' '.join(entry['bands'])}"
    if "wave_min" in entry:
        return f"{entry['wave_min']:g} to {entry['wave_max']:g} {entry.get('wave_unit', '')}"
    return f"{entry.get('n_coefficients', '')} coefficients"


def about_model(run_dir: Path, trained: TrainedModel, trained_on: TrainingRun) -> dict[str, Any]:
    """:func:`about_run` with the judgement that is found beside the run."""
    return about_run(run_dir, trained, trained_on, find_judgement(run_dir, trained.fingerprint))
