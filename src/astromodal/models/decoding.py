"""Answers of the transformer to more tokens than it has seen, without computing again what it has seen.

A causal position depends on nothing behind it, so the keys and values of every block are kept (the *cache*) and only
new positions are computed. Rows of a batch have sequences of different lengths, each of which goes on at its own end.
:func:`extend` appends; :func:`branch` asks several questions at once that are forgotten again: branches see the cache
up to where they leave it, and themselves, but not each other (as a tree in Miao et al. 2023, arXiv:2305.09781).

The last token of a prefix is told the type that comes next, so it belongs to the branch that asks, not to the cache.

Shapes: B rows, n new positions, C room of the cache, D width, H heads, Q branches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from .transformer import CausalTransformerLM, after_prefix, prefix_mask


@dataclass
class KeyValueCache:
    """What every block remembers of the sequences so far."""

    capacity: int  # C: longest sequence
    lengths: Tensor  # (B,) tokens of each row
    last_type: Tensor  # (B,) type of the last token; -1 for none
    run_start: Tensor  # (B,) position at which the last run of equal types begins
    origin: Tensor  # (B,) where positions begin to count: behind the prefix of tokens that see each other
    longest: int = 0  # no row is longer
    keys: list[Tensor] = field(default_factory=list)  # per block (B, H, C, D/H)
    values: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, batch: int, capacity: int, device: torch.device | str = "cpu") -> KeyValueCache:
        """A cache for ``batch`` sequences of at most ``capacity`` tokens."""
        zero = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls(capacity, zero, zero - 1, zero.clone(), zero.clone())

    def write(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        """Keep keys and values (B, H, n, D/H) of new tokens at ``positions`` (B, n)."""
        if layer == len(self.keys):  # zeros: what is masked still takes part, times 0, and NaN times 0 is NaN
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self.keys.append(keys.new_zeros(shape))
            self.values.append(values.new_zeros(shape))
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        self.keys[layer].transpose(1, 2)[rows, positions] = keys.transpose(1, 2)
        self.values[layer].transpose(1, 2)[rows, positions] = values.transpose(1, 2)

    def repeat(self, times: int, capacity: int | None = None) -> KeyValueCache:
        """A cache in which every row stands ``times`` times in a row, with room for ``capacity`` tokens."""
        capacity = capacity or self.capacity
        lengths, last_type, run_start, origin = (
            x.repeat_interleave(times) for x in (self.lengths, self.last_type, self.run_start, self.origin)
        )
        grown = KeyValueCache(capacity, lengths, last_type, run_start, origin, self.longest)
        for name in ("keys", "values"):
            kept = [x[:, :, : self.longest].repeat_interleave(times, 0) for x in getattr(self, name)]
            setattr(grown, name, [F.pad(x, (0, 0, 0, capacity - self.longest)) for x in kept])
        return grown


@torch.no_grad()
def extend(
    model: CausalTransformerLM,
    cache: KeyValueCache,
    tokens: Tensor,
    types: Tensor,
    next_types: Tensor | None = None,
    counts: Tensor | None = None,
    prefix: Tensor | None = None,
    sigma: Tensor | None = None,
) -> Tensor:
    """Append tokens to the sequences of ``cache``; last hidden states of the new positions, ``(B, n, D)``.

    Args:
        tokens, types, next_types: of the new positions ``(B, n)``.
        counts: how many of the n are real in each row ``(B,)``; null: all. What comes out behind them means nothing.
        prefix: how many of them see each other both ways ``(B,)``; only at the beginning, of an empty cache.
        sigma: errors of the new tokens ``(B, n)``, as for :meth:`CausalTransformerLM.hidden`.

    Raises:
        DataError: more tokens than the cache has room for, or the model positions.
    """
    n = tokens.shape[1]
    stop = cache.longest + n
    room = min(cache.capacity, model.max_len)
    if stop > room:
        raise DataError(f"at most {room} tokens", got=stop, where="key-value cache")
    positions = cache.lengths[:, None] + torch.arange(n, device=tokens.device)
    index, starts = _index_in_run(cache, types, positions)
    mask = None
    if prefix is not None:
        cache.origin, mask = prefix, prefix_mask(prefix, n)
        places, next_types = after_prefix(prefix, next_types, tokens.shape, model.n_types)
    else:
        places = positions - cache.origin[:, None]
    x = model.embed(tokens, types, places, index, next_types, sigma)
    if cache.longest:
        mask = (torch.arange(stop, device=tokens.device) <= positions[:, :, None])[:, None]
    for layer, block in enumerate(model.layers):
        q, k, v = block.heads(x)
        cache.write(layer, k, v, positions)
        if cache.longest:
            k, v = cache.keys[layer][:, :, :stop], cache.values[layer][:, :, :stop]
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None))
    _advance(cache, types, starts, counts)
    return model.norm(x)


def _index_in_run(cache: KeyValueCache, types: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Index of each new token in its run of equal types, which may have begun in the cache, and the runs' starts."""
    before = torch.cat([cache.last_type[:, None], types[:, :-1]], 1)
    starts = torch.where(types != before, positions, cache.run_start[:, None]).cummax(1).values
    return positions - starts, starts


