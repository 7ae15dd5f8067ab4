"""One contract for all forms of the reconstruction loss: gradients, units, known answers, and what each one fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from astromodal.config.schema import SCALAR_FORMS, CEMode, LossConfig, LossForm, LossFormConfig
from astromodal.errors import ConfigError
from astromodal.loss import forms
from astromodal.loss.forms import neighbour_targets, values
from astromodal.loss.functions import combined_loss
from astromodal.loss.fused.forms import Rows, constants, form_of, value_and_grad
from astromodal.loss.reference import as_loss_config
from astromodal.loss.standardize import Codebooks, build_tables
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import build_vocab_spec
from tests.pipeline.conftest import launch_stage

ALL = [LossFormConfig(form=form, n_neighbours=5) for form in LossForm]
ALL += [
    LossFormConfig(form=LossForm.expectation_spread, beta=0.1),
    LossFormConfig(form=LossForm.hl_gauss, sigma_bins=2),
]
CASES = [(o, scalar) for o in ALL for scalar in (True, False) if scalar or o.form not in SCALAR_FORMS]
IDS = [f"{o.form.value}-{o.beta}-{o.sigma_bins}-{'scalar' if scalar else 'vector'}" for o, scalar in CASES]
every_case = pytest.mark.parametrize(("options", "scalar"), CASES, ids=IDS)

CE_LIKE = (LossForm.hl_gauss, LossForm.neighbour_ce)
# power of the unit of the entries
POWER = {LossForm.expectation: 2, LossForm.expectation_spread: 2, LossForm.hl_gauss: 0, LossForm.neighbour_ce: 0}


def make(scalar: bool, n: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64):
    """Logits (n, C), codes (n,) and entries (C, D)."""
    rng = np.random.default_rng(seed)
    entries = np.sort(rng.normal(size=(11, 1)), axis=0) if scalar else rng.normal(size=(11, 3))
    logits = 2 * rng.normal(size=(n, 11))
    return torch.tensor(logits, dtype=dtype), torch.tensor(rng.integers(0, 11, n)), torch.tensor(entries, dtype=dtype)


def closed(options: LossFormConfig, logits, codes, entries, scalar: bool):
    """Value and gradient in closed form; scalars as a table with a single column."""
    table, n_bins = (entries.T.double(), torch.tensor([len(entries)])) if scalar else (entries.double(), None)
    form = form_of(options, "scalar" if scalar else "image")
    extra = [t.to(logits) if t.is_floating_point() else t for t in constants(form, options, table, n_bins)]
    columns = torch.zeros_like(codes) if scalar else None
    rows = Rows(codes, table.to(logits), columns, extra, options.beta)
    return value_and_grad(form, torch.log_softmax(logits, 1), rows)


# ---------------------------------------------------------------------------------------- contract


@every_case
def test_one_finite_value_per_position_with_a_correct_gradient(options, scalar):
    logits, codes, entries = make(scalar)
    logits.requires_grad_()
    value = values(options, logits, codes, entries)
    assert value.shape == (6,) and torch.isfinite(value).all() and (value >= -1e-12).all()
    assert torch.autograd.gradcheck(lambda x: values(options, x, codes, entries), (logits,))
    assert values(options, logits[:0], codes[:0], entries).shape == (0,)


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_closed_form_equals_autograd_on_the_readable_one(options, scalar, dtype, tolerance):
    if options.form == LossForm.expectation:
        pytest.skip("has its own path in fused_chunks.py, tested in test_fused.py")
    for scale in (0.0, 1.0, 30.0):
        logits, codes, entries = make(scalar, n=40, dtype=dtype)
        logits = (scale * logits).requires_grad_()
        value = values(options, logits, codes, entries)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        ours, our_gradient = closed(options, logits.detach(), codes, entries, scalar)
        for a, b in ((ours, value.detach()), (our_gradient, gradient)):
            assert float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1e-3), scale


@pytest.mark.parametrize("form", [f for f in LossForm if f != LossForm.expectation])
def test_a_thousand_narrow_bins_are_no_trouble_in_float32(form):
    """Bins of 0.003 sd far from 0: float32 alone would place their edges to 1e-3 of a bin."""
    entries = torch.tensor(np.sort(np.random.default_rng(0).normal(size=1024)))[:, None] + 3
    codes, logits = torch.arange(1024), torch.randn(1024, 1024, dtype=torch.float64)
    exact = closed(LossFormConfig(form=form), logits, codes, entries, True)
    single = closed(LossFormConfig(form=form), logits.float(), codes, entries, True)
    for a, b in zip(single, exact, strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@every_case
def test_logits_may_be_shifted_and_space_may_be_moved_and_scaled(options, scalar):
    """Only differences of logits count; an error in sigma or sigma^2 grows with the unit, a cross-entropy does not."""
    logits, codes, entries = make(scalar)
    value = values(options, logits, codes, entries)
    torch.testing.assert_close(values(options, logits + 7, codes, entries), value)
    torch.testing.assert_close(
        values(options, logits, codes, 3 * entries + 5), value * 3.0 ** POWER.get(options.form, 1)
    )


@every_case
def test_codes_without_an_order_may_be_renumbered(options, scalar):
    logits, codes, entries = make(scalar)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    if options.form in SCALAR_FORMS:
        order = torch.arange(10, -1, -1)  # the mirror image keeps neighbours neighbours
        entries_there = -entries[order]
    else:
        entries_there = entries[order]
    there = values(options, logits[:, order], order.argsort()[codes], entries_there)
    torch.testing.assert_close(there, values(options, logits, codes, entries))


@every_case
def test_a_perfect_prediction_has_the_least_value(options, scalar):
    """Certain and right: exactly 0. Soft targets: their entropy, where the prediction equals them."""
    _, _, entries = make(scalar)
    codes = torch.arange(11)
    if options.form in CE_LIKE:
        targets = -closed(options, torch.full((11, 11), -80.0).fill_diagonal_(0).double(), codes, entries, scalar)[1]
        targets = targets + torch.eye(11)  # gradient = p - q, and p is the identity
        torch.testing.assert_close(targets.sum(1), torch.ones(11).double())
        assert (targets >= -1e-12).all() and (options.sigma_bins > 1 or (targets.argmax(1) == codes).all())
        logits = targets.clamp(min=1e-300).log().requires_grad_()
        entropy = torch.special.entr(targets.clamp(min=0)).sum(1)
    else:
        logits = torch.zeros(11, 11, dtype=torch.float64).fill_diagonal_(800.0).requires_grad_()
        entropy = torch.zeros(11).double()
    value = values(options, logits, codes, entries)
    torch.testing.assert_close(value.detach(), entropy, rtol=1e-9, atol=1e-9)
    assert torch.autograd.grad(value.sum(), logits)[0].abs().max() < 1e-9
    others = values(options, logits.detach() + torch.randn(11, 11, dtype=torch.float64), codes, entries)
    assert (others >= value - 1e-9).all()


@every_case
def test_bins_that_a_column_does_not_have_change_nothing(options, scalar):
    """Columns of 11, 4 and 1 bins in one padded table, logits -inf beyond: as if the others were not there."""
    if not scalar or options.form == LossForm.expectation:
        pytest.skip("padding is for scalar columns; expectation has its own path, see test_fused.py")
    rng = np.random.default_rng(1)
    n_bins = torch.tensor([11, 4, 1])
    table = torch.zeros(3, 11, dtype=torch.float64)
    for row, n in enumerate(n_bins.tolist()):
        table[row, :n] = torch.tensor(np.sort(rng.normal(size=n)) - 2)
    columns = torch.tensor([0, 1, 2] * 5)
    codes = torch.tensor(rng.integers(0, n_bins[columns].numpy()))
    logits = torch.randn(15, 11, dtype=torch.float64)
    masked = logits.masked_fill(torch.arange(11) >= n_bins[columns][:, None], float("-inf"))
    form = form_of(options, "scalar")
    rows = Rows(codes, table, columns, constants(form, options, table, n_bins), options.beta)
    value, gradient = value_and_grad(form, torch.log_softmax(masked, 1), rows)
    for i, column in enumerate(columns.tolist()):
        own = logits[i : i + 1, : n_bins[column]].clone().requires_grad_()
        alone = values(options, own, codes[i : i + 1], table[column, : n_bins[column], None])
        (slope,) = torch.autograd.grad(alone.sum(), own)
        torch.testing.assert_close(value[i], alone[0].detach())
        torch.testing.assert_close(gradient[i, : n_bins[column]], slope[0], rtol=1e-9, atol=1e-12)
        assert not gradient[i, n_bins[column] :].any()


# ------------------------------------------------------------------------------------- definitions


@pytest.mark.parametrize("scalar", [True, False])
def test_values_equal_their_definitions_by_loops(scalar):
    logits, codes, entries = make(scalar)
    p, c = torch.softmax(logits, 1).numpy(), entries.numpy()
    for i, code in enumerate(codes.tolist()):
        to_truth = [float(np.linalg.norm(a - c[code])) for a in c]
        mean = sum(w * a for w, a in zip(p[i], c, strict=True))
        spread = sum(w * float(((a - mean) ** 2).sum()) for w, a in zip(p[i], c, strict=True))
        pairs = sum(p[i, j] * p[i, k] * float(np.linalg.norm(c[j] - c[k])) for j in range(11) for k in range(11))
        expected = {
            LossForm.expectation: float(((mean - c[code]) ** 2).sum()),
            LossForm.expectation_spread: float(p[i] @ np.square(to_truth)),
            LossForm.energy: float(p[i] @ to_truth) - pairs / 2,
        }
        assert expected[LossForm.expectation] + spread == pytest.approx(expected[LossForm.expectation_spread])
        if scalar:
            expected |= {LossForm.crps: expected[LossForm.energy], LossForm.wasserstein: float(p[i] @ to_truth)}
        for form, value in expected.items():
            found = values(LossFormConfig(form=form), logits[i : i + 1], codes[i : i + 1], entries)
            assert float(found) == pytest.approx(value, rel=1e-10), form


def test_crps_is_the_integral_over_the_distribution_function():
    logits, codes, entries = make(True)
    x = torch.linspace(-4, 4, 400_001, dtype=torch.float64)
    step = torch.searchsorted(entries[:, 0].contiguous(), x, right=True)
    for p, code, value in zip(
        torch.softmax(logits, 1), codes, values(LossFormConfig(form=LossForm.crps), logits, codes, entries), strict=True
    ):
        below = torch.cat([torch.zeros(1, dtype=torch.float64), p.cumsum(0)])[step]
        integral = (below - (x >= entries[code, 0]).double()).square().sum() * (x[1] - x[0])
        assert float(value) == pytest.approx(float(integral), abs=1e-4)


def test_gaussian_targets_are_the_gaussian_over_equal_bins():
    """Farebrother et al. 2024: 0.75 bin widths put 0.495 in the true bin, 0.230 in each neighbour."""
    entries = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    logits = torch.zeros(1, 61, dtype=torch.float64)
    _, gradient = closed(LossFormConfig(form=LossForm.hl_gauss), logits, torch.tensor([30]), entries, True)
    target = 1 / 61 - gradient[0]
    np.testing.assert_allclose(target[28:33], [0.02232, 0.22974, 0.49501, 0.22974, 0.02232], atol=1e-5)


def test_neighbour_targets_find_the_neighbours():
    entries = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))  # more than one slice of rows
    near, shares = neighbour_targets(entries, 8, 1.0)
    exact = (entries[:, None, :].double() - entries[None].double()).norm(dim=2).argsort(1)[:, :8]
    assert (near == exact).float().mean() > 0.999 and (near[:, 0] == torch.arange(3000)).all()
    assert near.shape == shares.shape == (3000, 8) and torch.allclose(shares.sum(1), torch.ones(3000).double())
    assert (shares.diff(dim=1) <= 0).all()
    alone = neighbour_targets(entries, 1, 1.0)
    assert alone[0].shape == (3000, 1) and (alone[1] == 1).all()  # one neighbour: plain cross-entropy
    narrow = neighbour_targets(entries, 8, 1e-3)[1]
    assert (narrow[:, 0] > 0.999).float().mean() > 0.99


# --------------------------------------------------------------------- what the forms lead to: the fit


def fit(form, weights: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """Free logits that minimise the mean of ``form`` over codes distributed as ``weights``: the probabilities."""
    n = len(weights)
    logits = (torch.zeros(n, dtype=torch.float64) if start is None else start.clone()).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for _ in range(1000):
        optimizer.zero_grad()
        (weights * form(logits.expand(n, n), torch.arange(n))).sum().backward()
        optimizer.step()
        schedule.step()
    return torch.softmax(logits.detach(), 0)


def moments(p: torch.Tensor, entries: torch.Tensor) -> tuple[torch.Tensor, float]:
    mean = p @ entries
    return mean, float((p @ (entries - mean).square().sum(1)).sqrt())


def known_distribution(scalar: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries, and how often each is the truth: samples of a Gaussian of sd 0.6 in one or two dimensions."""
    generator = torch.Generator().manual_seed(1)
    if scalar:
        entries = torch.linspace(-2, 2.4, 45, dtype=torch.float64)[:, None]
    else:
        entries = torch.randn(40, 2, dtype=torch.float64, generator=generator)
    drawn = (
        0.6 * torch.randn(4000, entries.shape[1], dtype=torch.float64, generator=generator) / entries.shape[1] ** 0.5
    )
    nearest = torch.cdist(drawn + torch.tensor([0.3, -0.2][: entries.shape[1]]), entries).argmin(1)
    return entries, torch.bincount(nearest, minlength=len(entries)).double() / 4000


