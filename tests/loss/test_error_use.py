"""Errors of targets in the reconstruction: weights by hand, widths by their minimisers, the same on every path."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from astromodal.config.checks.validate import validate
from astromodal.config.launching.register import conf_dir, register
from astromodal.config.schema import Balance, CEMode, ErrorUse, LossConfig, LossForm, LossFormConfig
from astromodal.errors import ConfigError
from astromodal.loss.forms import MAX_WIDTH, values
from astromodal.loss.functions import combined_loss
from astromodal.loss.fused.forms import Rows, constants, value_and_grad
from astromodal.loss.language_model import LanguageModelObjective
from astromodal.loss.reference import as_loss_config
from astromodal.loss.sampling import read_targets, weigh
from astromodal.loss.standardize import Codebooks, build_tables
from astromodal.vocabulary.codebook import ScalarCodebook
from astromodal.vocabulary.modalities import MODALITIES
from astromodal.vocabulary.vocab import BOS, EOS, build_vocab_spec
from tests.loss.test_forms import fit, known_distribution, make, moments
from tests.loss.test_language_model import VOCAB, LogitsOnly, cut, gradients, make_batch, make_codebooks
from tests.loss.test_language_model import make as make_objective

WEIGHT, WIDTH = ErrorUse.weight, ErrorUse.width
SOFT = [LossFormConfig(form=f, errors=WIDTH, n_neighbours=6) for f in (LossForm.hl_gauss, LossForm.neighbour_ce)]


def batch_with_errors(n_objects: int = 8, seed: int = 0) -> dict:
    """A batch whose scalars and spectra have errors, a third of them unknown; images have none."""
    batch = make_batch(n_objects, seed)
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.rand(batch["tokens"].shape, generator=generator) * 1.5
    known = (batch["types"] > 1) & (torch.rand(sigma.shape, generator=generator) > 0.3)
    return batch | {"sigma": torch.where(known, sigma, 0.0)}


# ---------------------------------------------------------------------------------------- weights


def alone(array: np.ndarray) -> list[np.ndarray]:
    return [array]


def targets_of(batch: dict):
    tables = build_tables(VOCAB, make_codebooks())
    tokens, types, sigma = (batch[name][:, 1:].numpy().reshape(-1) for name in ("tokens", "types", "sigma"))
    return read_targets(tables, tokens, types, tokens != 0, sigma)


@pytest.mark.parametrize("sample_k", [None, 5])
def test_weights_are_signal_over_signal_and_noise_and_sum_to_one(sample_k):
    targets = targets_of(batch_with_errors())
    draws = np.random.default_rng(0).random(len(targets.tokens))
    loss = LossConfig(sample_k=sample_k, spectrum=LossFormConfig(errors=WEIGHT))
    found, plain = (
        weigh(targets, loss, draws, gather=alone),
        weigh(targets, LossConfig(sample_k=sample_k), draws, gather=alone),
    )
    assert np.array_equal(found.ce, plain.ce)
    for index, modality in enumerate(MODALITIES):
        here = targets.modality == index
        own, sigma = found.reconstruction[here], targets.sigma[here].astype(float)
        drawn = plain.reconstruction[here] > 0
        assert np.array_equal(own > 0, drawn)
        by_hand = drawn / (1 + sigma**2) if modality == "spectrum" else drawn.astype(float)
        np.testing.assert_allclose(own, by_hand / by_hand.sum(), rtol=1e-12)
        assert own.sum() == pytest.approx(1)
    assert len(np.unique(found.reconstruction[targets.modality == 2])) > 3


def test_errors_that_are_no_positive_numbers_count_as_none():
    batch = batch_with_errors()
    broken = torch.where(batch["sigma"] == 0, torch.tensor(float("nan")), batch["sigma"])
    assert torch.isnan(broken).any()
    for sigma in (broken, torch.where(batch["sigma"] == 0, -1.0, batch["sigma"])):
        assert np.array_equal(targets_of(batch | {"sigma": sigma}).sigma, targets_of(batch).sigma)


@pytest.mark.parametrize("balance", list(Balance))
def test_weights_of_several_ranks_are_those_of_one_process(balance):
    """Two threads that meet at every exchange, with unequal shares, against both shares together."""
    targets = targets_of(batch_with_errors(9))
    targets = replace(targets, shares=np.random.default_rng(2).uniform(0.1, 1.0, len(targets.tokens)))
    loss = LossConfig(sample_k=7, scalar=LossFormConfig(errors=WEIGHT), balance=balance)
    priorities = np.random.default_rng(1).random(len(targets.tokens))
    whole = np.stack([getattr(weigh(targets, loss, priorities, gather=alone), n) for n in ("ce", "reconstruction")])
    parts = [slice(0, len(priorities) // 3), slice(len(priorities) // 3, None)]
    meeting, slots, found = threading.Barrier(2, timeout=30), [None, None], [None, None]

    def gather_of(rank: int):
        def gather(array: np.ndarray) -> list[np.ndarray]:
            slots[rank] = array
            meeting.wait()
            everything = list(slots)
            meeting.wait()
            return everything

        return gather

    def run(rank: int) -> None:
        own = replace(targets, **{name: value[parts[rank]] for name, value in vars(targets).items()})
        mine = weigh(own, loss, priorities[parts[rank]], gather=gather_of(rank))
        found[rank] = np.stack([mine.ce, mine.reconstruction])

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=1e-12)


def test_the_documented_loss_weighs_by_target_sigma():
    """Against the mean written out; also where the positions are chosen by the caller."""
    vocab = build_vocab_spec(0, 5, {}, scalar_columns=("mag",))
    centers = ScalarCodebook(("mag",), np.asarray([[0.0, 1, 2, 4, 7]]), np.ones((1, 5)), [5])
    logits = torch.randn(1, 4, vocab.vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    codes, sigma = torch.tensor([[0, 3, 4, 1]]), torch.tensor([[0.0, 0.5, 2.0, 100.0]])
    types = torch.full((1, 4), vocab.type_of_column("mag"))
    entries = (torch.tensor([0.0, 1, 2, 4, 7]).double() - 2.8) / math.sqrt(6.16)
    errors = (torch.softmax(logits[0, :, vocab.base_scalar :], 1) @ entries - entries[codes[0]]).square()
    shares = 1 / (1 + sigma[0].double() ** 2)
    for chosen in (None, torch.tensor([0, 2])):
        loss, stats = combined_loss(
            logits,
            codes + vocab.base_scalar,
            vocab,
            None,
            None,
            centers,
            {"scalar": {"errors": "weight"}},
            False,
            target_types=types,
            target_sigma=sigma,
            selection=None if chosen is None else {"scalar": chosen},
        )
        here = slice(None) if chosen is None else chosen
        expected = (shares[here] * errors[here]).sum() / shares[here].sum()
        assert float(stats["loss_sca"]) == pytest.approx(float(expected), rel=1e-7)
        assert float(loss) == pytest.approx(0.1 * float(expected), rel=1e-7)


# ----------------------------------------------------------------------------------------- widths


@pytest.mark.parametrize("options", SOFT, ids=lambda o: o.form.value)
@pytest.mark.parametrize("scalar", [True, False])
def test_widened_targets_have_the_same_value_and_gradient_in_closed_form(options, scalar):
    if options.form == LossForm.hl_gauss and not scalar:
        pytest.skip("needs an order")
    logits, codes, entries = make(scalar, n=40)
    sigma = torch.linspace(0, 3, 40, dtype=torch.float64)
    logits.requires_grad_()
    value = values(options, logits, codes, entries, sigma)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    table, n_bins = (entries.T, torch.tensor([len(entries)])) if scalar else (entries, None)
    columns = torch.zeros_like(codes) if scalar else None
    rows = Rows(codes, table, columns, constants(options.form, options, table, n_bins), options.beta, sigma)
    for ours, theirs in zip(
        value_and_grad(options.form, torch.log_softmax(logits.detach(), 1), rows),
        (value.detach(), gradient),
        strict=True,
    ):
        assert float((ours - theirs).abs().max()) <= 1e-10 * float(theirs.abs().max())
    plain = values(replace(options, errors=ErrorUse.ignore), logits, codes, entries, sigma)
    torch.testing.assert_close(value[:1], plain[:1], rtol=1e-14, atol=0)  # an exact target
    assert (value - plain)[5:].abs().max() > 0.05
    capped = values(options, logits, codes, entries, sigma.clamp(max=MAX_WIDTH))
    torch.testing.assert_close(value, capped, rtol=0, atol=0)


@pytest.mark.parametrize("form", [LossForm.hl_gauss, LossForm.neighbour_ce])
def test_the_minimiser_is_wider_by_exactly_sigma(form):
    """A Gaussian of known spread, fitted with free logits: variances of truth, target and error add."""
    entries, truth = known_distribution(True)
    _, spread = moments(truth, entries)
    options = LossFormConfig(form=form, n_neighbours=45, errors=WIDTH)
    own = (0.75 * 0.1) ** 2 + 0.1**2 / 12 if form == LossForm.hl_gauss else 0.1**2  # of a target without error
    for sigma in (0.0, 0.35):
        errors = torch.full((45,), sigma, dtype=torch.float64)
        found = fit(lambda x, codes, e=errors: values(options, x, codes, entries, e), truth)
        expected = math.sqrt(spread**2 + own + sigma**2)
        assert moments(found, entries)[1] == pytest.approx(expected, rel=0.01), sigma


def test_neighbour_targets_of_vectors_gain_the_total_variance_of_the_error():
    """A grid in two dimensions, finer than every width: the mean of the targets has 2 tau^2 + sigma^2."""
    axis = torch.linspace(-2, 2, 21, dtype=torch.float64)
    entries = torch.cartesian_prod(axis, axis)
    centre, logits = torch.tensor([220]), torch.zeros(1, 441, dtype=torch.float64, requires_grad=True)
    for sigma in (0.0, 0.3, 0.6):
        options = LossFormConfig(form=LossForm.neighbour_ce, n_neighbours=441, errors=WIDTH)
        value = values(options, logits, centre, entries, torch.tensor([sigma], dtype=torch.float64))
        targets = 1 / 441 - torch.autograd.grad(value.sum(), logits)[0][0]  # gradient = p - q
        assert moments(targets, entries)[1] ** 2 == pytest.approx(2 * 0.2**2 + sigma**2, rel=2e-3)


# ---------------------------------------------------------------------------------- the objective

LOSSES = [
    LossConfig(scalar=LossFormConfig(errors=WEIGHT), spectrum=LossFormConfig(errors=WEIGHT), sample_k=6),
    LossConfig(
        scalar=LossFormConfig(form=LossForm.hl_gauss, errors=WIDTH),
        spectrum=LossFormConfig(form=LossForm.neighbour_ce, n_neighbours=4, errors=WIDTH),
    ),
    LossConfig(
        ce=CEMode.block,
        image=LossFormConfig(form=LossForm.neighbour_ce, n_neighbours=3),
        scalar=LossFormConfig(form=LossForm.neighbour_ce, n_neighbours=3, errors=WIDTH),
        spectrum=LossFormConfig(form=LossForm.energy, errors=WEIGHT),
    ),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=["weight", "width", "both"])


@every_loss
def test_micro_batches_and_both_paths_give_one_gradient(loss):
    """One batch, two micro-batches, and the readable loss on a model without hidden states."""
    batch, fast = batch_with_errors(), make_objective(loss)
    slow = LanguageModelObjective(LogitsOnly(fast.model), VOCAB, make_codebooks(), loss)
    whole, expected = gradients(fast, [batch])
    for objective in (fast, slow):
        stats, found = gradients(objective, cut(batch, 5))
        assert stats == pytest.approx(whole, rel=1e-12)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    exact, other = gradients(fast, [batch | {"sigma": torch.zeros_like(batch["sigma"])}])
    assert exact["scalar"] != pytest.approx(whole["scalar"], rel=1e-4)
    assert exact["spectrum"] != pytest.approx(whole["spectrum"], rel=1e-4)
    assert exact["image"] == whole["image"] and exact["ce"] == whole["ce"]
    plain = {m: replace(getattr(loss, m), errors=ErrorUse.ignore) for m in MODALITIES}
    ignored, same = gradients(make_objective(replace(loss, **plain)), [batch])
    assert ignored == exact and all(torch.equal(a, b) for a, b in zip(other, same, strict=True))


@every_loss
def test_a_term_is_the_loop_over_its_positions(loss):
    """Spectra: target t+1's own error, whatever the draw; the same weights and widths, one position at a time."""
    batch, objective = batch_with_errors(), make_objective(replace(loss, sample_k=None))
    (part,) = objective.prepare([batch], 0)
    assert "sigma" not in part and "target_sigma" not in part
    _, stats = objective(part)
    logits, form = objective.model(batch["tokens"], batch["types"]).detach(), loss.spectrum
    total = norm = 0.0
    for table in objective.tables.blocks[-2:]:
        for b, t in (batch["tokens"][:, 1:] >= table.start).nonzero().tolist():
            code = int(batch["tokens"][b, t + 1]) - table.start
            if code < table.size:
                own = logits[b, t, table.start : table.start + table.size][None]
                sigma = batch["sigma"][b, t + 1].double()
                error = values(form, own, torch.tensor([code]), table.entries, sigma[None])
                weight = 1 / (1 + float(sigma) ** 2) if form.errors == WEIGHT else 1.0
                total, norm = total + weight * float(error), norm + weight
    assert float(stats["spectrum"]) == pytest.approx(total / norm, rel=1e-9)


