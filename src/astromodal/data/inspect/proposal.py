"""A configuration that reads a survey, as text with a comment on every line, and the reasons for its guesses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from .roles import Guess, SpectrumGuess, role_of
from .statistics import ColumnFacts, suspected_marks

PIVOTS = {
    "u": 3550,
    "g": 4770,
    "r": 6230,
    "i": 7630,
    "z": 9050,
    "y": 10200,
    "j": 12500,
    "h": 16500,
    "k": 21500,
    "ks": 21500,
    "nuv": 2270,
    "fuv": 1530,
    "w1": 33530,
    "w2": 46030,
}  # Angstrom
GRIDS = {343: (336.0, 1020.0, 2.0, "nm", "that of Gaia's sampled XP spectra, which have 343 pixels")}
DEFAULT_MARKS = (-99.0, 99.0, -999.0, -9999.0)
MAX_PIXELS = 20000
SHORT_LIST = 128  # numbers: without wavelengths, coefficients rather than a spectrum


def propose(guess: Guess, name: str, root: str, about: Mapping[str, str], said: Sequence[str]) -> str:
    """The text of ``conf/data/<name>.yaml``.

    Args:
        root: ``data.root``. about: further keys of the section, such as ``layout``. said: what was found, as comments.
    """
    lines = [
        f"# Proposed by inspecting {root}: read it before you trust it.",
        "# Every word is explained in splus.yaml and in docs/how-to/survey.md.",
    ]
    lines += [f"# {text}" for text in said]
    top: dict[str, tuple[str | None, str]] = {
        "name": (name, "names the folder of the artifacts"),
        "root": (root, "folder, catalogue or file"),
    }
    top |= {
        key: (value, "how the files are arranged" if key == "layout" else "extension of the FITS files")
        for key, value in about.items()
    }
    top["id_column"] = (guess.id.name, "unique over all files") if guess.id else ("id", "NOT FOUND: to be set")
    top["ra_column"] = (guess.ra.name, "deg") if guess.ra else (None, "no positions: divided by a hash of the id")
    top["dec_column"] = (guess.dec.name, "deg") if guess.dec else (None, "")
    lines += [_line(0, f"{key}: {_text(value)}", comment) for key, (value, comment) in top.items()]
    lines += [
        "",
        "# error: column with 1 sigma; sentinels: values that mean 'missing', if not -99, 99, -999, -9999; min",
        "# and max, the physical range, are yours to set. Behind each: what was seen.",
    ]
    lines += ["scalars:" if guess.scalars else "scalars: {}"]
    for key, (column, error) in guess.scalars.items():
        lines += _scalar(key, column, error)
    lines += ["", "spectra:" if guess.spectra else "spectra: {}"]
    for group in guess.spectra.values():
        lines += _spectrum(group)
    lines += ["", *_images(guess.images, guess.shape)]
    if guess.left_out:
        lines += ["", "# Left out:", *(f"#   {column}: {why}" for column, why in guess.left_out.items())]
    return "\n".join(lines) + "\n"


def _line(indent: int, text: str, comment: str = "") -> str:
    text = " " * indent + text
    return f"{text:<45}  # {comment}" if comment else text


def _text(value: object) -> str:
    """A value as YAML has it on one line."""
    if value is None:
        return "null"
    words = ("null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan")  # of YAML
    if isinstance(value, str) and (value.lower() in words or not re.fullmatch(r"[A-Za-z_./][\w./+-]*", value)):
        return json.dumps(value, ensure_ascii=False)
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """A float that YAML reads as one: 1e-05 alone would be text.

    >>> _number(1e-5), _number(2.0), _number(-99.0)
    ('1.0e-05', '2.0', '-99.0')
    """
    text = repr(float(f"{value:.8g}"))
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _flow(entries: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in entries.items()) + "}"


# ------------------------------------------------------------------------------------------- scalars


def _scalar(key: str, column: ColumnFacts, error: ColumnFacts | None) -> list[str]:
    entries: dict[str, object] = {} if key == column.name else {"column": _text(column.name)}
    if error is not None:
        entries["error"] = _text(error.name)
    if column.unit:
        entries["unit"] = _text(column.unit)
    marks = suspected_marks(column.values)
    usable = column.values[~np.isin(column.values, marks)]
    entries |= _transform(usable)
    spread = (usable.min(), usable.max())
    default = [m for m in DEFAULT_MARKS if m in marks or not spread[0] <= m <= spread[1]]
    if sorted({*default, *marks}) != sorted(DEFAULT_MARKS):
        entries["sentinels"] = "[" + ", ".join(_number(m) for m in dict.fromkeys([*default, *marks])) + "]"
    seen = f"{spread[0]:.5g} to {spread[1]:.5g}"
    share = column.missing / column.rows if column.rows else 0.0
    comment = seen + (f", {100 * share:.0f} % missing" if share > 0.005 else "")
    if marks:
        times = ", ".join(f"{m:g} ({int((column.values == m).sum())} times)" for m in marks)
        comment += f"; suspected sentinels: {times}"
    return [f"  {_text(key)}:", _line(4, _flow(entries), comment)]


def _transform(values: np.ndarray) -> dict[str, object]:
    """The space of the bins: log10 of positive values over two decades and more, asinh of long tails."""
    q = np.quantile(values, [0.01, 0.16, 0.5, 0.84, 0.99])
    if values.min() > 0 and q[4] > 100 * max(q[0], 1e-300):
        return {"transform": "log10"}
    width = (q[3] - q[1]) / 2
    if width > 0 and max(q[4] - q[2], q[2] - q[0]) > 8 * width:  # an exponential has 5
        return {"transform": "asinh", "softening": _number(float(f"{max(width, 1e-12):.1g}"))}
    return {}


# ------------------------------------------------------------------------------------------- spectra


def _spectrum(group: SpectrumGuess) -> list[str]:
    lines = [f"  {_text(group.name)}:"]
    n = int(group.flux.lengths.max())
    coefficients = group.wave is None and ("coeff" in group.flux.name.lower() or n <= SHORT_LIST)
    if coefficients:
        lines += [_line(4, "kind: coefficients", f"{n} numbers per object, without wavelengths")]
    share = 100 * group.flux.present / max(group.flux.rows, 1)
    seen = f"{group.flux.low:.4g} to {group.flux.high:.4g}, {share:.0f} % of the rows have one"
    lines += [_line(4, f"flux: {_text(group.flux.name)}", seen)]
    for part in ("ivar", "error", "wave", "mask"):
        column = getattr(group, part)
        if column is not None:
            lines += [_line(4, f"{part}: {_text(column.name)}", f"{column.low:.6g} to {column.high:.6g}")]
    unit = group.flux.unit
    lines += [_line(4, f"unit: {_text(unit)}", "as the file says" if unit else "of the flux; the file does not say")]
    if coefficients:
        return [*lines, _line(4, f"n_coefficients: {n}"), _line(4, "wave_unit: coefficient")]
    if group.wave is None:
        counted = (0.0, n - 1.0, 1.0, "pixel", "no wavelengths: numbers of the pixels")
        low, high, step, unit, comment = GRIDS.get(n, counted)
    else:
        (low, high, step, comment), unit = grid_of(group.wave), wave_unit(group.wave)
    return [
        *lines,
        _line(4, f"wave_min: {_number(low)}", "centre of the first pixel"),
        _line(4, f"wave_max: {_number(high)}", f"{round((high - low) / step) + 1} pixels"),
        _line(4, f"wave_step: {_number(step)}", comment),
        _line(4, f"wave_unit: {_text(unit)}"),
    ]


def grid_of(wave: ColumnFacts) -> tuple[float, float, float, str]:
    """A grid that covers some wavelengths: first and last pixel, step, and how it came about."""
    steps = np.concatenate([np.abs(np.diff(values[np.isfinite(values)])) for values in wave.lists])
    step = float(np.median(steps))
    even = bool(np.ptp(steps) < 0.01 * step)
    low, high = wave.low, wave.high
    if even:
        step = _round_step((high - low) / max(round((high - low) / step), 1), high - low)
        comment = "as the file has it"
    else:
        step = float(f"{step:.2g}")
        low = math.floor(low / step + 1e-9) * step
        comment = "median of the file's, which are not even: spectra are rebinned"
    if (high - low) / step > MAX_PIXELS:
        comment = f"coarser than the file's {step:g}: at most {MAX_PIXELS} pixels"
        step = float(f"{(high - low) / MAX_PIXELS:.2g}")
    n = math.ceil((high - low) / step - 1e-6)
    low = float(f"{low:.9g}")
    return low, float(f"{low + n * step:.9g}"), step, comment


def _round_step(step: float, span: float) -> float:
    """The roundest step that is off by less than a hundredth of a pixel over the whole span: float32 blurs 0.8."""
    for digits in range(1, 10):
        rounded = float(f"{step:.{digits}g}")
        if abs(rounded - step) * span / step < 0.01 * step:
            return rounded
    return step


def wave_unit(wave: ColumnFacts) -> str:
    """Unit of wavelengths: the file's, else by their size."""
    if wave.unit:
        return wave.unit
    if wave.high < 4.5 and wave.low > 3.2 and ("log" in wave.name.lower() or wave.high < 4.2):
        return "log10(Angstrom)"
    return "um" if wave.high < 60 else "nm" if wave.high < 2600 else "Angstrom"


