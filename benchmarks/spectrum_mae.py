"""The masked autoencoder of spectra beside the public package ``chemomae``: time per epoch and error at hidden values.

    python benchmarks/spectrum_mae.py                                   # made-up absorbance spectra
    python benchmarks/spectrum_mae.py --path nirsoil.parquet --seeds 3

Both train networks of one size on the same spectra for as many epochs, one epoch of one after one epoch of the other
(the order changes every time), without writing files. Both are judged on the same held-out spectra under the same
masks, with the weights as they are and with their moving average, whichever is better. The package is compared where
it is installed (``pip install chemomae``); without it our own figures are printed alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from astromodal.codecs.masking import hidden_blocks, visible_mask
from astromodal.recipes.chemomae.models import ChemoMAE
from astromodal.recipes.chemomae.nir import normalised, read_spectra_set, split_rows, synthetic_spectra
from astromodal.recipes.chemomae.training.optim import build_optimizer, build_scheduler
from astromodal.recipes.chemomae.training.trainer import Trainer, TrainerConfig

EMA_DECAY, WARMUP_EPOCHS = 0.99, 5


@dataclass
class Setting:
    """What both are given."""

    n_blocks: int
    n_mask: int
    latent_dim: int
    d_model: int
    n_layers: int
    epochs: int
    batch_size: int
    learning_rate: float


class Side:
    """One of the two: a network, one epoch of its training, and its weights to be judged."""

    name: str
    model: nn.Module

    def epoch(self) -> None:
        raise NotImplementedError

    def averaged_state(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def error(self, x: Tensor, visible: Tensor) -> float:
        """Mean squared error at hidden values; the better of weights and average."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        found = []
        for state in (own, self.averaged_state()):
            self.model.load_state_dict(state)
            with torch.inference_mode():
                painted = self.model.eval()(x, visible)[0]
            found.append(float((painted - x)[~visible].square().mean()))
        self.model.load_state_dict(own)
        return min(found)


class Ours(Side):
    """:mod:`astromodal.recipes.chemomae`."""

    name = "astromodal"

    def __init__(self, setting: Setting, x: Tensor, seed: int, folder: Path) -> None:
        torch.manual_seed(seed)
        length = x.shape[1]
        self.model = ChemoMAE(
            length,
            setting.latent_dim,
            setting.n_blocks,
            setting.n_mask,
            patch_size=length // setting.n_blocks,
            d_model=setting.d_model,
            num_layers=setting.n_layers,
        )
        loader = batches(x, setting, seed)
        optimizer = build_optimizer(self.model, lr=setting.learning_rate)
        self.trainer = Trainer(
            self.model,
            optimizer,
            loader,
            scheduler=build_scheduler(
                optimizer, steps_per_epoch=len(loader), epochs=setting.epochs, warmup_epochs=WARMUP_EPOCHS
            ),
            cfg=TrainerConfig(
                out_dir=folder, ema_decay=EMA_DECAY, resume_from=None, seed=seed, amp=False, device="cpu"
            ),
        )
        self.trainer.loop.saver.store = None  # neither writes files

    def epoch(self) -> None:
        self.trainer.train_one_epoch()

    def averaged_state(self) -> dict[str, Tensor]:
        return self.trainer.loop.ema.model_state()


class Peer(Side):
    """The package ``chemomae``, where a block is one token."""

    name = "chemomae"

    def __init__(self, setting: Setting, x: Tensor, seed: int, folder: Path) -> None:
        from chemomae.models import ChemoMAE as PeerModel
        from chemomae.training import optim, trainer

        torch.manual_seed(seed)
        self.model = PeerModel(
            seq_len=x.shape[1],
            n_patches=setting.n_blocks,
            n_mask=setting.n_mask,
            latent_dim=setting.latent_dim,
            d_model=setting.d_model,
            num_layers=setting.n_layers,
        )
        loader = batches(x, setting, seed)
        optimizer = optim.build_optimizer(self.model, lr=setting.learning_rate)
        config = trainer.TrainerConfig(
            out_dir=folder,
            ema_decay=EMA_DECAY,
            resume_from=None,
            checkpoint_dir=None,
            progress=False,
            verbose=False,
            amp=False,
            device="cpu",
        )
        scheduler = optim.build_scheduler(
            optimizer, steps_per_epoch=len(loader), epochs=setting.epochs, warmup_epochs=WARMUP_EPOCHS
        )
        self.trainer = trainer.Trainer(self.model, optimizer, loader, scheduler=scheduler, cfg=config)

    def epoch(self) -> None:
        self.trainer.train_one_epoch()

    def averaged_state(self) -> dict[str, Tensor]:
        return dict(self.trainer.ema.shadow)


