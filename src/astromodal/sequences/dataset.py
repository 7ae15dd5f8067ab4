"""Batches gathered from packed sequences: right-padded, in the fixed order or in one drawn per object and epoch.

The drawn order is that of the parts (``random``), or what is given before what is asked (``ask``, :mod:`.asking`).

Shapes: B sequences, L positions (the longest of the batch, rounded up to a multiple of 8), c scalar columns, T types.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.scalars import SCALE_SUFFIX
from ..errors import ConfigError
from ..machine.random import keyed_words, splitmix64
from ..vocabulary.vocab import stages_of
from .asking import AskedOrder, NamedQuestion
from .packed import PackedSequences
from .redraw import Redraw

if TYPE_CHECKING:
    import torch

_LENGTHS = 1 << 14  # asked for together
_ROUND_TO = 8  # positions: tensor cores like multiples of it, and compiled code sees fewer shapes
_ORDER_KEY = 0x0BDE  # sets the draws of the order apart from others with the same seed
_STEP = np.uint64(0xD1342543DE82EF95)  # odd, so that types stay apart


def part_draws(seed: int, epoch: int, object_index: np.ndarray, n_types: int) -> np.ndarray:
    """Random words (B, T): the parts of an object are put in the order of the words of their types."""
    objects = splitmix64(_epoch_key(seed, epoch) ^ object_index.astype(np.uint64))
    return splitmix64(objects[:, None] + np.arange(n_types, dtype=np.uint64) * _STEP)


@lru_cache(maxsize=4)
def _epoch_key(seed: int, epoch: int) -> np.ndarray:
    return keyed_words(seed, epoch, _ORDER_KEY)


class Lengths:
    """Lengths of the sequences of a split, from their offsets, which are read as lengths are asked for."""

    def __init__(self, offsets: Any) -> None:
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, indices: Any) -> np.ndarray:
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        indices = np.asarray(indices)
        flat, found = indices.reshape(-1), np.empty(indices.size, np.int64)
        order = np.argsort(flat, kind="stable")
        for start in range(0, len(order), _LENGTHS):  # in the order of the file, so that neighbours are read together
            part = order[start : start + _LENGTHS]
            both = self._offsets[np.stack([flat[part], flat[part] + 1])]
            found[part] = both[1] - both[0]
        return found.reshape(indices.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.diff(np.asarray(self._offsets)).astype(dtype or np.int64, copy=False)


class SequenceDataset:
    """One split of packed sequences; ``dataset.__getitems__(indices)`` is a batch.

    Args:
        packed: the packed sequences (or their folder).
        split: ``train``, ``val`` or ``test``.
        order: ``fixed``; ``random``: the parts of each object are permuted anew in every epoch; ``ask``: some are
            given, in front of BOS, the others asked behind it, drawn anew in every epoch.
        questions: named questions of ``ask``.
        seed: of the draws; they are a function of (seed, epoch, object) alone.
        max_len: upper limit of the rounding of L; the sequences themselves fit by the layout.
        with_values: add ``scalar_values`` to the batches.
        with_sigma: add ``sigma`` to the batches.
        redraw: add ``shown`` to the batches, the tokens as they are shown in this epoch (``redraw.py``).

    A batch is a dict of ``tokens`` and ``types`` (B, L) int64, ``attn_mask`` (B, L) bool (True is real),
    ``object_index`` (B,) int64 (unique over all splits), with ``order=ask`` ``prefix`` (B,) int64, the tokens in front
    of BOS, and, with ``with_values``, ``scalar_values`` (B, c) float64 in
    physical units, NaN where not observed; with ``with_sigma``, ``sigma`` (B, L) float32, the standard error of each
    token's target in units of its codebook (``tokenizers/sigma.py``), 0 where there is none; with ``redraw``, ``shown``
    (B, L) int64.
    """

    def __init__(
        self,
        packed: PackedSequences,
        split: str = "train",
        *,
        order: str = "fixed",
        seed: int = 0,
        max_len: int | None = None,
        with_values: bool = False,
        with_sigma: bool = False,
        questions: Sequence[NamedQuestion] = (),
        redraw: Redraw | None = None,
    ) -> None:
        self.packed = packed if isinstance(packed, PackedSequences) else PackedSequences(packed)
        self.order = str(getattr(order, "value", order))
        if self.order not in ("fixed", "random", "ask"):
            raise ConfigError("sequence.order fixed, random or ask", got=repr(order))
        self.questions = tuple(questions)
        self.split, self.seed, self.epoch = split, int(seed), 0
        self.with_values, self.with_sigma, self.redraw = with_values, with_sigma, redraw
        self.max_len = max_len
        self._first = self.packed.first_index(split)
        self._open()

    def _open(self) -> None:
        self._arrays = self.packed.split(self.split)
        self._offsets = self._arrays["offsets"]  # they stay in the file: 8 bytes an object
        vocab = self.packed.manifest["config"]["layout"]["vocab"]
        self._n_types = int(vocab["n_types"])
        type_of = {name: index for index, name in enumerate(vocab["type_names"])}
        stages = stages_of(("image", *vocab["spectrum_groups"]))
        self._staged = [[type_of[name] for name in names] for names in stages.values() if len(names) > 1]
        scales = [
            (type_of[group], type_of[group + SCALE_SUFFIX]) for group in stages if group + SCALE_SUFFIX in type_of
        ]
        ask = self.order == "ask"
        self._asked = AskedOrder(self._n_types, self._staged, self.questions, scales) if ask else None
        self.lengths = Lengths(self._offsets)

    def __getstate__(self) -> dict[str, Any]:
        """Without arrays and open files: a worker process opens its own, instead of being sent their content."""
        return {key: value for key, value in vars(self).items() if key not in ("_arrays", "_offsets", "lengths")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutations of ``order=random``."""
        self.epoch = int(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """A batch of one."""
        return self.gather(np.array([index]), self.epoch)

    def __getitems__(self, indices: Any) -> dict[str, torch.Tensor]:
        """The batch of ``indices`` (B,)."""
        return self.gather(np.asarray(indices, dtype=np.int64), self.epoch)

    def gather(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        """The batch of ``indices`` in the orders of ``epoch``."""
        import torch

        starts, ends = self._offsets.ragged(indices, np.full(len(indices), 2), 2).T
        lengths = ends - starts
        width = int(lengths.max(initial=0))
        padded = -(-width // _ROUND_TO) * _ROUND_TO
        if self.max_len is not None:
            padded = max(min(padded, self.max_len), width)
        column = np.arange(padded)
        mask = column < lengths[:, None]  # (B, L)
        tokens = self._read("tokens", starts, lengths, padded).astype(np.int64)
        types = self._read("types", starts, lengths, padded).astype(np.int64)
        object_index = self._first + indices
        arrays: dict[str, np.ndarray] = {"tokens": tokens, "types": types}
        if self.with_sigma or self.redraw is not None:
            sigma = self._read("sigma", starts, lengths, padded).astype(np.float32)
            arrays |= {"sigma": sigma} if self.with_sigma else {}
            if self.redraw is not None:
                values = self._arrays["scalar_values"][indices]
                arrays["shown"] = self.redraw(tokens, types, sigma, values, object_index, epoch)
        if self.order != "fixed":
            target, prefix = self._targets(types, object_index, epoch)
            arrays = {name: _scatter(array, target) for name, array in arrays.items()}
            arrays |= {} if prefix is None else {"prefix": prefix}
        arrays |= {"attn_mask": mask, "object_index": object_index}
        if self.with_values:
            arrays["scalar_values"] = self._arrays["scalar_values"][indices]
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _read(self, name: str, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
        """Sequences from ``starts`` on, padded with 0, ``(B, width)``."""
        array = self._arrays[name]
        return array.ragged(starts, lengths, width) if len(array) else np.zeros((len(starts), width), array.dtype)

    def _targets(self, types: np.ndarray, object_index: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Flat position of every token after the parts of each object are permuted ``(B, L)``; length of the prefix.

        A part is a run of one type, so it moves as a whole: its tokens are shifted by the difference between its first
        position in the new order and in the old one. EOS and padding have type 0 and stay, BOS comes behind what is
        given. The stages of a residual code stay in order, coarse before fine: a finer one means something only given
        the coarser ones.
        """
        n, width = types.shape
        rows = np.arange(n)[:, None]
        cells = rows * self._n_types + types  # (B, L)
        sizes = np.bincount(cells.ravel(), minlength=n * self._n_types).reshape(n, -1)  # (B, T)
        sizes[:, 0] = 0
        old = np.zeros(n * self._n_types, np.int64)
        # Assigned from the right to the left, so that the first position of a part is what remains.
        old[cells[:, ::-1].ravel()] = np.broadcast_to(np.arange(width)[::-1], (n, width)).ravel()
        draws = part_draws(self.seed, epoch, object_index, self._n_types)  # (B, T)
        for types_of_group in self._staged:
            draws[:, types_of_group] = np.sort(draws[:, types_of_group], axis=1)
        if self._asked is None:
            rank, prefix = np.argsort(draws, axis=1), None  # (B, T)
            ordered = np.take_along_axis(sizes, rank, 1)
            first = 1 + np.cumsum(ordered, 1) - ordered
        else:
            rank, first, prefix = self._asked.arrange(draws, sizes)
        new = np.empty_like(sizes)
        np.put_along_axis(new, rank, first, 1)
        shift = new - old.reshape(n, -1)
        shift[:, 0] = 0
        target = np.arange(width) + shift.ravel()[cells]
        if prefix is not None:
            target[:, 0] = prefix
        return rows * width + target, prefix


def _scatter(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    moved = np.empty_like(values)
    moved.ravel()[target] = values
    return moved
