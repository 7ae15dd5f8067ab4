"""Tables of finished prediction experiments: what each loss predicts, its gains, baselines, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loss_tables import MISSING, spread
from paired import Comparison
from prediction_answers import Asked, collect, compare, is_done, judged, run_of, scalar_answers, spectra_of
from prediction_plot import draw
from prediction_questions import REFERENCE_SEED

from astromodal.files.io import write_text
from astromodal.files.text_table import markdown
from astromodal.judge.any_to_any import any_to_any, read_results

NOTE = """\
On test objects. score: mean over the asked columns of CRPS / CRPS of the marginal (1: knows nothing; lower is better);
of spectra, the relative error (at most 1) / that of the marginal; beside it the median of that error, and of what is
left of it when the prediction's brightness is put right. MAE, R2: means over the columns, MAE in their unit. PIT-KS:
largest distance of the PIT's distribution from the uniform one, mean over the columns. ± is the standard deviation over
seeds. Gains: of the score, in %, with the 95 % interval of a paired bootstrap by object (about the choice of test
objects, not about the seed), and in how many of the seeds the variant is better; in bold where it excludes 0.
"""
FIGURES = {
    "score": ".3f",
    "MAE": ".3g",
    "R2": ".3f",
    "sigma_nmad": ".4f",
    "outlier_fraction": ".3f",
    "in 68 %": ".2f",
    "in 95 %": ".2f",
    "PIT-KS": ".3f",
    "median error": ".3f",
    "of the shape": ".3f",
}
BASELINES = ("marginal", "neighbours", "boosting", "boosting_colours", "network")


def write_report(
    folders: Mapping[str, Path], variants: Sequence[str], seeds: Sequence[int], out: Path, against: str, reference: str
) -> list[Path]:
    """``prediction_tables.md`` and ``prediction.png`` of what is finished."""
    asked = collect(folders, variants, seeds)
    text = [NOTE]
    for data, folder in folders.items():
        own = [a for a in asked if a.data == data]
        if not own:
            continue
        text += [f"## {data}", ""]
        for a in own:
            text += [f"### {a.name}: {a.question.text}, {a.n_objects} objects", "", table(a), ""]
        for title, found in {
            f"Gain over `{against}` in %:": gain_table(own, against),
            f"Baselines, beside `{reference}`:": baseline_table(own, folder, reference),
            f"Calibration of `{reference}`:": calibration_table(own, folder, reference),
            "Any to any, 1 - CRPS / CRPS of the marginal (objects):": matrix_table(folder, reference),
        }.items():
            text += [title, "", found, ""] if found else []
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "prediction_tables.md", "\n".join(text))
    lines = {(a.data, a.name): baseline_scores(a, folders[a.data], reference) for a in asked}
    return [out / "prediction_tables.md", draw(asked, lines, against, reference, out / "prediction.png")]


def table(asked: Asked) -> str:
    """Every figure that is known, of every variant."""
    known = [f for f in FIGURES if any(np.isfinite(asked.values(v, f)).any() for v in asked.answers)]
    rows = [
        [f"`{v}`", str(len(of)), *(spread(asked.values(v, f), FIGURES[f]) for f in known)]
        for v, of in asked.answers.items()
    ]
    return markdown(["variant", "seeds", *known], rows)


def gain_table(asked: Sequence[Asked], against: str) -> str:
    """A row per variant, a column per question; empty if there is nothing to compare."""
    variants = list(dict.fromkeys(v for a in asked for v in a.answers if v != against))
    rows = []
    for variant in variants:
        found = [compare(a, variant, against) for a in asked]
        if any(c is not None for c in found):
            rows.append([f"`{variant}`", *(gain_text(c) for c in found)])
    return markdown(["variant", *(a.name for a in asked)], rows) if rows else ""


def gain_text(c: Comparison | None) -> str:
    if c is None:
        return MISSING
    mark = "**" if c.excludes_zero else ""
    return f"{mark}{c.gain:+.1f}{mark} [{c.low:+.1f}, {c.high:+.1f}] {c.n_better}/{c.n_seeds}"


def baseline_scores(asked: Asked, folder: Path, reference: str) -> dict[str, dict[str, float]]:
    """Figures of the baselines and of the model on the same objects and columns; empty where not asked yet."""
    if asked.question.spectrum:
        run = run_of(folder, reference, REFERENCE_SEED, asked.name)
        if not is_done(run):
            return {}
        errors = spectra_of(folder, run, asked.question.predict[0])[1]
        model = asked.answers.get(reference, {}).get(REFERENCE_SEED)
        unit = errors["marginal"][0].mean()
        found = {
            name: {"score": e.mean() / unit, "median error": float(np.median(e)), "of the shape": float(np.median(s))}
            for name, (e, s) in errors.items()
        }
        return found | ({f"`{reference}`": model.figures} if model else {})
    run = run_of(folder, reference, REFERENCE_SEED, f"{asked.name}-baselines")
    columns = judged(run) if is_done(run) else {}
    if not columns:
        return {}
    found = {}
    for name in BASELINES:
        entries = [c["against"]["baselines"].get(name, {}) for c in columns.values()]
        if all("crps" in entry for entry in entries):
            found[name] = _baseline(entries, [c["against"]["baselines"]["marginal"]["crps"] for c in columns.values()])
    return found | {f"`{reference}`": scalar_answers(run).figures}


def _baseline(entries: Sequence[Mapping[str, Any]], marginal: Sequence[float]) -> dict[str, float]:
    """Figures of a baseline, in the words of the model's."""

    def mean(values: Sequence[Any]) -> float:
        return float(np.mean([v for v in values if v is not None] or [np.nan]))

    return {
        "score": mean([e["crps"] / m for e, m in zip(entries, marginal, strict=True)]),
        "MAE": mean([e["figures"]["mae"] for e in entries]),
        "R2": mean([e["figures"]["r2"] for e in entries]),
        "sigma_nmad": mean([e.get("photo_z", {}).get("sigma_nmad") for e in entries]),
        "outlier_fraction": mean([e.get("photo_z", {}).get("outlier_fraction") for e in entries]),
        "in 68 %": mean([e["coverage_68"] for e in entries]),
        "in 95 %": mean([e["coverage_95"] for e in entries]),
    }


