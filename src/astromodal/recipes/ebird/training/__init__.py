"""Training of the denoising VAE under the public names, on the one training loop."""

from ....lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "trainer": "train_variational_autoencoder",
        "checkpoints": "save_checkpoint load_checkpoint",
        "utils": "add_noise count_parameters get_device print_model_summary set_seed",
    },
)