@every_loss
def test_validation_is_never_weighted_nor_widened(loss):
    batch = batch_with_errors()
    found, plain = (make_objective(x).evaluate(batch) for x in (loss, LossConfig()))
    assert all(torch.equal(found[name][0], plain[name][0]) for name in plain)
    without = make_objective(loss).evaluate({name: value for name, value in batch.items() if name != "sigma"})
    assert without.keys() == found.keys()


@every_loss
def test_a_batch_without_errors_is_refused_with_what_to_do(loss):
    objective, batch = make_objective(loss), make_batch()
    with pytest.raises(ConfigError, match=r"without sigma.*with_sigma=True.*errors=ignore"):
        objective.prepare([batch], 0)
    off = make_objective(replace(loss, enabled=False))
    assert math.isfinite(gradients(off, [batch])[0]["ce"])
    with pytest.raises(ConfigError, match="without sigma"):
        combined_loss(
            torch.zeros(1, 1, VOCAB.vocab_size), torch.zeros(1, 1, dtype=torch.int64), VOCAB, None, None, None, loss
        )


def test_widths_compile_to_one_graph():
    graphs = []

    def count(graph, _example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    objective = make_objective(LOSSES[1], double=False)
    compiled = torch.compile(objective, backend=count, fullgraph=True, dynamic=True)
    for seed, n_objects in ((0, 8), (1, 6), (2, 9)):
        (part,) = objective.prepare([batch_with_errors(n_objects, seed)], seed)
        assert len(part["loss_sigma"]) == part["targets"].numel()
        torch.testing.assert_close(compiled(part)[0], objective(part)[0])
    assert len(graphs) == 1
    torch._dynamo.reset()


# --------------------------------------------------------------------------- what weighting is for


class Constant(nn.Module):
    """The same logits everywhere: it can only learn the mean of its targets."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(vocab_size, dtype=torch.float64))

    def forward(self, tokens, types, attn_mask):
        return self.logits.expand(*tokens.shape, -1)


def estimated_mean(use: ErrorUse, observed: np.ndarray, sigma: np.ndarray, centers: np.ndarray) -> float:
    """Mean that the loss leads to, from one scalar per object with known errors."""
    vocab = build_vocab_spec(0, len(centers), {}, scalar_columns=("mag",))
    book = ScalarCodebook(("mag",), centers[None], np.ones((1, len(centers))), [len(centers)])
    n, codes = len(observed), np.abs(observed[:, None] - centers).argmin(1)
    tokens = torch.tensor([BOS, 0, EOS]).repeat(n, 1)
    tokens[:, 1] = torch.from_numpy(codes) + vocab.base_scalar
    types = torch.tensor([0, vocab.type_of_column("mag"), 0]).repeat(n, 1)
    errors = torch.zeros(n, 3)
    errors[:, 1] = torch.from_numpy(sigma / book.scale[0])
    batch = {"tokens": tokens, "types": types, "attn_mask": tokens > 0, "sigma": errors}
    loss = LossConfig(use_ce=False, weight_scalar=1.0, scalar=LossFormConfig(errors=use))
    objective = LanguageModelObjective(Constant(vocab.vocab_size), vocab, Codebooks(None, {}, book), loss)
    (part,) = objective.prepare([batch], 0)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        objective(part)[0].backward()
        optimizer.step()
    p = torch.softmax(objective.model.logits.detach()[vocab.base_scalar :], 0).numpy()
    return float(p @ centers)


def test_noisy_objects_pull_less():
    """Half of the values have an error of 0.05, half of 2 (column: 1.2 wide). Weights 1 and 0.26 in place of 1 and 1
    should leave 0.41 of the error of the mean; 12 surveys of 100 objects each."""
    rng, centers, truth = np.random.default_rng(4), np.linspace(-2, 2, 81), 0.2
    missed = {ErrorUse.ignore: [], WEIGHT: []}
    for _ in range(12):
        sigma = np.where(np.arange(100) % 2, 0.05, 2.0)
        observed = truth + sigma * rng.normal(size=100)
        for use, errors in missed.items():
            errors.append(estimated_mean(use, observed, sigma, centers) - truth)
    rms = {use: math.sqrt(np.square(errors).mean()) for use, errors in missed.items()}
    print({use.value: round(value, 4) for use, value in rms.items()})
    assert rms[WEIGHT] < 0.6 * rms[ErrorUse.ignore]


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image": {"errors": "width"}}, r"form neighbour_ce.*got expectation.*loss\.image\.errors=weight"),
        (
            {"scalar": {"errors": "width"}},
            r"form hl_gauss or neighbour_ce.*got expectation.*loss\.scalar\.errors=weight",
        ),
        ({"spectrum": {"form": "energy", "errors": "width"}}, r"form neighbour_ce, whose targets have a width"),
        ({"scalar": {"errors": "wieght"}}, r"loss\.scalar\.errors.*did you mean 'weight'"),
        ({"scalar": {"form": "hl_gauss", "errors": "width"}, "standardize": False}, r"loss\.standardize=true"),
    ],
)
def test_uses_that_cannot_be_are_refused_in_one_line(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        as_loss_config(config)
    assert "\n" not in str(caught.value)


def test_a_modality_without_errors_cannot_use_them(monkeypatch):
    monkeypatch.setitem(MODALITIES._rows, "image", replace(MODALITIES["image"], has_errors=False))
    for config in ({"errors": "weight"}, {"form": "neighbour_ce", "errors": "width"}):
        with pytest.raises(ConfigError, match=r"loss\.image\.errors=ignore, got w\w+, but images have no errors"):
            as_loss_config({"image": config})


def test_the_command_line_reaches_the_loss_and_refuses_the_same():
    register()

    def composed(*overrides: str):
        given = ["data=splus", "data.root=x", "run_dir=x", *overrides]
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            cfg = compose("train_lm", given)
        validate(cfg, "train_lm", given)
        return as_loss_config(cfg.loss)

    assert composed().spectrum.errors == composed().scalar.errors == ErrorUse.ignore
    loss = composed("loss=smoothed", "loss.scalar.errors=width", "loss.spectrum.errors=weight")
    assert (loss.scalar.errors, loss.spectrum.errors, loss.image.errors) == (WIDTH, WEIGHT, ErrorUse.ignore)
    for overrides, message in (
        (["loss.image.errors=width"], "form neighbour_ce"),
        (["loss.spectrum.errors=width"], "form neighbour_ce"),
        (["loss=smoothed", "loss.scalar.errors=width", "loss.standardize=false"], r"loss\.standardize=true"),
    ):
        with pytest.raises(ConfigError, match=message):
            composed(*overrides)
