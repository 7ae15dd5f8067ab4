"""Loss scaling and clipping, and settings of torch that a run changes and puts back."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from astromodal.config.schema import HardwareConfig, OptimizerConfig, Precision
from astromodal.training import configure_cuda_performance, get_device, set_seed
from astromodal.training.loop import TrainingLoop
from astromodal.training.precision import MixedPrecision
from astromodal.training.utils import deterministic_kernels
from tests.training.toys import MemoryTracker, ToyLoader, ToyNet, ToyObjective, options

CPU = torch.device("cpu")


@pytest.mark.parametrize("scale", [2.0**4, 2.0**12])
def test_gradients_are_clipped_after_they_are_unscaled(scale: float) -> None:
    """Clipped to 1 before, the true gradient would end at 1 / scale."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x = torch.randn(8, 4)
    loss = 3.0 * model(x).square().mean()
    true = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])
    precision = MixedPrecision(Precision.fp16, CPU)
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    precision.backward(loss)
    norm = precision.gradient_norm(optimizer, model.parameters())
    assert float(norm) == pytest.approx(float(true.norm()), rel=1e-5)
    precision.clip(model.parameters(), norm, 0.5)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert precision.step(optimizer)
    moved = before - torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(moved, true * 0.5 / true.norm(), rtol=1e-3, atol=1e-6)


def test_the_logged_gradient_norm_does_not_depend_on_the_loss_scale() -> None:
    norms = []
    for precision in (Precision.fp16, Precision.float32):
        tracker = MemoryTracker()
        torch.manual_seed(0)
        settings = options(epochs=1) | {
            "hardware": HardwareConfig(device="cpu", precision=precision),
            "optimizer": OptimizerConfig(learning_rate=1e-12),  # fp16 skips its first steps: weights have to stay equal
        }
        TrainingLoop(ToyObjective(ToyNet(dropout=0.0)), ToyLoader(), tracker=tracker, **settings).fit()
        norms.append(tracker.column("optim/grad_norm"))
    common = sorted(set(norms[0]) & set(norms[1]))
    assert len(common) > 3 and [norms[0][k] for k in common] == pytest.approx([norms[1][k] for k in common], rel=0.02)


# ------------------------------------------------------------------------------------ settings of torch


@pytest.fixture
def settings_of_torch():
    saved = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )
    yield
    torch.set_float32_matmul_precision(saved[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = saved[1], saved[2]
    torch.use_deterministic_algorithms(saved[3])
    if saved[4] is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_deterministic_holds_while_a_run_trains_and_validates_and_is_undone(settings_of_torch) -> None:
    seen: list[bool] = []

    class Watching(ToyObjective):
        def forward(self, batch):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().forward(batch)

        def evaluate(self, batch):
            seen.append(torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark)
            return super().evaluate(batch)

    torch.backends.cudnn.benchmark = True
    for wanted in (True, False):
        seen.clear()
        settings = options(epochs=1) | {"hardware": HardwareConfig(device="cpu", deterministic=wanted)}
        loop = TrainingLoop(Watching(), ToyLoader(), val_loader=ToyLoader(8), **settings)
        assert not torch.are_deterministic_algorithms_enabled()
        loop.fit()
        loop.evaluate(ToyLoader(8))
        assert len(seen) == 10 + 2 + 2 and set(seen) == {wanted}
        assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_deterministic_is_undone_after_an_error_and_leaves_what_the_caller_had_set(settings_of_torch) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    with pytest.raises(RuntimeError), deterministic_kernels():
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        raise RuntimeError
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_kernel_that_varies_is_refused_inside_the_block_only(settings_of_torch) -> None:
    def vary() -> torch.Tensor:
        return torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))

    vary()
    with deterministic_kernels(), pytest.raises(RuntimeError, match="deterministic"):
        vary()
    vary()


def test_cuda_performance_switches(settings_of_torch) -> None:
    configure_cuda_performance()
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    configure_cuda_performance(tf32=False)
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("cuda", "mps", "preferred", "other"),
    [
        (True, True, "cuda", "mps"),
        (True, False, "cuda", "cpu"),
        (False, True, "mps", "mps"),
        (False, False, "cpu", "cpu"),
    ],
)
def test_devices_are_taken_in_the_documented_order(monkeypatch, cuda, mps, preferred, other) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert get_device().type == get_device(prefer_cuda=True).type == preferred
    assert get_device(prefer_cuda=False).type == other
    monkeypatch.setenv("LOCAL_RANK", "3")
    if cuda:
        assert get_device().index == 1


def test_a_seed_seeds_every_generator() -> None:
    def draw() -> tuple:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    set_seed(5)
    first = draw()
    assert draw() != first
    set_seed(5)
    assert draw() == first
    set_seed(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
