"""The one loop that trains everything: the transformer and every codec. Begin with ``loop.py``: what a step does.

Its parts: ``network.py`` (what is trained), ``feed.py`` (batches), ``position.py`` (where it stands), ``watch/`` (what
is measured, recorded and refused), ``checkpoints/`` (what is kept, and how a run goes on). ``face.py`` says what
callbacks may use of a loop.
The loss and ``Trainer`` are public names here, and live in :mod:`astromodal.loss` and :mod:`astromodal.language_model`.

Names are imported on first use, so that ``import astromodal.training`` does not load torch.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "..language_model.trainer": "Trainer",
        "loop": "TrainingLoop LoopResult",
        "utils": "set_seed configure_cuda_performance cosine_schedule_with_warmup get_device",
        "watch.summary": "model_summary print_model_summary count_parameters",
        "callbacks": "Callback CallbackList EarlyStopping EarlyStoppingCallback CheckpointCallback MetricsCallback "
        "CoveragePlateau CoveragePlateauCallback ScheduledValue FeedbackValue Controller",
        "..loss.functions": "image_reconstruction_loss scalar_reconstruction_loss spectrum_reconstruction_loss "
        "combined_loss",
        "..loss.language_model": "LanguageModelObjective",
    },
)
