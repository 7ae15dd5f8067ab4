"""Training: losses, the language-model objective, and the one loop that trains everything.

Names are imported on first use, so that ``import astromodal.training`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Trainer": "trainer",
    "TrainingLoop": "loop",
    "LoopResult": "loop",
    "set_seed": "utils",
    "configure_cuda_performance": "utils",
    "cosine_schedule_with_warmup": "utils",
    "get_device": "utils",
    "image_reconstruction_loss": "losses",
    "scalar_reconstruction_loss": "losses",
    "spectrum_reconstruction_loss": "losses",
    "combined_loss": "losses",
    "LanguageModelObjective": "objectives",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
