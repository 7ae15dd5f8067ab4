"""How good an image tokenizer is on cutouts it was not fitted on: rate, use of the codebook, errors.

Errors are given for the pixels inside of the object's ellipse and for those outside, where there is nothing but
noise to be reproduced; with latents before and after quantisation, which tells the codec's error from the codebook's.
``cutouts`` is what astronomers measure: apertures, colours, centroids and shapes of the decoded cutouts against those
of the observed ones, in units of the errors that the noise of the sky gives them.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.photometry import sky_statistics
from ...metrics.cutouts import Measured, kept, measure, weight_width
from ...quantizers import usage_figures
from .cache import CutoutCache, CutoutLoader
from .rings import N_LEVELS

if TYPE_CHECKING:
    from .tokenizer import ImageTokenizer

N_EXAMPLES = 6  # cutouts kept for plots
REGIONS = ("inside", "outside")


class PixelSums:
    """Sums over a stream of cutouts from which all figures follow; one column per band, two regions."""

    def __init__(self, n_bands: int, softening: float) -> None:
        self.softening = softening
        self._n = np.zeros((2, n_bands))
        self._sums = np.zeros((5, 2, n_bands))  # x, x^2, error^2, error^2 without quantisation, (flux error / sigma)^2

    def add(
        self, x: np.ndarray, coded: np.ndarray, unquantized: np.ndarray, valid: np.ndarray, inside: np.ndarray
    ) -> None:
        """Normalised cutouts ``(m, C, S, S)``, decoded from tokens and from exact latents; ``inside (m, S, S)``."""
        error = coded - x
        flux_error = self.softening * (np.sinh(coded) - np.sinh(x))  # in units of the band's sky noise
        quantities = (x, x**2, error**2, (unquantized - x) ** 2, flux_error**2)
        for region, mask in enumerate((valid & inside[:, None], valid & ~inside[:, None])):
            self._n[region] += mask.sum((0, 2, 3))
            for number, quantity in enumerate(quantities):
                self._sums[number, region] += np.where(mask, quantity, 0.0).sum((0, 2, 3), dtype=np.float64)

    def means(self, region: int) -> np.ndarray:
        """Means of the five quantities per band, ``(5, C)``; NaN for a band without pixels there."""
        n = self._n[region]
        return np.where(n > 0, self._sums[:, region] / np.maximum(n, 1), np.nan)


def report_on(tokenizer: ImageTokenizer, cache: CutoutCache) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures over the cutouts of ``cache``, and example arrays for plots."""
    bands = tokenizer.scaling_.bands
    sums = PixelSums(len(bands), tokenizer.config.softening)
    books = tokenizer.quantizer_.codebooks
    usages = [np.zeros(len(book.entries), dtype=np.int64) for book in books]
    latent_sums = np.zeros(3)  # values, squared error of quantisation, squared distance from the codebook's mean
    examples: dict[str, Any] = {}
    pairs: list[tuple[Measured, Measured]] = []
    n_judged = 0
    centre = reduce(np.add, (book.mean for book in books))[None, :, None, None]
    for batch in CutoutLoader(cache, tokenizer.config.batch_size, tokenizer.ellipse, train=False):
        latents = tokenizer.encode_normalized(batch["x"], batch["valid"])
        tokens = tokenizer.quantize(latents)
        quantized = tokenizer.dequantize(tokens)
        x, valid, inside = (batch[name].numpy() for name in ("x", "valid", "inside"))
        rings = tokenizer.rings_
        fluxes = None if rings is None else rings.encode(tokenizer.ring_values(rings, x, valid, tokens))
        decoded = tokenizer.decode(tokens, fluxes)
        coded = decoded.normalized
        exact = tokenizer.decode_latents(latents).normalized
        sums.add(x, coded, exact, valid, inside)
        a, b, _ = cache.ellipses[n_judged : n_judged + len(x)].T
        n_judged += len(x)
        pairs.append(
            _measured(tokenizer.scaling_.inverse(x), decoded.flux, valid, inside, weight_width(a, b, len(inside[0])))
        )
        for usage, codes in zip(usages, tokens.reshape(-1, len(usages)).T, strict=True):
            usage += np.bincount(codes, minlength=len(usage))
        latent_sums += (latents.size, ((latents - quantized) ** 2).sum(), ((latents - centre) ** 2).sum())
        if not examples:
            k = slice(0, N_EXAMPLES)
            examples = {"true": np.where(valid[k], x[k], np.nan), "reconstruction": coded[k], "mask": inside[k]}
    report = _rate(tokenizer, usages) | _latents(latent_sums) | _pixels(sums, bands)
    seen, shown = (Measured.together(side) for side in zip(*pairs, strict=True))
    report["cutouts"] = kept(seen, shown, bands)
    return report, examples | {"bands": list(bands)}


