"""Masked autoencoder of one-dimensional spectra, laid out as its document describes it.

``models`` has the network, ``training.optim`` and ``training.trainer`` what trains it: thin adapters over
:mod:`astromodal.codecs` and the one training loop. ``experiment`` is ``python train_tokenizers.py
experiment=spectrum_mae``.
"""

from ...lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "models": "ChemoMAE",
        "training.optim": "build_optimizer build_scheduler",
        "training.trainer": "Trainer TrainerConfig",
    },
)
