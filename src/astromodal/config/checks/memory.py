"""Sizes that no machine of this kind could hold: refused with the memory that they would need, before any work."""

from __future__ import annotations

import os
from collections.abc import Iterator

from omegaconf import DictConfig

from ...errors import ConfigError
from .bounds import value_of

_TRAINED = 4 * 4  # bytes of a float32 weight, its gradient and AdamW's two moments


def check_memory(cfg: DictConfig, stage: str) -> None:
    """Refuse sizes whose arrays alone exceed the memory of this machine. A lower bound: it says no only when it must.

    Raises:
        ConfigError: naming the keys, and the memory that there is.
    """
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for keys, n_bytes in _arrays(cfg, stage):
        if n_bytes > have:
            sizes = ", ".join(f"{key}={value_of(cfg, key)}" for key in keys)
            raise ConfigError(
                f"sizes that fit into the memory of this machine ({_readable(have)})",
                got=f"{sizes}: at least {_readable(n_bytes)}",
                where=keys[0],
                repair=f"a smaller {keys[0]}",
            )


def _arrays(cfg: DictConfig, stage: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Keys that decide the size of something that is held in memory, and at least how many bytes that takes."""
    yield ("data.batch_rows",), 8 * cfg.data.batch_rows
    if cfg.data.images is not None:
        size = cfg.data.images.size
        yield ("data.images.size", "data.batch_rows"), 4 * size * size * len(cfg.data.images.bands)
    if cfg.data.synthetic is not None:
        yield ("data.synthetic.n_objects_per_field",), 8 * cfg.data.synthetic.n_objects_per_field
    if stage == "train_lm":
        m = cfg.model
        # attention 4 D^2, feed-forward 2 D F, a block; of the embedding, positions alone
        blocks = m.n_layers * (4 * m.d_model**2 + 2 * m.d_model * m.d_ff)
        on_cpu = cfg.hardware.device == "cpu" and int(os.environ.get("WORLD_SIZE", "1")) == 1
        yield ("model.d_model", "model.n_layers", "model.d_ff"), (_TRAINED if on_cpu else 4) * blocks
        yield ("model.max_len", "model.d_model"), 4 * m.max_len * m.d_model
        yield ("training.batch_size",), 8 * cfg.training.batch_size
    elif stage == "evaluate":
        yield ("evaluate.batch_size",), 8 * cfg.evaluate.batch_size
        yield ("evaluate.n_samples",), 8 * cfg.evaluate.n_samples
    elif stage == "train_tokenizers":
        yield from _of_tokenizers(cfg)
        yield from _of_recipe(cfg)


def _of_tokenizers(cfg: DictConfig) -> Iterator[tuple[tuple[str, ...], int]]:
    if cfg.tokenizer.scalar is not None:
        yield ("tokenizer.scalar.n_bins",), 8 * cfg.tokenizer.scalar.n_bins * max(len(cfg.data.scalars), 1)
    for name in ("spectrum", "image"):
        section = f"tokenizer.{name}"
        codes, width = (value_of(cfg, f"{section}.{key}") for key in ("quantizer.n_codes", "codec.width"))
        if codes is not None:
            yield (f"{section}.quantizer.n_codes",), 4 * codes
        if width is not None:  # the weights between two layers of this width, and what training keeps of them
            yield (f"{section}.codec.width",), _TRAINED * width * width
        batch = value_of(cfg, f"{section}.codec.training.batch_size")
        if batch is not None:
            yield (f"{section}.codec.training.batch_size",), 4 * batch


def _of_recipe(cfg: DictConfig) -> Iterator[tuple[tuple[str, ...], int]]:
    for key in ("hidden_dimension", "network.width", "d_model"):
        width = value_of(cfg, f"recipe.{key}") if cfg.recipe is not None else None
        if width is not None:
            yield (f"recipe.{key}",), _TRAINED * width * width
    trits = value_of(cfg, "recipe.n_trits") if cfg.recipe is not None else None
    if trits is not None:
        yield ("recipe.n_trits",), 3 ** min(trits, 64)


def _readable(n_bytes: float) -> str:
    """
    >>> _readable(3e9), _readable(4e17)
    ('3 GB', '400 PB')
    """
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if n_bytes < 1000 or unit == "PB":
            return f"{n_bytes:,.3g} {unit}" if n_bytes < 1e6 else f"{n_bytes:.1e} {unit}"
        n_bytes /= 1000
    raise AssertionError
