"""Growing: a new run that starts from the weights of a model of other columns, groups, bands or codebooks.

Weights belong to names. What a name stands for is a codebook: of every block of vectors (the image, each stage of a
group of spectra) its entries, of every scalar column its bins. Where name and codebook are those of the old model, rows
of embeddings and head, and the matrix of the values, are taken over; what is new, or means something else now, starts
as in a new model. Bins of all columns share their rows, which are taken over with the first column that is. The blocks
of the transformer, which know nothing of names, are taken over whole and have to be of the same size.

That codebooks are the same is seen from the features that models of values save with their weights (``model.values``);
without them nobody knows, and only a model of the same vocabulary is taken, as it is.

Shapes: D width, V rows of the vocabulary, F features of a scalar bin.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ask.trained import find_weights
from ..ask.trained_settings import read_settings
from ..errors import ArtifactError
from ..files.bundle_files import load_weights_file
from ..models import CausalTransformerLM
from ..training.checkpoints.checkpoint import load_model_state
from ..vocabulary.vocab import SPECIALS, VocabSpec

VALUES = "value_embedding"
REPAIR = "start from the weights of a model with the same model=…, model.values included"
_BY_PLACE = ("position_embedding.weight", "row_embedding.weight")  # rows are places: as many as both have


@dataclass
class Grown:
    """What was taken over, by name; ``fresh`` is new to the old model or has another codebook, ``gone`` only it had."""

    kept: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)  # weights without a counterpart

    def said(self) -> str:
        """In words."""
        parts = [
            ("taken over", self.kept),
            ("starting fresh", self.fresh),
            ("left behind", self.gone),
            ("weights that start fresh", self.other),
        ]
        return "; ".join(f"{text}: {', '.join(names)}" for text, names in parts if names)


@dataclass(frozen=True)
class _Side:
    """Weights with the meaning of their rows: those of the old model, or those of the new."""

    state: Mapping[str, Tensor]
    vocab: VocabSpec

    def vectors(self) -> list[str]:
        """Names of the blocks of vectors in the order of their matrices."""
        return [block.name for block in self.vocab.blocks if block.modality != "scalar" and block.size]

    def entries(self, name: str) -> Tensor | None:
        """Standardised entries of a block of vectors ``(C, E)``."""
        return self.state.get(f"{VALUES}.vectors.entries_{self.vectors().index(name)}")

    def bins(self, column: str) -> Tensor | None:
        """Features of a column's bins ``(V, F)``."""
        features, n = self.state.get(f"{VALUES}.scalars.features"), len(self.vocab.scalar_columns)
        if features is None or len(features) % n:
            return None
        return features.reshape(n, -1, features.shape[1])[self.vocab.scalar_columns.index(column)]


def grow(network: CausalTransformerLM, vocab: VocabSpec, init_from: str | Path, log: logging.Logger) -> Grown | None:
    """Take over what the weights that ``init_from`` names have of a new model's blocks.

    Args:
        network: the new model with its initial weights, which are changed in place.
        init_from: a run directory, a bundle or a file of weights.

    Returns:
        What was taken over; None where the old model is of the same vocabulary and codebooks, or does not know its
        codebooks: its weights are then to be loaded as they are. Nothing was changed.

    Raises:
        ArtifactMissingError: there are no weights.
        ArtifactError: the transformer's blocks are of another size.
    """
    path = find_weights(str(init_from), ".")
    content = load_weights_file(path)
    if not isinstance(content, Mapping) or "vocab_spec" not in (content.get("config") or {}):
        return None  # weights alone, of whatever program
    settings, state = read_settings(content, path, REPAIR)
    old = _Side(state, _vocabulary(settings.vocab_spec, settings.vocab_size, path))
    own = network.state_dict()
    new = _Side(own, vocab)
    if not any(name.startswith(VALUES) for name in state) or not any(name.startswith(VALUES) for name in own):
        return None
    same = [name for name in _names(vocab) if _same(old, new, name)]
    if old.vocab == vocab and len(same) == len(_names(vocab)) and _shapes(state) == _shapes(own):
        return None
    if not same:
        raise ArtifactError("a block or column of the same name and codebook", got="none", where=path, repair=REPAIR)
    _check_blocks(settings.model.n_heads, state, network, path)
    found = Grown(
        same, [n for n in _names(vocab) if n not in same], [n for n in _names(old.vocab) if n not in _names(vocab)]
    )
    taken = dict(_taken(old, new, set(same)))
    found.other = sorted(name for name in own if name not in taken and not name.startswith(VALUES))
    load_model_state(network, {**own, **taken}, path)
    log.info("growing from %s: %s", path, found.said())
    return found


def _vocabulary(spec: Mapping[str, Any], size: int, where: object) -> VocabSpec:
    vocab = VocabSpec.from_dict(spec)
    start = len(SPECIALS)
    for block in vocab.blocks:
        if type(block.size) is not int or block.size < 0 or block.start != start:
            raise ArtifactError("blocks of a vocabulary one behind the other", got=block.name, where=where)
        start += block.size
    if start > size:
        raise ArtifactError(f"a vocabulary of at most {size} ids, the rows of the weights", got=start, where=where)
    return vocab


def _names(vocab: VocabSpec) -> list[str]:
    """Everything that has a codebook: blocks of vectors, and scalar columns."""
    return [*(b.name for b in vocab.blocks if b.modality != "scalar" and b.size), *vocab.scalar_columns]


