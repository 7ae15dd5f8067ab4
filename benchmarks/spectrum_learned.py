"""A spectrum codec learned through its quantizer, judged as ``spectrum_tokens.py`` judges patches and k-means.

    python benchmarks/spectrum_learned.py --work W                   # 20 CPU-minutes of training, one thread
    python benchmarks/spectrum_learned.py --work W --minutes 5 --width 96

One encoder reads the three arms of an object as one spectrum (denoised, as those of the codebooks are), with the
wavelength as an input. A spline of 24 numbers is the continuum, each number a token. What it leaves is cut into patches
of 65 pixels; a transformer over all patches of a spectrum gives each 8 numbers, which are rounded to a few levels with
straight-through gradients (FSQ, Mentzer et al. 2023) and make two tokens of 1920 codes; a second transformer decodes
them together. 264 tokens an object, 24 + 240. The loss is chi^2 per pixel and of means over 8 pixels, which see lines,
levelled off for what is far away; training spectra are also shown with noise added.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import spectrum_tokens
import torch
from scipy.interpolate import BSpline
from spectrum_tokens import GROUPS, Judged
from torch import Tensor, nn

from astromodal.config.schema import Config
from astromodal.data.columns import numbers
from astromodal.data.datacube import Datacube
from astromodal.data.spectra import SpectrumBatch, read_spectra, spectrum_columns
from astromodal.data.splits import TRAIN
from astromodal.data.synthetic.spectra import ARM_STEP, ARMS
from astromodal.files.io import write_json
from astromodal.tokenizers.spectrum.denoise import denoise
from astromodal.tokenizers.spectrum.patches import pixel_weights

FIRST = {arm: round((start - ARMS["b"][0]) / ARM_STEP) for arm, (start, _) in ARMS.items()}  # pixel of all arms
N_PIXELS = max(FIRST[arm] + n for arm, (_, n) in ARMS.items())
PATCH, N_KNOTS, N_BINS = 65, 24, 2048
N_PATCHES = -(-N_PIXELS // PATCH)
LEVELS = (8, 8, 6, 5)  # of the numbers of a token: 1920 codes
N_CODES = int(np.prod(LEVELS))
UNIT = 0.05  # of a spectrum's scale: from here on numbers are taken by their logarithms
BATCH, RATE, FAR = 16, 1.5e-3, 9.0
TENDED = (8.0, 0.3)  # bins of the line-seeing term, its weight


class Whole:
    """Spectra (n, P) of all arms in one, in units of their scales (n, 1): denoised flux, continuum, what it leaves."""

    def __init__(self, flux: np.ndarray, ivar: np.ndarray, false_features: float) -> None:
        self.smooth, _ = denoise(flux, np.sqrt(ivar), false_features)
        good = ivar > 0
        self.smooth = np.where(good | np.isfinite(self.smooth), self.smooth, 0.0)
        self.scale = np.maximum(np.median(np.abs(self.smooth), axis=1, keepdims=True), 1e-3)
        self.smooth = self.smooth / self.scale
        self.precision = (np.sqrt(ivar) * self.scale).astype(np.float32)
        self.weight = pixel_weights(self.precision)


def joined(batches: dict[str, SpectrumBatch], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flux and inverse variance (n, P) of all arms in one, weighted means where two overlap."""
    total, weight = np.zeros((2, len(rows), N_PIXELS))
    for group, batch in batches.items():
        arm, scale = group[-1], batch.scale[rows, None]
        ivar = np.square(batch.precision[rows].astype(np.float64) / scale)
        place = slice(FIRST[arm], FIRST[arm] + ARMS[arm][1])
        weight[:, place] += ivar
        total[:, place] += ivar * np.where(ivar > 0, batch.flux[rows] * scale, 0.0)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), weight


