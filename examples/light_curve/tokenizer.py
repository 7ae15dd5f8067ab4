"""From observations at any time to one code per window of time, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from astromodal.config.schema import KMeansConfig
from astromodal.data.columns import list_column_ragged
from astromodal.data.findings import Findings
from astromodal.errors import DataError
from astromodal.files.io import load_npz, save_npz
from astromodal.plots.panels import never_fatal, panels_in_a_row, save
from astromodal.quantizers.kmeans import KMeans
from astromodal.quantizers.report import usage_figures
from astromodal.quantizers.reservoir import Reservoir
from astromodal.tokenizers.base import Tokenizer, plain
from astromodal.vocabulary.codebook import Codebook

from . import LightCurveConfig, LightCurveTokenizerConfig

FILE = "light_curve_tokenizer.npz"


class LightCurveTokenizer(Tokenizer):
    """k-means over windows of time: of each band the mean flux there, against the whole curve's.

    Shapes: n objects, T windows, B bands. How bright an object is stays with the scalars; a code tells how it varies.
    """

    name = "light_curve"

    def __init__(self, config: LightCurveTokenizerConfig | None = None, hardware: Any = None) -> None:
        super().__init__(config or LightCurveTokenizerConfig())
        self.quantizer: KMeans | None = None

    def use(self, hardware: Any) -> Self:
        """Nothing here runs on a device."""
        return self

    # ------------------------------------------------------- what sequences, model and loss ask of it

    @property
    def n_tokens(self) -> int:
        return self.config.n_windows

    @property
    def codebook(self) -> Codebook:
        return self.quantizer.codebook

    def layout(self, data: Any) -> dict[str, Any]:
        return plain(data.light_curves)

    def encode(self, batch: Any, data: Any, findings: Findings) -> tuple[np.ndarray, np.ndarray, None]:
        """Codes ``(n, T)``, which objects have a curve ``(n,)``, and no errors."""
        windows, present = read_windows(batch, data.light_curves, self.config.n_windows, findings)
        codes = self.quantizer.encode(windows.reshape(-1, windows.shape[2])).reshape(windows.shape[:2])
        return codes, present, None

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Mean fluxes ``(n, T, B)`` in units of the curve's spread."""
        return self.codebook.entries[codes]

    # ---------------------------------------------------------------------------- fitting and report

    def fit(
        self, cubes: Sequence[Any], splits: Mapping[str, np.ndarray], data: Any, run: Any = None, seed: int = 0
    ) -> dict[str, Any]:
        rows, findings = self._start_fit(cubes, splits, data, seed), Findings()
        sample = Reservoir(self.config.max_fit_rows, data.light_curves.n_bands, [seed, 0x11C])
        for windows in self._curves(cubes, rows.fit, data, findings):
            sample.add(windows.reshape(-1, windows.shape[2]))
        if not len(sample.rows):
            raise DataError("light curves in the training objects", got="none", where=findings.said() or "data")
        self.quantizer = KMeans(KMeansConfig(n_codes=self.config.n_codes), seed).fit(sample.rows)
        held_out = [np.zeros((0, self.config.n_windows, data.light_curves.n_bands), np.float32)]
        held_out = np.concatenate([*held_out, *self._curves(cubes, rows.held_out, data, Findings())])
        codes = self.quantizer.encode(held_out.reshape(-1, held_out.shape[2])).reshape(held_out.shape[:2])
        usage = usage_figures([np.bincount(codes.ravel(), minlength=len(self.codebook.entries))])
        lost = float(np.square(held_out - self.decode(codes)).sum())
        report = usage | {
            "n": len(held_out),
            "n_tokens": self.n_tokens,
            "fraction_of_variance": lost / max(float(np.square(held_out - held_out.mean((0, 1))).sum()), 1e-30),
            "bits_per_object": usage["bits"] * self.n_tokens,
            "arrays": {"observed": held_out[:4], "decoded": self.decode(codes[:4])},
        }
        return self._finish_fit(report, findings, run)

    def _curves(self, cubes: Any, masks: Mapping[str, np.ndarray], data: Any, findings: Findings) -> Iterator[Any]:
        """Windows ``(n, T, B)`` of the chosen objects that have a curve."""
        for cube in cubes:
            for batch in cube.batches(list(data.light_curves.columns()), row_mask=masks[cube.field]):
                windows, present = read_windows(batch, data.light_curves, self.config.n_windows, findings)
                yield windows[present]

    # -------------------------------------------------------------------------------------- storage

    def _write(self, folder: Path) -> list[Path]:
        told = {"config": plain(self.config), "layout": self.layout_, "inputs": self.inputs_}
        save_npz(folder / FILE, self.quantizer.state() | {"json": np.array(json.dumps(told))})
        return [folder / FILE]

    @classmethod
    def _read(cls, folder: Path) -> Self:
        arrays = load_npz(folder / FILE)
        told = json.loads(str(arrays.pop("json")))
        tokenizer = cls(LightCurveTokenizerConfig(**told["config"]))
        tokenizer.layout_, tokenizer.inputs_ = told["layout"], told["inputs"]
        tokenizer.quantizer = KMeans.from_state(arrays)
        return tokenizer


