"""Predicted spectra and cutouts against the observed ones, object by object: χ² per pixel, errors in units of noise.

The catalogue is gone through a few rows at a time, and the datacubes are asked for just these, so memory holds one
batch of either. Noise is the observation's own: ivar of the spectra, and of a cutout the scatter of its pixels outside
of the object's ellipse.

Shapes: n rows of the catalogue, m of a batch, P pixels of a spectrum, C bands, S pixels on a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ask.catalogue import ParquetReader
from ..data.columns import list_column_to_matrix
from ..data.images import ImageReader, elliptical_mask, image_columns, images_of
from ..data.photometry import sky_statistics
from ..data.spectra import grid, n_pixels, read_spectra, spectrum_columns
from ..metrics.images import flux_pull, noise_units
from ..metrics.spectra import PixelChi2, chi2_per_pixel
from .predicted import PredictionCatalogue, rows_of

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..data.datacube import Batch, Datacube

IMAGE = "image"
BATCH_ROWS = 128
MASK_SCALE, MASK_MIN_RADIUS = 6.0, 8.0  # of the ellipse, in units of (a, b) and px; as the image codec has them


@dataclass
class DrawnErrors:
    """Errors of each row of the catalogue ``(n,)`` by name, and of each pixel over the rows."""

    per_object: dict[str, np.ndarray] = field(default_factory=dict)
    by_pixel: dict[str, PixelChi2] = field(default_factory=dict)  # group of spectra -> sums over objects

    def spectra(self, data: DataConfig) -> dict[str, dict[str, Any]]:
        """By group: ``wave``, mean ``chi2`` and ``pull`` of each pixel, objects ``n`` ``(P,)``, and ``wave_unit``."""
        found = {}
        for name, sums in self.by_pixel.items():
            config = data.spectra[name]
            found[name] = {
                "wave": grid(config),
                "chi2": sums.chi2(),
                "pull": sums.mean_pull(),
                "n": sums.n,
                "wave_unit": str(config.wave_unit),
            }
        return found


Lists = Mapping[str, np.ndarray]  # column of the catalogue -> (m, X), NaN where null


def drawn_columns(catalogue: PredictionCatalogue, data: DataConfig) -> tuple[str, ...]:
    """Spectrum groups, and ``image``, that a catalogue predicts."""
    names = [*data.spectra, *([IMAGE] if data.images is not None else [])]
    return tuple(name for name in names if catalogue.has(f"{name}_mean") and name not in catalogue.columns)


def drawn_errors(
    catalogue: PredictionCatalogue, cubes: Sequence[Datacube], data: DataConfig, rows: np.ndarray | None = None
) -> DrawnErrors:
    """Errors of every row ``(n,)``, NaN where nothing was predicted or observed; empty if the catalogue has no lists.

    Args:
        rows: ``(n,)`` bool, which rows to look at; default all.

    Returns:
        For each group of spectra ``<group>/chi2`` with the noise of the observation alone, ``<group>/chi2_stated``
        with the variance of the draws added, and ``<group>/pixels``; for cutouts, inside of the object's ellipse,
        ``image/noise_units`` (root mean square over bands and pixels) and ``image/flux_pull`` (root mean square over
        the bands of the summed flux's error over its noise).

    Raises:
        DataError: a predicted list has another length than what was observed.
    """
    names = drawn_columns(catalogue, data)
    if not names:
        return DrawnErrors()
    result = DrawnErrors()
    found = result.per_object = {
        f"{name}/{key}": np.full(len(catalogue), np.nan) for name in names for key in _figures_of(name)
    }
    sizes = {name: _size(data, name) for name in names}
    judges = {name: _images(data) if name == IMAGE else _spectra(data, name, result) for name in names}
    wanted = np.ones(len(catalogue), bool) if rows is None else rows
    for cube in cubes:
        ids = cube.ids()
        mine = wanted & ((catalogue.fields == cube.field) | (catalogue.fields == ""))
        place = np.full(len(catalogue), -1)
        place[mine] = rows_of(ids, catalogue.ids[mine])
        for at, lists in _lists(catalogue, sizes, place >= 0):
            for name in names:
                columns, judge = judges[name]
                mask = np.zeros(cube.n_rows, bool)
                mask[place[at]] = True
                for batch in cube.batches(columns, row_mask=mask):
                    there = at[rows_of(place[at], batch.rows)]
                    part = {key: values[np.searchsorted(at, there)] for key, values in lists.items()}
                    for key, values in judge(batch, part).items():
                        found[f"{name}/{key}"][there] = values
    return result


def _figures_of(name: str) -> tuple[str, ...]:
    return ("noise_units", "flux_pull") if name == IMAGE else ("chi2", "chi2_stated", "pixels")


def _size(data: DataConfig, name: str) -> int:
    """Numbers of a predicted list."""
    if name != IMAGE:
        return n_pixels(data.spectra[name])
    images = images_of(data)
    return len(images.bands) * images.size**2


def _lists(
    catalogue: PredictionCatalogue, sizes: Mapping[str, int], wanted: np.ndarray
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Rows of the catalogue that are wanted and predicted, and their lists, batch after batch."""
    columns = {f"{name}_{end}": size for name, size in sizes.items() for end in ("mean", "std")}
    columns = {name: size for name, size in columns.items() if catalogue.has(name)}
    start = 0
    for file in catalogue.files:
        with ParquetReader(file) as parquet:
            lengths = [group.num_rows for group in map(parquet.metadata.row_group, range(parquet.num_row_groups))]
            for number, length in enumerate(lengths):
                if wanted[start : start + length].any():
                    yield from _group_lists(parquet, number, columns, start, wanted)
                start += length


def _group_lists(
    parquet: ParquetReader, number: int, columns: Mapping[str, int], start: int, wanted: np.ndarray
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[number], columns=list(columns)):
        here = np.flatnonzero(wanted[start : start + len(batch)])
        if len(here):
            lists = {}
            for name, size in columns.items():
                column = batch.column(batch.schema.get_field_index(name))
                values, present = list_column_to_matrix(column, size, f"column {name} of the catalogue")
                lists[name] = np.where(present[:, None], values, np.nan)[here]
            yield start + here, lists
        start += len(batch)


def _spectra(data: DataConfig, group: str, found: DrawnErrors) -> tuple[list[str], Any]:
    """Columns of the datacube that a group needs, and a function from a batch and its lists to errors."""

    sums = found.by_pixel[group] = PixelChi2(n_pixels(data.spectra[group]))

    def errors(batch: Batch, lists: Lists) -> dict[str, np.ndarray]:
        observed = read_spectra(batch, data, group)
        scale = np.where(observed.present, observed.scale, np.nan)[:, None]
        flux = observed.flux * scale
        with np.errstate(invalid="ignore"):
            ivar = np.where(observed.has_ivar[:, None], (observed.precision / scale) ** 2, 0.0)
        sums.add(flux, lists[f"{group}_mean"], np.nan_to_num(ivar))
        chi2, n = chi2_per_pixel(flux, lists[f"{group}_mean"], np.nan_to_num(ivar))
        result = {"chi2": chi2, "pixels": np.where(n > 0, n, np.nan)}
        if f"{group}_std" in lists:
            variance = lists[f"{group}_std"].astype(np.float64) ** 2
            result["chi2_stated"] = chi2_per_pixel(flux, lists[f"{group}_mean"], np.nan_to_num(ivar), variance)[0]
        return result

    return spectrum_columns(data.spectra[group]), errors


def _images(data: DataConfig) -> tuple[list[str], Any]:
    readers: dict[str, ImageReader] = {}
    section = images_of(data)
    shape = (len(section.bands), section.size, section.size)

    def errors(batch: Batch, lists: Lists) -> dict[str, np.ndarray]:
        reader = readers.setdefault(batch.field, ImageReader(data, batch.field))
        images = reader.read(batch)
        inside = elliptical_mask(images.a, images.b, images.theta, images.size, MASK_SCALE, MASK_MIN_RADIUS)
        level, sigma = sky_statistics(images.flux, images.valid, inside)
        flux = np.where(images.valid, images.flux - level[:, :, None, None], np.nan)
        model = lists["image_mean"].reshape(-1, *shape)
        rms, n = noise_units(flux, model, sigma, inside)
        pull = flux_pull(flux, model, sigma, inside)
        with np.errstate(invalid="ignore"):
            total = np.nansum(np.nan_to_num(rms) ** 2 * n, axis=1) / n.sum(1)
            bands = np.isfinite(pull).sum(1)
            flux_error = np.sqrt(np.nansum(pull**2, axis=1) / np.where(bands > 0, bands, np.nan))
        return {"noise_units": np.sqrt(total), "flux_pull": flux_error}

    return image_columns(data), errors
