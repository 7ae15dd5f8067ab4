"""The small public functions; all but one are the program's own."""

from __future__ import annotations

from torch import Tensor

from ....codecs.variational import check_corruption, corrupt
from ....config.schema import Corruption
from ....training.utils import count_parameters, get_device, print_model_summary, set_seed

__all__ = ["add_noise", "count_parameters", "get_device", "print_model_summary", "set_seed"]


def add_noise(data: Tensor, noise_std: float = 0.1) -> Tensor:
    """``data`` plus Gaussian noise, from torch's global generator; the result may leave [0, 1], as the encoder may see.

    Raises:
        ConfigError: a negative ``noise_std``.
    """
    check_corruption(Corruption.gaussian, noise_std, "noise_std")
    return corrupt(data, Corruption.gaussian, noise_std)
