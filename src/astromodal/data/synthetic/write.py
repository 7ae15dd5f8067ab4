"""Synthetic datacubes in exactly the layout of the real ones: the same columns, types, order and encoding.

One file is one field; a field is drawn from its own seed, so that it is the same whichever process writes it, and is
written chunk by chunk, so that memory does not grow with its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...config.schema import SyntheticConfig
from ...files.atomic import atomic_path
from . import catalogue, cutouts, spectra
from .passbands import SPLUS
from .population import FRACTIONS, draw_field, field_generator, field_name, zero_points
from .sed import GALAXY, QUASAR

CHUNK = 256  # rows of a row group, as in the real cubes
_NARROW = {band: f"F{int(band[1:])}" for band in SPLUS if band[0] == "J"}
CUT_NAMES = {"r": "R", "i": "I", "g": "G", "u": "U", "z": "Z"} | _NARROW  # band -> column splus_cut_<name>
DAMAGE = ("infinite pixel", "short cutout", "negative ivar", "absurd error", "short spectrum")
# Real cubes carry these; here they are null.
_ALWAYS_NULL = ("photz_z", "sdss_psfmag_u", "sdss_psfmag_g", "sdss_psfmag_r", "sdss_psfmag_i", "sdss_psfmag_z")

Columns = dict[str, Any]


def schema() -> pa.Schema:
    """The 93 columns of the 12-band family, in the order of the real files."""
    numbers = ["a_pixel_det", "b_pixel_det", "theta_det", "ellipticity_det", "elongation_det", "fwhm_n_det"]
    numbers += [f"{prefix}mag_pstotal_{band}" for band in SPLUS for prefix in ("", "err_")]
    numbers += [f"gaia_{name}{suffix}" for name in ("parallax", "pmra", "pmdec") for suffix in ("", "_error")]
    numbers += [f"gaia_phot_{b}_mean_flux{suffix}" for b in ("g", "bp", "rp") for suffix in ("", "_error")]
    numbers += [f"gaia_{name}_gspphot" for name in ("teff", "logg", "mh")]
    numbers += [f"vista_{b}apermag6{suffix}" for b in ("y", "j", "h", "ks") for suffix in ("", "err")]
    numbers += ["specz_z", "specz_e_z", *_ALWAYS_NULL]
    lists = [f"splus_cut_{name}" for name in CUT_NAMES.values()]
    lists += [f"desi_{what}_{arm}" for what in ("wave", "flux", "ivar") for arm in "brz"]
    lists += [f"gaiaxp_{p}_{what}" for what in ("coefficients", "coefficient_errors") for p in ("bp", "rp")]
    lists += ["gaiaxp_wave", "gaiaxp_flux", "gaiaxp_flux_error"]
    text = [pa.field("id", pa.string()), pa.field("source", pa.string())]
    position = [pa.field("ra", pa.float64()), pa.field("dec", pa.float64())]
    return pa.schema(
        [
            *text,
            *position,
            *(pa.field(n, pa.float32()) for n in numbers),
            *(pa.field(n, pa.list_(pa.field("element", pa.float32()))) for n in lists),
        ]
    )


# -------------------------------------------------------------------------------------------- rows


def draw_rows(config: SyntheticConfig, field: int, start: int, stop: int, p: dict[str, np.ndarray]) -> Columns:
    """Columns of rows ``start`` to ``stop``: arrays ``(n,)``, or ``(matrix, present)`` for lists."""
    columns, rng, sources = _without_cutouts(config, field, start, stop, p)
    columns |= _cutouts(rng, config, field, *sources)
    return columns


def _without_cutouts(
    config: SyntheticConfig, field: int, start: int, stop: int, p: dict[str, np.ndarray]
) -> tuple[Columns, np.random.Generator, tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """All columns but the cutouts, the generator as they left it, and what the cutouts are made of: fluxes,
    parameters, seeing, and which objects have one."""
    rng = field_generator(config.seed, field, 100 + start // CHUNK)
    p = {key: values[start:stop] for key, values in p.items()}
    n = stop - start
    flux = catalogue.photometry(p)
    fwhm = cutouts.seeing(field_generator(config.seed, field, 4))
    mag_g = spectra.gaia_magnitude(flux["gaia"][:, 0])
    has_spectrum = _has_spectrum(rng, p["kind"], config.spectrum_fraction)
    columns: Columns = {
        "id": np.array([f"{field_name(field)}_{i:07d}" for i in range(start, stop)]),
        "source": np.full(n, "synthetic sky, see astromodal.data.synthetic"),
        "ra": p["ra"],
        "dec": p["dec"],
    }
    columns |= catalogue.shape_columns(rng, p, float(np.median(fwhm)))
    columns |= catalogue.splus_columns(rng, flux["splus"])
    columns |= catalogue.gaia_columns(rng, p, flux["gaia"])
    columns |= catalogue.vista_columns(rng, flux["vista"], covered=p["dec"] > 0.0)
    columns |= catalogue.redshift_columns(rng, p, has_spectrum)
    columns |= _arms(rng, p, has_spectrum)
    # bright stars first: the share asked for is that of all objects
    bright = (mag_g < catalogue.XP_LIMIT) & (p["kind"] != GALAXY)
    chance = min(config.xp_fraction / max(bright.mean(), 1e-9), 1.0)
    columns |= _xp(rng, p, mag_g, bright & (rng.random(n) < chance))
    return columns, rng, (flux["splus"], p, fwhm, rng.random(n) < config.image_fraction)


def true_cutouts(config: SyntheticConfig, field: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless cutouts of the objects of a row group that have any, and their rows in the field.

    Returns:
        ``(m, C, S, S)`` float32, nanomaggies per pixel, without sky, neighbours included; rows ``(m,)``.
    """
    n, start = config.n_objects_per_field, chunk * CHUNK
    p = draw_field(config.seed, field, n)
    _, rng, (flux, p, fwhm, seen) = _without_cutouts(config, field, start, min(start + CHUNK, n), p)
    scene = cutouts.scene(rng, flux[seen], {key: values[seen] for key, values in p.items()}, fwhm)
    return scene, start + np.flatnonzero(seen)


