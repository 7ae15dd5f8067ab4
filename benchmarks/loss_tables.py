"""Tables and a plot of finished loss experiments: means and spreads over seeds, and paired gains by object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from paired import FILE, Comparison, compare

from astromodal.files.io import read_json, write_text
from astromodal.files.text_table import markdown
from astromodal.plots.curves import MODEL, OTHER, TRUE

COLUMNS = (
    ("score", "score"),
    ("error_image", "image"),
    ("error_scalar", "scalar"),
    ("error_spectrum", "spectrum"),
    ("crps_scalar", "CRPS"),
    ("ce", "CE"),
    ("accuracy_image", "top-1 image"),
    ("accuracy_scalar", "top-1 scalar"),
    ("accuracy_spectrum", "top-1 spectrum"),
)
REDSHIFT, MISSING = "specz_z", "–"
GAINS = ("score", "error_image", "error_scalar", "error_spectrum", "crps_scalar", "ce")
NOTE = """\
Errors are fractions of the variance (1 = the mean), score is their mean over the modalities, CRPS is in standard
deviations, CE in nats over the whole vocabulary, top-1 in % over the whole vocabulary, MAE of all magnitudes (mag) and
of the spectroscopic redshift; ± is the standard deviation over seeds.
In brackets: variants that are not trained to spread their probability over the whole vocabulary (no cross-entropy, or
within a block only), for which neither CE nor top-1 can be compared with the others.
"""


class Runs(NamedTuple):
    """The finished runs of one variant."""

    variant: str
    seeds: list[int]
    folders: list[Path]
    summaries: list[dict[str, Any]]
    calibrated: bool  # its cross-entropy is that of the whole vocabulary

    def figures(self, name: str) -> np.ndarray:
        """A metric of the model, or ``mae:<column>``, per seed; NaN where it was not measured."""
        if name.startswith("mae:"):
            column = name.removeprefix("mae:")
            return np.array([s["columns"].get(column, {}).get("mae", np.nan) for s in self.summaries])
        return np.array([s["model"].get(name, np.nan) for s in self.summaries])

    def magnitudes(self) -> np.ndarray:
        """Mean absolute error of all values in mag, per seed."""
        return np.array([mean_magnitude(s["columns"], "mae") for s in self.summaries])


def mean_magnitude(columns: Mapping[str, Mapping[str, Any]], key: str) -> float:
    """Mean of ``key`` over the values of all columns in mag; NaN without any."""
    found = [(column[key], column["n"]) for column in columns.values() if column["unit"] == "mag"]
    values, counts = zip(*found, strict=True) if found else ((np.nan,), (1,))
    return float(np.average(values, weights=counts))


def collect(folder: Path, variants: Sequence[str], seeds: Sequence[int]) -> list[Runs]:
    """The finished runs below ``folder``, variants in the given order; those without a run are left out."""
    found = []
    for variant in variants:
        runs = {seed: folder / "runs" / "train_lm" / variant / f"seed{seed}" for seed in seeds}
        runs = {seed: run for seed, run in runs.items() if (run / FILE).exists()}
        if runs:
            loss = read_json(next(iter(runs.values())) / "config.json")["loss"]
            summaries = [read_json(run / "summary.json") for run in runs.values()]
            calibrated = loss["use_ce"] and loss["ce"] == "full"
            found.append(Runs(variant, list(runs), list(runs.values()), summaries, calibrated))
    return found


def against(runs: Runs, baseline: Runs) -> dict[str, Comparison]:
    """Paired gains over the seeds that both have; nothing for the baseline itself."""
    common = [seed for seed in runs.seeds if seed in baseline.seeds]
    if runs.variant == baseline.variant or not common:
        return {}
    mine, theirs = ([r.folders[r.seeds.index(seed)] for seed in common] for r in (runs, baseline))
    return compare(mine, theirs)


def write_report(
    folders: Mapping[str, Path], variants: Sequence[str], out: Path, baseline: str, seeds: Sequence[int]
) -> list[Path]:
    """``loss.md`` and ``loss.png`` of all data sets that have finished runs."""
    found = {data: collect(folder, variants, seeds) for data, folder in folders.items()}
    found = {data: runs for data, runs in found.items() if runs}
    gains: dict[str, dict[str, dict[str, Comparison]]] = {}
    text = [NOTE]
    for data, runs in found.items():
        reference = next((r for r in runs if r.variant == baseline), None)
        gains[data] = {r.variant: against(r, reference) for r in runs} if reference else {}
        titles = (
            f"Gain over `{baseline}` in %, by object, its 95 % interval, seeds that gain:",
            "Mean absolute errors in physical units:",
        )
        text += [
            f"## {data}",
            "",
            table(runs),
            "",
            titles[0],
            "",
            gain_table(runs, gains[data]),
            "",
            titles[1],
            "",
            physical_table(runs),
            "",
        ]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "loss.md", "\n".join(text))
    return [out / "loss.md", draw(found, gains, baseline, out / "loss.png")]


# -------------------------------------------------------------------------------------------- tables


def spread(values: np.ndarray, form: str) -> str:
    """Mean ± deviation over seeds; the value alone for one seed; a dash without any.

    >>> spread(np.array([1.0, 3.0]), ".1f"), spread(np.array([2.0]), ".2g"), spread(np.array([]), ".1f")
    ('2.0 ± 1.4', '2', '–')
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return MISSING
    return f"{values.mean():{form}}" + (f" ± {values.std(ddof=1):{form}}" if len(values) > 1 else "")


