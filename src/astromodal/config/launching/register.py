"""Tell Hydra about the schemas and the resolvers. Idempotent, and light: no torch."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from .. import schema
from ..checks.names import check_name
from ..families import SECTIONS
from ..reading.conf_files import conf_dir
from ..reading.hydra_files import use_our_reader
from .run_id import run_id

__all__ = ["conf_dir", "default_tokenizer_id", "register"]


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


def directory_of_run() -> str:
    """Where the run writes: Hydra's output directory; where a configuration is only shown, the one that it would be."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    shown = OmegaConf.is_missing(hydra.runtime, "output_dir")
    return os.path.abspath(hydra.run.dir) if shown else hydra.runtime.output_dir


def register() -> None:
    """Register schemas (``base_schema``, ``codec_schema``, ``quantizer_schema``) and resolvers."""
    use_our_reader()
    store_schemas(ConfigStore.instance())
    OmegaConf.register_new_resolver("new_run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("directory_of_run", directory_of_run, replace=True)
    OmegaConf.register_new_resolver("default_tokenizer_id", default_tokenizer_id, replace=True)
    OmegaConf.register_new_resolver("one_folder", lambda key, name: check_name(name, key), replace=True)


@cache
def store_schemas(store: ConfigStore) -> None:
    """Once per store: OmegaConf takes a seventh of a second to look at every class."""
    store.store(name="base_schema", node=schema.Config)
    for key, family in SECTIONS.items():
        for name, section in family.sections().items():
            store.store(group=f"{key}_schema", name=name, node=section)


def compose_once() -> None:
    """Keep Hydra from composing everything a first time only to look for ``hydra.mode``, which ``-m`` sets here.

    It still looks where the command line names the mode, or a primary file that may.
    """
    from hydra._internal.hydra import Hydra

    look = Hydra.get_mode
    if getattr(look, "only_where_told", False):
        return

    def get_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        told = config_name not in schema.STAGE_GROUPS or any("hydra.mode" in o for o in overrides)
        return look(self, config_name, overrides) if told else None

    get_mode.only_where_told = True  # type: ignore[attr-defined]
    Hydra.get_mode = get_mode  # type: ignore[method-assign]
