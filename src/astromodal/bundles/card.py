"""The card of a model, README.md with the front matter that model hubs read, and its CITATION.cff."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.splits import SPLIT_NAMES
from ..files.text_table import markdown
from .about import can_ask, range_of
from .examples import FILE as EXAMPLES
from .judged import HEADER, figure_rows
from .reference import FOLDER as REFERENCE

_METRICS = {
    "mae": "mean absolute error",
    "crps": "CRPS",
    "coverage_68": "share within the 68 % interval",
    "sigma_nmad": "robust scatter (NMAD)",
    "outlier_fraction": "share of outliers",
}


def card(about: Mapping[str, Any], folder: Path, license: str | None) -> str:
    """README.md; ``folder`` is the bundle, whose plots and files it speaks of."""
    parts = [
        _front_matter(about, license),
        f"# {about['title']}",
        _intro(about),
        _use(about, folder),
        _trained(about),
        _asks(about),
        _judged(about, folder),
        _limits(about, folder),
        _files(folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(about: Mapping[str, Any], license: str | None) -> str:
    import yaml

    meta: dict[str, Any] = {
        "library_name": "astromodal",
        "pipeline_tag": "tabular-regression",
        "tags": ["astronomy", "multimodal", "tabular", "spectra", "images"],
    }
    if license:
        meta["license"] = license
    judged, results = about.get("judged") or {"columns": {}}, []
    for name, figures in judged["columns"].items():
        metrics = [
            {"type": key, "name": text, "value": float(figures[key])}
            for key, text in _METRICS.items()
            if figures.get(key) is not None
        ]
        if metrics:
            survey = str(about["survey"])
            results.append(
                {
                    "task": {"type": "tabular-regression", "name": name},
                    "dataset": {"type": survey, "name": survey, "split": judged["split"]},
                    "metrics": metrics,
                }
            )
    if results:
        meta["model-index"] = [{"name": about["title"], "results": results}]
    return f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).rstrip()}\n---"


def _intro(about: Mapping[str, Any]) -> str:
    return (
        "A transformer over the tokens of astronomical objects (catalogue values, spectra, cutouts), trained with "
        f"astromodal {__version__} on the survey {about['survey']}. "
        f"It can be asked for {can_ask(about['sequence'])}, and answers with a distribution."
    )


def _use(about: Mapping[str, Any], folder: Path) -> str:
    scalar = next((name for name, entry in about["asks"].items() if entry["kind"] == "scalar"), None)
    asked = f'predict=["{scalar}"], ' if scalar else ""
    check = ", check=True" if (folder / EXAMPLES).is_file() else ""
    return f"""## Use

```python
import astromodal

model = astromodal.load("this/folder"{check})   # or "hf://org/name"
answer = model.predict(table, {asked}quantiles=[0.16, 0.5, 0.84])
states = model.embed(table)
print(model.explain())
```

`table` has the survey's columns and units (below), as pandas, astropy, pyarrow or a dict. What it lacks is missing."""


def _trained(about: Mapping[str, Any]) -> str:
    objects = about.get("objects") or {}
    counts = ", ".join(f"{objects[name]} {name}" for name in SPLIT_NAMES if name in objects)
    rows = [
        ("survey", about["survey"]),
        ("objects", f"{counts}, in {objects['fields']} fields" if objects else None),
        ("parameters", about.get("parameters")),
        ("steps, epochs", f"{about.get('steps')}, {about.get('epochs')}"),
        ("order of what is shown", about["sequence"]["order"]),
        ("ended", about.get("ended")),
        ("run", about.get("run")),
        ("weights", about.get("fingerprint")),
    ]
    return "## Trained on\n\n" + markdown(("", ""), [row for row in rows if row[1] is not None])


def _asks(about: Mapping[str, Any]) -> str:
    every = about["asks"].items()
    rows = [(name, e["kind"], e.get("column", ""), e.get("unit") or "", range_of(e)) for name, e in every]
    return "## What it knows\n\n" + markdown(("quantity", "kind", "column", "unit", "seen in training"), rows)


