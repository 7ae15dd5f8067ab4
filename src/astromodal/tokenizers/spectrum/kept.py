"""What codes keep of held-out spectra, for the tokenizer's report: all groups of an object judged together.

Any survey: chi^2 per good pixel by signal-to-noise; the colour of the continuum; whether the redshift that
cross-correlation finds in the data is found in what is decoded; and where a redshift is known, flux and place of the
emission lines, and how often it is found in either. On the synthetic sky lines and colours are compared with the
noiseless spectrum, and how far from it decoded spectra are is added, in units of the noise (:mod:`.fidelity`).

Shapes: n objects, P pixels of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.schema import DataConfig, SpectrumGroupConfig, SpectrumKind
from ...data.columns import numbers
from ...data.spectra import grid, read_spectra, spectrum_columns
from ...data.synthetic import sed, spectra, true_parameters
from ...data.synthetic.population import field_name
from .fidelity import Arm, colours_kept, galaxy_redshifts_kept, lines_kept, pixel_errors, redshifts_agreeing

if TYPE_CHECKING:
    from ...data.datacube import Datacube
    from .tokenizer import SpectrumTokenizer

N_JUDGED = 200  # objects: cross-correlation takes 10 ms each
REDSHIFTS = ("specz_z", "redshift")  # columns; the first that there is
GALAXIES = (0.003, 0.8)  # redshifts that the templates are looked for at, nearer ones may be stars'
_ANGSTROM = ("angstrom", "a")
_ROWS = 100


def kept_by_codes(
    tokenizer: SpectrumTokenizer, cubes: Sequence[Datacube], rows: Mapping[str, np.ndarray], data: DataConfig
) -> dict[str, Any]:
    """Figures of the first ``N_JUDGED`` of the chosen objects that have a spectrum of known noise; empty without any.

    ``n``, ``by_snr``, ``agree`` (redshifts in the data and in what is decoded), and, where they can be had, ``colour``,
    ``lines`` and ``redshifts``.

    Args:
        rows: of each field, which objects may be judged.
    """
    groups = [g for g in tokenizer.groups if _is_spectrum(data.spectra[g])]
    found: list[tuple[dict[str, Arm], np.ndarray]] = []
    n = 0
    for cube in cubes if groups else ():
        if n < N_JUDGED and rows[cube.field].any():
            for arms, redshift in _objects(tokenizer, cube, rows[cube.field], data, groups):
                found.append((arms, redshift))
                n += len(redshift)
                if n >= N_JUDGED:
                    break
    if not n:
        return {}
    arms = {g: _joined([a[g] for a, _ in found]) for g in groups}
    arms = {g: arm for g, arm in arms.items() if (arm.ivar > 0).any()}
    redshift = np.concatenate([z for _, z in found])
    figures: dict[str, Any] = {"n": n, "by_snr": pixel_errors(arms)}
    figures["agree"] = redshifts_agreeing(arms, GALAXIES[1])
    colour = colours_kept(arms) if len(arms) > 1 else {"n": 0}
    if colour["n"]:
        figures["colour"] = colour
    near = np.flatnonzero((redshift > GALAXIES[0]) & (redshift < GALAXIES[1]))
    if len(near):
        own = {g: arm.of(near) for g, arm in arms.items()}
        figures["lines"] = lines_kept(own, redshift[near], sed.NEBULAR)
        figures["redshifts"] = galaxy_redshifts_kept(own, redshift[near], high=GALAXIES[1])
    return figures


def _is_spectrum(config: SpectrumGroupConfig) -> bool:
    """Whether a group is a spectrum with errors over wavelengths in Angstrom, and not coefficients or absorbances."""
    has_errors = bool(config.ivar or config.error)
    return config.kind == SpectrumKind.spectrum and has_errors and config.wave_unit.lower() in _ANGSTROM


def _objects(
    tokenizer: SpectrumTokenizer, cube: Datacube, mask: np.ndarray, data: DataConfig, groups: Sequence[str]
) -> Iterator[tuple[dict[str, Arm], np.ndarray]]:
    """Arms of a batch of objects, and their redshifts (n,), NaN where unknown, batch after batch."""
    column = next((name for name in REDSHIFTS if name in cube.columns), None)
    columns = [c for g in groups for c in spectrum_columns(data.spectra[g])] + ([column] if column else [])
    truth = _Truth(data, cube)
    for table in cube.batches(columns, rows=_ROWS, row_mask=mask):
        batches = {g: read_spectra(table, data, g) for g in groups}
        known = {g: b.present & b.has_ivar for g, b in batches.items()}
        some = np.logical_or.reduce(list(known.values()))
        if not some.any():
            continue
        redshift = numbers(table.column(column)).astype(np.float64) if column else np.full(len(some), np.nan)
        arms = {}
        for g, batch in batches.items():
            parts = tokenizer.encode_parts(g, batch)
            decoded = tokenizer.decode_parts(g, [codes[some] for codes, _, _ in parts.values()])
            scale = np.where(known[g], batch.scale, 1.0)[some, None]
            ivar = np.where(known[g][some, None], np.square(batch.precision[some] / scale), 0.0)
            wave, flux = grid(data.spectra[g]), batch.flux[some] * scale
            arms[g] = Arm(wave, flux, ivar, decoded * scale, truth(g, wave, np.asarray(table.rows)[some]))
        yield arms, redshift[some]


def _joined(arms: Sequence[Arm]) -> Arm:
    """Batches of one group as one."""
    flux, ivar, decoded = (np.concatenate([getattr(a, name) for a in arms]) for name in ("flux", "ivar", "decoded"))
    truths = [a.truth for a in arms if a.truth is not None]
    return Arm(arms[0].wave, flux, ivar, decoded, np.concatenate(truths) if len(truths) == len(arms) else None)


class _Truth:
    """Noiseless spectra of a field of the synthetic sky; None of any other."""

    def __init__(self, data: DataConfig, cube: Datacube) -> None:
        sky = data.synthetic
        mine = sky is not None and cube.field in map(field_name, range(sky.n_fields))
        whole = sky is not None and cube.n_rows == sky.n_objects_per_field
        self._known = true_parameters(data, cube.field) if mine and whole else None

    def __call__(self, group: str, wave: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        arm = group.removeprefix("desi_")
        if self._known is None or arm not in spectra.ARMS or not np.array_equal(wave, spectra.arm_wave(arm)):
            return None
        return spectra.noiseless_arm(arm, {name: values[rows] for name, values in self._known.items()})
