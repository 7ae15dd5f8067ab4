"""The study of sample_k against gradients taken position by position, and against samplers that cheat."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from astromodal.config.schema import LossConfig
from astromodal.errors import ConfigError
from astromodal.language_model.sample_k import gradients as sample_k_study
from astromodal.language_model.sample_k.cost import loss_costs, peak_memory
from astromodal.language_model.sample_k.gradients import SampleKStudy, thinning
from astromodal.language_model.sample_k.report import verdict
from astromodal.loss import sampling
from astromodal.loss.language_model import LanguageModelObjective
from astromodal.models import CausalTransformerLM
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import BOS, EOS, build_vocab_spec

N_CODES, N_IMAGE, N_OBJECTS = 7, 9, 6
VOCAB = build_vocab_spec(N_CODES, 5, 4, scalar_columns=("mag", "z"), n_bins=(5, 3))


class Lookup(nn.Module):
    """A model without dropout or attention: the hidden state is that of the token and of its place."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.vocab_size, self.n_types = VOCAB.vocab_size, VOCAB.n_types
        generator = torch.Generator().manual_seed(1)
        self.tokens = nn.Parameter(torch.randn(self.vocab_size, width, generator=generator, dtype=torch.float64))
        self.places = nn.Parameter(torch.randn(32, width, generator=generator, dtype=torch.float64))
        self.head_weight = nn.Parameter(torch.randn(self.vocab_size, width, generator=generator, dtype=torch.float64))

    def hidden(self, tokens, types, attn_mask):
        return torch.tanh(self.tokens[tokens] + self.places[: tokens.shape[1]])

    def forward(self, tokens, types, attn_mask):
        return self.hidden(tokens, types, attn_mask) @ self.head_weight.t()


def make_batch(seed: int = 0, n: int = N_OBJECTS, *, scalars: bool = True) -> dict:
    """Sequences [BOS] two scalars, image [EOS]: n * 2 and n * N_IMAGE positions to reconstruct."""
    rng = np.random.default_rng(seed)
    start = VOCAB.block("scalar").start
    columns = [np.full(n, BOS)]
    types = [0]
    if scalars:
        columns += [start + rng.integers(0, 5, n), start + rng.integers(0, 3, n)]
        types += [VOCAB.first_column_type, VOCAB.first_column_type + 1]
    columns += [*(VOCAB.base_image + rng.integers(0, N_CODES, (N_IMAGE, n))), np.full(n, EOS)]
    tokens = torch.from_numpy(np.stack(columns, axis=1).astype(np.int64))
    types = torch.tensor([*types, *[1] * N_IMAGE, 0]).expand(tokens.shape)
    return {
        "tokens": tokens,
        "types": types,
        "attn_mask": torch.ones_like(tokens, dtype=torch.bool),
        "object_index": torch.arange(n) + 1000 * seed,
    }


def make_objective(model: nn.Module | None = None, **loss) -> LanguageModelObjective:
    rng = np.random.default_rng(0)
    image = Codebook(rng.normal(size=(N_CODES, 2)), rng.integers(1, 9, N_CODES))
    centers = np.array([[1.0, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0, 0]])
    scalar = ScalarCodebook(("mag", "z"), centers, np.ones((2, 5)), np.array([5, 3]))
    return LanguageModelObjective(model or Lookup(), VOCAB, (image, None, scalar), LossConfig(**loss), seed=3)


def run(objective: LanguageModelObjective, ks, groups, draws: int = 8) -> SampleKStudy:
    study = SampleKStudy(objective, ks, draws)
    study.run(groups)
    return study


def flat_gradient(objective: LanguageModelObjective, loss: LossConfig, group: list[dict], step: int) -> np.ndarray:
    """Gradient of a training step, through ``backward``."""
    objective.loss = loss
    for batch in objective.prepare(group, step):
        objective(batch)[0].backward()
    found = np.concatenate([p.grad.flatten().numpy() for p in objective.model.parameters()])
    objective.zero_grad()
    return found


def image_gradients_one_by_one(objective: LanguageModelObjective, batch: dict) -> np.ndarray:
    """Gradient of 0.1 * |expectation - entry|^2 of each image position, ``(n, P)``, by plain autograd."""
    model, entries = objective.model, objective.tables.blocks[0].entries.double()
    first = VOCAB.base_image
    rows = []
    inputs = batch["tokens"][:, :-1], batch["types"][:, :-1], None
    for b in range(len(batch["tokens"])):
        for t in range(batch["tokens"].shape[1] - 1):
            code = int(batch["tokens"][b, t + 1]) - first
            if not 0 <= code < N_CODES:
                continue
            logits = model(*inputs)[b, t, first : first + N_CODES]
            error = ((logits.softmax(0) @ entries - entries[code]) ** 2).sum()
            grads = torch.autograd.grad(0.1 * error, list(model.parameters()))
            rows.append(np.concatenate([g.flatten().numpy() for g in grads]))
    return np.stack(rows)


