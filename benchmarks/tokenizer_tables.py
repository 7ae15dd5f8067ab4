"""Tables and rate-error curves of finished tokenizer experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from loss_tables import spread
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tokenizer_variants import PROBLEMS, STEPS

from astromodal.files.io import write_text
from astromodal.files.text_table import markdown

NOTE = """\
On held-out objects. bits: per object, of codes of fixed length; entropy: with an ideal entropy coder. tokens: per
object, what a transformer reads. error: share of the variance (images: inside of the ellipse). Spectra: chi2 per pixel
(ivar-weighted; few bright objects dominate it) and the median of |error| / noise: 0.67 is pure noise, less codes noise.
Images: the same without quantisation (floor), and the RMS error in units of the sky noise. Seconds of CPU, one
thread: training of the network, all other fitting; milliseconds to encode an object. In bold: no other variant has a
lower error at no more bits (images: by entropy; codes of few spectra are too few to know it). Means over seeds, ±
standard deviation.
"""
COLUMNS = {
    "tokens": ".0f",
    "bits": ".0f",
    "entropy_bits": ".0f",
    "used": ".0f",
    "codes": ".0f",
    "perplexity": ".0f",
    "error": ".3f",
    "chi2": ".2f",
    "floor": ".3f",
    "over_noise": ".2f",
    "train_s": ".0f",
    "fit_s": ".1f",
    "encode_ms": ".2f",
}
TITLES = {
    "entropy_bits": "entropy",
    "used": "codes used",
    "codes": "of",
    "error": "error / variance",
    "over_noise": "error / noise",
    "train_s": "train s",
    "fit_s": "fit s",
    "encode_ms": "encode ms",
}
WITH_SPREAD = ("error", "chi2", "floor", "over_noise")
COLOURS = {"patches": "#444444", "mae": "#c44e52", "ae": "#4c72b0", "vae": "#55a868", "ternary": "#8172b2"}
MARKERS = {"km": "o", "rk": "s", "fsq": "^", "trits": "D"}


class Row(NamedTuple):
    """A variant of a problem with the figures of its seeds."""

    problem: str
    variant: str
    steps: int | None
    seeds: int
    figures: dict[str, np.ndarray]

    def mean(self, name: str) -> float:
        return float(np.mean(self.figures[name]))

    @property
    def rate(self) -> float:
        """Bits per object that curves are drawn over: by entropy where there are codes enough to know it (images)."""
        return self.mean("entropy_bits" if PROBLEMS[self.problem].modality == "image" else "bits")

    @property
    def codec(self) -> str:
        """``ae`` of ``ae2 km1024``."""
        return self.variant.split()[0].rstrip("0123456789")

    @property
    def marker(self) -> str:
        """By the kind of the quantizer."""
        return MARKERS[
            self.variant.split()[1].rstrip("0123456789x") if "k" in self.variant.split()[1] else self.variant.split()[1]
        ]


def collect(records: Sequence[dict[str, Any]]) -> list[Row]:
    """Seeds of a variant together, sorted by bits."""
    groups: dict[tuple[str, str, int | None], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["problem"], record["variant"], record["steps"]), []).append(record["figures"])
    rows = [
        Row(*key, len(found), {name: np.array([f[name] for f in found], dtype=float) for name in found[0]})
        for key, found in groups.items()
    ]
    order = list(PROBLEMS)
    return sorted(rows, key=lambda r: (order.index(r.problem), r.steps or 0, r.mean("bits"), r.mean("error")))


def frontier(rows: Sequence[Row]) -> set[str]:
    """Variants that no other one beats in error at no more bits.

    >>> def row(name, bits, error):
    ...     return Row("splus_xp", name, None, 1, {"bits": np.array([bits]), "error": np.array([error])})
    >>> sorted(frontier([row("a", 1, 0.5), row("b", 2, 0.6), row("c", 2, 0.4)]))
    ['a', 'c']
    """
    found, best = set(), np.inf
    for row in sorted(rows, key=lambda r: (r.rate, r.mean("error"))):
        if row.mean("error") < best:
            best = row.mean("error")
            found.add(row.variant)
    return found


def table(rows: Sequence[Row]) -> str:
    """Every figure of every variant of one problem."""
    names = [name for name in COLUMNS if name in rows[0].figures and np.isfinite(rows[0].figures[name]).any()]
    best, lines = frontier(rows), []
    for row in rows:
        cells = [
            spread(row.figures[n] if n in WITH_SPREAD else row.figures[n].mean(keepdims=True), COLUMNS[n])
            for n in names
        ]
        mark = "**" if row.variant in best else ""
        lines.append([f"{mark}{row.variant}{mark}", str(row.seeds), *cells])
    return markdown(["variant", "seeds", *(TITLES.get(name, name) for name in names)], lines)


def write_report(records: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """``tokenizers_table.md`` and ``tokenizers.png``: a section and a panel per problem."""
    rows, text = collect(records), [NOTE]
    shown: dict[str, list[Row]] = {}
    for problem in dict.fromkeys(row.problem for row in rows):
        own = [row for row in rows if row.problem == problem]
        n = int(own[0].mean("n"))
        for steps in dict.fromkeys(row.steps for row in own):
            part = [row for row in own if row.steps == steps]
            of = steps or STEPS[PROBLEMS[problem].modality]
            text += [f"## {problem}, {n} held-out objects, networks of {of} steps", "", table(part), ""]
        shown[problem] = [row for row in own if row.steps is None] or own
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "tokenizers_table.md", "\n".join(text))
    return [out / "tokenizers_table.md", draw(shown, out / "tokenizers.png")]


def draw(problems: dict[str, list[Row]], path: Path) -> Path:
    """Errors against bits, a panel per problem and kind of error; lines join the variants of a network."""
    panels = [(name, rows, kind) for name, rows in problems.items() for kind in ("error", "chi2") if known(rows, kind)]
    columns = min(3, max(len(panels), 1))
    lines = -(-max(len(panels), 1) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, *panel)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=100)
    return path


def known(rows: Sequence[Row], figure: str) -> bool:
    """Whether any of the variants has this figure."""
    return any(figure in r.figures and np.isfinite(r.figures[figure]).all() for r in rows)


def _draw(axis: Axes, name: str, rows: Sequence[Row], kind: str) -> None:
    if kind == "error":
        best = frontier(rows)
        edge = sorted((r.rate, r.mean(kind)) for r in rows if r.variant in best)
        axis.plot(*zip(*edge, strict=True), color="0.85", lw=6, zorder=0)
    networks = sorted({row.variant.split()[0] for row in rows}, key=lambda n: (n.rstrip("0123456789"), len(n), n))
    for network in networks:
        own = [row for row in rows if row.variant.split()[0] == network]
        colour = COLOURS[own[0].codec]
        same = [n for n in networks if n.rstrip("0123456789") == own[0].codec]
        style = ("-", "--", ":")[same.index(network) % 3]
        joined = sorted((r.rate, r.mean(kind)) for r in own if r.marker in "os")
        if joined:
            axis.plot(*zip(*joined, strict=True), style, color=colour, lw=1)
        for r in own:
            spread_of_seeds = r.figures[kind].std(ddof=1) if r.seeds > 1 else None
            axis.errorbar(
                r.rate,
                r.mean(kind),
                yerr=spread_of_seeds,
                fmt=r.marker,
                ms=5,
                color=colour,
                mfc=colour if style == "-" else "white",
            )
        axis.plot([], [], style, color=colour, label=network)
    for label, marker in (("k-means", "o"), ("residual", "s"), ("FSQ", "^"), ("trits", "D")):
        if any(r.marker == marker for r in rows):
            axis.plot([], [], marker, color="0.4", ms=4, label=label)
    values = [r.mean(kind) for r in rows]
    if kind == "chi2" and max(values) > 5 * min(values):
        axis.set_yscale("log")
    coding = "entropy" if PROBLEMS[name].modality == "image" else "fixed length"
    label = "error / variance" if kind == "error" else "chi2 per pixel"
    axis.set(title=name, xlabel=f"bits per object ({coding})", ylabel=label)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=6, frameon=False, ncols=2)
