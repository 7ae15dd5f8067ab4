"""What columns are: the id, the position, scalars with their errors, spectra with wavelengths and errors, cutouts.

Guessed from names first, from types and values second. A name is taken apart into words; the words that say what kind
of quantity a column holds (``flux``, ``ivar``, ``wave`` …) are its role, the others say which columns belong together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np

from .statistics import ColumnFacts, suspected_marks

ID_NAMES = ("object_id", "objectid", "objid", "source_id", "targetid", "specobjid", "coadd_object_id", "id")
RA_NAMES = (
    "ra",
    "ra_deg",
    "radeg",
    "raj2000",
    "ra_icrs",
    "target_ra",
    "ra_targ",
    "mean_fiber_ra",
    "alpha_j2000",
    "coord_ra",
)
DEC_NAMES = (
    "dec",
    "decl",
    "dec_deg",
    "decdeg",
    "de_deg",
    "dej2000",
    "dec_icrs",
    "de_icrs",
    "target_dec",
    "dec_targ",
    "mean_fiber_dec",
    "delta_j2000",
    "coord_dec",
)
_WORDS = {
    "wave": ("wave", "wavelength", "wavelengths", "lambda", "loglam", "wl", "lam"),
    "ivar": ("ivar", "invvar"),
    "error": ("error", "errors", "err", "sigma", "unc", "uncertainty", "std", "noise"),
    "mask": ("mask", "masks", "andmask", "ormask", "bad", "badpix"),
    "value": ("flux", "fluxes", "spectrum", "spec", "coefficients", "coefficient", "coeff", "coeffs", "values"),
    "none": ("correlation", "correlations", "corr", "cov", "covariance", "resolution", "psf", "lsf", "sky", "disp"),
}
ROLE = {word: role for role, words in _WORDS.items() for word in words}
ERROR_WORDS = {*_WORDS["error"], "e"}  # of scalars
TIMES = ("mjd", "jd", "time", "hjd", "bjd", "epoch", "midpointmjdtai", "hmjd")  # beside lists: a light curve
SHAPES = {
    "a": ("a_pixel_det", "a_image", "awin_image"),
    "b": ("b_pixel_det", "b_image", "bwin_image"),
    "theta": ("theta_det", "theta_image", "thetawin_image"),
}  # of the ellipse of SExtractor, in px and deg
BOOKKEEPING = re.compile(r"^_|^(norder|dir|npix|healpix|hpx|pix|index)$|healpix|^__index_level", re.IGNORECASE)
MIN_IMAGE = 8  # px on a side
MIN_LIST = 8  # numbers, of a spectrum or of coefficients
MAX_CLASSES = 20  # whole numbers with no more different values than this are codes of something


@dataclass
class SpectrumGuess:
    """List columns that belong together."""

    name: str
    flux: ColumnFacts
    wave: ColumnFacts | None = None
    ivar: ColumnFacts | None = None
    error: ColumnFacts | None = None
    mask: ColumnFacts | None = None


@dataclass
class Guess:
    """What a survey's columns are taken to be."""

    id: ColumnFacts | None = None
    ra: ColumnFacts | None = None
    dec: ColumnFacts | None = None
    scalars: dict[str, tuple[ColumnFacts, ColumnFacts | None]] = dataclass_field(default_factory=dict)  # and its error
    spectra: dict[str, SpectrumGuess] = dataclass_field(default_factory=dict)
    images: dict[str, tuple[str, ColumnFacts]] = dataclass_field(default_factory=dict)  # band → column, its facts
    shape: dict[str, str] = dataclass_field(default_factory=dict)  # a, b, theta → column
    left_out: dict[str, str] = dataclass_field(default_factory=dict)  # column → why


def guess(columns: Sequence[ColumnFacts], hints: Mapping[str, str], labels: Mapping[str, Sequence[str]]) -> Guess:
    """Roles of columns.

    Args:
        hints: what a catalogue says of itself: ``hats_col_ra``, ``hats_col_dec``.
        labels: list column with cutouts of several bands → the bands' names.
    """
    found = Guess()
    found.ra, found.dec = _position(columns, hints)
    found.id = _id(columns, taken=[found.ra, found.dec])
    taken = {c.name for c in (found.id, found.ra, found.dec) if c is not None}
    rest = [c for c in columns if c.name not in taken]
    _lists([c for c in rest if c.is_list], labels, found)
    _scalars([c for c in rest if not c.is_list], found)
    found.shape = {key: c.name for key, names in SHAPES.items() for c in _named(rest, names)[:1]}
    return found


# ------------------------------------------------------------------------------------ id and position


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower()