def _measured(
    observed: np.ndarray, decoded: np.ndarray, valid: np.ndarray, inside: np.ndarray, width: np.ndarray
) -> tuple[Measured, Measured]:
    """What is measured on observed cutouts and on decoded ones ``(m, C, S, S)``, both without their sky."""
    _, sigma = sky_statistics(observed, valid, inside)
    return measure(observed, sigma, valid, width), measure(decoded, sigma, valid, width)


def _rate(tokenizer: ImageTokenizer, usages: list[np.ndarray]) -> dict[str, Any]:
    """Bits per object by the entropy of the usage, and what they would be without an entropy coder."""
    figures = usage_figures(usages)
    rings = tokenizer.rings_
    n_rings, ring_bits = (0, 0.0) if rings is None else (rings.n_tokens, usage_figures([rings.counts])["bits"])
    uncoded = sum(float(np.log2(max(len(usage), 2))) for usage in usages)
    return (
        figures
        | tokenizer.quantizer_.fit_figures()
        | {
            "n_tokens": tokenizer.n_tokens * len(usages) + n_rings,
            "bits_per_object": tokenizer.n_tokens * figures["bits"] + n_rings * ring_bits,
            "bits_per_object_uncoded": tokenizer.n_tokens * uncoded + n_rings * float(np.log2(N_LEVELS)),
            "perplexity_fraction": figures["perplexity"] * len(usages) / figures["n_codes"],
        }
    )


def _latents(sums: np.ndarray) -> dict[str, float]:
    """Mean squared error of quantisation per latent number, and as a share of the latents' variance."""
    n, error, spread = sums
    return {"latent_mse": error / n, "latent_variance_fraction": error / spread if spread > 0 else float(error > 0)}


def _pixels(sums: PixelSums, bands: tuple[str, ...]) -> dict[str, Any]:
    """Errors as shares of the variance (1 = the band's mean) and in units of the sky noise, per region and band."""
    report: dict[str, Any] = {}
    for region, name in enumerate(REGIONS):
        mean, square, error, exact, flux = sums.means(region)
        variance = square - mean**2
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = {"": error / variance, "_unquantized": exact / variance}
        for suffix, share in shares.items():
            share = np.where(np.isfinite(share), share, np.nan)
            report[f"variance_fraction_{name}{suffix}"] = _mean(share)
        share = np.where(variance > 0, error / np.where(variance > 0, variance, 1.0), np.nan)
        report[f"variance_fraction_{name}_per_band"] = _named(bands, share)
        report[f"rmse_{name}_arcsinh"] = float(np.sqrt(_mean(error)))
        report[f"rmse_{name}_sigma"] = float(np.sqrt(_mean(flux)))
        report[f"rmse_{name}_sigma_per_band"] = _named(bands, np.sqrt(flux))
    report["variance_fraction"] = report["variance_fraction_inside"]
    return report


def _mean(values: np.ndarray) -> float:
    """Mean over the bands that have a value."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def _named(bands: tuple[str, ...], values: np.ndarray) -> dict[str, float | None]:
    """Values by band name; null where there is none."""
    return {band: float(v) if np.isfinite(v) else None for band, v in zip(bands, values, strict=True)}
