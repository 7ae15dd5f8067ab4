"""The code of document 002 as it is written there; ``src.`` has become ``astromodal.recipes.ternary.``.

Only the sizes are smaller, and what the document leaves to the reader (a data loader, a file, names) is added.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from astromodal.errors import ConfigError
from astromodal.recipes.ternary.operations import TernaryOperations

YAML = """
epochs: 2
geometry: {latent_dim: 8, curvature: 1.0}
optimizer: {learning_rate: 1.0e-3}
"""


@pytest.fixture
def dataset():
    return Subset(TernaryOperations(one_hot=True), range(0, 19683, 300))  # 66 operations, one-hot


@pytest.fixture
def dataloader(dataset):
    return DataLoader(dataset, batch_size=22)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(YAML)
    torch.manual_seed(0)
    return tmp_path


def test_basic_training_loop_clipping_and_checkpointing(here, dataloader, capsys):
    import torch

    from astromodal.recipes.ternary.config import load_config
    from astromodal.recipes.ternary.geometry import RiemannianAdam
    from astromodal.recipes.ternary.losses import create_registry_from_training_config
    from astromodal.recipes.ternary.models import TernaryVAE

    # Load config
    config = load_config("config.yaml")

    # Create model
    model = TernaryVAE(
        input_dim=19683,
        latent_dim=config.geometry.latent_dim,
        curvature=config.geometry.curvature,
    )

    # Create optimizer (Riemannian for manifold params)
    optimizer = RiemannianAdam(model.parameters(), lr=config.optimizer.learning_rate)

    # Create loss registry
    loss_registry = create_registry_from_training_config(config)

    before = validate_as_documented(model, dataloader, loss_registry)
    model.train()

    # Training loop
    for epoch in range(config.epochs):
        for batch in dataloader:
            optimizer.zero_grad()

            outputs = model(batch)
            result = loss_registry.compose(outputs, batch)

            result.total.backward()

            from astromodal.recipes.ternary.config import DEFAULT_GRAD_CLIP

            # After backward, before optimizer step
            torch.nn.utils.clip_grad_norm_(
                model.parameters(),
                max_norm=DEFAULT_GRAD_CLIP,  # 1.0
            )
            optimizer.step()

        print(f"Epoch {epoch}: Loss = {result.total.item():.4f}")
    assert DEFAULT_GRAD_CLIP == 1.0
    assert capsys.readouterr().out.count("Loss = ") == 2
    assert validate_as_documented(model, dataloader, loss_registry) < before

    # Save
    torch.save(
        {
            "epoch": epoch,
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "config": config.to_dict(),
        },
        "checkpoint.pt",
    )

    # Load
    saved = model.state_dict()["encoder.0.weight"].clone()
    model = TernaryVAE(input_dim=19683, latent_dim=config.geometry.latent_dim, curvature=config.geometry.curvature)
    optimizer = RiemannianAdam(model.parameters(), lr=config.optimizer.learning_rate)
    checkpoint = torch.load("checkpoint.pt")
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    start_epoch = checkpoint["epoch"]
    assert start_epoch == 1 and torch.equal(model.state_dict()["encoder.0.weight"], saved)
    assert checkpoint["config"]["geometry"] == {"latent_dim": 8, "curvature": 1.0, "n_points": 16}


def validate_as_documented(model, val_loader, loss_registry):
    model.eval()
    total_loss = 0

    with torch.no_grad():
        for batch in val_loader:
            outputs = model(batch)
            result = loss_registry.compose(outputs, batch)
            total_loss += result.total.item()

    return total_loss / len(val_loader)


def test_validation_is_also_a_function(here, dataloader):
    from astromodal.recipes.ternary.config import load_config
    from astromodal.recipes.ternary.losses import create_registry_from_training_config
    from astromodal.recipes.ternary.models import TernaryVAE
    from astromodal.recipes.ternary.training import validate

    model, registry = TernaryVAE(19683, 8), create_registry_from_training_config(load_config())
    torch.manual_seed(1)
    expected = validate_as_documented(model, dataloader, registry)
    torch.manual_seed(1)
    assert validate(model, dataloader, registry) == pytest.approx(expected)


def test_using_callbacks(here):
    from astromodal.recipes.ternary.training.callbacks import (
        CallbackList,
        CheckpointCallback,
        CoveragePlateauCallback,
        EarlyStoppingCallback,
        MetricsCallback,
    )

    model = torch.nn.Linear(2, 1)
    dataloader, epochs = torch.randn(6, 4, 2), 40

    callbacks = CallbackList(
        [
            EarlyStoppingCallback(patience=20, monitor="val_loss"),
            CheckpointCallback(save_dir="checkpoints/", save_interval=10),
            MetricsCallback(log_interval=100),
        ]
    )
    callbacks.append(
        CoveragePlateauCallback(
            patience=10,
            threshold=0.95,  # Target coverage
            min_improvement=0.01,
        )
    )
    callbacks.attach(model=model)

    for epoch in range(epochs):
        # In training loop
        callbacks.on_epoch_start(epoch)

        for batch_idx, batch in enumerate(dataloader):
            loss = model(batch).square().mean()
            # ... training step ...
            callbacks.on_batch_end(batch_idx, {"loss": loss.item()})

        val_loss = 1.0 / (epoch + 1)
        callbacks.on_epoch_end(epoch, {"val_loss": val_loss, "coverage": min(1.0, 0.1 * epoch)})

        if callbacks.should_stop():
            break
    assert epoch == 20  # coverage reached 1 in epoch 10, and has not risen for 10 epochs
    assert (here / "checkpoints/checkpoint_epoch_10.pt").is_file()


def test_learning_rate_scheduling(here):
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

    from astromodal.recipes.ternary.config import load_config
    from astromodal.recipes.ternary.geometry import RiemannianAdam
    from astromodal.recipes.ternary.models import TernaryVAE

    config = load_config("config.yaml")
    optimizer = RiemannianAdam(TernaryVAE(81, 4).parameters(), lr=config.optimizer.learning_rate)

    # Cosine annealing
    scheduler = CosineAnnealingLR(optimizer, T_max=config.epochs)

    # With warmup
    warmup = LinearLR(optimizer, start_factor=0.1, total_iters=1000)
    main_scheduler = CosineAnnealingLR(optimizer, T_max=config.epochs)

    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        schedulers=[warmup, main_scheduler],
        milestones=[1000],
    )
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * (0.1 + 0.9 / 1000))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_mixed_precision_training(here, dataloader):
    from torch.cuda.amp import GradScaler, autocast

    from astromodal.recipes.ternary.config import load_config
    from astromodal.recipes.ternary.geometry import RiemannianAdam
    from astromodal.recipes.ternary.losses import create_registry_from_training_config
    from astromodal.recipes.ternary.models import TernaryVAE

    config = load_config("config.yaml")
    model = TernaryVAE(input_dim=19683, latent_dim=config.geometry.latent_dim, curvature=config.geometry.curvature)
    optimizer = RiemannianAdam(model.parameters(), lr=config.optimizer.learning_rate)
    loss_registry = create_registry_from_training_config(config)
    before = model.encoder[0].weight.detach().clone()

    scaler = GradScaler()

    for batch in dataloader:
        optimizer.zero_grad()

        with autocast():
            outputs = model(batch)
            result = loss_registry.compose(outputs, batch)

        scaler.scale(result.total).backward()
        scaler.step(optimizer)
        scaler.update()
    assert torch.isfinite(result.total) and not torch.equal(model.encoder[0].weight, before)


def test_distributed_training(here, dataset):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel as DDP

    from astromodal.recipes.ternary.config import load_config
    from astromodal.recipes.ternary.losses import create_registry_from_training_config
    from astromodal.recipes.ternary.models import TernaryVAE

    # Initialize ("nccl" needs GPUs; without torchrun the one process says where it is)
    dist.init_process_group("gloo", init_method=f"file://{here}/rendezvous", rank=0, world_size=1)
    try:
        # Wrap model
        model = TernaryVAE(input_dim=19683, latent_dim=4)
        model = DDP(model)

        # Use DistributedSampler
        sampler = torch.utils.data.DistributedSampler(dataset)
        dataloader = DataLoader(dataset, sampler=sampler, batch_size=33)
        registry = create_registry_from_training_config(load_config())
        for batch in dataloader:
            registry.compose(model(batch), batch).total.backward()
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


def test_curriculum_learning():
    from astromodal.recipes.ternary.config import load_config
    from astromodal.recipes.ternary.losses import create_registry_from_training_config
    from astromodal.recipes.ternary.models import CurriculumScheduler

    config, epochs = load_config(), 60
    registry = create_registry_from_training_config(config)

    scheduler = CurriculumScheduler(
        start_difficulty=0.1,
        end_difficulty=1.0,
        warmup_epochs=50,
    )

    for epoch in range(epochs):
        difficulty = scheduler.get_difficulty(epoch)

        # Use difficulty to filter data or adjust loss weights
        config.loss_weights.ranking = 0.1 * difficulty
        assert registry.weight("ranking") == pytest.approx(0.1 * min(1.0, 0.1 + 0.9 * epoch / 50))


def test_homeostasis_controller():
    from astromodal.recipes.ternary.models import HomeostasisController

    controller = HomeostasisController(
        target_kl=1.0,
        kl_tolerance=0.5,
    )
    current_kl, recon_loss, kl_loss, epochs = 4.0, 1.0, 1.0, 10
    betas = []
    for _epoch in range(epochs):
        # Get adaptive beta
        beta = controller.get_beta(current_kl)

        # Use in loss
        loss = recon_loss + beta * kl_loss

        # Update controller
        controller.update(current_kl)
        betas.append(beta)
    assert betas == sorted(betas) and betas[0] > 1.0 and loss == 1.0 + betas[-1]


def test_logging_and_monitoring(here):
    from astromodal.recipes.ternary.observability import MetricsBuffer, get_logger, setup_logging

    epoch, loss, kl, global_step = 3, 0.5, torch.tensor(1.25), 7

    # Setup logging
    setup_logging(log_dir="logs/")
    logger = get_logger(__name__)

    # Metrics buffer for TensorBoard
    buffer = MetricsBuffer(tensorboard_dir="runs/")

    # During training
    logger.info(f"Epoch {epoch}: loss={loss:.4f}")
    buffer.add("train/loss", loss, step=global_step)
    buffer.add("train/kl", kl.item(), step=global_step)
    buffer.flush()
    assert "Epoch 3: loss=0.5000" in (here / "logs/astromodal.log").read_text()
    assert '"train/kl": 1.25' in (here / "runs/metrics.jsonl").read_text()
    buffer.close()


def test_a_config_with_mistakes_is_refused_in_one_line(here):
    from astromodal.recipes.ternary.config import load_config

    for text, message in (("epoch: 3", "epoch"), ("epochs: many", "many"), ("- 1", "a mapping")):
        (here / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config("config.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        load_config("nowhere.yaml")
