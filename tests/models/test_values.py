"""Embeddings that know what a token stands for, against the formulas worked out slowly in numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from astromodal.config.schema import ValueFeatures, ValuesConfig
from astromodal.errors import ArtifactError
from astromodal.models import CausalTransformerLM
from astromodal.models.values import TokenValues, piecewise_features, quantile_knots
from astromodal.optim.muon import hidden_matrices
from astromodal.optim.optimizers import no_decay_ids
from astromodal.training.checkpoints.checkpoint import load_model_state
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import BOS, EOS, MISS, NONDET, PAD, build_vocab_spec

VOCAB = build_vocab_spec(7, 6, {"blue": 5, "blue.1": 4, "red": 9}, scalar_columns=("mag", "z"), n_bins=(6, 3))
D = 8
CENTERS = np.array([[1.0, 2.0, 4.0, 0, 0, 0], [-2, -1, 0, 1, 2, 4]])  # of z and mag: the codebook's own order
COUNTS = np.array([[3, 4, 5, 0, 0, 0], [1, 9, 2, 8, 3, 7]])


def codebooks() -> tuple[Codebook, dict[str, Codebook], ScalarCodebook]:
    rng = np.random.default_rng(0)
    groups = {
        g: Codebook(rng.normal(3, 2, (n, k)), rng.integers(1, 9, n))
        for g, n, k in (("blue", 5, 3), ("blue.1", 4, 3), ("red", 8, 2))
    }
    image = Codebook(rng.normal(size=(7, 2)), rng.integers(1, 9, 7))
    return image, groups, ScalarCodebook(("z", "mag"), CENTERS, COUNTS, (3, 6))


def values(**options) -> TokenValues:
    return TokenValues.of(VOCAB, ValuesConfig(n_features=4, **options), *codebooks())


def make(known: TokenValues | None, tie_head: bool = True) -> CausalTransformerLM:
    torch.manual_seed(0)
    return CausalTransformerLM(
        VOCAB.vocab_size, VOCAB.n_types, D, 1, 2, 16, 0.0, max_len=16, tie_head=tie_head, values=known
    ).eval()


def value_part(model: CausalTransformerLM, token: int, type_: int) -> np.ndarray:
    """What the embedding of a token is beyond its learned row and those of its type and place."""
    tokens, types = torch.tensor([[token]]), torch.tensor([[type_]])
    plain = CausalTransformerLM.embed(make(None), tokens, types, tokens * 0, tokens * 0, None)
    with torch.no_grad():
        return (model.embed(tokens, types, tokens * 0, tokens * 0, None) - plain).numpy()[0, 0]


def standardised(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """By hand: sums instead of the codebook's own statistics."""
    mean = sum(n * row for n, row in zip(counts, x, strict=True)) / counts.sum()
    variance = sum(n * np.sum((row - mean) ** 2) for n, row in zip(counts, x, strict=True)) / counts.sum()
    return (x - mean) / np.sqrt(variance)


def features_by_hand(kind: ValueFeatures, x: np.ndarray, counts: np.ndarray, k: int) -> list[float]:
    if kind == ValueFeatures.periodic:
        waves = [2 * np.pi * x[k] / 16, 2 * np.pi * x[k] / 8]
        return [x[k], *np.sin(waves), *np.cos(waves)]
    middle = [(counts[:i].sum() + counts[i] / 2) / counts.sum() for i in range(len(x))]
    knots = [float(np.interp(i / 4, middle, x)) for i in range(5)]
    return [min(max((x[k] - a) / (b - a), 0.0), 1.0) if b > a else float(x[k] > a) for a, b in pairwise(knots)]


@pytest.mark.parametrize("kind", list(ValueFeatures))
def test_the_embedding_of_a_bin_is_its_columns_map_of_the_features_of_its_centre(kind):
    model = make(values(scalar=kind))
    scalars = model.value_embedding.scalars
    maps = scalars.map.detach().numpy().reshape(2, -1, D)  # of mag and z
    for column, row in (("mag", 1), ("z", 0)):
        n = {"mag": 6, "z": 3}[column]
        x = standardised(CENTERS[row, :n], COUNTS[row, :n])
        for k in range(n):
            expected = np.array(features_by_hand(kind, x, COUNTS[row, :n], k)) @ maps[1 - row]
            found = value_part(model, VOCAB.base_scalar + k, VOCAB.type_of_column(column))
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert np.abs(expected).max() > 1e-3 or k == 0


