"""A prefix whose tokens see each other: who sees whom, to the bit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from astromodal.errors import ConfigError
from astromodal.models import CausalTransformerLM

V, T, B, LENGTH = 40, 6, 4, 12
PREFIX = torch.tensor([5, 0, 1, 9])


@pytest.fixture(scope="module")
def model() -> CausalTransformerLM:
    torch.manual_seed(0)
    network = CausalTransformerLM(V, T, 16, 2, 4, 32, dropout=0.0, max_len=32, grid_width=4).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() > 1:
                weight.mul_(8 if "embedding" in name else 4)
    return network


def inputs(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, V, (B, LENGTH), generator=generator)
    types = torch.randint(0, T, (B, LENGTH + 1), generator=generator)
    return tokens, types[:, :-1], types[:, 1:]


@torch.no_grad()
def states(model, tokens, types, after, prefix=PREFIX):
    return model.hidden(tokens, types, next_types=after, prefix=prefix)


@pytest.mark.parametrize("place", range(LENGTH))
def test_nothing_before_an_asked_token_sees_it(model, place):
    tokens, types, after = inputs()
    before = states(model, tokens, types, after)
    changed, other = tokens.clone(), types.clone()
    changed[:, place] = (changed[:, place] + 7) % V
    other[:, place] = (other[:, place] + 1) % T
    found = states(model, changed, other, after)
    for row, prefix in enumerate(PREFIX.tolist()):
        if place >= prefix:
            assert torch.equal(found[row, :place], before[row, :place])  # to the bit
        else:  # given: everything sees it
            assert (found[row] != before[row]).any(1).all()
        assert (found[row, place:] != before[row, place:]).any(1).all()


@pytest.mark.parametrize("place", range(LENGTH))
def test_what_is_asked_reaches_only_the_position_that_is_told(model, place):
    tokens, types, after = inputs()
    before = states(model, tokens, types, after)
    told = after.clone()
    told[:, place] = (told[:, place] + 1) % T
    found = states(model, tokens, types, told)
    for row, prefix in enumerate(PREFIX.tolist()):
        if place < prefix:  # nothing in the prefix is told anything
            assert torch.equal(found[row], before[row])
        else:
            assert torch.equal(found[row, :place], before[row, :place])
            assert (found[row, place] != before[row, place]).any()


def test_the_given_are_a_set_whose_parts_may_stand_in_any_order(model):
    """Runs of equal type keep their inner order; their places in the prefix mean nothing."""
    tokens = torch.tensor([[7, 8, 9, 11, 5, 6, 1, 20, 21]])
    types = torch.tensor([[1, 1, 2, 3, 4, 4, 0, 5, 2]])
    moved = [2, 4, 5, 3, 0, 1, 6, 7, 8]
    after = torch.cat([types[:, 1:], torch.zeros(1, 1, dtype=torch.int64)], 1)
    prefix = torch.tensor([6])
    one = states(model, tokens, types, after, prefix)
    other = states(model, tokens[:, moved], types[:, moved], after, prefix)
    torch.testing.assert_close(other, one[:, moved], rtol=0, atol=1e-4)
    assert one.abs().max() > 0.5


def test_the_states_are_those_of_attention_written_out(model):
    tokens, types, after = inputs()
    found = states(model, tokens, types, after)
    for row, prefix in enumerate(PREFIX.tolist()):
        x = []
        for t in range(LENGTH):
            start = t
            while start > 0 and types[row, start - 1] == types[row, t]:
                start -= 1
            index, given = t - start, t < prefix
            told = T if given else int(after[row, t])
            x.append(
                model.token_embedding.weight[tokens[row, t]]
                + model.type_embedding.weight[types[row, t]]
                + model.position_embedding.weight[0 if given else t - prefix]
                + model.row_embedding.weight[index // 4]
                + model.column_embedding.weight[index % 4]
                + model.next_type_embedding.weight[told]
            )
        x = torch.stack(x).detach()
        for block in model.blocks:
            q, k, v = (part.view(LENGTH, 4, 4) for part in block.qkv(block.norm_attention(x)).split(16, dim=1))
            seen = torch.zeros(LENGTH, 4, 4)
            for t in range(LENGTH):
                stop = max(t + 1, prefix)
                for h in range(4):
                    weights = (k[:stop, h] @ q[t, h] / math.sqrt(4)).softmax(0)
                    seen[t, h] = weights @ v[:stop, h]
            x = x + block.attention_out(seen.reshape(LENGTH, 16))
            x = x + block.mlp_out(F.gelu(block.mlp_in(block.norm_mlp(x))))
        torch.testing.assert_close(found[row], model.norm(x).detach(), rtol=0, atol=2e-4)


def test_without_anything_given_it_is_the_plain_causal_model(model):
    tokens, types, after = inputs()
    nothing = torch.zeros(B, dtype=torch.int64)
    plain = model.hidden(tokens, types, next_types=after)
    torch.testing.assert_close(states(model, tokens, types, after, nothing), plain.detach(), rtol=0, atol=2e-5)


def test_recomputed_activations_give_the_same_gradients(model):
    tokens, types, after = inputs()
    grads = []
    for recompute in (False, True):
        again = CausalTransformerLM(
            V, T, 16, 2, 4, 32, dropout=0.0, max_len=32, grid_width=4, activation_checkpointing=recompute
        )
        again.load_state_dict(model.state_dict())
        again.train().hidden(tokens, types, next_types=after, prefix=PREFIX).square().sum().backward()
        grads.append([p.grad for p in again.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


def test_a_prefix_needs_right_padding(model):
    tokens, types, _ = inputs()
    with pytest.raises(ConfigError, match="padding='right' with a prefix"):
        model.hidden(tokens, types, torch.ones_like(tokens), prefix=PREFIX, padding="any")
