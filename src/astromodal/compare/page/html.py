"""The report as one page: nothing from the network, every text escaped, readable on a phone.

Its plots are drawings within the page; where the package ``plotly`` is installed, scripts within the page put live ones
in their place (:mod:`.live_page`).
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...files.io import write_text
from ...files.text_table import cell
from ...provenance.manifest import utc_now
from ..analysis import VERDICT, Analysis
from ..cohorts import Cohort
from ..runs_table import RunsTable, differing_keys, run_row
from .figures import draw_curves, draw_differences, draw_gradient_shares, draw_importance, draw_pareto
from .figures_sweep import draw_parallel, draw_sample_k
from .links import address
from .live_page import live_parts, plotly_script, policy
from .script import SCRIPT
from .style import CSS

DIFFERENCES = (
    "Circle: over the seeds (Student's t). Square: over the held-out objects (paired bootstrap, mean over objects, "
    "which weighs positions otherwise than the metric). A difference counts if no interval contains 0."
)
PARETO = "Each point is a configuration, the best by the metric in yellow. Lower left is better."
SAMPLED = "Accuracy and cost against the number of sampled positions."
CURVES = "Training losses are left out, because they contain the weights that were swept."
NARROW = "dig"  # figures that stand beside each other where the window is wide enough


def write_page(
    path: Path, runs_table: RunsTable, analyses: Sequence[Analysis], metric: str, sources: Sequence[str]
) -> Path:
    """The page of a report, written atomically.

    Args:
        sources: where the runs were looked for.
    """
    write_text(path, page(runs_table, analyses, metric, sources, path.parent))
    return path


def page(
    runs_table: RunsTable, analyses: Sequence[Analysis], metric: str, sources: Sequence[str], folder: Path = Path()
) -> str:
    """The page as text, for a file in ``folder``, from where its links to runs lead."""
    ranked = [a for a in analyses if a.cohort.groups]
    parts = [
        f"<h1>Comparison of runs by {_text(metric)}</h1>",
        f'<p class="quiet">{len(runs_table.runs)} runs and {len(runs_table.skipped)} directories that cannot be used, '
        f"below {_text(', '.join(sources))}; {_text(utc_now()[:16])} UTC. Everything is in runs.csv and "
        "runs.parquet beside this page.</p>",
    ]
    if len(ranked) > 1:
        parts.append(
            f"<p><strong>The runs fall into {len(ranked)} groups that may not be compared with each other: "
            "they were judged on different data or tokens (fingerprints).</strong> Each is ranked "
            "alone.</p>"
        )
    if not ranked:
        parts.append(f"<p>No finished run has {_text(metric)}.</p>")
    parts += [_section(number, analysis, folder) for number, analysis in enumerate(ranked, 1)]
    parts += [_unranked(analyses), _runs(runs_table, metric), _skipped(runs_table)]
    plotly = plotly_script() if ranked else None
    scripts = [plotly, SCRIPT] if plotly else []
    parts.append(live_parts(ranked, folder, plotly) if plotly else "")
    body = "\n".join(part for part in parts if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Runs by {_text(metric)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_text(policy(scripts))}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{CSS}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _section(number: int, analysis: Analysis, folder: Path) -> str:
    cohort, prefix = analysis.cohort, f"c{number}"
    classes = [str(row[analysis.header().index(VERDICT)]) for row in analysis.rows()]
    parts = [
        f"<h2>{_text(cohort.title)}</h2>",
        "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in analysis.notes) + "</ul>",
        '<div class="filter"></div>',
        _table(analysis.header(), analysis.rows(), classes),
        '<div class="figures">',
        *(_figure(*entry) for entry in _figures(prefix, analysis)),
        "</div>",
        _configurations(cohort, folder),
    ]
    body = "\n".join(part for part in parts if part)
    return f'<section data-cohort="{number - 1}">\n{body}\n</section>'


def _figures(prefix: str, a: Analysis) -> Iterator[tuple[str, str, str | None, str]]:
    """Identifier, title, drawing and explanation of each figure."""
    cohort, found = a.cohort, a.importance
    if a.reference is not None:
        drawing = draw_differences(f"{prefix}d-s", cohort, a.differences, a.reference)
        yield f"{prefix}d", "Differences", drawing, DIFFERENCES
    yield f"{prefix}i", "Importance", draw_importance(f"{prefix}i-s", found), found.says if found else ""
    drawing = draw_pareto(f"{prefix}p-s", cohort)
    yield f"{prefix}p", "Cross-entropy against reconstruction", drawing, PARETO
    yield f"{prefix}x", "Swept keys", draw_parallel(f"{prefix}x-s", cohort), "Each line is a run; yellow is best."
    yield f"{prefix}k", "sample_k", draw_sample_k(f"{prefix}k-s", cohort), SAMPLED
    drawing = draw_gradient_shares(f"{prefix}g-s", cohort)
    yield f"{prefix}g", "Gradient shares", drawing, "What the gradient ledger measured."
    yield f"{prefix}c", "Curves", draw_curves(f"{prefix}c-s", cohort), CURVES


def _figure(name: str, title: str, drawing: str | None, explanation: str) -> str:
    if drawing is None:
        return ""
    wide = "" if name[-1] in NARROW else ' class="wide"'
    return (
        f'<div{wide}><h3>{_text(title)}</h3><figure id="{name}"><div class="still">{drawing}</div>'
        f"<figcaption>{_text(explanation)}</figcaption></figure></div>"
    )


def _configurations(cohort: Cohort, folder: Path) -> str:
    """What the short names stand for, and where the runs are."""
    items = ""
    for group in cohort.groups:
        runs = ", ".join(
            f'<a href="{_text(address(run.path, folder))}">seed {_text(seed)}</a>' for seed, run in group.runs.items()
        )
        items += f"<dt>{_text(group.name)}</dt><dd>{_text(group.label)}: {runs}</dd>"
    return f"<details><summary>What the configurations are, and their runs</summary><dl>{items}</dl></details>"


def _unranked(analyses: Sequence[Analysis]) -> str:
    rows = [(run.label, a.cohort.title, why) for a in analyses for run, why in a.cohort.left_out]
    if not rows:
        return ""
    return (
        f"<details><summary>Runs that are not ranked ({len(rows)})</summary>"
        + _table(("run", "of", "because"), rows)
        + "</details>"
    )


def _runs(runs_table: RunsTable, metric: str) -> str:
    """A few columns of the runs table; the files have all."""
    keys = differing_keys(runs_table.runs)[:12]
    rows = []
    for run in runs_table.runs:
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
    return f"<h2>Runs</h2>{_table(header, rows)}" if rows else ""


def _skipped(runs_table: RunsTable) -> str:
    if not runs_table.skipped:
        return ""
    rows = [(str(s.path), s.status, s.reason) for s in runs_table.skipped]
    return "<h2>Directories that cannot be used</h2>" + _table(("folder", "status", "reason"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], classes: Sequence[str] | None = None) -> str:
    """A table that scrolls by itself; ``classes``: of the rows, which then are configurations by rank."""
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = []
    for i, row in enumerate(rows):
        mark = f' class="{_text(classes[i])}" data-group="{i}"' if classes else ""
        body.append(f"<tr{mark}>" + "".join(f"<td>{_text(cell(value))}</td>" for value in row) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _text(value: Any) -> str:
    """Escaped for text and for attributes in double quotes."""
    return html.escape(str(value), quote=True)
