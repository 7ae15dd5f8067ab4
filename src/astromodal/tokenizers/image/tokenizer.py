"""Tokenizer of the cutouts: arcsinh normalisation, convolutional codec, a quantizer over the latent vectors.

Fitting (``image_fit``) streams over the training cubes twice: once for the sky noise of each band, from a bounded
number of cutouts, once to fill a cache on disk that the codec is trained from. Memory depends on neither the survey's
size nor the cache's. The bundle is one file of weights with everything needed to use them, and one codebook.

Cutouts are encoded in chunks of one fixed size, the last one filled up with zeros: convolution libraries choose their
algorithm by the shape, and with one shape an object gets the same tokens whatever else is encoded with it (on one
device; another one may round a latent to the neighbouring code).

Shapes: n objects, C bands, S pixels on a side, G = S / 4, Z latent channels, L = G * G tokens (row by row).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ...codecs.base import Codec, build_codec
from ...config.schema import HardwareConfig, ImageTokenizerConfig
from ...data.findings import Findings
from ...data.images import ImageBatch, elliptical_mask, images_of
from ...data.photometry import ArcsinhScaling, arcsinh_, flux_factors, sky_statistics
from ...errors import ArtifactError, DataError
from ...provenance.manifest import fingerprint_arrays
from ...quantizers import Quantizer, check_dimensions
from ...training.utils import resolve_device
from ...vocabulary.codebook import Codebook
from ...vocabulary.vocab import stage_name
from ..base import COMMAND, Tokenizer
from ..fitted import Fitted
from ..spectrum.sigma import latent_sigma
from .bundle import read_bundle, write_bundle
from .cache import CutoutCache
from .fit import collect, fit_codebook, fit_rings, fit_scaling, noise_gain, train_codec
from .report import report_on
from .rings import FluxRings

if TYPE_CHECKING:
    from ...config.schema import DataConfig, ImageConfig
    from ...data.datacube import Datacube
    from ...runs.run import RunContext

HELD_OUT_OBJECTS = 512  # cutouts that the report is made from
_POINTS = "zero points of {}"  # of a field, among the inputs
CPU_CHUNK = 16  # cutouts encoded at once without a GPU: most rows lack images, and filling up costs time


@dataclass(frozen=True)
class ImageTokens:
    """Rows that are not present hold zeros, which mean nothing."""

    tokens: np.ndarray  # (n, L) uint16; (n, L, S) of a quantizer with several stages
    latents: np.ndarray  # (n, Z, G, G) float32, before quantisation
    present: np.ndarray  # (n,) bool
    rings: np.ndarray  # (n, K) uint16: fluxes of rings; K = 0 without
    sigma: np.ndarray  # as ``tokens``, float16: errors of the tokens' targets, 0 where unknown (see ``spectrum/sigma``)

    ring_sigma: np.ndarray  # as ``rings``
    clipped: np.ndarray  # (n, C) bool: a ring's flux in the band lies beyond the levels and has the last one


@dataclass(frozen=True)
class DecodedImages:
    """Cutouts from tokens, without the sky level."""

    flux: np.ndarray  # (n, C, S, S) float32, nanomaggies per pixel above the sky
    normalized: np.ndarray  # (n, C, S, S) float32, arcsinh(flux / (softening * sigma))


def _points(images: ImageConfig, field: str) -> str:
    """Fingerprint of a field's zero points, as they are used."""
    return fingerprint_arrays({"factors": flux_factors(images, field)})