def test_a_k_that_covers_everything_is_exact_and_says_so():
    study = run(make_objective(), [4, 60], [[make_batch(0)], [make_batch(1)]])
    few, all_of_them = study.rows()
    assert few["sampled"] == {"image": True, "scalar": True, "spectrum": False} and few["drawn"]["image"] == 4
    assert all_of_them["sampled"] == {"image": False, "scalar": False, "spectrum": False}
    assert all_of_them["drawn"] == {"image": N_OBJECTS * N_IMAGE, "scalar": N_OBJECTS * 2, "spectrum": 0}
    for part in ("total", "reconstruction", "image", "scalar"):
        assert all_of_them[part] == {
            "cosine": pytest.approx(1),
            "cosine_lowest": pytest.approx(1),
            "error": pytest.approx(0, abs=1e-9),
            "error_predicted": 0,
        }
        assert few[part]["cosine"] < 0.999 and few[part]["error"] > 0.05
    assert "spectrum" not in few and all_of_them["bias"]["measured"] is None


def test_the_error_is_that_of_sampling_without_replacement():
    batch = make_batch(scalars=False)
    objective = make_objective(weight_scalar=0.0, weight_spectrum=0.0, use_ce=False)
    one_by_one = image_gradients_one_by_one(objective, batch)
    n = len(one_by_one)
    exact = one_by_one.mean(0)
    variance = ((one_by_one - exact) ** 2).sum() / (n - 1)  # Cochran's S^2
    ks = [3, 20]
    study = run(objective, ks, [[batch]], draws=160)
    assert study.facts()["norm"]["image"] == pytest.approx(np.linalg.norm(exact), rel=1e-6)
    for row in study.rows():
        expected = math.sqrt(variance / row["k"] * (1 - row["k"] / n)) / np.linalg.norm(exact)
        assert row["image"]["error"] == pytest.approx(expected, rel=0.08)
        assert row["image"]["error_predicted"] == pytest.approx(expected, rel=0.06)
        assert row["total"] == row["reconstruction"] == row["image"]  # nothing else in this loss
        assert not row["bias"]["found"]
        assert row["bias"]["measured"] == pytest.approx(row["bias"]["if_unbiased"], rel=0.6)
    assert study.steps[0].variance["image"] == pytest.approx(variance, rel=0.08)


def test_the_total_is_the_gradient_that_training_follows():
    """Accumulated over micro-batches, with the cross-entropy, against a real step's ``backward``."""
    objective = make_objective(weight_image=0.7, weight_scalar=0.3)
    loss, group = objective.loss, [make_batch(0), make_batch(1, n=3)]
    row = run(objective, [10], [group], draws=1).rows()[0]
    exact = flat_gradient(objective, replace(loss, sample_k=None), group, 0)
    drawn = flat_gradient(objective, replace(loss, sample_k=10), group, 0)
    cosine = exact @ drawn / np.linalg.norm(exact) / np.linalg.norm(drawn)
    assert row["total"]["cosine"] == pytest.approx(cosine, abs=1e-6) and cosine < 0.9999
    assert row["total"]["error"] == pytest.approx(np.linalg.norm(drawn - exact) / np.linalg.norm(exact), rel=1e-4)


def test_the_objective_is_left_as_it_was():
    model = CausalTransformerLM(VOCAB.vocab_size, VOCAB.n_types, d_model=8, n_layers=1, n_heads=1, d_ff=8, max_len=16)
    objective = make_objective(model, sample_k=5, ce_sample_k=4, weight_image=0.3)
    loss, weights, state = objective.loss, objective.term_weights.clone(), torch.get_rng_state()
    study = run(objective, [3], [[make_batch()]], draws=2)
    assert torch.equal(torch.get_rng_state(), state)  # no dropout
    loss_costs(objective, [make_batch()], [3, None], rounds=1)
    assert objective.loss is loss and torch.equal(objective.term_weights, weights)
    assert objective.training and objective.model is model
    assert all(p.grad is None for p in model.parameters())
    assert set(study.facts()["norm"]) == {"total", "reconstruction", "image", "scalar"}


