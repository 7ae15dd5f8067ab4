"""Training: losses, the language-model objective, and the one loop that trains everything.

Names are imported on first use, so that ``import astromodal.training`` does not load torch.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "trainer": "Trainer",
        "loop": "TrainingLoop LoopResult",
        "utils": "set_seed configure_cuda_performance cosine_schedule_with_warmup get_device",
        "summary": "model_summary print_model_summary count_parameters",
        "callbacks": "Callback CallbackList EarlyStopping EarlyStoppingCallback CheckpointCallback MetricsCallback "
        "CoveragePlateau CoveragePlateauCallback ScheduledValue FeedbackValue Controller",
        "losses": "image_reconstruction_loss scalar_reconstruction_loss spectrum_reconstruction_loss combined_loss",
        "objectives": "LanguageModelObjective",
    },
)
