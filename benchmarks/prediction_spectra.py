"""Predicted spectra against the observed ones, relative to their brightness, for surveys that state no flux errors.

An object's error is the root mean square over its pixels of predicted minus observed flux, over that of the observed
flux, and at most 1. Beside it, on the same objects and from the same magnitudes: what the training spectra alone say
(``marginal``: their mean shape, at their median brightness), the mean shape at the object's own brightness, nearest
neighbours, and a linear regression of flux on band fluxes; and ``tokenizer``: the observed spectrum, encoded and
decoded.

Shapes: n objects, P pixels, k magnitudes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from astromodal.config.schema import DataConfig
from astromodal.data import discover
from astromodal.data.spectra import read_spectra, spectrum_columns
from astromodal.data.splits import TEST, TRAIN
from astromodal.judge.predicted import PredictionCatalogue, rows_of
from astromodal.tokenizers import TokenizerSet
from astromodal.tokens.store import TokenStore

N_NEIGHBOURS, RIDGE = 10, 1e-4
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


class Observed(NamedTuple):
    """Objects with a spectrum and all magnitudes."""

    ids: np.ndarray  # (n,)
    split: np.ndarray  # (n,)
    flux: np.ndarray  # (n, P) float64
    decoded: np.ndarray  # (n, P), through the tokenizer
    magnitudes: np.ndarray  # (n, k)


def relative_error(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Root mean square error over the pixels, as a share of the observed flux's root mean square: ``(n,)``, at most 1.

    No flux at all would have an error of 1, so more says nothing; without the limit a few objects are the mean.

    >>> predicted = np.array([[3.0, 5.0], [0.0, 0.0], [9.0, 0.0]])
    >>> relative_error(predicted, np.array([[3.0, 4.0], [3.0, 4.0], [1.0, 1.0]])).tolist()
    [0.2, 1.0, 1.0]
    """
    return np.minimum(np.sqrt(((predicted - observed) ** 2).mean(1) / (observed**2).mean(1)), 1.0)


def shape_error(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The same after each prediction is made as bright as suits it best: ``(n,)``.

    >>> shape_error(np.array([[2.0, 4.0]]), np.array([[1.0, 2.0]])).tolist()
    [0.0]
    """
    best = (predicted * observed).sum(1) / (predicted**2).sum(1)
    return relative_error(best[:, None] * predicted, observed)


# ----------------------------------------------------------------------------------------- baselines
# (training magnitudes, training flux, asked magnitudes, index of the reference band) -> flux of the asked ones


def marginal(magnitudes: np.ndarray, flux: np.ndarray, asked: np.ndarray, reference: int) -> np.ndarray:
    """Whatever is asked: the mean shape, at the median brightness."""
    rms = np.sqrt((flux**2).mean(1))
    return np.tile((flux / rms[:, None]).mean(0) * np.median(rms), (len(asked), 1))


def mean_shape(magnitudes: np.ndarray, flux: np.ndarray, asked: np.ndarray, reference: int) -> np.ndarray:
    """The mean spectrum of an object of one magnitude, made as bright as the asked one is in that band."""
    return brightness(asked, reference) * (flux / brightness(magnitudes, reference)).mean(0)


def neighbours(magnitudes: np.ndarray, flux: np.ndarray, asked: np.ndarray, reference: int) -> np.ndarray:
    """The same of the training objects whose magnitudes, relative to one band's, are nearest."""
    places, wanted = (m - m[:, [reference]] for m in (magnitudes, asked))
    distance = ((wanted[:, None] - places[None]) ** 2).sum(2)
    near = np.argsort(distance, axis=1)[:, :N_NEIGHBOURS]
    return brightness(asked, reference) * (flux / brightness(magnitudes, reference))[near].mean(1)


def linear(magnitudes: np.ndarray, flux: np.ndarray, asked: np.ndarray, reference: int) -> np.ndarray:
    """Least squares of flux on the fluxes of the bands, all relative to one band, with a little of a ridge."""
    target = flux / brightness(magnitudes, reference)
    unit = np.sqrt((target**2).mean())
    known, wanted = (brightness(m) / brightness(m, reference) for m in (magnitudes, asked))
    known, wanted = (np.concatenate([f, np.ones((len(f), 1))], axis=1) for f in (known, wanted))
    weights = np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ (target / unit))
    return brightness(asked, reference) * unit * (wanted @ weights)


def brightness(magnitudes: np.ndarray, band: int | None = None) -> np.ndarray:
    """Flux in units of zero magnitude: ``(n, k)``, or of one band ``(n, 1)``."""
    return 10 ** (-0.4 * (magnitudes if band is None else magnitudes[:, [band]]))


BASELINES: dict[str, Predict] = {
    "marginal": marginal,
    "mean shape": mean_shape,
    "neighbours": neighbours,
    "linear": linear,
}


# ------------------------------------------------------------------------------------------- figures


def observed_spectra(run: Path, group: str, columns: tuple[str, ...]) -> Observed:
    """What a run of ``evaluate.py`` was asked about, from the cubes and token files that its configuration names."""
    content = OmegaConf.load(run / "config.yaml")
    data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), content.data))
    home = run.parents[3]  # runs/evaluate/<name>/<id>: where the paths are from
    store = TokenStore(home / content.paths.store)
    tokenizer = TokenizerSet.load(home / content.paths.store / "tokenizers").spectrum
    parts = []
    for cube in discover(data, str(content.paths.datacube_template)):
        tokens = store.open(cube.field)
        at = [tokens.columns.index(name) for name in columns]
        place, ids = rows_of(tokens.ids, cube.ids()), cube.ids()
        for batch in cube.batches(spectrum_columns(data.spectra[group])):
            read = read_spectra(batch, data, group)
            codes, _ = tokenizer.encode(group, read)
            magnitudes = tokens.scalar["values"][place[batch.rows]][:, at].astype(np.float64)
            whole = read.present & np.isfinite(magnitudes).all(1)
            decoded = tokenizer.decode_normalized(group, codes[whole]).astype(np.float64)
            scale = read.scale[whole, None]
            parts.append(
                (
                    ids[batch.rows][whole],
                    tokens.split[place[batch.rows]][whole],
                    read.flux[whole] * scale,
                    decoded * scale,
                    magnitudes[whole],
                )
            )
    return Observed(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def baseline_errors(spectra: Observed, reference: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Relative and shape error of every test object ``(n,)`` by baseline, and of the tokenizer alone."""
    train, test = spectra.split == TRAIN, spectra.split == TEST
    given = spectra.magnitudes[train], spectra.flux[train], spectra.magnitudes[test], reference
    found = {name: predict(*given) for name, predict in BASELINES.items()} | {"tokenizer": spectra.decoded[test]}
    flux = spectra.flux[test]
    return {name: (relative_error(answer, flux), shape_error(answer, flux)) for name, answer in found.items()}


def predicted_errors(run: Path, group: str, spectra: Observed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the model, for every test object: relative and shape error, share of the pixels within a stated deviation."""
    test = spectra.split == TEST
    place = rows_of(PredictionCatalogue(run).ids, spectra.ids[test])
    table = pq.read_table(run / "catalogue.parquet", columns=[f"{group}_mean", f"{group}_std"])
    n_pixels = spectra.flux.shape[1]
    mean, std = (
        column.combine_chunks().flatten().to_numpy().reshape(-1, n_pixels)[place].astype(np.float64)
        for column in table.columns
    )
    flux = spectra.flux[test]
    return relative_error(mean, flux), shape_error(mean, flux), (np.abs(mean - flux) <= std).mean(1)
