"""What became of every input: as numbers, as a table in the log, as a picture of the sky."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files.text_table import table
from ..plots.panels import BLUE, INK, ORANGE, never_fatal, panel_grid, save

_COLUMNS = 4  # panels in a row


def total(inputs: Mapping[str, Mapping[str, int]], results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Counts of each input over all fields, and what of it nobody needed (``unused``)."""
    found: dict[str, dict[str, int]] = {name: dict(counts) for name, counts in inputs.items()}
    tiles: dict[str, set[int]] = {}
    for result in results:
        for name, counts in result["summary"]["counts"].items():
            own = found.setdefault(name, {})
            for key, n in counts.items():
                if not (name == "catalogue" and key == "without_position"):  # known of the whole
                    own[key] = own.get(key, 0) + n
        for band, used in result["tiles"].items():
            tiles.setdefault(band, set()).update(used)
    for name, own in found.items():
        if name != "catalogue" and "rows" in own and "matched" in own:
            own["unused"] = own["rows"] - own["matched"]
    for band, used in tiles.items():
        found[f"images.{band}"]["unused_tiles"] = found[f"images.{band}"]["tiles"] - len(used)
    return found


def text(result: Mapping[str, Any]) -> str:
    """The tables: catalogue, what was matched to it, images."""
    inputs = result["inputs"]
    own = inputs["catalogue"]
    lines = [
        f"catalogue: {own['rows']} rows, {own.get('objects', 0)} objects in {len(result['fields'])} fields; "
        f"{own['left_out']} rows left out, {own['without_position']} without a position"
    ]
    joined = {n: c for n, c in inputs.items() if n.startswith(("matches.", "spectra.")) and "matched" in c}
    if joined:
        header: tuple[str, ...] = ("input", "rows", "matched", "unmatched", "ambiguous", "taken", "unused", "masked")
        rows: list[tuple[Any, ...]] = [
            (
                n,
                c.get("rows"),
                c["matched"],
                c["unmatched"],
                c.get("ambiguous"),
                c.get("taken"),
                c.get("unused"),
                _share(c),
            )
            for n, c in joined.items()
        ]
        lines.append(table(header, rows))
        lines += [f"{n}: {_remarks(c)}" for n, c in joined.items() if _remarks(c)]
    images = {n: c for n, c in inputs.items() if n.startswith("images.") and "found" in c}
    if images:
        header = ("images", "tiles", "unused", "found", "outside", "no file", "at an edge", "blank", "masked")
        rows = [
            (
                n.removeprefix("images."),
                c.get("tiles"),
                c.get("unused_tiles"),
                c["found"],
                c["outside"],
                c.get("no_file"),
                c["edge"],
                c["blank"],
                _share(c),
            )
            for n, c in images.items()
        ]
        lines.append(table(header, rows))
    return "\n".join(lines)


def _share(counts: Mapping[str, int]) -> str | None:
    """Masked pixels of all that were read."""
    pixels = sum(n for key, n in counts.items() if key.split(".")[-1] == "pixels")
    masked = sum(n for key, n in counts.items() if key.split(".")[-1] == "masked")
    return f"{100 * masked / pixels:.1f} %" if pixels else None


def _remarks(counts: Mapping[str, int]) -> str:
    meaning = {
        "had_already": "objects that have such a spectrum from an earlier source",
        "not_targets": "rows of the sky",
        "bad_fibers": "spectra of fibres with a flag, left out",
        "exposures": "further exposures, averaged",
    }
    return ", ".join(f"{counts[key]} {said}" for key, said in meaning.items() if counts.get(key))


@never_fatal
def plot_sky(result: Mapping[str, Any], path: Path) -> Path | None:
    """A panel per input: objects that have it over those that do not, and the outlines of the tiles."""
    samples = [sample for sample in result["samples"] if len(sample["ra"])]
    if not samples:
        return None
    ra, dec = (np.concatenate([s[key] for s in samples]) for key in ("ra", "dec"))
    inputs = [key for key in samples[0] if key not in ("ra", "dec")] or ["catalogue"]
    centre = np.rad2deg(np.angle(np.exp(1j * np.deg2rad(ra)).mean())) % 360
    size = float(np.clip(80 / np.sqrt(len(ra)), 1.5, 6))
    columns = min(_COLUMNS, len(inputs))
    rows = -(-len(inputs) // columns)
    figure, axes = panel_grid(rows, columns, (2.6, 2.2), left=0.75, top=0.45, bottom=0.6, right=0.15, gaps=(0.75, 0.75))
    for axis, name in zip(axes.flat, inputs, strict=False):
        has = np.ones(len(ra), bool) if name == "catalogue" else np.concatenate([s[name] for s in samples])
        for which, colour, label in ((~has, ORANGE, "without"), (has, BLUE, "with")):
            axis.plot(
                _around(ra[which], centre),
                dec[which],
                ".",
                ms=size,
                color=colour,
                alpha=0.7,
                mew=0,
                label=f"{label} ({which.mean():.0%})",
            )
        for tile in result["tiles"].get(name.removeprefix("images."), ()):
            corners = np.array([*tile.corners, tile.corners[0]])
            axis.plot(_around(corners[:, 0], centre), corners[:, 1], color=INK, lw=0.6)
        axis.set_title(name, fontsize=8)
        axis.legend(fontsize=6, frameon=False, markerscale=6 / size, loc="best")
        axis.tick_params(labelsize=6)
        axis.set_xlabel("right ascension [deg]", fontsize=7)
        axis.set_ylabel("declination [deg]", fontsize=7)
        axis.set_aspect(1 / max(np.cos(np.deg2rad(dec.mean())), 0.05), adjustable="datalim")
        axis.invert_xaxis()
        axis.ticklabel_format(useOffset=False)
    for axis in axes.flat[len(inputs) :]:
        axis.set_visible(False)
    return save(figure, path)


def _around(ra: np.ndarray, centre: float) -> np.ndarray:
    """Right ascension within 180 degrees of the centre: fields at 0 h are in one piece."""
    return centre + (np.asarray(ra) - centre + 180.0) % 360.0 - 180.0
