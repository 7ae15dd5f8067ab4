"""The language-model objective: shares of a step, validation sums, and what it does to the graph and the data."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from astromodal.config.schema import Balance, CEBalance, CEMode, LossConfig, LossForm, LossFormConfig, ValuesConfig
from astromodal.errors import ConfigError
from astromodal.loss.language_model import LanguageModelObjective
from astromodal.loss.standardize import Codebooks
from astromodal.models import CausalTransformerLM
from astromodal.models.trainable import Objective
from astromodal.models.values import token_values
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import BOS, EOS, MISS, NONDET, PAD, build_vocab_spec

VOCAB = build_vocab_spec(7, 6, {"blue": 5, "red": 9}, scalar_columns=("mag", "z"), n_bins=(6, 3))


def make_codebooks() -> Codebooks:
    rng = np.random.default_rng(0)
    centers = np.asarray([[-2, -1, 0, 1, 2, 4], [0, 0.5, 3, 0, 0, 0]])
    return Codebooks(
        Codebook(rng.normal(size=(7, 2)), rng.integers(1, 9, 7)),
        {g: Codebook(rng.normal(size=(n, 3)), rng.integers(1, 9, n)) for g, n in (("blue", 5), ("red", 9))},
        ScalarCodebook(("mag", "z"), centers, np.ones((2, 6)), (6, 3)),
    )


def make_batch(n_objects: int = 8, seed: int = 0, first_object: int = 100) -> dict:
    """Sequences [BOS] scalars, spectra, image [EOS] with parts missing, padded on the right."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_objects):
        tokens, types = [BOS], [0]
        for column, n_bins in enumerate((6, 3)):
            if rng.random() < 0.8:
                special = rng.choice([0, MISS, NONDET], p=[0.8, 0.1, 0.1])
                tokens.append(special or VOCAB.base_scalar + rng.integers(n_bins))
                types.append(VOCAB.first_column_type + column)
        for group in ("blue", "red"):
            if rng.random() < 0.5:
                n = rng.integers(1, 5)
                block = VOCAB.block(group)
                tokens += list(block.start + rng.integers(0, block.size, n))
                types += [VOCAB.type_of_group(group)] * n
        if rng.random() < 0.6:
            tokens += list(VOCAB.base_image + rng.integers(0, 7, 6))
            types += [1] * 6
        rows.append(([*tokens, EOS], [*types, 0]))
    length = max(len(t) for t, _ in rows)
    batch = torch.zeros(2, n_objects, length, dtype=torch.int64)
    for i, (tokens, types) in enumerate(rows):
        batch[0, i, : len(tokens)], batch[1, i, : len(types)] = torch.tensor(tokens), torch.tensor(types)
    index = torch.arange(first_object, first_object + n_objects)
    return {"tokens": batch[0], "types": batch[1], "attn_mask": batch[0] != PAD, "object_index": index}


def asked(batch: dict, seed: int = 0) -> dict:
    """The same sequences with a random number of tokens given in front of BOS."""
    rng = np.random.default_rng(seed)
    found = {name: value.clone() for name, value in batch.items()}
    prefix = torch.tensor([rng.integers(0, int(n) - 1) for n in batch["attn_mask"].sum(1)])
    for name in ("tokens", "types"):
        for row, first, n in zip(found[name], batch[name][:, 0], prefix.tolist(), strict=True):
            row[:n] = row[1 : n + 1].clone()
            row[n] = first
    return found | {"prefix": prefix}


def cut(batch: dict, size: int) -> list[dict]:
    return [{k: v[i : i + size] for k, v in batch.items()} for i in range(0, len(batch["tokens"]), size)]


class LogitsOnly(nn.Module):
    """A user's model: the documented interface and nothing else."""

    def __init__(self, model: CausalTransformerLM) -> None:
        super().__init__()
        self.inner = model

    def forward(self, tokens, types, attn_mask):
        return self.inner(tokens, types, attn_mask)


def make(loss: LossConfig | None = None, *, double: bool = True, seed: int = 0, **options) -> LanguageModelObjective:
    torch.manual_seed(seed)
    values = token_values(VOCAB, make_codebooks(), ValuesConfig(head=True, n_features=4))
    model = CausalTransformerLM(VOCAB.vocab_size, VOCAB.n_types, 16, 2, 2, 32, dropout=0.0, max_len=64, values=values)
    model = model.double() if double else model
    return LanguageModelObjective(model, VOCAB, make_codebooks(), loss or LossConfig(), **options)


