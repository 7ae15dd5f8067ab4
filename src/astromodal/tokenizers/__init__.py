"""Tokenizers: from catalogue values, spectra and cutouts to discrete codes and back.

``ImageTokenizer`` is imported on first use, because it needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Tokenizer
from .bundle import TokenizerSet
from .scalar import ScalarTokenizer, ScalarTokens
from .spectrum.tokenizer import SpectrumTokenizer

if TYPE_CHECKING:
    from .image.tokenizer import ImageTokenizer

__all__ = [
    "ImageTokenizer",
    "ScalarTokenizer",
    "ScalarTokens",
    "SpectrumTokenizer",
    "Tokenizer",
    "TokenizerSet",
]


def __getattr__(name: str) -> Any:
    if name == "ImageTokenizer":
        from .image.tokenizer import ImageTokenizer

        return ImageTokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