def _judged(about: Mapping[str, Any], folder: Path) -> str:
    judged = about.get("judged")
    if judged is None:
        return "## Judged\n\nNot judged."
    given = "everything else that an object has" if judged["given"] is None else ", ".join(judged["given"]) or "nothing"
    plots = "\n".join(
        f"![{p.stem.replace('_', ' ')}](judgement/plots/{p.name})"
        for p in sorted((folder / "judgement" / "plots").glob("*.png"))
    )
    return (
        f"## Judged\n\nOn {judged['n_judged']} objects of the split {judged['split']}, given {given}. CRPS, the "
        "continuous ranked probability score, is a distribution's error in the unit of the column: 0 is sure and "
        "right, and of a single number it is the absolute error. `judgement/evaluation.json` has all figures with "
        f"their intervals.\n\n{markdown(HEADER, figure_rows(judged))}\n\n{plots}"
    ).rstrip()


def _limits(about: Mapping[str, Any], folder: Path) -> str:
    lines = ["It knows objects like those that it was trained on. A posterior says nothing of its own of others: "]
    lines[0] += (
        "`surprise_percentile` and the flag UNFAMILIAR do."
        if (folder / REFERENCE).is_dir()
        else "this bundle has no objects to compare with, so nothing flags them."
    )
    lines.append("No value outside of the ranges above can be predicted. One that is given is clipped, and flagged.")
    if about["sequence"]["order"] == "fixed":
        lines.append("It was trained in one order, and answers only what stands behind what is given.")
    unknown = [name for name, e in about["asks"].items() if e["kind"] == "scalar" and e["low"] is None]
    if unknown:
        lines.append(f"No training object had {', '.join(unknown)}: these cannot be asked.")
    judged = about.get("judged")
    if judged is None:
        lines.append("Nobody has compared its answers with what was observed.")
    else:
        beaten = [f"{name} ({baseline})" for name, baseline in judged["loses"]]
        lines += [f"Worse than a simple baseline in: {', '.join(beaten)}."] if beaten else []
        off = [
            f"{name} ({100 * c['coverage_68']:.0f} %)"
            for name, c in judged["columns"].items()
            if c["coverage_68"] is not None and abs(c["coverage_68"] - 0.68) > 0.1
        ]
        lines += [f"68 % intervals that hold more than 10 points more or less: {', '.join(off)}."] if off else []
        never = [name for name in about["asks"] if name not in judged["columns"]]
        lines += [f"Not judged: {', '.join(never)}."] if never else []
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _files(folder: Path) -> str:
    said = {
        "model.safetensors": "weights",
        "config.json": "settings, columns and units",
        "tokenizers": "codebooks",
        "calibration.json": 'corrections of the posteriors (`predict(…, calibration="conformal")`)',
        REFERENCE: "tokens of validation objects, without ids and values, for the familiarity",
        EXAMPLES: "objects with their answers, which `load(…, check=True)` asks again",
        "judgement": "figures and plots",
        "CITATION.cff": "how to cite it",
    }
    lines = [f"- `{name}`: {text}" for name, text in said.items() if (folder / name).exists() or name == "CITATION.cff"]
    return "## Files\n\nNothing here is executed; `manifest.json` has the SHA-256 of every file.\n\n" + "\n".join(lines)


def citation(about: Mapping[str, Any], authors: str | None) -> str:
    """CITATION.cff; ``authors``: names, separated by semicolons."""
    import yaml

    names = [name.strip() for name in (authors or "The authors of this model").split(";") if name.strip()]
    content = {
        "cff-version": "1.2.0",
        "message": "If you use this model, please cite it as below.",
        "title": about["title"],
        "type": "software",
        "authors": [{"name": name} for name in names],
        "version": str(about["fingerprint"]),
        "abstract": f"A model of the survey {about['survey']}, trained with astromodal {__version__}.",
    }
    if about.get("ended"):
        content["date-released"] = str(about["ended"])[:10]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
