"""Fitting the image tokenizer: sky noise, cutouts into the cache, the codec through the one training loop, codebook.

Both passes over the cubes stream; nothing here grows with the survey.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import torch

from ...codecs.base import Codec
from ...config.schema import CodecTrainingConfig, OptimizerConfig, ScheduleConfig, ScheduleName, TrainingConfig
from ...data.findings import Findings
from ...data.images import ImageBatch, ImageReader, elliptical_mask, images_of
from ...data.photometry import ArcsinhScaling, SkyNoise, arcsinh_, sky_statistics
from ...errors import DataError
from ...quantizers import Quantizer, build_quantizer
from ..base import RowChoice
from ..spectrum.sigma import NoiseGain
from .cache import CutoutCache, CutoutLoader
from .rings import FluxRings

if TYPE_CHECKING:
    from ...config.schema import DataConfig
    from ...data.datacube import Datacube
    from ...runs.run import RunContext
    from .tokenizer import ImageTokenizer

SIGMA_OBJECTS = 4096  # cutouts that the sky noise is measured on, shared among the fields
VALIDATION_OBJECTS = 128  # cutouts validated on while training
N_VALIDATIONS = 4  # over the whole training
NOISE_OBJECTS = 256  # training cutouts that noise is added to
MIN_VECTOR_WEIGHT = 1e-3  # of a latent vector over masked pixels: it has to be coded too


def stream(
    cubes: Sequence[Datacube], masks: Mapping[str, np.ndarray], data: DataConfig
) -> Iterator[tuple[str, np.ndarray, ImageBatch]]:
    """Field, row numbers and cutouts of the masked rows; a batch is valid until the next one."""
    for cube in cubes:
        mask = masks[cube.field]
        if mask.any():
            reader = ImageReader(data, cube.field)
            for batch in cube.batches(reader.columns, row_mask=mask):
                yield cube.field, batch.rows, reader.read(batch)


def fit_scaling(
    tokenizer: ImageTokenizer,
    cubes: Sequence[Datacube],
    masks: Mapping[str, np.ndarray],
    data: DataConfig,
    log: logging.Logger,
) -> ArcsinhScaling:
    """Sky noise of each band from a bounded number of cutouts of every field.

    Raises:
        DataError: no masked row has a cutout.
    """
    images = images_of(data)
    bands = tuple(images.bands)
    noise, quota = SkyNoise(len(bands)), max(32, -(-SIGMA_OBJECTS // len(cubes)))
    n_wrong = 0
    for cube in cubes:
        taken = 0
        for _, _, batch in stream([cube], masks, data):
            rows = np.flatnonzero(batch.present)
            if len(rows):
                inside = elliptical_mask(batch.a, batch.b, batch.theta, batch.size, **tokenizer.ellipse)
                noise.add(sky_statistics(batch.flux[rows], batch.valid[rows], inside[rows])[1])
            taken += len(rows)
            n_wrong += sum(counts["wrong_length"] for counts in batch.reasons.values())
            if taken >= quota:
                break
    sigma = noise.sigma()
    if not (sigma > 0).any():
        columns = [band.column for band in images.bands.values()]
        if n_wrong:
            size = images.size
            raise DataError(
                f"cutouts of {size} x {size} = {size * size} pixels",
                got=f"{n_wrong} of another length ({_first_length(cubes, columns)}) and none of this one",
                where=f"columns {columns[0]} … {columns[-1]}",
                repair="set data.images.size, or rewrite the columns",
            )
        raise DataError(
            "training objects with cutouts",
            got=f"none in {sum(int(m.sum()) for m in masks.values())} objects of {len(cubes)} fields",
            where=f"columns {columns[0]} … {columns[-1]}",
            repair="choose other fields, or leave the image tokenizer out (tokenizer=scalar or spectrum)",
        )
    unseen = [name for name, value in zip(bands, sigma, strict=True) if value == 0]
    if unseen:
        log.warning("image tokenizer: no training cutout has %s; treated as missing everywhere", ", ".join(unseen))
    return ArcsinhScaling(bands, sigma, tokenizer.config.softening)


def _first_length(cubes: Sequence[Datacube], columns: Sequence[str]) -> int | None:
    """Length of the first cutout that is there, for the message."""
    for cube in cubes:
        for batch in cube.batches(columns):
            for column in columns:
                lengths = pc.list_value_length(batch.column(column)).drop_null()
                if len(lengths):
                    return lengths[0].as_py()
    return None


def collect(
    tokenizer: ImageTokenizer,
    cubes: Sequence[Datacube],
    choice: RowChoice,
    data: DataConfig,
    train: CutoutCache,
    held_out: CutoutCache,
    log: logging.Logger,
    findings: Findings,
) -> dict[str, Any]:
    """One pass over the cubes into both caches; returns their sizes and adds to what was found.

    Raises:
        DataError: no training cutout has enough valid pixels.
    """
    for cube in cubes:
        fit, judged = choice.fit[cube.field], choice.held_out[cube.field]
        for field, rows, batch in stream([cube], {cube.field: fit | judged}, data):
            used = tokenizer.usable(batch)
            findings.add_images(field, batch, used)
            for cache, mask in ((train, fit[rows]), (held_out, judged[rows])):
                chosen = np.flatnonzero(used & mask)
                if len(chosen):
                    cache.add(*tokenizer.normalized(batch, chosen))
    if not len(train):
        raise DataError(
            f"training cutouts with at least {tokenizer.config.min_valid_fraction:.0%} valid pixels",
            got=f"none: {findings.said()}",
            repair="lower tokenizer.image.min_valid_fraction",
        )
    log.info("image tokenizer: %d training and %d held-out cutouts", train.n_seen, held_out.n_seen)
    return {"n_train": train.n_seen, "n_held_out": held_out.n_seen, "n_fitted_on": len(train)}


def loop_settings(config: CodecTrainingConfig, steps_per_epoch: int) -> TrainingConfig:
    """The codec's settings in the words of the training loop."""
    steps = config.epochs * steps_per_epoch
    steps = steps if config.max_steps is None else min(steps, config.max_steps)
    return TrainingConfig(
        batch_size=config.batch_size,
        epochs=config.epochs,
        max_steps=steps,
        grad_clip=config.grad_clip,
        log_every=max(1, min(50, steps // 10)),
        val_every=max(1, steps // N_VALIDATIONS),
        save_every=None,
    )


def train_codec(
    codec: Codec,
    train: CutoutCache,
    held_out: CutoutCache,
    tokenizer: ImageTokenizer,
    run: RunContext | None,
    seed: int,
) -> dict[str, Any]:
    """Train ``codec`` in place; returns steps and epochs for the report."""
    from ...runs.tracking import NullTracker
    from ...training.loop import TrainingLoop

    settings = tokenizer.config.codec.training
    weighting = {"outside_weight": tokenizer.config.outside_weight}
    loader = CutoutLoader(train, settings.batch_size, tokenizer.ellipse, train=True, seed=seed, **weighting)
    validation = None
    if len(held_out):
        size = min(settings.batch_size, len(held_out))
        validation = CutoutLoader(held_out, size, tokenizer.ellipse, train=False, limit=VALIDATION_OBJECTS, **weighting)
    loop = TrainingLoop(
        codec.objective(tokenizer.scaling_.bands),
        loader,
        training=loop_settings(settings, len(loader)),
        optimizer=OptimizerConfig(learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, beta2=0.99),
        schedule=ScheduleConfig(
            name=ScheduleName.cosine, warmup_steps=settings.warmup_steps, min_lr_ratio=settings.min_lr_ratio
        ),
        hardware=tokenizer.hardware,
        val_loader=validation,
        tracker=NullTracker() if run is None else run.tracker,
        log=tokenizer._log(run),
        output_dir=None,
        seed=seed,
        metric_prefix="image/",
    )
    result = loop.fit()
    return {"steps": int(result.steps), "epochs": int(result.epochs)}


def noise_gain(tokenizer: ImageTokenizer, cache: CutoutCache, seed: int) -> np.ndarray:
    """What the usual sky noise, added once more to training cutouts, does to their latents: mean squared change per
    code of the first stage ``(C,)``."""
    gain = NoiseGain(tokenizer.quantizer_.sizes[0])
    rng = np.random.default_rng([seed, 0x9A1])
    loader = CutoutLoader(cache, tokenizer.config.batch_size, tokenizer.ellipse, train=False, limit=NOISE_OBJECTS)
    for batch in loader:
        before = tokenizer.encode_normalized(batch["x"], batch["valid"])
        flux = np.sinh(batch["x"].numpy())
        flux += rng.standard_normal(flux.shape, dtype=np.float32) / np.float32(tokenizer.config.softening)
        noisy = torch.from_numpy(arcsinh_(flux)).where(batch["valid"], 0.0)
        change = np.square(tokenizer.encode_normalized(noisy, batch["valid"]) - before, dtype=np.float64).sum(1)
        codes = tokenizer.quantize(before).reshape(*change.reshape(len(change), -1).shape, -1)[..., 0]
        gain.add(codes.ravel(), change.ravel(), np.ones(change.size))
    return gain.per_code()


def fit_rings(tokenizer: ImageTokenizer, cache: CutoutCache) -> FluxRings | None:
    """Levels for the fluxes in rings of the cached cutouts; None where no rings are asked for."""
    config, scaling = tokenizer.config, tokenizer.scaling_
    if not config.flux_radii:
        return None
    rings, values = FluxRings(config.flux_radii, scaling.sigma, cache.shape[-1]), []
    for batch in CutoutLoader(cache, config.batch_size, tokenizer.ellipse, train=False):
        flux, valid = scaling.inverse(batch["x"].numpy()), batch["valid"].numpy()
        values.append(rings.values(flux, valid, np.zeros_like(flux)))
    rings.fit(np.concatenate(values))
    return rings


def fit_codebook(tokenizer: ImageTokenizer, cache: CutoutCache, seed: int) -> Quantizer:
    """Codebook over the latent vectors of the cached cutouts.

    Vectors weigh as their pixels do in the codec's loss, so that the few over objects get codes beside the many over
    sky; the counts of the codebook are plain usage.
    """
    config = tokenizer.config
    generator = np.random.default_rng([seed, 0xC0DE])
    loader = CutoutLoader(cache, config.batch_size, tokenizer.ellipse, train=False)
    n_positions = tokenizer.n_tokens
    share = min(n_positions, max(1, config.quantizer.max_fit_rows // max(1, len(cache))))
    vectors, weights = [], []
    for batch in loader:
        latents = tokenizer.encode_normalized(batch["x"], batch["valid"])
        m, n_channels = latents.shape[:2]
        flat = latents.reshape(m, n_channels, -1).transpose(0, 2, 1)  # (m, L, Z)
        weight = vector_weights(
            batch["inside"].numpy(), batch["valid"].numpy(), latents.shape[-1], config.outside_weight
        )
        # the same number of positions of every cutout, drawn anew for each
        chosen = np.argsort(generator.random((m, n_positions)), axis=1)[:, :share]
        vectors.append(np.take_along_axis(flat, chosen[:, :, None], axis=1).reshape(-1, n_channels))
        weights.append(np.take_along_axis(weight, chosen, axis=1).reshape(-1))
    return build_quantizer(config.quantizer, seed).fit(np.concatenate(vectors), np.concatenate(weights))


def vector_weights(inside: np.ndarray, valid: np.ndarray, side: int, outside_weight: float) -> np.ndarray:
    """Mean loss weight of the pixels under each latent vector, ``(m, L)``.

    Args:
        inside: ``(m, S, S)`` bool; valid: ``(m, C, S, S)`` bool; side: G.
    """
    m, size = inside.shape[:2]
    patch = size // side
    weight = (outside_weight + (1.0 - outside_weight) * inside) * valid.mean(1, dtype=np.float32)
    patches = weight.reshape(m, side, patch, side, patch).mean((2, 4))
    return np.maximum(patches.reshape(m, -1), MIN_VECTOR_WEIGHT).astype(np.float32)
