"""Optimizer, schedule and trainer of the masked autoencoder of spectra, under their public names."""

from ....lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "optim": "build_optimizer build_scheduler",
        "trainer": "Trainer TrainerConfig",
    },
)
