"""The public name of the model; see :mod:`astromodal.codecs.vector_vae`."""

from ...codecs.vector_vae import VariationalAutoencoder

__all__ = ["VariationalAutoencoder"]