def gradients(objective, batches, step=3):
    objective.zero_grad()
    totals: dict[str, float] = {}
    for batch in objective.prepare(batches, step):
        loss, stats = objective(batch)
        loss.backward()
        totals = {k: totals.get(k, 0.0) + float(v) for k, v in stats.items()}
    return totals, [p.grad.clone() for p in objective.parameters() if p.grad is not None]


LOSSES = [
    LossConfig(sample_k=None),
    LossConfig(sample_k=5, ce_sample_k=9),
    LossConfig(sample_k=3, ce_balance=CEBalance.modality),
    LossConfig(sample_k=4, ce=CEMode.block),
    LossConfig(sample_k=5, balance=Balance.object),
    LossConfig(
        sample_k=6,
        image=LossFormConfig(form=LossForm.neighbour_ce, n_neighbours=3),
        scalar=LossFormConfig(form=LossForm.crps),
        spectrum=LossFormConfig(form=LossForm.energy),
    ),
    LossConfig(
        ce=CEMode.block,
        image=LossFormConfig(form=LossForm.energy),
        scalar=LossFormConfig(form=LossForm.hl_gauss),
        spectrum=LossFormConfig(form=LossForm.expectation_spread, beta=0.2),
    ),
]


def test_it_is_an_objective():
    assert isinstance(make(), Objective)


@pytest.mark.parametrize("loss", LOSSES, ids=range(len(LOSSES)))
@pytest.mark.parametrize(("size", "order"), [(1, dict), (3, dict), (3, asked)])
def test_accumulated_micro_batches_equal_one_big_batch(loss, size, order):
    batch = order(make_batch())
    objective = make(loss)
    one, one_gradients = gradients(objective, [batch])
    many, many_gradients = gradients(objective, cut(batch, size))
    assert one.keys() == many.keys()
    for name in one:
        assert one[name] == pytest.approx(many[name], rel=1e-12, abs=1e-14), name
    for a, b in zip(one_gradients, many_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES, ids=range(len(LOSSES)))
def test_a_model_without_hidden_states_trains_with_the_same_loss(loss):
    fast = make(loss)
    slow = LanguageModelObjective(LogitsOnly(fast.model), VOCAB, make_codebooks(), loss)
    assert fast.fused and not slow.fused
    a, a_gradients = gradients(fast, cut(make_batch(), 3))
    b, b_gradients = gradients(slow, cut(make_batch(), 3))
    assert a == pytest.approx(b, rel=1e-12)
    for x, y in zip(a_gradients, b_gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-13)


def test_a_position_predicts_the_next_token():
    """Against a loop: targets are the following tokens, PAD and what follows the end do not count."""
    batch = make_batch()
    objective = make(LossConfig(enabled=False))
    (part,) = objective.prepare([batch], 0)
    _, stats = objective(part)
    logits = objective.model(batch["tokens"], batch["types"]).log_softmax(-1)
    losses = [
        -logits[b, t, token].item()
        for b, row in enumerate(batch["tokens"].tolist())
        for t, token in enumerate(row[1:])
        if token != PAD
    ]
    assert float(stats["ce"]) == pytest.approx(np.mean(losses), rel=1e-12)
    assert float(stats["n_ce"]) == len(losses)


def test_what_is_given_is_no_target_and_gets_no_gradient():
    """Against a loop: the tokens behind BOS and before EOS, each predicted from the prefix and what is between."""
    batch = asked(make_batch())
    objective = make(LossConfig(enabled=False), next_types=True)
    (part,) = objective.prepare([batch], 0)
    _, stats = objective(part)
    logits = objective.model(
        batch["tokens"][:, :-1], batch["types"][:, :-1], next_types=batch["types"][:, 1:], prefix=batch["prefix"]
    ).log_softmax(-1)
    losses = []
    for b, (row, prefix) in enumerate(zip(batch["tokens"].tolist(), batch["prefix"].tolist(), strict=True)):
        assert row[prefix] == BOS
        losses += [-logits[b, t, row[t + 1]].item() for t in range(prefix, row.index(EOS) - 1)]
    assert 0 < len(losses) == float(stats["n_ce"])
    assert float(stats["ce"]) == pytest.approx(np.mean(losses), rel=1e-12)
    ce, n = objective.evaluate(batch)["ce"]
    assert float(ce) / float(n) == pytest.approx(np.mean(losses), rel=1e-12)
    hidden = objective._hidden(part).detach().requires_grad_()
    objective._hidden = lambda part: hidden
    objective(part)[0].backward()
    for row, prefix, tokens in zip(hidden.grad, batch["prefix"].tolist(), batch["tokens"].tolist(), strict=True):
        assert not row[:prefix].any() and bool(row[prefix].any()) == (tokens[prefix + 1] != EOS)


