"""The code of the masked autoencoder's document, as written but for the package's name and the number of epochs."""

from __future__ import annotations

import json

import pytest
import torch

DOCUMENT = {
    "train": """
from chemomae.models import ChemoMAE
from chemomae.training.optim import build_optimizer, build_scheduler
from chemomae.training.trainer import Trainer, TrainerConfig

model = ChemoMAE(seq_len=256, latent_dim=64, n_blocks=16, n_mask=12)
opt = build_optimizer(model, lr=2e-4, weight_decay=0.05)
sched = build_scheduler(opt, steps_per_epoch=len(train_loader), epochs=100, warmup_epochs=5)
cfg = TrainerConfig(out_dir="runs", amp=True, amp_dtype="bf16", use_ema=True, loss_type="mse", reduction="mean")

trainer = Trainer(model, opt, train_loader, val_loader, device="cuda", scheduler=sched, cfg=cfg)
history = trainer.fit(epochs=100)
print("Best:", history["best"])  # {'epoch': ..., 'val_loss': ...}
""",
    "resume": """
cfg = TrainerConfig(out_dir="runs", resume_from="auto")
trainer = Trainer(model, opt, train_loader, val_loader, device="cuda", scheduler=sched, cfg=cfg)
trainer.fit(epochs=100)
""",
    "loss": """
mask = ~visible
if cfg.loss_type == "mse":
    loss = masked_mse(x_recon, x, mask, reduction=cfg.reduction)
elif cfg.loss_type == "sse":
    loss = masked_sse(x_recon, x, mask, reduction=cfg.reduction)
""",
}
DEFAULTS = {
    "out_dir": "runs",
    "device": None,
    "amp": True,
    "amp_dtype": "bf16",
    "enable_tf32": False,
    "grad_clip": 1.0,
    "use_ema": True,
    "ema_decay": 0.999,
    "loss_type": "mse",
    "reduction": "mean",
    "early_stop_patience": 20,
    "early_stop_start_ratio": 0.5,
    "early_stop_min_delta": 0.0,
    "resume_from": "auto",
}


def run(section: str, names: dict, epochs: int) -> None:
    code = DOCUMENT[section].replace("chemomae", "astromodal.recipes.chemomae")
    exec(compile(code.replace("epochs=100)", f"epochs={epochs})"), section, "exec"), names)


@pytest.fixture
def loaders():
    generator = torch.Generator().manual_seed(0)
    x = torch.sin(torch.linspace(0, 20, 256) + 6 * torch.rand(12, 1, generator=generator))
    meta = torch.arange(12)
    data = torch.utils.data.TensorDataset(x, meta)
    train, val = torch.utils.data.Subset(data, range(8)), torch.utils.data.Subset(data, range(8, 12))
    return {
        "train_loader": torch.utils.data.DataLoader(train, batch_size=4, shuffle=True),
        "val_loader": torch.utils.data.DataLoader(val, batch_size=4),
    }


@pytest.mark.filterwarnings("ignore:device='cuda', but there is no CUDA device")
def test_the_document_runs_as_written(loaders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = dict(loaders)
    run("train", names, epochs=2)
    assert set(names["history"]) == {"best", "epochs"} and names["history"]["epochs"] == 2
    assert set(names["history"]["best"]) == {"epoch", "val_loss"}
    assert "Best: {'epoch': " in capsys.readouterr().out
    for name in ("training_history.json", "checkpoints/last.pt", "checkpoints/best.pt", "best_model.pt"):
        assert (tmp_path / "runs" / name).is_file(), name

    run("resume", names, epochs=3)
    records = json.loads((tmp_path / "runs" / "training_history.json").read_text())
    assert [record["epoch"] for record in records] == [1, 2, 3]  # appended to
    assert all({"epoch", "train_loss", "val_loss", "lr"} <= set(record) for record in records)
    assert all(0 < record["val_loss"] < 2 for record in records)

    x = torch.randn(3, 256)
    x_recon, z, visible = names["model"](x)
    assert x.shape == visible.shape == x_recon.shape and z.shape == (3, 64)
    from astromodal.recipes.chemomae.training.trainer import masked_mse, masked_sse

    names |= {"x": x, "x_recon": x_recon, "visible": visible, "masked_mse": masked_mse, "masked_sse": masked_sse}
    run("loss", names, epochs=3)
    assert names["loss"].item() == pytest.approx(float((x_recon - x)[~visible].detach().square().mean()), rel=1e-5)


def test_defaults_are_those_of_the_document():
    from astromodal.recipes.chemomae.training.trainer import TrainerConfig

    values = vars(TrainerConfig())
    assert {name: values[name] for name in DEFAULTS} == DEFAULTS
    assert set(values) - set(DEFAULTS) == {"seed"}


def test_names_are_found_in_the_package_too():
    import astromodal.recipes.chemomae as package

    assert {"ChemoMAE", "Trainer", "TrainerConfig", "build_optimizer", "build_scheduler"} <= set(dir(package))
