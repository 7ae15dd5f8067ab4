"""What can be hung into a training loop; each is defined in a module of its own.

====================  ======================================================================================
``hooks``             the protocol, and the list of callbacks for a loop of the user's own
``stopping``          ``EarlyStopping``, ``CoveragePlateau``, and the best value of a metric
``checkpointing``     ``CheckpointCallback``
``measuring``         ``MetricsCallback``
``quantities``        ``ScheduledValue`` and ``FeedbackValue``: curricula, homeostasis
====================  ======================================================================================

``EarlyStoppingCallback`` and ``CoveragePlateauCallback`` are the documented names of the first two of ``stopping``.
"""

from __future__ import annotations

from .checkpointing import CheckpointCallback
from .hooks import Callback, CallbackList
from .measuring import MetricsCallback
from .quantities import Controller, FeedbackValue, ScheduledValue, ramp, set_quantity
from .stopping import Best, CoveragePlateau, EarlyStopping, metric_mode

EarlyStoppingCallback = EarlyStopping
CoveragePlateauCallback = CoveragePlateau

__all__ = [
    "Best",
    "Callback",
    "CallbackList",
    "CheckpointCallback",
    "Controller",
    "CoveragePlateau",
    "CoveragePlateauCallback",
    "EarlyStopping",
    "EarlyStoppingCallback",
    "FeedbackValue",
    "MetricsCallback",
    "ScheduledValue",
    "metric_mode",
    "ramp",
    "set_quantity",
]
