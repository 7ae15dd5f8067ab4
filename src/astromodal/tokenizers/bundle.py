"""All tokenizers of a survey together: what ``encode.py`` and ``train_lm.py`` load.

``<store>/tokenizers`` holds one folder per tokenizer; whichever exist are loaded, and at least one has to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import ArtifactMissingError
from ..provenance import manifest
from ..vocabulary.codebook import Codebook, ScalarCodebook
from ..vocabulary.modalities import MODALITIES
from .base import COMMAND, Tokenizer
from .fitted import needed

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from ..data.datacube import Datacube
    from ..loss.standardize import Codebooks
    from .image.tokenizer import ImageTokenizer
    from .outside import OutsideTokenizer
    from .scalar import ScalarTokenizer
    from .spectrum.tokenizer import SpectrumTokenizer


class TokenizerSet(Mapping[str, Tokenizer]):
    """The fitted tokenizers of a survey, by the names of their modalities, in the order of sequences."""

    def __init__(self, **tokenizers: Tokenizer | None) -> None:
        self._tokenizers: dict[str, Any] = {
            name: tokenizers[name] for name in MODALITIES.in_sequence() if tokenizers.get(name) is not None
        }
        if unknown := set(tokenizers) - set(MODALITIES):
            raise TypeError(f"no modality {', '.join(sorted(unknown))}; there are {', '.join(MODALITIES)}")

    def __getitem__(self, name: str) -> Tokenizer:
        return self._tokenizers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tokenizers)

    def __len__(self) -> int:
        return len(self._tokenizers)

    @property
    def scalar(self) -> ScalarTokenizer | None:
        return self._tokenizers.get("scalar")

    @property
    def spectrum(self) -> SpectrumTokenizer | None:
        return self._tokenizers.get("spectrum")

    @property
    def image(self) -> ImageTokenizer | None:
        return self._tokenizers.get("image")

    def outside(self, name: str) -> OutsideTokenizer:
        """The tokenizer of a modality from outside, by its name."""
        return self._tokenizers[name]

    @classmethod
    def load(cls, root: str | Path) -> Self:
        """Load the tokenizers that exist in ``root`` (``<store>/tokenizers``).

        Raises:
            ArtifactMissingError: there is none; the message names the command that makes them.
            ArtifactError: one of them is damaged.
        """
        root = Path(root)
        found = {
            name: MODALITIES[name].tokenizer_class().load(root / MODALITIES[name].folder)
            for name in MODALITIES.in_sequence()
            if (root / MODALITIES[name].folder / "manifest.json").exists()
        }
        if not found:
            raise ArtifactMissingError("fitted tokenizers", got="none", where=root, repair=f"run {COMMAND}")
        return cls(**found)

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
        """Entries (C, D) over the latents of the cutouts; of the first stage, where there are several."""
        return next(iter(needed(self.image, "image").codebooks().values()))

    def spectrum_codebooks(self) -> dict[str, Codebook]:
        """Codebook of each part: a group that has one, or one stage of it."""
        return needed(self.spectrum, "spectrum").codebooks()

    def group_codebooks(self) -> dict[str, Codebook]:
        """Codebook of each part of the spectra, of the image's later stages, and of each modality from outside."""
        found = self.spectrum_codebooks() if self.spectrum else {}
        if self.image:
            found |= dict(list(self.image.codebooks().items())[1:])
        return found | {name: self.outside(name).codebook for name in MODALITIES.outside() if name in self}

    def scalar_codebook(self) -> ScalarCodebook:
        """Bin centres of all columns."""
        return needed(self.scalar, "scalar").codebook

    def codebooks(self) -> Codebooks:
        """The codebooks of the tokenizers that exist."""
        from ..loss.standardize import Codebooks

        return Codebooks(
            self.image_codebook() if self.image else None,
            self.group_codebooks(),
            self.scalar_codebook() if self.scalar else None,
        )

    def summary(self) -> dict[str, Any]:
        """Sizes and reports, as plain values."""
        summary: dict[str, Any] = {"fingerprint": self.fingerprint}
        for name, tokenizer in self.items():
            summary[name] = {"fingerprint": tokenizer.fingerprint, "report": tokenizer.report_, **tokenizer.sizes()}
        return summary
