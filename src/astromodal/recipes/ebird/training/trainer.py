"""``train_variational_autoencoder``: the public face of the one training loop for the denoising VAE."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....codecs.vector_vae import VariationalAutoencoder, VectorObjective
from ....config.schema import (
    Corruption,
    HardwareConfig,
    OptimizerConfig,
    OptimizerName,
    Precision,
    ScheduleConfig,
    ScheduleName,
    TrainingConfig,
)
from ....errors import ConfigError
from ....training.callbacks.hooks import Callback
from ....training.loop import TrainingLoop
from ....training.utils import available_device
from .checkpoints import go_on, loop_state, pending, plain_adam_state, write

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

PARTS = ("loss", "recon_loss", "kl_loss")
_METRICS = dict(zip(PARTS, ("loss", "reconstruction", "kl"), strict=True))


def train_variational_autoencoder(
    model: VariationalAutoencoder,
    train_loader: DataLoader,
    val_loader: DataLoader,
    num_epochs: int = 50,
    learning_rate: float = 1e-3,
    noise_std: float = 0.1,
    device: str | torch.device = "cpu",
    print_every: int = 1,
    checkpoint_dir: str | Path | None = None,
    save_every: int = 10,
    *,
    beta: float = 1.0,
    free_bits: float = 0.0,
    kl_warmup_steps: int = 0,
    corruption: Corruption | str = Corruption.gaussian,
    corruption_rate: float | None = None,
    seed: int | None = None,
    metadata: dict[str, Any] | None = None,
    **loop_options: Any,
) -> dict[str, list[float]]:
    """Train a VAE on corrupted input and clean targets with Adam; validate without corruption at the posterior mean.

    A model into which :func:`~.checkpoints.load_checkpoint` has loaded goes on from that checkpoint.

    Args:
        train_loader, val_loader: batches ``(B, S)``, alone, as the first of a tuple, or as ``x`` of a dict.
        num_epochs: epochs in all, those before a resume included.
        noise_std: of the Gaussian noise on the input; 0 trains a plain VAE.
        print_every: epochs between two printed lines; 0 prints nothing.
        checkpoint_dir: folder for ``checkpoint_epoch_<n>.pt``; ``None`` saves nothing.
        save_every: epochs between two checkpoints.
        beta, free_bits, kl_warmup_steps: weight of the divergence, nats per latent that cost nothing, and steps of its
            warm-up.
        corruption, corruption_rate: instead of noise ``masking`` or ``flip`` of a share of the input, for 0/1 data.
        seed: of the noise and of the draws from the posterior; default: what ``set_seed`` was called with.
        metadata: plain values that go into the checkpoints, beside the settings.
        loop_options: further arguments of :class:`~astromodal.training.loop.TrainingLoop` (``tracker``, ``resume``…).

    Returns:
        ``train_loss train_recon_loss train_kl_loss val_loss val_recon_loss val_kl_loss``, one number per epoch since
        the first (also after a resume), in nats per vector. Training losses are means over the epoch while the weights
        change, with noise and draws, so they may stay above those of the validation.

    Raises:
        ConfigError: a setting out of range. DataError: input that a Bernoulli likelihood cannot have.
        TrainingError: a loss that is not finite.
    """
    noisy = Corruption(corruption) == Corruption.gaussian
    amount = noise_std if noisy else corruption_rate
    if amount is None:
        raise ConfigError("corruption_rate, the share of the input", got="None", where=f"corruption={corruption}")
    settings = {
        "noise_std": noise_std,
        "learning_rate": learning_rate,
        "beta": beta,
        "free_bits": free_bits,
        "kl_warmup_steps": kl_warmup_steps,
        "corruption": Corruption(corruption).value,
        "corruption_rate": corruption_rate,
    }
    objective = VectorObjective(
        model,
        beta=beta,
        free_bits=free_bits,
        kl_warmup_steps=kl_warmup_steps,
        corruption=corruption,
        amount=amount,
    )
    history = EpochHistory(num_epochs, print_every)
    callbacks: list[Callback] = [history, *loop_options.pop("callbacks", ())]
    writer = None
    if checkpoint_dir is not None:
        writer = EpochCheckpoints(Path(checkpoint_dir), save_every, history, settings | dict(metadata or {}))
        callbacks.append(writer)
    options = {"device": device, "seed": seed, "callbacks": callbacks} | loop_options
    loop = _loop(objective, train_loader, val_loader, num_epochs, learning_rate, **options)
    checkpoint = pending(model)
    if checkpoint is not None:
        history.start_with(checkpoint["history"])
        go_on(loop, checkpoint, learning_rate)
    loop.fit()
    if writer is not None:
        writer.save_if_due(loop.epoch)
    return history.values


def _loop(
    objective: VectorObjective,
    train_loader: DataLoader,
    val_loader: DataLoader,
    num_epochs: int,
    learning_rate: float,
    *,
    device: str | torch.device,
    seed: int | None,
    **options: Any,
) -> TrainingLoop:
    """Adam at a constant rate in float32, unless ``options`` say otherwise."""
    defaults: dict[str, Any] = {
        "hardware": HardwareConfig(device=available_device(str(device)), precision=Precision.float32),
        "log": logging.getLogger("astromodal.recipes.ebird"),
        "seed": torch.initial_seed() % (1 << 63) if seed is None else seed,
    }
    steps = max(1, len(train_loader))
    return TrainingLoop(
        objective,
        BatchesOf(train_loader),
        val_loader=BatchesOf(val_loader),
        training=TrainingConfig(
            epochs=num_epochs, grad_clip=None, log_every=steps, save_every=None, monitor="val/loss"
        ),
        optimizer=OptimizerConfig(OptimizerName.adam, learning_rate, weight_decay=0.0, beta2=0.999),
        schedule=ScheduleConfig(ScheduleName.constant, warmup_steps=0),
        **defaults | options,
    )


class BatchesOf:
    """Batches of a loader as the objective takes them; its parts stay visible to the loop, which places them."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        for part in ("batch_sampler", "sampler", "dataset", "generator"):
            setattr(self, part, getattr(loader, part, None))

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._loader:
            if isinstance(batch, dict):
                batch = batch["x"]
            elif isinstance(batch, tuple | list):
                batch = batch[0]
            yield {"x": batch.to(torch.float32)}