def test_the_embedding_of_a_code_is_a_map_of_its_standardised_entry_for_every_group_stage_and_the_image():
    model = make(values())
    image, groups, _ = codebooks()
    maps = {
        start: w.detach().numpy()
        for start, w in zip(model.value_embedding.vectors.starts, model.value_embedding.vectors.maps, strict=True)
    }
    for name, book in {"image": image, **groups}.items():
        start, entries = VOCAB.block(name).start, standardised(book.entries.astype(float), book.counts)
        type_ = 1 if name == "image" else VOCAB.type_of_group(name)
        for k in range(len(entries)):
            np.testing.assert_allclose(value_part(model, start + k, type_), entries[k] @ maps[start], atol=1e-6)
    assert len(maps) == 4


def test_what_has_no_value_is_embedded_by_name():
    model = make(values(head=True))
    nothing = [
        (PAD, 0),
        (BOS, 0),
        (EOS, 0),
        (MISS, 1),
        (MISS, VOCAB.type_of_column("mag")),
        (NONDET, VOCAB.type_of_column("mag")),
        (VOCAB.block("red").stop - 1, VOCAB.type_of_group("red")),
        (VOCAB.base_scalar + 4, VOCAB.type_of_column("z")),
    ]
    for token, type_ in nothing:  # the last two: ids without an entry and without a bin
        np.testing.assert_array_equal(value_part(model, token, type_), 0.0)
    learned = model.token_embedding.weight
    for token in (PAD, BOS, EOS, MISS, NONDET, VOCAB.block("red").stop - 1):
        assert torch.equal(model.head_weight[token], learned[token])
    alone = make(TokenValues.of(VOCAB, ValuesConfig(), None, {}, None))
    assert not list(alone.value_embedding.parameters()) and not value_part(alone, VOCAB.base_scalar, 5).any()


@pytest.mark.parametrize("tie_head", [True, False])
def test_the_head_gets_maps_of_entries_and_of_the_ranks_of_bins_if_asked(tie_head):
    model = make(values(head=True, scalar=ValueFeatures.periodic), tie_head)
    learned = (model.token_embedding if tie_head else model.head).weight.detach().numpy()
    head = model.value_embedding.head
    maps = {start: w.detach().numpy() for start, w in zip(head.starts, head.maps, strict=True)}
    found = model.head_weight.detach().numpy() - learned
    rank = ((np.arange(6) + 0.5) / 6 - 0.5) * np.sqrt(12)
    for k in range(6):
        expected = np.array(features_by_hand(ValueFeatures.periodic, rank, np.ones(6), k)) @ maps[VOCAB.base_scalar]
        np.testing.assert_allclose(found[VOCAB.base_scalar + k], expected, atol=1e-6)
    book = codebooks()[1]["blue.1"]
    start = VOCAB.block("blue.1").start
    expected = standardised(book.entries.astype(float), book.counts) @ maps[start]
    np.testing.assert_allclose(found[start : start + 4], expected, atol=1e-6)
    assert make(values(head=False)).head_weight is not None
    plain = make(values(head=False), tie_head)
    assert plain.head_weight is (plain.token_embedding if tie_head else plain.head).weight


def test_without_values_the_model_is_the_documented_one_and_its_checkpoints_load():
    """The other parameters start the same, too."""
    plain, valued = make(None), make(values(head=True))
    own = plain.state_dict()
    assert not [name for name in own if "value" in name]
    assert all(torch.equal(own[name], valued.state_dict()[name]) for name in own)
    load_model_state(make(None), own)
    with pytest.raises(ArtifactError, match="value_embedding"):
        load_model_state(valued, own)