class LogitsOnly(nn.Module):
    """A user's model: the documented interface and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, tokens, types, attn_mask):
        return self.inner(tokens, types, attn_mask)


def test_a_model_without_hidden_states_is_measured_too():
    plain, fused = make_objective(LogitsOnly(Lookup())), make_objective()
    assert fused.fused and not plain.fused
    rows = [run(objective, [6], [[make_batch()]], draws=2).rows()[0] for objective in (plain, fused)]
    for part in ("total", "reconstruction", "image", "scalar"):
        assert rows[0][part] == pytest.approx(rows[1][part], rel=1e-6)
    assert loss_costs(plain, [make_batch()], [6], rounds=1)[6]["loss_ms"] > 0


def first_k(priorities, eligible, k, gather=None):
    """A sampler that always takes the first positions."""
    if k is None or k >= eligible.sum():
        return eligible, int(eligible.sum())
    chosen = np.zeros_like(eligible)
    chosen[np.flatnonzero(eligible)[:k]] = True
    return chosen, k


def first_half(priorities, eligible, k, gather=None):
    """A sampler that draws, but from the first half only."""
    if k is None or k >= eligible.sum():
        return eligible, int(eligible.sum())
    half = np.flatnonzero(eligible)[: max(k, eligible.sum() // 2)]
    chosen = np.zeros_like(eligible)
    chosen[half[np.argsort(priorities[half])[:k]]] = True
    return chosen, k


@pytest.mark.parametrize("sampler", [first_k, first_half])
def test_a_biased_sampler_is_found(monkeypatch, sampler):
    groups = [[make_batch(seed)] for seed in range(4)]
    assert not run(make_objective(), [20], groups).rows()[0]["bias"]["found"]
    monkeypatch.setattr(sampling, "draw", sampler)
    bias = run(make_objective(), [20], groups).rows()[0]["bias"]
    assert bias["found"] and bias["t"] > sample_k_study.MAX_T
    assert bias["measured"] > 1.5 * bias["if_unbiased"]


def test_honest_draws_are_rarely_called_biased():
    rows = run(make_objective(), [2, 8, 32], [[make_batch(seed)] for seed in range(5)]).rows()
    assert [row["bias"]["found"] for row in rows] == [False] * 3
    ratios = [row["bias"]["measured"] / row["bias"]["if_unbiased"] for row in rows]
    assert 0.7 < np.mean(ratios) < 1.4


def test_steps_of_equal_batches_have_no_noise_and_different_ones_have():
    same = run(make_objective(), [4], [[make_batch()], [make_batch()]], draws=1).facts()
    other = run(make_objective(), [4], [[make_batch(seed)] for seed in range(3)], draws=1).facts()
    assert same["batch_noise"] == pytest.approx(0, abs=1e-6) and 0.1 < other["batch_noise"] < 2
    assert run(make_objective(), [4], [[make_batch()]], draws=1).facts()["batch_noise"] is None


def test_what_cannot_be_studied_is_refused():
    with pytest.raises(ConfigError, match="reconstruction term, got none"):
        SampleKStudy(make_objective(enabled=False), [4], 2)
    with pytest.raises(ConfigError, match="reconstruction term, got none"):
        SampleKStudy(make_objective(weight_image=0, weight_scalar=0, weight_spectrum=0), [4], 2)
    with pytest.raises(ConfigError, match="1 or more"):
        SampleKStudy(make_objective(), [0, 4], 2)


def test_costs_are_measured_and_a_large_tensor_shows_in_the_memory():
    model = CausalTransformerLM(VOCAB.vocab_size, VOCAB.n_types, d_model=32, n_layers=2, n_heads=2, d_ff=64, max_len=16)
    costs = loss_costs(make_objective(model), [make_batch(), make_batch(1)], [4, None], rounds=3)
    assert set(costs) == {4, None}
    for figures in costs.values():
        assert 0 < figures["loss_ms"] < figures["step_ms"]


def test_memory_is_the_highest_sum_of_what_is_allocated_at_once(capfd):
    kept = torch.ones(3_000_000)  # 12 MB that were there before

    def run():
        first = torch.ones(10_000_000)  # 40 MB
        second = first + 1  # and 40
        del first
        torch.ones(5_000_000).mul_(second[0])  # 20 beside the second

    for _ in range(3):  # the same figure each time
        assert peak_memory(run, torch.device("cpu")) == pytest.approx(80, abs=0.1)
    assert peak_memory(lambda: kept.mul_(2), torch.device("cpu")) < 0.1
    assert peak_memory(lambda: None, torch.device("meta")) is None
    assert capfd.readouterr().err == ""


def test_a_step_with_all_positions_needs_more_memory_than_a_sampled_one():
    objective, batch = make_objective(enabled=True), make_batch()
    few, every = (loss_costs(objective, [batch], [k], rounds=1)[k]["extra_mb"] for k in (1, None))
    assert 0 < few < every


def test_the_verdict_names_the_smallest_k_or_says_that_there_is_none():
    def row(k, cosine, sampled=True):
        return {"k": k, "total": {"cosine": cosine, "cosine_lowest": cosine - 0.1}, "sampled": {"image": sampled}}

    rows = [row(16, 0.5), row(64, 0.985), row(256, 0.995), row(1024, 1.0, False)]
    assert verdict({"rows": rows}, 0.99) == (
        "The smallest k whose total-gradient cosine exceeds 0.99 is 256: 0.9950 on average, 0.8950 at worst."
    )
    assert "is 1024, which is every position of these steps" in verdict({"rows": rows}, 0.999)
    assert verdict({"rows": rows[:2]}, 0.99) == (
        "No k of these is enough: the total gradient's cosine never exceeds 0.99; the best is k = 64 with 0.9850."
    )


def test_thinning_is_the_variance_of_a_mean_without_replacement():
    values = np.random.default_rng(0).normal(size=6)
    pairs = [(values[i] + values[j]) / 2 for i in range(6) for j in range(i)]
    assert np.var(pairs) == pytest.approx(np.var(values, ddof=1) * thinning(2, 6))
    assert thinning(3, 0) == 0
