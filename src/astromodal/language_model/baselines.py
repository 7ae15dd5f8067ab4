"""Two trivial predictors, measured on the same tokens and in the same units as the model.

``marginal`` knows only the type of the token to predict and answers with the training distribution of that type.
``previous`` answers with the token that the previous object has at the same place (the same column, the same patch).
Both stream over the packed sequences; what is kept is a table of counts and one token per place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..vocabulary.codebook import Codebook, ScalarCodebook
from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import SPECIALS, VocabSpec

Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]  # flat tokens, flat types, offsets (n + 1,)


class TypeEntries:
    """Standardised entries of every type: the vectors in whose space errors are taken."""

    def __init__(
        self, vocab: VocabSpec, image: Codebook | None, spectra: Mapping[str, Codebook], scalars: ScalarCodebook | None
    ) -> None:
        self.blocks: dict[int, tuple[int, np.ndarray]] = {}  # type -> (first id, (C, D) standardised entries)
        if image is not None:
            self._add(1, vocab.block("image").start, image)
        for group, codebook in spectra.items():
            self._add(vocab.type_of_group(group), vocab.block(group).start, codebook)
        if scalars is not None:
            for j, column in enumerate(scalars.columns):
                bins = int(scalars.n_bins[j])
                entries = (scalars.centers[j, :bins, None] - scalars.mean[j]) / scalars.scale[j]
                self.blocks[vocab.type_of_column(column)] = (vocab.block("scalar").start, entries)

    def _add(self, type_: int, start: int, codebook: Codebook) -> None:
        self.blocks[type_] = (start, (codebook.entries - codebook.mean) / codebook.scale)


def count_tokens(chunks: Iterable[Chunk], vocab: VocabSpec) -> np.ndarray:
    """How often each token stands at each type, ``(n_types, vocab_size)``; the first token of a row never counts."""
    counts = np.zeros(vocab.n_types * vocab.vocab_size, dtype=np.int64)
    for tokens, types, offsets in chunks:
        target = np.ones(len(tokens), dtype=bool)
        target[offsets[:-1][offsets[:-1] < len(tokens)]] = False  # BOS is given, not predicted
        key = types[target].astype(np.int64) * vocab.vocab_size + tokens[target]
        counts += np.bincount(key, minlength=counts.size)
    return counts.reshape(vocab.n_types, vocab.vocab_size)


def marginal_metrics(
    train: np.ndarray, held_out: np.ndarray, vocab: VocabSpec, entries: TypeEntries
) -> dict[str, float]:
    """Cross-entropy [nats], top-1 accuracy and error over variance of the marginal predictor.

    Args:
        train, held_out: tables from :func:`count_tokens`. Add-one smoothing over the tokens a type can have.
    """
    sums = _Sums(vocab)
    for type_ in np.flatnonzero(held_out.sum(1)):
        allowed = np.zeros(vocab.vocab_size, dtype=bool)
        allowed[: len(SPECIALS)] = True
        block = entries.blocks.get(int(type_))
        if block is not None:
            allowed[block[0] : block[0] + len(block[1])] = True
        smoothed = np.where(allowed, train[type_] + 1.0, 1e-9)
        log_p = np.log(smoothed / smoothed.sum())
        codes, n = np.flatnonzero(held_out[type_]), held_out[type_][held_out[type_] > 0]
        sums.add_all(int(type_), float(-(n * log_p[codes]).sum()), int(n.sum()))
        if block is None:
            continue
        start, vectors = block
        inside = slice(start, start + len(vectors))
        p = train[type_, inside] / max(train[type_, inside].sum(), 1)
        distance = ((vectors - p @ vectors) ** 2).sum(1)
        n = held_out[type_, inside]
        sums.add(
            int(type_),
            int(n.sum()),
            ce=float(-(n * log_p[inside]).sum()),
            error=float((n * distance).sum()),
            accuracy=float(n[np.argmax(p)]),
        )
    return sums.means()


def previous_metrics(chunks: Iterable[Chunk], vocab: VocabSpec, entries: TypeEntries, max_len: int) -> dict[str, float]:
    """Top-1 accuracy and error over variance of the previous object's token at the same place."""
    sums = _Sums(vocab)
    last = np.full(vocab.n_types * max_len, -1, dtype=np.int64)  # token most recently seen at (type, index)
    for tokens, types, offsets in chunks:
        key = types.astype(np.int64) * max_len + index_in_run(types, offsets)
        code = np.flatnonzero(tokens >= len(SPECIALS))
        order = code[np.argsort(key[code], kind="stable")]
        keys, sorted_tokens = key[order], tokens[order].astype(np.int64)
        first = np.r_[True, keys[1:] != keys[:-1]] if len(keys) else np.zeros(0, bool)
        previous = np.r_[-1, sorted_tokens[:-1]] if len(keys) else sorted_tokens
        previous = np.where(first, last[keys], previous)
        last[keys] = sorted_tokens  # the last assignment of a repeated key wins, which is the newest token
        known = previous >= 0
        _add_pairs(sums, types[order][known], sorted_tokens[known], previous[known], entries)
    return sums.means()


