"""Which parts a sequence has, in which order, how long each can be, and whether the longest fits into the model.

A sequence is ``[BOS] parts [EOS]``. A *part* is what one observation gives: one token per scalar column, the patches
of one spectrum group, the tokens of the image. Every part has a type of its own in the vocabulary, so the type of a
token says which part it belongs to. The longest sequence is a sum that is known before any work; a layout that does
not fit into ``model.max_len`` is refused with that sum, and nothing is ever cut off.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactMissingError, ConfigError
from ..tokenizers.fitted import needed
from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import TYPE_IMAGE, VocabSpec, build_vocab_spec

if TYPE_CHECKING:
    from ..config.schema import DataConfig, VocabConfig
    from ..tokenizers import TokenizerSet


@dataclass(frozen=True)
class Segment:
    """One part of a sequence."""

    name: str  # scalar column, spectrum group or "image"
    modality: str
    length: int  # tokens when present
    type: int
    base: int  # global id of code 0
    size: int  # codes of its block


@dataclass(frozen=True)
class SequenceLayout:
    """Parts of a sequence in their fixed order.

    Args:
        vocab: ids and types.
        modalities: configured order, of those in ``MODALITIES``.
        columns: scalar columns, in the order of the token files.
        group_lengths: spectrum group → tokens per spectrum; later stage of the image, modality from outside → tokens
            per object.
        image_length: tokens per image (of its first stage); 0 for none.
        max_len: positions of the model; None leaves the length unchecked.

    Raises:
        ConfigError: unknown or repeated modalities, no part at all, or a length beyond ``max_len``.

    >>> vocab = build_vocab_spec(8, 4, {"xp": 6}, scalar_columns=("r", "z"))
    >>> layout = SequenceLayout(vocab, ("scalar", "spectrum"), ("r", "z"), {"xp": 5}, 0, 64)
    >>> layout.max_length, [segment.name for segment in layout.segments]
    (9, ['r', 'z', 'xp'])
    """

    vocab: VocabSpec
    modalities: tuple[str, ...]
    columns: tuple[str, ...]
    group_lengths: Mapping[str, int]
    image_length: int
    max_len: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", check_modalities(self.modalities))
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "group_lengths", dict(self.group_lengths))
        if not self.segments:
            raise ConfigError(
                "at least one part of a sequence",
                got=f"none for sequence.modalities=[{','.join(self.modalities)}]",
                repair="add a modality that has a tokenizer",
            )
        if self.max_len is not None and self.max_length > self.max_len:
            raise ConfigError(
                f"sequences of at most model.max_len={self.max_len}",
                got=self.arithmetic(),
                repair=f"set model.max_len={self.max_length}, or a larger tokenizer.spectrum.patch_size (then fit and "
                "encode again), or fewer parts in sequence.modalities",
            )

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Parts in the fixed order."""
        parts: list[Segment] = []
        for modality in self.modalities:
            if modality == "scalar" and self.columns:
                block = self.vocab.block("scalar")
                parts += [
                    Segment(c, modality, 1, self.vocab.type_of_column(c), block.start, block.size) for c in self.columns
                ]
            else:  # image and spectra; the image's later stages are groups, as those of spectra are
                if modality == "image" and self.image_length:
                    block = self.vocab.block("image")
                    parts.append(Segment("image", modality, self.image_length, TYPE_IMAGE, block.start, block.size))
                for group, length in self.group_lengths.items():
                    block = self.vocab.block(group)
                    if block.modality == modality:
                        kind = self.vocab.type_of_group(group)
                        parts.append(Segment(group, modality, length, kind, block.start, block.size))
        return tuple(parts)

    @property
    def max_length(self) -> int:
        """Length of the sequence of an object that has everything, BOS and EOS included."""
        return 2 + sum(segment.length for segment in self.segments)

    def arithmetic(self) -> str:
        """The sum behind :attr:`max_length`, part by part."""
        terms = ["1 (BOS)"]
        n_columns = sum(segment.modality == "scalar" for segment in self.segments)
        if n_columns:
            terms.append(f"{n_columns} (scalar columns)")
        terms += [f"{segment.length} ({segment.name})" for segment in self.segments if segment.modality != "scalar"]
        return f"{self.max_length} = " + " + ".join([*terms, "1 (EOS)"])

    def to_dict(self) -> dict[str, Any]:
        """What the packed sequences depend on, as plain values."""
        return {
            "vocab": self.vocab.to_dict(),
            "modalities": list(self.modalities),
            "columns": list(self.columns),
            "group_lengths": [[group, int(length)] for group, length in self.group_lengths.items()],
            "image_length": int(self.image_length),
        }


