"""Token files on disk: their names, what they hold, and how they are read.

``<store>/tokens`` holds, for every field, uncompressed ``.npz`` files with the public names::

    image_tokens/datacube_<field>_tokens.npz              ids, tokens (n, T) uint16, sigma (n, T) float16,
                                                          present (n,)
    image_latents/datacube_<field>_latents.npz            ids, latents (n, c, h, w) float32, present (n,)
    scalar_tokens/datacube_<field>_scalar_tokens.npz      ids, tokens (n, c) uint16, present, clipped, nondetected
                                                          (n, c) bool, values, errors (n, c) float64 physical,
                                                          sigma (n, c) float16, columns
    spectrum_tokens/datacube_<field>_spectrum_tokens.npz  ids and, per group, tokens_<group> (flat) uint16,
                                                          sigma_<group> (flat) float16, offsets_<group> (n + 1,)
                                                          int64, present_<group> (n,) bool
    splits/datacube_<field>_splits.npz                    ids, split (n,) uint8: 0 train, 1 val, 2 test
    manifest.json                                         one entry per field: inputs, fingerprint, hashes, sizes

Row i is the same object in all of them. What an object lacks is ``present=False``; its code 0 means nothing. The later
stages of an image's codes (``image.1``) are kept as groups of spectra are.
``sigma`` is the standard error of a token's target in units of its codebook (``tokenizers/spectrum/sigma.py``), 0 for
none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, ArtifactMissingError
from ..files.io import Array, open_npz
from ..provenance.manifest import changed_files, fingerprint_config, read_manifest
from .writer import FORMAT, token_paths

if TYPE_CHECKING:
    from ..config.schema import Config
    from ..tokenizers import TokenizerSet

COMMAND = "python encode.py"
_COMPARE_ROWS = 65536  # ids compared at once


def tokenizer_fingerprints(tokenizers: TokenizerSet) -> dict[str, str]:
    """``<modality>_tokenizer`` → fingerprint, for the tokenizers that a ``TokenizerSet`` has."""
    return {f"{name}_tokenizer": part.fingerprint for name, part in tokenizers.items()}


@dataclass(frozen=True)
class SpectrumPart:
    """Tokens of one group: those of row i are ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: Array  # flat, uint16
    offsets: Array  # (n + 1,) int64
    present: Array  # (n,) bool
    sigma: Array  # flat, float16: standard error of each token's target
    length: int  # tokens per spectrum


@dataclass(frozen=True)
class FieldTokens:
    """Token files of one field, read as they are indexed; a modality that was not encoded is empty.

    Arrays are in memory, or are read from their files as they are indexed.
    """

    field: str
    ids: Array
    split: Array
    columns: tuple[str, ...] = ()
    scalar: Mapping[str, Array] = dataclass_field(default_factory=dict)  # members of the scalar file
    spectra: Mapping[str, SpectrumPart] = dataclass_field(default_factory=dict)
    image: Mapping[str, Array] = dataclass_field(default_factory=dict)  # tokens, present, sigma
    latents: Mapping[str, Array] = dataclass_field(default_factory=dict)  # latents, present

    def __len__(self) -> int:
        return len(self.ids)


