"""One group of spectra whose features are the latents of a network: the network, and the codebook over its latents.

Any codec of one-dimensional arrays serves. It is trained on spectra in units of their own scale (coefficients:
standardised), pixels weighted by their precision, through the one training loop; then the quantizer is fitted on the
latents of the same spectra. A bounded, uniform sample of the training spectra is kept in memory for both.

Spectra are encoded in chunks of one fixed size, the last one filled up with zeros, so that an object gets the same
tokens whatever else is encoded with it (see :mod:`~astromodal.tokenizers.image.tokenizer`).

Shapes: n objects, P pixels, Z latent channels, L latent positions, B batch.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from ...codecs.base import Codec, build_codec
from ...codecs.saved import codec_with_weights
from ...config.schema import (
    HardwareConfig,
    OptimizerConfig,
    ScheduleConfig,
    ScheduleName,
    SpectrumGroupConfig,
    SpectrumTokenizerConfig,
)
from ...data.spectra import SpectrumBatch
from ...errors import ArtifactError, DataError
from ...machine.random import seed_everything
from ...quantizers import Quantizer, build_quantizer, check_dimensions, with_at_most
from ...runs.tracking import NullTracker
from ...training.loop import TrainingLoop
from ...training.utils import resolve_device
from ..base import plain
from ..image.fit import loop_settings
from .groups import MIN_CODES, MIN_ROWS_PER_CODE
from .patches import cut, n_patches
from .sample import MIN_WEIGHT, SpectrumLoader, SpectrumSample
from .sigma import NoiseGain, latent_sigma

if TYPE_CHECKING:
    from ...runs.run import RunContext

VALIDATION_SHARE, VALIDATION_OBJECTS = 0.1, 256  # of the kept spectra, not trained on
NOISE_OBJECTS = 512  # kept spectra that noise is added to
CHUNK = 16  # spectra that go through the network at once: most rows lack spectra, and filling up costs time


@dataclasses.dataclass
class GroupNetwork:
    """The network of one group, from spectra to latents and back."""

    n_pixels: int
    center: np.ndarray  # (P,) subtracted from the normalised flux: 0 for spectra
    spread: np.ndarray  # (P,) the flux is divided by: 1 for spectra
    network: Codec
    device: str = "cpu"

    @property
    def length(self) -> int:
        """Latent positions, L: each becomes a token."""
        return self.network.latent_shape[1]

    @property
    def patch_size(self) -> int:
        """Pixels per token."""
        return -(-self.n_pixels // self.length)

    def clean(self, batch: SpectrumBatch) -> SpectrumBatch:
        """Spectra as they are: what of them is noise, the network has to know."""
        return batch

    def features(self, batch: SpectrumBatch) -> tuple[np.ndarray, None]:
        """Latents (n, L, Z) of spectra, all of them present, whose numbers all weigh the same.

        Of the precision, only where it is 0 matters.
        """
        valid = (batch.precision > 0) & np.isfinite(batch.flux)
        x = np.where(valid, (batch.flux - self.center) / self.spread, 0.0).astype(np.float32)
        return np.ascontiguousarray(self._run(self.network.encode, x, valid).transpose(0, 2, 1)), None

    def flux(self, entries: np.ndarray) -> np.ndarray:
        """Flux (n, P) float32 in units of each spectrum's scale, from latents (n, L, Z)."""
        latents = np.ascontiguousarray(np.asarray(entries, dtype=np.float32).transpose(0, 2, 1))
        return self._run(self.network.decode, latents)[:, 0] * self.spread + self.center

    @torch.inference_mode()
    def _run(self, compute: Any, *arrays: np.ndarray) -> np.ndarray:
        """``compute`` over rows in chunks of one size; spectra (n, P) get their channel."""
        outputs, device = [], resolve_device(self.device)
        for start in range(0, len(arrays[0]), CHUNK):
            parts = [torch.from_numpy(array[start : start + CHUNK]) for array in arrays]
            n = len(parts[0])
            whole = [torch.cat([part, part.new_zeros(CHUNK - n, *part.shape[1:])]) for part in parts]
            given = [(part[:, None] if compute == self.network.encode else part).to(device) for part in whole]
            outputs.append(compute(*given)[:n].float().cpu().numpy())
        return np.concatenate(outputs) if outputs else np.empty((0, *self._empty_shape(compute)), np.float32)

    def _empty_shape(self, compute: Any) -> tuple[int, ...]:
        return self.network.latent_shape if compute == self.network.encode else self.network.array_shape

    def use(self, device: str) -> Self:
        """Move the network."""
        self.device = device
        self.network.to(resolve_device(device))
        return self


