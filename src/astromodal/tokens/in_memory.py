"""Tokens that no file holds: rows of a table go through the tokenizers and are there at once, as a field would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..data.splits import TEST
from .field import FieldReader
from .store import FieldTokens, assemble
from .writer import TokenWriter

if TYPE_CHECKING:
    from ..data.datacube import Batch


class _Members(TokenWriter):
    """Keeps what a :class:`~.writer.FieldWriter` writes, without the latents, which nobody asks for."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, dict[str, list[np.ndarray]]] = {}

    def _append(self, kind: str, name: str, array: np.ndarray) -> None:
        if kind != "latents":
            self._parts.setdefault(kind, {}).setdefault(name, []).append(np.array(array))  # a reader's buffer is reused

    def tokens(self, field: str, ids: np.ndarray) -> FieldTokens:
        members = {
            kind: {name: np.concatenate(arrays) for name, arrays in parts.items()}
            for kind, parts in self._parts.items()
        }
        if "scalar" in members:
            members["scalar"]["columns"] = np.array(self._columns, dtype=np.str_)
        members["splits"] = {"ids": ids, "split": np.full(len(ids), TEST, np.uint8)}
        return assemble(field, members, {"group_lengths": self._lengths})


class RowsInMemory:
    """Encodes batches until they are taken; what was found in them is in ``reader.findings``.

    Every object counts as one of the test split.
    """

    def __init__(self, reader: FieldReader) -> None:
        self.reader = reader
        self._members = _Members()
        self._ids: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(ids) for ids in self._ids)

    def add(self, batch: Batch, ids: np.ndarray) -> None:
        """Encode a batch, whose normalised ids are ``(n,)``."""
        self.reader.encode(batch, self._members)
        self._ids.append(ids)

    def take(self) -> FieldTokens:
        """The tokens of all batches since the last time."""
        members, ids = self._members, np.concatenate(self._ids)
        self._members, self._ids = _Members(), []
        return members.tokens(self.reader.field, ids)