class TokenStore:
    """Read side of ``<store>/tokens``.

    Args:
        root: the store, ``paths.store``.
        remember: what was found whole, for later processes (see :mod:`astromodal.provenance.remembered`).

    Raises:
        ArtifactMissingError: nothing was encoded there yet.
    """

    def __init__(self, root: str | Path, remember: bool = True) -> None:
        self.folder, self._remember = Path(root) / "tokens", remember
        try:
            manifest = read_manifest(self.folder, f"run {COMMAND}")
            self.entries: dict[str, Any] = dict(sorted(manifest.get("entries", {}).items()))
        except ArtifactMissingError:
            self.entries = {}
        if not self.entries:
            raise ArtifactMissingError("token files", got="none", where=self.folder, repair=f"run {COMMAND}")

    @classmethod
    def of(cls, config: Config) -> TokenStore:
        """The store of a configuration, restricted to ``data.fields`` where these are given."""
        store = cls(config.paths.store)
        return store if config.data.fields is None else store.select(list(config.data.fields))

    def fields(self) -> list[str]:
        """Names of the encoded fields, sorted."""
        return list(self.entries)

    def __iter__(self) -> Iterator[FieldTokens]:
        """Open field after field; all of them are known, and whole, before the first is opened."""
        self.verify()
        return (self.open(field) for field in self.entries)

    def select(self, fields: list[str]) -> TokenStore:
        """The same store, restricted to some fields.

        Raises:
            ArtifactMissingError: one of them was not encoded.
        ArtifactError: one of them has the files of another version.
        """
        for field in fields:
            self._entry(field)
        chosen = copy.copy(self)
        chosen.entries = {field: self.entries[field] for field in sorted(fields)}
        return chosen

    @property
    def fingerprint(self) -> str:
        """Of all fields' files and inputs."""
        return fingerprint_config({field: entry["fingerprint"] for field, entry in self.entries.items()})

    @property
    def n_rows(self) -> int:
        """Objects of all fields, as the manifest counts them."""
        return sum(int(entry["rows"]) for entry in self.entries.values())

    def _entry(self, field: str) -> dict[str, Any]:
        if field not in self.entries:
            raise ArtifactMissingError(
                f"tokens of field {field}",
                got=f"fields {', '.join(self.entries)}",
                where=self.folder,
                repair=f"run {COMMAND}",
            )
        found = self.entries[field].get("format", 1)
        if found != FORMAT:
            raise ArtifactError(
                f"token files of format {FORMAT}",
                got=f"format {found}",
                where=f"{self.folder}, field {field}",
                repair=f"run {COMMAND}, which encodes old fields again",
            )
        return self.entries[field]

    def check_tokenizers(self, tokenizers: TokenizerSet) -> None:
        """Refuse tokens that were made with other codebooks than those of ``tokenizers``.

        Raises:
            ArtifactError: with both fingerprints.
        """
        for name, fingerprint in tokenizer_fingerprints(tokenizers).items():
            for field, entry in self.entries.items():
                made_with = entry["inputs"].get(name)
                if made_with != fingerprint:
                    raise ArtifactError(
                        f"tokens made with the {name.replace('_', ' ')} {fingerprint}",
                        got=f"tokens made with {made_with or 'none'}",
                        where=f"{self.folder}, field {field}",
                        repair=f"run {COMMAND}",
                    )

    def verify(self, *fields: str) -> None:
        """Compare the files of some or all fields with the manifest's hashes; each is read once per change of it.

        Raises:
            ArtifactMissingError: a file is missing.
            ArtifactError: a file's content changed; with both fingerprints.
        """
        files: dict[str, tuple[str, str]] = {}
        for field in fields or self.entries:
            entry = self._entry(field)
            for name, size in entry["sizes"].items():
                self._check_size(self.folder / name, size, field)
            files |= {name: (fingerprint, field) for name, fingerprint in entry["files"].items()}
        expected = {name: fingerprint for name, (fingerprint, _) in files.items()}
        for name, found in changed_files(self.folder, expected, remember=self._remember).items():
            fingerprint, field = files[name]
            raise _damaged(f"fingerprint {fingerprint}", found, self.folder / name, field)

    def open(self, field: str) -> FieldTokens:
        """Open the files of a field, after a look at what they hold (:meth:`verify`).

        Raises:
            ArtifactMissingError: the field, or a file of it, is missing.
            ArtifactError: a file is not the one that was written, or files do not belong together.
        """
        entry = self._entry(field)
        self.verify(field)
        repair, paths = _again(field), token_paths(self.folder, field)
        members = {kind: open_npz(path, repair) for kind, path in paths.items() if self._name(path) in entry["files"]}
        try:
            tokens = assemble(field, members, entry)
        except KeyError as error:
            raise _damaged(f"a member {error}", "none", self.folder, field) from error
        _check_shapes(tokens, int(entry["rows"]), self.folder)
        for kind, arrays in members.items():
            _check_ids(tokens.ids, arrays["ids"], paths[kind], field)
        return tokens

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    @staticmethod
    def _check_size(path: Path, expected: int, field: str) -> None:
        """A truncated file is noticed before it is read."""
        if not path.is_file():
            raise ArtifactMissingError("a token file", got="nothing", where=path, repair=f"run {COMMAND}")
        if path.stat().st_size != expected:
            raise _damaged(f"{expected} bytes", path.stat().st_size, path, field)