def test_the_draw_depends_on_seed_and_step_and_leaves_the_global_generators_alone():
    batch = make_batch(32)

    def drawn(seed: int, step: int) -> list:
        objective = LanguageModelObjective(make().model, VOCAB, make_codebooks(), LossConfig(sample_k=4), seed)
        state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        (part,) = objective.prepare([batch], step)
        assert torch.equal(state, torch.get_rng_state()) and (numpy_state == np.random.get_state()[1]).all()
        return part["loss_weights_rec"].nonzero()[:, 0].tolist()

    assert drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 0) != drawn(0, 1) and drawn(0, 0) != drawn(1, 0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_ranks_with_unequal_shares_equal_one_process(tmp_path):
    """Counts and draws are those of all ranks: gradients and statistics, summed over them, are one process's."""
    command = [sys.executable, __file__, str(tmp_path)]
    path = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen([*command, str(rank), "3", "5"], env=os.environ | {"PYTHONPATH": path}, stderr=-1)
        for rank in range(2)
    ]
    for process in processes:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error.decode()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    totals, expected = gradients(make(LOSSES[1]), [make_batch(8)])
    for name, value in totals.items():
        assert sum(part["totals"][name] for part in parts) == pytest.approx(value, rel=1e-12, abs=1e-14)
    for a, b, whole in zip(parts[0]["gradients"], parts[1]["gradients"], expected, strict=True):
        torch.testing.assert_close(a + b, whole, rtol=1e-9, atol=1e-13)


