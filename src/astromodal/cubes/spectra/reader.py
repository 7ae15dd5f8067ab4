"""Spectra of some objects as the list columns of ``data.spectra``, whatever file they are in.

Each arm of a file becomes one group; a spectrum that is whole is cut by the wavelengths of the groups' grids. Pixels
stay those of the file: they are put on the grid when a datacube is read. Flux comes into the unit of the group,
wavelengths into its unit and into vacuum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...data.spectra import grid
from ...errors import ConfigError, DataError
from ..fits_files import OpenFiles
from ..matching import Matches
from ..staging import Staged
from ..tables import UNIT, batches
from ..templates import fill
from ..units import air_to_vacuum, factor
from . import desi, sdss
from .desi import FILE, ROWS, Arm

if TYPE_CHECKING:
    from ...config.schema import SpectraSourceConfig, SpectrumGroupConfig

LIST = pa.list_(pa.field("element", pa.float32()))  # of a list column, as the real datacubes have it
Groups = Mapping[str, "SpectrumGroupConfig"]


class SpectraReader:
    """Spectra of one source for the objects of one field: :meth:`plan`, then :meth:`read`."""

    def __init__(self, name: str, source: SpectraSourceConfig, groups: Groups, root: Path, files: OpenFiles) -> None:
        self.name, self.source, self.root, self.files = name, source, root, files
        self.groups = {group: groups[group] for group in source.groups}
        self.format = source.format.value

    def plan_matched(self, matches: Matches, index: Staged) -> list[Path]:
        """Take the files and rows that an index knows of the objects; returns the files."""
        found = index.take(matches.rows, (FILE, ROWS))
        self.paths = found.column(FILE).to_pylist()
        self.rows = [np.asarray(r if r is not None else [], np.int64) for r in found.column(ROWS).to_pylist()]
        return self._planned()

    def plan_named(self, words: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Take the file that the template names for each object, where it is there."""
        key = f"cubes.spectra.{self.name}.path"
        named = [self.root / fill(self.source.path or "", values, key) for values in words]
        self.paths = [str(path) if path.is_file() else None for path in named]
        self.rows = [np.zeros(1, np.int64)] * len(named)
        return self._planned()

    def _planned(self) -> list[Path]:
        self.has = np.array([path is not None for path in self.paths], bool)
        self.wanted = dict.fromkeys(self.groups, self.has)
        return [Path(path) for path in dict.fromkeys(self.paths) if path is not None]

    def leave_to(self, earlier: Sequence[SpectraReader]) -> int:
        """Leave out, group by group, what an earlier source has; returns of how many objects."""
        again = np.zeros(len(self.has), bool)
        for reader in earlier:
            for group in self.wanted.keys() & reader.wanted.keys():
                again |= self.wanted[group] & reader.wanted[group]
                self.wanted[group] = self.wanted[group] & ~reader.wanted[group]
        self.has = np.any(list(self.wanted.values()), axis=0)
        return int(again.sum())

    def read(self, rows: np.ndarray) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """List columns of some of the planned objects.

        Returns:
            name of the datacube's column → list array of ``len(rows)``; counts: ``pixels`` and ``masked``, by group.
        """
        place: dict[str, list[int]] = {}
        for k in np.flatnonzero(self.has[rows]):
            place.setdefault(self.paths[rows[k]], []).append(int(k))
        parts: dict[str, list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]] = {group: [] for group in self.groups}
        counts = {f"{group}.{what}": 0 for group in self.groups for what in ("pixels", "masked")}
        for path, objects in place.items():
            for group, arm in self._arms(path, [self.rows[rows[k]] for k in objects]):
                taken = np.flatnonzero(self.wanted[group][rows[objects]])
                flux, ivar = arm["flux"][taken], arm["ivar"][taken]
                counts[f"{group}.pixels"] += flux.size
                counts[f"{group}.masked"] += int(((ivar <= 0) | ~np.isfinite(flux)).sum())
                parts[group] += [(objects[i], arm["wave"], f, v) for i, f, v in zip(taken, flux, ivar, strict=True)]
        columns: dict[str, pa.Array] = {}
        for group, found in parts.items():
            columns |= _columns(self.groups[group], sorted(found, key=lambda part: part[0]), len(rows))
        return columns, counts

    def _arms(self, path: str, rows: list[np.ndarray]) -> list[tuple[str, Arm]]:
        """Arms by the name of their group, in the units of the group."""
        reader = {"desi": desi.read, "sdss": sdss.read, "table": self._table}[self.format]
        arms = reader(self.files, path, rows, self.source.mask_bits)
        names = list(self.groups)
        if len(arms) == len(names):
            pairs = list(zip(names, arms, strict=True))
        elif len(arms) == 1:
            pairs = [(name, arms[0]) for name in names]
        else:
            raise DataError(
                f"as many arms as cubes.spectra.{self.name}.groups ({', '.join(names)}), or one",
                got=", ".join(arm["name"] for arm in arms),
                where=path,
                repair=f"cubes.spectra.{self.name}.groups=[…]",
            )
        whole = len(arms) == 1
        return [(name, self._in_units(arm, self.groups[name], path, whole)) for name, arm in pairs]

    def _in_units(self, arm: Arm, group: SpectrumGroupConfig, path: str, cut: bool) -> Arm:
        own, key = self.source, f"cubes.spectra.{self.name}"
        times = factor(own.flux_unit or arm["flux_unit"], group.unit, path, f"{key}.flux_unit=…")
        wave = arm["wave"]
        if wave is not None:
            to_angstrom = factor(
                own.wave_unit or arm["wave_unit"] or group.wave_unit, "Angstrom", path, f"{key}.wave_unit=…"
            )
            wave = wave * to_angstrom
            if in_air(own.medium.value, arm["header"]):
                wave = air_to_vacuum(wave)
            wave = wave * factor("Angstrom", group.wave_unit, path, f"{key}.wave_unit=…")
        else:
            wave = grid(group)
            if arm["flux"].shape[1] != len(wave):
                raise DataError(
                    f"{len(wave)} pixels, as the grid of data.spectra has",
                    got=arm["flux"].shape[1],
                    where=path,
                    repair=f"{key}.wave=<column>",
                )
        keep = slice(None)
        if cut and len(self.groups) > 1:
            keep = (wave >= group.wave_min - group.wave_step) & (wave <= group.wave_max + group.wave_step)
        flux, ivar = arm["flux"][:, keep], arm["ivar"][:, keep]
        if times != 1:
            flux, ivar = flux * times, ivar / times**2
        return {"wave": wave[keep], "flux": flux, "ivar": ivar}

    def _table(self, files: OpenFiles, path: str, rows: list[np.ndarray], bits: int | None) -> list[Arm]:
        """A table with a row per pixel, as one arm."""
        own = self.source
        names = [n for n in (own.flux, own.ivar, own.error, own.wave, own.mask) if n]
        table = pa.Table.from_batches(list(batches(Path(path), names, own.hdu)))
        units = {n: ((table.schema.field(n).metadata or {}).get(UNIT) or b"").decode() for n in names}

        def values(name: str) -> np.ndarray:
            column = table.column(name).combine_chunks()
            if pa.types.is_list(column.type):  # one row with array cells
                column = column.flatten()
            return column.cast(pa.float64()).to_numpy(zero_copy_only=False)

        flux = values(own.flux)
        if own.error:
            with np.errstate(divide="ignore", invalid="ignore"):
                error = values(own.error)
                ivar = np.where(error > 0, 1.0 / np.square(error), 0.0)
        else:
            ivar = values(own.ivar) if own.ivar else np.full(len(flux), np.nan)
        if own.mask:
            flags = np.nan_to_num(values(own.mask)).astype(np.int64)
            ivar = np.where((flags & (-1 if bits is None else bits)) != 0, 0.0, ivar)
        wave = values(own.wave) if own.wave else None
        for name, array in ((own.ivar or own.error, ivar), (own.wave, wave)):
            if array is not None and len(array) != len(flux):
                raise DataError(f"{len(flux)} values, as of flux", got=len(array), where=f"{path}, column {name}")
        if own.log_wave and wave is not None:
            wave = 10.0**wave
        stated = None if own.log_wave else units.get(own.wave or "")
        k = len(rows)
        return [
            {
                "name": "",
                "wave": wave,
                "flux": np.tile(flux, (k, 1)),
                "ivar": np.tile(ivar, (k, 1)),
                "wave_unit": stated,
                "flux_unit": units[own.flux],
                "header": {},
            }
        ]