def batches(x: Tensor, setting: Setting, seed: int) -> DataLoader:
    """The same batches in the same order for both."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(x), setting.batch_size, shuffle=True, generator=generator)


def has_peer() -> bool:
    """Whether the package can be imported."""
    try:
        import chemomae.models  # noqa: F401
    except ImportError:
        return False
    return True


def compare(setting: Setting, train: Tensor, test: Tensor, seed: int) -> dict[str, Any]:
    """One seed: seconds per epoch of each side, interleaved, and their errors."""
    hidden = torch.from_numpy(hidden_blocks(seed, 0, np.arange(len(test)), setting.n_blocks, setting.n_mask))
    visible = visible_mask(hidden, test.shape[1] // setting.n_blocks)
    mean_error = float((train.mean(0) - test)[~visible].square().mean())
    with tempfile.TemporaryDirectory() as folder:
        kinds = [Ours, Peer] if has_peer() else [Ours]
        sides = [kind(setting, train, seed, Path(folder) / kind.name) for kind in kinds]
        seconds: dict[str, list[float]] = {side.name: [] for side in sides}
        for number in range(setting.epochs):
            for side in sides if number % 2 else sides[::-1]:
                start = time.perf_counter()
                side.epoch()
                seconds[side.name].append(time.perf_counter() - start)
        record: dict[str, Any] = {
            "seed": seed,
            "error_of_mean": mean_error,
            "parameters": {side.name: sum(p.numel() for p in side.model.parameters()) for side in sides},
            "error": {side.name: side.error(test, visible) for side in sides},
            "seconds_per_epoch": {name: statistics.median(values[1:] or values) for name, values in seconds.items()},
        }
    if len(sides) == 2:
        ratios = [b / a for a, b in zip(seconds["astromodal"], seconds["chemomae"], strict=True)]
        record["speedup"] = statistics.median(ratios[1:] or ratios)
        record["error_ratio"] = record["error"]["astromodal"] / record["error"]["chemomae"]
    return record


def show(record: dict[str, Any]) -> None:
    """One line per side."""
    for name, error in record["error"].items():
        print(
            f"seed {record['seed']}  {name:<10}  {record['parameters'][name]:>9,} parameters  "
            f"{1e3 * record['seconds_per_epoch'][name]:8.1f} ms per epoch  error at hidden values {error:.5f} "
            f"({error / record['error_of_mean']:.1%} of the mean spectrum's)"
        )
    if "speedup" in record:
        print(f"        {record['speedup']:.2f} times as fast, {record['error_ratio']:.3f} times the error", flush=True)


def load(path: str | None, column: str, n_blocks: int, n_synthetic: int) -> tuple[Tensor, Tensor]:
    """Training and held-out spectra, normalised, of as many values as whole blocks have."""
    spectra = synthetic_spectra(n_synthetic) if path is None else read_spectra_set(path, column)
    rows = split_rows(spectra, 0, {"val": 0.0, "test": 0.2})
    length = spectra.x.shape[1] // n_blocks * n_blocks
    x = torch.from_numpy(normalised(spectra.x, "snv")[:, :length].copy())
    return x[np.concatenate([rows["train"], rows["val"]])], x[rows["test"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="Parquet file of spectra; default: made-up ones")
    parser.add_argument("--column", default="spectrum")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--mask", type=int, default=15, help="hidden blocks")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a small network, a few epochs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    if args.quick:
        args.seeds, args.epochs, args.width, args.layers = 1, min(args.epochs, 4), 32, 2
    setting = Setting(args.blocks, args.mask, args.latent, args.width, args.layers, args.epochs, args.batch, args.lr)
    train, test = load(args.path, args.column, args.blocks, 160 if args.quick else 800)
    print(f"{len(train)} training and {len(test)} held-out spectra of {train.shape[1]} values; {setting}")
    if not has_peer():
        print("the package chemomae is not installed: our own figures alone")
    records = []
    for seed in range(args.seeds):
        records.append(compare(setting, train, test, seed))
        show(records[-1])
    if "speedup" in records[0]:
        print(
            f"median of {len(records)} seeds: {statistics.median(r['speedup'] for r in records):.2f} times as fast, "
            f"{statistics.median(r['error_ratio'] for r in records):.3f} times the error"
        )
    if args.json:
        args.json.write_text(json.dumps({"setting": vars(setting), "n_train": len(train), "records": records}))


if __name__ == "__main__":
    main()