def _advance(cache: KeyValueCache, types: Tensor, starts: Tensor, counts: Tensor | None) -> None:
    """Make the first ``counts`` new tokens of each row part of its sequence."""
    n = types.shape[1]
    if counts is None:
        cache.last_type, cache.run_start = types[:, -1], starts[:, -1]
        cache.lengths, cache.longest = cache.lengths + n, cache.longest + n
        return
    some, last = counts > 0, (counts - 1).clamp(min=0)[:, None]
    cache.last_type = torch.where(some, types.gather(1, last)[:, 0], cache.last_type)
    cache.run_start = torch.where(some, starts.gather(1, last)[:, 0], cache.run_start)
    cache.lengths = cache.lengths + counts
    cache.longest = int(cache.lengths.max()) if len(counts) else cache.longest


@torch.no_grad()
def branch(
    model: CausalTransformerLM,
    cache: KeyValueCache,
    tokens: Tensor,
    types: Tensor,
    next_types: Tensor,
    index: Tensor,
    starts: Tensor,
    branch_of: Tensor,
    offset: Tensor,
    sigma: Tensor | None = None,
) -> Tensor:
    """Last hidden states ``(B, n, D)`` of branches that go on from the cached sequences; the cache stays as it is.

    Args:
        tokens, types, next_types, index: of the branches' positions, one branch behind the other, ``(B, n)``;
            ``index`` is that in the run of equal types. Branches may be padded at their end.
        starts: cached tokens that each branch sees ``(B, Q)``.
        branch_of, offset: branch of each position, and its place in it ``(n,)``.
        sigma: errors of the branches' tokens ``(B, n)``, as for :meth:`CausalTransformerLM.hidden`.
    """
    start = starts[:, branch_of]  # (B, n)
    positions = (start + offset - cache.origin[:, None]).clamp(max=model.max_len - 1)  # padding may lie beyond
    seen = torch.arange(cache.longest, device=tokens.device) < start[:, :, None]
    place = torch.arange(len(offset), device=tokens.device)
    own = (branch_of[:, None] == branch_of) & (place[:, None] >= place)
    mask = torch.cat([seen, own.expand(len(tokens), -1, -1)], 2)[:, None]
    x = model.embed(tokens, types, positions, index, next_types, sigma)
    for layer, block in enumerate(model.layers):
        q, k, v = block.heads(x)
        k = torch.cat([cache.keys[layer][:, :, : cache.longest], k], 2)
        v = torch.cat([cache.values[layer][:, :, : cache.longest], v], 2)
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    return model.norm(x)