def in_air(medium: str, header: Any) -> bool:
    """Whether wavelengths are in air: as the configuration says, or the header (vacuum where it says nothing).

    Headers say so by VACUUM (SDSS), AIRORVAC (many pipelines), or the axis type AWAV (Greisen et al. 2006).

    >>> in_air("header", {"AIRORVAC": "air"}), in_air("header", {"VACUUM": True}), in_air("header", {})
    (True, False, False)
    """
    if medium != "header":
        return medium == "air"
    if isinstance(header.get("VACUUM"), bool | int | np.bool_):
        return not header["VACUUM"]
    stated = str(header.get("AIRORVAC", "")).strip().lower()
    return stated == "air" or str(header.get("CTYPE1", "")).upper().startswith("AWAV")


def check_groups(name: str, source: SpectraSourceConfig, groups: Groups) -> None:
    """Refuse groups that the survey does not have, or that are no spectra against wavelength."""
    if not source.groups:
        raise ConfigError(
            "groups of data.spectra that the spectra go to", got="none", where=f"cubes.spectra.{name}.groups"
        )
    for group in source.groups:
        if group not in groups:
            raise ConfigError(
                f"groups among {', '.join(groups) or 'none: data.spectra is empty'}",
                got=group,
                where=f"cubes.spectra.{name}.groups",
            )
        if groups[group].kind.value != "spectrum":
            raise ConfigError(
                "groups with wavelengths",
                got=f"{group}, of coefficients",
                where=f"cubes.spectra.{name}",
                repair="take coefficients from a table: cubes.matches",
            )


def _columns(group: SpectrumGroupConfig, parts: list[tuple], n: int) -> dict[str, pa.Array]:
    """Parts (place, wave, flux, ivar), in the order of places, as the list columns of a group."""
    lengths = np.zeros(n, np.int64)
    for place, wave, _, _ in parts:
        lengths[place] = len(wave)
    has = np.zeros(n, bool)
    has[[part[0] for part in parts if len(part[1])]] = True
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))

    def lists(values: list[np.ndarray]) -> pa.Array:
        flat = np.concatenate(values) if values else np.empty(0)
        with np.errstate(over="ignore"):
            return pa.ListArray.from_arrays(offsets, pa.array(flat.astype(np.float32)), type=LIST, mask=pa.array(~has))

    ivars = [part[3] for part in parts]
    measured = not parts or any(np.isfinite(ivar).any() for ivar in ivars)
    found = {group.flux: lists([part[2] for part in parts])}
    if group.wave:
        found[group.wave] = lists([part[1] for part in parts])
    if group.ivar and measured:
        found[group.ivar] = lists([np.nan_to_num(ivar, nan=0.0) for ivar in ivars])
    if group.error and measured:
        with np.errstate(divide="ignore", invalid="ignore"):
            found[group.error] = lists([np.where(ivar > 0, 1.0 / np.sqrt(ivar), np.nan) for ivar in ivars])
    return found
