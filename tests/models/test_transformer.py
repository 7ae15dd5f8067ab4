"""The causal transformer: what may depend on what, and what it is made of."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from astromodal.errors import ConfigError, DataError
from astromodal.models import CausalTransformerLM
from astromodal.models.transformer import index_in_run

V, T = 40, 6


def make(seed: int = 0, **options) -> CausalTransformerLM:
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 32, "dropout": 0.1, "max_len": 32, "grid_width": 4}
    return CausalTransformerLM(V, T, **sizes | options).double().eval()


def make_input(batch: int = 3, length: int = 12, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, V, (batch, length), generator=generator)
    types = torch.randint(1, T, (batch, length), generator=generator).sort(dim=1).values
    return tokens, types, torch.ones(batch, length, dtype=torch.bool)


def test_an_output_never_depends_on_later_tokens_or_types():
    model = make()
    tokens, types, mask = make_input()
    before = model(tokens, types, mask)
    for j in range(tokens.shape[1]):
        changed, other = tokens.clone(), types.clone()
        changed[:, j] = (changed[:, j] + 1) % V
        other[:, j] = (other[:, j] + 1) % T
        after = model(changed, other, mask)
        torch.testing.assert_close(after[:, :j], before[:, :j], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, j], before[:, j])


def test_right_padding_changes_no_real_output():
    model = make()
    tokens, types, mask = make_input(1, 9)
    alone = model(tokens, types, mask)
    pad = torch.zeros(1, 5, dtype=torch.int64)
    padded = model(torch.cat([tokens, pad], 1), torch.cat([types, pad], 1), torch.cat([mask, pad.bool()], 1))
    torch.testing.assert_close(padded[:, :9], alone, rtol=0, atol=1e-12)


def test_left_padding_works_when_declared_and_is_refused_when_not():
    model = make()
    tokens, types, mask = make_input(2, 9)
    pad = torch.zeros(2, 4, dtype=torch.int64)
    left = torch.cat([pad, tokens], 1), torch.cat([pad, types], 1), torch.cat([pad.bool(), mask], 1)
    torch.testing.assert_close(model(*left, padding="any")[:, 4:], model(tokens, types, mask), rtol=0, atol=1e-10)
    assert torch.isfinite(model(*left, padding="any")).all()
    with pytest.raises(DataError, match="padding='any'"):
        model(*left)


def test_declared_right_padding_gives_the_same_as_no_mask():
    model = make()
    tokens, types, mask = make_input(2, 9)
    mask[:, 7:] = False
    any_padding = model(tokens, types, mask, padding="any")
    torch.testing.assert_close(any_padding[:, :7], model(tokens, types)[:, :7], rtol=0, atol=1e-12)


def test_the_index_within_a_run_equals_a_loop():
    types = torch.randint(0, 3, (20, 30), generator=torch.Generator().manual_seed(1))
    expected = torch.zeros_like(types)
    for b in range(20):
        for t in range(1, 30):
            expected[b, t] = expected[b, t - 1] + 1 if types[b, t] == types[b, t - 1] else 0
    assert torch.equal(index_in_run(types, torch.arange(30).expand(20, 30)), expected)


def test_a_token_knows_its_row_and_column_wherever_its_modality_begins():
    """With the absolute position switched off, an image gives the same embedding behind any prefix."""
    model = make(n_layers=1)
    torch.nn.init.zeros_(model.position_embedding.weight)
    image, ones = torch.randint(5, V, (1, 10)), torch.ones(1, 10, dtype=torch.int64)
    behind, _ = model._embed(
        torch.cat([image[:, :3], image], 1), torch.cat([ones[:, :3] + 1, ones], 1), None, None, "right"
    )
    alone, _ = model._embed(image, ones, None, None, "right")
    torch.testing.assert_close(behind[:, 3:], alone)


def test_telling_the_next_type_changes_the_prediction_from_there_on_only():
    model = make()
    tokens, types, mask = make_input()
    asked = types.clone()
    asked[:, 5] = (asked[:, 5] + 1) % T
    a, b = (model(tokens, types, mask, next_types=n) for n in (types, asked))
    torch.testing.assert_close(a[:, :5], b[:, :5], rtol=0, atol=1e-12)
    assert not torch.allclose(a[:, 5], b[:, 5])


@pytest.mark.parametrize("tie_head", [True, False])
def test_logits_are_hidden_states_times_the_head(tie_head):
    model = make(tie_head=tie_head)
    inputs = make_input()
    torch.testing.assert_close(model(*inputs), model.hidden(*inputs) @ model.head_weight.T)
    assert (model.head_weight is model.token_embedding.weight) == tie_head


@pytest.mark.parametrize("tie_head", [True, False])
def test_the_number_of_parameters_is_as_computed(tie_head):
    model = make(tie_head=tie_head)
    d, d_ff, n_layers, max_len, grid = 16, 32, 2, 32, 4
    block = 4 * d * d + 2 * d * d_ff + 2 * d
    embeddings = V + 2 * T + 1 + max_len + max_len // grid + grid
    expected = n_layers * block + embeddings * d + d + (0 if tie_head else V * d)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_initialisation_follows_the_table():
    model = CausalTransformerLM(500, T, d_model=64, n_layers=8, n_heads=4, d_ff=128, max_len=64)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert bool((parameter == 1).all()), name
        elif parameter.numel() > 2000:
            expected = 0.02 / 4 if name.endswith(("attention_out.weight", "mlp_out.weight")) else 0.02
            assert float(parameter.std()) == pytest.approx(expected, rel=0.1), name
            assert abs(float(parameter.mean())) < 0.1 * expected, name


def test_weights_survive_a_round_trip():
    a, b, inputs = make(0), make(1), make_input()
    assert not torch.equal(a(*inputs), b(*inputs))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(*inputs), b(*inputs))


def test_too_long_sequences_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"max_len=32.*33"):
        make()(*make_input(1, 33))


def test_the_two_names_of_the_longest_sequence():
    assert make(max_len=None, max_seq_len=16).max_len == 16
    assert CausalTransformerLM(V, d_model=8, n_layers=1, n_heads=1, d_ff=8).max_len == 2048
    with pytest.raises(ConfigError, match="max_len"):
        make(max_len=16, max_seq_len=32)
    with pytest.raises(ConfigError, match="n_heads"):
        make(n_heads=3)


def test_dropout_is_active_in_training_only():
    model, inputs = make(dropout=0.5), make_input()
    assert torch.equal(model(*inputs), model(*inputs))
    model.train()
    assert not torch.equal(model(*inputs), model(*inputs))


@pytest.mark.parametrize("told", [True, False])
def test_gradients_reach_every_parameter(told):
    model = make()
    tokens, types, mask = make_input()
    model(tokens, types, mask, next_types=types if told else None).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_one_graph_serves_all_lengths():
    graphs = []

    def count(graph, _example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = make()
    compiled = torch.compile(model, backend=count, fullgraph=True, dynamic=True)
    for batch, length in ((3, 12), (2, 7), (4, 31), (3, 16)):
        inputs = make_input(batch, length)
        torch.testing.assert_close(compiled(*inputs), model(*inputs))
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("padding", ["right", "any"])
def test_activation_checkpointing_changes_no_bit_of_loss_and_gradients(padding):
    tokens, types, mask = make_input()
    found = []
    for recompute in (False, True):
        model = make(dropout=0.3, activation_checkpointing=recompute).float().train()
        torch.manual_seed(5)
        loss = model(tokens, types, mask, padding=padding).square().mean()
        loss.backward()
        found.append([loss.detach(), torch.rand(3), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 10 and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_activation_checkpointing_keeps_less_for_the_backward_pass():
    kept = []
    for recompute in (False, True):
        model, n_bytes = make(activation_checkpointing=recompute).train(), 0

        def pack(tensor):
            nonlocal n_bytes
            n_bytes += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(*make_input(8, 32))
        kept.append(n_bytes)
    assert kept[1] < 0.5 * kept[0]


_PEAK = """
import resource, sys, torch
from astromodal.models import CausalTransformerLM
torch.set_num_threads(1)
torch.manual_seed(0)
model = CausalTransformerLM(200, 8, 128, 8, 4, 512, 0.1, 512, activation_checkpointing=sys.argv[1] == "True")
tokens = torch.randint(0, 200, (8, 512))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.hidden(tokens, torch.zeros_like(tokens)).square().mean().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_activation_checkpointing_lowers_the_peak_of_memory(repo):
    environment = os.environ | {"PYTHONPATH": str(repo / "src")}
    peak = [
        int(
            subprocess.run(
                [sys.executable, "-c", _PEAK, str(recompute)],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for recompute in (False, True)
    ]
    assert peak[1] < 0.5 * peak[0]  # kB: 1.24 GB and 0.41 GB