def _same(old: _Side, new: _Side, name: str) -> bool:
    """Whether a name stands for the same codebook in both."""
    if name not in _names(old.vocab):
        return False
    columns = [name in side.vocab.scalar_columns for side in (old, new)]
    if columns[0] != columns[1]:
        return False
    ours, theirs = (side.bins(name) if columns[0] else side.entries(name) for side in (new, old))
    if ours is None or theirs is None or ours.shape[1] != theirs.shape[1]:
        return False
    n = min(len(ours), len(theirs))  # a block may be larger than its codebook, and then has zeros
    rest = ours[n:].any() or theirs[n:].any()
    return not bool(rest) and torch.allclose(ours[:n], theirs[:n], rtol=1e-5, atol=1e-6)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _check_blocks(n_heads: int, state: Mapping[str, Tensor], network: CausalTransformerLM, where: object) -> None:
    """Raises: ArtifactError: the transformer is of another size."""
    inner = [{n: s for n, s in _shapes(x).items() if n.startswith("blocks.")} for x in (network.state_dict(), state)]
    own = network.blocks[0].n_heads
    if inner[0] != inner[1] or n_heads != own:
        sizes = [
            f"{len({n.split('.')[1] for n in x})} layers, blocks.0.qkv {x.get('blocks.0.qkv.weight')}, {h} heads"
            for x, h in zip(inner, (own, n_heads), strict=True)
        ]
        raise ArtifactError(f"a transformer of {sizes[0]}", got=sizes[1], where=where, repair=REPAIR)


# ---------------------------------------------------------------------------------- what is taken


def _taken(old: _Side, new: _Side, same: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Weights of the new model, with the rows of the old one where these mean the same."""
    tokens, types = _token_rows(old.vocab, new.vocab, same), _type_rows(old.vocab, new.vocab, same)
    for name, value in new.state.items():
        theirs = old.state.get("token_embedding.weight" if name == "head.weight" and name not in old.state else name)
        if name.startswith(VALUES) or theirs is None:
            continue
        if name in ("token_embedding.weight", "head.weight"):
            yield name, _with_rows(value, theirs, tokens)
        elif name == "type_embedding.weight":
            yield name, _with_rows(value, theirs, types)
        elif name == "next_type_embedding.weight":
            yield name, _with_rows(value, theirs, [*types, (len(value) - 1, len(theirs) - 1)])  # the last: not told
        elif name in _BY_PLACE and value.shape[1:] == theirs.shape[1:]:
            if name != "row_embedding.weight" or _grid(old) == _grid(new):
                n = min(len(value), len(theirs))
                yield name, torch.cat([theirs[:n].to(value), value[n:]])
        elif value.shape == theirs.shape:
            yield name, theirs
    yield from _value_maps(old, new, same)


def _grid(side: _Side) -> int:
    return len(side.state["column_embedding.weight"])


def _token_rows(old: VocabSpec, new: VocabSpec, same: set[str]) -> list[tuple[int, int]]:
    """Rows of the new vocabulary and those of the old that mean the same."""
    rows = [(i, i) for i in range(len(SPECIALS))]
    for block in new.blocks:
        kept = bool(same & set(new.scalar_columns)) if block.modality == "scalar" else block.name in same
        if kept and old.has_block(block.name):
            theirs = old.block(block.name)
            rows += [(block.start + i, theirs.start + i) for i in range(min(block.size, theirs.size))]
    return rows


def _type_rows(old: VocabSpec, new: VocabSpec, same: set[str]) -> list[tuple[int, int]]:
    theirs = {name: i for i, name in enumerate(old.type_names)}
    return [
        (i, theirs[name]) for i, name in enumerate(new.type_names) if name == "special" or name in same & set(theirs)
    ]


def _with_rows(value: Tensor, theirs: Tensor, rows: Sequence[tuple[int, int]]) -> Tensor:
    mine, old = (torch.tensor(side) for side in zip(*rows, strict=True))
    found = value.clone()
    found[mine] = theirs[old].to(found)
    return found


def _value_maps(old: _Side, new: _Side, same: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Matrices of the values: one for each block of vectors, F rows of one for each column, rows for each type."""
    for part, names in (("vectors", _Side.vectors), ("head", _with_scalar)):
        for i, name in enumerate(names(new)):
            key = f"{VALUES}.{part}.maps.{i}"
            kept = bool(same & set(new.vocab.scalar_columns)) if name == "scalar" else name in same
            if key in new.state and kept:
                theirs = old.state.get(f"{VALUES}.{part}.maps.{names(old).index(name)}")
                if theirs is not None and theirs.shape == new.state[key].shape:
                    yield key, theirs
    for key, groups, groups_of_old in (
        (f"{VALUES}.scalars.map", new.vocab.scalar_columns, old.vocab.scalar_columns),
        (f"{VALUES}.errors.map", new.vocab.type_names, old.vocab.type_names),
    ):
        if key in new.state and key in old.state:
            yield key, _with_groups(new.state[key], groups, old.state[key], groups_of_old, same)


def _with_scalar(side: _Side) -> list[str]:
    """Blocks with a matrix in the head, in order."""
    return [block.name for block in side.vocab.blocks if block.size]


def _with_groups(value: Tensor, groups: Sequence[str], theirs: Tensor, old: Sequence[str], same: set[str]) -> Tensor:
    """``value`` of as many rows for each group, with those of the old model for the groups that are the same."""
    n = len(value) // len(groups)
    if n * len(old) != len(theirs) or value.shape[1:] != theirs.shape[1:]:
        return value
    found = value.clone()
    for i, name in enumerate(groups):
        if name in same or name == "special":
            j = list(old).index(name)
            found[i * n : (i + 1) * n] = theirs[j * n : (j + 1) * n].to(found)
    return found