# fitted spread over true spread: (least, most)
PROPER, WIDENED, COLLAPSED, FREE = (0.97, 1.05), (0.97, 1.2), (0.0, 0.6), (1.5, 9.0)
FITS = [
    (LossForm.expectation, 1.0, FREE),
    (LossForm.expectation_spread, 1.0, (0.0, 0.05)),
    (LossForm.expectation_spread, 0.1, COLLAPSED),
    (LossForm.energy, 1.0, PROPER),
    (LossForm.crps, 1.0, PROPER),
    (LossForm.wasserstein, 1.0, (0.0, 0.05)),
    (LossForm.hl_gauss, 1.0, WIDENED),
    (LossForm.neighbour_ce, 1.0, WIDENED),
]


@pytest.mark.parametrize("scalar", [True, False])
@pytest.mark.parametrize(("form", "beta", "bounds"), FITS)
def test_the_fit_to_a_known_distribution(form, beta, bounds, scalar):
    """Proper forms find its mean and its spread, improper ones collapse, the expectation leaves the spread free."""
    if form in SCALAR_FORMS and not scalar:
        pytest.skip("needs an order")
    entries, truth = known_distribution(scalar)
    mean, spread = moments(truth, entries)
    options = LossFormConfig(form=form, beta=beta)
    found = fit(lambda logits, codes: values(options, logits, codes, entries), truth)
    found_mean, found_spread = moments(found, entries)
    print(
        f"{form.value} beta={beta}: mean {found_mean.tolist()} (true {mean.tolist()}), "
        f"spread {found_spread:.4f} (true {spread:.4f})"
    )
    assert bounds[0] <= found_spread / spread <= bounds[1]
    # a collapse is to one code, which may be as far from the mean as codes are from each other
    assert float((found_mean - mean).norm()) < (0.03 if bounds in (PROPER, WIDENED, FREE) else 0.2)
    if bounds == PROPER:
        assert float((found - truth).abs().sum() / 2) < 0.03  # the distribution itself
    if bounds == FREE:  # as many minima as starts: the same mean and value, another spread
        narrow = fit(
            lambda logits, codes: values(options, logits, codes, entries),
            truth,
            start=-8 * (entries - mean).square().sum(1),
        )
        other_mean, other_spread = moments(narrow, entries)
        assert float((other_mean - mean).norm()) < 0.01 and other_spread < 0.5 * found_spread
        a, b = (
            (truth * values(options, p.log().expand(len(p), -1), torch.arange(len(p)), entries)).sum()
            for p in (found, narrow)
        )
        assert float(a) == pytest.approx(float(b), rel=1e-3)


