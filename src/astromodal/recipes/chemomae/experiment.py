"""``train_tokenizers.py experiment=spectrum_mae``: a masked autoencoder of spectra, and how good it is.

Judged on spectra that took no part in training: the error at hidden values beside that of the mean spectrum and of
straight lines across the gaps, and how well a ridge regression reads the file's labels off the latent vectors, beside
as many principal components of the spectra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from ...codecs.masked_autoencoder import largest_divisor
from ...codecs.masking import VALIDATION_STEP, hidden_blocks, visible_mask
from ...config.schema import Config, Precision, SpectrumMAERecipeConfig
from ...errors import ConfigError
from ...files.json_files import read_json
from ...machine.random import seed_everything
from ...runs.run import RunContext
from .figures import plot_examples, plot_learning
from .measures import filled_by_lines, probe_labels
from .models import ChemoMAE
from .nir import SpectraSet, normalised, read_spectra_set, split_rows, synthetic_spectra
from .training.optim import build_optimizer, build_scheduler
from .training.trainer import Trainer, TrainerConfig

ENCODED_AT_ONCE = 256


def run(config: Config, run: RunContext) -> dict[str, Any]:
    """Train, measure, draw; returns errors at hidden values of the test spectra and how well labels are read."""
    recipe: SpectrumMAERecipeConfig = config.recipe
    spectra = read_set(recipe, config.seed)
    n_values = spectra.x.shape[1] // recipe.n_blocks * recipe.n_blocks
    if not n_values:
        raise ConfigError(
            f"at most {spectra.x.shape[1]} blocks, the values of a spectrum",
            got=recipe.n_blocks,
            where="recipe.n_blocks",
        )
    x = torch.from_numpy(normalised(spectra.x, recipe.normalize)[:, :n_values].copy())
    rows = split_rows(spectra, config.seed, {"val": recipe.val_fraction, "test": recipe.test_fraction})
    sizes = ", ".join(f"{len(part)} {name}" for name, part in rows.items())
    run.log.info(
        "%s: %d spectra (%s) of %d values, %d used; left out: %s",
        recipe.path or "made-up spectra",
        len(spectra),
        sizes,
        spectra.x.shape[1],
        n_values,
        spectra.counts or "none",
    )
    trainer = build_trainer(config, x[rows["train"]], x[rows["val"]], run)
    result = trainer.fit(recipe.epochs)
    best = ChemoMAE.load(best_weights(run.dir, recipe.resume_from)).to(trainer.loop.device)
    figures = {
        "epochs": result["epochs"],
        "best_epoch": result["best"]["epoch"],
        "val_loss": result["best"]["val_loss"],
    }
    found, shown = measure(best, x, rows, spectra, config.seed)
    figures |= found
    say(figures, run)
    folder = run.dir / "plots"
    drawn = {
        "learning": plot_learning(
            read_json(run.dir / "training_history.json"), recipe.loss_type, folder / "learning.png"
        ),
        "examples": plot_examples(*shown, folder / "examples.png"),
    }
    for name, path in drawn.items():
        if path:
            run.tracker.image(name, path, trainer.loop.global_step)
    return figures


def best_weights(folder: Path, resumed: str | None) -> Path:
    """``best_model.pt`` of the run; that of the run it went on from, if nothing has been better since."""
    path = folder / "best_model.pt"
    if not path.exists() and resumed is not None:
        old = Path(resumed) if Path(resumed).is_dir() else Path(resumed).parents[1]
        path.write_bytes((old / "best_model.pt").read_bytes())
    return path


def read_set(recipe: SpectrumMAERecipeConfig, seed: int) -> SpectraSet:
    """The file's spectra, or made-up ones."""
    if recipe.path is None:
        return synthetic_spectra(recipe.n_synthetic, seed)
    return read_spectra_set(recipe.path, recipe.column)


