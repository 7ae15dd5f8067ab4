"""What makes the page live: plotly.js from the Python package ``plotly`` where that is installed, and data as JSON.

Everything stands within the page. Its policy lets the browser execute the two scripts whose hashes it names and
nothing else, connect nowhere, and load pictures only from beside the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...plots.panels import never_fatal
from ...plots.svg import clean
from ..analysis import Analysis
from ..cohorts import Axis, Cohort
from ..importance import swept_values
from ..runs_table import as_text
from .links import address, plots_of
from .live import live_curves, live_differences, live_gradient_shares, live_importance, live_pareto
from .live_sweep import live_parallel, live_sample_k
from .script import SCRIPT

MAX_CHOICES = 12  # values of a swept key that are offered one by one
REPAIR = "pip install plotly"


def plotly_script() -> str | None:
    """plotly.js as the installed package ``plotly`` has it (MIT licence, which it names); None: not installed."""
    found = find_spec("plotly")
    for place in (found and found.submodule_search_locations) or ():
        path = Path(place) / "package_data" / "plotly.min.js"
        if path.is_file():
            text = path.read_text("utf-8")
            return None if "</script" in text.lower() else text
    return None


def policy(scripts: Sequence[str]) -> str:
    """The page's Content-Security-Policy: scripts by their hash."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' file: data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def live_parts(analyses: Sequence[Analysis], folder: Path, plotly: str) -> str:
    """The end of the page's body: data, plotly.js, the page's script."""
    values = [_cohort(number, analysis, folder) for number, analysis in enumerate(analyses, 1)]
    text = json.dumps(_plain(values), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":  # nothing in it can end the block
        text = text.replace(character, f"\\u{ord(character):04x}")
    return (
        f'<script type="application/json" id="runs">{text}</script>\n'
        f"<script>{plotly}</script>\n<script>{SCRIPT}</script>"
    )


def _cohort(number: int, analysis: Analysis, folder: Path) -> dict[str, Any]:
    cohort = analysis.cohort
    axes = [(axis, _axis(cohort, axis)) for axis in cohort.axes]
    rank = {id(run): g for g, group in enumerate(cohort.groups) for run in group.runs.values()}
    return {
        "metric": clean(cohort.metric),
        "axes": [about for _, about in axes],
        "groups": [
            {
                "name": clean(group.name, 200),
                "label": clean(group.label, 2000),
                "values": [_value(axis.value(group.first), about) for axis, about in axes],
            }
            for group in cohort.groups
        ],
        "runs": [
            {
                "name": clean(run.label, 200),
                "group": rank[id(run)],
                "seed": clean(run.seed),
                "value": f"{cohort.groups[rank[id(run)]].values[run.seed]:.5g}",
                "folder": address(run.path, folder),
                "plots": plots_of(run, folder),
            }
            for run in cohort.runs
        ],
        "figures": {f"c{number}{key}": panels for key, panels in _figures(analysis).items() if panels},
    }


def _figures(a: Analysis) -> dict[str, list[dict[str, Any]] | None]:
    """Panels by the letter of their figure; what cannot be drawn is a warning and keeps its drawing without scripts."""
    cohort, reference = a.cohort, a.reference
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "p": lambda: live_pareto(cohort),
        "x": lambda: live_parallel(cohort),
        "i": lambda: live_importance(a.importance),
        "k": lambda: live_sample_k(cohort),
        "g": lambda: live_gradient_shares(cohort),
        "c": lambda: live_curves(cohort),
    }
    if reference is not None:
        makers["d"] = lambda: live_differences(cohort, a.differences, reference)
    return {key: never_fatal(maker)() for key, maker in makers.items()}


def _axis(cohort: Cohort, axis: Axis) -> dict[str, Any]:
    """How a swept key is filtered: by choosing values, by a range of numbers, or by words."""
    values = swept_values(cohort.runs, axis)
    about: dict[str, Any] = {"label": clean(axis.label, 80)}
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(values) <= MAX_CHOICES:
        texts = [as_text(value) for value in values]
        return about | {"kind": "choice", "texts": texts, "values": [clean(text.strip('"'), 40) for text in texts]}
    if len(numbers) >= len(values) - 1 and all(v is None or v in numbers for v in values):
        return about | {"kind": "range", "low": f"{min(numbers):.4g}", "high": f"{max(numbers):.4g}"}
    return about | {"kind": "words"}


def _value(value: Any, about: dict[str, Any]) -> Any:
    """A configuration's value of a swept key, as the filter of this kind wants it."""
    if about["kind"] == "choice":
        return about["texts"].index(as_text(value))
    return value if about["kind"] == "range" else clean(as_text(value), 200)


def _plain(value: Any) -> Any:
    """Values as JSON has them: numpy's as Python's, and null for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
