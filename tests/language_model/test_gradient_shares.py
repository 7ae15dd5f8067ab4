"""The gradient ledger: its figures against autograd on full logits, its effect on the weights, and on nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from astromodal.config.schema import CEMode, LossConfig, LossForm, LossFormConfig
from astromodal.errors import ConfigError
from astromodal.language_model.gradient_shares import GradientLedger, ledger_of, read_ledger
from astromodal.loss.language_model import LanguageModelObjective
from astromodal.loss.reference import reference_terms
from astromodal.loss.sampling import StepWeights
from astromodal.models import CausalTransformerLM
from astromodal.training.callbacks import Callback
from astromodal.training.loop import TrainingLoop
from astromodal.vocabulary.modalities import MODALITIES
from tests.loss.test_language_model import VOCAB, LogitsOnly, cut, make, make_batch, make_codebooks
from tests.training.test_resume import Killed
from tests.training.toys import MemoryTracker, options

LOSSES = [
    LossConfig(sample_k=None),
    LossConfig(sample_k=None, ce=CEMode.block, weight_image=3.0),
    LossConfig(
        sample_k=None,
        image=LossFormConfig(form=LossForm.neighbour_ce, n_neighbours=3),
        scalar=LossFormConfig(form=LossForm.crps),
        spectrum=LossFormConfig(form=LossForm.energy),
    ),
    LossConfig(sample_k=None, use_ce=False),
]


def measure(objective: LanguageModelObjective, batches: list[dict], step: int = 3) -> dict[str, float]:
    parts = [objective.gradient_sums(batch) for batch in objective.prepare(batches, step)]
    return read_ledger(torch.stack(parts).sum(0), objective.term_weights.tolist())


def by_autograd(objective: LanguageModelObjective, batch: dict) -> dict[str, float]:
    """The same figures from full logits and torch's own derivatives, one term and one modality at a time."""
    part = objective.prepare([batch], 3)[0]
    targets = objective._read(part)
    weights = StepWeights(part["loss_weights_ce"].numpy(), part["loss_weights_rec"].numpy())
    hidden = objective._hidden(part).flatten(0, 1).detach().requires_grad_()
    logits = hidden @ objective.model.head_weight.detach().t()
    logits.retain_grad()

    def gradients(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.autograd.grad(value, (logits, hidden), retain_graph=True)

    found: dict[str, float] = {}
    blocks = [MODALITIES.index(t.modality) for t in objective.tables.blocks]
    where = np.asarray([*blocks, -1])[targets.blocks]
    everything = reference_terms(logits, targets, objective.tables, weights, objective.loss.ce)
    norms = {"ce": float(gradients(everything["ce"])[1].norm())}
    found["norm_ce"] = norms["ce"]
    for index, name in enumerate(MODALITIES):
        own = StepWeights(
            np.where(where == index, weights.ce, 0.0), np.where(where == index, weights.reconstruction, 0)
        )
        terms = reference_terms(logits, targets, objective.tables, own, objective.loss.ce)
        ce, rec = gradients(terms["ce"]), gradients(terms[name])
        weight = float(objective.term_weights[index])
        norms[name] = weight * float(rec[1].norm())
        for prefix, a, b in (("logits_", ce[0], rec[0]), ("", ce[1], rec[1])):
            a_norm, b_norm = float(a.norm()), weight * float(b.norm())
            found[f"{prefix}{name}"] = b_norm / (a_norm + b_norm)
            found[f"norm_{prefix}ce_{name}"], found[f"norm_{prefix}{name}"] = a_norm, float(b.norm())
        if float(ce[1].norm()) > 0:
            found[f"cosine_{name}"] = float((ce[1] * rec[1]).sum() / ce[1].norm() / rec[1].norm())
        found[f"weight_{name}"] = weight
    return found | {f"total_{m}": norms[m] / sum(norms.values()) for m in MODALITIES}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_figures_are_those_of_autograd(loss, monkeypatch):
    monkeypatch.setattr("astromodal.loss.fused.chunks.CPU_CHUNK_ROWS", 7)
    objective, batch = make(loss), make_batch()
    expected = by_autograd(objective, batch)
    assert measure(objective, [batch]) == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert measure(objective, cut(batch, 3)) == pytest.approx(expected, rel=1e-9, abs=1e-14)  # micro-batches add up


def test_a_modality_that_a_step_lacks_has_no_figures():
    kinds = [VOCAB.modality_of_type()[t] for t in range(VOCAB.n_types)]
    batch = make_batch(30, seed=1)
    keep = [i for i, types in enumerate(batch["types"].tolist()) if "image" not in {kinds[t] for t in types}]
    figures = measure(make(LossConfig(sample_k=None)), [{name: values[keep] for name, values in batch.items()}])
    assert "image" not in figures and "norm_image" not in figures and "scalar" in figures
    assert all(map(math.isfinite, figures.values()))


def test_a_share_means_the_same_for_every_sample_k():
    """Squared norms and products of a draw, corrected, have the mean of the exact ones."""
    batch = make_batch(24, seed=1)
    exact = measure(make(LossConfig(sample_k=None)), [batch])
    sampled = make(LossConfig(sample_k=6, ce_sample_k=40))
    draws = [measure(sampled, [batch], step) for step in range(400)]
    for name in MODALITIES:
        assert np.mean([d[f"norm_{name}"] ** 2 for d in draws]) == pytest.approx(exact[f"norm_{name}"] ** 2, rel=0.05)
        assert np.mean([d[f"norm_ce_{name}"] ** 2 for d in draws if f"norm_ce_{name}" in d]) == pytest.approx(
            exact[f"norm_ce_{name}"] ** 2, rel=0.05
        )
    uncorrected = make_batch(24, seed=1)
    sums = torch.stack([sampled.gradient_sums(b) for b in sampled.prepare([uncorrected], 0)]).sum(0)
    assert float(sums[0, 9]) > float(sums[0, 8]) == 6  # images: more positions than are drawn


def test_a_rare_modality_is_measured_when_it_comes():
    ledger = GradientLedger(make(LossConfig(ledger_every=10)))
    steps = []
    ledger.measured["scalar"] = 21
    for step in range(22, 80):
        present = ["scalar"] + ["image"] * (step % 7 == 0)
        if ledger.is_due(step, present):
            steps.append(step)
            ledger.measured |= dict.fromkeys(present, step)
    assert steps == [28, 38, 42, 52, 56, 66, 70]  # scalars at least every 10 steps, images too where there are any


class Batches:
    """The same few batches in every epoch."""

    def __init__(self, n: int = 3) -> None:
        self.batches = [make_batch(6, seed=i, first_object=10 * i) for i in range(n)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def loop_of(loss: LossConfig, tracker=None, dropout: float = 0.1, extra: tuple[Callback, ...] = (), **settings):
    torch.manual_seed(0)
    model = CausalTransformerLM(VOCAB.vocab_size, VOCAB.n_types, 16, 2, 2, 32, dropout=dropout, max_len=64)
    objective = LanguageModelObjective(model, VOCAB, make_codebooks(), loss)
    own = {k: settings.pop(k) for k in ("output_dir", "resume") if k in settings}
    return TrainingLoop(
        objective,
        Batches(),
        tracker=tracker,
        callbacks=[*ledger_of(objective), *extra],
        seed=1,
        **own,
        **options(**({"epochs": 8, "grad_accum_steps": 2} | settings)),
    )


def test_measuring_changes_nothing():
    weights = []
    for every in (None, 1):
        loop = loop_of(LossConfig(sample_k=4, ledger_every=every))
        loop.fit()
        weights.append([p.detach().clone() for p in loop.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_it_is_logged_at_its_period():
    tracker = MemoryTracker()
    loop_of(LossConfig(ledger_every=5), tracker).fit()
    assert list(tracker.column("grad_share/image")) == [1, 2, 4, 8, 13]  # doubling, up to the period
    assert list(tracker.column("grad_share/weight_scalar").values()) == [pytest.approx(0.1)] * 5
    assert ledger_of(make(LossConfig(ledger_every=None))) == []
    assert ledger_of(make(LossConfig(enabled=False))) == []


def test_a_target_share_is_met_at_once_and_followed_slowly():
    tracker = MemoryTracker()
    loss = LossConfig(sample_k=None, share_image=0.3, share_scalar=0.1, share_rate=0.25, ledger_every=1)
    loop = loop_of(loss, tracker, dropout=0.0, epochs=30)
    loop.fit()
    logged = {
        name: tracker.column(f"grad_share/{name}")
        for name in ("image", "weight_image", "norm_image", "norm_ce_image", "weight_spectrum")
    }
    assert list(set(logged["weight_spectrum"].values())) == [pytest.approx(0.1)]  # no target: as configured
    steps = sorted(logged["image"])
    weight = 0.3 / 0.7 * logged["norm_ce_image"][steps[0]] / logged["norm_image"][steps[0]]
    for step in steps[1:]:
        assert logged["weight_image"][step] == pytest.approx(weight, rel=1e-4)
        wanted = 0.3 / 0.7 * logged["norm_ce_image"][step] / logged["norm_image"][step]
        weight *= (wanted / weight) ** 0.25
    late = [logged["image"][step] for step in steps[len(steps) // 2 :]]
    assert np.mean(late) == pytest.approx(0.3, abs=0.1)
    own, ce = (logged[f"norm_{kind}image"][steps[0]] for kind in ("", "ce_"))
    assert logged["image"][steps[0]] == pytest.approx(0.1 * own / (0.1 * own + ce))  # still with the weight of 0.1


def test_a_vanished_gradient_does_not_send_the_weight_to_infinity():
    objective = make(LossConfig(share_image=0.5))
    ledger = GradientLedger(objective)
    ledger._adapt({"norm_image": 1e-30, "norm_ce_image": 1.0})
    ledger.measured["image"] = 1
    assert float(objective.term_weights[0]) == pytest.approx(1e4)
    ledger._adapt({"norm_image": 0.0, "norm_ce_image": 1.0})
    assert float(objective.term_weights[0]) == pytest.approx(1e4)


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, loop, batches) -> None:
        if loop.global_step + 1 == self.step:
            raise Killed


@pytest.mark.parametrize("step", [2, 9, 13])
def test_adapted_weights_survive_a_kill_bit_by_bit(tmp_path, step):
    loss = LossConfig(sample_k=4, share_image=0.5, share_spectrum=0.2, ledger_every=2)
    whole = loop_of(loss, save_every=3)
    whole.fit()
    with pytest.raises(Killed):
        loop_of(loss, save_every=3, output_dir=tmp_path, extra=(KillAt(step),)).fit()
    resumed = loop_of(loss, save_every=3, output_dir=tmp_path, resume="auto")
    resumed.fit()
    assert torch.equal(whole.objective.term_weights, resumed.objective.term_weights)
    assert not torch.equal(whole.objective.term_weights, torch.full((3,), 0.1))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_model_without_hidden_states_trains_without_a_ledger_and_refuses_shares():
    inner = make().model.float()
    loss = LossConfig(ledger_every=1)
    assert ledger_of(LanguageModelObjective(LogitsOnly(inner), VOCAB, make_codebooks(), loss)) == []
    shared = LanguageModelObjective(LogitsOnly(inner), VOCAB, make_codebooks(), replace(loss, share_image=0.1))
    with pytest.raises(ConfigError, match="share_image"):
        ledger_of(shared)


@pytest.mark.parametrize(
    "change",
    [
        {"share_image": 0.0},
        {"share_scalar": 1.0},
        {"share_image": 0.1, "ledger_every": None},
        {"share_spectrum": 0.1, "use_ce": False},
        {"share_image": 0.1, "enabled": False},
    ],
)
def test_shares_that_cannot_be_held_are_refused(change):
    with pytest.raises(ConfigError, match="share_"):
        make(LossConfig(**change))