class EpochHistory(Callback):
    """The public six lists, and a printed line every so many epochs."""

    def __init__(self, num_epochs: int, print_every: int = 1) -> None:
        self.num_epochs, self.print_every = num_epochs, print_every
        self.values: dict[str, list[float]] = {f"{side}_{part}": [] for side in ("train", "val") for part in PARTS}
        self._sums: dict[str, Tensor] = {}
        self._n = self._step_n = 0

    def start_with(self, history: dict[str, list[float]] | None) -> None:
        """What an earlier part of the training has measured."""
        for key, values in (history or {}).items():
            if key in self.values:
                self.values[key] = [float(value) for value in values]

    def on_step_begin(self, loop: TrainingLoop, batches: list[dict[str, Any]]) -> None:
        self._step_n = sum(len(batch["x"]) for batch in batches)

    def on_step_end(self, loop: TrainingLoop) -> None:
        for share in loop.guard.trace.shares:  # type: ignore[union-attr]
            for name in _METRICS.values():
                value = share[name].detach().to(torch.float32) * self._step_n
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._n += self._step_n

    def on_epoch_recorded(self, loop: TrainingLoop, record: dict[str, Any]) -> None:
        for part, name in _METRICS.items():
            self.values[f"train_{part}"].append(float(self._sums[name]) / self._n)
            self.values[f"val_{part}"].append(float(record[f"val/{name}"]))
        self._sums, self._n = {}, 0
        epoch = record["epoch"]
        if self.print_every > 0 and (epoch % self.print_every == 0 or epoch == self.num_epochs):
            print(self.line(epoch))

    def line(self, epoch: int) -> str:
        """The last epoch in words; losses in nats per vector."""
        train, val = ([self.values[f"{side}_{part}"][-1] for part in PARTS] for side in ("train", "val"))
        parts = "{:.3f} (reconstruction {:.3f}, KL {:.3f})"
        return f"epoch {epoch}/{self.num_epochs}: train {parts.format(*train)}, val {parts.format(*val)}"

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "sums": self._sums, "n": self._n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start_with(state["values"])
        self._sums, self._n = dict(state["sums"]), int(state["n"])


class EpochCheckpoints(Callback):
    """``checkpoint_epoch_<n>.pt`` every so many epochs, written when the next one begins: between two epochs nothing
    is half done.

    Raises:
        ConfigError: fewer than one epoch between two checkpoints.
    """

    def __init__(self, folder: Path, save_every: int, history: EpochHistory, metadata: dict[str, Any]) -> None:
        if save_every < 1:
            raise ConfigError("save_every of 1 or more", got=save_every, repair="checkpoint_dir=None saves nothing")
        self.folder, self.save_every, self.history, self.metadata = folder, save_every, history, metadata
        self.loop: TrainingLoop | None = None
        self.done = 0  # complete epochs that were there at the start, or are saved

    def on_fit_start(self, loop: TrainingLoop) -> None:
        self.loop, self.done = loop, loop.epoch

    def on_epoch_start(self, epoch: int) -> None:
        self.save_if_due(epoch)

    def save_if_due(self, epoch: int) -> None:
        """Write the checkpoint of so many complete epochs, unless it is there."""
        loop = self.loop
        if loop is None or epoch <= self.done or epoch % self.save_every:
            return
        self.done = epoch
        values, model = self.history.values, loop.model
        sizes = {
            name: getattr(model, name, None) for name in ("input_dimension", "latent_dimension", "hidden_dimension")
        }
        short = {"latent_dim": sizes["latent_dimension"], "hidden_dim": sizes["hidden_dimension"]}
        write(
            self.folder / f"checkpoint_epoch_{epoch}.pt",
            model.state_dict(),
            plain_adam_state(loop),
            epoch,
            (values["train_loss"][-1], values["val_loss"][-1]),
            values,
            sizes | short | self.metadata,
            loop_state(loop),
        )
