"""A matplotlib figure as SVG that stands inside a page: no file header, no addresses, no markup from names."""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Sequence
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


def svg(figures: Sequence[Figure], name: str, title: str) -> str:
    """``figures`` as ``<svg>`` elements without a size of their own: the page gives them their width.

    Args:
        name: unique in the page; identifiers inside of the drawings begin with it.
        title: what the drawings show, for those who cannot see them.
    """
    drawn = [_one(figure, f"{name}{i or ''}", title) for i, figure in enumerate(figures)]
    return "\n".join(drawn)


def _one(figure: Figure, name: str, title: str) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", head)
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r'(xlink:href="|url\()#', rf"\g<1>#{name}-", rest)
    return f'{head} role="img" aria-label="{html.escape(title, quote=True)}">{rest}'.strip()


def clean(text: Any, length: int = 40) -> str:
    """A name for a drawing: one line, no characters that XML does not have, not too long."""
    line = " ".join(re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd]", " ", str(text)).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def panel(width: float = 4.4, height: float = 3.2) -> tuple[Figure, Axes]:
    """A figure with one panel; pages put several beside or below each other, as their width allows."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def legend_above(figure: Figure, axis: Axes, **options: Any) -> None:
    """The legend over the panel, where it covers nothing."""
    handles, labels = axis.get_legend_handles_labels()
    options = {"fontsize": 7, "frameon": False, "ncols": min(len(labels), 3)} | options
    figure.legend(handles, labels, loc="outside upper left", **options)