class Continuum:
    """Cubic splines through N_KNOTS numbers, each as one of N_BINS codes."""

    def __init__(self) -> None:
        knots = np.concatenate([np.zeros(3), np.linspace(0, N_PIXELS - 1, N_KNOTS - 2), np.full(3, N_PIXELS - 1)])
        self.basis = BSpline.design_matrix(np.arange(N_PIXELS, dtype=float), knots, 3).toarray().astype(np.float32)
        self._pairs = (self.basis[:, :, None] * self.basis[:, None]).reshape(N_PIXELS, -1)
        self.low, self.high = -1.0, 1.0

    def _fit(self, spectra: Whole) -> np.ndarray:
        normal = (spectra.weight @ self._pairs).reshape(-1, N_KNOTS, N_KNOTS)
        trace = np.einsum("nkk->n", normal)[:, None, None] / N_KNOTS
        right = (spectra.weight * spectra.smooth) @ self.basis
        found = np.linalg.solve(normal + 1e-4 * trace * np.eye(N_KNOTS), right[..., None])[..., 0]
        return np.arcsinh(found / UNIT)

    def fit(self, spectra: Whole) -> None:
        self.low, self.high = (float(q) for q in np.quantile(self._fit(spectra), (1e-4, 1 - 1e-4)))

    def encode(self, spectra: Whole) -> np.ndarray:
        place = (self._fit(spectra) - self.low) / (self.high - self.low) * N_BINS
        return np.clip(place.astype(np.int64), 0, N_BINS - 1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        knots = UNIT * np.sinh(self.low + (codes + 0.5) / N_BINS * (self.high - self.low))
        return (knots @ self.basis.T).astype(np.float32)


def patches(values: np.ndarray) -> np.ndarray:
    """(n, P) as (n, L, p), padded with 0."""
    padded = np.zeros((len(values), N_PATCHES * PATCH), np.float32)
    padded[:, :N_PIXELS] = values
    return padded.reshape(len(values), N_PATCHES, PATCH)


class LearnedCodec(nn.Module):
    """Patches of what the continuum leaves to two FSQ codes each and back, over the whole spectrum."""

    def __init__(self, width: int, n_encoder: int, n_decoder: int) -> None:
        super().__init__()
        self.levels: Tensor
        self.register_buffer("levels", torch.tensor(LEVELS * 2, dtype=torch.float32))
        wave = torch.linspace(0, 1, N_PATCHES)[:, None] * torch.arange(1, 33)  # a wavelength, as waves of it
        self.wave: Tensor
        self.register_buffer("wave", torch.cat([torch.sin(np.pi * wave), torch.cos(np.pi * wave)], dim=1))
        self.of_pixels, self.of_wave = nn.Linear(2 * PATCH, width), nn.Linear(64, width)
        self.encoder, self.decoder = self._layers(width, n_encoder), self._layers(width, n_decoder)
        self.to_latent = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * len(LEVELS)))
        self.norm = nn.BatchNorm1d(2 * len(LEVELS), affine=False)  # or codes collapse
        self.of_latent, self.of_wave_too = nn.Linear(2 * len(LEVELS), width), nn.Linear(64, width)
        self.to_pixels = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, PATCH))
        nn.init.normal_(self.to_pixels[1].weight, std=1e-3)

    @staticmethod
    def _layers(width: int, n: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(width, 4, 3 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        return nn.TransformerEncoder(layer, n, enable_nested_tensor=False)

    def latents(self, left: Tensor, precision: Tensor) -> Tensor:
        """Digits (n, L, 8), whole numbers with straight-through gradients."""
        seen = torch.asinh(left / UNIT) * (precision > 0)
        x = self.of_pixels(torch.cat([seen, torch.log1p(precision) / 3], dim=2)) + self.of_wave(self.wave)
        z = self.to_latent(self.encoder(x))
        z = self.norm(z.flatten(0, 1)).view_as(z)
        digits = 0.5 * (self.levels - 1) * (1 + torch.erf(z / 1.4))  # evenly used, if z is normal
        return digits + (digits.round() - digits).detach()

    def decode(self, digits: Tensor) -> Tensor:
        """What the continuum leaves (n, L, p)."""
        x = self.of_latent(2 * digits / (self.levels - 1) - 1) + self.of_wave_too(self.wave)
        return UNIT * torch.sinh(self.to_pixels(self.decoder(x)).clamp(-8, 8))


def loss_of(found: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Levelled-off chi^2 of pixels and of means over 8 pixels, in units of their noise."""
    error, n = found - target, int(TENDED[0])
    wide = (weight * error)[..., : PATCH // n * n].unflatten(2, (-1, n)).sum(3)
    mass = weight[..., : PATCH // n * n].unflatten(2, (-1, n)).sum(3)
    of_means = FAR * torch.log1p(wide.square() / mass.clamp(min=1e-6) / FAR)
    of_pixels = FAR * torch.log1p(weight * error.square() / FAR)
    return of_pixels.mean() + TENDED[1] * of_means.mean()


class LearnedJudged(Judged):
    """Held-out objects as the learned codec leaves them."""

    def __init__(self, config: Config, arguments: argparse.Namespace) -> None:
        super().__init__(config)
        self.given, self.continuum = arguments, Continuum()
        torch.manual_seed(config.seed)
        self.model = LearnedCodec(arguments.width, arguments.layers[0], arguments.layers[1])
        self.false_features = config.tokenizer.spectrum.denoise

    def fit(self, cubes: Sequence[Datacube], splits: dict[str, np.ndarray]) -> None:
        started, rng = time.process_time(), np.random.default_rng(self.config.seed)
        read = [part for cube in cubes for part in self._read(cube, splits[cube.field] == TRAIN)]
        flux, ivar = (np.concatenate([part[k] for part in read]) for k in range(2))
        clean = Whole(flux, ivar, self.false_features)
        bright = np.flatnonzero(np.median(flux * np.sqrt(ivar), axis=1) > 2)
        times = rng.uniform(2, 8, (len(bright), 1))  # the noise
        spread = np.divide(1.0, np.sqrt(ivar[bright]), out=np.zeros((len(bright), N_PIXELS)), where=ivar[bright] > 0)
        noisy = flux[bright] + np.sqrt(times**2 - 1) * spread * rng.standard_normal(spread.shape)
        shown = Whole(
            np.concatenate([flux, noisy]), np.concatenate([ivar, ivar[bright] / times**2]), self.false_features
        )
        self.continuum.fit(clean)
        below = self.continuum.decode(self.continuum.encode(shown))
        of = np.concatenate([np.arange(len(flux)), bright])
        ratio = clean.scale[of] / shown.scale
        inputs = [patches(shown.smooth - below), patches(shown.precision)]
        goal = [patches(clean.smooth[of] * ratio - below), patches(pixel_weights(clean.precision[of] / ratio))]
        self._train(inputs, goal, rng, started + 60 * self.given.minutes)
        self.fit_s += time.process_time() - started
        for cube in cubes:
            self._judge_whole(cube, splits[cube.field])

    def _train(self, inputs: list[np.ndarray], goal: list[np.ndarray], rng: np.random.Generator, end: float) -> None:
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
        started, step, order = time.process_time(), 0, np.zeros(0, np.int64)
        while (now := time.process_time()) < end:
            share = (now - started) / (end - started)
            rate = RATE * min(1.0, (step + 1) / 100) * min(1.0, 2.5 * (1 - share) + 0.01)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if len(order) < BATCH:
                order = np.concatenate([order, rng.permutation(len(inputs[0]))])
            rows, order = order[:BATCH], order[BATCH:]
            left, precision, target, weight = (torch.from_numpy(a[rows]) for a in (*inputs, *goal))
            loss = loss_of(self.model.decode(self.model.latents(left, precision)), target, weight)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 100 == 0:
                print(f"step {step}: loss {loss.item():.3f}, {now - started:.0f} s", file=sys.stderr, flush=True)
        self.model.eval()

    def _read(self, cube: Datacube, mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Flux, inverse variance, rows and redshifts of the objects with all arms, batch by batch."""
        data, found = self.config.data, []
        columns = [c for group in GROUPS for c in spectrum_columns(data.spectra[group])] + ["specz_z"]
        for table in cube.batches(columns, rows=100, row_mask=mask):
            batches = {group: read_spectra(table, data, group) for group in GROUPS}
            seen = np.flatnonzero(np.logical_and.reduce([batch.present for batch in batches.values()]))
            redshift = numbers(table.column("specz_z"))[seen].astype(np.float64)
            found.append((*joined(batches, seen), np.asarray(table.rows)[seen], redshift))
        return found

    def _judge_whole(self, cube: Datacube, split: np.ndarray) -> None:
        for flux, ivar, rows, redshift in self._read(cube, split == spectrum_tokens.VAL):
            started = time.process_time()
            spectra = Whole(flux, ivar, self.false_features)
            knots = self.continuum.encode(spectra)
            below = self.continuum.decode(knots)
            left, precision = (torch.from_numpy(patches(a)) for a in (spectra.smooth - below, spectra.precision))
            with torch.inference_mode():
                digits = self.model.latents(left, precision)
            self.encode_s += time.process_time() - started
            self.n_encoded += len(rows)
            with torch.inference_mode():
                detail = self.model.decode(digits).numpy().reshape(len(rows), -1)[:, :N_PIXELS]
            decoded = (below + detail) * spectra.scale
            self._count("knots", knots, N_BINS)
            weights = np.cumprod((1, *LEVELS[:-1]))
            for k in range(2):
                own = digits[..., k * len(LEVELS) : (k + 1) * len(LEVELS)].round().long().numpy()
                self._count(f"fsq.{k}", own @ weights, N_CODES)
            for group in GROUPS:
                place = slice(FIRST[group[-1]], FIRST[group[-1]] + ARMS[group[-1]][1])
                arm = {"flux": flux[:, place], "ivar": ivar[:, place], "decoded": decoded[:, place]}
                self.arms[group].append({**arm, "known": np.ones(arm["flux"].shape, bool)})
            self.objects.append({"row": rows, "redshift": redshift, "field": np.full(len(rows), cube.field)})

    def _count(self, part: str, codes: np.ndarray, size: int) -> None:
        counts = np.bincount(codes.ravel(), minlength=size)
        length, before = self.usage.get(part, (codes.shape[1], 0))
        self.usage[part] = length, before + counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for cubes and results")
    parser.add_argument("--fields", type=int, default=8, help="of 500 objects, of the synthetic sky")
    parser.add_argument("--minutes", type=float, default=20.0, help="of CPU for all of the fit")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, nargs=2, default=(2, 3), help="of encoder and decoder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.sky = "synthetic"
    config = spectrum_tokens.survey(arguments, ["tokenizer=recommended"])
    found = spectrum_tokens.synthetic(config, LearnedJudged(config, arguments))
    write_json(arguments.work / "learned.json", {"minutes": arguments.minutes, "figures": found})
    print(spectrum_tokens.line_of(f"learned, {arguments.minutes:g} CPU-minutes", found), flush=True)


if __name__ == "__main__":
    main()
