"""The network and the trainer of the masked autoencoder: masks, averages, exact resume, early stopping, bad input."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from astromodal.errors import ArtifactError, ConfigError, DataError
from astromodal.recipes.chemomae.models import ChemoMAE
from astromodal.recipes.chemomae.training.optim import build_optimizer, build_scheduler
from astromodal.recipes.chemomae.training.trainer import Trainer, TrainerConfig

SMALL = {"seq_len": 24, "latent_dim": 4, "n_blocks": 6, "n_mask": 3, "d_model": 16, "nhead": 2, "num_layers": 2}


def spectra(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    phase, amount = 6 * torch.rand(n, 1, generator=generator), torch.rand(n, 1, generator=generator)
    return amount + torch.sin(torch.linspace(0, 6, 24) + phase) + 0.01 * torch.randn(n, 24, generator=generator)


def make(folder, *, epochs=4, model=None, loaders=None, seed=0, lr=3e-3, **config):
    torch.manual_seed(seed)
    model = ChemoMAE(**SMALL) if model is None else model
    train = DataLoader(TensorDataset(spectra(), torch.arange(40)), batch_size=8, shuffle=True)
    train, val = (train, [spectra(16, 1)[:8], spectra(16, 1)[8:]]) if loaders is None else loaders
    optimizer = build_optimizer(model, lr=lr)
    scheduler = build_scheduler(optimizer, steps_per_epoch=len(train), epochs=epochs, warmup_epochs=1)
    settings = TrainerConfig(out_dir=folder, device="cpu", ema_decay=0.9, **config)
    return Trainer(model, optimizer, train, val, scheduler=scheduler, cfg=settings)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


# ------------------------------------------------------------------------------------------ network


@pytest.mark.parametrize("patch_size", [1, 2])
def test_hidden_values_do_not_reach_the_latent(patch_size):
    torch.manual_seed(0)
    model = ChemoMAE(**SMALL, patch_size=patch_size).eval()
    x = spectra(5)
    x_recon, z, visible = model(x)
    assert (x_recon.shape, z.shape, visible.shape, visible.dtype) == ((5, 24), (5, 4), (5, 24), torch.bool)
    assert ((~visible).sum(1) == 12).all() and len({tuple(row) for row in visible.tolist()}) > 1
    again, z_again, _ = model(torch.where(visible, x, 1e3), visible)
    assert torch.equal(z_again, z) and torch.equal(again, x_recon)
    assert torch.allclose(z.norm(dim=1), torch.ones(5))


def test_masks_that_hide_different_numbers_of_blocks_work_row_by_row():
    torch.manual_seed(0)
    model, x = ChemoMAE(**SMALL).eval(), spectra(4)
    visible = torch.ones(4, 24, dtype=torch.bool)
    visible[0, :4] = visible[1, 8:16] = visible[2, :12] = False
    x_recon, z, _ = model(x, visible)
    for row in range(4):
        alone, z_alone, _ = model(x[row : row + 1], visible[row : row + 1])
        torch.testing.assert_close(alone[0], x_recon[row])
        torch.testing.assert_close(z_alone[0], z[row])
    torch.testing.assert_close(model.encode(x)[3], z[3])
    x_recon.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_drawn_masks_follow_torchs_generator():
    model, x = ChemoMAE(**SMALL), spectra(6)
    torch.manual_seed(5)
    first, second = model(x)[2], model(x)[2]
    torch.manual_seed(5)
    assert torch.equal(model(x)[2], first) and not torch.equal(first, second)


def test_wrong_shapes_masks_and_settings_are_refused():
    model, x = ChemoMAE(**SMALL), spectra(2)
    for wrong in (torch.zeros(2, 25), torch.zeros(24), torch.zeros(2, 1, 24)):
        with pytest.raises(ValueError, match=r"expected x of shape \(B, 24\)"):
            model(wrong)
    mask = torch.ones(2, 24, dtype=torch.bool)
    with pytest.raises(ValueError, match="visible_mask of bool"):
        model(x, mask.float())
    mask[0, 2] = False
    with pytest.raises(ValueError, match="blocks of 4 values wholly visible or hidden"):
        model(x, mask)
    with pytest.raises(ValueError, match="at least one visible block"):
        model(x, torch.zeros(2, 24, dtype=torch.bool))
    for changes, text in (
        ({"seq_len": 25}, "a seq_len that n_blocks = 6 divides, got 25"),
        ({"n_mask": 6}, "n_mask from 0 to below n_blocks = 6, got 6"),
        ({"patch_size": 3}, "a patch_size that divides blocks of 4 values, got 3"),
        ({"nhead": 3}, "a width that 3 heads divide"),
        ({"latent_dim": 0}, "latent_dim of 1 or more"),
    ):
        with pytest.raises(ConfigError, match=text):
            ChemoMAE(**(SMALL | changes))


# ---------------------------------------------------------------------------------- optimizer, schedule


def test_only_matrices_decay():
    model = ChemoMAE(**SMALL)
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.3)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith("weight") and parameter.ndim == 2
        assert decay[id(parameter)] == (0.3 if is_matrix else 0.0), name
    assert len(decay) == len(list(model.parameters()))


def test_the_schedule_warms_up_and_ends_at_its_floor():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_scheduler(optimizer, steps_per_epoch=5, epochs=10, warmup_epochs=2, min_lr_scale=0.1)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0) and rates[-1] == pytest.approx(0.2)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    with pytest.raises(ConfigError, match="warmup_epochs of 0 or more, got -1"):
        build_scheduler(optimizer, steps_per_epoch=5, epochs=10, warmup_epochs=-1)


def test_the_loop_uses_the_callers_schedule_and_leaves_it_where_it_would_be(tmp_path):
    trainer = make(tmp_path, epochs=4)
    by_hand = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-3)
    reference = build_scheduler(by_hand, steps_per_epoch=5, epochs=4, warmup_epochs=1)
    trainer.fit(epochs=4)
    for _ in range(19):
        by_hand.step()
        reference.step()
    assert trainer.history[-1]["lr"] == pytest.approx(by_hand.param_groups[0]["lr"])
    assert trainer.scheduler.last_epoch == 20


# ---------------------------------------------------------------------------------------- training


def test_training_learns_and_says_what_was_best(tmp_path):
    trainer = make(tmp_path, epochs=60)
    trainer.loop.saver.store = None  # writing sixty checkpoints would take most of the time
    before = trainer.validate()
    result = trainer.fit(epochs=60)
    losses = [record["val_loss"] for record in trainer.history]
    assert result["epochs"] == 60 and result["best"]["val_loss"] == min(losses) < 0.4 * before
    assert losses[result["best"]["epoch"] - 1] == min(losses)


def test_the_validation_masks_are_the_same_every_time_and_the_best_weights_the_validated_ones(tmp_path):
    trainer = make(tmp_path, epochs=6)
    result = trainer.fit(epochs=6)
    assert trainer.validate() == trainer.validate() == trainer.history[-1]["val_loss"]
    best = ChemoMAE.load(tmp_path / "best_model.pt")
    again = make(tmp_path / "other", model=best, use_ema=False)
    assert again.validate() == pytest.approx(result["best"]["val_loss"], rel=1e-6)
    averaged, own = torch.load(tmp_path / "best_model.pt", weights_only=True)["model_state_dict"], weights(trainer)
    assert any(not torch.equal(averaged[name], own[name]) for name in own)


class Killed(Exception):
    pass


class KillingLoader:
    """Ends the process, as it were, before a batch of some epoch; has a sampler like any DataLoader."""

    def __init__(self, loader, after):
        self.loader, self.after = loader, after

    def __getattr__(self, name):
        return getattr(self.__dict__["loader"], name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            if self.after == 0:
                raise Killed
            self.after -= 1
            yield batch


@pytest.mark.parametrize("after", [7, 10, 18])
def test_a_killed_run_that_goes_on_ends_with_the_same_bits(tmp_path, after):
    whole = make(tmp_path / "whole", early_stop_patience=3)
    result = whole.fit(epochs=4)
    killed = make(tmp_path / "killed", early_stop_patience=3)
    killed.loop.feed.loader.wrapped = KillingLoader(killed.loop.feed.loader.wrapped, after)
    with pytest.raises(Killed):
        killed.fit(epochs=4)
    resumed = make(tmp_path / "killed", seed=123, early_stop_patience=3)  # other weights, before it resumes
    assert resumed.fit(epochs=4) == result
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())
    files = [tmp_path / run / "training_history.json" for run in ("whole", "killed")]
    assert files[0].read_text() == files[1].read_text()
    states = [torch.load(tmp_path / run / "checkpoints/last.pt", weights_only=True) for run in ("whole", "killed")]
    for name, value in states[0]["ema"]["shadow"].items():
        assert torch.equal(states[1]["ema"]["shadow"][name], value)
    assert states[0]["callbacks"] == states[1]["callbacks"] and states[0]["callbacks"]  # early stopping
    assert torch.equal(states[0]["rng"][0]["torch"], states[1]["rng"][0]["torch"])


def test_a_finished_run_goes_on_to_more_epochs_and_its_history_is_appended_to(tmp_path):
    make(tmp_path, epochs=5).fit(epochs=2)
    first = json.loads((tmp_path / "training_history.json").read_text())
    trainer = make(tmp_path, epochs=5)
    assert trainer.fit(epochs=5)["epochs"] == 5
    records = json.loads((tmp_path / "training_history.json").read_text())
    assert records[:2] == first and [record["epoch"] for record in records] == [1, 2, 3, 4, 5]
    fresh = make(tmp_path, epochs=5, resume_from=None)
    assert fresh.fit(epochs=1)["epochs"] == 1


def test_a_resume_with_another_loss_or_network_is_refused(tmp_path):
    make(tmp_path).fit(epochs=1)
    with pytest.raises(ConfigError, match="reduction: mean -> sum"):
        make(tmp_path, reduction="sum").fit(epochs=2)
    with pytest.raises(ConfigError, match="n_mask: 3 -> 2"):
        make(tmp_path, model=ChemoMAE(**(SMALL | {"n_mask": 2}))).fit(epochs=2)


def test_load_checkpoint_returns_the_next_epoch(tmp_path):
    make(tmp_path / "a", epochs=5).fit(epochs=2)
    trainer = make(tmp_path / "b", epochs=5, resume_from=None)
    assert trainer.load_checkpoint(tmp_path / "a/checkpoints/last.pt") == 3
    assert trainer.fit(epochs=3)["epochs"] == 3 and len(trainer.history) == 3
    with pytest.raises(ArtifactError, match="a checkpoint"):
        trainer.load_checkpoint(tmp_path / "nothing.pt")


def test_a_loop_of_ones_own_over_single_epochs_is_the_same_training(tmp_path):
    whole, single = make(tmp_path / "whole"), make(tmp_path / "single")
    whole.fit(epochs=4)
    losses = [(single.train_one_epoch(), single.validate()) for _ in range(4)]
    single.save_checkpoint(4, is_best=True)
    single.save_weights_only("mine.pt")
    assert losses == [(record["train_loss"], record["val_loss"]) for record in whole.history]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(single).items())
    assert (tmp_path / "single/checkpoints/best.pt").is_file()
    assert ChemoMAE.load(tmp_path / "single/mine.pt").settings == single.model.settings


def test_early_stopping_counts_from_its_start(tmp_path):
    trainer = make(tmp_path, epochs=20, lr=0.0, early_stop_patience=2, early_stop_start_ratio=0.5)
    result = trainer.fit(epochs=20)  # nothing ever improves: from epoch 10 on it counts
    assert result["epochs"] == 11 and result["best"]["epoch"] == 1


def test_without_validation_the_last_weights_are_kept(tmp_path):
    trainer = make(tmp_path, loaders=([spectra(8), spectra(8, 2)], None))
    result = trainer.fit(epochs=2)
    assert result["epochs"] == result["best"]["epoch"] == 2 and math.isnan(result["best"]["val_loss"])
    assert ChemoMAE.load(tmp_path / "best_model.pt").n_mask == 3
    with pytest.raises(ConfigError, match="a val_loader"):
        trainer.validate()


@pytest.mark.parametrize(("loss_type", "reduction"), [("mse", "mean"), ("sse", "sum"), ("sse", "batch_mean")])
def test_reductions_are_related_as_their_names_say(tmp_path, loss_type, reduction):
    factor = {"mean": 1, "sum": 8 * 12, "batch_mean": 12}[reduction]  # 8 spectra per batch, 12 hidden values each
    plain = make(tmp_path / "plain").validate()
    assert make(tmp_path / "other", loss_type=loss_type, reduction=reduction).validate() == pytest.approx(
        factor * plain, rel=1e-5
    )


class OwnModel(nn.Module):
    """A model of the user's, which draws its own masks."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(24, 24)

    def forward(self, x):
        visible = torch.rand_like(x) > 0.5
        x_recon = self.layer(torch.where(visible, x, 0.0))
        return x_recon, x_recon[:, :4], visible


