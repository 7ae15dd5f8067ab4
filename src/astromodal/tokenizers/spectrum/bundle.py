"""The spectrum tokenizer on disk: one file of arrays for all groups, one codebook file per group, and its network.

``spectrum_tokenizer_config.npz`` holds configuration and codebooks, under their public names;
``spectrum_<quantizer>_<group>.joblib`` the same codebook alone; ``spectrum_codec_<group>.pt``, where features are
learned, tensors and plain values that ``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...config.checks.saved import check_count
from ...config.schema import SpectrumTokenizerConfig
from ...errors import ArtifactError
from ...files import io
from ...files.atomic import writing
from ...quantizers import quantizer_from_state
from ..base import COMMAND, plain
from .groups import GroupCodec

if TYPE_CHECKING:
    from .tokenizer import SpectrumTokenizer

FORMAT = 5  # codes of patches: 2: by weighted pixels; 3: denoised; 4: weak features in part; 5: lines at their height
Kind = TypeVar("Kind", bound="SpectrumTokenizer")
FILE_NAME = "spectrum_tokenizer_config.npz"
NETWORK = "spectrum_codec_{}.pt"
MAX_PIXELS = 1 << 22


def write_bundle(tokenizer: SpectrumTokenizer, folder: Path) -> list[Path]:
    """Write the files atomically, remove those of groups of an earlier fit, and return the paths."""
    states = {group: codec.quantizer.state() for group, codec in tokenizer.codecs.items()}
    parameters = {
        group: {"n_pixels": codec.n_pixels, "state": list(states[group])} | _of_patches(codec)
        for group, codec in tokenizer.codecs.items()
    }
    arrays = {
        "format": np.array(FORMAT),
        "groups": np.array(tokenizer.groups, dtype=np.str_),
        "config_json": np.array(json.dumps(plain(tokenizer.config))),
        "groups_json": np.array(json.dumps(parameters)),
        "skipped_json": np.array(json.dumps(tokenizer.skipped)),
        "layout_json": np.array(json.dumps(tokenizer.layout_)),
        "inputs_json": np.array(json.dumps(tokenizer.inputs_)),
    }
    files = []
    for group, codec in tokenizer.codecs.items():
        arrays |= {f"{key}_{group}": value for key, value in states[group].items()}
        arrays |= {f"coefficient_mean_{group}": codec.center, f"coefficient_std_{group}": codec.spread}
        files.append(folder / f"spectrum_{tokenizer.config.quantizer.name}_{group}.joblib")
        io.save_joblib(files[-1], states[group])
        if isinstance(codec, GroupCodec):
            arrays[f"coefficient_signal_{group}"] = codec.signal
        else:
            files.append(folder / NETWORK.format(group))
            io.save_torch(files[-1], codec.state())
    arrays["centroids"] = _public_centroids(tokenizer)
    io.save_npz(folder / FILE_NAME, arrays)
    for stale in {*folder.glob("spectrum_*.joblib"), *folder.glob(NETWORK.format("*"))} - set(files):
        with writing(stale):
            stale.unlink()  # a group of an earlier fit would look like part of this one
    return [*files, folder / FILE_NAME]


def _of_patches(codec: Any) -> dict[str, float]:
    """What is saved of a group whose features are patches."""
    names = ("patch_size", "neutral", "false_features") if isinstance(codec, GroupCodec) else ()
    return {name: getattr(codec, name) for name in names}


def _public_centroids(tokenizer: SpectrumTokenizer) -> np.ndarray:
    """The member ``centroids``: ``(V, D)`` of a single part, else all parts, zero-padded, ``(G, V, D)``."""
    books = [book.entries for book in tokenizer.codebooks().values()]
    if len(books) == 1:
        return books[0]
    stack = np.zeros((len(books), *np.max([book.shape for book in books], axis=0)), dtype=np.float32)
    for place, book in zip(stack, books, strict=True):
        place[: len(book), : book.shape[1]] = book
    return stack


def read_bundle(cls: type[Kind], folder: Path) -> Kind:
    """Read what :func:`write_bundle` wrote.

    Raises:
        ArtifactError: a file is missing or damaged, a network does not fit its codebook, or patches are of a format
            whose codes had another meaning.
    """
    arrays = io.load_npz(folder / FILE_NAME)
    tokenizer = cls(SpectrumTokenizerConfig(**json.loads(str(arrays["config_json"]))))
    found = int(arrays.get("format", 1))
    if found != FORMAT and tokenizer.config.codec is None:
        repair = f"run {COMMAND} tokenizer=spectrum, then python encode.py, and train again"
        expected = f"spectrum codebooks of format {FORMAT}"
        raise ArtifactError(expected, got=f"format {found}", where=folder, repair=repair)
    tokenizer.skipped = json.loads(str(arrays["skipped_json"]))
    tokenizer.layout_ = json.loads(str(arrays["layout_json"]))
    tokenizer.inputs_ = json.loads(str(arrays["inputs_json"]))
    for group, values in json.loads(str(arrays["groups_json"])).items():
        keys = values.pop("state", ["centroids", "counts"])  # learned before there were other quantizers
        state = {key: arrays[f"{key}_{group}"] for key in keys}
        values["quantizer"] = quantizer_from_state(tokenizer.config.quantizer.name, state)
        values |= {"center": arrays[f"coefficient_mean_{group}"], "spread": arrays[f"coefficient_std_{group}"]}
        signal = arrays.get(f"coefficient_signal_{group}", np.array(np.inf))
        _check_pixels(values | {"signal": signal}, folder / FILE_NAME)
        if tokenizer.config.codec is None:
            values |= {"signal": signal, "precision_weight": tokenizer.config.precision_weight}
            tokenizer.codecs[group] = GroupCodec(**values)
        else:
            from .learned_group import LearnedGroup

            tokenizer.codecs[group] = LearnedGroup.from_state(io.load_torch(folder / NETWORK.format(group)), **values)
    return tokenizer


def _check_pixels(values: Mapping[str, Any], where: Path) -> None:
    """Compare the numbers of pixels with the arrays that are as long.

    Raises:
        ArtifactError: they are not.
    """
    n_pixels = check_count(values.get("n_pixels"), "n_pixels", MAX_PIXELS, where)
    if "patch_size" in values:
        check_count(values["patch_size"], "patch_size", max(n_pixels, 1 << 16), where)
    for name in ("center", "spread", "signal"):
        if values[name].shape not in ((), (1,), (n_pixels,)):
            raise ArtifactError(f"{name} of {n_pixels} pixels", got=values[name].shape, where=where)
