"""The denoising VAE of checklists: exact resume, the plain loop as oracle, checkpoints, measures, the experiment."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from astromodal import stages
from astromodal.codecs.variational import bernoulli_nats, kl_divergence, sample_posterior
from astromodal.config.checks.validate import validate
from astromodal.config.launching.register import conf_dir, register
from astromodal.errors import ArtifactError, ConfigError, DataError, UnsafeFileError
from astromodal.recipes.ebird.data import create_dataloaders, create_species_matrix, load_ebird_data, split_train_val
from astromodal.recipes.ebird.measures import bound_nats, marginal_nats, principal_nats, reconstruction_nats
from astromodal.recipes.ebird.models import VariationalAutoencoder
from astromodal.recipes.ebird.training import (
    load_checkpoint,
    save_checkpoint,
    set_seed,
    train_variational_autoencoder,
)
from astromodal.training.callbacks import Callback

SIZE = 20


def data(n: int = 60) -> torch.utils.data.TensorDataset:
    p = torch.rand(SIZE, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.TensorDataset(
        torch.bernoulli(p.expand(n, SIZE), generator=torch.Generator().manual_seed(2))
    )


def loaders(kind: str = "ours"):
    train, val = torch.utils.data.Subset(data(), range(45)), torch.utils.data.Subset(data(), range(45, 60))
    if kind == "torch":  # shuffled by the global generator
        return (
            torch.utils.data.DataLoader(train, batch_size=10, shuffle=True),
            torch.utils.data.DataLoader(val, batch_size=10),
        )
    return create_dataloaders(*split_train_val(data().tensors[0].numpy(), [str(i) for i in range(SIZE)]), batch_size=10)


def new_model(seed: int = 0) -> VariationalAutoencoder:
    set_seed(seed)
    return VariationalAutoencoder(SIZE, 3, 16)


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def train(model, pair, num_epochs, **settings):
    return train_variational_autoencoder(model, *pair, num_epochs=num_epochs, print_every=0, **settings)


@pytest.mark.parametrize("kind", ["ours", "torch"])
@pytest.mark.parametrize("settings", [{}, {"kl_warmup_steps": 20, "corruption": "masking", "corruption_rate": 0.2}])
def test_a_resumed_training_is_bit_identical(kind, settings, tmp_path):
    whole = new_model()
    expected = train(whole, loaders(kind), 6, checkpoint_dir=tmp_path, save_every=2, **settings)
    for epoch in (2, 4):
        resumed = new_model(seed=99)
        pair = loaders(kind) if kind == "torch" else (set_seed(0), loaders(kind))[1]
        content = load_checkpoint(tmp_path / f"checkpoint_epoch_{epoch}.pt", resumed)
        torch.randn(17)  # whatever happened in between
        set_seed(1234)
        history = train(resumed, pair, 6, **settings)
        assert content["epoch"] == epoch and history == expected
        assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    again = train(resumed, pair, 6, **settings)  # what was loaded is used up: a new training of this model
    assert len(again["val_loss"]) == 6 and again != expected


def test_the_loop_does_what_the_plain_loop_does(tmp_path):
    """Adam on summed cross-entropy and KL, averaged over the batch, written out."""
    pair = loaders("torch")
    ours = new_model()
    history = train(ours, pair, 3, noise_std=0.2, seed=5)
    plain = new_model()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    set_seed(5)
    losses = []
    for _ in range(3):
        for (x,) in pair[0]:
            mean, log_variance = plain.encode(x + 0.2 * torch.randn_like(x))
            decoded = plain.decode(sample_posterior(mean, log_variance))
            loss = (bernoulli_nats(decoded, x).sum() + kl_divergence(mean, log_variance).sum()) / len(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append((float(loss.detach()), len(x)))
    for a, b in zip(weights(ours), weights(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    per_epoch = np.array(losses).reshape(3, -1, 2)
    expected = (per_epoch[..., 0] * per_epoch[..., 1]).sum(1) / per_epoch[..., 1].sum(1)
    assert history["train_loss"] == pytest.approx(expected.tolist(), rel=1e-5)
    x = torch.cat([x for (x,) in pair[1]])
    assert history["val_recon_loss"][-1] == pytest.approx(reconstruction_nats(plain.eval(), x), rel=1e-4)


def test_a_checkpoint_of_ones_own_loop_brings_optimizer_and_epoch(tmp_path):
    model = new_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(7):
        model(data().tensors[0])[0].square().mean().backward()
        optimizer.step()
    save_checkpoint(model, optimizer, 2, 1.0, 2.0, tmp_path / "own.pt", {"train_loss": [3.0, 1.0]})
    fresh = new_model(5)
    load_checkpoint(tmp_path / "own.pt", fresh)
    history = train(fresh, loaders(), 3, checkpoint_dir=tmp_path, save_every=1)
    assert [len(history[k]) for k in ("train_loss", "val_loss")] == [3, 1] and history["train_loss"][:2] == [3.0, 1.0]
    saved = torch.load(tmp_path / "checkpoint_epoch_3.pt", weights_only=True)
    steps = {float(state["step"]) for state in saved["optimizer_state_dict"]["state"].values()}
    assert steps == {7.0 + len(loaders()[0])} and not (tmp_path / "checkpoint_epoch_2.pt").exists()


def test_the_saved_optimizer_is_that_of_plain_adam(tmp_path):
    model = new_model()
    train(model, loaders(), 1, checkpoint_dir=tmp_path, save_every=1)
    other = new_model(3)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.5)
    load_checkpoint(tmp_path / "checkpoint_epoch_1.pt", other, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3) and len(optimizer.param_groups) == 1
    for parameter in other.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    other(data().tensors[0])[0].sum().backward()
    optimizer.step()


def test_callbacks_join_in_and_a_resume_takes_the_new_learning_rate(tmp_path):
    rates = []

    class Rates(Callback):
        def on_log(self, loop, values):
            rates.append(values["optim/lr"])

    model = new_model()
    history = train(model, loaders(), 1, checkpoint_dir=tmp_path, save_every=1, callbacks=[Rates()])
    load_checkpoint(tmp_path / "checkpoint_epoch_1.pt", model)
    longer = train(model, loaders(), 2, learning_rate=5e-4, corruption_rate=0.9, callbacks=[Rates()])
    assert rates == pytest.approx([1e-3, 5e-4]) and longer["val_loss"][:1] == history["val_loss"]


def test_asking_for_no_more_epochs_changes_nothing(tmp_path):
    model = new_model()
    expected = train(model, loaders(), 2, checkpoint_dir=tmp_path, save_every=2)
    before = weights(model)
    load_checkpoint(tmp_path / "checkpoint_epoch_2.pt", model)
    assert train(model, loaders(), 2) == expected
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


class Bomb:
    def __reduce__(self):
        return os.system, ("echo executed",)


def test_checkpoints_that_cannot_be_used(tmp_path):
    model = new_model()
    train(model, loaders(), 1, checkpoint_dir=tmp_path, save_every=1)
    path = tmp_path / "checkpoint_epoch_1.pt"
    with pytest.raises(ArtifactError, match=r"weights of this VariationalAutoencoder"):
        load_checkpoint(path, VariationalAutoencoder(SIZE, 4, 16))
    with pytest.raises(ArtifactError, match="the state of this optimizer"):
        load_checkpoint(path, model, torch.optim.Adam([model.latent_mean_layer.weight]))
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ArtifactError):
        load_checkpoint(tmp_path / "cut.pt", model)
    torch.save({"epoch": 1}, tmp_path / "other.pt")
    with pytest.raises(ArtifactError, match="without model_state_dict"):
        load_checkpoint(tmp_path / "other.pt", model)
    torch.save({"epoch": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UnsafeFileError):
        load_checkpoint(tmp_path / "bomb.pt", model)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model = new_model()
    optimizer = torch.optim.Adam(model.parameters())
    save_checkpoint(model, optimizer, 1, 1.0, 1.0, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ArtifactError, match="room on the disk"):
        save_checkpoint(model, optimizer, 2, 1.0, 1.0, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_settings_and_data_that_cannot_be(tmp_path):
    pair = loaders()
    for settings, message in (
        ({"corruption": "flip"}, "corruption_rate"),
        ({"noise_std": -1.0}, "noise_std"),
        ({"checkpoint_dir": tmp_path, "save_every": 0}, "save_every of 1"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(new_model(), pair, 1, **settings)
    counts = 3 * data().tensors[0].numpy()
    numbers = create_dataloaders(*split_train_val(counts, [str(i) for i in range(SIZE)]))
    with pytest.raises(DataError, match=r"input in \[0, 1\].*got values from 0 to 3"):
        train(new_model(), numbers, 1)


def test_loaders_give_dense_rows_in_the_order_of_seed_and_epoch():
    matrix = data().tensors[0].numpy()
    train_data, val_data = split_train_val(matrix, [str(i) for i in range(SIZE)], val_size=0.25)
    assert (len(train_data), len(val_data)) == (45, 15)
    set_seed(3)
    first, _ = create_dataloaders(train_data, val_data, batch_size=10)
    set_seed(3)
    second, val_loader = create_dataloaders(train_data, val_data, batch_size=10, pin_memory=True)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b) and a.dtype == torch.float32
    rows = torch.cat(list(val_loader)).numpy()
    assert np.array_equal(rows, matrix[[int(i) for i in val_data.ids]])
    assert torch.equal(train_data[4], torch.from_numpy(matrix[int(train_data.ids[4])]))


# ------------------------------------------------------------------------------------ measures


def test_the_bound_comes_down_to_the_likelihood_by_quadrature():
    set_seed(0)
    model = VariationalAutoencoder(6, 1, 8).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    x = torch.bernoulli(torch.full((40, 6), 0.4), generator=torch.Generator().manual_seed(0))
    z = torch.linspace(-8, 8, 4001)[:, None]
    log_prior = -0.5 * z[:, 0].square() - 0.5 * np.log(2 * np.pi)
    with torch.no_grad():
        log_likelihood = -bernoulli_nats(model.decode(z).expand(40, len(z), 6), x[:, None].expand(40, len(z), 6)).sum(
            -1
        )
        exact = -torch.logsumexp(log_likelihood + log_prior + np.log(16 / 4000), 1).mean()
    bounds = [bound_nats(model, x, n_draws) for n_draws in (1, 8, 20_000)]
    assert bounds[0] > bounds[1] > bounds[2] == pytest.approx(float(exact), abs=0.02)


def test_baselines():
    x = (torch.arange(40)[:, None] % 2 == torch.tensor([0, 0, 1])).float()  # one hidden number decides everything
    assert marginal_nats(x, x) == pytest.approx(3 * np.log(2), rel=1e-3)
    assert principal_nats(x, x, 1) < 0.2
    assert principal_nats(x, x, 8) < 0.2  # more components than there are species


# ------------------------------------------------------------------------------------ the experiment


def configuration(folder, *overrides):
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(
            "train_tokenizers",
            overrides=[
                "experiment=ebird_vae",
                "hardware=cpu",
                "hardware.n_threads=1",
                "tracking=off",
                f"paths.store={folder}/a",
                "recipe.made_up.n_checklists=500",
                "recipe.made_up.n_species=40",
                "recipe.made_up.n_habitats=3",
                "recipe.hidden_dimension=32",
                "recipe.latent_dimension=4",
                "recipe.batch_size=32",
                *overrides,
            ],
        )


def run(folder, name, *overrides) -> dict:
    cfg = configuration(folder, f"run_dir={folder}/{name}", f"run_id={name}", *overrides)
    stages.train_tokenizers(cfg)
    return json.loads((folder / name / "figures.json").read_text())


def test_the_experiment_resumes_and_writes_what_it_found(tmp_path):
    whole = run(tmp_path, "whole", "recipe.epochs=4")
    files = sorted(p.name for p in (tmp_path / "a" / "checklists").glob("*/*"))
    assert files == ["ebd.txt.gz", "ebd_sampling.txt.gz"]
    assert whole["nats_best_possible"] < min(whole["nats_marginal"], whole["nats"])
    assert whole["checklists_val"] == round(0.2 * (whole["checklists_train"] + whole["checklists_val"]))
    assert whole["epochs"] == 4 and 0 <= whole["active_units"] <= 4 == whole["latents"]
    for name in ("plots/curves.png", "plots/latents.png", "best_model.pt", "history.json", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).stat().st_size > 0
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["checklists"]["category_spuh"] > 0
    run(tmp_path, "half", "recipe.epochs=2")
    resumed = run(tmp_path, "resumed", "recipe.epochs=4", f"recipe.resume_from={tmp_path}/half")
    assert resumed == whole
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "resumed")]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.val_size=0", r"recipe\.val_size > 0, got 0"),
        ("recipe.val_size=1", r"recipe\.val_size < 1, got 1"),
        ("recipe.corruption_rate=1.5", r"recipe\.corruption_rate <= 1, got 1\.5"),
        ("recipe.made_up.n_species=1", r"recipe\.made_up\.n_species >= 2, got 1"),
    ],
)
def test_settings_of_the_experiment_are_checked_before_any_work(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        validate(configuration(tmp_path, override), "train_tokenizers")


def test_the_experiment_reads_a_file_of_ones_own(tmp_path):
    from astromodal.recipes.ebird.checklist_generator import ChecklistGenerator

    ChecklistGenerator(300, 30, 2, seed=9, layout="old").write(tmp_path / "ebd.txt")
    figures = run(
        tmp_path,
        "own",
        "recipe.epochs=1",
        f"recipe.path={tmp_path}/ebd.txt",
        "recipe.nrows=3000",
        "recipe.corruption=flip",
    )
    assert "nats_best_possible" not in figures and figures["species"] <= 30
    matrix, species = create_species_matrix(load_ebird_data(tmp_path / "ebd.txt", nrows=3000), 30)
    assert figures["species"] == len(species) and figures["checklists_train"] + figures["checklists_val"] == len(matrix)
