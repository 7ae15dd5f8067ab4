"""What is familiar to a model, in a bundle: tokens of some validation objects, without their values and ids.

The surprise of an object is compared with that of validation objects, for whatever question is asked; so the bundle has
objects, not figures of one question.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from ..ask.familiarity import MIN_OBJECTS
from ..ask.seen import TrainingRun
from ..data.splits import VAL
from ..files.ids import hash_ids
from ..machine.random import keyed_uniform
from ..tokens.store import FieldTokens, TokenStore
from ..tokens.writer import FieldWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER, FIELD = "reference", "validation"
N_OBJECTS = 1000
_KEY = 0xB0D1


def write_reference(store: TokenStore, folder: Path, tokenizers: Mapping[str, str], n_objects: int = N_OBJECTS) -> int:
    """Write tokens of at most about ``n_objects`` validation objects of a store; returns how many, 0 for too few.

    Args:
        tokenizers: fingerprint of each, by name.
    """
    total = sum(int((np.asarray(tokens.split) == VAL).sum()) for tokens in store)
    if total < MIN_OBJECTS or not n_objects:
        return 0
    n = 0
    with FieldWriter(folder / FOLDER / "tokens", FIELD) as writer:
        for tokens in store:
            drawn = keyed_uniform(0, _KEY, hash_ids(np.asarray(tokens.ids)), 0) < n_objects / total
            rows = np.flatnonzero((np.asarray(tokens.split) == VAL) & drawn)
            _append(writer, tokens, rows)
            n += len(rows)
        ids = np.array([str(i) for i in range(n)])
        inputs = {f"{name}_tokenizer": fingerprint for name, fingerprint in tokenizers.items()}
        writer.commit(ids, np.full(n, VAL, np.uint8), {"inputs": inputs, "summary": {}})
    return n


def _append(writer: FieldWriter, tokens: FieldTokens, rows: np.ndarray) -> None:
    """The tokens of some rows, in the order of the file."""
    if tokens.scalar:
        names = ("tokens", "present", "clipped", "nondetected", "sigma")
        own = {name: np.asarray(tokens.scalar[name])[rows] for name in names}
        unknown = np.full(own["tokens"].shape, np.nan)
        writer.add_scalars(SimpleNamespace(**own, values=unknown, errors=unknown), tokens.columns)
    for group, part in tokens.spectra.items():
        present = np.asarray(part.present)
        codes, sigma = (np.zeros((len(present), part.length), kind) for kind in (np.uint16, np.float16))
        codes[present] = np.asarray(part.tokens[:]).reshape(-1, part.length)
        sigma[present] = np.asarray(part.sigma[:]).reshape(-1, part.length)
        writer.add_spectrum(group, codes[rows], present[rows], sigma[rows])
    if tokens.image:
        present = np.asarray(tokens.image["present"])[rows]
        latents = np.zeros((len(rows), 1, 1, 1), np.float32)  # nobody asks for them
        codes, sigma = (np.asarray(tokens.image[name])[rows] for name in ("tokens", "sigma"))
        writer.add_image(codes, latents, present, sigma)


def read_reference(folder: Path) -> TrainingRun:
    """What stands for the training run of a bundle: validation objects, where it has some."""
    if not (folder / FOLDER).is_dir():
        return TrainingRun(None, "the bundle has no validation objects")
    return TrainingRun(TokenStore(folder / FOLDER, remember=False))
