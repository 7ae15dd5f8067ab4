"""Codecs: networks that turn arrays into latents and back, each with the objective it is trained by.

Names are resolved on first use, so that importing this package does not import torch.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "base": "Codec build_codec codec_config codec_from_dict",
        "autoencoder": "Autoencoder",
        "vae": "VariationalCodec",
        "vector_vae": "VariationalAutoencoder VectorObjective",
        "masked_autoencoder": "MaskedAutoencoder",
        "masking": "hidden_blocks masked_mse masked_sse",
        "ternary_vae": "TernaryCodec",
        "..recipes.ternary.hyperbolic_vae": "TernaryVAE",
        "reconstruction": "ReconstructionObjective",
    },
)