@pytest.mark.parametrize("scalar", [True, False])
def test_the_stated_minimiser_has_no_gradient(scalar):
    """At p = the true distribution: zero for the proper forms, not for the improper and the smoothed ones.

    The smoothed ones have it at the mean of their targets, a point mass at the median is W1's.
    """
    entries, truth = known_distribution(scalar)
    codes = torch.arange(len(truth))

    def size(form: LossForm, p: torch.Tensor) -> float:
        options = LossFormConfig(form=form)
        return float(slope(lambda x: truth * values(options, x.expand(len(p), -1), codes, entries), p.log()).norm())

    truth = (truth + 1e-9) / (1 + 1e-9 * len(truth))
    for form in LossForm:
        if form in SCALAR_FORMS and not scalar:
            continue
        if form in (LossForm.crps, LossForm.energy, LossForm.expectation):
            assert size(form, truth) < 1e-12, form
        else:
            assert size(form, truth) > 5e-3, form
        if form in CE_LIKE:
            uniform = torch.zeros(len(truth), len(truth), dtype=torch.float64)
            targets = 1 / len(truth) - closed(LossFormConfig(form=form), uniform, codes, entries, scalar)[1]
            assert size(form, (truth @ targets).clamp(min=1e-300)) < 1e-12, form


def test_the_smoothed_forms_widen_by_the_width_of_their_targets():
    """hl_gauss: true variance, plus sigma^2, plus that of a bin; more smoothing, more spread."""
    entries, truth = known_distribution(True)
    _, spread = moments(truth, entries)
    for sigma_bins in (0.75, 3.0):
        options = LossFormConfig(form=LossForm.hl_gauss, sigma_bins=sigma_bins)
        found = fit(lambda logits, codes, options=options: values(options, logits, codes, entries), truth)
        expected = (spread**2 + (0.1 * sigma_bins) ** 2 + 0.1**2 / 12) ** 0.5
        assert moments(found, entries)[1] == pytest.approx(expected, rel=0.01)