def table(runs: Sequence[Runs]) -> str:
    """Every figure of every variant, the marginal predictor last."""
    rows = []
    for r in runs:
        cells = []
        for name, _ in COLUMNS:
            top = name.startswith("accuracy")
            text = spread(r.figures(name) * (100 if top else 1), ".1f" if top else ".3f")
            comparable = r.calibrated or not (top or name == "ce") or text == MISSING
            cells.append(text if comparable else f"({text})")
        cells += [spread(values, ".3f") for values in (r.magnitudes(), r.figures(f"mae:{REDSHIFT}"))]
        rows.append([f"`{r.variant}`", str(len(r.seeds)), *cells])
    first = runs[0].summaries[0]
    marginal, columns = first["baselines"]["marginal"], first["columns"]
    values = [marginal.get(name, np.nan) * (100 if name.startswith("accuracy") else 1) for name, _ in COLUMNS]
    texts = [spread(np.array([value]), ".3f") for value in values]
    physical = (mean_magnitude(columns, "mae_marginal"), columns.get(REDSHIFT, {}).get("mae_marginal", np.nan))
    rows.append(["marginal", "", *texts, *(spread(np.array([value]), ".3f") for value in physical)])
    return markdown(["variant", "seeds", *(title for _, title in COLUMNS), "MAE mag", "MAE z"], rows)


def gain_table(runs: Sequence[Runs], gains: Mapping[str, Mapping[str, Comparison]]) -> str:
    """Gains with their intervals, bold where they exclude 0, and in how many of the seeds the variant is better."""
    rows = []
    for r in runs:
        found = gains.get(r.variant)
        if not found:
            continue
        cells = []
        for name in GAINS:
            c = found.get(name)
            if c is None or (name == "ce" and not r.calibrated):
                cells.append(MISSING)
                continue
            mark = "**" if c.excludes_zero else ""
            cells.append(f"{mark}{c.gain:+.1f}{mark} [{c.low:+.1f}, {c.high:+.1f}] {c.n_better}/{c.n_seeds}")
        rows.append([f"`{r.variant}`", *cells])
    titles = dict(COLUMNS)
    return markdown(["variant", *(titles[name] for name in GAINS)], rows)


