"""The fused loss against the readable one: same value, same gradients, on every kind of batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from astromodal.config.schema import SCALAR_FORMS, CEBalance, CEMode, LossConfig, LossForm, LossFormConfig
from astromodal.loss.fused import chunks as fused_chunks
from astromodal.loss.fused import loss as fused
from astromodal.loss.reference import reference_terms, term_weights, total_of
from astromodal.loss.sampling import StepWeights, lay_out, read_targets, weigh
from astromodal.loss.standardize import Codebooks, build_tables
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.modalities import MODALITIES
from astromodal.vocabulary.vocab import PAD, build_vocab_spec

VOCAB = build_vocab_spec(7, 6, {"blue": 5, "red": 9}, scalar_columns=("mag", "z", "teff"), n_bins=(6, 3, 5))
D = 8


def make_codebooks(seed: int = 0) -> Codebooks:
    rng = np.random.default_rng(seed)

    def book(n: int, d: int) -> Codebook:
        return Codebook(3 + 2 * rng.normal(size=(n, d)), rng.integers(1, 20, n))

    centers = np.sort(rng.normal(size=(3, 6)), axis=1) * [[1], [0.1], [5000]]
    for row, n in enumerate(VOCAB.n_bins):
        centers[row, n:] = 0
    scalar = ScalarCodebook(VOCAB.scalar_columns, centers, rng.integers(1, 9, (3, 6)), VOCAB.n_bins)
    return Codebooks(book(7, 2), {"blue": book(5, 3), "red": book(9, 4)}, scalar)


def make_targets(n: int, seed: int, kinds: tuple[str, ...] = ("pad", "special", "image", "scalar", "blue", "red")):
    rng = np.random.default_rng(seed)
    tokens, types = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for i, kind in enumerate(rng.choice(kinds, n)):
        if kind == "special":
            tokens[i] = rng.integers(1, 5)
            types[i] = rng.choice([0, VOCAB.type_of_column("z")])
        elif kind == "scalar":
            column = rng.integers(3)
            tokens[i] = VOCAB.base_scalar + rng.integers(VOCAB.n_bins[column])
            types[i] = VOCAB.first_column_type + column
        elif kind != "pad":
            block = VOCAB.block(kind)
            tokens[i] = block.start + rng.integers(block.size)
            types[i] = 1 if kind == "image" else VOCAB.type_of_group(kind)
    return tokens, types


def both(tokens, types, loss: LossConfig, dtype=torch.float64, seed=0, codebooks=None, scale=1.0, autocast=None):
    """Loss, terms and gradients from the reference and from the fused function."""
    tables = build_tables(VOCAB, codebooks or make_codebooks(), forms=loss)
    targets = read_targets(tables, tokens, types, tokens != PAD)
    draws = np.random.default_rng(seed).random((2, len(tokens)))
    weights = weigh(targets, loss, draws[0], draws[1])
    generator = torch.Generator().manual_seed(seed)
    start = [
        scale * torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (len(tokens), VOCAB.vocab_size)
    ]
    hidden, weight = (t.to(dtype).requires_grad_() for t in start)
    results = []
    rounded = StepWeights(
        *(w.astype(np.float32 if dtype != torch.float64 else np.float64) for w in (weights.ce, weights.reconstruction))
    )
    terms = reference_terms(hidden @ weight.t(), targets, tables, rounded, loss.ce)
    total = total_of(terms, term_weights(loss))
    results.append(
        (total, torch.stack([terms[n] for n in ("ce", *MODALITIES)]), *torch.autograd.grad(total, (hidden, weight)))
    )
    layout = lay_out(targets, weights, len(tables.blocks), loss.ce)
    head = fused.Head.of(tables, loss.ce == CEMode.block)
    factors = torch.tensor(list(term_weights(loss).values()), dtype=torch.float64)
    entries, n_bins = fused.block_tensors(tables)
    hidden, weight = (t.to(dtype).requires_grad_() for t in start)
    context = torch.autocast("cpu", dtype=autocast) if autocast else torch.autocast("cpu", enabled=False)
    with context:
        given = fused.LossInput(
            torch.from_numpy(tokens),
            torch.from_numpy(targets.columns),
            torch.from_numpy(layout.order),
            torch.from_numpy(weights.ce).to(dtype),
            torch.from_numpy(weights.reconstruction).to(dtype),
            torch.from_numpy(layout.segments),
            factors,
            entries,
            n_bins,
            torch.zeros(0),
            head,
        )
        total, terms = fused.fused_loss(hidden, weight, given)
    results.append((total, terms, *torch.autograd.grad(total, (hidden, weight))))
    return results


def assert_same(results, tolerance: float) -> None:
    for ours, reference in zip(results[1], results[0], strict=True):
        room = tolerance * max(float(reference.detach().abs().max()), 1e-30)
        assert torch.isfinite(ours).all()
        assert float((ours.detach() - reference.detach()).abs().max()) <= room


MODES = [
    LossConfig(sample_k=k, ce=ce, ce_balance=balance, use_ce=use_ce, enabled=enabled, ce_sample_k=ce_k)
    for k, ce, balance, use_ce, enabled, ce_k in [
        (None, CEMode.full, CEBalance.token, True, True, None),
        (None, CEMode.full, CEBalance.modality, True, True, None),
        (0, CEMode.full, CEBalance.token, True, True, None),
        (1, CEMode.full, CEBalance.token, True, True, None),
        (5, CEMode.full, CEBalance.modality, True, True, 7),
        (10_000, CEMode.full, CEBalance.token, True, True, 1),
        (None, CEMode.block, CEBalance.token, True, True, None),
        (4, CEMode.block, CEBalance.modality, True, True, 9),
        (3, CEMode.full, CEBalance.token, False, True, None),
        (None, CEMode.full, CEBalance.token, True, False, None),
        (None, CEMode.block, CEBalance.token, True, False, 5),
        (None, CEMode.full, CEBalance.token, False, False, None),
    ]
]


@pytest.fixture(params=[3, 512])
def chunk_rows(request, monkeypatch):
    """Chunks smaller than the segments, and larger than everything."""
    monkeypatch.setattr(fused_chunks, "CPU_CHUNK_ROWS", request.param)


@pytest.mark.parametrize("loss", MODES, ids=range(len(MODES)))
def test_value_and_gradients_equal_the_reference_in_float64(loss, chunk_rows):
    for n, seed in ((40, 0), (97, 1), (8, 2)):
        assert_same(both(*make_targets(n, seed), loss, seed=seed), 1e-10)


@pytest.mark.parametrize("loss", MODES, ids=range(len(MODES)))
def test_value_and_gradients_equal_the_reference_in_float32(loss):
    assert_same(both(*make_targets(200, 3), loss, torch.float32), 1e-5)


@pytest.mark.parametrize(
    "kinds", [("pad",), ("special",), ("image",), ("scalar", "pad"), ("red",), ("blue", "special")]
)
@pytest.mark.parametrize("ce", list(CEMode))
def test_batches_that_lack_modalities_equal_the_reference(kinds, ce):
    for n in (1, 30):
        assert_same(both(*make_targets(n, 5, kinds), LossConfig(sample_k=4, ce=ce)), 1e-10)


def with_form(loss: LossConfig, form: LossForm) -> LossConfig:
    """``form`` for all modalities that can have it, the energy score for the others; weights that tell them apart."""
    own = LossFormConfig(form=form, beta=0.3, n_neighbours=4)
    vector = LossFormConfig(form=LossForm.energy) if form in SCALAR_FORMS else own
    return replace(
        loss, image=vector, scalar=own, spectrum=vector, weight_image=0.5, weight_scalar=2.0, weight_spectrum=1.0
    )


@pytest.mark.parametrize("form", list(LossForm))
def test_every_form_equals_the_reference(form, chunk_rows):
    for loss in MODES[:10]:
        for n, seed in ((97, 1), (8, 2)):
            assert_same(both(*make_targets(n, seed), with_form(loss, form), seed=seed), 1e-10)


@pytest.mark.parametrize("form", list(LossForm))
def test_every_form_equals_the_reference_in_float32_and_with_confident_logits(form):
    for loss in MODES[:8]:
        loss = with_form(loss, form)
        assert_same(both(*make_targets(200, 3), loss, torch.float32), 1e-5)
        assert_same(both(*make_targets(60, 1), loss, scale=15.0), 1e-10)
        assert_same(both(*make_targets(60, 1), loss, torch.float32, scale=15.0), 1e-3)
    books = Codebooks(None, {"red": make_codebooks().spectrum["red"]}, None)
    assert_same(both(*make_targets(60, 1), with_form(LossConfig(), form), codebooks=books), 1e-10)


@pytest.mark.parametrize("form", list(LossForm))
@pytest.mark.parametrize("mode", [0, 6])
def test_every_form_is_within_the_documented_tolerance_in_bf16(form, mode):
    loss = with_form(MODES[mode], form)
    results = both(*make_targets(300, 4), loss, torch.float32, autocast=torch.bfloat16)
    assert abs(float(results[1][0] / results[0][0]) - 1) < 1e-2
    for ours, reference in zip(results[1][2:], results[0][2:], strict=True):
        assert float((ours - reference).norm() / reference.norm()) < 3e-2


def test_an_all_missing_batch_gives_exactly_zero_and_zero_gradients():
    _, (total, terms, *gradients) = both(*make_targets(20, 0, ("pad",)), LossConfig())
    assert float(total) == 0 and not terms.any() and not any(g.any() for g in gradients)


def test_codebooks_that_are_absent_take_no_part():
    books = Codebooks(None, {"red": make_codebooks().spectrum["red"]}, None)
    for ce in CEMode:
        results = both(*make_targets(60, 1), LossConfig(sample_k=None, ce=ce), codebooks=books)
        assert_same(results, 1e-10)
        assert float(results[1][1][1]) == 0 and float(results[1][1][2]) == 0 and float(results[1][1][3]) > 0


def test_confident_logits_stay_finite_and_exact():
    """Logits of several hundred: the softmax underflows, neither value nor gradient may."""
    for loss in MODES[:8]:
        assert_same(both(*make_targets(60, 1), loss, scale=15.0), 1e-10)
        assert_same(both(*make_targets(60, 1), loss, torch.float32, scale=15.0), 1e-3)


def test_bf16_products_are_within_the_documented_tolerance():
    tokens, types = make_targets(300, 4)
    for loss in (MODES[0], MODES[6]):
        results = both(tokens, types, loss, torch.float32, autocast=torch.bfloat16)
        assert abs(float(results[1][0] / results[0][0]) - 1) < 1e-2
        for ours, reference in zip(results[1][2:], results[0][2:], strict=True):
            assert float((ours - reference).norm() / reference.norm()) < 3e-2


def test_gradients_agree_with_finite_differences():
    tokens, types = make_targets(12, 7)
    tables = build_tables(VOCAB, make_codebooks())
    loss = LossConfig(sample_k=None, weight_image=1.0, weight_scalar=2.0, weight_spectrum=0.5)
    targets = read_targets(tables, tokens, types, tokens != PAD)
    weights = weigh(targets, loss, np.zeros(12))
    layout = lay_out(targets, weights, len(tables.blocks), loss.ce)
    head = fused.Head.of(tables, False)
    entries, n_bins = fused.block_tensors(tables)
    fixed = [
        torch.from_numpy(a)
        for a in (tokens, targets.columns, layout.order, weights.ce, weights.reconstruction, layout.segments)
    ]
    hidden = torch.randn(12, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCAB.vocab_size, D, dtype=torch.float64, requires_grad=True)

    def value() -> torch.Tensor:
        factors = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
        given = fused.LossInput(*fixed, factors, entries, n_bins, torch.zeros(0), head)
        return fused.fused_loss(hidden, weight, given)[0]

    for tensor, gradient in zip((hidden, weight), torch.autograd.grad(value(), (hidden, weight)), strict=True):
        flat, slopes = tensor.detach().view(-1), []
        for i in range(len(flat)):
            middle = float(flat[i])
            flat[i] = middle + 1e-5
            above = value().item()
            flat[i] = middle - 1e-5
            slopes.append((above - value().item()) / 2e-5)
            flat[i] = middle
        torch.testing.assert_close(
            torch.tensor(slopes, dtype=torch.float64).view_as(gradient), gradient, rtol=1e-6, atol=1e-8
        )


def test_a_second_backward_is_refused_clearly():
    tokens, types = make_targets(12, 7)
    tables = build_tables(VOCAB, make_codebooks())
    targets = read_targets(tables, tokens, types, tokens != PAD)
    weights = weigh(targets, LossConfig(), np.zeros(12))
    layout = lay_out(targets, weights, len(tables.blocks), CEMode.full)
    arrays = (tokens, targets.columns, layout.order, weights.ce, weights.reconstruction, layout.segments)
    hidden = torch.randn(12, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCAB.vocab_size, D, dtype=torch.float64)
    rest = (torch.ones(3), *fused.block_tensors(tables), torch.zeros(0), fused.Head.of(tables, False))
    total, _ = fused.fused_loss(hidden, weight, fused.LossInput(*map(torch.from_numpy, arrays), *rest))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="retain_graph"):
        total.backward()


def test_no_intermediate_has_the_size_of_all_logits(monkeypatch):
    """The largest tensor made on the way is a chunk's, not (positions, vocabulary)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    monkeypatch.setattr(fused_chunks, "CPU_CHUNK_ROWS", 16)
    tokens, types = make_targets(2000, 0)
    tables = build_tables(VOCAB, make_codebooks())
    targets = read_targets(tables, tokens, types, tokens != PAD)
    weights = weigh(targets, LossConfig(), np.random.default_rng(0).random(2000))
    layout = lay_out(targets, weights, len(tables.blocks), CEMode.full)
    arrays = (tokens, targets.columns, layout.order, weights.ce, weights.reconstruction, layout.segments)
    hidden = torch.randn(2000, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCAB.vocab_size, D, dtype=torch.float64, requires_grad=True)
    with Largest() as largest:
        rest = (torch.ones(3), *fused.block_tensors(tables), torch.zeros(0), fused.Head.of(tables, False))
        total, _ = fused.fused_loss(hidden, weight, fused.LossInput(*map(torch.from_numpy, arrays), *rest))
        total.backward()
    assert largest.elements <= 2000 * D < 2000 * VOCAB.vocab_size
