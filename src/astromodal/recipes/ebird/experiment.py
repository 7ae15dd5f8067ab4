"""``train_tokenizers.py experiment=ebird_vae``: checklists, made up or eBird's, through the one training loop."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ...config.schema import Config, Corruption, EbirdVAERecipeConfig
from ...files.io import plain, write_json
from ...files.text_table import table
from ...machine.random import seed_everything
from ...provenance.manifest import fingerprint_config
from ...runs.run import RunContext
from ...training.checkpoints.checkpoint import load_weights
from .checklist_generator import ChecklistGenerator
from .checklists import read_checklists
from .data import create_dataloaders, split_train_val
from .figures import plot_curves, plot_latents
from .measures import bound_nats, marginal_nats, principal_nats, reconstruction_nats, true_nats, unit_figures
from .models import VariationalAutoencoder
from .species_matrix import ChecklistDataset, SpeciesMatrix, species_matrix
from .training import train_variational_autoencoder


def run(config: Config, run: RunContext) -> dict[str, Any]:
    """Read, train, measure on held-out checklists, draw; returns the figures."""
    recipe: EbirdVAERecipeConfig = config.recipe
    made_up = None if recipe.path else ChecklistGenerator(**asdict(recipe.made_up), seed=config.seed)
    recipe = recipe if made_up is None else _make(recipe, made_up, Path(config.paths.store), run)
    matrix = _read(recipe, run)
    train, val = split_train_val(matrix, matrix.species, recipe.val_size, config.seed)
    model, history = _train(recipe, config, run, train, val)
    figures = measure(model, train, val, recipe, made_up) | {"epochs": len(history["train_loss"])}
    _draw(model, val, history, figures, run)
    write_json(run.dir / "figures.json", plain(figures))
    say(figures, run)
    return figures


def _make(
    recipe: EbirdVAERecipeConfig, made_up: ChecklistGenerator, store: Path, run: RunContext
) -> EbirdVAERecipeConfig:
    """The recipe with the paths of the made-up files, which are written unless they are there."""
    key = fingerprint_config(asdict(recipe.made_up) | {"seed": made_up.seed})[:12]
    folder = store / "checklists" / key
    path, sampling = folder / "ebd.txt.gz", folder / "ebd_sampling.txt.gz"
    if not (path.exists() and sampling.exists()):
        run.log.info("making up %d checklists of %d species: %s", made_up.n_checklists, len(made_up.scientific), folder)
        made_up.write(path, sampling)
    return replace(recipe, path=str(path), sampling_path=str(sampling))


def _read(recipe: EbirdVAERecipeConfig, run: RunContext) -> SpeciesMatrix:
    assert recipe.path is not None  # made-up files have one as well
    checklists = read_checklists(recipe.path, recipe.sampling_path, recipe.nrows)
    run.log.info("%s", checklists.describe())
    matrix = species_matrix(checklists, recipe.min_species_observations)
    run.record(
        checklists=checklists.counts
        | {"checklists": len(checklists), "species": len(checklists.species), "species_kept": len(matrix.species)}
    )
    run.log.info(
        "%d of %d species are on at least %d checklists",
        len(matrix.species),
        len(checklists.species),
        recipe.min_species_observations,
    )
    return matrix


def _train(
    recipe: EbirdVAERecipeConfig, config: Config, run: RunContext, train: ChecklistDataset, val: ChecklistDataset
) -> tuple[VariationalAutoencoder, dict[str, list[float]]]:
    """The model with the best validated weights, and the history."""
    seed_everything(config.seed)
    loaders = create_dataloaders(train, val, recipe.batch_size, seed=config.seed)
    model = VariationalAutoencoder(len(train.species), recipe.latent_dimension, recipe.hidden_dimension)
    kept = {k: v for k, v in plain(asdict(recipe)).items() if k not in ("resume_from", "epochs", "path")}
    history = train_variational_autoencoder(
        model,
        *loaders,
        recipe.epochs,
        recipe.learning_rate,
        recipe.noise_std,
        print_every=0,
        beta=recipe.beta,
        free_bits=recipe.free_bits,
        kl_warmup_steps=recipe.kl_warmup_epochs * len(loaders[0]),
        corruption=recipe.corruption,
        corruption_rate=None if recipe.corruption == Corruption.gaussian else recipe.corruption_rate,
        seed=config.seed,
        hardware=config.hardware,
        tracker=run.tracker,
        log=run.log,
        output_dir=run.dir,
        progress=run.progress,
        resume=recipe.resume_from,
        config_record={"recipe": kept, "seed": config.seed},
    )
    load_weights(model, run.dir)
    return model.eval(), history


def measure(
    model: VariationalAutoencoder,
    train: ChecklistDataset,
    val: ChecklistDataset,
    recipe: EbirdVAERecipeConfig,
    made_up: ChecklistGenerator | None,
) -> dict[str, Any]:
    """Nats per held-out checklist of the model and of what it is compared with; latents in use."""
    x, held_out = (torch.from_numpy(data.csr.toarray()).float() for data in (train, val))
    divergence, variance = unit_figures(model, held_out)
    figures = {
        "nats": bound_nats(model, held_out),
        "nats_marginal": marginal_nats(x, held_out),
        "nats_reconstruction": reconstruction_nats(model, held_out),
        "nats_principal_components": principal_nats(x, held_out, recipe.latent_dimension),
        "kl": float(divergence.sum()),
        "active_units": int((variance > 0.01).sum()),
        "latents": recipe.latent_dimension,
        "species": len(val.species),
        "checklists_train": len(train),
        "checklists_val": len(val),
    }
    if made_up is not None:
        figures["nats_best_possible"] = made_up.best_nats(held_out.numpy(), val.species)
        figures["nats_known_habitat"] = true_nats(made_up.probabilities(val.ids, val.species), held_out)
    return figures


def _draw(
    model: VariationalAutoencoder,
    val: ChecklistDataset,
    history: dict[str, list[float]],
    figures: dict[str, Any],
    run: RunContext,
) -> None:
    levels = {"species' frequencies": figures["nats_marginal"]}
    if "nats_best_possible" in figures:
        levels["best possible"] = figures["nats_best_possible"]
    held_out = torch.from_numpy(val.csr.toarray()).float()
    drawn = {
        "curves": plot_curves(history, levels, run.dir / "plots" / "curves.png"),
        "latents": plot_latents(*unit_figures(model, held_out), run.dir / "plots" / "latents.png"),
    }
    for name, path in drawn.items():
        if path:
            run.tracker.image(name, path)
    write_json(run.dir / "history.json", history)


def say(figures: dict[str, Any], run: RunContext) -> None:
    """The figures in a small table."""
    lines = [
        ("log-likelihood bound of the VAE", "nats"),
        ("species' frequencies alone", "nats_marginal"),
        ("best possible (true model)", "nats_best_possible"),
        ("reconstruction from the posterior mean", "nats_reconstruction"),
        ("habitat and effort known", "nats_known_habitat"),
        ("as many principal components", "nats_principal_components"),
    ]
    rows = [(title, f"{figures[key]:.2f}") for title, key in lines if key in figures]
    run.log.info(
        "%s",
        table(
            (
                f"{figures['checklists_val']} held-out checklists, {figures['species']} species",
                "nats per checklist, less is better",
            ),
            rows,
        ),
    )
    run.log.info("latents in use: %d of %d, %.2f nats", figures["active_units"], figures["latents"], figures["kl"])
