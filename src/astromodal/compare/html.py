"""The report as one page: no scripts, nothing from the network, every text escaped, readable on a phone."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files.io import write_text
from ..files.text_table import cell
from ..provenance.manifest import utc_now
from .analysis import VERDICT, Analysis
from .cohorts import Cohort
from .figures import draw_curves, draw_differences, draw_gradient_shares, draw_importance, draw_pareto
from .figures_sweep import draw_parallel, draw_sample_k
from .runs_table import Ledger, differing_keys, run_row

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 1rem; font: 15px/1.5 system-ui, sans-serif; color: #222; }
body { background: #fff; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-top: 2px solid #ddd;
padding-top: 1rem; overflow-wrap: anywhere; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, li { overflow-wrap: anywhere; } .quiet { color: #666; font-size: .85rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; border: 1px solid #ddd; border-radius: 4px; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #eee; }
th { background: #f6f6f6; } th:first-child, td:first-child { text-align: left; } tr:last-child td { border-bottom: 0; }
tr.better td:nth-child(7) { color: #00684a; font-weight: 600; } tr.worse td:nth-child(7) { color: #a84300; }
figure { margin: .5rem 0 1.2rem; } figure .scroll { border: 0; } figcaption { font-size: .85rem; color: #444; }
svg { display: block; max-width: 100%; height: auto; font-family: system-ui, sans-serif; }
summary { cursor: pointer; padding: .4rem 0; font-weight: 600; } dt { font-weight: 600; overflow-wrap: anywhere; }
dd { margin: 0 0 .5rem 1rem; overflow-wrap: anywhere; }
@media (max-width: 600px) { body { padding: .6rem; font-size: 14px; } ul { padding-left: 1.2rem; }
th:first-child, td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 10.5rem; }
figure svg { max-width: none; width: 540px; } }
"""


def write_page(path: Path, ledger: Ledger, analyses: Sequence[Analysis], metric: str, sources: Sequence[str]) -> Path:
    """The page of a report, written atomically.

    Args:
        sources: where the runs were looked for.
    """
    write_text(path, page(ledger, analyses, metric, sources))
    return path