def one_rank(folder: str, rank: int, shares: list[int]) -> None:
    """What each process of the test above does."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    first = sum(shares[:rank])
    own = {name: value[first : first + shares[rank]] for name, value in make_batch(8).items()}
    totals, found = gradients(make(LOSSES[1]), [own])
    torch.save({"totals": totals, "gradients": found}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_missing_object_indices_are_replaced_by_the_place_in_the_step():
    batch = {k: v for k, v in make_batch().items() if k != "object_index"}
    objective = make(LossConfig(sample_k=3))
    assert gradients(objective, [batch])[0] == pytest.approx(gradients(objective, cut(batch, 2))[0], rel=1e-12)


def test_next_types_reach_the_model_only_when_asked_for():
    batch = make_batch()
    without, told = make(), make(next_types=True)
    assert float(without(without.prepare([batch], 0)[0])[0].detach()) != float(
        told(told.prepare([batch], 0)[0])[0].detach()
    )
    with pytest.raises(ConfigError, match="next_types"):
        LanguageModelObjective(LogitsOnly(make().model), VOCAB, make_codebooks(), next_types=True)


def test_a_model_smaller_than_the_vocabulary_is_refused():
    model = CausalTransformerLM(VOCAB.vocab_size - 1, VOCAB.n_types, 16, 1, 2, 32)
    with pytest.raises(ConfigError, match="vocab_size"):
        LanguageModelObjective(model, VOCAB, make_codebooks())


def test_codebooks_are_no_part_of_the_state_dict():
    assert all(name.startswith("model.") for name in make().state_dict())


# -------------------------------------------------------------------------------------- validation


def slow_validation(objective, batch) -> dict[str, tuple[float, float]]:
    """One position after the other."""
    books = make_codebooks()
    probabilities = objective.model(batch["tokens"], batch["types"]).softmax(-1)
    totals: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        total = totals.setdefault(name, [0.0, 0.0])
        total[0] += value
        total[1] += 1

    for b in range(len(batch["tokens"])):
        for t in range(batch["tokens"].shape[1] - 1):
            token, kind = int(batch["tokens"][b, t + 1]), int(batch["types"][b, t + 1])
            if token == PAD:
                continue
            p = probabilities[b, t]
            add("ce", -math.log(float(p[token].detach())))
            if token < 5:
                continue
            block = next(x for x in VOCAB.blocks if x.start <= token < x.stop)
            if block.modality == "scalar":
                column = kind - VOCAB.first_column_type
                n = int(books.scalar.n_bins[column])
                vectors = books.scalar.centers[column, :n, None].astype(float)
                scale = float(books.scalar.scale[column])
                names = ["scalar", books.scalar.columns[column]]
            else:
                book = books.image if block.modality == "image" else books.spectrum[block.name]
                n, vectors, scale = block.size, book.entries.astype(float), book.scale
                names = ["image"] if block.modality == "image" else ["spectrum", block.name]
            own = p[block.start : block.start + n].detach().numpy()
            own = own / own.sum()
            expected = own @ vectors
            if block.modality == "scalar":
                far = [[abs(float(a - b)) / scale for a in vectors[:, 0]] for b in vectors[:, 0]]
                add("crps_scalar", float(own @ far[token - block.start] - own @ np.asarray(far) @ own / 2))
            for name in names:
                add(f"ce_{name}", -math.log(float(p[token].detach())))
                add(f"accuracy_{name}", float(int(p.argmax()) == token))
                add(f"error_{name}", float(((expected - vectors[token - block.start]) ** 2).sum() / scale**2))
    return {k: (v[0], v[1]) for k, v in totals.items()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_validation_equals_a_loop_over_positions(wrapped, monkeypatch):
    monkeypatch.setattr("astromodal.loss.scoring.CHUNK_ROWS", 7)
    objective = make(LossConfig(weight_image=7.0, sample_k=1))
    if wrapped:
        objective = LanguageModelObjective(LogitsOnly(objective.model), VOCAB, make_codebooks(), LossConfig())
    batch = make_batch(16)
    found = objective.evaluate(batch)
    expected = slow_validation(objective if not wrapped else make(), batch)
    assert set(found) == set(expected)
    for name, (total, count) in expected.items():
        assert (float(found[name][0]), float(found[name][1])) == pytest.approx((total, count), rel=1e-9), name


def test_validation_is_additive_over_batches_and_scores_the_mean_error():
    objective, batch = make(), make_batch(12)
    whole = {k: tuple(map(float, v)) for k, v in objective.evaluate(batch).items()}
    summed: dict[str, tuple[float, float]] = {}
    for part in cut(batch, 5):
        for name, pair in objective.evaluate(part).items():
            old = summed.get(name, (0.0, 0.0))
            summed[name] = (old[0] + float(pair[0]), old[1] + float(pair[1]))
    means = objective.summarize(summed)
    assert means == pytest.approx(objective.summarize(whole), rel=1e-9)
    assert means["score"] == pytest.approx(np.mean([means[f"error_{m}"] for m in ("image", "scalar", "spectrum")]))


def test_validation_of_a_batch_without_targets_is_empty_not_nan():
    batch = {"tokens": torch.zeros(2, 4, dtype=torch.int64), "types": torch.zeros(2, 4, dtype=torch.int64)}
    batch["attn_mask"] = torch.zeros(2, 4, dtype=torch.bool)
    objective = make()
    totals = {k: tuple(map(float, v)) for k, v in objective.evaluate(batch).items()}
    assert objective.summarize(totals) == {}
    loss, _ = objective(objective.prepare([batch], 0)[0])
    assert float(loss.detach()) == 0


def test_a_trained_model_beats_the_mean():
    """Eight objects by heart: every validation error falls below 1, the error of predicting the mean."""
    objective, batch = make(LossConfig(sample_k=None), double=False, next_types=True), make_batch(8)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    for step in range(60):
        loss, _ = objective(objective.prepare([batch], step)[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    means = objective.summarize({k: tuple(map(float, v)) for k, v in objective.evaluate(batch).items()})
    assert means["score"] < 0.5


# --------------------------------------------------------------------------------------- compilation


@pytest.mark.parametrize(
    ("loss", "order"),
    [(LossConfig(sample_k=4), dict), *((loss, dict) for loss in LOSSES[5:]), (LossConfig(), asked)],
    ids=["expectation", "forms", "more forms", "asked order"],
)
def test_it_compiles_to_one_graph_that_does_not_change_with_counts_and_lengths(loss, order):
    graphs = []

    def count(graph, _example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    objective = make(loss, double=False)
    compiled = torch.compile(objective, backend=count, fullgraph=True, dynamic=True)
    for seed, n_objects in ((0, 8), (1, 8), (2, 6), (3, 9), (4, 5)):
        batch = order(make_batch(n_objects, seed))
        (part,) = objective.prepare([batch], seed)
        objective.term_weights.mul_(1.5)  # as target shares of the gradient do
        expected, _ = objective(part)
        objective.zero_grad()
        expected.backward()
        before = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
        objective.zero_grad()
        loss, stats = compiled(part)
        loss.backward()
        torch.testing.assert_close(loss, expected)
        for a, b in zip(before, [p.grad for p in objective.parameters() if p.grad is not None], strict=True):
            torch.testing.assert_close(a, b)
        assert not stats["ce"].requires_grad
    assert len(graphs) == 1
    torch._dynamo.reset()


if __name__ == "__main__":
    one_rank(sys.argv[1], int(sys.argv[2]), [int(n) for n in sys.argv[3:]])