def check_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """The configured modalities, each known and none twice.

    Raises:
        ConfigError: with the nearest known name.
    """
    for name in modalities:
        if name not in MODALITIES:
            known = MODALITIES.in_sequence()
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ConfigError(
                f"sequence.modalities from {', '.join(known)}", got=repr(name), repair=f"did you mean {close[0]}?"
            )
    if len(set(modalities)) != len(modalities):
        raise ConfigError("each modality once", got=", ".join(modalities), where="sequence.modalities")
    return tuple(modalities)


def build_vocabulary(tokenizers: TokenizerSet, config: VocabConfig | None = None) -> VocabSpec:
    """Vocabulary of a ``TokenizerSet``; sizes in ``config`` may enlarge blocks, never shrink them.

    Raises:
        ConfigError: a configured size is below that of the codebook.
    """
    image = tokenizers.image_codebook() if tokenizers.image is not None else None
    groups = tokenizers.group_codebooks()
    modality_of = {name: name for name in MODALITIES.outside() if name in groups}
    modality_of |= dict.fromkeys(() if tokenizers.image is None else tokenizers.image.parts, "image")
    scalars = tokenizers.scalar_codebook() if tokenizers.scalar is not None else None
    v_image = _size("image", 0 if image is None else len(image.entries), config)
    v_scalar = _size("scalar", 0 if scalars is None else int(scalars.centers.shape[1]), config)
    v_groups = {
        name: _size(modality_of.get(name, "spectrum"), len(codebook.entries), config)
        for name, codebook in groups.items()
    }
    columns = () if scalars is None else tuple(scalars.columns)
    n_bins = None if scalars is None else scalars.n_bins.tolist()
    return build_vocab_spec(v_image, v_scalar, v_groups, tuple(v_groups), columns, n_bins, modality_of)


def _size(name: str, codes: int, config: VocabConfig | None) -> int:
    """Size of a block: the configured one where it is set and the modality exists."""
    configured = None if config is None or not codes else getattr(config, name)
    if configured is None:
        return codes
    if configured < codes:
        raise ConfigError(
            f"vocab.{name} of at least {codes}, the codes of the tokenizer",
            got=configured,
            repair=f"set vocab.{name}=null",
        )
    return int(configured)


def build_layout(
    tokenizers: TokenizerSet,
    modalities: Sequence[str],
    max_len: int | None = None,
    vocab: VocabConfig | VocabSpec | None = None,
    data: DataConfig | None = None,
) -> SequenceLayout:
    """Layout of the sequences that ``tokenizers`` (a ``TokenizerSet``) make.

    A modality that the survey does not have is left out. With ``data``, one that the survey has but that no tokenizer
    was fitted for is an error.

    Raises:
        ConfigError: as :class:`SequenceLayout`.
        ArtifactMissingError: a tokenizer is missing; the message names the command that fits it.
    """
    modalities = check_modalities(modalities)
    fitted = {name: name in tokenizers for name in MODALITIES}
    if data is not None:
        for name in modalities:
            if MODALITIES[name].in_survey(data) and not fitted[name]:
                rest = ",".join(m for m in modalities if m != name)
                raise ArtifactMissingError(
                    f"a fitted {name} tokenizer",
                    got="none",
                    where="sequence.modalities",
                    repair=f"run python train_tokenizers.py tokenizer={name}, or set sequence.modalities=[{rest}]",
                )
    spec = vocab if isinstance(vocab, VocabSpec) else build_vocabulary(tokenizers, vocab)
    return SequenceLayout(
        vocab=spec,
        modalities=modalities,
        columns=spec.scalar_columns if fitted["scalar"] else (),
        group_lengths={
            group: _length(tokenizers, group, spec.block(group).modality)
            for group in spec.spectrum_groups
            if fitted[spec.block(group).modality]
        },
        image_length=int(needed(tokenizers.image, "image").n_tokens) if fitted["image"] else 0,
        max_len=max_len,
    )


def _length(tokenizers: TokenizerSet, group: str, modality: str) -> int:
    """Tokens of a group of spectra, a later stage of the image, or a modality from outside."""
    if modality == "image":
        return needed(tokenizers.image, "image").length(group)
    if modality == "spectrum":
        return needed(tokenizers.spectrum, "spectrum").length(group)
    return tokenizers.outside(group).n_tokens
