"""The callback examples of document 002, as they are written there, in a loop of the user's own."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch import nn

from astromodal.errors import ConfigError


def test_using_callbacks(tmp_path, monkeypatch, caplog):
    from src.astromodal.training.callbacks import (
        CallbackList,
        CheckpointCallback,
        EarlyStoppingCallback,
        MetricsCallback,
    )

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(40, 3)
    dataloader = (x @ torch.tensor([[1.0], [2.0], [-1.0]])).split(4)
    epochs = 50
    callbacks = CallbackList(
        [
            EarlyStoppingCallback(patience=20, monitor="val_loss"),
            CheckpointCallback(save_dir="checkpoints/", save_interval=10),
            MetricsCallback(log_interval=100),
        ]
    )
    callbacks.attach(model=model, optimizer=optimizer)  # what the document leaves out
    for epoch in range(epochs):
        callbacks.on_epoch_start(epoch)
        for batch_idx, batch in enumerate(dataloader):
            loss = nn.functional.mse_loss(model(x[4 * batch_idx : 4 * batch_idx + 4]), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            callbacks.on_batch_end(batch_idx, {"loss": loss.item()})
        val_loss = 1.0 + abs(epoch - 2)  # the best epoch is the third
        callbacks.on_epoch_end(epoch, {"val_loss": val_loss})
        if callbacks.should_stop():
            break
    assert epoch == 2 + 20
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "checkpoint_epoch_10.pt", "checkpoint_epoch_20.pt"]
    assert torch.load("checkpoints/best.pt", weights_only=True)["epoch"] == 3

    # "Checkpointing", loading
    checkpoint = torch.load("checkpoints/checkpoint_epoch_20.pt")
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    start_epoch = checkpoint["epoch"]
    assert start_epoch == 20


def test_callback_types():
    from src.astromodal.training.callbacks import (
        CheckpointCallback,
        CoveragePlateauCallback,
        EarlyStoppingCallback,
    )

    early_stop = EarlyStoppingCallback(
        patience=20,  # Epochs to wait
        monitor="val_loss",  # Metric to watch
        mode="min",  # "min" or "max"
        min_delta=1e-4,  # Minimum improvement
    )
    checkpoint = CheckpointCallback(
        save_dir="checkpoints/",
        save_interval=10,  # Save every N epochs
        save_best=True,  # Save best model
        monitor="val_loss",
    )
    coverage = CoveragePlateauCallback(
        patience=10,
        threshold=0.95,  # Target coverage
        min_improvement=0.01,
    )
    assert (early_stop.patience, early_stop.best.min_delta, checkpoint.save_interval) == (20, 1e-4, 10)
    for epoch in range(11):
        coverage.on_epoch_end(epoch, {"coverage": 0.96})
    assert coverage.should_stop()


def test_logging_and_monitoring(tmp_path, monkeypatch, capsys):
    from src.astromodal.core import MetricsBuffer, get_logger, setup_logging

    monkeypatch.chdir(tmp_path)
    root = logging.getLogger("astromodal")
    level, propagate = root.level, root.propagate
    epoch, loss, kl, global_step = 3, 0.25, torch.tensor(1.5), 100
    try:
        setup_logging(log_dir="logs/")
        logger = get_logger(__name__)

        # Metrics buffer for TensorBoard
        buffer = MetricsBuffer(tensorboard_dir="runs/")

        # During training
        logger.info(f"Epoch {epoch}: loss={loss:.4f}")
        buffer.add("train/loss", loss, step=global_step)
        buffer.add("train/kl", kl.item(), step=global_step)
        buffer.flush()
    finally:
        for handler in [h for h in root.handlers if getattr(h, "by_setup_logging", False)]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        root.propagate = propagate
    assert "Epoch 3: loss=0.2500" in capsys.readouterr().err
    assert "Epoch 3: loss=0.2500" in (tmp_path / "logs/astromodal.log").read_text()
    (record,) = [json.loads(line) for line in (tmp_path / "runs/metrics.jsonl").read_text().splitlines()]
    assert record["step"] == 100 and record["train/loss"] == 0.25 and record["train/kl"] == 1.5


def test_a_checkpoint_callback_without_a_model_says_so_before_the_first_epoch(tmp_path, caplog):
    from src.astromodal.training.callbacks import CallbackList, CheckpointCallback

    callbacks = CallbackList([CheckpointCallback(save_dir=tmp_path / "checkpoints", save_interval=1)])
    callbacks.on_epoch_start(0)
    assert "has no model and saves nothing" in caplog.text
    callbacks.on_epoch_end(0, {"val_loss": 1.0})
    assert len(caplog.records) == 1 and not (tmp_path / "checkpoints").exists()


def test_a_misspelt_metric_is_refused_at_once():
    from src.astromodal.training.callbacks import EarlyStoppingCallback

    with pytest.raises(ConfigError, match="val_lsos"):
        EarlyStoppingCallback(monitor="val_lsos").on_epoch_end(0, {"val_loss": 1.0})


def test_documented_callbacks_run_in_the_training_loop_too(tmp_path):
    from src.astromodal.training.callbacks import (
        Callback,
        CallbackList,
        CheckpointCallback,
        EarlyStoppingCallback,
        MetricsCallback,
    )
    from src.astromodal.training.loop import TrainingLoop
    from tests.training.toys import ToyLoader, ToyObjective, options

    class Own(Callback):
        """Written for a loop of one's own."""

        def __init__(self):
            self.seen = []

        def on_epoch_start(self, epoch):
            self.seen.append(("start", epoch))

        def on_epoch_end(self, epoch, logs):
            self.seen.append(("end", epoch, logs["val_loss"] is not None))

        def should_stop(self):
            return len(self.seen) >= 6

    own, metrics = Own(), MetricsCallback(log_interval=100, path=tmp_path / "mine.json")
    callbacks = CallbackList(
        [
            EarlyStoppingCallback(patience=20, monitor="val_loss"),
            CheckpointCallback(save_dir=tmp_path / "mine", save_interval=2),
            metrics,
            own,
        ]
    )
    loop = TrainingLoop(
        ToyObjective(),
        ToyLoader(),
        val_loader=ToyLoader(8),
        callbacks=callbacks,
        output_dir=tmp_path / "run",
        **options(epochs=9),
    )
    result = loop.fit()
    assert result.epochs == 3 and result.stopped_early and loop.stop_reason == "Own asks for it"
    assert own.seen == [("start", 0), ("end", 0, True), ("start", 1), ("end", 1, True), ("start", 2), ("end", 2, True)]
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["best.pt", "checkpoint_epoch_2.pt"]
    assert json.loads((tmp_path / "mine.json").read_text()) == metrics.history
    assert [r["val_loss"] for r in metrics.history] == [r["val_loss"] for r in result.history]