def page(ledger: Ledger, analyses: Sequence[Analysis], metric: str, sources: Sequence[str]) -> str:
    """The page as text."""
    ranked = [a for a in analyses if a.cohort.groups]
    parts = [
        f"<h1>Comparison of runs by {_text(metric)}</h1>",
        f'<p class="quiet">{len(ledger.runs)} runs and {len(ledger.skipped)} directories that cannot be used, '
        f"below {_text(', '.join(sources))}; {_text(utc_now()[:16])} UTC. Everything is in ledger.csv and "
        "ledger.parquet beside this page.</p>",
    ]
    if len(ranked) > 1:
        parts.append(
            f"<p><strong>The runs fall into {len(ranked)} groups that may not be compared with each other: "
            "they were judged on different data or tokens (fingerprints).</strong> Each is ranked "
            "alone.</p>"
        )
    if not ranked:
        parts.append(f"<p>No finished run has {_text(metric)}.</p>")
    parts += [_section(number, analysis) for number, analysis in enumerate(ranked, 1)]
    parts += [_unranked(analyses), _ledger(ledger, metric), _skipped(ledger)]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Runs by {_text(metric)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{CSS}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _section(number: int, analysis: Analysis) -> str:
    cohort, prefix = analysis.cohort, f"c{number}"
    classes = [str(row[analysis.header().index(VERDICT)]) for row in analysis.rows()]
    parts = [
        f"<h2>{_text(cohort.title)}</h2>",
        "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in analysis.notes) + "</ul>",
        _table(analysis.header(), analysis.rows(), classes),
    ]
    parts += [_figure(*entry) for entry in _figures(prefix, analysis)]
    parts.append(_configurations(cohort))
    return "\n".join(part for part in parts if part)


def _figures(prefix: str, a: Analysis) -> list[tuple[str, str | None, str]]:
    """Title, drawing and explanation of each figure."""
    cohort, entries = a.cohort, []
    if a.reference is not None:
        entries.append(
            (
                "Differences",
                draw_differences(f"{prefix}d", cohort, a.differences, a.reference),
                "Solid: over the seeds (Student's t). Dotted, square: over the held-out objects (paired bootstrap; "
                "mean over objects, which weighs positions otherwise than the metric). A difference counts if no "
                "interval contains 0.",
            )
        )
    entries += [
        (
            "Cross-entropy against reconstruction",
            draw_pareto(f"{prefix}p", cohort),
            "Each point is a configuration, the best by the metric in yellow. Lower left is better.",
        ),
        ("Swept keys", draw_parallel(f"{prefix}x", cohort), "Each line is a run; yellow is best."),
        ("Importance", draw_importance(f"{prefix}i", a.importance), a.importance.says if a.importance else ""),
        ("sample_k", draw_sample_k(f"{prefix}k", cohort), "Accuracy and cost against the number of sampled positions."),
        ("Gradient shares", draw_gradient_shares(f"{prefix}g", cohort), "What the gradient ledger measured."),
        (
            "Curves",
            draw_curves(f"{prefix}c", cohort),
            "Training losses are left out, because they contain the weights that were swept.",
        ),
    ]
    return entries


def _figure(title: str, drawing: str | None, explanation: str) -> str:
    if drawing is None:
        return ""
    return (
        f'<h3>{_text(title)}</h3><figure><div class="scroll">{drawing}</div>'
        f"<figcaption>{_text(explanation)}</figcaption></figure>"
    )


def _configurations(cohort: Cohort) -> str:
    """What the short names stand for."""
    if not cohort.axes:
        return ""
    items = ""
    for group in cohort.groups:
        seeds = ", ".join(str(seed) for seed in group.runs)
        items += f"<dt>{_text(group.name)}</dt><dd>{_text(group.label)}; seeds {_text(seeds)}</dd>"
    return f"<details><summary>What the configurations are</summary><dl>{items}</dl></details>"


def _unranked(analyses: Sequence[Analysis]) -> str:
    rows = [(run.label, a.cohort.title, why) for a in analyses for run, why in a.cohort.left_out]
    if not rows:
        return ""
    return (
        f"<details><summary>Runs that are not ranked ({len(rows)})</summary>"
        + _table(("run", "of", "because"), rows)
        + "</details>"
    )


def _ledger(ledger: Ledger, metric: str) -> str:
    """A few columns of the ledger; the files have all."""
    keys = differing_keys(ledger.runs)[:12]
    rows = []
    for run in ledger.runs:
        row = run_row(run, keys)
        rows.append(
            (
                run.label,
                run.stage,
                run.status,
                run.seed,
                run.metric(metric),
                run.final.get(metric),
                *(row[key] for key in ("best_step", "steps", "seconds", "ms_per_step")),
                str(row["git_revision"])[:10],
                row["git_dirty"],
                *(row[f"config.{key}"] for key in keys),
            )
        )
    header = (
        "run",
        "stage",
        "status",
        "seed",
        f"best {metric}",
        f"final {metric}",
        "best step",
        "steps",
        "seconds",
        "ms/step",
        "revision",
        "dirty",
        *keys,
    )
    return f"<h2>Ledger</h2>{_table(header, rows)}" if rows else ""


def _skipped(ledger: Ledger) -> str:
    if not ledger.skipped:
        return ""
    rows = [(str(s.path), s.status, s.reason) for s in ledger.skipped]
    return "<h2>Directories that cannot be used</h2>" + _table(("folder", "status", "reason"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], classes: Sequence[str] | None = None) -> str:
    """A table that scrolls by itself; ``classes``: of the rows."""
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = []
    for i, row in enumerate(rows):
        mark = f' class="{_text(classes[i])}"' if classes else ""
        body.append(f"<tr{mark}>" + "".join(f"<td>{_text(cell(value))}</td>" for value in row) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _text(value: Any) -> str:
    """Escaped for text and for attributes in double quotes."""
    return html.escape(str(value), quote=True)
