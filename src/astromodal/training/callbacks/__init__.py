"""What can be hung into a training loop, and into a loop of one's own; each is defined in a module of its own.

====================  ======================================================================================
``hooks``             the protocol, and the list of callbacks for a loop of the user's own
``stopping``          ``EarlyStopping``, ``CoveragePlateau``, and the best value of a metric
``measuring``         ``MetricsCallback``
``quantities``        ``ScheduledValue`` and ``FeedbackValue``: curricula, homeostasis
====================  ======================================================================================

``CheckpointCallback`` is in :mod:`astromodal.training.checkpoints`. ``EarlyStoppingCallback`` and
``CoveragePlateauCallback`` are other names of the first two of ``stopping``. Names are imported on first use.
"""

from ...lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "hooks": "Callback CallbackList",
        "stopping": "Best CoveragePlateau CoveragePlateauCallback EarlyStopping EarlyStoppingCallback metric_mode",
        "measuring": "MetricsCallback",
        "quantities": "Controller FeedbackValue ScheduledValue ramp set_quantity",
        "..checkpoints.callback": "CheckpointCallback",
    },
)
