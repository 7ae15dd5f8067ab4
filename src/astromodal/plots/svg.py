"""A matplotlib figure as SVG that stands inside a page: no file header, no addresses, no markup from names."""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .panels import never_fatal

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a name with two dollar signs is a name
}
P = ParamSpec("P")
R = TypeVar("R")
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def drawing(function: Callable[P, R]) -> Callable[P, R | None]:
    """Decorator of a function that draws: everything in it has this module's style, and settings stay as they were.

    What cannot be drawn is a warning and ``None``, as of :func:`~astromodal.plots.panels.never_fatal`.
    """

    @never_fatal
    @functools.wraps(function)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with rc_context(STYLE):
            return function(*args, **kwargs)

    return styled


def svg(figure: Figure, name: str, title: str) -> str:
    """``figure`` as an ``<svg>`` element.

    Args:
        name: unique in the page; identifiers inside of the drawing begin with it.
        title: what the drawing shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", head)
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r'(xlink:href="|url\()#', rf"\g<1>#{name}-", rest)
    size = f'width="{figure.get_figwidth() * 96:.0f}"'
    return f'{head} {size} role="img" aria-label="{html.escape(title, quote=True)}">{rest}'.strip()


def clean(text: Any, length: int = 40) -> str:
    """A name for a drawing: one line, no characters that XML does not have, not too long."""
    line = " ".join(re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd]", " ", str(text)).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def panels(n: int, width: float = 3.6, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure with ``n`` panels, at most two beside each other."""
    columns = min(n, 2)
    rows = -(-n // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes[n:]:
        axis.set_visible(False)
    return figure, axes[:n]
