"""The public callbacks; they live in :mod:`astromodal.training.callbacks`."""

from ....training.callbacks import (
    Callback,
    CallbackList,
    CheckpointCallback,
    CoveragePlateauCallback,
    EarlyStoppingCallback,
    MetricsCallback,
)

__all__ = [
    "Callback",
    "CallbackList",
    "CheckpointCallback",
    "CoveragePlateauCallback",
    "EarlyStoppingCallback",
    "MetricsCallback",
]
