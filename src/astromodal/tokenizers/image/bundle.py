"""The image tokenizer on disk: one file of weights with everything that gives them meaning, and one codebook.

``autoencoder_splus_cuts.pt`` holds tensors and plain values only, so that ``torch.load(weights_only=True)`` reads it;
``codebook_kmeans_<n_codes>.joblib`` holds the arrays ``centroids`` and ``counts``. The names are public,
whatever the survey; ``n_codes`` is the number asked for, which few data may not fill. Other quantizers have analogous
names (``codebook_residual_kmeans_3x1024.joblib``, ``codebook_fsq_8-5-5-5.joblib``) and their own arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ...codecs.base import codec_config
from ...codecs.saved import codec_with_weights
from ...config.schema import ImageTokenizerConfig
from ...data.photometry import ArcsinhScaling
from ...errors import ArtifactError
from ...files import io
from ...quantizers import quantizer_config, quantizer_from_state, size_label
from ..base import plain
from .rings import FluxRings

if TYPE_CHECKING:
    from .tokenizer import ImageTokenizer

Kind = TypeVar("Kind", bound="ImageTokenizer")
WEIGHTS = "autoencoder_splus_cuts.pt"


def write_bundle(tokenizer: ImageTokenizer, folder: Path) -> list[Path]:
    """Write both files atomically and return their paths."""
    codec = tokenizer.fitted()
    weights = folder / WEIGHTS
    settings = quantizer_config(tokenizer.config.quantizer)
    codebook = folder / f"codebook_{settings.name}_{size_label(settings)}.joblib"
    io.save_joblib(codebook, tokenizer.quantizer_.state())
    content = {
        "codec": plain(codec.to_dict()),
        "state": {name: tensor.detach().cpu().contiguous() for name, tensor in codec.state_dict().items()},
        "scaling": tokenizer.scaling_.to_dict(),
        "layout": tokenizer.layout_,
        "inputs": tokenizer.inputs_,
        "config": plain(tokenizer.config),
        "codebook": codebook.name,
    }
    if tokenizer.noise_gain_ is not None:
        content["noise_gain"] = torch.from_numpy(tokenizer.noise_gain_)
    if tokenizer.rings_ is not None:
        content["rings"] = tokenizer.rings_.state()
    io.save_torch(weights, content)
    return [weights, codebook]


def read_bundle(cls: type[Kind], folder: Path) -> Kind:
    """Read what :func:`write_bundle` wrote.

    Raises:
        ArtifactError: weights and codec do not belong together, or latents and codebook.
    """
    content = io.load_torch(folder / WEIGHTS)
    tokenizer = cls(config_from(content["config"]))
    tokenizer.layout_, tokenizer.inputs_ = content["layout"], content["inputs"]
    tokenizer.scaling_ = ArcsinhScaling.from_dict(content["scaling"])
    codec = codec_with_weights(content["codec"], content["state"], folder / WEIGHTS)
    tokenizer.codec_ = codec.to(tokenizer.device)
    tokenizer.noise_gain_ = content["noise_gain"].numpy() if "noise_gain" in content else None
    if "rings" in content:
        bounds, counts = tuple(content["rings"]["bounds"]), content["rings"]["counts"].numpy()
        sigma, size = tokenizer.scaling_.sigma, codec.array_shape[-1]
        tokenizer.rings_ = FluxRings(tokenizer.config.flux_radii, sigma, size, bounds, counts)
    state = io.load_joblib(folder / Path(content["codebook"]).name)
    tokenizer.quantizer_ = quantizer_from_state(tokenizer.config.quantizer.name, state)
    n_channels = tokenizer.quantizer_.n_dims
    if n_channels != codec.latent_shape[0]:
        raise ArtifactError(
            f"a codebook of {codec.latent_shape[0]} dimensions", got=n_channels, where=folder / content["codebook"]
        )
    return tokenizer


def config_from(values: Mapping[str, Any]) -> ImageTokenizerConfig:
    """The typed configuration from a saved plain one."""
    others = {key: value for key, value in values.items() if key not in ("codec", "quantizer")}
    return ImageTokenizerConfig(
        **others, codec=codec_config(values["codec"]), quantizer=quantizer_config(values["quantizer"])
    )