@dataclasses.dataclass(kw_only=True)
class LearnedGroup(GroupNetwork):
    """What is learned for one group; the counterpart of :class:`~.groups.GroupCodec`."""

    quantizer: Quantizer
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)  # steps and epochs of the training
    noise_gain: np.ndarray | None = None  # (C,) of the first stage's codes, see ``sigma``; None: not known
    linear: ClassVar[bool] = False  # a network decodes

    @functools.cached_property
    def scales(self) -> tuple[float, ...]:
        """Of each stage: square root of its codebook's total variance."""
        return tuple(book.scale for book in self.quantizer.codebooks)

    def sigma(self, batch: SpectrumBatch, stage: int, codes: np.ndarray | None = None) -> np.ndarray:
        """Errors (n, L) of the tokens, from what noise did to the latents of the training spectra; ``codes``: of the
        first stage (n, L), if they are known already."""
        if codes is None:
            codes = self._first_codes(self.features(batch)[0])
        return latent_sigma(self.noise_gain, codes, self._noise(batch), self.scales[stage])

    def _first_codes(self, latents: np.ndarray) -> np.ndarray:
        """Codes (n, L) of the first stage, of latents (n, L, Z)."""
        codes = self.quantizer.encode(latents.reshape(-1, latents.shape[2]))
        return codes.reshape(*latents.shape[:2], -1)[..., 0]

    def _noise(self, batch: SpectrumBatch) -> np.ndarray:
        """Mean variance (n, L) of the noise of the valid pixels of each token, in the network's units; NaN where no
        ivar is known, inf without a valid pixel."""
        precision = batch.precision.astype(np.float64) * self.spread
        valid = precision > 0
        variance = np.divide(1.0, np.square(precision), out=np.zeros(precision.shape), where=valid)
        total, n = (cut(values, self.patch_size, 0.0).sum(2) for values in (variance, valid.astype(np.float64)))
        mean = np.divide(total, n, out=np.full(n.shape, np.inf), where=n > 0)
        mean = np.pad(mean, ((0, 0), (0, max(0, self.length - mean.shape[1]))), mode="edge")[:, : self.length]
        return np.where(batch.has_ivar[:, None], mean, np.nan)

    def find_noise_gain(self, batch: SpectrumBatch, seed: int) -> None:
        """Add the noise of spectra to them once more, and keep what it does to their latents, per code."""
        noise = self._noise(batch)
        known = batch.has_ivar[:, None] & (batch.precision > 0)
        sigma = np.divide(1.0, batch.precision, out=np.zeros_like(batch.precision), where=known)
        drawn = np.random.default_rng([seed, 0x9A1]).standard_normal(sigma.shape, dtype=np.float32)
        before, _ = self.features(batch)
        after, _ = self.features(dataclasses.replace(batch, flux=batch.flux + sigma * drawn))
        gain = NoiseGain(self.quantizer.sizes[0])
        change = np.square(after - before, dtype=np.float64).sum(2)
        gain.add(self._first_codes(before).ravel(), change.ravel(), noise.ravel())
        self.noise_gain = gain.per_code()

    # ------------------------------------------------------------------------------------ storage

    def state(self) -> dict[str, Any]:
        """The network, as tensors and plain values."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        gain = {} if self.noise_gain is None else {"noise_gain": torch.from_numpy(self.noise_gain)}
        return {"codec": plain(self.network.to_dict()), "state": weights, "figures": plain(self.figures), **gain}

    @classmethod
    def from_state(
        cls, state: dict[str, Any], n_pixels: int, center: np.ndarray, spread: np.ndarray, quantizer: Quantizer
    ) -> Self:
        """Inverse of :meth:`state`.

        Raises:
            ArtifactError: weights that do not fit the network, or a codebook that does not fit its latents.
        """
        network = codec_with_weights(state["codec"], state["state"], "the codec of a spectrum group")
        if quantizer.n_dims != network.latent_shape[0]:
            raise ArtifactError(f"a codebook of {network.latent_shape[0]} dimensions", got=quantizer.n_dims)
        gain = state["noise_gain"].numpy() if "noise_gain" in state else None
        figures = dict(state["figures"])
        return cls(n_pixels, center, spread, network.eval(), quantizer=quantizer, figures=figures, noise_gain=gain)


def fit_learned_group(
    batches: Iterable[SpectrumBatch],
    group: str,
    group_config: SpectrumGroupConfig,
    config: SpectrumTokenizerConfig,
    seed: int,
    run: RunContext | None = None,
    hardware: HardwareConfig | None = None,
) -> tuple[LearnedGroup | None, int]:
    """Network and codebook of one group, and the number of vectors seen; None without a spectrum.

    Raises:
        ConfigError: a codec that takes no such spectra, or a quantizer made for vectors of another width.
    """
    hardware = HardwareConfig() if hardware is None else hardware
    settings = config.codec.training
    sample = SpectrumSample(batches, group_config, settings.max_fit_objects, seed)
    if not len(sample):
        return None, 0
    seed_everything(seed)
    network = build_codec(for_group(config, group), (1, sample.n_pixels))
    where = f"spectrum group {group}, latents of {config.codec.name}"
    check_dimensions(config.quantizer, network.latent_shape[0], where, "set latent_channels, or kmeans")
    figures = train_network(network, sample, config, group, seed, run, hardware)
    parts = (sample.n_pixels, sample.center, sample.spread, network.eval(), hardware.device)
    vectors, weights = latent_vectors(GroupNetwork(*parts), sample, config.quantizer.max_fit_rows, seed)
    n_codes = max(MIN_CODES, len(vectors) // MIN_ROWS_PER_CODE)
    quantizer = build_quantizer(with_at_most(config.quantizer, n_codes), seed).fit(vectors, weights)
    learned = LearnedGroup(*parts, quantizer=quantizer, figures=figures)
    learned.find_noise_gain(sample.spectra(np.arange(min(len(sample), NOISE_OBJECTS))), seed)
    return learned, sample.n_seen * learned.length


def for_group(config: SpectrumTokenizerConfig, group: str) -> Any:
    """The codec's settings; ``pixels_per_latent: null`` is the group's ``patch_size``."""
    codec = config.codec
    if getattr(codec, "pixels_per_latent", 0) is None:
        return dataclasses.replace(codec, pixels_per_latent=int(config.patch_sizes.get(group, config.patch_size)))
    return codec


def train_network(
    network: Codec,
    sample: SpectrumSample,
    config: SpectrumTokenizerConfig,
    group: str,
    seed: int,
    run: RunContext | None,
    hardware: HardwareConfig,
) -> dict[str, Any]:
    """Train ``network`` in place; returns steps and epochs for the report.

    Raises:
        DataError: not one pixel of the sample is valid.
    """
    if not sample.valid.any():
        raise DataError("spectra with valid pixels", got=f"none in {len(sample)}", where=f"spectrum group {group}")
    settings = config.codec.training
    order = np.random.default_rng([seed, 0xA11]).permutation(len(sample))
    n_val = min(VALIDATION_OBJECTS, int(VALIDATION_SHARE * len(sample)))
    train = SpectrumLoader(sample, order[n_val:], settings.batch_size, seed, train=True)
    validation = SpectrumLoader(sample, order[:n_val], settings.batch_size, seed, train=False) if n_val else None
    loop = TrainingLoop(
        network.objective([group]),
        train,
        training=loop_settings(settings, len(train)),
        optimizer=OptimizerConfig(learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, beta2=0.99),
        schedule=ScheduleConfig(
            name=ScheduleName.cosine, warmup_steps=settings.warmup_steps, min_lr_ratio=settings.min_lr_ratio
        ),
        hardware=hardware,
        val_loader=validation,
        tracker=NullTracker() if run is None else run.tracker,
        log=logging.getLogger(__name__) if run is None else run.log,
        output_dir=None,
        seed=seed,
        metric_prefix=f"{group}/",
    )
    result = loop.fit()
    return {"codec": config.codec.name, "steps": int(result.steps), "epochs": int(result.epochs)}


def latent_vectors(
    learned: GroupNetwork, sample: SpectrumSample, max_rows: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Latents (rows, Z) of the sample for the quantizer, at most ``max_rows``, with the mean weight of their pixels."""
    length, patch = learned.length, learned.patch_size
    per_object = max(1, min(length, max_rows // len(sample)))
    generator = np.random.default_rng([seed, 0xC0DE])
    vectors, weights = [], []
    for start in range(0, min(len(sample), max_rows), 256):
        rows = np.arange(start, min(start + 256, len(sample), max_rows))
        latents, _ = learned.features(sample.spectra(rows))
        weight = cut(sample.weights(rows), patch, 0.0).mean(2)
        weight = np.pad(weight, ((0, 0), (0, max(0, length - n_patches(learned.n_pixels, patch)))), mode="edge")
        # the same number of positions of every spectrum, drawn anew for each
        chosen = np.argsort(generator.random((len(rows), length)), axis=1)[:, :per_object]
        vectors.append(np.take_along_axis(latents, chosen[:, :, None], axis=1).reshape(-1, latents.shape[2]))
        weights.append(np.take_along_axis(weight, chosen, axis=1).reshape(-1))
    return np.concatenate(vectors), np.maximum(np.concatenate(weights), MIN_WEIGHT)