def baseline_table(asked: Sequence[Asked], folder: Path, reference: str) -> str:
    """Every question's baselines and the model, and in how many columns its CRPS is surely better or worse."""
    rows = []
    shown = [f for f in FIGURES if f != "PIT-KS"]
    for a in asked:
        found = baseline_scores(a, folder, reference)
        said = verdicts(run_of(folder, reference, REFERENCE_SEED, f"{a.name}-baselines"))
        for name, figures in found.items():
            cells = [spread(np.array([figures.get(f, np.nan)]), FIGURES[f]) for f in shown]
            label = f"{a.name} from {a.question.against_given}" if a.question.against_given else a.name
            rows.append([label, name, *cells, said.get(name, "")])
    known = [k for k, f in enumerate(shown) if any(row[2 + k] != MISSING for row in rows)]
    rows = [[*row[:2], *(row[2 + k] for k in known), row[-1]] for row in rows]
    return markdown(["question", "who", *(shown[k] for k in known), "model wins, even, loses"], rows) if rows else ""


def verdicts(run: Path) -> dict[str, str]:
    """By baseline, how many columns the model's CRPS is better in, undecided and worse (95 % interval by object)."""
    if not is_done(run):
        return {}
    found = {}
    for name in BASELINES:
        said = [
            c["against"]["baselines"].get(name, {}).get("differences", {}).get("crps", {}).get("verdict")
            for c in judged(run).values()
        ]
        found[name] = ", ".join(str(said.count(verdict)) for verdict in ("wins", "undecided", "loses"))
    return found


def calibration_table(asked: Sequence[Asked], folder: Path, reference: str) -> str:
    """As predicted and after each calibration, on the objects that none was fitted on: means over the columns."""
    rows = []
    for a in asked:
        run = run_of(folder, reference, REFERENCE_SEED, f"{a.name}-calibration")
        if not is_done(run):
            continue
        columns = [c.get("recalibration", {}) for c in judged(run).values()]
        columns = [c for c in columns if "as predicted" in c]
        for how in ("as predicted", "temperature", "conformal"):
            found = [c[how] for c in columns if how in c]
            if found:
                crps = np.mean([c[how]["crps"] / c["as predicted"]["crps"] for c in columns if how in c])
                inside = [f"{np.mean([f[key] for f in found]):.2f}" for key in ("coverage_68", "coverage_95")]
                rows.append([a.name, how, str(found[0]["n"]), *inside, f"{crps:.3f}"])
    return markdown(["question", "", "objects", "in 68 %", "in 95 %", "CRPS / as predicted"], rows) if rows else ""


def matrix_table(folder: Path, reference: str) -> str:
    """Skill of every column from every subset that was given; empty where nothing was asked."""
    runs = sorted((folder / "runs" / "evaluate" / reference).glob(f"seed{REFERENCE_SEED}-matrix-*"))
    named = {run.name.split("matrix-")[1].replace("_", " "): run / "judgement" for run in runs if is_done(run)}
    if not named:
        return ""
    matrix = any_to_any(read_results(named))
    rows = [
        [asked, *(f"{v:.2f} ({n})" if n else MISSING for v, n in zip(values, counts, strict=True))]
        for asked, values, counts in zip(matrix.asked, matrix.values, matrix.n, strict=True)
    ]
    return markdown(["asked", *(f"from {g}" for g in matrix.given)], rows)
