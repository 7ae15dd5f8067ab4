"""What a stage says at its end, as plain text, and the same figures flat for trackers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..data.findings import finding_rows, lost_rows
from ..files.text_table import table
from ..vocabulary.modalities import MODALITIES


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with ``/`` between names.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a/b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, name + "/")
        elif isinstance(value, str | int | float | bool) or value is None:
            flat[name] = value
    return flat


# ----------------------------------------------------------------------------------------- tokenizers


def tokenizer_summary(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of all tokenizers for a tracker."""
    return {k: v for name, report in reports.items() for k, v in flatten(_without_arrays(report), f"{name}/").items()}


def tokenizer_error(reports: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Squared error over variance on held-out objects, mean over the tokenizers; None where none was measured.

    >>> tokenizer_error({"image": {"variance_fraction": 0.5}, "scalar": {"columns": {"r": {"rmse_over_std": 0.1}}}})
    0.255
    """
    found = {
        "scalar": [c["rmse_over_std"] ** 2 for c in reports.get("scalar", {}).get("columns", {}).values()],
        "spectrum": [g["fraction_of_variance"] for g in reports.get("spectrum", {}).get("groups", {}).values()],
        "image": [reports["image"]["variance_fraction"]] if "image" in reports else [],
        **{name: [reports[name]["fraction_of_variance"]] for name in MODALITIES.outside() if name in reports},
    }
    known = {name: [v for v in values if v is not None and math.isfinite(v)] for name, values in found.items()}
    means = [sum(values) / len(values) for values in known.values() if values]
    return sum(means) / len(means) if means else None


def _without_arrays(report: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in report.items() if k != "arrays"}


def tokenizer_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Rate and error of each tokenizer on held-out objects."""
    parts = []
    if "scalar" in reports:
        rows = [
            (name, e["n"], e["codes_used"], e["perplexity"], e["mae"], e["unit"], e["mae_over_measurement_error"])
            for name, e in reports["scalar"]["columns"].items()
            if e["n"]
        ]
        header = ("scalar", "n", "bins used", "perplexity", "MAE", "unit", "MAE / error")
        parts.append(table(header, rows))
        unseen = [name for name, e in reports["scalar"]["columns"].items() if not e["n"]]
        parts += [f"not observed there: {', '.join(unseen)}"] if unseen else []
    if "spectrum" in reports:
        keys = ("n_spectra", "n_tokens", "codes_used", "perplexity", "fraction_of_variance", "median_error_over_noise")
        rows = [(name, *(e[k] for k in keys)) for name, e in reports["spectrum"]["groups"].items()]
        header = ("spectrum", "n", "tokens", "codes used", "perplexity", "error / variance", "median |error| / noise")
        parts.append(table(header, rows))
        skipped = reports["spectrum"].get("skipped") or {}
        parts += [f"{name}: skipped, {why}" for name, why in skipped.items()]
        parts += _kept_by_codes(reports["spectrum"].get("kept") or {})
    if "image" in reports:
        e = reports["image"]
        keys = ("n_tokens", "codes_used", "perplexity", "variance_fraction_inside", "rmse_inside_sigma", "latent_mse")
        header = ("image", "tokens", "codes used", "perplexity", "error / variance", "rmse / sky sigma", "latent MSE")
        parts.append(table(header, [("cutouts", *(e[k] for k in keys))]))
    for name in MODALITIES.outside():
        if name in reports:
            own = ("n_tokens", "codes_used", "perplexity", "fraction_of_variance")
            titles = (name, "tokens", "codes used", "perplexity", "error / variance")
            parts.append(table(titles, [("objects", *(reports[name][k] for k in own))]))
    bits = {name: report["bits_per_object"] for name, report in reports.items()}
    parts.append("bits per object: " + ", ".join(f"{name} {value:.0f}" for name, value in bits.items()))
    found = {source: counts for report in reports.values() for source, counts in report["found"].items()}
    return "held-out objects:\n" + "\n\n".join(parts) + findings_table(found)


def _kept_by_codes(kept: Mapping[str, Any]) -> list[str]:
    """What is left of held-out spectra, of all groups together: pixels, lines and redshifts."""
    if not kept:
        return []
    true = "error_over_noise" in kept["by_snr"][-1]
    keys = ("n", "chi2_pooled", "chi2_median", *(["error_over_noise"] if true else []))
    header = ("signal-to-noise", "spectra", "chi2", "median", "error / noise")[: 1 + len(keys)]
    parts = [table(header, [(_between(row), *(row[key] for key in keys)) for row in kept["by_snr"]])]
    if kept.get("lines"):
        of = "true flux kept" if true else "observed flux kept"
        keys = ("n", "kept", "scatter", "flux_bias", "flux_scatter", "place_bias", "place_scatter")
        header = ("n", of, "scatter", "flux off / noise", "scatter", "place off / noise", "scatter")
        lines = [(_between(row), *(row[key] for key in keys)) for row in kept["lines"]]
        parts.append(table(("lines of signal-to-noise", *header), lines))
    if "redshifts" in kept:
        z = kept["redshifts"]
        parts.append(
            f"redshifts by cross-correlation, of {z['n']}: {z['n_from_data']} right from the data, "
            f"{z['n_from_decoded']} from what is decoded"
        )
    for name, z in kept.get("agree", {}).items():
        parts.append(
            f"sure {name} redshifts in the data, {z['n']}: {z['n_agree']} the same in what is decoded, off by "
            f"{z['bias']:.0f} km/s, scatter {z['scatter']:.0f}"
        )
    if "colour" in kept:
        c = kept["colour"]
        parts.append(
            f"colour of the continuum, {c['n']} spectra: off by {c['bias']:.4f} mag, scatter {c['scatter']:.4f}"
        )
    return parts


def _between(row: Mapping[str, Any]) -> str:
    if row["to"] == float("inf"):
        return f"above {row['from']:g}"
    return f"{row['from']:g} to {row['to']:g}"


def encoding_table(summary: Mapping[str, Any]) -> str:
    """Objects and what they have, per field; then what was found and lost, by source."""
    parts = sorted({p for f in summary["fields"].values() for p in f["present"]})
    rows = [
        (field, f["rows"], *(f["present"].get(p, 0) for p in parts), sum(map(lost_rows, f["found"]["counts"].values())))
        for field, f in summary["fields"].items()
    ]
    if len(rows) > 20:
        rows = [*rows[:20], (f"… {len(rows) - 20} more", *[""] * (len(parts) + 2))]
    return table(("field", "objects", *parts, "lost"), rows) + findings_table(summary["found"])


def findings_table(found: Mapping[str, Mapping[str, int]]) -> str:
    """Every reason with its count, per column, group and band, as a paragraph of its own; empty if there is none."""
    rows = finding_rows(found)
    return "\n\n" + table(("what was found", "number, share of what was given"), rows, n_left=2) if rows else ""


# ---------------------------------------------------------------------------------------------- model


def model_table(summary: Mapping[str, Any], n_columns: int = 12) -> str:
    """The model beside the two trivial predictors, on held-out sky."""
    model, baselines = summary["model"], summary.get("baselines", {})
    if not model:
        return "no validation objects: nothing to compare"
    rows = []
    for modality in MODALITIES:
        for metric, name in (("ce", "cross-entropy [nats]"), ("accuracy", "top-1"), ("error", "error / variance")):
            key = f"{metric}_{modality}"
            if key in model:
                others = (baselines.get(b, {}).get(key) for b in ("marginal", "previous"))
                rows.append((f"{modality} {name}", model[key], *others))
    text = table(("held-out sky", "model", "marginal", "previous object"), rows)
    columns = sorted(
        summary.get("columns", {}).items(), key=lambda item: item[1]["mae"] / (item[1]["mae_marginal"] or 1)
    )
    shown = [(n, c["unit"], c["n"], c["mae"], c["mae_marginal"]) for n, c in columns[:n_columns]]
    if shown:
        text += "\n\n" + table(("best predicted columns", "unit", "n", "model MAE", "marginal MAE"), shown)
    score = model.get("score")
    verdict = "" if score is None else f"\n\nscore (mean error over variance; 1 = the mean): {score:.3f}"
    beaten = baselines.get("marginal", {}).get("score")
    return text + verdict + (f", marginal {beaten:.3f}" if beaten is not None and score is not None else "")