def _has_spectrum(rng: np.random.Generator, kind: np.ndarray, fraction: float) -> np.ndarray:
    """Whether each object was a target of the spectrograph: quasars twice as likely, as candidates are followed up."""
    quasar = min(2 * fraction, 1.0)
    other = (fraction - FRACTIONS[QUASAR] * quasar) / (1 - FRACTIONS[QUASAR])
    return rng.random(len(kind)) < np.where(kind == QUASAR, quasar, other)


def _arms(rng: np.random.Generator, p: dict[str, np.ndarray], rows: np.ndarray) -> Columns:
    columns: Columns = {}
    some = {key: values[rows] for key, values in p.items()}
    for arm in spectra.ARMS:
        wave = np.broadcast_to(spectra.arm_wave(arm), (len(some["kind"]), spectra.ARMS[arm][1]))
        flux, ivar = spectra.observe_arm(rng, arm, some)
        columns |= {
            f"desi_wave_{arm}": (wave, rows),
            f"desi_flux_{arm}": (flux, rows),
            f"desi_ivar_{arm}": (ivar, rows),
        }
    return columns


def _xp(rng: np.random.Generator, p: dict[str, np.ndarray], mag_g: np.ndarray, rows: np.ndarray) -> Columns:
    some = {key: values[rows] for key, values in p.items()}
    observed = spectra.observe_xp(rng, some, mag_g[rows])
    observed["gaiaxp_wave"] = np.broadcast_to(spectra.XP_WAVE, (int(rows.sum()), len(spectra.XP_WAVE)))
    return {name: (values, rows) for name, values in observed.items()}


def _cutouts(
    rng: np.random.Generator,
    config: SyntheticConfig,
    field: int,
    flux: np.ndarray,
    p: dict[str, np.ndarray],
    fwhm: np.ndarray,
    rows: np.ndarray,
) -> Columns:
    """Counts, by the field's zero points; one image in thirty lacks a band."""
    images = cutouts.observe(rng, flux[rows], {key: values[rows] for key, values in p.items()}, fwhm)
    points = np.array(list(zero_points(config.seed, field).values()))
    per_nanomaggy = 10 ** (0.4 * (points - 22.5))
    images *= per_nanomaggy.astype(np.float32)[None, :, None, None]
    cutouts.digitize(images, cutouts.sky_sigma() * per_nanomaggy)
    columns: Columns = {}
    absent = np.where(rng.random(len(images)) < 1 / 30, rng.integers(0, len(SPLUS), len(images)), -1)
    for k, band in enumerate(SPLUS):
        here = rows.copy()
        here[np.flatnonzero(rows)[absent == k]] = False
        columns[f"splus_cut_{CUT_NAMES[band]}"] = (images[absent != k, k].reshape(-1, cutouts.SIZE**2), here)
    return columns


