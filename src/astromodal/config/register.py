"""Tell Hydra about the schemas and the resolvers. Idempotent, and light: no torch."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from . import schema
from .names import check_name
from .run_id import run_id


def conf_dir() -> Path:
    """Folder with the YAML options: ``conf/`` of the checkout, else the one that was installed."""
    here = Path(__file__).resolve()
    for folder in (here.parents[3] / "conf", here.parents[1] / "conf"):
        if (folder / "base.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"expected the folder conf/ with base.yaml beside src/ or in the package, in {here.parents[3]}"
    )


def default_tokenizer_id(stage: str) -> str:
    """``default``; in a sweep of the tokenizers, one folder per job, so that jobs do not overwrite each other."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized():
        return "default"
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN and stage == "train_tokenizers":
        return f"{run_id()}-{hydra.sweep.subdir}"
    return "default"


def register() -> None:
    """Register schemas (``base_schema``, ``codec_schema``, ``quantizer_schema``) and resolvers."""
    store = ConfigStore.instance()
    store.store(name="base_schema", node=schema.Config)
    store.store(group="codec_schema", name="autoencoder", node=schema.AutoencoderConfig)
    store.store(group="codec_schema", name="masked_autoencoder", node=schema.MaskedAutoencoderConfig)
    store.store(group="codec_schema", name="patches", node=schema.PatchesConfig)
    store.store(group="codec_schema", name="vae", node=schema.VAEConfig)
    store.store(group="quantizer_schema", name="kmeans", node=schema.KMeansConfig)
    store.store(group="quantizer_schema", name="residual_kmeans", node=schema.ResidualKMeansConfig)
    store.store(group="quantizer_schema", name="fsq", node=schema.FSQConfig)
    store.store(group="recipe_schema", name="ebird_vae", node=schema.EbirdVAERecipeConfig)
    store.store(group="recipe_schema", name="spectrum_mae", node=schema.SpectrumMAERecipeConfig)
    store.store(group="codec_schema", name="ternary_vae", node=schema.TernaryCodecConfig)
    store.store(group="recipe_schema", name="ternary_vae", node=schema.TernaryVAERecipeConfig)
    OmegaConf.register_new_resolver("new_run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("default_tokenizer_id", default_tokenizer_id, replace=True)
    OmegaConf.register_new_resolver("one_folder", lambda key, name: check_name(name, key), replace=True)
