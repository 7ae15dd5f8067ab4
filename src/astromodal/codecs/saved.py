"""A codec from somebody's file: its settings are compared with the shapes of its weights before they are believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..config.checks.saved import check_count, typed
from ..config.families import CODECS
from ..errors import ArtifactError, UserError
from ..files.torch_files import check_finite
from .base import Codec, build_codec

MAX_VALUES = 1 << 26  # of an array: 12 bands of 2300 x 2300 pixels; and of the pixels of a spectrum times the width
_LAYERS = {
    "autoencoder": ("n_blocks",),
    "vae": ("n_blocks",),
    "ternary_vae": ("n_blocks",),
    "masked_autoencoder": ("n_layers", "decoder_layers"),
}


def codec_with_weights(values: Any, state: Any, where: object) -> Codec:
    """The codec that ``values`` (of :meth:`Codec.to_dict`) describe, with the weights ``state``.

    Raises:
        ArtifactError: the values are not those of a known codec, the weights are not those of such a codec, or they
            are not finite.
    """
    named = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    if not isinstance(values, Mapping) or not isinstance(values.get("config"), Mapping) or not named:
        raise ArtifactError(
            "a saved codec with name, array_shape, config and weights",
            got="something else",
            where=where,
            repair="fit the tokenizer again",
        )
    config, shape = _settings(values, state, where)
    try:
        with torch.device("meta"):  # shapes without values
            expected = {name: tuple(value.shape) for name, value in build_codec(config, shape).state_dict().items()}
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ArtifactError("settings of which a codec can be built", got=str(error)[:200], where=where) from error
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        odd = next(name for name in sorted({*expected, *found}, key=str) if expected.get(name) != found.get(name))
        raise ArtifactError(
            f"weights that fit the saved codec ({odd}: {expected.get(odd, 'none')})",
            got=found.get(odd, "none"),
            where=where,
            repair="fit the tokenizer again",
        )
    check_finite(state, where)
    codec = build_codec(config, shape)
    codec.load_state_dict(dict(state))
    return codec.eval()


def _settings(values: Mapping[str, Any], state: Mapping[str, Tensor], where: object) -> tuple[Any, tuple[int, ...]]:
    """Configuration and shape of the arrays, neither of which asks for more than the weights have."""
    name = values["config"].get("name")
    kinds = {known: row.section for known, row in CODECS.items() if row.place and row.section}
    if not isinstance(name, str) or name not in kinds:
        raise ArtifactError(f"a codec of {', '.join(kinds)}", got=repr(name)[:60], where=where)
    config: Any = typed(kinds[name], {k: v for k, v in values["config"].items() if k != "training"}, where)
    shape = values.get("array_shape")
    if not isinstance(shape, list) or not 2 <= len(shape) <= 3:
        raise ArtifactError("the shape of arrays", got=repr(shape)[:60], where=where)
    shape = tuple(check_count(n, "array_shape", MAX_VALUES, where) for n in shape)
    most = max((n for value in state.values() for n in value.shape), default=0)
    if math.prod(shape) > MAX_VALUES or (len(shape) == 2 and shape[1] * min(config.width, most) > MAX_VALUES):
        raise ArtifactError(f"arrays of at most {MAX_VALUES} values", got="x".join(map(str, shape)), where=where)
    check_count(config.width, "width", most, where)
    for item in fields(config):
        value = getattr(config, item.name)
        if type(value) is int:
            limit = len(state) if item.name in _LAYERS.get(name, ()) else max(most, MAX_VALUES)
            check_count(value, item.name, limit, where, least=0)
    return config, shape