def physical_table(runs: Sequence[Runs]) -> str:
    """Mean absolute error of each scalar column in its unit: columns below, variants beside."""
    columns: dict[str, dict[str, Any]] = runs[0].summaries[0]["columns"]
    marginal = f"{mean_magnitude(columns, 'mae_marginal'):.3g}"
    rows = [["all in mag", "mag", "", marginal, *(spread(r.magnitudes(), ".3g") for r in runs)]]
    for name, first in columns.items():
        cells = [spread(r.figures(f"mae:{name}"), ".3g") for r in runs]
        rows.append([name, first["unit"] or "–", str(first["n"]), f"{first['mae_marginal']:.3g}", *cells])
    return markdown(["column", "unit", "objects", "marginal", *(f"`{r.variant}`" for r in runs)], rows)


# ---------------------------------------------------------------------------------------------- plot


def draw(
    found: Mapping[str, Sequence[Runs]],
    gains: Mapping[str, Mapping[str, Mapping[str, Comparison]]],
    baseline: str,
    path: Path,
) -> Path:
    """Per data set: score against cross-entropy, and the gains with their intervals."""
    n_rows = max((len(runs) for runs in found.values()), default=1)
    figure = Figure(figsize=(11, (0.28 * n_rows + 1.4) * max(len(found), 1)), layout="constrained")
    axes = figure.subplots(max(len(found), 1), 2, squeeze=False)
    for (data, runs), (left, right) in zip(found.items(), axes, strict=False):
        _draw_scores(left, runs, data, baseline)
        _draw_gains(right, runs, gains[data], data, baseline)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _draw_scores(axis: Axes, runs: Sequence[Runs], data: str, baseline: str) -> None:
    shown = [r for r in runs if r.calibrated]
    means = np.array([[r.figures("ce").mean(), r.figures("score").mean()] for r in shown])
    near = 0.02 * np.ptp(means[:, 1])
    for r in shown:
        ce, score = r.figures("ce"), r.figures("score")
        several = len(ce) > 1
        colour = OTHER if r.variant == baseline else MODEL
        axis.errorbar(
            ce.mean(),
            score.mean(),
            xerr=ce.std(ddof=1) if several else None,
            yerr=score.std(ddof=1) if several else None,
            fmt="o",
            ms=4,
            lw=1,
            color=colour,
        )
        # names stand on the right, or on the left where the next point is there
        left = ((abs(means[:, 1] - score.mean()) <= near) & (means[:, 0] > ce.mean())).any()
        axis.annotate(
            r.variant,
            (ce.mean(), score.mean()),
            xytext=(-4 if left else 4, 3),
            fontsize=7,
            textcoords="offset points",
            ha="right" if left else "left",
        )
    axis.margins(x=0.25, y=0.1)
    axis.set(title=f"{data}: lower left is better", xlabel="cross-entropy [nats]", ylabel="mean error / variance")
    axis.grid(alpha=0.25)


def _draw_gains(
    axis: Axes, runs: Sequence[Runs], gains: Mapping[str, Mapping[str, Comparison]], data: str, baseline: str
) -> None:
    names = [r.variant for r in runs if gains.get(r.variant)][::-1]
    calibrated = {r.variant: r.calibrated for r in runs}
    for offset, metric, colour in ((0.15, "score", MODEL), (-0.15, "ce", TRUE)):
        rows = [
            (i + offset, gains[name][metric])
            for i, name in enumerate(names)
            if metric in gains[name] and (metric != "ce" or calibrated[name])
        ]
        if rows:
            y, found = zip(*rows, strict=True)
            gain = np.array([c.gain for c in found])
            ends = np.array([[c.gain - c.low for c in found], [c.high - c.gain for c in found]])
            axis.errorbar(gain, y, xerr=ends, fmt="o", ms=4, lw=1.2, color=colour, label=metric)
            axis.legend(fontsize=7, frameon=False)
    axis.axvline(0, color=OTHER, ls="--", lw=1)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set(xlabel=f"gain over {baseline} [%], 95 % by object", title=f"{data}: right is better")
    axis.grid(alpha=0.25, axis="x")
