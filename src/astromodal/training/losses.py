"""The public loss functions where they are documented; they live in :mod:`astromodal.loss.functions`."""

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