def read_windows(
    batch: Any, config: LightCurveConfig, n_windows: int, findings: Findings
) -> tuple[np.ndarray, np.ndarray]:
    """Windows ``(n, T, B)`` and which objects have a curve ``(n,)``; a window without observations is 0, the mean.

    Raises:
        DataError: the four lists of a row differ in length.
    """
    columns = [list_column_ragged(batch.column(name), name) for name in config.columns()]
    (time, offsets, given), (band, *_), (flux, *_), (error, *_) = columns
    if any(not np.array_equal(offsets, other) for _, other, _ in columns):
        raise DataError("lists of one length in a row", got="others", where=", ".join(config.columns()))
    n, shape = len(given), (len(given), n_windows, config.n_bands)
    place = (time - config.start) / (config.stop - config.start)
    good = np.isfinite(flux) & (error > 0) & np.isfinite(error) & (place >= 0) & (place < 1)
    good &= (band >= 0) & (band < config.n_bands)
    row = np.repeat(np.arange(n), np.diff(offsets))[good]
    band, flux, weight = band[good].astype(np.int64), flux[good].astype(np.float64), 1.0 / error[good] ** 2.0
    cell = (row * n_windows + (place[good] * n_windows).astype(np.int64)) * config.n_bands + band
    mass = np.bincount(cell, weight, np.prod(shape)).reshape(shape)
    sums = np.bincount(cell, weight * flux, np.prod(shape)).reshape(shape)
    seen = mass > 0
    mean = np.divide(sums, mass, out=np.zeros(shape), where=seen)
    of_band = np.divide(sums.sum(1), mass.sum(1), out=np.zeros((n, config.n_bands)), where=seen.any(1))
    off = np.where(seen, mean - of_band[:, None], 0.0)
    spread = np.sqrt(np.square(off).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1))
    present = seen.any((1, 2))
    windows = off / np.where(spread > 0, spread, 1.0)[:, None, None]
    lost = {"null": ~given, "no_valid_pixel": given & ~present, "invalid_pixels": ~good}
    findings.add(batch.field, "light_curve", {why: int(rows.sum()) for why, rows in lost.items()}, int(present.sum()))
    return windows.astype(np.float32), present


@never_fatal
def plot_report(report: Mapping[str, Any], path: Path) -> Path | None:
    """Observed and decoded windows of a few held-out objects."""
    arrays = report["arrays"]
    if not len(arrays["observed"]):
        return None
    figure, axes = panels_in_a_row(len(arrays["observed"]), 3.0, 2.4)
    for axis, observed, decoded in zip(axes, arrays["observed"], arrays["decoded"], strict=True):
        axis.plot(observed, "o")
        axis.plot(decoded, "-")
        axis.set(xlabel="window", title="light curve: observed, decoded")
    return save(figure, path)
