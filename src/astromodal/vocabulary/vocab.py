"""The vocabulary: which global token id means what, and which type a position has.

Ids: five specials, then one block for the images, one block of scalar bins that all columns share (the
column is the token's *type*), and one block per group of spectra. Token files hold local codes
(0 … size-1 of their block); a sequence holds global ids, ``block.start + code``.

Where a quantizer gives several codes per vector, each stage of a group is a group of its own from there on:
``desi_b``, ``desi_b.1``, ``desi_b.2``, from coarse to fine, each with its own tokens, block, type and codebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ArtifactError, ConfigError

PAD, BOS, EOS, MISS, NONDET = range(5)
SPECIALS = ("PAD", "BOS", "EOS", "MISS", "NONDET")
TYPE_SPECIAL, TYPE_IMAGE = 0, 1

DEFAULT_SPECTRUM_GROUPS = ("desi_b", "desi_r", "desi_z", "gaiaxp_bp", "gaiaxp_rp")


def stage_name(group: str, stage: int) -> str:
    """Name of the tokens of one stage of a group's quantizer; stage 0 has the group's name.

    >>> stage_name("desi_b", 0), stage_name("desi_b", 2)
    ('desi_b', 'desi_b.2')
    """
    return group if stage == 0 else f"{group}.{stage}"


def stages_of(groups: Sequence[str]) -> dict[str, list[str]]:
    """The stages of each group, coarse to fine.

    >>> stages_of(("desi_b", "desi_b.1", "xp"))
    {'desi_b': ['desi_b', 'desi_b.1'], 'xp': ['xp']}
    """
    found: dict[str, list[str]] = {}
    for name in groups:
        group, dot, stage = name.rpartition(".")
        found.setdefault(group if dot and stage.isdigit() and group in groups else name, []).append(name)
    return found


@dataclass(frozen=True)
class Block:
    """A contiguous range of ids that belongs to one codebook."""

    name: str  # "image", "scalar" or the group's name
    modality: str  # of MODALITIES
    start: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.size


@dataclass(frozen=True)
class VocabSpec:
    """Ids, blocks and types. Build it with :func:`build_vocab_spec`.

    ``spectrum_groups`` are the groups of vectors beside the image: spectra, then modalities from outside.
    ``n_bins`` holds the number of bins of each scalar column (null: every column uses the whole block).
    """

    blocks: tuple[Block, ...]
    spectrum_groups: tuple[str, ...] = ()
    scalar_columns: tuple[str, ...] = ()
    n_bins: tuple[int, ...] | None = None

    @property
    def vocab_size(self) -> int:
        return self.blocks[-1].stop if self.blocks else len(SPECIALS)

    @property
    def n_types(self) -> int:
        return 2 + len(self.spectrum_groups) + len(self.scalar_columns)

    def block(self, name: str) -> Block:
        """The block ``image``, ``scalar`` or that of a spectrum group."""
        for block in self.blocks:
            if block.name == name:
                return block
        raise ConfigError("a block of the vocabulary", got=repr(name), where=", ".join(b.name for b in self.blocks))

    def has_block(self, name: str) -> bool:
        return any(block.name == name for block in self.blocks)

    @property
    def base_image(self) -> int:
        return self.block("image").start

    @property
    def base_scalar(self) -> int:
        return self.block("scalar").start

    @property
    def base_spectrum(self) -> int:
        """First id of the first spectrum group."""
        return self.block(self.spectrum_groups[0]).start if self.spectrum_groups else self.vocab_size

    def type_of_group(self, group: str) -> int:
        return 2 + self.spectrum_groups.index(group)

    def type_of_column(self, column: str) -> int:
        return 2 + len(self.spectrum_groups) + self.scalar_columns.index(column)

    @property
    def first_column_type(self) -> int:
        """Type of the first scalar column; column ``j`` has this type plus ``j``."""
        return 2 + len(self.spectrum_groups)

    @property
    def type_names(self) -> tuple[str, ...]:
        return ("special", "image", *self.spectrum_groups, *self.scalar_columns)

    def modality_of_type(self) -> tuple[str, ...]:
        """For each type ``special``, or the name of its modality; a group without a block is one of spectra."""
        return (
            "special",
            "image",
            *(self.block(g).modality if self.has_block(g) else "spectrum" for g in self.spectrum_groups),
            *("scalar" for _ in self.scalar_columns),
        )

    def to_dict(self) -> dict:
        """Plain values, as written to ``vocab_spec.json``."""
        return {
            "vocab_size": self.vocab_size,
            "n_types": self.n_types,
            "specials": {name: i for i, name in enumerate(SPECIALS)},
            "blocks": [vars(b) | {} for b in self.blocks],
            "spectrum_groups": list(self.spectrum_groups),
            "scalar_columns": list(self.scalar_columns),
            "n_bins": None if self.n_bins is None else list(self.n_bins),
            "type_names": list(self.type_names),
        }

    @classmethod
    def from_dict(cls, values: Mapping) -> VocabSpec:
        """Inverse of :meth:`to_dict`.

        Raises:
            ArtifactError: keys are missing or the sizes do not add up.
        """
        try:
            spec = cls(
                blocks=tuple(Block(**block) for block in values["blocks"]),
                spectrum_groups=tuple(values["spectrum_groups"]),
                scalar_columns=tuple(values["scalar_columns"]),
                n_bins=None if values["n_bins"] is None else tuple(values["n_bins"]),
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError("a vocabulary with blocks, groups and columns", got=repr(error)) from error
        if spec.vocab_size != values.get("vocab_size", spec.vocab_size):
            raise ArtifactError(f"vocab_size {spec.vocab_size}", got=values["vocab_size"], where="vocab_spec")
        return spec


def build_vocab_spec(
    v_image: int,
    v_scalar: int,
    v_spectra: int | Sequence[int] | Mapping[str, int],
    spectrum_groups: Sequence[str] | None = None,
    scalar_columns: Sequence[str] = (),
    n_bins: Sequence[int] | None = None,
    modality_of: Mapping[str, str] | None = None,
) -> VocabSpec:
    """Vocabulary of ``v_image`` image codes, ``v_scalar`` scalar bins and ``v_spectra`` codes per group.

    Args:
        v_spectra: one size for all groups, one per group, or a mapping from group to size.
        spectrum_groups: names of the groups; default: the five of the default survey.
        scalar_columns: names of the scalar columns; the column is a token's type.
        n_bins: bins of each column, for columns with fewer than ``v_scalar``.
        modality_of: modality of the groups that are no spectra.

    Raises:
        ConfigError: a size is negative, or the numbers of groups and sizes differ.

    >>> vocab = build_vocab_spec(v_image=2048, v_scalar=1024, v_spectra=2048)
    >>> vocab.vocab_size, vocab.base_image, vocab.base_scalar, vocab.base_spectrum
    (13317, 5, 2053, 3077)
    """
    if spectrum_groups is None:
        spectrum_groups = tuple(v_spectra) if isinstance(v_spectra, Mapping) else DEFAULT_SPECTRUM_GROUPS
    groups = tuple(spectrum_groups)
    if isinstance(v_spectra, Mapping):
        sizes = [v_spectra[g] for g in groups]
    else:
        sizes = [v_spectra] * len(groups) if isinstance(v_spectra, int) else list(v_spectra)
    if len(sizes) != len(groups):
        raise ConfigError(f"{len(groups)} sizes of spectrum codebooks", got=len(sizes), where=", ".join(groups))
    names = [("image", "image", v_image), ("scalar", "scalar", v_scalar)]
    names += [(g, (modality_of or {}).get(g, "spectrum"), s) for g, s in zip(groups, sizes, strict=True)]
    blocks, start = [], len(SPECIALS)
    for name, modality, size in names:
        if size < 0:
            raise ConfigError("a vocabulary size of 0 or more", got=size, where=name)
        blocks.append(Block(name, modality, start, int(size)))
        start += int(size)
    if n_bins is not None and len(n_bins) != len(scalar_columns):
        raise ConfigError(f"bins of {len(scalar_columns)} columns", got=len(n_bins), where="n_bins")
    return VocabSpec(tuple(blocks), groups, tuple(scalar_columns), None if n_bins is None else tuple(map(int, n_bins)))
