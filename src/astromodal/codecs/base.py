"""The contract of a codec: encode arrays to latents, decode latents to arrays, bring the objective to train it.

One contract test runs over every codec. A codec is built from its configuration dataclass and saved as plain
values (``to_dict``) beside its weights, so that ``torch.load(weights_only=True)`` suffices to read it back.

Shapes: B batch, C bands, S pixels on a side, Z latent channels, G = S / 4 latent positions on a side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from ..core.objective import Objective


class Codec(nn.Module, ABC):
    """Arrays ``(B, C, S, S)`` with validity to latents ``(B, Z, G, G)`` and back.

    In ``eval()`` mode both directions are deterministic, and what an invalid pixel holds never matters.
    """

    name: ClassVar[str]
    config: Any  # the dataclass it was built from
    n_bands: int
    size: int

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """``(Z, G, G)``."""

    @abstractmethod
    def encode(self, x: Tensor, valid: Tensor) -> Tensor:
        """Latents of normalised cutouts ``x``; ``valid`` (bool or 0/1, same shape) marks the pixels to trust."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised cutouts from latents."""

    @abstractmethod
    def objective(self, *, outside_weight: float, bands: Sequence[str]) -> Objective:
        """What the training loop optimises."""

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights, as plain values; read back by :func:`codec_from_dict`."""
        config = {key: value for key, value in asdict(self.config).items() if key != "training"}
        return {"name": self.name, "n_bands": self.n_bands, "size": self.size, "config": config}


def build_codec(config: Any, n_bands: int, size: int) -> Codec:
    """The codec that ``config.name`` asks for.

    Raises:
        ConfigError: no codec has this name, or it cannot take images of this size.
    """
    from .autoencoder import Autoencoder

    known: dict[str, type[Codec]] = {Autoencoder.name: Autoencoder}
    if config.name not in known:
        raise ConfigError(f"a codec of {', '.join(known)}", got=config.name, where="tokenizer.image.codec.name")
    return known[config.name](config, n_bands=n_bands, size=size)


def codec_from_dict(values: Mapping[str, Any]) -> Codec:
    """Inverse of :meth:`Codec.to_dict`; weights are loaded by the caller.

    Raises:
        ArtifactError: the values are not those of a known codec.
    """
    from ..config.schema import AutoencoderConfig

    known = {"autoencoder": AutoencoderConfig}
    try:
        config = known[values["name"]](**values["config"])
        return build_codec(config, n_bands=int(values["n_bands"]), size=int(values["size"]))
    except (KeyError, TypeError) as error:
        raise ArtifactError("a saved codec with name, n_bands, size and config", got=repr(error)) from error
