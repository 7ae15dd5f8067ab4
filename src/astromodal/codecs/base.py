"""The contract of a codec: encode arrays to latents, decode latents to arrays, bring the objective to train it.

One contract test runs over every codec. A codec is built from its configuration dataclass and saved as plain
values (``to_dict``) beside its weights, so that ``torch.load(weights_only=True)`` suffices to read it back.

An array has channels first: a cutout is ``(C, S, S)``, a spectrum ``(1, P)``. Latents are vectors of Z numbers on a
grid of one or two dimensions, ``(Z, G, G)`` or ``(Z, L)``; each becomes a token.

Shapes: B batch, C channels, S pixels on a side, P pixels of a spectrum, Z latent channels, G and L latent positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..config import schema
from ..config.families import CODECS
from ..errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from ..models.trainable import Objective


class Codec(nn.Module, ABC):
    """Arrays ``(B, C, *space)`` with validity to latents ``(B, Z, *grid)`` and back.

    In ``eval()`` mode both directions are deterministic, and what an invalid pixel holds never matters.
    """

    name: ClassVar[str]
    config: Any  # the dataclass it was built from
    array_shape: tuple[int, ...]  # (C, *space)

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """``(Z, *grid)``."""

    @abstractmethod
    def encode(self, x: Tensor, valid: Tensor) -> Tensor:
        """Latents of normalised arrays ``x``; ``valid`` (bool or 0/1, same shape) marks the pixels to trust."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised arrays from latents."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Reconstruction; in training mode with whatever noise the codec trains with."""
        return self.decode(self.encode(x, valid))

    def objective(self, channels: Sequence[str]) -> Objective:
        """What the training loop optimises; ``channels`` are the C names that metrics are reported by."""
        from .reconstruction import ReconstructionObjective

        return ReconstructionObjective(self, channels)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights, as plain values; read back by :func:`codec_from_dict`."""
        config = {key: value for key, value in asdict(self.config).items() if key != "training"}
        return {"name": self.name, "array_shape": list(self.array_shape), "config": config}


def build_codec(config: Any, array_shape: Sequence[int]) -> Codec:
    """The codec that ``config.name`` asks for, with fresh weights.

    Raises:
        ConfigError: no codec of this name takes such arrays, or it cannot take arrays of this size.
    """
    n_dims = len(array_shape) - 1
    known = [name for name, row in CODECS.items() if n_dims in row.facts["dims"]]
    if config.name not in known:
        where = "tokenizer.image.codec" if n_dims == 2 else "tokenizer.spectrum.codec"
        raise ConfigError(f"a codec of {', '.join(known) or 'none'}", got=config.name, where=where)
    return CODECS[config.name].made()(config, tuple(int(n) for n in array_shape))


def codec_config(values: Mapping[str, Any]) -> Any:
    """The typed configuration of a codec from plain values with a ``name``.

    Raises:
        ArtifactError: no codec has that name, or it has no such setting.
    """
    values = dict(values)
    training = values.pop("training", None)
    try:
        kind = CODECS.sections()[values["name"]]
        return kind(**values) if training is None else kind(**values, training=schema.CodecTrainingConfig(**training))
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            "the settings of a known codec", got=repr(error), repair="fit the tokenizer again"
        ) from error


def codec_from_dict(values: Mapping[str, Any]) -> Codec:
    """Inverse of :meth:`Codec.to_dict`; weights are loaded by the caller.

    Raises:
        ArtifactError: the values are not those of a known codec.
    """
    try:
        config, shape = values["config"], values["array_shape"]
    except KeyError as error:
        raise ArtifactError(
            "a saved codec with name, array_shape and config", got=f"no {error}", repair="fit the tokenizer again"
        ) from error
    return build_codec(codec_config(config), shape)