def _named(columns: Sequence[ColumnFacts], names: Sequence[str]) -> list[ColumnFacts]:
    """Columns with one of some names, in order of the names; those that are not nested first."""
    return sorted(
        (c for c in columns if _last(c.name) in names and not c.is_list),
        key=lambda c: ("." in c.name, names.index(_last(c.name))),
    )


def _position(
    columns: Sequence[ColumnFacts], hints: Mapping[str, str]
) -> tuple[ColumnFacts | None, ColumnFacts | None]:
    by_name = {c.name: c for c in columns}
    said = [by_name.get(hints.get(key, "")) for key in ("hats_col_ra", "hats_col_dec")]
    if all(said):
        return said[0], said[1]
    for ra in _named(columns, RA_NAMES):
        for dec in _named(columns, DEC_NAMES):
            same = ra.name.rpartition(".")[0] == dec.name.rpartition(".")[0]
            if same and ra.is_number and dec.is_number and _within(ra, -180.0, 360.0) and _within(dec, -90.0, 90.0):
                return ra, dec
    return None, None


def _within(column: ColumnFacts, low: float, high: float) -> bool:
    return bool(len(column.values)) and low <= column.values.min() and column.values.max() <= high


def _id(columns: Sequence[ColumnFacts], taken: Sequence[ColumnFacts | None]) -> ColumnFacts | None:
    """A column of that name; else the first whole numbers or text with another value in every row."""
    candidates = [
        c
        for c in columns
        if not any(c is t for t in taken)
        and not c.is_list
        and not c.missing
        and c.texts
        and any(word in str(c.type) for word in ("int", "decimal", "string", "binary"))
    ]
    share = {c.name: len(set(c.texts)) / len(c.texts) for c in candidates}
    named = _named([c for c in candidates if share[c.name] > 0.5], ID_NAMES)  # that a few repeat is said elsewhere
    unique = [c for c in candidates if share[c.name] == 1.0 and not BOOKKEEPING.search(c.name)]
    return next(iter([*(c for c in named if share[c.name] == 1.0), *named, *unique]), None)


# --------------------------------------------------------------------------------------------- lists


def role_of(name: str) -> tuple[str, tuple[str, ...]]:
    """The role that a column's name speaks of, and the words of the name that are left.

    >>> role_of("desi_ivar_b"), role_of("spectrum.lambda"), role_of("bp_coefficient_errors")
    (('ivar', ('desi', 'b')), ('wave', ()), ('error', ('bp',)))
    """
    words = [w for w in re.split(r"[\W_]+", _last(name)) if w]
    roles = {ROLE[w] for w in words if w in ROLE}
    role = next((r for r in ("none", "ivar", "error", "mask", "wave", "value") if r in roles), "")
    return role, tuple(w for w in words if w not in ROLE)


def _family(name: str) -> tuple[str, ...]:
    """What columns that belong together have in common: the nested column, and the words that are no role."""
    return (name.rpartition(".")[0], *role_of(name)[1])


def _lists(columns: Sequence[ColumnFacts], labels: Mapping[str, Sequence[str]], found: Guess) -> None:
    values: list[ColumnFacts] = []
    parts: dict[tuple[str, tuple[str, ...]], ColumnFacts] = {}
    curves = {c.name.rpartition(".")[0] for c in columns if "." in c.name and _last(c.name) in TIMES}
    for c in columns:
        role = role_of(c.name)[0]
        if c.name.rpartition(".")[0] in curves:
            found.left_out[c.name] = "part of a light curve: those are not read"
        elif not c.is_number:
            found.left_out[c.name] = "a list of what are no numbers"
        elif not len(c.lengths):
            found.left_out[c.name] = "empty in every row that was looked at"
        elif c.name in labels or c.dimensions > 2 or _is_image(c):
            if c.dimensions > 2 and c.name not in labels:
                found.left_out[c.name] = "several cutouts in one column, and no column 'band' beside it that names them"
            elif role in ("", "value"):
                found.images |= _bands(c, labels.get(c.name))
            else:
                found.left_out[c.name] = f"{role} of cutouts: no part of data.images"
        elif role in ("wave", "ivar", "error", "mask"):
            parts.setdefault((role, _family(c.name)), c)
        elif role == "none":
            found.left_out[c.name] = "by its name no measurement of its own"
        else:
            values.append(c)
    used = set()
    for c in values:
        group = SpectrumGuess(_group_name(c.name, found.spectra), c)
        for role in ("wave", "ivar", "error", "mask"):
            part = parts.get((role, _family(c.name)))
            if part is None and role == "wave":  # one for several
                part = parts.get(("wave", _family(c.name)[:1]))
            if part is not None and _same_lengths(part, c) and not (role == "error" and group.ivar):
                setattr(group, role, part)
                used.add(part.name)
        if len(c.lengths) and c.lengths.max() < MIN_LIST:
            found.left_out[c.name] = f"lists of fewer than {MIN_LIST} numbers"
        elif group.wave is None and c.lengths.min() != c.lengths.max():
            found.left_out[c.name] = "lists of different lengths without wavelengths (light curves are not read)"
        else:
            found.spectra[group.name] = group
    for (role, _), c in parts.items():
        if c.name not in used:
            found.left_out[c.name] = f"{role} of nothing that was found"