# ------------------------------------------------------------------------ the three known failure modes

# half of the mass at -3, half at +3, truth 0: bins at -3, 0, 3
TWO_PEAKS = torch.tensor([[0.0, -800.0, 0.0]], dtype=torch.float64)
THREE = torch.tensor([[-3.0], [0.0], [3.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("form", "expected"),
    [("expectation", 0.0), ("expectation_spread", 9.0), ("energy", 1.5), ("crps", 1.5), ("wasserstein", 3.0)],
)
def test_failure_1_the_right_mean_from_a_wrong_distribution(form, expected):
    """Only the expectation is content with it, and so has no gradient; all others are off their minimum."""
    options = LossFormConfig(form=LossForm(form))
    found = values(options, TWO_PEAKS, torch.tensor([1]), THREE)
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("form", ["hl_gauss", "neighbour_ce"])
def test_failure_1_is_expensive_with_soft_targets(form):
    options = LossFormConfig(form=LossForm(form))
    assert float(values(options, TWO_PEAKS, torch.tensor([1]), THREE)) > 300  # nats: half of the target has p = e^-800


def slope(form, logits: torch.Tensor) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(form(logits).sum(), logits)[0]


@pytest.mark.parametrize("form", list(LossForm))
def test_failure_2_the_gradient_when_confidently_wrong(form):
    """Logit +20 on a code 2 sd away: forms of p alone have no gradient left, cross-entropies keep theirs."""
    entries = torch.linspace(-1.73, 1.73, 1024, dtype=torch.float64)[:, None]  # variance 1
    wrong, code = torch.zeros(1, 1024, dtype=torch.float64), torch.tensor([200])
    wrong[0, 800] = 20.0
    size = float(slope(lambda x: values(LossFormConfig(form=form), x, code, entries), wrong).norm())
    ce = float(slope(lambda x: F.cross_entropy(x, code), wrong).norm())
    print(f"{form.value}: {size:.2e}, cross-entropy {ce:.2f}")
    assert ce == pytest.approx(2**0.5, rel=1e-3)
    assert 1.0 < size < 1.5 if form in CE_LIKE else size < 2e-5


@pytest.mark.parametrize("form", list(LossForm))
def test_failure_3_mass_outside_of_the_block_is_seen_by_cross_entropy_alone(form):
    """A special takes e^8 times the mass of any bin: no form changes or has a gradient there."""
    vocab = build_vocab_spec(0, 9, {}, scalar_columns=("mag",))
    centers = ScalarCodebook(("mag",), np.linspace(-1, 1, 9)[None], np.ones((1, 9)), [9])
    targets = torch.tensor([[vocab.base_scalar + 2]])
    types = torch.tensor([[vocab.type_of_column("mag")]])
    logits = torch.randn(1, 1, vocab.vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaked = logits.clone()
    leaked[..., 2] += 8.0
    config = {"scalar": {"form": form.value}, "weight_scalar": 1.0}
    found = {}
    for use_ce in (False, True):
        for name, x in (("in", logits), ("leaked", leaked)):
            x = x.clone().requires_grad_()
            loss, _ = combined_loss(x, targets, vocab, None, None, centers, config, use_ce, target_types=types)
            found[use_ce, name] = float(loss.detach()), float(torch.autograd.grad(loss, x)[0][0, 0, 2])
    assert found[False, "in"] == found[False, "leaked"] and found[False, "leaked"][1] == 0
    assert found[True, "leaked"][0] > found[True, "in"][0] + 2.5 and found[True, "leaked"][1] > 0.9


def test_gradient_sizes_at_a_uniform_prediction():
    """Relative to cross-entropy, for 1024 bins of unit variance: what a weight of 1 buys at the start of training."""
    entries = torch.linspace(-1.73, 1.73, 1024, dtype=torch.float64)[:, None]
    code, uniform = torch.arange(0, 1024, 16), torch.zeros(64, 1024, dtype=torch.float64)
    ce = slope(lambda x: F.cross_entropy(x, code, reduction="none"), uniform).norm(dim=1)
    sizes = {}
    for form in LossForm:
        own = slope(lambda x, form=form: values(LossFormConfig(form=form), x, code, entries), uniform).norm(dim=1)
        sizes[form.value] = float((own / ce).mean())
    print(sizes)
    assert 0.02 < sizes["expectation"] < 0.06
    assert all(0.005 < sizes[name] < 0.1 for name in ("expectation_spread", "energy", "crps", "wasserstein"))
    assert all(0.4 < sizes[name] < 1.0 for name in ("hl_gauss", "neighbour_ce"))


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("modality", ["image", "spectrum"])
@pytest.mark.parametrize("form", SCALAR_FORMS)
def test_forms_that_need_an_order_are_for_scalars_only(modality, form):
    with pytest.raises(ConfigError, match=f"loss.{modality}.form=energy"):
        as_loss_config({modality: {"form": form.value}})
    with pytest.raises(ConfigError, match="needs entries in an order"):
        as_loss_config(replace(LossConfig(), **{modality: LossFormConfig(form=form)}))
    assert as_loss_config({"scalar": form.value}).scalar.form == form


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scalar": {"form": "crsp"}}, "did you mean 'crps'"),
        ({"scalar": {"fom": "crps"}}, "did you mean 'form'"),
        ({"scalar": {"beta": -1}}, "loss.scalar.beta >= 0"),
        ({"image": {"temperature": 0}}, "loss.image.temperature > 0"),
        ({"scalar": {"sigma_bins": 0}}, "loss.scalar.sigma_bins > 0"),
        ({"spectrum": {"n_neighbours": 0}}, "loss.spectrum.n_neighbours >= 1"),
    ],
)
def test_wrong_options_of_a_form_are_refused_by_name(config, message):
    with pytest.raises(ConfigError, match=message):
        as_loss_config(config)


def test_codebooks_that_a_form_cannot_use_are_refused(monkeypatch):
    vocab = build_vocab_spec(4, 3, {}, scalar_columns=("mag",))
    unsorted = ScalarCodebook(("mag",), np.asarray([[0.0, 2.0, 1.0]]), np.ones((1, 3)), [3])
    image = Codebook(np.random.default_rng(0).normal(size=(4, 2)))
    build_tables(vocab, Codebooks(image, {}, unsorted), forms=as_loss_config({"scalar": "neighbour_ce"}))
    with pytest.raises(ConfigError, match="ascending"):
        build_tables(vocab, Codebooks(image, {}, unsorted), forms=as_loss_config({"scalar": "crps"}))
    monkeypatch.setattr(forms, "MAX_ENERGY_CODES", 3)
    with pytest.raises(ConfigError, match="at most 3 codes"):
        build_tables(vocab, Codebooks(image, {}, None), forms=as_loss_config({"image": "energy"}))


def test_the_command_line_chooses_forms_and_refuses_impossible_ones(tmp_path):
    given = ("loss.scalar.form=hl_gauss", "loss.spectrum.form=neighbour_ce", "loss.spectrum.temperature=2")
    chosen = launch_stage("train_lm", "--cfg", "job", *given, cwd=tmp_path)
    assert chosen.returncode == 0, chosen.stderr
    for line in ("form: hl_gauss", "form: neighbour_ce", "temperature: 2", "form: expectation"):
        assert line in chosen.stdout
    assert "loss.image.form=energy" in launch_stage("train_lm", "loss.image.form=crps", cwd=tmp_path).error()


def test_the_default_is_the_documented_loss():
    assert all(getattr(LossConfig(), m).form == LossForm.expectation for m in ("image", "scalar", "spectrum"))
    assert LossConfig().ce == CEMode.full
