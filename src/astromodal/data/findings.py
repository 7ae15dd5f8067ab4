"""What the readers found in a survey and what was lost on the way: counted by reason, said in words.

Every reader counts by reason (a key such as ``no_valid_pixel``). :class:`Findings` adds the counts up for each *source*
(a scalar column, a group of spectra, an image band) and field. ``REASONS`` says what a key means and whether it is a
loss; a key that is not there is shown as it is, as a remark. Whoever loses more than a tenth of what was given is
warned about, with the likely cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .images import ImageBatch
    from .scalars import ScalarBatch
    from .spectra import SpectrumBatch

WARN_SHARE = 0.1  # of what was given
N_EXAMPLES = 32  # lost values kept per source, reason and field
N_NAMED = 3  # fields that a warning names
KEPT, PIXELS = "kept", "pixels"  # keys of counts that are no reason: usable rows, and pixels or coefficients given


class Reason(NamedTuple):
    """One way in which a value, a spectrum or a cutout is not simply there."""

    text: str
    of: str = ""  # lost, of: "given" rows, "errors" given, "kept" rows, "pixels" given; "": a remark, no warning
    cause: str = ""  # the likely one, where much is lost


_UNIT = "another unit than that of min and max, or a sentinel that data.scalars does not declare"
_LENGTH = "rows of another length than data=… says"
#: What can be lost, by name, and its likely cause.
REASONS = {
    # scalar columns
    "null": Reason("null"),
    "nan": Reason("not a number"),
    "masked": Reason("masked in the file"),
    "sentinel": Reason("a sentinel"),
    "nondetected": Reason("not detected"),
    "no_spectrum": Reason("without a usable spectrum"),
    "inf": Reason("infinite", "given", "a division by zero before the file was written"),
    "out_of_range": Reason("outside of min and max", "given", _UNIT),
    "not_positive": Reason("without a logarithm (0 or below)", "given", "transform=log10 where asinh is meant"),
    "no_bins": Reason("of a column that has no bins", "given", "no training object had it: fit the tokenizer again"),
    "no_error": Reason("without an error"),
    "bad_error": Reason("with an error of 0, below 0 or infinite", "errors", "a column that does not hold 1 sigma"),
    "large_error": Reason("with an error above max_error"),
    "outside_fit_range": Reason("outside of fit_min and fit_max"),
    "clipped": Reason(
        "beyond the fitted range, in an end bin",
        "kept",
        "another unit than that of the training objects, or fit_min and fit_max that are too narrow",
    ),
    # spectra
    "length_mismatch": Reason("of a wrong length", "given", _LENGTH),
    "wave_not_increasing": Reason("with wavelengths out of order", "given", "wavelengths that are not sorted"),
    "turned_round": Reason("with falling wavelengths, turned round to increasing ones"),
    "pixels_without_wavelength": Reason("pixels without a wavelength"),
    "outside_grid": Reason("outside of the grid", "given", "wave_min and wave_max of another instrument"),
    "outside_grid_log10": Reason("outside of the grid", "given", "log10 of the wavelength in its column"),
    "outside_grid_ln": Reason("outside of the grid", "given", "ln of the wavelength in its column"),
    "outside_grid_nm": Reason("outside of the grid", "given", "wavelengths in nm for a grid in Å"),
    "outside_grid_angstrom": Reason("outside of the grid", "given", "wavelengths in Å for a grid in nm"),
    "outside_grid_micron": Reason("outside of the grid", "given", "wavelengths in µm for a grid in Å"),
    "outside_grid_micron_for_nm": Reason("outside of the grid", "given", "wavelengths in µm for a grid in nm"),
    "outside_grid_angstrom_for_micron": Reason("outside of the grid", "given", "wavelengths in Å for a grid in µm"),
    "outside_grid_nm_for_micron": Reason("outside of the grid", "given", "wavelengths in nm for a grid in µm"),
    "outside_grid_metre": Reason("outside of the grid", "given", "wavelengths in m for a grid in Å"),
    "outside_grid_metre_for_nm": Reason("outside of the grid", "given", "wavelengths in m for a grid in nm"),
    "no_valid_pixel": Reason("without a valid pixel", "given", "ivar 0, or fluxes that are not finite, everywhere"),
    "no_signal": Reason("without a signal", "given", "fluxes that are all 0"),
    "pixels_outside": Reason(
        "pixels outside of the grid",
        "pixels",
        "wave_min and wave_max that are too narrow, or wavelengths in another unit",
    ),
    "invalid_pixels": Reason("pixels that are not finite"),
    "bad_ivar": Reason(
        "pixels with an ivar or error below 0 or infinite",
        "pixels",
        "a column that holds neither inverse variances nor 1 sigma errors",
    ),
    "too_large": Reason("pixels above 3e38 nanomaggies", "pixels", "a zero point that is far off"),
    "too_small": Reason("pixels below 1e-38 nanomaggies", "pixels", "a zero point that is far off"),
    "masked_pixels": Reason("masked pixels on the grid"),
    "no_ivar": Reason("without ivar or error"),
    "rebinned": Reason("put on the grid"),
    # cutouts
    "wrong_length": Reason("of a wrong length", "given", _LENGTH),
    "constant_cutout": Reason("of one value everywhere", "given", "cutouts filled where nothing was observed"),
    "blank_cutout": Reason("without a finite pixel", "given", "cutouts filled where nothing was observed"),
    "too_few_valid_pixels": Reason("with too few valid pixels", "given", "tokenizer.image.min_valid_fraction"),
}
DAMAGE = {"inf", "wrong_length", "length_mismatch", "wave_not_increasing"}  # what real gaps do not have
KINDS = ("given", "errors", "kept", "pixels")  # of losses


class Findings:
    """Counts by source, field and reason.

    >>> found = Findings()
    >>> found.add("A", "spectrum b", {"no_valid_pixel": 3, "no_signal": 0}, kept=7)
    >>> found.totals()
    {'spectrum b': {'no_valid_pixel': 3, 'kept': 7}}
    >>> found.warnings()[0].split(";")[0]
    'spectrum b: lost 3 of 10: 3 without a valid pixel (field A)'
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, dict[str, int]]] = {}  # source → field → reason → number
        self._examples: dict[str, dict[str, dict[str, list[float]]]] = {}

    def add(
        self,
        field: str,
        source: str,
        counts: Mapping[str, int],
        kept: int | None = None,
        examples: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            counts: reason → number; ``pixels`` is how many were given.
            kept: rows that can be used; those lost for a reason of the kind "given" make up the rest of what was given.
            examples: reason → some of the values that were lost for it.
        """
        total = self._counts.setdefault(source, {}).setdefault(field, {})
        for reason, number in (dict(counts) | ({} if kept is None else {KEPT: kept})).items():
            if number:
                total[reason] = total.get(reason, 0) + int(number)
        for reason, values in (examples or {}).items():
            shown = self._examples.setdefault(source, {}).setdefault(field, {}).setdefault(reason, [])
            shown += [float(value) for value in values[: N_EXAMPLES - len(shown)]]

    def add_scalars(self, field: str, batch: ScalarBatch, extra: Mapping[str, np.ndarray] | None = None) -> None:
        """Add a batch of catalogue columns; ``extra``: reason → rows (n, c) that are lost, or remarkable, for it.

        Rows that are lost for an extra reason of the kind "given" are not kept.
        """
        for j, (name, counts) in enumerate(batch.reasons.items()):
            more = {reason: int(rows[:, j].sum()) for reason, rows in (extra or {}).items()}
            kept = int(batch.present[:, j].sum()) - lost_rows(more)
            shown = {"out_of_range": batch.outside[name]} if name in batch.outside else None
            self.add(field, f"scalar {name}", counts | more, kept, shown)

    def add_images(self, field: str, batch: ImageBatch, used: np.ndarray, clipped: np.ndarray | None = None) -> None:
        """Add a batch of cutouts, band by band.

        Args:
            used: objects ``(n,)`` with enough of them.
            clipped: ``(n, C)``, bands whose fluxes lie beyond what was fitted.
        """
        beyond = np.zeros(len(batch.bands), int) if clipped is None else clipped.sum(0)
        for name, kept, n in zip(batch.bands, batch.band_present.sum(0), beyond, strict=True):
            self.add(field, f"image {name}", {**batch.reasons.get(name, {}), "clipped": int(n)}, int(kept))
        self.add(field, "image", {"too_few_valid_pixels": int((batch.present & ~used).sum())}, int(used.sum()))

    def add_spectra(self, field: str, group: str, batch: SpectrumBatch) -> None:
        """Add a batch of spectra of a group."""
        self.add(field, f"spectrum {group}", batch.counts, int(batch.present.sum()))

    def field(self, field: str) -> dict[str, Any]:
        """What was found in a field, as plain values that :meth:`add_field` takes."""
        counts = {source: fields[field] for source, fields in self._counts.items() if fields.get(field)}
        examples = {source: fields[field] for source, fields in self._examples.items() if fields.get(field)}
        return {"counts": counts, "examples": examples}

    def add_field(self, field: str, found: Mapping[str, Any]) -> None:
        """Add what :meth:`field` returned."""
        for source, counts in found["counts"].items():
            self.add(field, source, counts, examples=found["examples"].get(source))

    def totals(self) -> dict[str, dict[str, int]]:
        """Source → reason → number, over all fields; sources of which there is nothing to say are left out."""
        totals: dict[str, dict[str, int]] = {}
        for source, fields in self._counts.items():
            for counts in fields.values():
                for reason, number in counts.items():
                    total = totals.setdefault(source, {})
                    total[reason] = total.get(reason, 0) + number
        return totals

    def said(self) -> str:
        """Everything in one line, for an error that ends a fit."""
        return "; ".join(
            f"{source}: {describe(counts)}" for source, counts in self.totals().items() if describe(counts)
        )

    def warnings(self) -> list[str]:
        """One line for each source and kind of loss that takes more than a tenth in a field, or in some fields."""
        lines = []
        for source, fields in self._counts.items():
            for of in KINDS:
                over = {field: counts for field, counts in fields.items() if _share(counts, of) > WARN_SHARE}
                if over:
                    lines.append(self._warning(source, of, over))
        return lines

    def _warning(self, source: str, of: str, over: Mapping[str, Mapping[str, int]]) -> str:
        """One such line, for the fields that are given."""
        total: dict[str, int] = {}
        for counts in over.values():
            for reason, number in counts.items():
                total[reason] = total.get(reason, 0) + number
        lost = {reason: number for reason, number in total.items() if _of(reason) == of}
        main = max(lost, key=lost.__getitem__)
        examples = [v for field in over for v in self._examples.get(source, {}).get(field, {}).get(main, [])]
        more = f" and {len(over) - N_NAMED} more" if len(over) > N_NAMED else ""
        names = ", ".join(list(over)[:N_NAMED]) + more
        return (
            f"{source}: lost {sum(lost.values())} of {_given(total, of)}: {describe(lost)}"
            f" (field{'s' if len(over) > 1 else ''} {names}); likely cause: {likely_cause(lost)}{_seen(examples)}"
        )


def _of(reason: str) -> str:
    return REASONS[reason].of if reason in REASONS else ""


def _given(counts: Mapping[str, int], of: str) -> int:
    """What was given, of which a kind of loss takes a share."""
    if of == "pixels":
        return counts.get(PIXELS, 0)
    kept = counts.get(KEPT, 0)
    if of == "errors":
        return kept - counts.get("no_error", 0)
    return kept if of == "kept" else kept + lost_rows(counts)


def _share(counts: Mapping[str, int], of: str) -> float:
    lost = sum(number for reason, number in counts.items() if _of(reason) == of)
    return lost / given if (given := _given(counts, of)) > 0 else 0.0


def _seen(examples: Sequence[float]) -> str:
    """What the lost values look like: one value again and again is a sentinel, a range speaks of a unit."""
    if not examples:
        return ""
    values, numbers = np.unique(np.asarray(examples, np.float64), return_counts=True)
    if len(examples) > 2 and numbers.max() > len(examples) / 2:
        return f"; most of them are {values[numbers.argmax()]:.7g}"
    return f"; they lie between {values[0]:.7g} and {values[-1]:.7g}"


def lost_rows(counts: Mapping[str, int]) -> int:
    """Rows that were given and cannot be used.

    >>> lost_rows({"kept": 5, "inf": 1, "null": 7})
    1
    """
    return sum(number for reason, number in counts.items() if _of(reason) == "given")


def describe(counts: Mapping[str, int]) -> str:
    """Counts in words.

    >>> describe({"kept": 5, "null": 2, "wrong_length": 1, "nan": 0})
    '2 null, 1 of a wrong length'
    """
    named = ((reason, number) for reason, number in counts.items() if number and reason not in (KEPT, PIXELS))
    return ", ".join(f"{number} {_text(reason)}" for reason, number in named)


def _text(reason: str) -> str:
    return REASONS[reason].text if reason in REASONS else reason.replace("_", " ")


def likely_cause(lost: Mapping[str, int]) -> str:
    """Cause of the commonest of some losses."""
    return REASONS[max(lost, key=lost.__getitem__)].cause


def damage(counts: Mapping[str, Mapping[str, int]]) -> str:
    """What is damaged, rather than missing, in counts by source; empty for nothing.

    >>> damage({"image r": {"kept": 5, "wrong_length": 1}, "scalar z": {"null": 3}})
    'image r 1 of a wrong length'
    """
    found = {source: {k: n for k, n in reasons.items() if k in DAMAGE} for source, reasons in counts.items()}
    return ", ".join(f"{source} {describe(reasons)}" for source, reasons in found.items() if reasons)


def finding_rows(totals: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    """Rows of a table of :meth:`Findings.totals`: source; every reason with its count, of losses also the share.

    >>> finding_rows({"scalar z": {"kept": 9, "inf": 1, "null": 5}})
    [('scalar z', '1 infinite (10%), 5 null')]
    """
    rows = []
    for source, counts in totals.items():
        said = []
        for reason, number in counts.items():
            if reason not in (KEPT, PIXELS):
                given = _given(counts, _of(reason)) if _of(reason) else 0
                said.append(describe({reason: number}) + (f" ({100 * number / given:.2g}%)" if given > 0 else ""))
        if said:
            rows.append((source, ", ".join(said)))
    return rows
