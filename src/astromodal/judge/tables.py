"""What a judgement says, as text and as flat tables for CSV and Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..config.schema import Baseline
from ..files.spreadsheets import write_tables
from ..files.text_table import table

_BASELINES = tuple(baseline.value for baseline in Baseline)
_SPOKEN = {"boosting_colours": "boosting with colours", "network": "a small network", "tabicl": "TabICL"}
_KINDS = {"absolute error": "absolute error", "squared error": "squared error", "crps": "CRPS"}


def judgement_text(result: Mapping[str, Any]) -> str:
    """The whole report as plain text: figures, redshifts, baselines, limits, calibration, and where the model loses."""
    columns = result["columns"]
    parts = [f"{result['n_judged']} objects of {result['n_rows']} judged ({result['split']})"]
    parts += [_score(result["score"]), _figures(columns), _photo_z(columns), _against(columns), _limits(columns)]
    parts += [
        _recalibration(columns, result.get("calibration_files", ())),
        _per_object(result["figures"]),
        _left_out(columns),
        verdict(result),
    ]
    return "\n\n".join(part for part in parts if part)


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    mean = f", mean over {score['n_columns']} columns" if score["n_columns"] > 1 else ""
    return f"prediction score {score['value']:.4f}: CRPS / CRPS of the marginal{mean}"


def _value(record: Mapping[str, Any], part: str, name: str) -> float | None:
    found = record.get(part, {}).get(name)
    return found["value"] if isinstance(found, Mapping) else found


def _with_interval(found: Mapping[str, Any]) -> str:
    low, high = found["low"], found["high"]
    known = low is not None and low == low
    return f"{found['value']:.4g} [{low:.4g}, {high:.4g}]" if known else f"{found['value']:.4g}"


def _figures(columns: Mapping[str, Any]) -> str:
    rows = []
    for name, record in columns.items():
        if not record["n"]:
            continue
        point = [_value(record, "figures", key) for key in ("r2", "rmse", "mae", "bias", "scatter")]
        whole = [_value(record, "distribution", key) for key in ("crps", "coverage_68", "coverage_95")]
        rows.append((name, record["unit"], record["n"], *point, *whole, _value(record, "calibration", "ks")))
    header = ("predicted", "unit", "n", "R²", "RMSE", "MAE", "bias", "scatter", "CRPS", "in 68 %", "in 95 %", "PIT KS")
    return table(header, rows) if rows else "no column has an object that can be judged"


def _photo_z(columns: Mapping[str, Any]) -> str:
    rows = []
    for name, record in columns.items():
        found = record.get("photo_z")
        if found:
            keys = ("bias_median", "bias_mean", "sigma_nmad", "outlier_fraction")
            rows.append((name, found["n"], *(_with_interval(found[key]) for key in keys)))
    header = ("redshift", "n", "median bias", "mean bias", "σ NMAD", "outliers")
    return table(header, rows) + "\n[95 % by bootstrap over objects]" if rows else ""


def _against(columns: Mapping[str, Any]) -> str:
    """CRPS, or else absolute error, of the model and of each baseline; the mark is the verdict for the model."""
    rows, mark = [], {"wins": "", "loses": " *", "undecided": " ~"}
    there = {
        b for r in columns.values() for b, e in r.get("against", {}).get("baselines", {}).items() if "differences" in e
    }
    shown = [baseline for baseline in _BASELINES if baseline in there]
    for name, record in columns.items():
        against = record.get("against", {})
        entries = against.get("baselines", {})
        for kind, label in _KINDS.items():
            cells, model = [], None
            best = against.get("best") or {}
            for baseline in shown:
                found = entries.get(baseline, {}).get("differences", {}).get(kind)
                to_beat = " <" if (baseline, kind) == (best.get("name"), best.get("figure")) else ""
                cells.append("-" if found is None else f"{found['baseline']:.4g}{mark[found['verdict']]}{to_beat}")
                model = model if found is None else found["model"]
            if model is not None and kind != "squared error":
                rows.append((f"{name}: {label}", against["n"], against["n_training"], float(model), *cells))
    if not rows:
        return ""
    header = ("mean over the same objects", "n", "trained on", "model", *shown)
    note = (
        "* the model is worse, ~ undecided (95 % interval of the paired difference by object), else better; "
        "< the best baseline, which it has to beat"
    )
    return table(header, rows) + "\n" + note


def _limits(columns: Mapping[str, Any]) -> str:
    rows = []
    for name, record in columns.items():
        found = record.get("noise_limit")
        if found and found["n"]:
            rows.append(
                (
                    name,
                    found["n"],
                    *(
                        _value(record, "noise_limit", key)
                        for key in ("rmse", "limit_rmse", "ratio", "scatter_over_limit")
                    ),
                )
            )
    header = ("against the noise", "n", "RMSE", "limit", "RMSE / limit", "scatter of error / limit")
    return table(header, rows) if rows else ""


def _recalibration(columns: Mapping[str, Any], files: Sequence[str]) -> str:
    rows = []
    for name, record in columns.items():
        found = record.get("recalibration", {})
        for step in ("as predicted", "temperature", "conformal"):
            if step in found:
                f = found[step]
                what = f"T = {found['fitted']['temperature']:.3g}" if step == "temperature" else ""
                rows.append(
                    (
                        f"{name}, {step}",
                        what,
                        f["n"],
                        f["coverage_68"],
                        f["coverage_95"],
                        f["levels"]["chi2_p"],
                        f["crps"],
                    )
                )
    header = ("calibration, other objects", "", "n", "in 68 %", "in 95 %", "χ² p of PIT", "CRPS")
    on = {r["recalibration"]["fitted"].get("on") for r in columns.values() if "fitted" in r.get("recalibration", {})}
    said = [f"fitted on {words}" for words in sorted(filter(None, on))]
    said += [f"written to {path}" for path in files]
    return "\n".join([table(header, rows), *said]) if rows else ""


def _per_object(figures: Mapping[str, Any]) -> str:
    rows = [
        (name, f["mean"]["n_objects"], _with_interval(f["mean"]), _with_interval(f["median"]))
        for name, f in figures.items()
    ]
    return table(("per object", "n", "mean", "median"), rows) if rows else ""


def _left_out(columns: Mapping[str, Any]) -> str:
    """What was not judged and why, what was judged in spite of a remark, and what could not be compared or fitted."""
    lines: dict[str, list[str]] = {}
    for name, record in columns.items():
        reasons = [f"{n} {reason}" for reason, n in record["left_out"].items()]
        reasons += [f"{n} judged although {flag.replace('_', ' ')}" for flag, n in record["remarks"].items()]
        if reasons:
            lines.setdefault(", ".join(reasons), []).append(name)
        against, calibrated = record.get("against", {}), record.get("recalibration", {})
        applied = record.get("applied_calibration")
        if applied:
            what = "temperature and conformal shifts" if applied["mode"] == "conformal" else "temperature"
            on = f", fitted on {applied['said']}" if applied.get("said") else ""
            lines.setdefault(f"judged as corrected by a {what}{on}", []).append(name)
        for baseline, entry in against.get("baselines", {}).items():
            if "skipped" in entry:
                lines.setdefault(f"no {_SPOKEN.get(baseline, baseline)}: {entry['skipped']}", []).append(name)
        if against.get("unused"):
            lines.setdefault(f"baselines without {', '.join(against['unused'])}", []).append(name)
        if "fitted" in calibrated and "temperature" not in calibrated:
            lines.setdefault("no temperature: it needs whole posteriors, evaluate.posterior=true", []).append(name)
        for what, why in (("no baselines", against.get("skipped")), ("no calibration", calibrated.get("skipped"))):
            if why:
                lines.setdefault(f"{what}: {why}", []).append(name)
    said = [f"{', '.join(names)}: {why}" for why, names in lines.items()]
    return "\n".join(["left out, and remarks:", *said]) if said else ""


def verdict(result: Mapping[str, Any]) -> str:
    """Where the model loses against a baseline, in plain words."""
    compared = sorted({b for r in result["columns"].values() for b in r.get("against", {}).get("baselines", {})})
    if not compared:
        reasons = {r["against"]["skipped"] for r in result["columns"].values() if "skipped" in r.get("against", {})}
        return f"not compared with any baseline: {'; '.join(sorted(reasons)) or 'none was asked for'}"
    losses = result["loses"]
    records = result["columns"].values()
    verdicts = [
        d["verdict"]
        for r in records
        for e in r.get("against", {}).get("baselines", {}).values()
        for d in e.get("differences", {}).values()
    ]
    counts = f"{len(verdicts)} comparisons: {verdicts.count('wins')} won, {verdicts.count('undecided')} undecided"
    if not losses:
        return (
            f"The model loses nowhere against {', '.join(compared)}; {counts} (95 % intervals, paired by object)."
            f"{_to_beat(result)}"
        )
    lines: dict[str, list[str]] = {}
    for loss in losses:  # the largest relative loss first
        words = (
            f"{_KINDS[loss['figure']]} {loss['model']:.4g} against {loss['baseline']:.4g} "
            f"(+{loss['difference']:.3g} [{loss['low']:.3g}, {loss['high']:.3g}])"
        )
        lines.setdefault(f"{loss['column']}, {loss['against']}, {loss['n_objects']} objects", []).append(words)
    said = "\n".join(f"{who}: {'; '.join(words)}" for who, words in lines.items())
    whom = _best_of(result, "loses") or dict.fromkeys(loss["against"] for loss in losses)
    to = " and ".join(f"{_SPOKEN.get(b, b)}{f' ({_few(names)})' if names else ''}" for b, names in whom.items())
    return (
        f"THE MODEL LOSES to {to} ({counts}, {len(losses)} lost; 95 % intervals, paired by object):\n{said}"
        f"{_to_beat(result)}"
    )


def _best_of(result: Mapping[str, Any], verdict: str) -> dict[str, list[str]]:
    """Columns with this verdict against the best of their baselines, by its name."""
    found: dict[str, list[str]] = {}
    for name, record in result["columns"].items():
        best = record.get("against", {}).get("best")
        if best and best["verdict"] == verdict:
            found.setdefault(best["name"], []).append(name)
    return found


def _to_beat(result: Mapping[str, Any]) -> str:
    """Against the best baseline of each column: how many are won, undecided and lost."""
    counts = {v: sum(map(len, _best_of(result, v).values())) for v in ("wins", "undecided", "loses")}
    n = sum(counts.values())
    words = f"{counts['wins']} won, {counts['undecided']} undecided, {counts['loses']} lost"
    return f"\nAgainst the best baseline of each column, which the model has to beat: {words}." if n else ""


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# ------------------------------------------------------------------------------------- flat tables


def flat_tables(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Everything as rows: ``figures``, ``against``, ``bins``, ``recalibration``; empty ones are left out."""
    rows: dict[str, list[dict[str, Any]]] = {"figures": [], "against": [], "bins": [], "recalibration": []}
    for name, record in result["columns"].items():
        head = {"column": name, "unit": record["unit"]}
        for part in ("figures", "photo_z", "distribution", "noise_limit"):
            for figure, found in record.get(part, {}).items():
                if isinstance(found, Mapping):
                    rows["figures"].append({**head, "part": part, "figure": figure, **_numbers(found)})
        for baseline, entry in record.get("against", {}).get("baselines", {}).items():
            for figure, found in entry.get("differences", {}).items():
                to_beat = (record["against"].get("best") or {}).get("name") == baseline
                rows["against"].append(
                    {
                        **head,
                        "against": baseline,
                        "figure": figure,
                        **_numbers(found),
                        "verdict": found["verdict"],
                        "best": to_beat,
                    }
                )
        for by in ("by_magnitude", "by_signal_to_noise", "by_surprise"):
            for found in record.get(by, {}).get("bins", []):
                rows["bins"].append({**head, "by": record[by]["of"], **_numbers(found)})
        for step in ("as predicted", "temperature", "conformal"):
            if step in (found := record.get("recalibration", {})):
                fitted = {"temperature": found["fitted"]["temperature"], "chi2_p": found[step]["levels"]["chi2_p"]}
                rows["recalibration"].append({**head, "step": step, **_numbers(found[step]), **fitted})
    return {name: found for name, found in rows.items() if found}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> list[Path]:
    """``rows`` as ``<path>.csv`` and ``<path>.parquet``, atomically; a row lacks what others have: null."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    content = pa.table({name: [row.get(name) for row in rows] for name in names})
    return list(write_tables(content, path))