def test_any_model_that_returns_the_three_can_be_trained(tmp_path):
    trainer = make(tmp_path, model=OwnModel(), epochs=10, lr=1e-2)
    before = trainer.validate()
    assert trainer.fit(epochs=10)["best"]["val_loss"] < before and trainer.validate() == trainer.validate()


def test_bad_input_is_explained(tmp_path):
    with pytest.raises(ConfigError, match="a loader with a length"):
        make(tmp_path, loaders=([spectra(8)], iter([spectra(8)])))
    for batch, got in (({"x": 1}, "got dict"), (torch.zeros(2, 1, 24), r"got Tensor \(2, 1, 24\)")):
        with pytest.raises(DataError, match=got):
            make(tmp_path, loaders=([batch], None)).fit(epochs=1)
    with pytest.raises(ConfigError, match="loss_type of mse, sse, got huber"):
        TrainerConfig(loss_type="huber")
    optimizer = build_optimizer(ChemoMAE(**SMALL))
    step = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with pytest.raises(ConfigError, match="a LambdaLR with one factor for all parameters, got StepLR"):
        Trainer(ChemoMAE(**SMALL), optimizer, [spectra(8)], scheduler=step, cfg=TrainerConfig(out_dir=tmp_path))
    with pytest.warns(UserWarning, match="no CUDA device"):
        Trainer(ChemoMAE(**SMALL), optimizer, [spectra(8)], device="cuda:7", cfg=TrainerConfig(out_dir=tmp_path))
