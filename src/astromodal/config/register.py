"""Tell Hydra about the schemas and the resolvers. Idempotent, and light: no torch."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from . import schema

_run_id: str | None = None


def conf_dir() -> Path:
    """Folder with the YAML options: ``conf/`` of the checkout, else the one that was installed."""
    here = Path(__file__).resolve()
    for folder in (here.parents[3] / "conf", here.parents[1] / "conf"):
        if (folder / "base.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"expected the folder conf/ with base.yaml beside src/ or in the package, in {here.parents[3]}"
    )


def new_run_id() -> str:
    """One id per process: ASTROMODAL_RUN_ID, WANDB_RUN_ID, torchrun's id, else the UTC time in milliseconds.

    torchrun's id is ``none`` unless one is given and is then ignored. The first answer is remembered, and handed
    to child processes, so that all jobs of a sweep write below one folder.
    """
    global _run_id
    if _run_id is None:
        candidates = [os.environ.get(k) for k in ("ASTROMODAL_RUN_ID", "WANDB_RUN_ID", "TORCHELASTIC_RUN_ID")]
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        _run_id = next((c for c in candidates if c and c != "none"), stamp)
    return _run_id


def default_tokenizer_id() -> str:
    """``default``; in a sweep of the tokenizers, one folder per job, so that jobs do not overwrite each other."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized():
        return "default"
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN and hydra.job.name == "train_tokenizers":
        return f"{new_run_id()}-{hydra.job.num}"
    return "default"


def register() -> None:
    """Register schemas (``base_schema``, ``codec_schema``, ``quantizer_schema``) and resolvers."""
    store = ConfigStore.instance()
    store.store(name="base_schema", node=schema.Config)
    store.store(group="codec_schema", name="autoencoder", node=schema.AutoencoderConfig)
    store.store(group="quantizer_schema", name="kmeans", node=schema.KMeansConfig)
    OmegaConf.register_new_resolver("new_run_id", new_run_id, replace=True)
    OmegaConf.register_new_resolver("default_tokenizer_id", default_tokenizer_id, replace=True)