# -------------------------------------------------------------------------------------------- images


def _images(bands: Mapping[str, tuple[str, ColumnFacts]], shape: Mapping[str, str]) -> list[str]:
    if not bands:
        return ["images: null"]
    first = next(iter(bands.values()))[1]
    own = [key for key, (_, column) in bands.items() if column is first]
    side = math.isqrt(int(first.lengths.max()) // (len(own) if first.dimensions > 2 else 1))
    lines = [
        "images:",
        _line(2, f"size: {side}", "px on a side"),
        _line(2, "pixel_scale: 1.0", "arcsec per px: NOT KNOWN, to be set"),
        _line(2, f"a: {_text(shape.get('a'))}", "rms along the major axis, px, of the elliptical mask"),
        _line(2, f"b: {_text(shape.get('b'))}", "along the minor axis"),
        _line(2, f"theta: {_text(shape.get('theta'))}", "deg from +x"),
        _line(2, "bands:", "zero_point: AB mag of one count: NOT KNOWN, to be set"),
    ]
    order = sorted(bands, key=lambda key: _pivot(key) or math.inf)
    for key in order:
        pivot = _pivot(key)
        entry = _flow({"column": _text(bands[key][0]), "pivot": pivot or 0, "zero_point": "22.5"})
        lines.append(_line(4, f"{_text(key)}: {entry}", "" if pivot else "pivot: Angstrom, not known"))
    return lines


def _pivot(band: str) -> int | None:
    """Pivot wavelength that a band's name speaks of, in Angstrom.

    >>> _pivot("DES_R"), _pivot("F378"), _pivot("J0660"), _pivot("x")
    (6230, 3780, 6600, None)
    """
    word = re.split(r"[\W_]+", band.lower())[-1]
    if match := re.fullmatch(r"[fj]0?(\d{3})", word):
        return 10 * int(match[1])
    return PIVOTS.get(word)


def summary(guess: Guess) -> list[tuple[str, str]]:
    """What was found, as rows of a table."""
    parts = ("flux", "wave", "ivar", "error", "mask")
    groups = [f"{g.name} ({', '.join(p for p in parts if getattr(g, p) is not None)})" for g in guess.spectra.values()]
    place = f"{guess.ra.name}, {guess.dec.name}" if guess.ra and guess.dec else "none"
    return [
        ("id", guess.id.name if guess.id else "none"),
        ("position", place),
        ("scalars", f"{len(guess.scalars)}, {sum(e is not None for _, e in guess.scalars.values())} with errors"),
        ("spectra", ", ".join(groups) or "none"),
        ("bands", ", ".join(guess.images) or "none"),
        ("left out", f"{len(guess.left_out)} columns" if guess.left_out else "nothing"),
    ]


def kind_of(column: ColumnFacts) -> str:
    """What a column holds, in a few words, for the table."""
    if not column.is_list:
        return str(column.type)
    ends = dict.fromkeys([column.lengths.min(), column.lengths.max()]) if len(column.lengths) else {}
    size = f" of {'–'.join(map(str, ends))}" if ends else ""
    role = role_of(column.name)[0] if column.is_number else ""
    return f"list{size}" + (f" ({role})" if role not in ("", "value", "none") else "")
