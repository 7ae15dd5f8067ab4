"""The code of the denoising VAE's document, as written but for the package's name and the number of epochs."""

from __future__ import annotations

import matplotlib
import pytest
import torch

from astromodal.recipes.ebird.checklist_generator import ChecklistGenerator

matplotlib.use("Agg")
pytestmark = [
    pytest.mark.filterwarnings("ignore:device='cuda', but there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes"),
]
DOCUMENT = {
    "quick start": """
from src.models import VariationalAutoencoder
from src.data import load_ebird_data, create_species_matrix, split_train_val, create_dataloaders
from src.training import train_variational_autoencoder, get_device, set_seed

# Set random seed for reproducibility
set_seed(42)

# Load and prepare data
data = load_ebird_data("kerala.txt")
matrix, species = create_species_matrix(data, min_species_observations=30)
train_ds, val_ds = split_train_val(matrix, species, val_size=0.2)
train_loader, val_loader = create_dataloaders(train_ds, val_ds, batch_size=128)

# Create model
model = VariationalAutoencoder(
    input_dimension=len(species),
    latent_dimension=16,
    hidden_dimension=512
)

# Auto-detect device
device = get_device()

# Train!
history = train_variational_autoencoder(
    model,
    train_loader,
    val_loader,
    num_epochs=50,
    learning_rate=1e-3,
    noise_std=0.1,
    device=device,
    checkpoint_dir='checkpoints',
    save_every=10
)

# Plot training curves
import matplotlib.pyplot as plt
plt.plot(history['train_loss'], label='Train')
plt.plot(history['val_loss'], label='Val')
plt.legend()
plt.show()
""",
    "device": """
from src.training import get_device

# Auto-detect (prefers CUDA if available)
device = get_device()

# Prefer MPS over CUDA (for Apple Silicon)
device = get_device(prefer_cuda=False)
""",
    "save": """
from src.training import save_checkpoint

save_checkpoint(
    model=vae_model,
    optimizer=optimizer,
    epoch=50,
    train_loss=120.5,
    val_loss=125.3,
    filepath='checkpoints/best_model.pt',
    history=training_history,
    metadata={'latent_dim': 16, 'noise_std': 0.1}
)
""",
    "load": """
from src.training import load_checkpoint

# Create fresh model and optimizer
model = VariationalAutoencoder(input_dimension=467, latent_dimension=16)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

# Load checkpoint
checkpoint = load_checkpoint(
    filepath='checkpoints/checkpoint_epoch_50.pt',
    model=model,
    optimizer=optimizer,
    device='cuda'
)

# Resume training from checkpoint
start_epoch = checkpoint['epoch'] + 1
previous_history = checkpoint['history']

# Continue training
history = train_variational_autoencoder(
    model,
    train_loader,
    val_loader,
    num_epochs=100,  # Train to epoch 100
    # ... other params
)
""",
    "summary": """
from src.training import print_model_summary

model = VariationalAutoencoder(467, 16, 512)
print_model_summary(model)
""",
    "count": """
from src.training import count_parameters

total, trainable = count_parameters(model)
print(f"Total: {total:,}, Trainable: {trainable:,}")
# Total: 1,554,931, Trainable: 1,554,931
""",
    "noise": """
from src.training import add_noise
import torch

clean = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
noisy = add_noise(clean, noise_std=0.1)
# Output: tensor([[0.05, 0.98, 0.02, 1.00]])
""",
    "standard": """
history = train_variational_autoencoder(
    model, train_loader, val_loader,
    num_epochs=50,
    learning_rate=1e-3,
    noise_std=0.1,
    device='cuda'
)
""",
    "no noise": """
history = train_variational_autoencoder(
    model, train_loader, val_loader,
    num_epochs=50,
    learning_rate=1e-3,
    noise_std=0.0,  # No noise augmentation
    device='cuda'
)
""",
    "heavy": """
history = train_variational_autoencoder(
    model, train_loader, val_loader,
    num_epochs=50,
    learning_rate=1e-3,
    noise_std=0.2,  # More noise = more regularization
    device='cuda'
)
""",
    "checkpointing": """
history = train_variational_autoencoder(
    model, train_loader, val_loader,
    num_epochs=100,
    checkpoint_dir='checkpoints/experiment_1',
    save_every=5,  # Save every 5 epochs
    device='cuda'
)
""",
    "complete": """
from src.models import VariationalAutoencoder
from src.data import (
    load_ebird_data,\x20
    create_species_matrix,\x20
    split_train_val,\x20
    create_dataloaders
)
from src.training import (
    train_variational_autoencoder,
    get_device,
    set_seed,
    print_model_summary,
    save_checkpoint
)
import matplotlib.pyplot as plt

# 1. Set random seed for reproducibility
set_seed(42)

# 2. Load and preprocess data
print("Loading data...")
data = load_ebird_data("kerala_data.txt", nrows=500000)

print("Creating species matrix...")
matrix, species = create_species_matrix(
    data,
    min_species_observations=50
)

print("Splitting into train/val...")
train_ds, val_ds = split_train_val(matrix, species, val_size=0.2)

print("Creating DataLoaders...")
train_loader, val_loader = create_dataloaders(
    train_ds, val_ds,
    batch_size=128,
    num_workers=4,
    pin_memory=True  # For GPU training
)

# 3. Create model
print("\\nCreating model...")
model = VariationalAutoencoder(
    input_dimension=len(species),
    latent_dimension=16,
    hidden_dimension=512
)

print_model_summary(model)

# 4. Setup training
device = get_device()

# 5. Train
print("\\nStarting training...")
history = train_variational_autoencoder(
    model,
    train_loader,
    val_loader,
    num_epochs=50,
    learning_rate=1e-3,
    noise_std=0.1,
    device=device,
    checkpoint_dir='checkpoints/kerala_vae',
    save_every=10,
    print_every=5
)

# 6. Save final model
import torch
torch.save(model.state_dict(), 'vae_kerala_final.pt')

# 7. Plot training curves
fig, axes = plt.subplots(1, 3, figsize=(15, 4))

# Total loss
axes[0].plot(history['train_loss'], label='Train')
axes[0].plot(history['val_loss'], label='Val')
axes[0].set_xlabel('Epoch')
axes[0].set_ylabel('Total Loss')
axes[0].set_title('Total Loss')
axes[0].legend()

# Reconstruction loss
axes[1].plot(history['train_recon_loss'], label='Train')
axes[1].plot(history['val_recon_loss'], label='Val')
axes[1].set_xlabel('Epoch')
axes[1].set_ylabel('Reconstruction Loss')
axes[1].set_title('Reconstruction Loss (BCE)')
axes[1].legend()

# KL divergence
axes[2].plot(history['train_kl_loss'], label='Train')
axes[2].plot(history['val_kl_loss'], label='Val')
axes[2].set_xlabel('Epoch')
axes[2].set_ylabel('KL Divergence')
axes[2].set_title('KL Divergence')
axes[2].legend()

plt.tight_layout()
plt.savefig('training_curves.png', dpi=300)
plt.show()

print("\\n✅ Training complete!")
""",
}
KEYS = ["train_loss", "train_recon_loss", "train_kl_loss", "val_loss", "val_recon_loss", "val_kl_loss"]