def test_features_are_those_that_were_saved_with_the_weights():
    first, other = make(values()), make(values())
    with torch.no_grad():
        first.value_embedding.scalars.features += 1.0
        first.value_embedding.vectors.entries_0 += 1.0
    load_model_state(other, first.state_dict())
    token, type_ = VOCAB.base_scalar + 2, VOCAB.type_of_column("mag")
    np.testing.assert_array_equal(value_part(other, token, type_), value_part(first, token, type_))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), other.buffers(), strict=True))


def test_maps_start_small_and_are_trained_as_embeddings_are():
    model = make(values(head=True))
    maps = {name: p for name, p in model.named_parameters() if "value_embedding" in name}
    drawn = torch.cat([p.detach().flatten() for p in maps.values()])
    assert abs(float(drawn.std()) - 0.02) < 0.003 and abs(float(drawn.mean())) < 0.003
    assert not {id(p) for p in maps.values()} & {id(p) for _, p in hidden_matrices(model)}  # AdamW, not Muon
    assert {id(p) for p in maps.values()} <= no_decay_ids(model)


@pytest.mark.parametrize("kind", list(ValueFeatures))
def test_neighbouring_bins_start_alike_and_far_ones_do_not(kind):
    n = 200
    vocab = build_vocab_spec(0, n, {}, scalar_columns=("mag",))
    centers = np.sort(np.random.default_rng(1).normal(size=(1, n)))
    book = ScalarCodebook(("mag",), centers, np.ones((1, n)), (n,))
    known = TokenValues.of(vocab, ValuesConfig(scalar=kind), None, {}, book)
    rows = known.features[0] @ np.random.default_rng(0).normal(size=(known.features.shape[2], D))
    steps = np.linalg.norm(np.diff(rows, axis=0), axis=1)
    assert np.median(steps) < 0.5 * np.median(np.linalg.norm(rows[:100] - rows[100:], axis=1))


def test_a_batch_without_rows_has_gradients_of_nothing():
    """As the process has it whose share of a step is empty."""
    model = make(values(head=True, errors=True)).train()
    nothing = torch.zeros(0, 5, dtype=torch.int64)
    hidden = model.hidden(nothing, nothing, nothing.bool(), sigma=nothing.float())
    (hidden.sum() + (hidden.flatten(0, 1) @ model.head_weight.T).sum()).backward()
    assert hidden.shape == (0, 5, D)
    assert all(p.grad is not None and not p.grad.any() for p in model.value_embedding.parameters())


def test_knots_are_at_the_quantiles_of_what_was_seen_and_equal_ones_do_no_harm():
    knots = quantile_knots(np.array([0.0, 1.0, 2.0, 10.0]), np.array([0, 97, 1, 1]), 4)
    assert knots[0] == knots[1] == 0 or np.all(np.diff(knots) >= 0)
    assert knots[2] < 1.1
    found = piecewise_features(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.0, 1.0]))
    assert np.isfinite(found).all() and found[:, 1].tolist() == [0.0, 0.5, 1.0]
    uniform = quantile_knots(np.arange(3.0), np.zeros(3), 2)
    assert uniform.tolist() == [0.0, 1.0, 2.0]


def test_a_codebook_that_does_not_fit_the_vocabulary_is_refused():
    image, groups, scalar = codebooks()
    with pytest.raises(ArtifactError, match="at most 7 entries"):
        TokenValues.of(VOCAB, ValuesConfig(), Codebook(np.ones((8, 2)) * np.arange(8)[:, None]), groups, scalar)
    other = ScalarCodebook(("z", "teff"), CENTERS, COUNTS, (3, 6))
    with pytest.raises(ArtifactError, match="bin centres of column mag"):
        TokenValues.of(VOCAB, ValuesConfig(), image, groups, other)
    large = ScalarCodebook(("z", "mag"), np.ones((2, 9)), np.ones((2, 9)), (9, 9))
    with pytest.raises(ArtifactError, match="at most 6 bins"):
        TokenValues.of(VOCAB, ValuesConfig(), image, groups, large)
