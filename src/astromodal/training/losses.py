"""Public names of the loss functions; they live in :mod:`astromodal.loss.functions`."""

from ..loss.functions import (
    combined_loss,
    image_reconstruction_loss,
    scalar_reconstruction_loss,
    spectrum_reconstruction_loss,
)

__all__ = [
    "combined_loss",
    "image_reconstruction_loss",
    "scalar_reconstruction_loss",
    "spectrum_reconstruction_loss",
]
