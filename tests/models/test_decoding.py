"""Computing only what is new gives what computing everything gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astromodal.errors import DataError
from astromodal.models import CausalTransformerLM
from astromodal.models.decoding import KeyValueCache, branch, extend
from astromodal.models.values import TokenValues

V, T, LENGTH = 40, 6, 12
# columns are types 1 and 2, of 20 bins each; ids from 30 on are codes of vectors
VALUES = TokenValues(
    {30: np.eye(10, 3, dtype=np.float32)},
    10,
    1,
    np.ones((2, 20, 3), np.float32),
    np.ones((20, 3), np.float32),
    True,
    True,
    V,
    T,
)


def make(**options) -> CausalTransformerLM:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 32, "dropout": 0.3, "max_len": 32, "grid_width": 4}
    model = CausalTransformerLM(V, T, **sizes | options).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # at the initial 0.02 half of the network hardly speaks
            if weight.dim() > 1:
                weight.mul_(8 if "embedding" in name else 4)
    return model


def sequences(batch: int = 4, length: int = LENGTH):
    """Tokens, types (runs of several equal ones) and next types."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, V, (batch, length), generator=generator)
    types = torch.randint(0, 3, (batch, length + 1), generator=generator)
    return tokens, types[:, :-1], types[:, 1:]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("values", [None, VALUES], ids=["names", "values"])
@pytest.mark.parametrize("cuts", [(12,), (1, 11), (11, 1), (5, 7), (3, 1, 1, 4, 3), (1,) * 12])
def test_any_split_of_the_sequence_gives_the_states_of_the_whole(cuts, values, told):
    model, (tokens, types, after) = make(values=values), sequences()
    after = after if told else None
    whole = model.hidden(tokens, types, next_types=after)
    cache, found, at = KeyValueCache.empty(4, 16), [], 0
    for n in cuts:
        part = slice(at, at + n)
        found.append(extend(model, cache, tokens[:, part], types[:, part], after[:, part] if told else None))
        at += n
    close(torch.cat(found, 1), whole)
    assert cache.longest == LENGTH and cache.lengths.tolist() == [LENGTH] * 4


@pytest.mark.parametrize("first", [6, 9, 12])
def test_a_prefix_that_sees_both_ways_is_cached_like_anything_else(first):
    """The prefix and something more at once, then token by token; rows have prefixes of different lengths."""
    model, (tokens, types, after) = make(), sequences()
    prefix = torch.tensor([5, 0, 3, 6])
    whole = model.hidden(tokens, types, next_types=after, prefix=prefix)
    cache = KeyValueCache.empty(4, 16)
    found = [extend(model, cache, tokens[:, :first], types[:, :first], after[:, :first], None, prefix)]
    for i in range(first, LENGTH):
        found.append(extend(model, cache, *(x[:, i : i + 1] for x in (tokens, types, after))))
    close(torch.cat(found, 1), whole)


def test_rows_of_different_lengths_go_on_each_at_its_own_end():
    model, (tokens, types, after) = make(), sequences()
    whole = model.hidden(tokens, types, next_types=after)
    first, second = torch.tensor([1, 4, 7, 3]), torch.tensor([2, 0, 4, 3])
    cache = KeyValueCache.empty(4, 20)
    extend(model, cache, tokens[:, :7], types[:, :7], after[:, :7], first)
    for counts in (second, 12 - first - second):
        n = int(counts.max())
        at = (cache.lengths[:, None] + torch.arange(n)).clamp(max=LENGTH - 1)
        before = cache.lengths.clone()
        found = extend(model, cache, *(x.gather(1, at) for x in (tokens, types, after)), counts)
        for row in range(4):
            length = int(counts[row])
            if length:
                close(found[row, :length], whole[row, before[row] : before[row] + length])
    assert cache.lengths.tolist() == [LENGTH] * 4


def test_float32_is_as_close_as_it_can_be():
    model, (tokens, types, after) = make().float(), sequences()
    cache = KeyValueCache.empty(4, 12)
    found = [extend(model, cache, *(x[:, i : i + 1] for x in (tokens, types, after))) for i in range(LENGTH)]
    torch.testing.assert_close(torch.cat(found, 1), model.hidden(tokens, types, next_types=after), rtol=0, atol=2e-5)


def test_branches_are_sequences_of_their_own():
    """Three branches per row leave at depths of their own, with one or three tokens; each equals a whole forward."""
    model, (tokens, types, after) = make(), sequences()
    cache = KeyValueCache.empty(4, 12)
    lengths = torch.tensor([12, 5, 9, 7])
    extend(model, cache, tokens, types, after, lengths)
    starts = torch.tensor([[11, 3, 0], [4, 2, 1], [8, 8, 5], [6, 0, 3]])
    branch_of, offset = torch.tensor([0, 1, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 2, 0, 1])
    new = [torch.randint(5, V, (4, 6)), torch.randint(3, 5, (4, 6)), torch.randint(0, T, (4, 6))]
    index = torch.zeros(4, 6, dtype=torch.int64)
    new[1][:, 2] = new[1][:, 1]  # a run of two
    index[:, 2] = 1
    new[1][:, 3] = 5
    new[1][:, 4], new[1][:, 5] = 3, 4
    before = [x.clone() for x in (*cache.keys, *cache.values)]
    found = branch(model, cache, *new, index, starts, branch_of, offset)
    for row in range(4):
        for b in range(3):
            mine, start = branch_of == b, int(starts[row, b])
            old = (tokens, types, after)
            a, b_, told = (torch.cat([x[row, :start], y[row, mine]])[None] for x, y in zip(old, new, strict=True))
            close(found[row, mine], model.hidden(a, b_, next_types=told)[0, start:])
    assert all(torch.equal(a, b) for a, b in zip(before, (*cache.keys, *cache.values), strict=True))


def test_repeated_rows_go_their_own_ways():
    model, (tokens, types, after) = make(), sequences(2)
    cache = KeyValueCache.empty(2, 6)
    extend(model, cache, tokens[:, :6], types[:, :6], after[:, :6], torch.tensor([6, 4]))
    grown = cache.repeat(3, 10)
    new = torch.randint(5, V, (6, 1)), torch.full((6, 1), 3), torch.full((6, 1), 2)
    found = extend(model, grown, *new)
    for row in range(6):
        length = (6, 4)[row // 3]
        old = (tokens, types, after)
        a, b, told = (torch.cat([x[row // 3, :length], y[row]])[None] for x, y in zip(old, new, strict=True))
        close(found[row], model.hidden(a, b, next_types=told)[0, -1:])
    assert cache.lengths.tolist() == [6, 4] and grown.lengths.tolist() == [7] * 3 + [5] * 3


def test_a_full_cache_is_an_error_with_both_numbers():
    model, (tokens, types, after) = make(), sequences()
    with pytest.raises(DataError, match="at most 8 tokens, got 12"):
        extend(model, KeyValueCache.empty(4, 8), tokens, types, after)