def _same_lengths(a: ColumnFacts, b: ColumnFacts) -> bool:
    return (a.lengths.min(), a.lengths.max()) == (b.lengths.min(), b.lengths.max())


def _group_name(name: str, others: Mapping[str, object]) -> str:
    """A short name for a group of spectra: the words that are no role, else the nested column, else the column."""
    words = role_of(name)[1]
    short = "_".join(words) or name.rpartition(".")[0].replace(".", "_") or _last(name)
    short = re.sub(r"\W+", "_", short)
    return short if short not in others else re.sub(r"\W+", "_", name)


def _is_image(c: ColumnFacts) -> bool:
    side = math.isqrt(int(c.lengths.max()))
    square = c.lengths.min() == c.lengths.max() == side * side and side >= MIN_IMAGE
    hinted = re.search(r"cut|stamp|image|img|thumb", c.name.lower()) is not None
    return square and not c.rising and (c.dimensions > 1 or hinted)


def _bands(c: ColumnFacts, labels: Sequence[str] | None) -> dict[str, tuple[str, ColumnFacts]]:
    if labels:
        return {re.sub(r"\W+", "_", label): (f"{c.name}[{label}]", c) for label in labels}
    word = [w for w in re.split(r"[\W_]+", c.name) if w][-1]
    return {word: (c.name, c)}


# ------------------------------------------------------------------------------------------- scalars


def _scalars(columns: Sequence[ColumnFacts], found: Guess) -> None:
    by_words = {_error_of(c.name): c for c in reversed(columns) if c.is_number and _error_of(c.name)}
    errors = {
        c.name: by_words[key]
        for c in columns
        if c.is_number and not _error_of(c.name) and (key := _words_of(c.name)) in by_words
    }
    is_error = {e.name for e in errors.values()}
    for c in columns:
        if c.name in is_error:
            continue
        if why := _no_scalar(c):
            found.left_out[c.name] = why
        else:
            found.scalars[re.sub(r"\W+", "_", c.name)] = (c, errors.get(c.name))


def _words_of(name: str) -> tuple[str, ...]:
    """The nested column of a name, and its words."""
    return (name.rpartition(".")[0], *(w for w in re.split(r"[\W_]+", _last(name)) if w))


def _error_of(name: str) -> tuple[str, ...]:
    """The words of the column that a column is the error of, by its name; none if it is not the error of any.

    >>> _error_of("mag_err_g"), _error_of("e_z"), _error_of("yFluxErr"), _error_of("mag")
    (('', 'mag', 'g'), ('', 'z'), ('', 'yflux'), ())
    """
    parent, *words = _words_of(name)
    rest = [w for w in words if w not in ERROR_WORDS]
    if len(rest) == len(words) and rest:
        rest[-1] = rest[-1].removesuffix("error").removesuffix("err")
    return (parent, *rest) if rest and all(rest) and rest != words else ()


def _no_scalar(c: ColumnFacts) -> str:
    """Why a column is no measurement; empty if it is one."""
    if BOOKKEEPING.search(_last(c.name)):
        return "bookkeeping of the catalogue"
    if "bool" in str(c.type):
        return "a flag"
    if not c.is_number:
        return f"no numbers ({c.type})"
    if not len(c.values):
        return "empty in every row that was looked at"
    usable = c.values[~np.isin(c.values, suspected_marks(c.values))]
    if not len(usable) or usable.min() == usable.max():
        return "one value everywhere" if len(usable) else "nothing but sentinels"
    if "int" in str(c.type):
        if len(np.unique(usable)) <= MAX_CLASSES:
            return f"whole numbers with {len(np.unique(usable))} values: a code, not a measurement"
        if _last(c.name).endswith("id") or len(np.unique(usable)) == c.present > MAX_CLASSES:
            return "whole numbers that differ in every row: another id"
    words = re.split(r"[\W_]+", _last(c.name))
    if "ivar" in words or "invvar" in words:
        return "an inverse variance: scalars take 1 sigma errors"
    if "corr" in words or words[-1] in ("flag", "flags", "mask"):
        return "by its name no measurement of its own"
    return ""
