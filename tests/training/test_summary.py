"""Size and cost of a model against counts by hand and torch's own counter."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from astromodal.models import CausalTransformerLM
from astromodal.training.loop import TrainingLoop
from astromodal.training.watch.summary import (
    count_parameters,
    describe_model,
    expected_tokens,
    model_summary,
    print_model_summary,
    training_summary,
)
from tests.training.toys import ToyLoader, ToyNet, ToyObjective, options

V, T, D, FF, LAYERS, L = 50, 8, 16, 32, 2, 12


def transformer(**kwargs) -> CausalTransformerLM:
    torch.manual_seed(0)
    return CausalTransformerLM(V, T, D, LAYERS, 2, FF, 0.0, 32, grid_width=24, **kwargs)


@pytest.mark.parametrize("tied", [True, False])
def test_counts_by_hand(tied: bool) -> None:
    summary = model_summary(transformer(tie_head=tied), L)
    block = 3 * D * D + D * D + 2 * D * FF
    own = {
        "token_embedding": V * D,
        "type_embedding": T * D,
        "next_type_embedding": (T + 1) * D,
        "position_embedding": 32 * D,
        "row_embedding": 2 * D,
        "column_embedding": 24 * D,
        "blocks": LAYERS * (block + 2 * D),
        "norm": D,
    } | ({} if tied else {"head": V * D})
    assert summary["parts"] == own
    assert summary["parameters"] == summary["trainable"] == sum(own.values())
    assert summary["bytes"] == 4 * sum(own.values())
    assert summary["flops_per_token"] == 6 * (LAYERS * block + V * D) + LAYERS * 6 * L * D
    assert model_summary(transformer(tie_head=tied))["flops_per_token"] == 6 * (LAYERS * block + V * D)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_agree_with_torchs_counter(tied: bool) -> None:
    """The counter sees both products of attention whole; a causal kernel computes half of them, and so counts ours."""
    model = transformer(tie_head=tied)
    tokens, types = torch.randint(0, V, (3, L)), torch.zeros(3, L, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, types).sum().backward()
    counts = {str(op): n / (3 * L) for op, n in counter.get_flop_counts()["Global"].items()}
    attention = counts.pop("aten.bmm")
    without = model_summary(model)["flops_per_token"]
    assert sum(counts.values()) == without
    assert attention == 2 * (model_summary(model, L)["flops_per_token"] - without)


def test_frozen_and_shared_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    assert count_parameters(model) == (9 + 3 + 3, 9 + 3)
    assert model_summary(model)["flops_per_token"] == 6 * 9
    assert "12 trainable" in describe_model(model)


def test_a_convolutional_model_has_no_cost_per_token() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(3, 3))
    assert model_summary(model)["flops_per_token"] is None and "FLOP" not in describe_model(model)


def test_tokens_per_step_and_the_length_that_attention_sees() -> None:
    loader = SimpleNamespace(dataset=SimpleNamespace(lengths=[2, 4, 6]))
    tokens, length = expected_tokens(loader, 3)
    assert tokens == 4.0 and length == pytest.approx(56 / 12)
    model = transformer()
    summary = training_summary(model, loader, 3)
    assert summary["flops_per_token"] == pytest.approx(model_summary(model, 56 / 12)["flops_per_token"])
    assert summary["flops_per_step"] == pytest.approx(4.0 * summary["flops_per_token"])
    assert expected_tokens(ToyLoader(), 3) == (None, None)


def test_the_loop_says_it_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    loader = ToyLoader()
    loader.dataset = SimpleNamespace(lengths=[5] * 40)
    with caplog.at_level("INFO"):
        loop = TrainingLoop(ToyObjective(), loader, **options(epochs=1, grad_accum_steps=2))
        loop.fit()
    n = sum(p.numel() for p in ToyNet().parameters())
    line = next(r.getMessage() for r in caplog.records if "parameters" in r.getMessage())
    assert line.startswith(f"ToyNet: {n} parameters (first 40, norm 16, head 9)") and "about 40 tokens per step" in line
    assert loop.summary()["tokens_per_step"] == 40.0 and line.endswith("cpu, float32")


def test_the_documented_summary_is_printed(capsys) -> None:
    model = nn.Sequential(nn.Linear(467, 512), nn.Linear(512, 467))
    total, trainable = count_parameters(model)
    print_model_summary(model)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["=" * 80, "Model Summary", "=" * 80] and lines[3] == "Sequential("
    assert lines[-5:] == [
        "-" * 80,
        f"Total parameters: {total:,}",
        f"Trainable parameters: {trainable:,}",
        f"Model size: {4 * total / 2**20:.2f} MB",
        "=" * 80,
    ]
