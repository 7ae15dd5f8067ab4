"""All tokenizers of a survey together: what ``encode.py`` and ``train_lm.py`` load.

``<store>/tokenizers`` holds one folder per tokenizer; whichever exist are loaded, and at least one has to.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import ArtifactMissingError
from ..provenance import manifest
from ..vocabulary.codebook import Codebook, ScalarCodebook
from .base import COMMAND, Tokenizer
from .scalar import ScalarTokenizer
from .spectrum.tokenizer import SpectrumTokenizer

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..data.datacube import Datacube
    from ..loss.standardize import Codebooks
    from .image.tokenizer import ImageTokenizer

FOLDERS = {"scalar": "scalar_tokenizers", "spectrum": "spectrum_tokenizers", "image": "codecs"}


def tokenizer_class(name: str) -> type[Tokenizer]:
    """The class of the tokenizer ``scalar``, ``spectrum`` or ``image``; torch is imported for the last only."""
    if name == "image":
        from .image.tokenizer import ImageTokenizer

        return ImageTokenizer
    return {"scalar": ScalarTokenizer, "spectrum": SpectrumTokenizer}[name]


class TokenizerSet:
    """The fitted tokenizers of a survey; what was not fitted is None."""

    def __init__(
        self,
        scalar: ScalarTokenizer | None = None,
        spectrum: SpectrumTokenizer | None = None,
        image: ImageTokenizer | None = None,
    ) -> None:
        self.scalar, self.spectrum, self.image = scalar, spectrum, image

    @classmethod
    def load(cls, root: str | Path) -> Self:
        """Load the tokenizers that exist in ``root`` (``<store>/tokenizers``).

        Raises:
            ArtifactMissingError: there is none; the message names the command that makes them.
            ArtifactError: one of them is damaged.
        """
        root = Path(root)
        found = {
            name: tokenizer_class(name).load(root / folder)
            for name, folder in FOLDERS.items()
            if (root / folder / "manifest.json").exists()
        }
        if not found:
            raise ArtifactMissingError("fitted tokenizers", got="none", where=root, repair=f"run {COMMAND}")
        return cls(**found)

    def items(self) -> list[tuple[str, Tokenizer]]:
        """Name and tokenizer of those that exist."""
        everything = {"scalar": self.scalar, "spectrum": self.spectrum, "image": self.image}
        return [(name, tokenizer) for name, tokenizer in everything.items() if tokenizer is not None]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each tokenizer."""
        return {name: tokenizer.fingerprint for name, tokenizer in self.items()}

    @property
    def fingerprint(self) -> str:
        """One fingerprint of all of them: tokens made with another set do not match it."""
        return manifest.fingerprint_config(self.fingerprints)

    def check(self, data: DataConfig, cubes: Iterable[Datacube] = ()) -> None:
        """Refuse another data layout and cubes that changed since; see :meth:`Tokenizer.check`."""
        cubes = list(cubes)
        for _, tokenizer in self.items():
            tokenizer.check(data, cubes)

    def image_codebook(self) -> Codebook:
        """Entries (C, D) over the latents of the cutouts."""
        return self._need("image").codebook

    def spectrum_codebooks(self) -> dict[str, Codebook]:
        """Codebook of each part: a group that has one, or one stage of it."""
        return self._need("spectrum").codebooks()

    def scalar_codebook(self) -> ScalarCodebook:
        """Bin centres of all columns."""
        return self._need("scalar").codebook

    def codebooks(self) -> Codebooks:
        """The codebooks of the tokenizers that exist."""
        from ..loss.standardize import Codebooks

        return Codebooks(
            self.image_codebook() if self.image else None,
            self.spectrum_codebooks() if self.spectrum else {},
            self.scalar_codebook() if self.scalar else None,
        )

    def _need(self, name: str) -> Any:
        tokenizer = getattr(self, name)
        if tokenizer is None:
            raise ArtifactMissingError(
                f"a fitted {name} tokenizer", got="none", repair=f"run {COMMAND} tokenizer={name}"
            )
        return tokenizer

    def summary(self) -> dict[str, Any]:
        """Sizes and reports, as plain values."""
        summary: dict[str, Any] = {"fingerprint": self.fingerprint}
        for name, tokenizer in self.items():
            summary[name] = {"fingerprint": tokenizer.fingerprint, "report": tokenizer.report_}
        if self.scalar is not None:
            summary["scalar"] |= {"columns": list(self.scalar.columns), "n_bins": list(self.scalar.n_bins)}
        if self.spectrum is not None:
            groups = {
                name: {
                    "n_codes": self.spectrum.codecs[group].quantizer.sizes[stage],
                    "n_tokens": self.spectrum.length(name),
                    "patch_size": self.spectrum.codecs[group].patch_size,
                }
                for name, (group, stage) in self.spectrum.parts.items()
            }
            summary["spectrum"] |= {"groups": groups, "skipped": dict(self.spectrum.skipped)}
        if self.image is not None:
            summary["image"] |= {"n_codes": sum(self.image.quantizer_.sizes)}
        return summary