def run(section: str, names: dict, **shorter: str) -> dict:
    """Run a section of the document; ``shorter`` replaces numbers of epochs."""
    code = DOCUMENT[section].replace("from src.", "from astromodal.recipes.ebird.")
    for name, value in ({"num_epochs": "2"} | shorter).items():
        start, _, rest = code.partition(f"{name}=")
        if rest:
            code = start + f"{name}={value}" + rest.lstrip("0123456789")
    exec(compile(code, section, "exec"), names)
    return names


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documented")
    ChecklistGenerator(400, 60, 3, seed=0).write(folder / "kerala.txt")
    (folder / "kerala_data.txt").write_bytes((folder / "kerala.txt").read_bytes())
    return folder


@pytest.fixture
def loaders() -> dict:
    x = torch.bernoulli(torch.full((48, 467), 0.1), generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.TensorDataset(x)
    train, val = torch.utils.data.Subset(data, range(32)), torch.utils.data.Subset(data, range(32, 48))
    return {
        "train_loader": torch.utils.data.DataLoader(train, batch_size=16, shuffle=True),
        "val_loader": torch.utils.data.DataLoader(val, batch_size=16),
    }


@pytest.fixture
def names(loaders, tmp_path, monkeypatch) -> dict:
    from astromodal.recipes.ebird.models import VariationalAutoencoder
    from astromodal.recipes.ebird.training import set_seed, train_variational_autoencoder

    monkeypatch.chdir(tmp_path)
    set_seed(1)
    model = VariationalAutoencoder(467, 16, 512)
    return loaders | {
        "VariationalAutoencoder": VariationalAutoencoder,
        "torch": torch,
        "model": model,
        "train_variational_autoencoder": train_variational_autoencoder,
    }


def test_quick_start(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    found = run("quick start", {}, save_every="1")
    history = found["history"]
    assert list(history) == KEYS and all(len(values) == 2 for values in history.values())
    for side in ("train", "val"):
        for total, *parts in zip(*(history[f"{side}_{p}"] for p in ("loss", "recon_loss", "kl_loss")), strict=True):
            assert total == pytest.approx(sum(parts), rel=1e-5)
    assert history["val_loss"][1] < history["val_loss"][0]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [f"checkpoint_epoch_{n}.pt" for n in (1, 2)]
    assert capsys.readouterr().out.count("epoch ") == 2


def test_the_complete_pipeline(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    found = run("complete", {}, num_epochs="3", print_every="2")
    assert (folder / "training_curves.png").stat().st_size > 10_000
    state = torch.load(folder / "vae_kerala_final.pt", weights_only=True)
    assert state.keys() == found["model"].state_dict().keys()
    out = capsys.readouterr().out
    assert "Total parameters: " in out and "epoch 2/3" in out and "epoch 3/3" in out and "epoch 1/3" not in out
    assert out.endswith("Training complete!\n")


def test_devices(names):
    assert run("device", names)["device"].type in ("cpu", "mps")


def test_summary_and_number_of_parameters(names, capsys):
    run("count", run("summary", names))
    out = capsys.readouterr().out
    numbers = ["Total parameters: 1,554,931", "Trainable parameters: 1,554,931", "Model size: 5.93 MB"]
    modules = ["VariationalAutoencoder(", "  (encoder_network): Sequential(", "  (latent_mean_layer): "]
    for line in ("Model Summary", *modules, *numbers, "Total: 1,554,931, Trainable: 1,554,931"):
        assert line in out
    assert out.splitlines()[0] == "=" * 80 and "in_features=512, out_features=16" in out


def test_noise(names):
    found = run("noise", names)
    difference = found["noisy"] - found["clean"]
    assert found["noisy"].shape == (1, 4) and 0 < difference.abs().max() < 0.6


@pytest.mark.parametrize("section", ["standard", "no noise", "heavy", "checkpointing"])
def test_training_strategies(section, names, tmp_path):
    history = run(section, names, save_every="1")["history"]
    assert len(history["val_loss"]) == 2
    saved = [p.name for p in (tmp_path / "checkpoints/experiment_1").glob("*")]
    assert len(saved) == (2 if section == "checkpointing" else 0)


def test_saving_in_a_loop_of_ones_own(names, tmp_path):
    names |= {
        "vae_model": names["model"],
        "optimizer": torch.optim.Adam(names["model"].parameters()),
        "training_history": {key: [1.0] * 50 for key in KEYS},
    }
    run("save", names)
    content = torch.load(tmp_path / "checkpoints/best_model.pt", weights_only=True)
    assert list(content) == [
        "epoch",
        "model_state_dict",
        "optimizer_state_dict",
        "train_loss",
        "val_loss",
        "history",
        "metadata",
    ]
    assert (content["epoch"], content["train_loss"], content["val_loss"]) == (50, 120.5, 125.3)
    assert content["metadata"] == {"latent_dim": 16, "noise_std": 0.1}


def test_a_loaded_checkpoint_is_gone_on_from(names, tmp_path):
    train = names["train_variational_autoencoder"]
    train(
        names["model"],
        names["train_loader"],
        names["val_loader"],
        num_epochs=2,
        checkpoint_dir="checkpoints",
        save_every=2,
    )
    (tmp_path / "checkpoints/checkpoint_epoch_2.pt").rename(tmp_path / "checkpoints/checkpoint_epoch_50.pt")
    found = run("load", names, num_epochs="5")
    assert found["start_epoch"] == 3 and list(found["previous_history"]) == KEYS
    assert found["checkpoint"]["metadata"]["latent_dim"] == 16 and found["checkpoint"]["metadata"]["hidden_dim"] == 512
    for key in KEYS:
        assert len(found["history"][key]) == 5 and found["history"][key][:2] == found["previous_history"][key]