class ImageTokenizer(Tokenizer):
    """Cutouts to ``L`` tokens and back.

    Args:
        config: codec, quantizer and masks.
        hardware: where the network runs; default: as ``HardwareConfig()`` says.
        scratch: folder for the training cache; default: the run's, or the system's temporary folder.

    After fitting or loading: ``scaling_`` (band names, sky noise), ``codec_``, ``quantizer_``.
    """

    name: ClassVar[str] = "image"
    scaling_ = Fitted[ArcsinhScaling]()
    codec_ = Fitted[Codec]()
    quantizer_ = Fitted[Quantizer]()

    def __init__(
        self, config: ImageTokenizerConfig, hardware: HardwareConfig | None = None, scratch: Path | None = None
    ) -> None:
        super().__init__(config)
        self.hardware = HardwareConfig() if hardware is None else hardware
        self.scratch = scratch
        self.noise_gain_: np.ndarray | None = None
        self.rings_: FluxRings | None = None  # where config.flux_radii names some

    # --------------------------------------------------------------------------------- properties

    @property
    def ellipse(self) -> dict[str, float]:
        """Keywords of :func:`elliptical_mask`."""
        return {"scale": self.config.ellipse_scale, "min_radius": self.config.min_radius}

    @property
    def device(self) -> torch.device:
        """Device of the network, as ``hardware.device`` says."""
        return resolve_device(self.hardware.device)

    @property
    def chunk(self) -> int:
        """Cutouts that go through the network at once."""
        return min(self.config.batch_size, CPU_CHUNK) if self.device.type == "cpu" else self.config.batch_size

    @property
    def is_fitted(self) -> bool:
        """Whether there is a network."""
        return "codec_" in vars(self)

    @property
    def n_tokens(self) -> int:
        """Positions per object, L: tokens, if a position has one."""
        _, rows, columns = self.fitted().latent_shape
        return rows * columns

    @property
    def n_stages(self) -> int:
        """Tokens per position, S."""
        return self.quantizer_.n_stages

    @property
    def parts(self) -> tuple[str, ...]:
        """Names in sequences of the stages' tokens: ``image``, ``image.1``, …; behind them that of the rings."""
        return tuple(stage_name(self.name, k) for k in range(self.n_stages + (self.rings_ is not None)))

    def length(self, part: str) -> int:
        """Tokens of a part."""
        rings = self.rings_
        return rings.n_tokens if rings is not None and part == self.parts[-1] else self.n_tokens

    def sizes(self) -> dict[str, Any]:
        return {"n_codes": sum(self.quantizer_.sizes)}

    @property
    def codebook(self) -> Codebook:
        """Entries (n_codes, Z) and how often each was used by the training cutouts.

        Raises:
            ArtifactError: the quantizer has several codebooks.
        """
        return self.quantizer_.codebook

    def codebooks(self) -> dict[str, Codebook]:
        """Codebook of each part."""
        self.fitted()
        books = [*self.quantizer_.codebooks, *(() if self.rings_ is None else (self.rings_.codebook,))]
        return dict(zip(self.parts, books, strict=True))

    def by_part(self, encoded: ImageTokens) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Codes and their errors ``(n, length)`` of each part."""
        pairs = []
        for array, rings in ((encoded.tokens, encoded.rings), (encoded.sigma, encoded.ring_sigma)):
            stages = np.moveaxis(array.reshape(*array.shape[:2], -1), -1, 0)
            pairs.append([*stages, *(() if self.rings_ is None else (rings,))])
        return dict(zip(self.parts, zip(*pairs, strict=True), strict=True))

    def decode_parts(self, tokens: Sequence[np.ndarray]) -> DecodedImages:
        """Cutouts from the codes ``(n, length)`` of each part."""
        grid, rings = tokens[: self.n_stages], None if self.rings_ is None else tokens[-1]
        return self.decode(grid[0] if self.n_stages == 1 else np.stack(grid, axis=-1), rings)

    def layout(self, data: DataConfig) -> dict[str, Any]:
        """Bands in order, size and pixel scale; zero points unless a file gives them per field."""
        images = data.images
        if images is None:
            return {"bands": []}
        points = None if images.zero_point_file else [float(band.zero_point) for band in images.bands.values()]
        return {
            "bands": list(images.bands),
            "columns": [band.column for band in images.bands.values()],
            "size": int(images.size),
            "pixel_scale": float(images.pixel_scale),
            "zero_points": points,
        }

    def check(self, data: DataConfig, cubes: Iterable[Datacube] = ()) -> None:
        """Refuse another data layout, and cubes or zero points of the fitted fields that changed since."""
        cubes = list(cubes)
        super().check(data, cubes)
        for cube in cubes:
            name = _POINTS.format(cube.field)
            fitted = self.inputs_.get(name)
            if fitted is not None and fitted != (found := _points(images_of(data), cube.field)):
                raise ArtifactError(
                    f"the {name} that the image tokenizer was fitted with (fingerprint {fitted})",
                    got=f"others (fingerprint {found})",
                    where=images_of(data).zero_point_file,
                    repair=f"restore the file, or run {COMMAND} tokenizer=image",
                )

    # -------------------------------------------------------------------------------------- fit

    def fit(
        self,
        cubes: Sequence[Datacube],
        splits: Mapping[str, np.ndarray],
        data: DataConfig,
        run: RunContext | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Fit normalisation, codec and codebook on the training cutouts; report on held-out ones.

        Raises:
            DataError: no bands are configured, or no training object has a cutout.
            ConfigError: the codec cannot take cutouts of this size, or the quantizer not its latents.
        """
        images = images_of(data)
        choice = self._start_fit(cubes, splits, data, seed)
        log, findings = self._log(run), Findings()
        del self.codec_, self.quantizer_
        self.noise_gain_ = self.rings_ = None
        torch.manual_seed(seed)
        if self.config.flux_radii:  # refuses what does not fit, before anything is trained
            FluxRings(self.config.flux_radii, np.ones(1), images.size)
        codec = build_codec(self.config.codec, (len(images.bands), images.size, images.size))
        channels = codec.latent_shape[0]
        check_dimensions(self.config.quantizer, channels, f"latents of the codec, latent_channels={channels}")
        self.scaling_ = fit_scaling(self, cubes, choice.fit, data, log)
        scratch = self.scratch or (run.dir if run is not None else None)
        with tempfile.TemporaryDirectory(prefix="cutouts_", dir=scratch) as folder:
            capacity = self.config.codec.training.max_fit_objects
            train = CutoutCache(Path(folder) / "train.f16", capacity, codec.array_shape, seed)
            held_out = CutoutCache(Path(folder) / "held_out.f16", HELD_OUT_OBJECTS, codec.array_shape, seed + 1)
            sizes = collect(self, cubes, choice, data, train, held_out, log, findings)
            judged = held_out if len(held_out) else train
            result = train_codec(codec, train, held_out, self, run, seed)
            self.codec_ = codec.eval().to(self.device)
            self.quantizer_ = fit_codebook(self, train, seed)
            self.noise_gain_ = noise_gain(self, train, seed)
            self.rings_ = fit_rings(self, train)
            report, arrays = report_on(self, judged)
        report |= sizes | {"held_out": choice.held_out_name if judged is held_out else "train", **result}
        log.info(
            "image tokenizer: %.1f bits per object, %d of %d codes used, error %.3f of the variance, "
            "%.0f %% of the aperture fluxes within their errors",
            report["bits_per_object"],
            report["codes_used"],
            report["n_codes"],
            report["variance_fraction"],
            100 * (report["cutouts"]["flux_within"] or 0.0),
        )
        return self._finish_fit(report, findings, run) | {"arrays": arrays}

    # ----------------------------------------------------------------------------- encode, decode

    def encode(self, batch: ImageBatch) -> ImageTokens:
        """Tokens and latents of a batch; the batch is left unchanged.

        An object with fewer than ``min_valid_fraction`` valid pixels (of the bands known from training) is not
        present.

        Raises:
            ArtifactError: bands, their order, the size or the pixel scale are not the fitted ones.
        """
        codec = self.fitted()
        self._check_batch(batch)
        present = self.usable(batch)
        tokens = np.zeros((len(batch), *self._token_shape()), dtype=np.uint16)
        latents = np.zeros((len(batch), *codec.latent_shape), dtype=np.float32)
        sigma = np.zeros(tokens.shape, np.float16)
        rings = np.zeros((len(batch), 0 if self.rings_ is None else self.rings_.n_tokens), np.uint16)
        ring_sigma = np.zeros(rings.shape, np.float16)
        clipped = np.zeros((len(batch), len(batch.bands)), bool)
        rows = np.flatnonzero(present)
        for start in range(0, len(rows), self.chunk):
            chunk = rows[start : start + self.chunk]
            x, valid, _, noise = self._normalized(batch, chunk)
            latents[chunk] = self.encode_normalized(torch.from_numpy(x), torch.from_numpy(valid))
            tokens[chunk] = self.quantize(latents[chunk])
            sigma[chunk] = self._errors(tokens[chunk], valid, noise)
            if self.rings_ is not None:
                values = self.ring_values(self.rings_, x, valid, tokens[chunk])
                rings[chunk], ring_sigma[chunk] = self.rings_.encode(values), self.rings_.sigma(values, noise)
                clipped[chunk] = self.rings_.clipped(values)
        return ImageTokens(tokens, latents, present, rings, sigma, ring_sigma, clipped)

    def ring_values(self, rings: FluxRings, x: np.ndarray, valid: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Scaled fluxes ``(m, K)`` of normalised cutouts; ``tokens``: of the grid, decoded for what is not valid."""
        flux, other = self.scaling_.inverse(x), np.zeros_like(x)
        holed = rings.incomplete(valid)
        if holed.any():
            other[holed] = self.decode(tokens[holed]).flux
        return rings.values(flux, valid, other)

    def _errors(self, tokens: np.ndarray, valid: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Errors of the tokens' targets, shaped as ``tokens``.

        Args:
            noise: variance of the sky noise over its usual one, per object and band ``(m, C)``; NaN where not known.
        """
        grid = self.fitted().latent_shape[1]
        seen = np.any(valid.reshape(*valid.shape[:2], grid, -1, grid, valid.shape[-1] // grid), axis=(3, 5))
        counts = seen & np.isfinite(noise)[..., None, None]  # (m, C, G, G)
        n = counts.sum(1)
        total = np.where(counts, np.nan_to_num(noise)[..., None, None], 0.0).sum(1)
        mean = np.where(n > 0, total / np.maximum(n, 1), np.where(seen.any(1), np.nan, np.inf)).reshape(len(tokens), -1)
        codes = tokens.reshape(*tokens.shape[:2], -1)
        scales = [book.scale for book in self.quantizer_.codebooks]
        stages = [latent_sigma(self.noise_gain_, codes[..., 0], mean, scale) for scale in scales]
        return np.stack(stages, axis=-1).reshape(tokens.shape)

    @torch.inference_mode()
    def encode_normalized(self, x: Tensor, valid: Tensor) -> np.ndarray:
        """Latents ``(m, Z, G, G)`` of normalised cutouts, computed in chunks of exactly :attr:`chunk`."""
        codec, device, size = self.fitted(), self.device, self.chunk
        latents = np.empty((len(x), *codec.latent_shape), dtype=np.float32)
        for start in range(0, len(x), size):
            part, good = x[start : start + size], valid[start : start + size]
            m = len(part)
            if m < size:
                part = torch.cat([part, part.new_zeros((size - m, *part.shape[1:]))])
                good = torch.cat([good, good.new_zeros((size - m, *good.shape[1:]))])
            latents[start : start + m] = codec.encode(part.to(device), good.to(device))[:m].float().cpu().numpy()
        return latents

    def quantize(self, latents: np.ndarray) -> np.ndarray:
        """Codes ``(m, L)`` uint16 of latents ``(m, Z, G, G)``, row by row of the grid; ``(m, L, S)`` with S > 1."""
        m, n_channels = latents.shape[:2]
        vectors = np.ascontiguousarray(latents.reshape(m, n_channels, -1).transpose(0, 2, 1)).reshape(-1, n_channels)
        return self.quantizer_.encode(vectors).reshape(m, *self._token_shape()).astype(np.uint16)

    def _token_shape(self) -> tuple[int, ...]:
        return (self.n_tokens,) if self.n_stages == 1 else (self.n_tokens, self.n_stages)

    def dequantize(self, tokens: np.ndarray) -> np.ndarray:
        """Latents ``(m, Z, G, G)`` float32 of codes ``(m, L)`` or ``(m, L, S)``."""
        tokens = np.asarray(tokens)
        vectors = self.quantizer_.decode(tokens.reshape(-1, *tokens.shape[2:]).astype(np.int64))
        grid = vectors.reshape(len(tokens), self.n_tokens, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(grid).reshape(len(tokens), *self.fitted().latent_shape)

    def decode(self, tokens: np.ndarray, rings: np.ndarray | None = None) -> DecodedImages:
        """Cutouts from codes ``(n, L)`` or ``(n, L, S)``; the sky level is not coded and therefore 0.

        Args:
            rings: codes ``(n, K)`` of the fluxes in rings, where there are any; None: as the grid says.

        Raises:
            DataError: the shape is wrong or a code is outside of the codebook.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim < 2 or tokens.shape[1:] != self._token_shape():
            shape = ", ".join(map(str, self._token_shape()))
            raise DataError(f"image tokens of shape (n, {shape})", got=f"shape {tokens.shape}")
        decoded = self.decode_latents(self.dequantize(tokens))
        if rings is None or self.rings_ is None:
            return decoded
        flux = self.rings_.applied(decoded.flux, np.asarray(rings))
        return DecodedImages(flux, arcsinh_(flux / self.scaling_.unit[:, None, None]))

    @torch.inference_mode()
    def decode_latents(self, latents: np.ndarray) -> DecodedImages:
        """Cutouts from latents ``(n, Z, G, G)``."""
        codec = self.fitted()
        x = np.empty((len(latents), *codec.array_shape), dtype=np.float32)
        for start in range(0, len(latents), self.chunk):
            part = torch.from_numpy(latents[start : start + self.chunk]).to(self.device)
            x[start : start + len(part)] = codec.decode(part).float().cpu().numpy()
        return DecodedImages(self.scaling_.inverse(x), x)

    # ---------------------------------------------------------------------------------- internals

    def fitted(self) -> Codec:
        """The codec; an error without one."""
        return self.codec_

    def _check_batch(self, batch: ImageBatch) -> None:
        """Refuse cutouts that mean something else than the fitted ones."""
        fitted = self.layout_
        pairs = (
            ("bands in the order", list(fitted["bands"]), list(batch.bands)),
            ("cutouts of size", fitted["size"], batch.size),
            ("pixel scale", fitted["pixel_scale"], float(batch.pixel_scale)),
        )
        for what, expected, got in pairs:
            if expected != got:
                raise ArtifactError(
                    f"{what} {expected}, as the image tokenizer was fitted",
                    got=got,
                    where="cutouts",
                    repair="set data.images accordingly, or fit again",
                )

    def usable(self, batch: ImageBatch) -> np.ndarray:
        """Objects with enough valid pixels in the bands known from training, ``(n,)`` bool."""
        known = self.scaling_.sigma > 0
        per_band = batch.valid.reshape(len(batch), len(known), -1).mean(2, dtype=np.float32)
        return batch.present & (per_band[:, known].mean(1) >= max(self.config.min_valid_fraction, 1e-6))

    def normalized(self, batch: ImageBatch, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normalised cutouts, validity and ellipses ``(m, 3)`` of some rows, as copies."""
        x, valid, ellipses, _ = self._normalized(batch, rows)
        return x, valid, ellipses

    def _normalized(self, batch: ImageBatch, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """:meth:`normalized`, and the variance of the sky noise over its usual one ``(m, C)``, NaN where not known."""
        flux, valid = batch.flux[rows], batch.valid[rows]
        ellipses = np.stack([batch.a[rows], batch.b[rows], batch.theta[rows]], axis=1)
        inside = elliptical_mask(batch.a[rows], batch.b[rows], batch.theta[rows], batch.size, **self.ellipse)
        level, sigma = sky_statistics(flux, valid, inside)
        usual = self.scaling_.sigma
        noise = np.square(np.divide(sigma, usual, out=np.full(sigma.shape, np.nan), where=usual > 0, dtype=np.float64))
        return self.scaling_.normalize_(flux, valid, level), valid, ellipses, noise

    # ---------------------------------------------------------------------------------- save, load

    def _write(self, folder: Path) -> list[Path]:
        return write_bundle(self, folder)

    @classmethod
    def _read(cls, folder: Path) -> Self:
        return read_bundle(cls, folder)

    def use(self, hardware: HardwareConfig) -> Self:
        """Move the network to where ``hardware.device`` says."""
        self.hardware = hardware
        if self.is_fitted:
            self.codec_.to(self.device)
        return self
