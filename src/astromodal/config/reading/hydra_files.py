"""Hydra's reader of files, replaced by one that knows the schema: text stays text, and what is wrong is one line."""

from __future__ import annotations

import os

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource

from .yaml_files import load_yaml


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of files, named as it is: of one name, Hydra's registry keeps the one that it has."""

    def load_config(self, config_path: str) -> ConfigResult:
        name = self._normalize_file_name(config_path)
        path = os.path.realpath(os.path.join(self.path, name))
        if not os.path.exists(path):
            raise ConfigLoadError(f"Config not found : {path}")
        with open(path, encoding="utf-8", errors="replace") as handle:
            header = ConfigSource._get_header_dict(handle.read(512))
        package = header.get("package") or "_group_"
        package = {"_global_": "", "_group_": os.path.dirname(name).replace("/", ".")}.get(package, package)
        return ConfigResult(
            config=load_yaml(path, package),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=header,
        )


def use_our_reader() -> None:
    """Let Hydra read files with :class:`FileConfigSource`."""
    SourcesRegistry.instance().types["file"] = FileConfigSource