def build_trainer(config: Config, train: torch.Tensor, val: torch.Tensor, run: RunContext) -> Trainer:
    """The public trainer with the recipe's settings.

    Raises:
        ConfigError: settings that do not fit together.
    """
    recipe, hardware = config.recipe, config.hardware
    seed_everything(config.seed)
    length = train.shape[1]
    model = ChemoMAE(
        length,
        recipe.latent_dim,
        recipe.n_blocks,
        recipe.n_mask,
        patch_size=largest_divisor(length // recipe.n_blocks, max(recipe.patch_size, 1)),
        d_model=recipe.d_model,
        nhead=recipe.n_heads,
        num_layers=recipe.n_layers,
        dropout=recipe.dropout,
        latent_normalize=recipe.latent_normalize,
    )
    generator = torch.Generator().manual_seed(config.seed)
    train_loader = DataLoader(TensorDataset(train), recipe.batch_size, shuffle=True, generator=generator)
    optimizer = build_optimizer(model, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    precision = Precision(hardware.precision)
    settings = TrainerConfig(
        out_dir=run.dir,
        device=hardware.device,
        amp=precision != Precision.float32,
        amp_dtype="fp16" if precision == Precision.fp16 else "bf16",
        enable_tf32=hardware.tf32,
        grad_clip=recipe.grad_clip,
        use_ema=recipe.ema_decay is not None,
        ema_decay=recipe.ema_decay or 0.0,
        loss_type=recipe.loss_type,
        reduction=recipe.reduction,
        early_stop_patience=recipe.early_stop_patience,
        early_stop_start_ratio=recipe.early_stop_start_ratio,
        seed=config.seed,
        resume_from=recipe.resume_from,
    )
    return Trainer(
        model,
        optimizer,
        train_loader,
        DataLoader(TensorDataset(val), recipe.batch_size),
        cfg=settings,
        scheduler=build_scheduler(
            optimizer, steps_per_epoch=len(train_loader), epochs=recipe.epochs, warmup_epochs=recipe.warmup_epochs
        ),
        tracker=run.tracker,
        log=run.log,
    )


@torch.inference_mode()
def measure(
    model: ChemoMAE, x: torch.Tensor, rows: dict[str, np.ndarray], spectra: SpectraSet, seed: int
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Figures on the test spectra, and four of them to draw: spectra, reconstructions, what was visible."""
    device = next(model.parameters()).device
    test, mean = x[rows["test"]], x[rows["train"]].mean(0)
    hidden = torch.from_numpy(hidden_blocks(seed, VALIDATION_STEP, np.arange(len(test)), model.n_blocks, model.n_mask))
    visible = visible_mask(hidden, model.block_size)
    painted = in_parts(lambda a, h: model.from_hidden(a, h)[0], device, test, hidden)
    latents = in_parts(model.encode, device, x)

    def error(guess: torch.Tensor) -> float:
        return float((guess - test)[~visible].square().mean())

    guesses = {
        "masked_mse": painted,
        "masked_mse_of_mean": mean.expand_as(test),
        "masked_mse_of_lines": torch.from_numpy(filled_by_lines(test.numpy(), visible.numpy())),
    }
    figures: dict[str, Any] = {name: error(guess) for name, guess in guesses.items()}
    figures["fraction_of_variance"] = figures["masked_mse"] / figures["masked_mse_of_mean"]
    figures["n_test"] = len(test)
    figures |= probe_labels(spectra.labels, rows, latents.numpy(), x.numpy())
    return figures, (test[:4].numpy(), painted[:4].numpy(), visible[:4].numpy())


def in_parts(compute: Any, device: torch.device, *arrays: torch.Tensor) -> torch.Tensor:
    """``compute`` over rows, some at once, on ``device``; the result is on the CPU."""
    parts = zip(*(array.split(ENCODED_AT_ONCE) for array in arrays), strict=True)
    return torch.cat([compute(*(part.to(device) for part in group)).float().cpu() for group in parts])


def say(figures: dict[str, Any], run: RunContext) -> None:
    """The final figures, for people."""
    run.log.info(
        "error at hidden values of %d test spectra: %.4g (mean spectrum %.4g, straight lines %.4g), "
        "%.2f %% of the variance",
        figures["n_test"],
        figures["masked_mse"],
        figures["masked_mse_of_mean"],
        figures["masked_mse_of_lines"],
        100 * figures["fraction_of_variance"],
    )
    for name in (key.removeprefix("r2_") for key in figures if key.startswith("r2_")):
        run.log.info(
            "label %s from the latent vectors: R2 %.3f (as many principal components: %.3f)",
            name,
            figures[f"r2_{name}"],
            figures[f"pca_r2_{name}"],
        )