# ------------------------------------------------------------------------------------- to Parquet


def _list_array(matrix: np.ndarray, present: np.ndarray) -> pa.Array:
    """A list column: rows of ``matrix`` where ``present``, null elsewhere."""
    width = matrix.shape[1]
    lengths = np.where(present, width, 0)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    values = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1))
    mask = pa.array(~present)
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(pa.field("element", pa.float32())), mask=mask)


def to_table(columns: Columns, n: int) -> pa.Table:
    """Columns as an Arrow table; NaN in a number is null, as in the real files."""
    arrays = []
    for field in (layout := schema()):
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(n, field.type))
        elif isinstance(values, tuple):
            arrays.append(_list_array(*values))
        elif pa.types.is_string(field.type):
            arrays.append(pa.array(values, field.type))
        else:
            values = np.asarray(values, dtype=field.type.to_pandas_dtype())
            arrays.append(pa.array(values, field.type, mask=np.isnan(values)))
    return pa.Table.from_arrays(arrays, schema=layout)


def damage(table: pa.Table, rng: np.random.Generator, kinds: Sequence[str]) -> pa.Table:
    """Spoil a row for each of ``kinds`` (:data:`DAMAGE`), as real files are spoilt."""
    for kind in kinds:
        if kind == "absurd error":
            table = _spoil_number(table, "err_mag_pstotal_u", int(rng.integers(len(table))), 4.7e5)
            continue
        name = {
            "infinite pixel": "splus_cut_R",
            "short cutout": "splus_cut_G",
            "negative ivar": "desi_ivar_r",
            "short spectrum": "desi_flux_z",
        }[kind]
        rows = np.flatnonzero(~table.column(name).is_null().to_numpy())
        if len(rows):
            table = _spoil_list(table, name, int(rng.choice(rows)), kind)
    return table


def _spoil_number(table: pa.Table, name: str, row: int, value: float) -> pa.Table:
    column = table.column(name).combine_chunks()
    array = column.to_numpy(zero_copy_only=False).copy()
    null = column.is_null().to_numpy(zero_copy_only=False).copy()
    array[row], null[row] = value, False
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(array, mask=null))


def _spoil_list(table: pa.Table, name: str, row: int, kind: str) -> pa.Table:
    column = table.column(name).combine_chunks()
    before, one, after = column.slice(0, row), column.slice(row, 1).flatten().to_numpy().copy(), column.slice(row + 1)
    if kind == "infinite pixel":
        one[len(one) // 3] = np.inf
    elif kind == "negative ivar":
        one[:50] = -1.0
    else:
        one = one[: len(one) - 7]
    spoilt = _list_array(one[None], np.array([True]))
    whole = pa.chunked_array([before, spoilt, after], column.type).combine_chunks()
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), whole)


def write_field(path: str | Path, config: SyntheticConfig, field: int) -> None:
    """Write one field's datacube, atomically."""
    n, layout = config.n_objects_per_field, schema()
    p = draw_field(config.seed, field, n)
    rng = field_generator(config.seed, field, 5)
    n_chunks = -(-n // CHUNK)
    k = config.corrupt_rows_per_field
    damage_of = [DAMAGE[(k * field + i) % len(DAMAGE)] for i in range(k)]  # neighbouring fields have different ones
    damaged_in = rng.integers(0, n_chunks, k)
    # list<float> leaves and floats are byte-stream-split, as the real cubes are
    split = [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in layout if f.type != pa.string()]
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            layout,
            compression="zstd",
            use_dictionary=False,
            column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
        ) as writer,
    ):
        for chunk, start in enumerate(range(0, n, CHUNK)):
            stop = min(start + CHUNK, n)
            table = to_table(draw_rows(config, field, start, stop, p), stop - start)
            kinds = [kind for kind, where in zip(damage_of, damaged_in, strict=True) if where == chunk]
            writer.write_table(damage(table, rng, kinds), row_group_size=CHUNK)
