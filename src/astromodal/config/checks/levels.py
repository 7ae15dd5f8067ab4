"""Which levels finite scalar quantization can have: checked with the configuration, and again where vectors arrive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...errors import ConfigError

MAX_CODES = 1 << 16  # token files hold uint16


def check_levels(levels: Sequence[int]) -> None:
    """Refuse levels that are no code.

    Raises:
        ConfigError: none, one below 2, or more combinations than a token file can tell apart.
    """
    levels = list(levels)
    if not levels or min(levels) < 2:
        raise ConfigError("levels of 2 or more, one per number of a vector", got=levels, where="fsq.levels")
    if math.prod(levels) > MAX_CODES:
        got = f"{math.prod(levels)} = the product of {levels}"
        raise ConfigError(f"at most {MAX_CODES} codes", got=got, where="fsq.levels", repair="fewer or smaller levels")


def check_n_levels(levels: Sequence[int], n_dims: int, where: str, repair: str | None = None) -> None:
    """Refuse levels for vectors of another width.

    Raises:
        ConfigError: with both numbers.
    """
    levels = list(levels)
    if len(levels) != n_dims:
        raise ConfigError(
            f"vectors of {len(levels)} numbers, one for each of fsq.levels={levels}",
            got=f"vectors of {n_dims}",
            where=where,
            repair=repair or f"use a codec with latent_channels={len(levels)}, or give {n_dims} levels",
        )


def check_image_levels(levels: Sequence[int] | None, channels: int | None) -> None:
    """One level per latent channel of the image codec, which would be trained before anyone notices."""
    if levels is not None:
        check_levels(levels)
        if channels is not None:
            key = "tokenizer.image.codec.latent_channels"
            check_n_levels(levels, channels, f"{key}={channels}", f"{key}={len(levels)}, or {channels} levels")


def patch_width(patch_size: int, precision_weight: float) -> int:
    """Numbers of a patch of a spectrum: a flux per pixel, and with a ``precision_weight`` a log precision per pixel.

    >>> patch_width(32, 0.0), patch_width(1, 0.25)
    (32, 2)
    """
    return patch_size * (2 if precision_weight else 1)


def check_patch_levels(levels: Sequence[int] | None, patch_sizes: Mapping[str, int], precision_weight: float) -> None:
    """Without a codec, what is quantised are patches: a flux per pixel, and its precision if that has a weight."""
    if levels is not None:
        check_levels(levels)
        repair = f"tokenizer/spectrum/quantizer=kmeans, or a codec with latent_channels={len(levels)}"
        of = "flux and precision" if precision_weight else "flux"
        for group, size in patch_sizes.items():
            where = f"{group}: {of} of {size} pixels per patch"
            check_n_levels(levels, patch_width(size, precision_weight), where, repair)
