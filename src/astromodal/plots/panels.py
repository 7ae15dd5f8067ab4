"""What all figures have in common: colours, panels beside each other, curves over steps, the PNG file.

A plot is for looking at, never what a run is for: one that fails is a warning (:func:`never_fatal`). Nothing here
needs a display, or imports matplotlib before a figure is made.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..files.atomic import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("astromodal.plots")

# colour-blind safe (Okabe and Ito 2008), with a softer black
INK, BLUE, ORANGE, GREEN, PINK, YELLOW = "#333333", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"


def never_fatal(function: Callable[P, R]) -> Callable[P, R | None]:
    """Decorator of a function that draws: an error in it is a warning and the answer ``None``, nothing drawn."""

    @functools.wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            what = [a.name for a in (*args, *kwargs.values()) if isinstance(a, Path)]
            text = " ".join(str(error).split())[:200]
            _log.warning(
                "not drawn: %s (%s: %s)", *what[:1] or [function.__name__.strip("_")], type(error).__name__, text
            )
            return None

    return drawn


def padded(low: float, high: float, share: float) -> tuple[float, float]:
    """Ends of an axis with some room, whatever the unit; also where both ends are one value.

    >>> padded(0.0, 4.0, 0.5), padded(2.0, 2.0, 0.5), padded(0.0, 0.0, 0.5), padded(0.0, 1e-30, 0.5)[1] < 2e-30
    ((-2.0, 6.0), (1.0, 3.0), (-0.5, 0.5), True)
    """
    margin = share * (float(high - low) or abs(float(high)) or 1.0)
    return float(low) - margin, float(high) + margin


def panels_in_a_row(n: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of ``n`` panels; ``width`` of each, and ``height``, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(n * width, height), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def panel_grid(
    rows: int,
    columns: int,
    panel: tuple[float, float],
    *,
    left: float,
    top: float,
    right: float = 0.1,
    bottom: float = 0.1,
    gaps: tuple[float, float] = (0.05, 0.05),
) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels ``(rows, columns)`` with room around them; all lengths in inches.

    The room is given, because matplotlib's search for it takes most of the time of a figure of many panels.

    Args:
        panel: width and height of one.
        gaps: between columns, and between rows.
    """
    from matplotlib.figure import Figure

    width = left + columns * panel[0] + (columns - 1) * gaps[0] + right
    height = top + rows * panel[1] + (rows - 1) * gaps[1] + bottom
    room = {
        "left": left / width,
        "right": 1 - right / width,
        "bottom": bottom / height,
        "top": 1 - top / height,
        "wspace": gaps[0] / panel[0],
        "hspace": gaps[1] / panel[1],
    }
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=room)


def points(
    records: Sequence[Mapping[str, Any]], key: str | None, over: str = "step", positive: bool = False
) -> list[tuple[float, float]]:
    """``over`` and value wherever ``key`` was recorded, for a logarithmic axis where it is ``positive``.

    >>> points([{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": None}, {"step": 4, "loss": 0.0}], "loss")
    [(1, 2.0), (4, 0.0)]
    """
    found = [(r[over], r[key]) for r in records if key is not None and r.get(key) is not None]
    return [(x, y) for x, y in found if y > 0 or not positive]


def curve(axis: Axes, xy: Sequence[tuple[float, float]], **style: Any) -> None:
    """A line through the points; without points none, and nothing in the legend."""
    if xy:
        axis.plot(*zip(*xy, strict=True), **{"lw": 1.2} | style)


def legend_and_grid(axis: Axes, fontsize: float = 7) -> None:
    """The legend if anything is named, and a faint grid."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=fontsize, frameon=False)
    axis.grid(alpha=0.25)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG; the folder is made."""
    with atomic_path(path) as unfinished:
        write_figure(figure, unfinished, format="png", dpi=110)
    return path


def write_figure(figure: Figure, target: Any, **options: Any) -> None:
    """``figure.savefig``; a name or unit in LaTeX that matplotlib cannot read is shown as it is written."""
    try:
        figure.savefig(target, **options)
    except ValueError:
        from matplotlib.mathtext import MathTextParser
        from matplotlib.text import Text

        parser = MathTextParser("path")
        for text in figure.findobj(Text):
            try:
                parser.parse(text.get_text())
            except ValueError:
                text.set_parse_math(False)
        figure.savefig(target, **options)