def _add_pairs(sums: _Sums, types: np.ndarray, tokens: np.ndarray, previous: np.ndarray, entries: TypeEntries) -> None:
    for type_ in np.unique(types):  # a handful of types, not of objects
        at = types == type_
        start, vectors = entries.blocks[int(type_)]
        error = 0.0
        for part in np.array_split(np.flatnonzero(at), max(int(at.sum()) // 100_000, 1)):
            error += float(((vectors[tokens[part] - start] - vectors[previous[part] - start]) ** 2).sum())
        sums.add(int(type_), int(at.sum()), error=error, accuracy=float((tokens[at] == previous[at]).sum()))


def index_in_run(types: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Place of each token within its run of equal types; rows do not share runs.

    >>> index_in_run(np.array([0, 2, 2, 2, 0, 0, 2]), np.array([0, 5, 7])).tolist()
    [0, 0, 1, 2, 0, 0, 0]
    """
    starts = np.r_[True, types[1:] != types[:-1]] if len(types) else np.zeros(0, bool)
    starts[offsets[:-1][offsets[:-1] < len(types)]] = True
    position = np.arange(len(types))
    return position - np.maximum.accumulate(np.where(starts, position, 0))


class _Sums:
    """Sums by type, read out per modality, per group and per column."""

    def __init__(self, vocab: VocabSpec) -> None:
        self.names, self.modalities = vocab.type_names, vocab.modality_of_type()
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def add_all(self, type_: int, ce: float, n: int) -> None:
        """The cross-entropy over all targets, specials included."""
        self._add("ce", ce, n)

    def add(self, type_: int, n: int, **values: float) -> None:
        names = {self.modalities[type_], self.names[type_]}
        for metric, value in values.items():
            for name in names:
                self._add(f"{metric}_{name}", value, n)

    def _add(self, key: str, value: float, n: int) -> None:
        self.sums[key] = self.sums.get(key, 0.0) + value
        self.counts[key] = self.counts.get(key, 0.0) + n

    def means(self) -> dict[str, float]:
        means = {key: value / self.counts[key] for key, value in self.sums.items() if self.counts[key]}
        errors = [means[f"error_{m}"] for m in MODALITIES if f"error_{m}" in means]
        return means | ({"score": float(np.mean(errors))} if errors else {})


def baseline_metrics(
    train: Iterable[Chunk], held_out: Iterable[Chunk], vocab: VocabSpec, entries: TypeEntries, max_len: int
) -> dict[str, dict[str, float]]:
    """Both baselines; ``held_out`` is read twice, so it has to be re-iterable.

    Returns:
        ``{"marginal": {...}, "previous": {...}}`` with the metric names of the validation.
    """
    train_counts, counts = count_tokens(train, vocab), count_tokens(held_out, vocab)
    return {
        "marginal": marginal_metrics(train_counts, counts, vocab, entries),
        "previous": previous_metrics(held_out, vocab, entries, max_len),
    }
