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
from ...data.photometry import ArcsinhScaling, flux_factors, sky_statistics
from ...errors import ArtifactError, DataError
from ...provenance.manifest import fingerprint_arrays
from ...quantizers import Quantizer, check_dimensions
from ...training.utils import resolve_device
from ...vocabulary.codebook import Codebook
from ..base import COMMAND, Tokenizer
from ..fitted import Fitted
from .bundle import read_bundle, write_bundle
from .cache import CutoutCache
from .fit import collect, fit_codebook, fit_scaling, train_codec
from .report import report_on

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

    tokens: np.ndarray  # (n, L) uint16
    latents: np.ndarray  # (n, Z, G, G) float32, before quantisation
    present: np.ndarray  # (n,) bool


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

    def sizes(self) -> dict[str, Any]:
        return {"n_codes": sum(self.quantizer_.sizes)}

    @property
    def codebook(self) -> Codebook:
        """Entries (n_codes, Z) and how often each was used by the training cutouts.

        Raises:
            ArtifactError: the quantizer has several codebooks.
        """
        return self.quantizer_.codebook

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
        torch.manual_seed(seed)
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
        rows = np.flatnonzero(present)
        for start in range(0, len(rows), self.chunk):
            chunk = rows[start : start + self.chunk]
            x, valid, _ = self.normalized(batch, chunk)
            latents[chunk] = self.encode_normalized(torch.from_numpy(x), torch.from_numpy(valid))
            tokens[chunk] = self.quantize(latents[chunk])
        return ImageTokens(tokens, latents, present)

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

    def decode(self, tokens: np.ndarray) -> DecodedImages:
        """Cutouts from codes ``(n, L)`` or ``(n, L, S)``; the sky level is not coded and therefore 0.

        Raises:
            DataError: the shape is wrong or a code is outside of the codebook.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim < 2 or tokens.shape[1:] != self._token_shape():
            shape = ", ".join(map(str, self._token_shape()))
            raise DataError(f"image tokens of shape (n, {shape})", got=f"shape {tokens.shape}")
        return self.decode_latents(self.dequantize(tokens))

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
        flux, valid = batch.flux[rows], batch.valid[rows]
        ellipses = np.stack([batch.a[rows], batch.b[rows], batch.theta[rows]], axis=1)
        inside = elliptical_mask(batch.a[rows], batch.b[rows], batch.theta[rows], batch.size, **self.ellipse)
        level, _ = sky_statistics(flux, valid, inside)
        return self.scaling_.normalize_(flux, valid, level), valid, ellipses

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
