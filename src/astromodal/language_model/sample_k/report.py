"""The ``sample_k`` study for people: tables, one sentence, and a plot.

A study is a mapping of plain values: ``rows`` per k and ``facts``
(:class:`~astromodal.language_model.sample_k.gradients.SampleKStudy`), ``costs`` per row and for ``all`` positions,
``theory`` (k and, per part, the predicted error).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...files.text_table import markdown, table
from ...plots.curves import MODEL, OTHER, TRUE
from ...plots.panels import GREEN, PINK, YELLOW, never_fatal, save
from ...vocabulary.modalities import MODALITIES

Study = Mapping[str, Any]
COLOURS = {"total": MODEL, "reconstruction": TRUE, "image": GREEN, "scalar": PINK, "spectrum": YELLOW}


def verdict(study: Study, cosine: float) -> str:
    """Which k is enough, in one sentence."""
    rows = study["rows"]
    enough = next((row for row in rows if row["total"]["cosine"] > cosine), None)
    if enough is None:
        best = max(rows, key=lambda row: row["total"]["cosine"])
        return (
            f"No k of these is enough: the total gradient's cosine never exceeds {cosine:g}; the best is "
            f"k = {best['k']} with {best['total']['cosine']:.4f}."
        )
    whole = "" if any(enough["sampled"].values()) else ", which is every position of these steps"
    mean, lowest = enough["total"]["cosine"], enough["total"]["cosine_lowest"]
    return (
        f"The smallest k whose total-gradient cosine exceeds {cosine:g} is {enough['k']}{whole}: "
        f"{mean:.4f} on average, {lowest:.4f} at worst."
    )


def _tables(study: Study) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
    """Title, header and rows of each table."""
    found = [m for m in MODALITIES if m in study["facts"]["positions"]]
    available = study["facts"]["positions"]
    drawn = [
        (row["k"], *(f"{row['drawn'][m]:.0f}" if row["sampled"][m] else "all" for m in found)) for row in study["rows"]
    ]
    drawn.append(("available", *(f"{available[m]:.0f}" for m in found)))
    accuracy = []
    for row in study["rows"]:
        total, own, bias = row["total"], row["reconstruction"], row["bias"]
        accuracy.append(
            (
                row["k"],
                total["cosine"],
                total["cosine_lowest"],
                total["error"],
                total["error_predicted"],
                own["cosine"],
                own["cosine_lowest"],
                own["error"],
                bias["measured"],
                bias["if_unbiased"],
                bias["t"],
            )
        )
    parts = [m for m in found if any(m in row for row in study["rows"])]
    by_modality = [
        (row["k"], *(v for m in parts for v in (row[m]["cosine"], row[m]["error"]))) for row in study["rows"]
    ]
    costs = [
        (k, *(study["costs"][str(k)][c] for c in ("loss_ms", "step_ms", "extra_mb")))
        for k in (*(row["k"] for row in study["rows"]), "all")
    ]
    return [
        ("positions drawn per step (all: k covers them, nothing is sampled)", ("k", *found), drawn),
        (
            "gradient of all parameters, against every position",
            ("k", "total cos", "lowest", "error", "predicted", "rec. cos", "lowest", "error", "bias", "if none", "t"),
            accuracy,
        ),
        ("one modality alone", ("k", *(f"{m} {c}" for m in parts for c in ("cos", "error"))), by_modality),
        (
            "forward and backward of the largest of these steps",
            ("k", "loss [ms]", "whole step [ms]", "memory of the loss [MB]"),
            costs,
        ),
    ]


def _notes(study: Study) -> list[str]:
    """What the numbers mean, and what is wrong with them."""
    facts = study["facts"]
    share = facts["norm"]["reconstruction"] / facts["norm"]["total"]
    notes = [
        f"Steps: {facts['steps']}; draws of each k: {facts['draws']}. total: cross-entropy at all its positions plus "
        f"the weighted terms; rec.: those terms alone, of norm {share:.3g} times the total's. error: RMS of |g_k - g| "
        "/ |g|; predicted: from sqrt((1/k)(1 - k/n)), one constant per modality and step; bias: |mean of a step's "
        "draws - g| / |g|; if none: what that is expected to be for so few draws without bias; t: of the test for bias "
        "(by chance rarely above 4)."
    ]
    if facts["batch_noise"] is not None:
        notes.append(
            f"For comparison, the exact total gradient of one step differs from the mean over these steps by "
            f"{facts['batch_noise']:.3g} of its norm: an error far below that is drowned by the choice of the "
            "batch."
        )
    biased = [str(row["k"]) for row in study["rows"] if row["bias"]["found"]]
    if biased:
        notes.append(f"BIASED at k = {', '.join(biased)}: the mean of the draws does not tend to the exact gradient.")
    return notes


def study_text(study: Study) -> str:
    """Everything, for a terminal."""
    blocks = [f"{title}:\n{table(header, rows)}" for title, header, rows in _tables(study)]
    return "\n\n".join([*blocks, *_notes(study), study["verdict"]])


def study_markdown(study: Study) -> str:
    """The same as Markdown, with what was studied."""
    lines = [f"# Which sample_k is enough: {study['run']}", "", f"{study['checkpoint']}, {study['device']}.", ""]
    for title, header, rows in _tables(study):
        lines += [f"**{title[0].upper()}{title[1:]}**", "", markdown(header, rows), ""]
    for note in (*_notes(study), study["verdict"]):
        lines += [note, ""]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------- plot


@never_fatal
def plot_study(study: Study, cosine: float, path: Path) -> Path | None:
    """Error with the prediction, cosine, and cost against k."""
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    error, cosines, cost = figure.subplots(1, 3)
    rows = study["rows"]
    ks = [row["k"] for row in rows]
    for axis in (error, cosines, cost):
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_xlim(ks[0] / 1.3, ks[-1] * 1.3)
        axis.set_xlabel("sample_k [positions per modality and step]")
    _plot_error(error, study, rows)
    for part in ("reconstruction", "total"):
        mean, low = ([row[part][c] for row in rows] for c in ("cosine", "cosine_lowest"))
        cosines.plot(ks, mean, "o-", ms=4, lw=1.2, color=COLOURS[part], label=part)
        cosines.fill_between(ks, low, mean, color=COLOURS[part], alpha=0.15, lw=0, label=f"{part}: down to the lowest")
    cosines.axhline(cosine, color=OTHER, ls="--", lw=1, label=f"{cosine:g}")
    cosines.set(ylabel="cosine with the exact gradient", title="direction", ylim=(None, 1.02))
    cosines.legend(fontsize=7, frameon=False, loc="lower right")
    _plot_cost(cost, study, ks)
    figure.suptitle(f"sample_k study: {study['run']}, {study['checkpoint']}", fontsize=10)
    return save(figure, path)


def _plot_error(axis: Axes, study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    """Points: measured; lines: predicted. What is exact has no place on a logarithmic axis."""
    theory = study["theory"]
    for part, colour in COLOURS.items():
        points = [(row["k"], row[part]["error"]) for row in rows if part in row and row[part]["error_predicted"] > 0]
        if not points:
            continue
        main = part in ("total", "reconstruction")
        axis.plot(*zip(*points, strict=True), "o" if main else ".", ms=5, color=colour, label=part)
        line = [(k, e) for k, e in zip(theory["k"], theory[part], strict=True) if e > 0]
        axis.plot(*zip(*line, strict=True), "-", lw=1.4 if main else 0.7, color=colour, alpha=1 if main else 0.7)
    if study["facts"]["batch_noise"] is not None:
        axis.axhline(study["facts"]["batch_noise"], color=OTHER, ls=":", lw=1.2, label="total: noise of the batch")
    axis.set_yscale("log")
    measured = [row[p]["error"] for row in rows for p in COLOURS if p in row and row[p]["error_predicted"] > 0]
    if measured:
        axis.set_ylim(min(measured) / 3, None)  # the lines fall to 0
    axis.set(ylabel="relative error |g_k - g| / |g| (RMS)", title=r"error; lines: $\propto\sqrt{(1/k)(1-k/n)}$")
    axis.legend(fontsize=7, framealpha=0.9, edgecolor="none", loc="upper right")


def _plot_cost(axis: Axes, study: Study, ks: Sequence[int]) -> None:
    costs = study["costs"]
    for key, label, colour in (("step_ms", "whole step", MODEL), ("loss_ms", "loss alone", TRUE)):
        axis.plot(ks, [costs[str(k)][key] for k in ks], "o-", ms=4, lw=1.2, color=colour, label=label)
        axis.axhline(costs["all"][key], color=colour, ls="--", lw=0.8, label=f"{label}, every position")
    axis.set(ylabel="forward and backward [ms]", title="cost", ylim=(0, None))
    memory = [costs[str(k)]["extra_mb"] for k in ks]
    if None not in memory:
        other = axis.twinx()
        other.plot(ks, memory, "s:", ms=4, lw=1.2, color=OTHER)
        other.set(ylim=(0, None))
        other.set_ylabel("memory of the loss [MB]", color=OTHER)
    axis.legend(fontsize=7, frameon=False)
