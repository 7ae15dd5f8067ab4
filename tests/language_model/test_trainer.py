"""The documented face: Trainer(...), train, evaluate, load_checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astromodal.config.schema import TrainingConfig
from astromodal.errors import ArtifactError, ConfigError
from astromodal.language_model.trainer import read_settings
from astromodal.training import Trainer, configure_cuda_performance, get_device, set_seed
from astromodal.training.utils import model_summary
from astromodal.vocabulary.vocab import build_vocab_spec

VOCAB = build_vocab_spec(v_image=16, v_scalar=8, v_spectra=8, spectrum_groups=("xp",))


class AnyModel(nn.Module):
    """The least that is documented: (tokens, types, attn_mask) -> (B, L, V)."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.kind = nn.Embedding(VOCAB.vocab_size, 16), nn.Embedding(20, 16)
        self.mix, self.head = nn.Linear(16, 16), nn.Linear(16, VOCAB.vocab_size)

    def forward(self, tokens: Tensor, types: Tensor, attn_mask: Tensor) -> Tensor:
        hidden = self.token(tokens) + self.kind(types)
        return self.head(torch.relu(self.mix(hidden))) * attn_mask[..., None]


def batches(n: int = 6, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        parts = [
            np.full((4, 1), 1),
            generator.integers(VOCAB.base_image, VOCAB.base_image + 16, (4, 5)),
            generator.integers(VOCAB.base_scalar, VOCAB.base_scalar + 8, (4, 2)),
            generator.integers(VOCAB.base_spectrum, VOCAB.base_spectrum + 8, (4, 3)),
        ]
        types = np.repeat([0, 1, 3, 2], [1, 5, 2, 3])[None].repeat(4, 0)
        tokens = torch.from_numpy(np.concatenate(parts, 1))
        mask = torch.ones(4, 11, dtype=torch.bool)
        made.append({"tokens": tokens, "types": torch.from_numpy(types), "attn_mask": mask})
    return made


def training_view(**changes) -> SimpleNamespace:
    """As ``load_config().training``: attributes, nested ones too."""
    meaningful = SimpleNamespace(
        enabled=True, sample_k_per_modality=64, weight_image=0.2, weight_scalar=0.1, weight_spectrum=0.1
    )
    values = {
        "seed": 0,
        "batch_size": 4,
        "epochs": 2,
        "learning_rate": 0.01,
        "weight_decay": 0.05,
        "warmup_steps": 2,
        "grad_clip": 1.0,
        "grad_accum_steps": 1,
        "num_workers": 0,
        "pin_memory": True,
        "persistent_workers": True,
        "prefetch_factor": 2,
        "log_every": 50,
        "save_every_steps": 6,
        "meaningful_loss": meaningful,
    }
    return SimpleNamespace(**(values | changes))


def make(output_dir: Path | None = None, **changes) -> Trainer:
    generator = np.random.default_rng(0)
    set_seed(0)
    arguments = {
        "model": AnyModel(),
        "vocab": VOCAB,
        "train_loader": batches(),
        "config": training_view(),
        "image_codebook": generator.normal(size=(16, 2)).astype(np.float32),
        "spectrum_codebook": generator.normal(size=(8, 4)).astype(np.float32),
        "scalar_centers": np.linspace(-1, 1, 8).astype(np.float32),
        "device": "cpu",
        "output_dir": output_dir,
        "use_amp": True,
        "use_ce": True,
        "compile_model": False,
    }
    return Trainer(**(arguments | changes))


def test_the_documented_example_trains_evaluates_and_saves(tmp_path: Path) -> None:
    configure_cuda_performance()
    trainer = make(tmp_path)
    before = trainer.evaluate(batches())
    trainer.train(num_epochs=10)
    after = trainer.evaluate(batches())
    assert after["loss_total"] < before["loss_total"] and after["loss_ce"] < before["loss_ce"]
    assert {"loss_total", "loss_ce", "loss_img", "loss_sca", "loss_spec"} <= set(after)
    expected = after["loss_ce"] + 0.2 * after["loss_img"] + 0.1 * after["loss_sca"] + 0.1 * after["loss_spec"]
    assert after["loss_total"] == pytest.approx(expected)
    state = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert state["global_step"] == 60
    config = state["config"]
    assert (config["vocab_size"], config["base_image"]) == (VOCAB.vocab_size, VOCAB.base_image)
    assert (config["base_scalar"], config["base_spectrum"]) == (VOCAB.base_scalar, VOCAB.base_spectrum)
    assert config["loss_config"]["weight_image"] == 0.2 and config["loss_config"]["sample_k"] == 64
    saved = torch.load(tmp_path / "final_model.pt", weights_only=True)
    AnyModel().load_state_dict(saved["model_state_dict"])


def test_a_loaded_checkpoint_goes_on_as_if_never_left(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    whole.train(num_epochs=2)
    cut = make(tmp_path / "cut")
    for name in (f"whole/checkpoints/step_{6:08d}.pt", "whole/ckpt_step_00000006.pt", "whole/checkpoint_step_6.pt"):
        cut = make(tmp_path / "cut")
        cut.load_checkpoint(tmp_path / name)
        assert cut.global_step == 6
        cut.train(num_epochs=2)
        for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_training_twice_goes_on_to_the_larger_number_of_epochs() -> None:
    trainer = make()
    assert trainer.train(num_epochs=1).steps == 6
    assert trainer.train(num_epochs=3).steps == 18
    assert trainer.train(num_epochs=2).steps == 18


def test_without_cross_entropy_only_the_reconstruction_is_trained() -> None:
    trainer = make(use_ce=False)
    assert trainer.loss.use_ce is False
    before = trainer.evaluate(batches())
    trainer.train(num_epochs=10)
    after = trainer.evaluate(batches())
    assert after["loss_img"] < before["loss_img"]
    assert after["loss_total"] == pytest.approx(
        0.2 * after["loss_img"] + 0.1 * after["loss_sca"] + 0.1 * after["loss_spec"]
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_warns_and_uses_the_cpu() -> None:
    with pytest.warns(UserWarning, match="no CUDA device"):
        trainer = make(device="cuda")
    assert next(trainer.model.parameters()).device.type == "cpu"


def test_the_configuration_may_be_a_view_a_mapping_or_a_dataclass() -> None:
    view = read_settings(training_view())
    assert view["training"].save_every == 6 and view["optimizer"].learning_rate == 0.01
    assert view["schedule"].warmup_steps == 2 and view["loss"].sample_k == 64 and view["loss"].weight_image == 0.2
    mapping = read_settings({"learning_rate": 1e-3, "seed": 3, "meaningful_loss": {"enabled": False}})
    assert mapping["seed"] == 3 and not mapping["loss"].enabled and mapping["optimizer"].learning_rate == 1e-3
    assert read_settings(TrainingConfig(epochs=9))["training"].epochs == 9


def test_unknown_keys_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        read_settings({"learnin_rate": 1e-3})
    with pytest.raises(ConfigError, match="weight_imge"):
        read_settings({"meaningful_loss": {"weight_imge": 1e-3}})


def test_a_missing_checkpoint_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="checkpoints"):
        make().load_checkpoint(tmp_path / "nothing.pt")


def test_devices_and_summary() -> None:
    assert get_device(prefer_cuda=False) == torch.device("cpu")
    assert get_device().type in ("cuda", "mps", "cpu")
    summary = model_summary(AnyModel())
    v = VOCAB.vocab_size
    assert summary["parts"] == {"token": 16 * v, "kind": 320, "mix": 272, "head": 17 * v}
    assert summary["parameters"] == sum(summary["parts"].values())
    assert summary["bytes"] == 4 * summary["parameters"]
    assert summary["flops_per_token"] == 6 * (16 * 16 + 16 * v)


def test_the_package_exports_lazily() -> None:
    import astromodal.training as training

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(callable(getattr(training, name)) for name in training.__all__)
    with pytest.raises(AttributeError):
        _ = training.nonsense
