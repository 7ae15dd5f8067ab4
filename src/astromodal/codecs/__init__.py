"""Codecs: networks that turn arrays into latents and back, each with the objective it is trained by.

Names are resolved on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autoencoder import Autoencoder, AutoencoderObjective
    from .base import Codec, build_codec, codec_from_dict

_HOME = {
    "Codec": "base",
    "build_codec": "base",
    "codec_from_dict": "base",
    "Autoencoder": "autoencoder",
    "AutoencoderObjective": "autoencoder",
}

__all__ = ["Autoencoder", "AutoencoderObjective", "Codec", "build_codec", "codec_from_dict"]


def __getattr__(name: str) -> Any:
    """Import the module of a public name when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
