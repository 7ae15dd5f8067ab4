"""Catalogue columns of a datacube batch: what is a measurement, what is missing, what was looked for and not seen.

Four things look like a number and are not one: sentinels (-99, 99, -999, -9999), NaN and infinities, values outside
of the column's physical range, and the mark of a non-detection, which is information and kept apart from "missing".
Every reason is counted per column. Columns declare the space (identity, log10, asinh) in which they are binned and
compared; asinh is the form of Lupton, Gunn & Szalay (1999), usable for values that may be negative.

Shapes: n objects, c columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.schema import ScalarConfig, Transform
from ..errors import ConfigError
from .columns import numbers
from .findings import lost_rows
from .masks import masked_values
from .spectra import SpectrumBatch, read_spectra, spectrum_columns

if TYPE_CHECKING:
    from ..config.schema import DataConfig

SCALE_SUFFIX = "_scale"


@dataclass
class ScalarBatch:
    """Scalars of ``n`` rows, in physical units, as the file has them: float32 merges Julian dates, and ends at 3e38."""

    values: np.ndarray  # (n, c) float64; NaN where not present
    errors: np.ndarray  # (n, c) float64, 1 sigma; NaN where none is known or it is absurd
    present: np.ndarray  # (n, c) bool
    nondetected: np.ndarray  # (n, c) bool: observed, not detected; never together with present
    fit: np.ndarray  # (n, c) bool: present, in the quality range, error not above max_error
    columns: tuple[str, ...]
    reasons: dict[str, dict[str, int]]  # column → reason → rows
    uncertain: np.ndarray | None = None  # (n, c) bool: present, with an error above max_error; None: nowhere
    outside: dict[str, np.ndarray] = dataclass_field(default_factory=dict)  # column → values outside of min and max

    def __len__(self) -> int:
        return len(self.values)


def scalar_columns(data: DataConfig, groups: Sequence[str] = ()) -> dict[str, ScalarConfig]:
    """The scalar columns of a survey: the configured ones, then ``<group>_scale`` of each spectrum group in use.

    The scale by which a spectrum is divided spans many orders of magnitude, hence log10.

    Raises:
        ConfigError: a group does not exist, or a configured column has the name of a derived one.
    """
    columns = dict(data.scalars.items())
    for group in groups:
        if group not in data.spectra:
            raise ConfigError(f"a group of {', '.join(data.spectra)}", got=group, where="data.spectra")
        name = group + SCALE_SUFFIX
        if name in columns:
            raise ConfigError("data.scalars without the name of a derived column", got=name, where="data.scalars")
        columns[name] = ScalarConfig(unit=data.spectra[group].unit, transform=Transform.log10, sentinels=[])
    return columns


def derived_group(name: str, data: DataConfig) -> str | None:
    """The spectrum group whose scale a column holds; None for a catalogue column."""
    group = name.removesuffix(SCALE_SUFFIX)
    return group if name not in data.scalars and name != group and group in data.spectra else None


def scalar_sources(data: DataConfig, columns: Mapping[str, ScalarConfig]) -> list[str]:
    """Parquet columns that :func:`read_scalars` needs for ``columns``, each once."""
    names: list[str] = []
    for name, config in columns.items():
        group = derived_group(name, data)
        names += spectrum_columns(data.spectra[group]) if group else [config.column or name, config.error or ""]
    return [name for name in dict.fromkeys(names) if name]


def transform(values: np.ndarray, config: ScalarConfig) -> np.ndarray:
    """Physical values to the column's transform space; NaN where log10 is not defined. Keeps float32 or float64.

    >>> transform(np.array([100.0, -1.0]), ScalarConfig(transform=Transform.log10))
    array([ 2., nan])
    """
    values = np.asarray(values)
    kind = Transform(config.transform)
    if kind is Transform.identity:
        return values
    if kind is Transform.log10:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(np.where(values > 0, values, np.nan).astype(values.dtype, copy=False))
    return np.arcsinh(values / values.dtype.type(config.softening))


def inverse_transform(values: np.ndarray, config: ScalarConfig) -> np.ndarray:
    """Inverse of :func:`transform`.

    >>> inverse_transform(np.array([2.0]), ScalarConfig(transform=Transform.log10))
    array([100.])
    """
    values = np.asarray(values)
    kind = Transform(config.transform)
    if kind is Transform.identity:
        return values
    if kind is Transform.log10:
        return values.dtype.type(10.0) ** values
    return np.sinh(values) * values.dtype.type(config.softening)


def transform_error(values: np.ndarray, errors: np.ndarray, config: ScalarConfig) -> np.ndarray:
    """Standard errors of physical values in the column's transform space, to first order: ``|dT/dx|`` times the error.

    >>> transform_error(np.array([100.0]), np.array([10.0]), ScalarConfig(transform=Transform.log10)).round(4)
    array([0.0434])
    """
    kind = Transform(config.transform)
    if kind is Transform.identity:
        return np.asarray(errors)
    if kind is Transform.log10:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(values > 0, errors / (np.log(10.0) * np.abs(values)), np.nan)
    return errors / np.hypot(values, config.softening)


def read_scalars(
    batch: Any,
    data: DataConfig,
    columns: Mapping[str, ScalarConfig],
    spectra: Mapping[str, SpectrumBatch] | None = None,
) -> ScalarBatch:
    """Scalars of a batch, in the order of ``columns`` (from :func:`scalar_columns`).

    Args:
        batch: a :class:`~astromodal.data.datacube.Batch` or Arrow batch with the columns of :func:`scalar_sources`.
        spectra: spectra of this batch that were read already, by group; others are read for their scales.

    Raises:
        DataError: a column does not hold numbers.
    """
    n, c = batch.num_rows, len(columns)
    values, errors = np.full((n, c), np.nan), np.full((n, c), np.nan)
    present, nondetected, fit, uncertain = (np.zeros((n, c), bool) for _ in range(4))
    reasons, outside = {}, {}
    for j, (name, config) in enumerate(columns.items()):
        error = None
        if group := derived_group(name, data):
            known = spectra[group] if spectra and group in spectra else read_spectra(batch, data, group)
            masked, raw, null = 0, known.scale, len(known) - int(known.present.sum()) - lost_rows(known.counts)
        else:
            source = config.column or name
            column = batch.column(source)
            raw, null = numbers(column, f"column {source}"), column.null_count
            masked = masked_values(batch, [source])
            if config.error:
                error = numbers(batch.column(config.error), f"column {config.error}")
        present[:, j], nondetected[:, j], counts = classify(raw, config, null)
        counts |= {"null": null - masked, "masked": masked}
        if group:
            counts["no_spectrum"] = counts.pop("nan")
        if counts["out_of_range"]:
            outside[name] = raw[np.isfinite(raw) & ~present[:, j] & ~in_range(raw, config.min, config.max)]
        values[:, j] = np.where(present[:, j], raw, np.nan)
        fit[:, j] = present[:, j] & in_range(raw, config.fit_min, config.fit_max)
        counts["outside_fit_range"] = int(present[:, j].sum() - fit[:, j].sum())
        if error is not None:
            good, large = _judge_errors(error, present[:, j], config, counts)
            errors[:, j] = np.where(good, error, np.nan)
            fit[:, j] &= ~large
            uncertain[:, j] = large & present[:, j]
        reasons[name] = counts
    return ScalarBatch(values, errors, present, nondetected, fit, tuple(columns), reasons, uncertain, outside)


def in_range(values: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """Whether values lie in [low, high]; an end that is None is open."""
    inside = np.ones(len(values), bool)
    with np.errstate(invalid="ignore", over="ignore"):  # limits that float32 does not reach bound nothing
        if low is not None:
            inside &= values >= low
        if high is not None:
            inside &= values <= high
    return inside


def is_one_of(values: np.ndarray, marks: Sequence[float]) -> np.ndarray:
    """Values (n,) that are one of some marks, such as -99.9, or what float32 makes of it; a number beside it is none.

    >>> is_one_of(np.array([-99.9, np.float32(-99.9), -99.90001]), [-99.9]).tolist()
    [True, True, False]
    """
    exact = np.asarray(list(marks), np.float64)
    with np.errstate(over="ignore"):
        single = exact.astype(np.float32)
    return np.isin(values, np.concatenate([exact, single]) if values.dtype == np.float64 else single)


def classify(raw: np.ndarray, config: ScalarConfig, null: int) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Which values are measurements, which are non-detections, and why the others are neither.

    Args:
        raw: ``(n,)`` float, NaN where null; null: how many are null.

    Returns:
        present ``(n,)``, nondetected ``(n,)``, counts by reason (keys of :data:`~astromodal.data.findings.REASONS`).
    """
    infinite, missing = np.isinf(raw), np.isnan(raw)
    nondetected = is_one_of(raw, [] if config.nondetection is None else [config.nondetection])
    sentinel = is_one_of(raw, config.sentinels) & ~nondetected
    usable = ~(infinite | missing | nondetected | sentinel)
    inside = in_range(raw, config.min, config.max)
    has_space = raw > 0 if Transform(config.transform) is Transform.log10 else np.ones(len(raw), bool)
    counts = {
        "null": int(null),
        "nan": int(missing.sum()) - int(null),
        "inf": int(infinite.sum()),
        "sentinel": int(sentinel.sum()),
        "nondetected": int(nondetected.sum()),
        "out_of_range": int((usable & ~inside).sum()),
        "not_positive": int((usable & inside & ~has_space).sum()),
    }
    return usable & inside & has_space, nondetected, counts


def _judge_errors(
    error: np.ndarray, present: np.ndarray, config: ScalarConfig, counts: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Errors that can be used, and those above ``max_error``; adds ``bad_error large_error no_error`` to counts."""
    missing = np.isnan(error)
    with np.errstate(invalid="ignore", over="ignore"):
        bad = ~missing & (~np.isfinite(error) | (error <= 0))  # negative sentinels among them
        limit = np.inf if config.max_error is None else config.max_error
        large = ~missing & ~bad & (error > limit)
    counts["no_error"] = int((present & missing).sum())
    counts["bad_error"] = int((present & bad).sum())
    counts["large_error"] = int((present & large).sum())
    return present & ~missing & ~bad & ~large, large