def _again(field: str) -> str:
    """The command that makes a field's files again, whatever is wrong with them."""
    return f"run {COMMAND} data.fields=[{field}] encode.overwrite=true"


def _damaged(expected: str, got: object, where: object, field: str) -> ArtifactError:
    """Encoding finds a file that is not the one it wrote by itself, and makes it again."""
    return ArtifactError(
        expected,
        got=got,
        where=f"{where}, field {field}",
        repair=f"run {COMMAND}, which encodes this field again, or {_again(field).removeprefix('run ')}",
    )


def assemble(field: str, members: Mapping[str, Mapping[str, Array]], entry: Mapping[str, Any]) -> FieldTokens:
    """One field from the members of its files; ``entry`` has the ``group_lengths``."""
    spectra = {
        group: SpectrumPart(
            members["spectrum"][f"tokens_{group}"],
            members["spectrum"][f"offsets_{group}"],
            members["spectrum"][f"present_{group}"],
            members["spectrum"][f"sigma_{group}"],
            int(length),
        )
        for group, length in entry["group_lengths"].items()
    }
    scalar = members.get("scalar", {})
    return FieldTokens(
        field=field,
        ids=members["splits"]["ids"],
        split=members["splits"]["split"],
        columns=tuple(scalar["columns"].tolist()) if scalar else (),
        scalar=scalar,
        spectra=spectra,
        image=members.get("image", {}),
        latents=members.get("latents", {}),
    )


def _check_shapes(tokens: FieldTokens, n: int, folder: Path) -> None:
    """First dimensions are the number of rows; spectra's offsets end where their tokens end."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "split": (tokens.split.shape, (n,)),
        "ids": (tokens.ids.shape, (n,)),
    }
    for name in ("tokens", "present", "clipped", "nondetected", "values", "errors", "sigma") if tokens.scalar else ():
        shapes[f"scalar {name}"] = (tokens.scalar[name].shape, (n, len(tokens.columns)))
    for group, part in tokens.spectra.items():
        shapes[f"{group} present"] = (part.present.shape, (n,))
        shapes[f"{group} offsets"] = (part.offsets.shape, (n + 1,))
        end = int(part.offsets[-1]) if len(part.offsets) else 0
        shapes[f"{group} tokens"] = (part.tokens.shape, (end,))
        shapes[f"{group} sigma"] = (part.sigma.shape, (end,))
    for kind, arrays, name in (("image", tokens.image, "tokens"), ("latents", tokens.latents, "latents")):
        if arrays:
            shapes[f"{kind} {name}"] = (arrays[name].shape[:1], (n,))
            shapes[f"{kind} present"] = (arrays["present"].shape, (n,))
    if tokens.image:
        shapes["image sigma"] = (tokens.image["sigma"].shape, tokens.image["tokens"].shape)
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise _damaged(f"{name} of shape {expected}", found, folder, tokens.field)


def _check_ids(expected: Array, found: Array, path: Path, field: str) -> None:
    """The same objects in the same rows, compared piece by piece."""
    if expected.shape != found.shape:
        raise _damaged(f"{len(expected)} ids", len(found), path, field)
    for start in range(0, len(expected), _COMPARE_ROWS):
        rows = slice(start, start + _COMPARE_ROWS)
        differs = np.flatnonzero(expected[rows] != found[rows])
        if len(differs):
            row = start + int(differs[0])
            raise _damaged(f"object {expected[row]} in row {row}", found[row], path, field)
