"""``load_config("config.yaml")`` of the ternary VAE, and the public constant."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...config.reading.containers import to_object
from ...config.reading.yaml_files import load_yaml
from ...config.schema import TernaryVAERecipeConfig
from ...errors import ConfigError
from ...files.io import plain

DEFAULT_GRAD_CLIP = 1.0


@dataclass
class TernaryConfig(TernaryVAERecipeConfig):
    """Settings of the recipe with ``to_dict()``; attributes may be changed while training."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return plain(asdict(self))


def load_config(path: str | Path | None = None) -> TernaryConfig:
    """The settings of ``conf/recipe/ternary_vae.yaml``, changed by the keys of the YAML file ``path``.

    Raises:
        ConfigError: no such file, a key that does not exist, or a value of the wrong type.

    >>> config = load_config()
    >>> config.geometry.latent_dim, config.geometry.curvature, config.optimizer.learning_rate
    (16, 1.0, 0.003)
    """
    values = OmegaConf.structured(TernaryConfig)
    if path is not None:
        try:
            values = OmegaConf.merge(values, load_yaml(path))
        except OmegaConfBaseException as error:
            raise ConfigError(
                "settings of the ternary VAE",
                got=str(error).splitlines()[0],
                where=path,
                repair="conf/recipe/ternary_vae.yaml has all of them",
            ) from error
    return to_object(values, TernaryConfig)
